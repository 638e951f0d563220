//! A worker that behaves, or misbehaves, as its arguments say: for the end-to-end tests and the benchmarks.
//!
//! Every argument is one statement; they are executed in order, and after the last one the worker exits with 0. What
//! generic-worker is started with (`run --config FILE --with-worker-runner`) is skipped, and `--version` prints
//! `$TEST_WORKER_VERSION`. A statement that makes no sense ends the worker with code 99 and says why on stderr.
//!
//! As `test-worker hung-disk HOW` it is something else: see [`hung_disk_server`].
//!
//! # Statements
//!
//! | statement | effect |
//! | --- | --- |
//! | `hello CAPABILITY…` | says hello; `hello all` announces everything that a runner may offer |
//! | `send JSON` | sends `~JSON`, whatever it is |
//! | `print TEXT`, `err TEXT` | a line on stdout, on stderr |
//! | `raw BYTES`, `err-raw BYTES` | these bytes, without a newline; `\n`, `\r`, `\t`, `\\`, `\xHH` |
//! | `log TEXT` | a structured record with this `textPayload` |
//! | `metrics EVENT` | the record that generic-worker sends when a task starts (`taskStart`) or ends (`taskFinish`) |
//! | `lines COUNT SIZE` | lines of SIZE bytes with the newline, numbered from 0 |
//! | `fast-lines COUNT SIZE` | the same without numbers, in large writes from one buffer |
//! | `logs COUNT` | structured records of 122 bytes, in large writes from one buffer |
//! | `blob BYTES` | so many bytes without a newline |
//! | `pour COUNT SIZE DURATION` | COUNT such lines a second, for so long |
//! | `flood KIND DURATION` | one line, over and over, for so long; the kinds are those of [`test_support::flood`], and `mixed` |
//! | `close-stdin`, `close-stdout` | closes it |
//! | `sleep DURATION` | waits so long |
//! | `await TYPE` | waits for a message of this type; each message is waited for once |
//! | `wait-file PATH` | waits until the file exists |
//! | `wait` | waits for ever; only a reaction ends it |
//! | `spawn KIND FLAG…` | leaves a descendant; see [`descendant`] |
//! | `run COMMAND` | executes it, waits for its end and records its exit code |
//! | `exit CODE`, `die SIGNAL` | ends |
//! | `note TEXT` | an event in the record |
//! | `first-only` | of all graceful-terminations and SIGTERMs only the first has an effect |
//! | `on TRIGGER: STATEMENT ; …` | a reaction, on a thread of its own; in force before the first statement |
//! | `start N: STATEMENT ; …` | only at the N-th start (`N+`: from the N-th on); an `on` may follow, too |
//!
//! A TRIGGER is a signal (`SIGTERM`), a message's type, `finish` and `now` (graceful-termination with finish-tasks true
//! and false), or `eof` (of stdin). A signal without a reaction has its default effect after it was recorded; `on
//! SIGTERM:` with nothing behind it ignores it.
//!
//! # The record
//!
//! `$TEST_WORKER_RECORD` names a file that gets one JSON object a line: `event`, `pid`, `mono` and `wall` (µs), and
//! what belongs to the event: `start`, `message`, `eof`, `signal`, `descendant`, `note`, `run`, `exit`, `write-failed`,
//! `version`. A start is counted by the `start` events before it. Without the variable nothing is recorded.
//!
//! `$TEST_WORKER_ALONE` names a file that is locked as long as the worker lives. A worker that finds it locked records
//! `overlap`: it is not the only one.

mod alone;
mod descendant;
mod execute;
mod hung_disk_server;
mod inbox;
mod record;
mod script;

use std::sync::Arc;
use std::time::Duration;

use execute::Worker;
use record::Record;
use script::Statement;

/// No test is that slow: a test's leftover processes end by themselves.
const LIFETIME: Duration = Duration::from_secs(300);

fn main() {
    let started = record::Moment::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let record = Record::from_environment();
    match args.first().map(String::as_str) {
        Some("descendant") => return descendant::live(&args, &record),
        Some("--version") => return answer_version(&record),
        Some("hung-disk") => return hung_disk_server::serve(args.last().map_or("", String::as_str)),
        _ => {}
    }
    let statements = match script::parse(&args, record.starts() + 1) {
        Ok(statements) => statements,
        Err(fault) => {
            execute::write_stderr(format!("test-worker: {fault}\n").as_bytes());
            execute::exit(99);
        }
    };
    record.start(started, &args);
    let _alone = alone::claim(&record);
    let (reactions, statements): (Vec<_>, Vec<_>) =
        statements.into_iter().partition(|statement| matches!(statement, Statement::On(..)));
    let worker = Arc::new(Worker::new(record, reactions));
    inbox::listen_for_signals(&worker);
    let stdin = inbox::listen_to_stdin(&worker);
    worker.keep_stdin(stdin);
    std::thread::spawn(|| {
        execute::pause(LIFETIME);
        execute::exit(98);
    });
    worker.execute(&statements);
    worker.exit(0);
}

/// Answers `--version` like generic-worker: with a name, a version, and the engine in brackets.
fn answer_version(record: &Record) {
    record.event("version", serde_json::json!({}));
    let text = std::env::var("TEST_WORKER_VERSION").unwrap_or_else(|_| "test-worker 1.0.0".to_owned());
    if text == "hang" {
        execute::pause(LIFETIME);
    }
    execute::write_stdout(format!("{text}\n").as_bytes());
}
