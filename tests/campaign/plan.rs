//! Plans an episode from a seed: a host, its workers, and its faults with their times. Pure: the same seed makes the
//! same plan on every machine.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Whose host it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Static,
    Aws,
    Azure,
    Google,
    AwsProvisioner,
}

impl Kind {
    /// Returns true if the machine ends with its worker.
    pub(crate) fn is_dynamic(self) -> bool {
        self != Self::Static
    }
}

/// The life of one host: some starts of the runner, until the time is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Episode {
    pub(crate) number: u64,
    pub(crate) host: Kind,
    /// True if `cacheOverRestarts` is set.
    pub(crate) cache: bool,
    /// The length of the episode.
    pub(crate) seconds: u64,
    /// Lifetime of credentials, in seconds.
    pub(crate) credentials_life: u64,
    /// `supervision.restart` and `supervision.onReboot`.
    pub(crate) restart: String,
    pub(crate) on_reboot: String,
    /// Pause of the service manager before it starts the runner again.
    pub(crate) service_pause_ms: u64,
    /// Behaviour of the first worker, the second, and so on, in statements of the test worker. Workers beyond the list
    /// behave as the last one.
    pub(crate) workers: Vec<Vec<String>>,
    /// In the order of their times.
    pub(crate) actions: Vec<Timed>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// Milliseconds after the episode's beginning.
    pub(crate) at: u64,
    #[serde(flatten)]
    pub(crate) action: Action,
}

/// An action. An action with a `for` (in milliseconds) ends after that time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Calls to Taskcluster fail; see [`CALL_FAULTS`].
    Call { call: String, fault: String, r#for: u64 },
    /// Connections to Taskcluster are refused.
    ServerDown { r#for: u64 },
    /// The cloud's metadata service fails: a fault as its fake takes it.
    Metadata { fault: String, r#for: u64 },
    /// The host's clock jumps; Taskcluster's does not.
    ClockJump { by: i64 },
    /// Both jump: the host has slept.
    Sleep { seconds: u64 },
    /// The disk of the cache is full.
    DiskFull { r#for: u64 },
    /// The disk of the cache is read-only.
    DiskReadOnly { r#for: u64 },
    /// The file system of a folder of the runner's or its worker's does not answer; see [`HANGING`].
    HungDisk { folder: String, r#for: u64 },
    /// The runner can open so many files more and no others.
    FewFiles { spare: u64, r#for: u64 },
    /// The log is not read.
    SlowLog { r#for: u64 },
    /// The runner does not run: the machine is busy.
    Freeze { r#for: u64 },
    /// A signal for the worker.
    KillWorker { signal: String },
    /// A signal for the runner.
    Signal { signal: String },
    /// SIGKILL for the runner.
    KillRunner,
    /// The cloud interrupts the machine, in so many seconds where it says when.
    Notice { seconds: u64 },
    /// The worker pool changes.
    Deploy,
    /// worker-manager wants the worker gone.
    Terminate,
    /// The host reboots.
    Reboot,
}

/// Placeholder in scripts for the folder whose file system does not answer. A process that accesses it cannot be
/// killed.
pub(crate) const HUNG: &str = "{hung}";

/// In a script, the task that is a fork bomb.
pub(crate) const BOMB: &str = "spawn bomb";

/// The folders of the lock, of the drain mark, of `worker.path` and of `worker.configPath`.
pub(crate) const FOLDERS: [&str; 4] = ["runtime", "state", "worker", "worker-config"];

/// The folders that can hang; the cache's is one of them.
const HANGING: [&str; 5] = ["cache", "runtime", "state", "worker", "worker-config"];

/// Names of faults of calls.
pub(crate) const CALL_FAULTS: [&str; 15] = [
    "internal-error",
    "bad-gateway",
    "gateway-timeout",
    "too-many-requests",
    "garbage",
    "truncated",
    "unfinished",
    "reset",
    "answer-lost",
    "hang",
    "late-answer",
    "reset-at-accept",
    "nearly-json",
    "secret-escaped",
    "secret-cut",
];

const CALLS: [&str; 8] = [
    "any",
    "registerWorker",
    "reregisterWorker",
    "removeWorker",
    "reportWorkerError",
    "secret",
    "workerPool",
    "shouldWorkerTerminate",
];

const METADATA_FAULTS: [&str; 6] = ["500", "404", "hang", "close", "garbage", "delay 1500ms"];

impl Episode {
    /// The episode of this number in the campaign of this seed.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        // Neighbours must have nothing in common.
        let mut chance = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let chance = &mut chance;
        let hosts = [Kind::Static, Kind::Static, Kind::Aws, Kind::Azure, Kind::Google, Kind::AwsProvisioner];
        let host = pick(chance, &hosts);
        let life_is_short = chance.u8(..10) < 7;
        let seconds = if life_is_short { chance.u64(18..=40) } else { chance.u64(10..=25) };
        let workers = (0..chance.usize(1..=4)).map(|_| worker(chance)).collect();
        let mut actions: Vec<Timed> = (0..chance.u64(2..=seconds / 2))
            .map(|_| Timed { at: chance.u64(50..seconds * 1000), action: action(chance, host) })
            .collect();
        actions.sort_by_key(|timed| timed.at);
        Self {
            number,
            host,
            cache: chance.u8(..10) < 8,
            seconds,
            credentials_life: if life_is_short { chance.u64(34..=50) } else { 96 * 3600 },
            restart: pick(chance, &["on-failure", "on-failure", "always"]).to_owned(),
            on_reboot: pick(chance, &["auto", "wait", "restart", "reboot", "exit"]).to_owned(),
            service_pause_ms: chance.u64(20..1500),
            workers,
            actions,
        }
    }
}

impl Episode {
    /// Returns true if a worker's script contains this.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.workers.iter().flatten().any(|statement| statement.contains(text))
    }

    /// Its beginning.
    pub(crate) fn cut(mut self, seconds: u64) -> Self {
        self.seconds = self.seconds.min(seconds);
        self.actions.retain(|timed| timed.at < self.seconds * 1000);
        self
    }
}

fn pick<T: Copy>(chance: &mut Rng, choices: &[T]) -> T {
    choices[chance.usize(..choices.len())]
}

/// A worker that misbehaves, more often than not, and at a time of its own.
fn worker(chance: &mut Rng) -> Vec<String> {
    let after = format!("sleep {}ms", chance.u64(100..8000));
    let soon = format!("sleep {}ms", chance.u64(1..800));
    let kinds = ["child", "group", "session", "daemon", "zombie", "leaderless", "chain", "bomb"];
    let left = pick(chance, &kinds);
    let flags =
        pick(chance, &["", " ignore-term", " hold-stdout", " ignore-term hold-stderr", " with-zombie"]);
    let spawn = format!("spawn {left}{flags}");
    let now = format!("on now: {soon} ; exit 0");
    let bad = pick(
        chance,
        &[
            r#"send {"type": null}"#,
            r#"send {"type": "log", "body": null}"#,
            r#"send {"type": "hello", "capabilities": "x"}"#,
            r"raw ~\n~{\n\xff\xfe\x00",
            r#"send {"type": "error-report", "description": "d", "kind": "k", "title": "t", "extra": {}}"#,
            r#"send {"type": "shutdown"}"#,
            r#"send {"type": "reboot"}"#,
            "close-stdin",
            "close-stdout",
            "lines 20000 100",
            "fast-lines 30000 100",
            "blob 3000000",
        ],
    );
    let end = pick(
        chance,
        &[
            "exit 0",
            "exit 1",
            "exit 67",
            "exit 67",
            "die SIGSEGV",
            "die SIGTERM",
            "exit 64",
            "exit 71",
            "wait",
            "wait",
        ],
    );
    let (hello, all) = ("hello all", "on finish: exit 0");
    let stuck = format!("wait-file {HUNG}/x");
    let script: Vec<&str> = match chance.u8(..17) {
        // Obeys.
        0..=3 => vec!["on now: exit 0", all, hello, "wait"],
        4 => vec![&now, "on finish: sleep 700ms ; exit 0", hello, &spawn, "wait"],
        // Ignores all requests.
        5 => vec!["on SIGTERM:", hello, "wait"],
        // Speaks no protocol.
        6 => vec!["on SIGTERM: exit 0", "wait"],
        // Says hello late.
        7 => vec!["on now: exit 0", all, &after, hello, "wait"],
        // Does not support new credentials.
        8 => vec!["on now: exit 0", all, "hello graceful-termination log", "wait"],
        // Ends by itself.
        9 | 10 => vec!["on now: exit 0", all, hello, &after, &spawn, end],
        11 => vec!["on now: exit 0", hello, &soon, end],
        12 => vec!["on now: exit 0", all, hello, bad, &after, end],
        // Is in state D from then on.
        13 | 14 => vec!["on now: exit 0", hello, &soon, &stuck],
        15 => vec!["on now: exit 0", all, hello, BOMB, &after, end],
        _ => vec![&now, hello, &soon, bad, "wait"],
    };
    script.into_iter().map(str::to_owned).collect()
}

fn action(chance: &mut Rng, host: Kind) -> Action {
    // Mostly short, now and then longer than credentials have to go.
    let time = if chance.u8(..8) == 0 { chance.u64(5000..30_000) } else { chance.u64(50..5000) };
    let text = |choices: &[&str], chance: &mut Rng| pick(chance, choices).to_owned();
    match chance.u8(..38) {
        0..=7 => Action::Call { call: text(&CALLS, chance), fault: text(&CALL_FAULTS, chance), r#for: time },
        8 | 9 => Action::ServerDown { r#for: time },
        10 | 11 if host != Kind::Static => {
            Action::Metadata { fault: text(&METADATA_FAULTS, chance), r#for: time }
        }
        12 => Action::ClockJump { by: chance.i64(-3600..3600) },
        13 => Action::ClockJump { by: chance.i64(-20..20) },
        14 => Action::Sleep { seconds: chance.u64(1..120) },
        15 | 16 => Action::DiskFull { r#for: time },
        17 => Action::DiskReadOnly { r#for: time },
        18 | 19 => Action::FewFiles { spare: chance.u64(0..4), r#for: time.min(4000) },
        20 | 21 => Action::SlowLog { r#for: time.min(6000) },
        22 => Action::Freeze { r#for: time.min(3000) },
        23 | 24 => Action::KillWorker { signal: text(&["SIGKILL", "SIGTERM", "SIGSEGV", "SIGINT"], chance) },
        28 | 29 => Action::Signal { signal: text(&["SIGTERM", "SIGINT"], chance) },
        30 => Action::Signal { signal: "SIGUSR1".to_owned() },
        31 => Action::Signal { signal: "SIGHUP".to_owned() },
        32 if host != Kind::Static => Action::Notice { seconds: chance.u64(8..100) },
        33 if host != Kind::Static => Action::Terminate,
        25..=27 | 32 | 33 => Action::KillRunner,
        10 | 11 | 34 => Action::Deploy,
        35 | 36 => Action::HungDisk { folder: text(&HANGING, chance), r#for: time },
        _ => Action::Reboot,
    }
}
