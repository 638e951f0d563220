//! The effect of each exit on a host that is not dynamic, cell by cell.

use std::fmt::Write as _;

use crate::harness::{Ended, Scene};

const ON_REBOOT: [&str; 5] = ["auto", "wait", "restart", "reboot", "exit"];

/// The expected result.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    code: i32,
    starts: usize,
    reboots: usize,
}

const DONE: Result = Result { code: 0, starts: 1, reboots: 0 };
const GAVE_UP: Result = Result { code: 1, starts: 1, reboots: 0 };
const NEEDS_REBOOT: Result = Result { code: 70, starts: 1, reboots: 0 };
const STARTED_AGAIN: Result = Result { code: 0, starts: 2, reboots: 0 };

/// The table of docs/operations.md.
fn expected(end: &str, in_place: bool, on_reboot: &str, disable_reboots: bool) -> Result {
    let after_the_wait = if in_place { STARTED_AGAIN } else { NEEDS_REBOOT };
    match (end, on_reboot) {
        ("exit 0" | "exit 68", _) => DONE,
        ("exit 73", _) => GAVE_UP,
        ("exit 67", "auto") if disable_reboots && in_place => STARTED_AGAIN,
        ("exit 67", "auto" | "wait") => after_the_wait,
        // A worker that cannot be restarted in place would never get a login.
        ("exit 67", "restart") if in_place => STARTED_AGAIN,
        // Of a host that neither command reboots it is not worth starting a worker again.
        ("exit 67", "reboot") => Result { reboots: 2, ..NEEDS_REBOOT },
        ("exit 67", _) => NEEDS_REBOOT,
        // Any other exit is a crash; so is 71, because there was no interruption.
        _ if in_place => STARTED_AGAIN,
        (_, "reboot") => Result { reboots: 2, ..NEEDS_REBOOT },
        _ => NEEDS_REBOOT,
    }
}

fn result(ended: &Ended) -> Result {
    // The command, then the force command.
    let reboots = ended.host_commands.len();
    assert_eq!(ended.host_commands, ["reboot", "force-reboot"][..reboots]);
    Result { code: ended.code.unwrap_or(-1), starts: ended.starts(), reboots }
}

/// All cells for one end of the worker. They run side by side: some wait for a signal that does not come.
fn holds_for(end: &str) {
    let mut cells = Vec::new();
    for in_place in [true, false] {
        for on_reboot in ON_REBOOT {
            for disable_reboots in [true, false] {
                let scene = Scene::generic_worker().worker([&format!("start 1: {end}"), "start 2: exit 0"]);
                let scene =
                    scene.set("worker.restartInPlace", in_place).set("supervision.onReboot", on_reboot);
                let scene = scene.set("supervision.rebootTimeout", "100ms");
                let runner = scene.set("workerConfig.disableReboots", disable_reboots).start();
                cells.push((in_place, on_reboot, disable_reboots, runner));
            }
        }
    }
    let mut wrong = String::new();
    for (in_place, on_reboot, disable_reboots, runner) in cells {
        let (expected, ended) = (expected(end, in_place, on_reboot, disable_reboots), runner.ended());
        let found = result(&ended);
        if found != expected {
            writeln!(
                wrong,
                "{end}, in place: {in_place}, onReboot {on_reboot}, disableReboots {disable_reboots}: \
                 expected {expected:?}, found {found:?}\n{}",
                ended.log
            )
            .unwrap();
        }
        runner.assert_nothing_left();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn exit_0_is_done() {
    holds_for("exit 0");
}

#[test]
fn exit_68_is_done_for_want_of_work() {
    holds_for("exit 68");
}

#[test]
fn exit_67_does_what_on_reboot_says() {
    holds_for("exit 67");
}

#[test]
fn exit_73_is_a_bad_configuration_and_not_tried_again() {
    holds_for("exit 73");
}

#[test]
fn exit_69_is_a_crash() {
    holds_for("exit 69");
}

#[test]
fn exit_71_without_an_interruption_is_a_crash() {
    holds_for("exit 71");
}

#[test]
fn sigsegv_is_a_crash() {
    holds_for("die SIGSEGV");
}

#[test]
fn what_else_generic_worker_says_is_understood() {
    let cells = [
        ("exit 70", DONE),
        ("exit 72", DONE),
        ("exit 64", GAVE_UP),
        ("exit 77", GAVE_UP),
        ("exit 82", GAVE_UP),
        ("exit 78", STARTED_AGAIN),
        ("exit 1", STARTED_AGAIN),
        ("exit 255", STARTED_AGAIN),
        ("die SIGKILL", STARTED_AGAIN),
        ("die SIGINT", STARTED_AGAIN),
    ];
    let script = |end: &str| [format!("start 1: {end}"), "start 2: exit 0".to_owned()];
    let run = |end| Scene::generic_worker().worker(script(end)).start();
    let runners = cells.map(|(end, expected)| (end, expected, run(end)));
    for (end, expected, runner) in runners {
        let ended = runner.ended();
        assert_eq!(result(&ended), expected, "{end}\n{}", ended.log);
    }
}

#[test]
fn of_the_command_worker_only_0_67_and_signals_are_understood() {
    let cells = [
        ("exit 0", DONE),
        ("exit 67", STARTED_AGAIN),
        ("exit 64", STARTED_AGAIN),
        ("exit 68", STARTED_AGAIN),
        ("exit 70", STARTED_AGAIN),
        ("exit 72", STARTED_AGAIN),
        ("die SIGTERM", STARTED_AGAIN),
    ];
    let run = |end: &str| {
        let scene = Scene::new().worker([format!("start 1: {end}"), "start 2: exit 0".to_owned()]);
        scene.set("supervision.rebootTimeout", "100ms").set("worker.restartInPlace", true).start()
    };
    let runners = cells.map(|(end, expected)| (end, expected, run(end)));
    for (end, expected, runner) in runners {
        let ended = runner.ended();
        assert_eq!(result(&ended), expected, "{end}\n{}", ended.log);
    }
}

#[test]
fn a_worker_that_is_always_restarted_is_asked_whether_it_can_be_without_a_reboot() {
    for (engine, code, starts) in [("multiuser", Some(70), 1), ("insecure", Some(1), 2)] {
        let script = ["start 1: exit 0", "start 2: sleep 100ms ; exit 64"];
        let scene = Scene::generic_worker().worker(script).set("supervision.restart", "always");
        let scene = scene.set("worker.restartInPlace", "auto");
        let ended = scene
            .env("TEST_WORKER_VERSION", &format!("generic-worker ({engine} engine) 106.0.1"))
            .start()
            .ended();
        assert_eq!((ended.code, ended.starts()), (code, starts), "{engine}\n{}", ended.log);
        assert_eq!(ended.events.iter().filter(|event| event.name() == "version").count(), 1, "{engine}");
    }
}

#[test]
fn the_engine_decides_whether_a_worker_can_be_restarted_in_place() {
    let cells = [
        ("generic-worker (multiuser engine) 106.0.1 [ revision: 0123abc ]", false, NEEDS_REBOOT),
        ("generic-worker (insecure engine) 106.0.1 [ revision: 0123abc ]", false, STARTED_AGAIN),
        ("generic-worker (simple engine) 60.0.0", false, STARTED_AGAIN),
        ("generic-worker (multiuser engine) 106.0.1 [ revision: 0123abc ]", true, STARTED_AGAIN),
        ("what is this?", false, NEEDS_REBOOT),
    ];
    for (version, headless, expected) in cells {
        let scene = Scene::generic_worker().worker(["start 1: exit 69", "start 2: exit 0"]);
        let scene = scene.set("worker.restartInPlace", "auto").set("workerConfig.headlessTasks", headless);
        let ended = scene.env("TEST_WORKER_VERSION", version).start().ended();
        assert_eq!(result(&ended), expected, "{version}, headlessTasks {headless}\n{}", ended.log);
        let asked = ended.events.iter().filter(|event| event.name() == "version").count();
        assert_eq!(asked, usize::from(!headless), "{version}");
    }
}
