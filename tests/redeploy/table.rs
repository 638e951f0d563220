//! The effects of a worker's end: cause × exit × kind of host, every cell with real processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Ended, Runner, messages};
use crate::redeploy::host::{Cache, Host, Kind, REGISTER, REMOVE, REPORT, REREGISTER};

/// Number of cells that run at the same time. Most of them wait.
const AT_A_TIME: usize = 8;

/// The cause of the worker's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    CredentialsLost,
    NewCredentials,
    InterruptionWithEnd,
    InterruptionWithoutEnd,
    Rebalance,
    Redeploy,
    OperatorStop,
    OperatorDrain,
    None,
}

/// generic-worker's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Done = 72,
    Idle = 68,
    Interrupted = 71,
    Reboot = 67,
    BadConfiguration = 73,
    Crash = 1,
}

const EXITS: [Exit; 6] =
    [Exit::Done, Exit::Idle, Exit::Interrupted, Exit::Reboot, Exit::BadConfiguration, Exit::Crash];

/// The expected effect.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    then: Then,
    registered: usize,
    removed: bool,
    reported: bool,
    held: bool,
    cache: Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The runner ends, with this code.
    Ends(i32),
    /// The runner waits for the reboot that the worker has asked for.
    AwaitsReboot,
    /// The worker is started again.
    StartsAgain,
}

/// Nothing else happens; the cache stays.
fn then(then: Then) -> Expected {
    Expected { then, registered: 1, removed: false, reported: false, held: false, cache: Cache::of("d1") }
}

fn ends(code: i32) -> Expected {
    then(Then::Ends(code))
}

fn removed(code: i32) -> Expected {
    Expected { removed: true, cache: Cache::Removed, ..ends(code) }
}

fn reported(expected: Expected) -> Expected {
    Expected { reported: true, ..expected }
}

fn registered_anew(next: Then, deployment: &str) -> Expected {
    Expected { registered: 2, cache: Cache::of(deployment), ..then(next) }
}

/// The table of docs/operations.md for a cloud's machine. `in_place`: the worker can be started again without a boot.
#[expect(clippy::match_same_arms, reason = "row by row, as specified")]
fn on_aws(cause: Cause, exit: Exit, in_place: bool) -> Expected {
    match (cause, exit) {
        (Cause::OperatorStop | Cause::OperatorDrain | Cause::InterruptionWithoutEnd, _) => ends(0),
        (Cause::InterruptionWithEnd | Cause::Rebalance | Cause::Redeploy, _) => removed(0),
        (Cause::CredentialsLost, _) => reported(removed(1)),
        (Cause::NewCredentials | Cause::None, Exit::Reboot) => then(Then::AwaitsReboot),
        (Cause::NewCredentials, _) | (Cause::None, Exit::Done | Exit::Idle) => removed(0),
        (Cause::None, Exit::BadConfiguration) => reported(removed(1)),
        (Cause::None, Exit::Crash | Exit::Interrupted) if in_place => then(Then::StartsAgain),
        (Cause::None, Exit::Crash | Exit::Interrupted) => reported(removed(1)),
    }
}

/// The same on a static host.
#[expect(clippy::match_same_arms, reason = "row by row, as specified")]
fn on_static(cause: Cause, exit: Exit, in_place: bool) -> Expected {
    match (cause, exit) {
        (Cause::OperatorStop | Cause::OperatorDrain, _) => ends(0),
        (Cause::InterruptionWithEnd | Cause::InterruptionWithoutEnd | Cause::Rebalance, _) => {
            unreachable!("no cloud interrupts it")
        }
        (Cause::Redeploy, Exit::Reboot) => Expected { cache: Cache::Gone, ..then(Then::AwaitsReboot) },
        (Cause::Redeploy, _) if in_place => registered_anew(Then::StartsAgain, "d2"),
        (Cause::Redeploy, _) => registered_anew(Then::Ends(70), "d2"),
        (Cause::CredentialsLost, _) => registered_anew(Then::StartsAgain, "d1"),
        (Cause::NewCredentials | Cause::None, Exit::Reboot) => then(Then::AwaitsReboot),
        (Cause::NewCredentials, _) if in_place => then(Then::StartsAgain),
        // The worker cannot go on, but for a boot.
        (Cause::NewCredentials, _) => ends(70),
        (Cause::None, Exit::Done | Exit::Idle) => ends(0),
        (Cause::None, Exit::BadConfiguration) => reported(ends(1)),
        (Cause::None, Exit::Crash | Exit::Interrupted) if in_place => then(Then::StartsAgain),
        (Cause::None, Exit::Crash | Exit::Interrupted) => ends(70),
    }
}

/// One cell.
#[derive(Debug, Clone, Copy)]
struct Cell {
    kind: Kind,
    cause: Cause,
    exit: Exit,
    in_place: bool,
}

fn cells() -> Vec<Cell> {
    use Cause::{
        CredentialsLost, InterruptionWithEnd, InterruptionWithoutEnd, NewCredentials, OperatorDrain,
        OperatorStop, Rebalance, Redeploy,
    };
    let mut cells = Vec::new();
    // Slow causes come first.
    for cause in [
        CredentialsLost,
        Cause::None,
        Rebalance,
        InterruptionWithEnd,
        InterruptionWithoutEnd,
        NewCredentials,
        Redeploy,
        OperatorStop,
        OperatorDrain,
    ] {
        let clouds_alone = matches!(cause, InterruptionWithEnd | InterruptionWithoutEnd | Rebalance);
        let kinds: &[Kind] = if clouds_alone { &[Kind::Aws] } else { &[Kind::Aws, Kind::Static] };
        // Other causes do not depend on whether the worker can be restarted in place.
        let depends_on_that = matches!(cause, Cause::None | NewCredentials | Redeploy);
        let in_place: &[bool] = if depends_on_that { &[true, false] } else { &[false] };
        for &kind in kinds {
            let cells_of = |exit| in_place.iter().map(move |&in_place| Cell { kind, cause, exit, in_place });
            cells.extend(EXITS.into_iter().flat_map(cells_of));
        }
    }
    cells
}

#[test]
fn every_cause_and_every_exit_have_their_consequence_on_every_kind_of_host() {
    let cells = Mutex::new(cells().into_iter());
    let failures = Mutex::new(Vec::new());
    let next = || cells.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    if let Err(cause) = catch_unwind(AssertUnwindSafe(|| cell.try_out())) {
                        let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
                        failures.lock().unwrap().push(format!("{cell:?}: {text}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} cells fail:\n{}", failures.len(), failures.join("\n\n"));
}

impl Cause {
    /// The first request to the worker: the value of finish-tasks.
    fn asks(self, then: Then) -> Option<&'static str> {
        match self {
            Self::NewCredentials | Self::Rebalance | Self::Redeploy | Self::OperatorDrain => Some("finish"),
            // By the end of the test.
            Self::None => (then == Then::StartsAgain).then_some("now"),
            _ => Some("now"),
        }
    }
}

impl Cell {
    fn try_out(self) {
        let expected = match self.kind {
            Kind::Aws => on_aws(self.cause, self.exit, self.in_place),
            Kind::Static => on_static(self.cause, self.exit, self.in_place),
        };
        let host = Host::new(self.kind);
        let runner = self.start(&host);
        self.cause(&host, &runner);
        let ended = match expected.then {
            Then::Ends(_) => runner.ended(),
            Then::AwaitsReboot => {
                runner.wait_for_log("waiting for the host to go down");
                stop(&runner)
            }
            Then::StartsAgain => {
                runner.wait_for_start(2);
                stop(&runner)
            }
        };
        let calls = |call| host.taskcluster.count(call);
        let found = Expected {
            then: match (expected.then, ended.starts(), ended.code) {
                (Then::Ends(_), 1, Some(code)) => Then::Ends(code),
                (Then::AwaitsReboot, 1, Some(0)) => Then::AwaitsReboot,
                (Then::StartsAgain, 2, Some(0)) => Then::StartsAgain,
                (_, starts, code) => panic!("{starts} starts, exit code {code:?}\n{runner}"),
            },
            registered: calls(REGISTER),
            removed: match calls(REMOVE) {
                0 => false,
                1 => true,
                more => panic!("removed {more} times\n{runner}"),
            },
            reported: calls(REPORT) > 0,
            held: host.path("held").exists(),
            cache: host.cache(),
        };
        assert_eq!(found, expected, "\n{runner}");
        let asked =
            messages(&ended.events).into_iter().find(|message| message == "finish" || message == "now");
        assert_eq!(asked.as_deref(), self.cause.asks(expected.then), "\n{runner}");
        assert_eq!(ended.host_commands, [""; 0], "\n{runner}");
        runner.assert_nothing_left();
    }

    /// The worker exits as planned as soon as it receives a request or, without one, when the test lets it go.
    fn start(self, host: &Host) -> Runner {
        let code = self.exit as i32;
        let capabilities =
            if self.cause == Cause::NewCredentials { "graceful-termination log" } else { "all" };
        let mut script = vec![
            format!("start 1: on finish: exit {code}"),
            format!("start 1: on now: exit {code}"),
            "start 2+: on now: exit 72".to_owned(),
            format!("hello {capabilities}"),
            "print ready".to_owned(),
        ];
        if self.cause == Cause::None {
            script.push(format!("start 1: {} ; exit {code}", host.gate("go")));
        }
        script.push("wait".to_owned());
        let scene = host.generic_worker().worker(script).set("worker.restartInPlace", self.in_place);
        self.before_the_start(host, || scene.start())
    }

    /// Makes preparations before there is a worker.
    fn before_the_start(self, host: &Host, start: impl FnOnce() -> Runner) -> Runner {
        let faults = &host.taskcluster;
        match self.cause {
            // The worker is stopped a quarter of that before their end.
            Cause::CredentialsLost => {
                host.set_credentials_life(Duration::from_secs(10));
                faults.fail(REREGISTER, Times::UntilCleared, Fault::bad_gateway());
                let runner = start();
                host.wait_for(REREGISTER, 1);
                host.set_credentials_life(Duration::from_secs(3600));
                runner
            }
            Cause::NewCredentials => {
                // Short-lived credentials are renewed at once.
                host.set_credentials_life(Duration::from_secs(25));
                faults.fail(REREGISTER, Times::UntilCleared, Fault::Hang);
                let runner = start();
                host.wait_for(REREGISTER, 1);
                host.set_credentials_life(Duration::from_secs(3600));
                runner
            }
            Cause::InterruptionWithEnd | Cause::InterruptionWithoutEnd | Cause::Rebalance => {
                host.start_before_notices(start)
            }
            _ => start(),
        }
    }

    fn cause(self, host: &Host, runner: &Runner) {
        runner.wait_for_log("ready");
        match self.cause {
            Cause::CredentialsLost => {}
            Cause::NewCredentials => host.taskcluster.clear_faults(),
            Cause::InterruptionWithEnd => host.give_notice("terminate"),
            Cause::InterruptionWithoutEnd => host.give_notice("hibernate"),
            Cause::Rebalance => host.recommend_rebalance(),
            Cause::Redeploy => {
                host.deploy("d2");
                runner.signal(Signal::SIGHUP);
            }
            Cause::OperatorStop => drop(runner.signal(Signal::SIGTERM)),
            Cause::OperatorDrain => drop(runner.signal(Signal::SIGUSR1)),
            Cause::None => host.let_go("go"),
        }
    }
}

fn stop(runner: &Runner) -> Ended {
    runner.signal(Signal::SIGTERM);
    runner.ended()
}
