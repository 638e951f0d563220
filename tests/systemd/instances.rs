//! Several runners on one host: those that should be, and those that should not.

use crate::systemd::machine::{Machine, POOL};
use crate::systemd::service::{Config, OBEDIENT, Service};

fn instance<'m>(machine: &'m Machine, name: &str) -> Service<'m> {
    machine.taskcluster.add_static_worker(POOL, "wg", name, crate::systemd::machine::STATIC_SECRET);
    let record = format!("/var/lib/record/{name}");
    let config = Config::new(machine, OBEDIENT)
        .set("provider.workerID", name)
        .set("worker.env.TEST_WORKER_RECORD", record.as_str())
        .set("worker.configPath", format!("/var/lib/start-worker/{name}/worker.json"))
        .set("cacheOverRestarts", format!("/var/lib/start-worker/{name}/run.json"));
    let path = format!("/etc/start-worker/{name}.yml");
    Service::named(machine, &format!("start-worker@{name}.service"), &path, &record, &config)
}

#[test]
fn two_instances_have_a_status_a_state_and_an_end_of_their_own() {
    let Some(machine) = Machine::borrow() else { return };
    let (one, two) = (instance(&machine, "one").started(), instance(&machine, "two").started());
    let socket = |name: &str| format!("--socket=/run/start-worker/{name}/status.sock");
    for name in ["one", "two"] {
        let status = machine.ask(["start-worker", "status", &socket(name)]);
        assert!(status.contains(name), "{status}");
        assert!(machine.path(&format!("/var/lib/start-worker/{name}/run.json")).exists());
    }
    machine.ask(["start-worker", "drain", &socket("one")]);
    assert_eq!(
        one.wait_for_event("finish", |event| event.text("type") == "graceful-termination").name(),
        "message"
    );
    one.must("stop");
    let (one, two) = (one.ended(), two.wait_for("up", |now| now.is("active")));
    assert_eq!((one.get("Result"), two.get("NRestarts")), ("success", "0"));
    assert!(machine.run(["start-worker", "status", &socket("two")]).status.success());
}

#[test]
fn a_second_runner_for_the_same_host_is_refused() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, OBEDIENT)).started();
    // The unit's own settings, under another name and without those that keep the two units apart.
    let text = machine.read("/usr/lib/systemd/system/start-worker.service");
    machine.write("/etc/systemd/system/old-worker.service", &text);
    let old = Service::named(
        &machine,
        "old-worker.service",
        "/etc/start-worker.yml",
        crate::systemd::service::RECORD,
        &Config::new(&machine, OBEDIENT),
    )
    .starting();
    old.wait_for("refused", |now| now.get("ExecMainStatus") == "1");
    let holder = service.properties().pid();
    service.wait_for_entry(&format!(
        "another start-worker (pid {holder}) keeps its run in /var/lib/start-worker/run.json: stop one"
    ));
    assert_eq!(service.starts(), 1);
    assert!(service.properties().is("active"));
    old.must("stop");
}
