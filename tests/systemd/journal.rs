//! The log, as the journal has it.

use serde_json::Value;

use crate::machine::Machine;
use crate::service::{Config, Service};

const TALKER: [&str; 6] =
    ["on now: exit 72", "hello all", "print a line of the worker", "err a complaint", "log a record", "wait"];

fn text(entry: &Value) -> &str {
    entry["MESSAGE"].as_str().unwrap_or_default()
}

#[test]
fn lines_have_a_priority_and_no_time_of_their_own() {
    let Some(machine) = Machine::borrow() else { return };
    let service = Service::install(&machine, &Config::new(&machine, TALKER)).started();
    let started = service.wait_for_entry("start-worker starts");
    assert_eq!((&started["PRIORITY"], &started["SYSLOG_IDENTIFIER"]), (&"6".into(), &"start-worker".into()));
    assert!(text(&started).starts_with("INFO  start-worker starts"), "{started}");
    let line = service.wait_for_entry("a line of the worker");
    assert_eq!((&line["PRIORITY"], text(&line)), (&"6".into(), "[worker] a line of the worker"));
    // One that fails says so as an error.
    machine.write("/etc/start-worker.yml", "nonsense");
    service.must("restart --no-block");
    let refusal = service.wait_for_entry("error: /etc/start-worker.yml");
    assert_eq!(refusal["PRIORITY"], "3", "{refusal}");
}

#[test]
fn journald_gets_fields() {
    let Some(machine) = Machine::borrow() else { return };
    let config = Config::new(&machine, TALKER).set("logging.implementation", "journald");
    let service = Service::install(&machine, &config).started();
    let of = |entry: &Value| {
        let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (
            field("SYSLOG_IDENTIFIER"),
            field("PRIORITY"),
            field("TASKCLUSTER_WORKER_POOL"),
            field("TASKCLUSTER_WORKER_ID"),
        )
    };
    let said = |who: &str| (who.to_owned(), "6".to_owned(), "pp/ww".to_owned(), "wi".to_owned());
    let started = service.wait_for_entry("worker started");
    assert_eq!(
        (of(&started), &started["_TRANSPORT"]),
        (said("start-worker"), &"journal".into()),
        "{started}"
    );
    let line = service.wait_for_entry("a line of the worker");
    assert_eq!((of(&line), text(&line)), (said("generic-worker"), "a line of the worker"));
    assert_eq!(of(&service.wait_for_entry("a record")), said("generic-worker"));
}
