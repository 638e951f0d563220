//! Looks whether the invariants hold: all the time ([`Watch::look`]), and at the end of each runner ([`Watch::ended`]).

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;
use start_worker::host::private_file::Access;
use start_worker::run_spec::cache::{self, CachedRun};
use test_support::fake_taskcluster::WorkerState;
use test_support::processes;
use test_support::secrets::Secrets;

use crate::bounds::{
    ANSWER, DISK, DISK_AGAIN, JUST_EXECUTED_KIB, LAST_LINES, Lately, MOST_FILES, MOST_MEMORY_KIB,
    MOST_THREADS, NOTICE_NOTICED, SLACK, SLEEP_NOTICED, STOP, since,
};
use crate::invariants::{Break, Invariant};
use crate::plan::Episode;
use crate::question::Questions;
use crate::record::{Record, Worker, pid_of};
use crate::runner::Runner;
use crate::spellings;
use crate::story::{End, Story};
use crate::world::{DRAIN_TIMEOUT, Host};

/// A notice, and the worker that lived then.
struct Notice {
    at: Instant,
    worker: i32,
}

pub(crate) struct Watch {
    began: Instant,
    pub(crate) breaks: Vec<Break>,
    record: Record,
    /// All of the host, in the order of their starts.
    pub(crate) workers: Vec<Worker>,
    ignoring_term: Vec<bool>,
    /// Number of workers at the start of the current runner.
    before: usize,
    notice: Option<Notice>,
    secrets: Secrets,
    cache_time: Option<SystemTime>,
    seen_requests: usize,
    pub(crate) lately: Lately,
    questions: Questions,
    /// Workers that were given up.
    pub(crate) given_up: usize,
    /// No worker may start on this machine any more.
    removed: bool,
    /// The factor for all time limits.
    pub(crate) patience: f64,
    /// The most that a runner has had: KiB, files, threads.
    pub(crate) most: (u64, usize, u64),
}

impl Watch {
    pub(crate) fn new(host: &Host, episode: &Episode) -> Self {
        let ignores = |script: &Vec<String>| script.iter().any(|statement| statement == "on SIGTERM:");
        let mut secrets = Secrets::default();
        host.add_secrets_to(&mut secrets);
        secrets.add("the provisioner's token", "made-up-security-token");
        Self {
            began: Instant::now(),
            breaks: Vec::new(),
            record: Record::new(host.record()),
            workers: Vec::new(),
            ignoring_term: episode.workers.iter().map(ignores).collect(),
            before: 0,
            notice: None,
            secrets,
            cache_time: None,
            seen_requests: 0,
            lately: Lately::default(),
            questions: Questions::default(),
            given_up: 0,
            removed: false,
            patience: 1.0,
            most: (0, 0, 0),
        }
    }

    /// Each invariant once, for all else is its consequence.
    pub(crate) fn broken(&mut self, invariant: Invariant, what: String) {
        if !self.breaks.iter().any(|known| known.invariant == invariant) {
            self.breaks.push(Break { invariant, at: self.began.elapsed(), what });
        }
    }

    /// The machine is gone, or about to be.
    pub(crate) fn removed(&mut self, host: &Host, cache: bool) {
        let marked = Self::cached(host).ok().flatten().is_some_and(|cached| cached.leaving.is_some());
        self.removed = marked || cache && !self.cannot_mark();
    }

    /// A disk that can neither be written nor cleared.
    fn cannot_mark(&self) -> bool {
        since(self.lately.read_only, DISK_AGAIN) || since(self.lately.few_files, DISK_AGAIN)
    }

    /// The host has a new machine.
    pub(crate) fn replaced(&mut self) {
        self.removed = false;
    }

    /// A runner is about to be started.
    pub(crate) fn starts(&mut self) {
        self.before = self.workers.len();
        self.questions.start_again();
    }

    /// Number of answers of the runners.
    pub(crate) fn answers(&self) -> usize {
        self.questions.answers
    }

    /// The worker that lives.
    pub(crate) fn living(&self) -> Option<&Worker> {
        self.workers.last().filter(|worker| processes::lives(worker.pid))
    }

    /// Returns true if the worker ignores SIGTERM.
    pub(crate) fn ignores_term(&self, worker: &Worker) -> bool {
        self.ignoring_term.get(worker.number).or(self.ignoring_term.last()).copied().unwrap_or_default()
    }

    pub(crate) fn noticed(&mut self) {
        self.notice =
            self.living().map(|worker| worker.pid).map(|worker| Notice { at: Instant::now(), worker });
    }

    /// All that can be seen from outside, now.
    pub(crate) fn look(&mut self, host: &Host, runner: Option<&mut Runner>) {
        for event in self.record.news() {
            self.recorded(&event, host);
        }
        self.look_at_credentials(host);
        self.look_at_cache(host);
        self.look_at_removals(host);
        if let Some(runner) = runner {
            self.look_at_size(runner);
            self.look_at_stop(runner);
            self.look_at_status(host, runner);
        }
        self.look_at_notice();
    }

    fn recorded(&mut self, event: &Value, host: &Host) {
        match event["event"].as_str() {
            Some("start") => {
                let worker = Worker::started(event, self.workers.len());
                if let Some(late) =
                    late(&worker, host).filter(|_| !since(self.lately.jump, SLEEP_NOTICED + SLACK))
                {
                    self.broken(
                        Invariant::LiveCredentials,
                        format!("worker {} starts with credentials that expired {late:?} ago", worker.pid),
                    );
                }
                if self.removed {
                    self.broken(
                        Invariant::RemovedOnce,
                        format!("worker {} starts after the removal", worker.pid),
                    );
                }
                self.workers.push(worker);
            }
            Some("overlap") => self.broken(
                Invariant::OneWorker,
                format!("worker {} starts while worker {} lives", pid_of(event), event["other"]),
            ),
            Some("message") if event["type"] == "new-credentials" => {
                let pid = pid_of(event);
                if let Some(worker) = self.workers.iter_mut().rfind(|worker| worker.pid == pid) {
                    worker.renewed(&event["message"]);
                    let expires = worker.expires;
                    self.look_for_renewal_in_cache(host, expires);
                }
            }
            _ => {}
        }
    }

    fn look_at_credentials(&mut self, host: &Host) {
        let Some(worker) = self.workers.last() else { return };
        let Some(late) = late(worker, host) else { return };
        let allowed = SLACK + self.lately.frozen;
        if late > allowed
            && !processes::waits_for_disk(worker.pid)
            && !since(self.lately.jump, SLEEP_NOTICED + SLACK)
            && processes::lives(worker.pid)
        {
            let what = format!("worker {} lives with credentials that expired {late:?} ago", worker.pid);
            self.broken(Invariant::LiveCredentials, what);
        }
    }

    fn cached(host: &Host) -> Result<Option<CachedRun>, String> {
        cache::read(&host.cache(), Access::Refuse).map_err(|fault| fault.to_string())
    }

    fn look_at_cache(&mut self, host: &Host) {
        let time = std::fs::metadata(host.cache()).and_then(|about| about.modified()).ok();
        if time == self.cache_time {
            return;
        }
        self.cache_time = time;
        if let Err(fault) = Self::cached(host) {
            self.broken(Invariant::WholeCache, fault);
        }
        // A secret that the host knows now may appear later.
        host.add_secrets_to(&mut self.secrets);
    }

    fn look_for_renewal_in_cache(&mut self, host: &Host, expires: Option<i64>) {
        if since(self.lately.disk, DISK_AGAIN) || since(self.lately.few_files, DISK_AGAIN) {
            return;
        }
        let cached = Self::cached(host).ok().flatten().and_then(|cached| cached.run.credentials.expires);
        if let (Some(expires), Some(cached)) = (expires, cached)
            && cached.as_millisecond() + 1000 < expires
        {
            let what = format!("the worker has credentials until {expires} ms, the cache until {cached}");
            self.broken(Invariant::WholeCache, what);
        }
    }

    fn look_at_removals(&mut self, host: &Host) {
        let requests = host.fake.count("removeWorker");
        if requests == self.seen_requests {
            return;
        }
        let all = host.fake.requests();
        let path = format!("/{}", host.key.id);
        let removals: Vec<_> = all
            .iter()
            .filter(|request| request.call == "removeWorker" && request.path.ends_with(&path))
            .collect();
        if removals.iter().all(|request| request.status.is_some()) {
            self.seen_requests = requests;
        }
        let done = removals.iter().filter(|request| request.performed && request.status == Some(200)).count();
        let unmarked = host.kind.is_dynamic() && self.cannot_mark();
        if done > 1 && !unmarked || done == 1 && !host.kind.is_dynamic() {
            self.broken(Invariant::RemovedOnce, format!("removeWorker succeeded {done} times"));
        }
    }

    fn look_at_size(&mut self, runner: &Runner) {
        let pid = runner.pid();
        let memory = processes::status(pid, "VmHWM").unwrap_or_default();
        if memory < JUST_EXECUTED_KIB {
            // Its files are still ours.
            return;
        }
        let threads = processes::status(pid, "Threads").unwrap_or_default();
        let files = processes::open_files(pid);
        self.most = (self.most.0.max(memory), self.most.1.max(files), self.most.2.max(threads));
        if memory > MOST_MEMORY_KIB || files > MOST_FILES || threads > MOST_THREADS {
            let what = format!("the runner had {memory} KiB, {files} files, {threads} threads");
            self.broken(Invariant::Bounded, what);
        }
    }

    fn look_at_stop(&mut self, runner: &mut Runner) {
        let stops = [Signal::SIGTERM, Signal::SIGINT];
        let drained = runner.first(&[Signal::SIGUSR1]).map(|when| when + DRAIN_TIMEOUT);
        let Some(asked) = runner.first(&stops).into_iter().chain(drained).min() else { return };
        let mut bound = STOP + SLACK + self.lately.frozen;
        if since(self.lately.disk, bound + DISK) {
            bound += DISK;
        }
        if since(self.lately.slow_log, bound + SLACK) {
            bound += SLACK;
        }
        if asked.elapsed() > bound.mul_f64(self.patience) && runner.ended().is_none() {
            let what = format!("the runner goes on {:?} after it was asked to stop", asked.elapsed());
            self.broken(Invariant::StopEnds, what);
        }
    }

    fn look_at_status(&mut self, host: &Host, runner: &mut Runner) {
        let waited = self.questions.look(&host.status_socket());
        let unheard = since(self.lately.few_files, ANSWER + SLACK);
        let bound = ANSWER + SLACK + self.lately.frozen;
        if waited > bound.mul_f64(self.patience) && !unheard && runner.ended().is_none() {
            self.broken(Invariant::Answers, format!("the runner has not answered for {waited:?}"));
        }
    }

    fn look_at_notice(&mut self) {
        let Some(notice) = &self.notice else { return };
        let bound = NOTICE_NOTICED + STOP + SLACK + self.lately.frozen;
        let unheard = since(self.lately.metadata, bound) || since(self.lately.few_files, bound);
        if unheard || !processes::lives(notice.worker) || processes::waits_for_disk(notice.worker) {
            self.notice = None;
        } else if notice.at.elapsed() > bound {
            let what =
                format!("worker {} lives {:?} after the cloud's notice", notice.worker, notice.at.elapsed());
            self.broken(Invariant::StopEnds, what);
        }
    }

    /// A runner has ended.
    pub(crate) fn ended(&mut self, host: &Host, runner: &mut Runner, status: ExitStatus) {
        let by_itself = status.code().is_some();
        let end = End { at: Instant::now(), by_itself };
        self.look_for_orphans(host, by_itself);
        let stuck: Vec<i32> = self.workers.iter().skip(self.before).map(|worker| worker.pid).collect();
        let stuck = stuck.into_iter().find(|pid| by_itself && processes::waits_for_disk(*pid));
        self.look(host, None);
        runner.finish_log();
        let log = runner.log();
        let mine: Vec<i32> = self.workers.iter().skip(self.before).map(|worker| worker.pid).collect();
        // The runner gives up on lines that are not read for this long.
        if !since(self.lately.slow_log, LAST_LINES + SLACK) {
            let story = Story::read(&log);
            if let Some(gap) = story.gap(&mine, &runner.signals, end) {
                self.broken(Invariant::Explained, gap);
            }
            if let Some(pid) = stuck {
                self.given_up += 1;
                if let Some(fault) = story.not_given_up(pid, status.code()) {
                    self.broken(Invariant::GivenUp, fault);
                }
            }
        }
        self.look_for_secrets(host, &log);
        if let Some(what) = disorder(runner, status) {
            self.broken(Invariant::OrderlyEnd, what);
        }
        self.notice = None;
    }

    /// Waits a moment, because killed processes take some time to exit.
    fn look_for_orphans(&mut self, host: &Host, by_itself: bool) {
        let patience = if by_itself { Duration::from_secs(1) } else { Duration::from_secs(5) };
        let end = Instant::now() + patience;
        loop {
            for event in self.record.news() {
                self.recorded(&event, host);
            }
            let mut left = processes::command_lines(host.mark());
            if !by_itself {
                // The kernel tells the worker alone.
                let deaf = |pid: i32| {
                    self.workers
                        .iter()
                        .rfind(|worker| worker.pid == pid)
                        .is_none_or(|worker| self.ignores_term(worker))
                };
                left.retain(|(pid, _)| !deaf(*pid));
            }
            // Nothing ends it; whether it was given up is looked at elsewhere.
            left.retain(|(pid, _)| !processes::waits_for_disk(*pid));
            let hidden = by_itself && processes::descendant_lives(&host.record());
            if left.is_empty() && !hidden {
                return;
            }
            if Instant::now() > end {
                return self.broken(
                    Invariant::NoOrphan,
                    format!("the runner has ended, and these live: {left:?}, or hide: {hidden}"),
                );
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn look_for_secrets(&mut self, host: &Host, log: &[u8]) {
        host.add_secrets_to(&mut self.secrets);
        let requests = host.fake.requests();
        requests
            .iter()
            .filter_map(|request| request.body.as_ref())
            .for_each(|body| self.secrets.add_value(body));
        if let Some(secret) = host.fake.one_time_secret(&host.key) {
            self.secrets.add("the one-time secret", &secret);
        }
        let leaks = spellings::leaks(&self.secrets, log);
        if !leaks.is_empty() {
            self.broken(Invariant::NoSecret, leaks);
        }
    }

    /// Returns true if a worker is expected at the next start of this host: everything that it needs is available.
    pub(crate) fn can_recover(host: &Host) -> bool {
        if !host.kind.is_dynamic() {
            return true;
        }
        // With a wrong clock, the runner misjudges expiry; a machine that is taken away needs no worker.
        if host.skew() > 5 || host.doomed {
            return false;
        }
        let Ok(Some(cached)) = Self::cached(host) else { return false };
        let left = cached.run.credentials.expires.map(|end| end.duration_since(host.fake.now()).as_secs());
        let registered = host.fake.worker_state(&host.key).is_none_or(|state| state == WorkerState::Running);
        cached.leaving.is_none() && registered && left.is_none_or(|left| left > 20)
    }
}

/// Time since the worker's credentials expired, by the host's own clock.
fn late(worker: &Worker, host: &Host) -> Option<Duration> {
    let expired = host.fake.now().as_millisecond() - worker.expires?;
    let late = Duration::from_millis(u64::try_from(expired).ok()?).checked_sub(host.behind())?;
    (!late.is_zero()).then_some(late)
}

/// The problem with a runner's end, if any.
fn disorder(runner: &Runner, status: ExitStatus) -> Option<String> {
    /// Until then signals have their default effect.
    const EARLY: Duration = Duration::from_secs(2);
    match (status.code(), status.signal()) {
        (Some(0 | 1 | 70 | 75), _) | (None, None) => None,
        (Some(code), _) => Some(format!("the runner ended with exit code {code}")),
        (None, Some(signal)) => {
            let sent = runner.signals.iter().find(|(sent, _)| *sent as i32 == signal);
            let early = |when: Instant| when.duration_since(runner.began) < EARLY;
            let ours = sent.is_some_and(|(sent, when)| *sent == Signal::SIGKILL || early(*when));
            (!ours).then(|| format!("the runner died of {status}, which nobody sent"))
        }
    }
}
