//! Runs an episode: a service manager that starts the runner each time it has ended, and the steps of the plan.

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::fake_taskcluster::{Fault, RuleId, Times, WorkerState};
use test_support::processes;

use crate::invariants::Invariant;
use crate::plan::{Action, Episode, Timed};
use crate::runner::Runner;
use crate::watch::Watch;
use crate::world::{Host, Programs};

/// Interval of the checks.
const EVERY: Duration = Duration::from_millis(20);
/// Time that a host that goes down waits for its services.
const GOING_DOWN: Duration = Duration::from_secs(3);
/// Time for which a start on a removed machine is watched.
const REMOVED: Duration = Duration::from_secs(4);
/// Time limit for a worker to start when nothing is wrong.
const RECOVERY: Duration = Duration::from_secs(30);
/// Time limit for the last runner. The invariants report a runner that takes longer.
const LAST_STOP: Duration = Duration::from_secs(120);

/// The end of a fault.
#[derive(Debug, Clone)]
enum End {
    Rule(RuleId),
    Metadata,
    DiskFull,
    DiskReadOnly,
    /// Of this folder.
    Hung(String),
    Files,
    SlowLog,
    Freeze(Instant),
}

enum Step {
    Begin(Action),
    End(End),
}

/// The result of an episode.
pub(crate) struct Lived {
    pub(crate) watch: Watch,
    /// The last lines of the last runner.
    pub(crate) log: Vec<u8>,
    pub(crate) boots: usize,
    pub(crate) time: Duration,
    /// The parts of the plan that were not possible, with the reasons.
    pub(crate) skipped: Vec<String>,
    /// Something was refused for want of processes.
    pub(crate) was_full: bool,
}

pub(crate) struct Life<'a> {
    episode: &'a Episode,
    host: Host,
    watch: Watch,
    runner: Option<Runner>,
    /// Nothing is started before.
    pause_until: Instant,
    going_down: Option<Instant>,
    /// The machine was removed, and the runner is started once more.
    leaving: Option<Instant>,
    steps: Vec<(Instant, Step)>,
    boots: usize,
    folder: &'a Path,
}

impl<'a> Life<'a> {
    pub(crate) fn live(episode: &'a Episode, folder: &'a Path, programs: &Programs, patience: f64) -> Lived {
        let host = Host::new(episode, &folder.join("host"), programs);
        let mut watch = Watch::new(&host, episode);
        watch.patience = patience;
        let began = Instant::now();
        let at = |timed: &Timed| began + Duration::from_millis(timed.at);
        let steps =
            episode.actions.iter().map(|timed| (at(timed), Step::Begin(timed.action.clone()))).collect();
        let mut life = Self {
            episode,
            host,
            watch,
            runner: None,
            pause_until: began,
            going_down: None,
            leaving: None,
            steps,
            boots: 0,
            folder,
        };
        let end = began + Duration::from_secs(episode.seconds);
        while Instant::now() < end && life.watch.breaks.is_empty() {
            life.take_steps();
            life.serve();
            life.look();
            std::thread::park_timeout(EVERY);
        }
        life.heal();
        life.stop();
        life.recover();
        life.stop();
        life.kill_all();
        let log = std::fs::read(life.folder.join("log")).unwrap_or_default();
        let (skipped, was_full) = (std::mem::take(&mut life.host.skipped), life.host.room.was_full());
        Lived { watch: life.watch, log, boots: life.boots, time: began.elapsed(), skipped, was_full }
    }

    fn look(&mut self) {
        self.watch.look(&self.host, self.runner.as_mut());
    }

    /// Takes the steps that are due.
    fn take_steps(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.steps).into_iter().partition(|(at, _)| *at <= now);
        self.steps = later;
        let due: Vec<(Instant, Step)> = due;
        for (_, step) in due {
            match step {
                Step::Begin(action) => self.begin(action),
                Step::End(end) => self.end(end),
            }
        }
        for (_, step) in &self.steps {
            let lately = &mut self.watch.lately;
            match step {
                Step::End(End::Metadata) => lately.metadata = Some(now),
                Step::End(End::DiskFull) => lately.disk = Some(now),
                Step::End(End::DiskReadOnly) => (lately.disk, lately.read_only) = (Some(now), Some(now)),
                Step::End(End::Hung(folder)) if folder == "cache" => {
                    (lately.disk, lately.read_only) = (Some(now), Some(now));
                }
                Step::End(End::Files) => lately.few_files = Some(now),
                Step::End(End::SlowLog) => lately.slow_log = Some(now),
                _ => {}
            }
        }
    }

    fn begin(&mut self, action: Action) {
        let ends = match action {
            Action::Call { call, fault, r#for } => {
                let rule = self.host.fake.fail(&call, Times::UntilCleared, call_fault(&fault));
                Some((End::Rule(rule), r#for))
            }
            Action::ServerDown { r#for } => {
                self.host.fake.stop_for(Duration::from_millis(r#for));
                None
            }
            Action::Metadata { fault, r#for } => {
                self.host.tell(&format!("fault * {fault}"));
                Some((End::Metadata, r#for))
            }
            Action::DiskFull { r#for } => {
                self.host.disk.fill();
                Some((End::DiskFull, r#for))
            }
            Action::DiskReadOnly { r#for } => {
                self.host.disk.set_read_only(true);
                Some((End::DiskReadOnly, r#for))
            }
            Action::HungDisk { folder, r#for } => {
                self.host.hang(&folder);
                Some((End::Hung(folder), r#for))
            }
            Action::FewFiles { spare, r#for } => {
                self.on_runner(|runner| runner.limit_files(Some(spare)));
                Some((End::Files, r#for))
            }
            Action::SlowLog { r#for } => {
                self.on_runner(|runner| runner.stall_log(true));
                Some((End::SlowLog, r#for))
            }
            Action::Freeze { r#for } => {
                self.on_runner(|runner| runner.signal(Signal::SIGSTOP));
                Some((End::Freeze(Instant::now()), r#for))
            }
            other => {
                self.happen(&other);
                None
            }
        };
        if let Some((end, time)) = ends {
            self.steps.push((Instant::now() + Duration::from_millis(time), Step::End(end)));
        }
    }

    /// Performs an action that has no duration.
    fn happen(&mut self, action: &Action) {
        match action {
            Action::ClockJump { by } => {
                self.host.jump(*by);
                self.watch.lately.jump = Some(Instant::now());
            }
            Action::Sleep { seconds } => {
                self.host.sleep(*seconds);
                self.watch.lately.jump = Some(Instant::now());
            }
            Action::KillWorker { signal } => {
                if let Some(worker) = self.watch.living() {
                    kill(Pid::from_raw(worker.pid), named(signal)).ok();
                }
            }
            Action::Signal { signal } => {
                let signal = named(signal);
                self.on_runner(|runner| runner.signal(signal));
            }
            Action::KillRunner => self.on_runner(|runner| runner.signal(Signal::SIGKILL)),
            Action::Notice { seconds } => {
                self.host.give_notice(*seconds);
                self.watch.noticed();
            }
            Action::Deploy => self.host.deploy(),
            Action::Terminate if self.host.is_known() => {
                self.host.fake.set_should_terminate(&self.host.key, true, "over capacity");
            }
            Action::Reboot => self.go_down(),
            // These have a duration, or do not apply here.
            _ => {}
        }
    }

    fn end(&mut self, end: End) {
        match end {
            End::Rule(rule) => self.host.fake.clear_fault(rule),
            End::Metadata => self.host.tell("clear"),
            End::DiskFull => self.host.disk.empty(),
            End::DiskReadOnly => self.host.disk.set_read_only(false),
            End::Hung(folder) => self.host.answer(&folder),
            End::Files => self.on_runner(|runner| runner.limit_files(None)),
            End::SlowLog => self.on_runner(|runner| runner.stall_log(false)),
            End::Freeze(since) => {
                self.on_runner(|runner| runner.signal(Signal::SIGCONT));
                self.watch.lately.frozen += since.elapsed();
            }
        }
    }

    /// Unless it has ended.
    fn on_runner(&mut self, act: impl FnOnce(&mut Runner)) {
        if let Some(runner) = &mut self.runner
            && runner.ended().is_none()
        {
            act(runner);
        }
    }

    fn go_down(&mut self) {
        if self.going_down.is_none() {
            self.going_down = Some(Instant::now());
            self.on_runner(|runner| runner.signal(Signal::SIGTERM));
        }
    }

    /// The service manager's part.
    fn serve(&mut self) {
        if self.going_down.is_some_and(|since| since.elapsed() > GOING_DOWN) {
            self.on_runner(|runner| runner.signal(Signal::SIGKILL));
        }
        if self.leaving.is_some_and(|since| since.elapsed() > REMOVED) {
            self.on_runner(|runner| runner.signal(Signal::SIGKILL));
        }
        if self.host.wants_reboot() {
            self.go_down();
        }
        if let Some(status) = self.runner.as_mut().and_then(Runner::ended) {
            self.ended(status);
        }
        if self.runner.is_none() && Instant::now() >= self.pause_until {
            self.boot();
        }
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.watch.starts();
        self.host.hang_for_good();
        match Runner::start(&mut self.host.command()) {
            Ok(runner) => self.runner = Some(runner),
            Err(fault) => {
                self.watch.broken(Invariant::OrderlyEnd, format!("the runner cannot be started: {fault}"));
            }
        }
    }

    fn ended(&mut self, status: std::process::ExitStatus) {
        let Some(mut runner) = self.runner.take() else { return };
        self.watch.ended(&self.host, &mut runner, status);
        self.keep_log(&runner, status);
        // As systemd does with whatever is left in the unit's cgroup; and what it cannot end, a reboot ends.
        self.host.release_stuck();
        self.kill_all();
        self.going_down = None;
        self.pause_until = Instant::now() + Duration::from_millis(self.episode.service_pause_ms);
        let commands = self.host.take_host_commands();
        let removed = self.host.fake.worker_state(&self.host.key) == Some(WorkerState::Stopped);
        if self.leaving.take().is_some() {
            self.host.replace_machine();
            self.watch.replaced();
        } else if removed || commands.iter().any(|command| command == "shutdown") {
            // A unit that starts it again, before the machine is gone.
            self.leaving = Some(Instant::now());
            self.pause_until = Instant::now();
            self.watch.removed(&self.host, self.episode.cache);
        }
    }

    /// Of all runners, one after another.
    fn keep_log(&self, runner: &Runner, status: std::process::ExitStatus) {
        use std::io::Write;
        let file = std::fs::File::options().append(true).create(true).open(self.folder.join("log"));
        let Ok(mut file) = file else { return };
        file.write_all(&runner.log()).ok();
        let signals: Vec<String> = runner
            .signals
            .iter()
            .map(|(signal, when)| {
                format!("{signal} after {:.3} s", when.duration_since(runner.began).as_secs_f64())
            })
            .collect();
        writeln!(file, "---- start {}: {status}; it was sent: {}", self.boots, signals.join(", ")).ok();
    }

    fn kill_all(&mut self) {
        processes::end_chains(&self.host.record());
        let gone = Instant::now() + GOING_DOWN;
        loop {
            let left = processes::command_lines(self.host.mark());
            for (pid, _) in &left {
                kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
            }
            if left.is_empty() || Instant::now() >= gone {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// All faults are over.
    fn heal(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        for (_, step) in steps {
            if let Step::End(end) = step {
                self.end(end);
            }
        }
        self.host.fake.clear_faults();
        let address = self.host.fake.address();
        self.host.fake.stop();
        self.host.fake.start_at(address).expect("a port of our own");
    }

    /// The runner is stopped, and the host is as it was after a boot.
    fn stop(&mut self) {
        self.on_runner(|runner| runner.signal(Signal::SIGTERM));
        let end = Instant::now() + LAST_STOP;
        while let Some(runner) = &mut self.runner {
            if let Some(status) = runner.ended() {
                self.ended(status);
                return;
            }
            let stuck = self.watch.breaks.iter().any(|known| known.invariant == Invariant::StopEnds);
            if stuck || Instant::now() > end {
                runner.signal(Signal::SIGKILL);
            }
            self.look();
            std::thread::park_timeout(EVERY);
        }
    }

    /// The next start brings a worker.
    fn recover(&mut self) {
        if !self.watch.breaks.is_empty() || self.leaving.is_some() || !Watch::can_recover(&self.host) {
            return;
        }
        self.host.resume();
        let (before, end) = (self.watch.workers.len(), Instant::now() + RECOVERY);
        self.boot();
        while self.watch.workers.len() == before {
            let ended = self.runner.as_mut().and_then(Runner::ended);
            self.look();
            if self.watch.workers.len() == before && (Instant::now() > end || ended.is_some()) {
                let how =
                    ended.map_or("in time".to_owned(), |status| format!("before the runner ended: {status}"));
                return self.watch.broken(Invariant::Recovers, format!("no worker came {how}"));
            }
            std::thread::park_timeout(EVERY);
        }
    }
}

fn named(signal: &str) -> Signal {
    Signal::from_str(signal).expect("a plan names signals")
}

fn call_fault(name: &str) -> Fault {
    match name {
        "internal-error" => Fault::InternalError,
        "bad-gateway" => Fault::bad_gateway(),
        "gateway-timeout" => Fault::gateway_timeout(),
        "too-many-requests" => Fault::too_many_requests("1"),
        "garbage" => Fault::garbage(),
        "truncated" => Fault::truncated(),
        "unfinished" => Fault::unfinished(),
        "reset" => Fault::Reset,
        "answer-lost" => Fault::AnswerLost,
        "hang" => Fault::Hang,
        "late-answer" => Fault::LateAnswer(Duration::from_millis(1500)),
        "reset-at-accept" => Fault::ResetAtAccept,
        "nearly-json" => Fault::NearlyJson,
        "secret-escaped" => Fault::secret_escaped(),
        "secret-cut" => Fault::secret_cut(),
        other => unreachable!("no fault is named {other}"),
    }
}
