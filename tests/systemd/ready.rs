//! The notifications to systemd during start and run, and the recovery of a runner that is killed or hangs.

use std::time::Duration;

use test_support::fake_taskcluster::{Fault, Times};

use crate::systemd::machine::{DEADLINE, Machine, wait_until_after};
use crate::systemd::service::{Config, OBEDIENT, Service};

const SOON: &str = "RestartSec=100ms";

#[test]
fn systemd_has_taken_every_setting_of_the_unit() {
    let Some(machine) = Machine::borrow() else { return };
    // systemd shows the watchdog's time only for a running service.
    let _service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    let names = "Type,NotifyAccess,KillMode,OOMPolicy,OOMScoreAdjust,Delegate,Restart,RestartPreventExitStatus,\
        WatchdogUSec,TimeoutStopUSec,StateDirectory,StateDirectoryMode,RuntimeDirectory,RuntimeDirectoryMode";
    let property = format!("--property={names}");
    let shown = machine.ask(["systemctl", "show", &property, "start-worker.service"]);
    let mut shown: Vec<&str> = shown.lines().collect();
    shown.sort_unstable();
    let expected = [
        "Delegate=yes",
        "KillMode=mixed",
        "NotifyAccess=main",
        "OOMPolicy=continue",
        "OOMScoreAdjust=-1000",
        "Restart=on-failure",
        "RestartPreventExitStatus=64 70 77",
        "RuntimeDirectory=start-worker",
        "RuntimeDirectoryMode=0700",
        "StateDirectory=start-worker",
        "StateDirectoryMode=0700",
        "TimeoutStopUSec=3min",
        "Type=notify",
        "WatchdogUSec=5min",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn the_service_is_not_ready_while_its_start_goes_on() {
    let Some(machine) = Machine::borrow() else { return };
    let hanging = machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::Hang);
    // The start takes longer than systemd allows for: the runner asks for more time.
    let service =
        Service::install(&machine, &Config::new(&machine, OBEDIENT)).drop_in("TimeoutStartSec=2s").starting();
    machine.taskcluster.wait_for("registerWorker", 1, DEADLINE);
    wait_until_after(std::time::Instant::now(), Duration::from_secs(3));
    let now = service.properties();
    assert!(now.is("activating") && service.starts() == 0, "{now:?}");
    machine.taskcluster.clear_fault(hanging);
    let now = service.wait_for("up", |now| now.is("active"));
    assert_eq!(now.get("NRestarts"), "0");
}

#[test]
fn the_start_of_the_service_returns_when_it_has_to_wait_and_the_status_says_why() {
    let Some(machine) = Machine::borrow() else { return };
    machine.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
    // `systemctl start`, which waits for the service.
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    let now = service.properties();
    assert!(now.is("active") && service.starts() == 0, "{now:?}");
    assert!(now.get("StatusText").contains("trying again: registerWorker"), "{now:?}");
    let status = |options: &[&str]| {
        machine.run(["/usr/bin/start-worker", "status"].iter().copied().chain(options.iter().copied()))
    };
    let not_yet = status(&["--wait", "running", "--timeout", "300ms"]);
    let said = String::from_utf8_lossy(&not_yet.stderr).into_owned();
    assert_eq!(not_yet.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: not running within 300ms: preparing; "), "{said}");
    machine.taskcluster.clear_faults();
    let running = status(&["--wait", "running", "--timeout", "1m"]);
    assert!(running.status.success(), "{running:?}");
    let worker = service.wait_for_start(1).pid();
    let running = format!("running generic-worker (pid {worker}), pool pp/ww; credentials renew in ");
    service.wait_for("running", |now| now.get("StatusText").starts_with(&running));
    assert_eq!(service.properties().get("NRestarts"), "0");
}

#[test]
fn a_reload_looks_for_a_new_deployment_and_leaves_the_worker_alone() {
    let Some(machine) = Machine::borrow() else { return };
    machine.taskcluster.grant("worker-pool:pp/ww", &["worker-manager:get-worker-pool:pp/ww"]);
    let pool = |id| serde_json::json!({"config": {"workerConfig": {"genericWorker": {"config": {"deploymentId": id}}}}});
    machine.taskcluster.set_pool("pp/ww", pool("d1"));
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    let before = service.properties();
    service.must("reload");
    machine.taskcluster.wait_for("workerPool", 1, DEADLINE);
    let after = service.wait_for("back", |now| now.is("active") && now.get("SubState") == "running");
    assert_eq!((after.pid(), service.starts()), (before.pid(), 1));
}

#[test]
fn a_killed_runner_takes_its_worker_along_and_comes_back() {
    let Some(machine) = Machine::borrow() else { return };
    let script = ["start 1: spawn session ignore-term", "start 1: spawn daemon ignore-term"];
    let config = Config::new(&machine, OBEDIENT[..2].iter().chain(&script).chain(&OBEDIENT[2..]));
    let service = Service::install(&machine, &config).drop_in(SOON).started();
    service.wait_for_descendants(2);
    let before = service.processes();
    assert_eq!(before.len(), 4, "{before:?}");
    service.must("kill --kill-whom=main --signal=KILL");
    service.wait_for_start(2);
    let now = service.wait_for("up", |now| now.is("active"));
    assert_eq!(now.get("NRestarts"), "1");
    let after = service.processes();
    assert!(after.len() == 2 && !after.iter().any(|pid| before.contains(pid)), "{before:?} {after:?}");
}

#[test]
fn a_runner_that_hangs_is_ended_by_the_watchdog_and_comes_back() {
    let Some(machine) = Machine::borrow() else { return };
    let limits = format!("WatchdogSec=1s\nTimeoutAbortSec=1s\n{SOON}");
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).drop_in(&limits).started();
    let before = service.processes();
    // A healthy runner is left alone.
    wait_until_after(std::time::Instant::now(), Duration::from_millis(2500));
    assert_eq!((service.processes(), service.starts()), (before.clone(), 1));
    service.must("kill --kill-whom=main --signal=STOP");
    service.wait_for_start(2);
    let now = service.wait_for("up", |now| now.is("active"));
    assert_eq!(now.get("NRestarts"), "1");
    assert!(!service.processes().iter().any(|pid| before.contains(pid)));
    service.wait_for_manager_entry("Watchdog timeout");
}

#[test]
fn between_two_starts_the_status_says_how_the_last_run_of_a_unit_and_of_an_instance_ended() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, OBEDIENT);
    let ask = |socket: &[&str]| {
        let output = machine.run([&["/usr/bin/start-worker", "status"][..], socket].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let service = Service::install(&machine, &config).started();
    service.must("stop");
    let said = ask(&[]);
    assert!(said.contains("with exit code 0\n") && said.contains("stopped as asked"), "{said}");

    // It is not started again, because the configuration is the problem.
    machine.write("/etc/start-worker/one.yml", "provider: none\n");
    machine.run(["systemctl", "start", "start-worker@one.service"]);
    let said = ask(&["--socket", "/run/start-worker/one/status.sock"]);
    assert!(said.contains("with exit code 64\n") && said.contains("/etc/start-worker/one.yml:1"), "{said}");
    machine.systemctl("reset-failed start-worker@one.service");
}
