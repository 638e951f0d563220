//! A machine that must go, goes: whatever worker-manager and the host's commands do, over as many starts as it takes.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times, WorkerState};

use crate::clouds::machine::{EC2, GCE, LEGACY, Machine, OBEDIENT};
use crate::harness::{Ended, Scene};

/// The effects of the commands that take the host down.
#[derive(Clone, Copy)]
enum Does {
    /// The command cannot be executed.
    Nothing,
    /// The command fails.
    Fails,
    /// The command succeeds, and the host stays up.
    LeavesTheHostUp,
    /// The host goes down: the runner is told to stop.
    TakesItDown,
}

fn command(scene: &Scene, name: &str, does: Does) -> Value {
    let record = format!("echo {name} >> {}", scene.path("host-commands").display());
    let shell = |then: &str| json!(["/bin/sh", "-c", format!("{record}; {then}")]);
    match does {
        Does::Nothing => json!(["/nowhere/power"]),
        Does::Fails => shell("echo no power here >&2; exit 1"),
        Does::LeavesTheHostUp => shell("exit 0"),
        Does::TakesItDown => shell("kill -TERM $PPID"),
    }
}

/// The host's two commands of this kind: `shutdown` or `reboot`.
fn with_commands(scene: Scene, kind: &str, does: Does, force: Does) -> Scene {
    let ordinary = command(&scene, kind, does);
    let forced = command(&scene, &format!("force-{kind}"), force);
    let name = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
    scene
        .set(&format!("host.{kind}Command"), ordinary)
        .set(&format!("host.force{name}Command"), forced)
        .set("supervision.rebootTimeout", "300ms")
}

fn start(machine: &Machine, script: &[&str], does: Does, force: Does) -> Ended {
    with_commands(machine.scene().worker(script), "shutdown", does, force).start().ended()
}

fn refuse_removals(machine: &Machine) {
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::answer(403, "text/html", "no"));
}

#[test]
fn the_truth_about_a_machine_that_cannot_leave_is_kept_over_three_starts() {
    let machine = Machine::new(EC2);
    refuse_removals(&machine);

    // worker-manager refuses, and no command works.
    let ended = start(&machine, &["hello all", "exit 0"], Does::Fails, Does::Nothing);
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown"], "{}", ended.log);
    for said in [
        "the worker cannot be removed: its host is shut down",
        "/bin/sh failed (exit status: 1): no power here",
        "cannot execute /nowhere/power: No such file",
        "this machine must go, and nothing has taken it down",
        "this machine must go, and it is still here",
    ] {
        assert!(ended.log.contains(said), "{said}\n{}", ended.log);
    }
    let leaving = machine.cache()["Extra"]["leaving"].clone();
    assert_eq!(leaving["reason"], "the worker is done");
    assert!(leaving.get("deregistered").is_none() && leaving["shutdownRequested"].is_string(), "{leaving}");
    let report = machine.only("reportWorkerError").body.unwrap();
    assert_eq!(report["title"], "this machine must go, and is still up");
    assert!(report["description"].as_str().unwrap().contains("no power here"), "{report}");

    // worker-manager is back: the machine is deregistered first. No worker is started.
    machine.taskcluster.clear_faults();
    machine.taskcluster.forget_requests();
    let ended = start(&machine, OBEDIENT.as_slice(), Does::Fails, Does::LeavesTheHostUp);
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown", "force-shutdown"], "{}", ended.log);
    let calls: Vec<_> = machine.calls().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls, ["removeWorker", "reportWorkerError"]);
    assert!(
        ended.log.contains("this machine must go, and is still here: no worker is started"),
        "{}",
        ended.log
    );
    assert!(!ended.log.contains("this worker was removed from worker-manager"), "{}", ended.log);
    assert_eq!(machine.taskcluster.worker_state(&machine.key), Some(WorkerState::Stopped));
    let leaving = machine.cache()["Extra"]["leaving"].clone();
    assert!(leaving["deregistered"].is_string(), "{leaving}");

    // The host obeys: it is only shut down.
    machine.taskcluster.forget_requests();
    let ended = start(&machine, OBEDIENT.as_slice(), Does::TakesItDown, Does::Nothing);
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert_eq!(
        (ended.host_commands, machine.calls()),
        (vec!["shutdown".to_owned()], vec![]),
        "{}",
        ended.log
    );
    // The Go program cannot read a text in the place of its list, and ends.
    assert!(machine.cache()["Files"].is_string());
}

#[test]
fn a_force_command_takes_down_a_host_that_the_ordinary_one_has_left_up() {
    for does in [Does::Nothing, Does::Fails, Does::LeavesTheHostUp] {
        let machine = Machine::new(GCE);
        refuse_removals(&machine);
        let ended = start(&machine, &["hello all", "exit 0"], does, Does::TakesItDown);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert_eq!(ended.host_commands.last().map(String::as_str), Some("force-shutdown"), "{}", ended.log);
    }
}

#[test]
fn a_machine_that_worker_manager_does_not_know_is_shut_down_until_it_is_gone() {
    let machine = Machine::new(LEGACY);
    let ended = start(&machine, &["hello all", "exit 0"], Does::Fails, Does::Fails);
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    let ended = start(&machine, OBEDIENT.as_slice(), Does::TakesItDown, Does::Fails);
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown"], "{}", ended.log);
    assert_eq!(machine.taskcluster.count("removeWorker"), 0);
}

#[test]
fn a_machine_whose_credentials_have_expired_is_shut_down() {
    let machine = Machine::new(EC2);
    refuse_removals(&machine);
    start(&machine, &["hello all", "exit 0"], Does::Fails, Does::Fails);
    let mut cache = machine.cache();
    cache["CredentialsExpire"] = json!("2026-01-01T00:00:00.000Z");
    std::fs::write(machine.cache_path(), cache.to_string()).unwrap();
    machine.taskcluster.forget_requests();
    let ended = start(&machine, OBEDIENT.as_slice(), Does::TakesItDown, Does::Fails);
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert_eq!(
        (ended.host_commands, machine.taskcluster.count("removeWorker")),
        (vec!["shutdown".to_owned()], 1)
    );
    // With such credentials no report is tried.
    assert_eq!(machine.taskcluster.count("reportWorkerError"), 0);
}

#[test]
fn a_shutdown_that_the_worker_asks_for_goes_the_same_way_beside_the_worker() {
    let machine = Machine::new(EC2);
    refuse_removals(&machine);
    let script = ["on now: exit 0", "hello all", r#"send {"type": "shutdown"}"#, "wait"];
    let ended = start(&machine, &script, Does::LeavesTheHostUp, Does::TakesItDown);
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown", "force-shutdown"], "{}", ended.log);
    // The same on a host outside a cloud.
    let script = ["hello all", r#"send {"type": "shutdown"}"#, "exit 0"];
    for (force, code) in [(Does::TakesItDown, 0), (Does::Fails, 1)] {
        let scene = Scene::new().worker(script).set("host.shutdownStatic", true);
        let ended = with_commands(scene, "shutdown", Does::Fails, force).start().ended();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        assert_eq!(ended.host_commands, ["shutdown", "force-shutdown"], "{}", ended.log);
    }
}

#[test]
fn a_reboot_goes_the_same_way_and_ends_with_70() {
    for (does, force, code) in [
        (Does::Fails, Does::TakesItDown, 0),
        (Does::LeavesTheHostUp, Does::TakesItDown, 0),
        (Does::LeavesTheHostUp, Does::Fails, 70),
        (Does::Nothing, Does::LeavesTheHostUp, 70),
    ] {
        // The worker could be started again in place, except that the host is out of order.
        let scene = Scene::generic_worker().worker(["exit 67"]).set("supervision.onReboot", "reboot");
        let ended = with_commands(scene, "reboot", does, force).start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(code), 1), "{}", ended.log);
        let forced = ended.host_commands.iter().any(|command| command == "force-reboot");
        assert!(forced, "{:?}\n{}", ended.host_commands, ended.log);
        let told = ended.log.contains("the host must reboot, and nothing has taken it down");
        assert_eq!(told, code == 70, "{}", ended.log);
    }
}

#[test]
fn a_stop_while_worker_manager_does_not_answer_is_no_success_and_the_next_start_goes_on() {
    let machine = Machine::new(EC2);
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::Hang);
    let scene = with_commands(machine.scene(), "shutdown", Does::TakesItDown, Does::Fails);
    let runner = scene.worker(["hello all", "exit 0"]).start();
    machine.wait_for_call("removeWorker", 1);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.host_commands), (Some(1), vec![]), "{}", ended.log);
    machine.taskcluster.clear_faults();
    let ended = start(&machine, OBEDIENT.as_slice(), Does::TakesItDown, Does::Fails);
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert_eq!(ended.host_commands, ["shutdown"], "{}", ended.log);
}
