//! The log, as the journal has it.

use serde_json::Value;

use crate::systemd::machine::Machine;
use crate::systemd::service::{Config, Service};

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
    // A failing runner logs the reason as an error.
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

#[test]
fn a_worker_that_writes_more_than_the_journal_takes_by_default_loses_no_line_and_none_of_the_runner() {
    // More than 10,000 lines within 30 s.
    const LINES: usize = 15_000;
    let Some(machine) = Machine::borrow() else { return };
    let lines = format!("lines {LINES} 40");
    let config = Config::new(&machine, ["hello all", &lines, "exit 3"]).set("supervision.maxRestarts", 0);
    let service = Service::install(&machine, &config).starting();
    service.wait_for("failed", |now| now.is("failed") || now.get("SubState") == "auto-restart");
    let exited = service.wait_for_entry("worker exited");
    assert_eq!(exited["PRIORITY"], "4", "{exited}");
    let journal = service.journal();
    let of_worker = journal.iter().filter(|entry| text(entry).starts_with("[worker] ")).count();
    assert!(of_worker >= LINES, "{of_worker} lines");
    for line in ["worker started", "worker crashed", "start-worker ends"] {
        assert!(journal.iter().any(|entry| text(entry).contains(line)), "{line}");
    }
    let limits = machine.ask([
        "systemctl",
        "show",
        "--property=TasksMax,LogRateLimitIntervalUSec",
        "start-worker.service",
    ]);
    for limit in ["LogRateLimitIntervalUSec=0", "TasksMax=infinity"] {
        assert!(limits.lines().any(|line| line == limit), "{limit}: {limits}");
    }
}
