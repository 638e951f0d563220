//! A stop, and a second one, in every phase of a runner's life: it ends in bounded time, and leaves no process behind.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::clouds::machine::{EC2, Machine, OBEDIENT, at_once};
use crate::harness::hung_disk::{Wait, with_hung_disk};
use crate::harness::{Runner, Scene, is_root, wait_until};

/// Two signals that are at least so far apart are two requests.
const APART: Duration = Duration::from_millis(1100);

/// One phase: the way into it, and the expected end of a runner that is stopped there.
struct Phase {
    name: &'static str,
    reach: fn(&Machine) -> Runner,
    code: i32,
}

const PHASES: &[Phase] = &[
    Phase { name: "the metadata service is asked", reach: identifying, code: 0 },
    Phase { name: "a registration is on its way", reach: registering, code: 0 },
    Phase { name: "a registration is waited for before its retry", reach: retrying, code: 0 },
    Phase { name: "secrets are fetched", reach: secrets, code: 0 },
    Phase { name: "the host is held", reach: held, code: 0 },
    Phase { name: "the worker has said no hello", reach: starting, code: 0 },
    Phase { name: "the worker is being drained", reach: draining, code: 0 },
    Phase { name: "leftovers are being ended", reach: clearing, code: 0 },
    Phase { name: "the worker is asked for its version", reach: asking_version, code: 0 },
    Phase { name: "a crashed worker is about to be restarted", reach: backing_off, code: 0 },
    Phase { name: "a reboot is waited for", reach: awaiting_reboot, code: 0 },
    Phase { name: "the reboot command hangs", reach: rebooting, code: 0 },
    Phase { name: "the last report hangs", reach: reporting, code: 1 },
    Phase { name: "the report of a failed start hangs", reach: reporting_failed_start, code: 1 },
    Phase { name: "a machine that cannot start is kept for a while", reach: failed_start, code: 1 },
    Phase { name: "a machine whose worker was given up is kept for a while", reach: gave_up, code: 1 },
    Phase { name: "the removal hangs", reach: removing, code: 1 },
    Phase { name: "the shutdown command hangs", reach: shutting_down, code: 1 },
    Phase { name: "the removal that the worker asked for hangs", reach: leaving, code: 1 },
    Phase {
        name: "the shutdown command that the worker asked for hangs",
        reach: leaving_by_command,
        code: 1,
    },
];

fn identifying(machine: &Machine) -> Runner {
    machine.tell("fault * hang");
    let runner = machine.boot(OBEDIENT);
    machine.wait_until_asked("/latest/api/token", 1);
    runner
}

fn registering(machine: &Machine) -> Runner {
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::Hang);
    let runner = machine.boot(OBEDIENT);
    machine.wait_for_call("registerWorker", 1);
    runner
}

fn retrying(machine: &Machine) -> Runner {
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::too_many_requests("600"));
    let runner = machine.boot(OBEDIENT);
    runner.wait_for_log("a call to Taskcluster fails: trying again");
    runner
}

fn secrets(machine: &Machine) -> Runner {
    machine.taskcluster.fail("secret", Times::UntilCleared, Fault::Hang);
    let runner = machine.scene().set("getSecrets", true).worker(OBEDIENT).start();
    machine.wait_for_call("secret", 1);
    runner
}

fn held(machine: &Machine) -> Runner {
    fs::write(machine.cache_path().with_file_name("held"), "").unwrap();
    let runner = machine.boot(OBEDIENT);
    runner.wait_for_log("holding");
    runner
}

/// A worker that ignores everything, with a ladder of a few seconds.
fn stubborn(machine: &Machine, script: &[&str]) -> Scene {
    let scene = machine.scene().worker([&["on SIGTERM:", "on now:", "on finish:"], script].concat());
    scene.set("supervision.stopTimeout", "2s").set("supervision.killTimeout", "2s")
}

fn starting(machine: &Machine) -> Runner {
    let runner = stubborn(machine, &["print ready", "wait"]).start();
    runner.wait_for_log("ready");
    runner
}

fn draining(machine: &Machine) -> Runner {
    let runner = stubborn(machine, &["hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_graceful_termination(true);
    runner
}

fn clearing(machine: &Machine) -> Runner {
    let script = ["hello all", "spawn session ignore-term", "spawn daemon ignore-term", "exit 3"];
    let runner = stubborn(machine, &script).set("supervision.killTimeout", "5s").start();
    runner.wait_for_log("worker left processes behind: sent them SIGTERM");
    runner
}

fn asking_version(machine: &Machine) -> Runner {
    let scene = machine.generic_worker().set("worker.restartInPlace", Value::Null);
    let runner = scene.env("TEST_WORKER_VERSION", "hang").worker(["hello all", "exit 3"]).start();
    runner.wait_for_event("version");
    runner
}

fn backing_off(machine: &Machine) -> Runner {
    let backoff = json!({"initial": "1h", "max": "1h"});
    let runner = machine.scene().set("supervision.backoff", backoff).worker(["hello all", "exit 3"]).start();
    runner.wait_for_log("worker is started again after a crash");
    runner
}

fn awaiting_reboot(machine: &Machine) -> Runner {
    let runner = machine.scene().set("supervision.onReboot", "wait").worker(["hello all", "exit 67"]).start();
    runner.wait_for_log("waiting for the host to go down");
    runner
}

/// A host command that does nothing, with a child of its own, until it is killed.
fn hangs(scene: &Scene, name: &str) -> Value {
    let commands = scene.path("host-commands");
    json!(["/bin/sh", "-c", format!("echo {name} >> {}; sleep 1000; true", commands.display())])
}

fn wait_for_host_command(runner: &Runner) {
    runner.wait_for("host command", |_| {
        fs::read_to_string(runner.path("host-commands")).is_ok_and(|text| text.ends_with('\n')).then_some(())
    });
}

fn rebooting(machine: &Machine) -> Runner {
    let scene = machine.scene();
    let command = hangs(&scene, "reboot");
    let scene = scene.set("host.rebootCommand", command).set("supervision.onReboot", "reboot");
    let runner = scene.worker(["hello all", "exit 67"]).start();
    wait_for_host_command(&runner);
    runner
}

fn reporting(machine: &Machine) -> Runner {
    machine.taskcluster.fail("reportWorkerError", Times::UntilCleared, Fault::Hang);
    let scene = machine.scene().set("supervision.maxRestarts", 0).set("host.startFailureDelay", "1h");
    let runner = scene.worker(["hello all", "exit 3"]).start();
    machine.wait_for_call("reportWorkerError", 1);
    runner
}

fn fails_to_start(machine: &Machine) -> Scene {
    machine.scene().set("worker.configPath", "/proc/no-such-folder/worker.json").worker(OBEDIENT)
}

fn reporting_failed_start(machine: &Machine) -> Runner {
    machine.taskcluster.fail("reportWorkerError", Times::UntilCleared, Fault::Hang);
    let runner = fails_to_start(machine).start();
    machine.wait_for_call("reportWorkerError", 1);
    runner
}

fn failed_start(machine: &Machine) -> Runner {
    let runner = fails_to_start(machine).set("host.startFailureDelay", "1h").start();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    runner
}

fn gave_up(machine: &Machine) -> Runner {
    let scene = machine.scene().set("supervision.maxRestarts", 0).set("host.startFailureDelay", "1h");
    let runner = scene.worker(["hello all", "exit 3"]).start();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    runner
}

fn removing(machine: &Machine) -> Runner {
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::Hang);
    let runner = machine.boot(["hello all", "exit 0"]);
    machine.wait_for_call("removeWorker", 1);
    runner
}

fn shutting_down(machine: &Machine) -> Runner {
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::answer(403, "text/html", "no"));
    let scene = machine.scene();
    let command = hangs(&scene, "shutdown");
    let runner = scene.set("host.shutdownCommand", command).worker(["hello all", "exit 0"]).start();
    wait_for_host_command(&runner);
    runner
}

fn leaving(machine: &Machine) -> Runner {
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::Hang);
    let runner = machine.boot(["hello all", r#"send {"type": "shutdown"}"#, "exit 0"]);
    machine.wait_for_call("removeWorker", 1);
    runner.wait_for_log("worker exited");
    runner
}

fn leaving_by_command(machine: &Machine) -> Runner {
    machine.taskcluster.fail("removeWorker", Times::UntilCleared, Fault::answer(403, "text/html", "no"));
    let scene = machine.scene();
    let command = hangs(&scene, "shutdown");
    let script = ["hello all", r#"send {"type": "shutdown"}"#, "exit 0"];
    let runner = scene.set("host.shutdownCommand", command).worker(script).start();
    wait_for_host_command(&runner);
    runner.wait_for_log("worker exited");
    runner
}

/// Stops the runner this many times in every phase.
fn ends_in_every_phase(times: usize) {
    // A few at once: they mostly wait.
    for phases in PHASES.chunks(6) {
        at_once(phases, |phase| {
            let machine = Machine::new(EC2);
            let runner = (phase.reach)(&machine);
            for time in 0..times {
                if time > 0 && !runner.is_running() {
                    break;
                }
                let at = runner.signal(Signal::SIGTERM);
                if time + 1 < times {
                    wait_until(at + APART);
                }
            }
            let ended = runner.ended();
            assert_eq!(ended.code, Some(phase.code), "{}, {times} times:\n{}", phase.name, ended.log);
            runner.assert_nothing_left();
            assert_eq!(
                machine.taskcluster.count("removeWorker"),
                usize::from(removes(phase)),
                "{}",
                phase.name
            );
        });
    }
}

fn removes(phase: &Phase) -> bool {
    ["removal", "shutdown"].iter().any(|word| phase.name.contains(word))
}

#[test]
fn a_stop_ends_every_phase() {
    ends_in_every_phase(1);
}

#[test]
fn a_second_stop_ends_every_phase() {
    ends_in_every_phase(2);
}

/// SIGKILL does not end a worker that waits for a disk that never answers.
#[test]
fn a_machine_whose_worker_cannot_be_killed_is_removed_all_the_same() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let machine = Machine::new(EC2);
    let scene = machine.scene();
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let wait = format!("wait-file {}", disk.path("x").display());
        let scene = scene.set("supervision.stopTimeout", "300ms").worker(["hello all", "print ready", &wait]);
        let runner = scene.start();
        runner.wait_for_log("ready");
        machine.spot("terminate", Duration::from_secs(120));
        let ended = runner.ended();
        assert_eq!(
            (ended.code, ended.starts(), &ended.host_commands[..]),
            (Some(1), 1, &[][..]),
            "{}",
            ended.log
        );
        assert!(ended.log.contains("worker cannot be killed"), "{}", ended.log);
        assert_eq!(machine.taskcluster.count("removeWorker"), 1);
        runner
    });
}
