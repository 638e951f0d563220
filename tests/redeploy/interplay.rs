//! Two events at a time. Each test states the expected result.

use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Runner, Scene, eventually, messages, signals};
use crate::redeploy::host::{Cache, Host, REGISTER, REMOVE, REPORT, REREGISTER, WORKER_POOL};

/// A worker with a task that lasts until the host lets it go, and ends so; or at once, when it is told to.
fn busy(host: &Host, end: &str) -> Vec<String> {
    vec![
        format!("start 1: on finish: note finishing ; {} ; {end}", host.gate("task")),
        "start 2+: on finish: exit 72".to_owned(),
        "on now: exit 71".to_owned(),
        "hello all".to_owned(),
        "print ready".to_owned(),
        "wait".to_owned(),
    ]
}

/// Starts it and drains it for deployment `d2`.
fn redeploying(host: &Host, scene: Scene) -> Runner {
    let runner = scene.start();
    redeploy(host, &runner);
    runner
}

fn redeploy(host: &Host, runner: &Runner) {
    runner.wait_for_log("ready");
    host.deploy("d2");
    runner.signal(Signal::SIGHUP);
    runner.wait_for_note("finishing");
}

/// Lets the renewal that is under way come to its end.
fn renew(host: &Host) {
    host.wait_for(REREGISTER, 1);
    host.set_credentials_life(Duration::from_secs(3600));
    host.taskcluster.clear_faults();
}

/// Credentials are renewed as soon as there are any, and that hangs.
fn hold_the_renewal(host: &Host) {
    host.set_credentials_life(Duration::from_secs(25));
    host.taskcluster.fail(REREGISTER, Times::UntilCleared, Fault::Hang);
}

// An interruption during a drain: the worker is told to end at once. What counts most is the operator, then the
// interruption, then the deployment.

#[test]
fn interruption_in_an_operators_drain_hurries_the_worker_and_the_machine_stays_the_operators() {
    let host = Host::aws();
    let runner = host.start_before_notices(|| host.generic_worker().worker(busy(&host, "exit 72")).start());
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_note("finishing");
    host.give_notice("terminate");
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish", "now"]);
    assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
    host.assert_called(REMOVE, 0);
}

#[test]
fn interruption_in_a_redeploy_hurries_the_worker_and_decides_on_its_machine() {
    for (action, removed) in [("terminate", true), ("hibernate", false)] {
        let host = Host::aws();
        let runner =
            host.start_before_notices(|| host.generic_worker().worker(busy(&host, "exit 72")).start());
        redeploy(&host, &runner);
        host.give_notice(action);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!(messages(&ended.events), ["welcome", "finish", "now"]);
        // A machine that comes back continues its old run, and finds the new deployment then.
        let cache = if removed { Cache::Removed } else { Cache::of("d1") };
        assert_eq!((host.cache(), ended.host_commands), (cache, Vec::new()));
        host.assert_called(REMOVE, usize::from(removed));
    }
}

// SIGTERM during a redeploy: the runner ends, with 0; nothing has changed on a static host, and a machine is not removed.

#[test]
fn sigterm_while_draining_for_a_redeploy_ends_the_runner_with_the_old_run_kept() {
    for host in [Host::fixed(), Host::aws()] {
        let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "exit 72")));
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!(messages(&ended.events), ["welcome", "finish", "now"]);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REGISTER, 1);
        host.assert_called(REMOVE, 0);
        runner.assert_nothing_left();
    }
}

#[test]
fn sigterm_while_registering_for_a_redeploy_hangs_ends_the_runner_at_once() {
    let host = Host::fixed();
    let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "exit 72")));
    host.taskcluster.fail(REGISTER, Times::UntilCleared, Fault::Hang);
    host.let_go("task");
    host.wait_for(REGISTER, 2);
    let told = runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    let took = runner.end() - told;
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    // One attempt to register takes up to 30 s.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d1"), "d1".to_owned()));
    // The next start has the new deployment.
    host.taskcluster.clear_faults();
    let runner =
        host.generic_worker().worker(["on now: exit 72", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
}

// A renewal during a drain: the worker gets its new credentials where it can be told; the drain and its cause stay.

#[test]
fn renewal_in_an_operators_drain_reaches_the_worker_and_the_cache_and_the_drain_goes_on() {
    let host = Host::aws();
    hold_the_renewal(&host);
    let runner = host.generic_worker().worker(busy(&host, "exit 72")).start();
    runner.wait_for_log("ready");
    let first = host.token_of_the_worker();
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_note("finishing");
    renew(&host);
    let told = runner.wait_for("new credentials", |events| {
        events.iter().find(|event| event.text("type") == "new-credentials").cloned()
    });
    let newest = told.field("message")["access-token"].as_str().unwrap().to_owned();
    assert_ne!(newest, first);
    host.let_go("task");
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish", "new-credentials"]);
    let cache = std::fs::read_to_string(host.path("run.json")).unwrap();
    assert!(cache.contains(&newest) && !cache.contains(&first), "the cache has other credentials");
    host.assert_called(REMOVE, 0);
}

#[test]
fn renewal_in_a_redeploy_of_a_worker_that_cannot_be_told_leaves_it_a_redeploy() {
    let host = Host::fixed();
    hold_the_renewal(&host);
    let mut script = busy(&host, "exit 72");
    script[3] = "hello graceful-termination log".to_owned();
    let runner = redeploying(&host, host.generic_worker().worker(script));
    renew(&host);
    runner.wait_for_log("credentials renewed");
    host.let_go("task");
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    host.assert_called(REGISTER, 2);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish", "welcome", "now"]);
}

// A crash during a drain: it was to end, and has. It is not counted, reported, or answered with a restart of the old run.

#[test]
fn crash_in_an_operators_drain_is_the_end_that_was_asked_for() {
    for host in [Host::fixed(), Host::aws()] {
        let runner = host.generic_worker().worker(busy(&host, "die SIGSEGV")).start();
        runner.wait_for_log("ready");
        runner.signal(Signal::SIGUSR1);
        runner.wait_for_note("finishing");
        host.let_go("task");
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REMOVE, 0);
        host.assert_called(REPORT, 0);
    }
}

#[test]
fn crash_in_a_redeploy_leads_to_the_new_deployment_all_the_same() {
    let host = Host::fixed();
    let scene = host.generic_worker().set("supervision.maxRestarts", 0);
    let runner = redeploying(&host, scene.worker(busy(&host, "die SIGKILL")));
    host.let_go("task");
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    host.assert_called(REPORT, 0);

    let host = Host::aws();
    let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "die SIGKILL")));
    host.let_go("task");
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    host.assert_called(REMOVE, 1);
    host.assert_called(REPORT, 0);
}

// A reboot exit during a redeploy. Static: the cache is removed, so that the next boot registers anew; where a restart
// replaces reboots, the runner registers at once. A cloud's machine: removed, and not rebooted.

#[test]
fn reboot_exit_in_a_redeploy_has_the_host_register_after_the_boot() {
    let host = Host::fixed();
    let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "exit 67")));
    host.let_go("task");
    runner.wait_for_log("waiting for the host to go down");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!((host.cache(), ended.host_commands), (Cache::Gone, Vec::new()));
    host.assert_called(REGISTER, 1);
    let runner =
        host.generic_worker().worker(["on now: exit 72", "hello all", "print ready", "wait"]).start();
    runner.wait_for_log("ready");
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
}

#[test]
fn reboot_exit_in_a_redeploy_registers_at_once_where_a_restart_replaces_reboots() {
    let host = Host::fixed();
    let scene = host.generic_worker().set("supervision.onReboot", "restart");
    let runner = redeploying(&host, scene.worker(busy(&host, "exit 67")));
    host.let_go("task");
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    host.assert_called(REGISTER, 2);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn reboot_that_does_not_come_in_a_redeploy_lets_the_old_run_go_on_until_the_next_look() {
    let host = Host::fixed();
    let scene = host.generic_worker().set("supervision.rebootTimeout", "200ms");
    let runner = redeploying(&host, scene.worker(busy(&host, "exit 67")));
    host.let_go("task");
    runner.wait_for_start(2);
    assert_eq!(host.deployed(), "d1");
    host.assert_called(REGISTER, 1);
    runner.signal(Signal::SIGHUP);
    runner.wait_for_start(3);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    host.assert_called(REGISTER, 2);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn new_deployment_while_a_reboot_is_awaited_starts_nothing_before_it() {
    for in_place in [true, false] {
        let host = Host::fixed();
        let scene = host.generic_worker().set("worker.restartInPlace", in_place);
        let runner = scene.worker(["hello all", "start 1: exit 67", "wait"]).start();
        runner.wait_for_log("waiting for the host to go down");
        host.deploy("d2");
        for _ in 0..2 {
            let looks = host.taskcluster.count(WORKER_POOL);
            runner.signal(Signal::SIGHUP);
            host.wait_for_answers(WORKER_POOL, looks + 1);
        }
        // The next boot registers anew.
        let gone = eventually(|| (host.cache() == Cache::Gone).then_some(()));
        assert!(gone.is_some(), "the cache is {:?}\n{runner}", host.cache());
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!(ended.host_commands, [""; 0]);
        host.assert_called(REGISTER, 1);
    }
}

#[test]
fn reboot_in_a_redeploy_of_a_machine_is_a_removal_and_no_reboot() {
    for end in ["exit 67", r#"send {"type":"reboot"} ; exit 67"#] {
        let host = Host::aws();
        let scene = host.generic_worker().set("supervision.onReboot", "reboot");
        let runner = redeploying(&host, scene.worker(busy(&host, end)));
        host.let_go("task");
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{end}: {}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::Removed, Vec::new()), "{end}");
        host.assert_called(REMOVE, 1);
    }
}

// A second deployment during a redeploy: one drain; the registration uses the deployment that is current then. A later
// deployment is found by the next look.

#[test]
fn second_deployment_while_draining_is_the_one_that_is_registered() {
    let host = Host::fixed();
    let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "exit 72")));
    host.deploy("d3");
    let looks = host.taskcluster.count(WORKER_POOL);
    runner.signal(Signal::SIGHUP);
    host.wait_for_answers(WORKER_POOL, looks + 1);
    host.let_go("task");
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed(), host.file()), (Cache::of("d3"), "d3".into(), "d3".into()));
    host.assert_called(REGISTER, 2);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(messages(&ended.events), ["welcome", "finish", "welcome", "now"]);
    assert_eq!(signals(&ended.events), [""; 0]);
}

#[test]
fn second_deployment_while_registering_is_found_by_the_next_look() {
    let host = Host::fixed();
    let runner = redeploying(&host, host.generic_worker().worker(busy(&host, "exit 72")));
    // The runner is registered for the second one when the third comes.
    host.taskcluster.fail(REGISTER, Times::Only(1), Fault::LateAnswer(Duration::from_millis(500)));
    let secret = || host.taskcluster.one_time_secret(&host.worker);
    let before = secret();
    host.let_go("task");
    eventually(|| (secret() != before).then_some(())).expect("a second registration");
    host.deploy("d3");
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    runner.signal(Signal::SIGHUP);
    runner.wait_for_start(3);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d3"), "d3".to_owned()));
    host.assert_called(REGISTER, 3);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 3), "{}", ended.log);
}

// A worker that does not finish for a redeploy: it is stopped after drainTimeout, killed at last, and replaced all the same.

#[test]
fn worker_that_hangs_in_a_redeploy_is_killed_and_started_again_with_the_new_deployment() {
    let host = Host::fixed();
    let script = [
        "start 1: on finish: note finishing",
        "start 1: on now: note stopping",
        "start 1: on SIGTERM:",
        "start 2+: on now: exit 72",
        "hello all",
        "print ready",
        "wait",
    ];
    let scene = host.generic_worker().set("supervision.drainTimeout", "300ms");
    let scene = scene.set("supervision.stopTimeout", "200ms").set("supervision.killTimeout", "200ms");
    let runner = redeploying(&host, scene.worker(script));
    runner.wait_for_start(2);
    assert_eq!((host.cache(), host.deployed()), (Cache::of("d2"), "d2".to_owned()));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    let told = messages(&ended.events);
    assert_eq!(told[..4], ["welcome", "finish", "now", "welcome"]);
    host.assert_called(REGISTER, 2);
    host.assert_called(REPORT, 0);
}
