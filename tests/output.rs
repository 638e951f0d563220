//! The output path through the library, with real pipes: the worker's output and its arrival in the log, the
//! supervisor's events, and the order of waiting.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;
use start_worker::output::{Format, WorkerEvent};
use start_worker::protocol::capabilities::{Capabilities, Capability};
use start_worker::protocol::message::{AutologinRefused, AutologinRequest, ErrorReport, FromWorker};

use log::{Log, set_nonblocking};

mod log;

const MIB: usize = 1024 * 1024;

/// The text of lines that carry this tag.
fn tagged(lines: &[String], tag: &str) -> Vec<String> {
    lines.iter().filter_map(|line| line.strip_prefix(tag)).map(str::to_owned).collect()
}

#[test]
fn output_is_tagged_keeps_its_order_and_arrives_line_by_line() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print("one\ntwo");
    assert_eq!(log.text(), "[worker] one");
    worker.print_error("three\n");
    assert_eq!(log.text(), "[stderr] three");
    worker.print(" and a half\n");
    assert_eq!(log.text(), "[worker] two and a half");
}

#[test]
fn what_is_not_utf8_is_logged_with_replacement_characters() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print(b"gr\xc3\xbc\xc3\x9fe\na\xffb\n\xf0\x9f");
    assert_eq!((log.text(), log.text()), ("[worker] grüße".to_owned(), "[worker] a\u{fffd}b".to_owned()));
    worker.print(b"\x98\x80\n");
    assert_eq!(log.text(), "[worker] 😀");
}

#[test]
fn output_just_before_the_exit_and_a_last_line_without_newline_are_not_lost() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print("a\nb\nc\nlast words");
    worker.print_error("oh");
    let last: BTreeSet<String> = worker.exit().iter().map(|line| log::untimed(line)).collect();
    assert!(last.is_subset(
        &["[worker] b", "[worker] c", "[worker] last words", "[stderr] oh"].map(str::to_owned).into()
    ));
    assert_eq!(last.len(), 3);
    let lines = log.rest();
    assert_eq!(tagged(&lines, "[worker] "), ["a", "b", "c", "last words"]);
    assert_eq!(tagged(&lines, "[stderr] "), ["oh"]);
}

#[test]
fn what_a_worker_wrote_before_a_line_of_the_runner_stands_before_it_once_caught_up() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    for number in 0..200 {
        worker.print(format!("worker {number}\n"));
        worker.print_error(format!("worker {number}\n"));
        worker.attachment.catch_up();
        log.output().log_sink().line(format!("runner {number}\n").into_bytes());
        let worker_lines: BTreeSet<String> = [log.text(), log.text()].into();
        assert_eq!(worker_lines, ["worker", "stderr"].map(|tag| format!("[{tag}] worker {number}")).into());
        assert_eq!(log.line(), format!("runner {number}"));
    }
}

#[test]
fn a_flood_does_not_keep_a_catch_up_for_ever() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    let mut stdout = worker.stdout.take().expect("open");
    let lines = b"flood\n".repeat(100_000);
    let flood = std::thread::spawn(move || while stdout.write_all(&lines).is_ok() {});
    worker.attachment.catch_up();
    log.output().log_sink().line(b"runner\n".to_vec());
    while log.line() != "runner" {}
    worker.attachment.finish();
    flood.join().expect("its pipe is closed");
}

#[test]
fn a_grandchild_that_holds_the_pipes_keeps_nobody_waiting() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print("done");
    worker.attachment.finish();
    assert_eq!(worker.end().len(), 1);
    assert_eq!(log.text(), "[worker] done");
}

#[test]
fn a_grandchild_that_floods_one_pipe_while_the_other_is_silent_keeps_nobody_waiting() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    let mut stdout = worker.stdout.take().expect("open");
    let lines = b"flood\n".repeat(100_000);
    let flood = std::thread::spawn(move || while stdout.write_all(&lines).is_ok() {});
    assert_eq!(log.text(), "[worker] flood");
    worker.attachment.finish();
    worker.end();
    flood.join().expect("its pipe is closed");
}

#[test]
fn the_pipes_of_a_worker_that_is_forgotten_are_closed() {
    let log = Log::new(Format::Text);
    let mut worker = log.worker();
    let mut stdout = worker.stdout.take().expect("open");
    drop(worker);
    while stdout.write_all(b"x\n").is_ok() {}
}

#[test]
fn an_old_worker_may_still_be_read_while_a_new_one_runs() {
    let mut log = Log::new(Format::Text);
    let (mut old, mut new) = (log.worker(), log.worker());
    old.print("old\n");
    assert_eq!(log.text(), "[worker] old");
    new.print("new\n");
    assert_eq!(log.text(), "[worker] new");
    assert_eq!(old.exit().len(), 1);
    new.print("newer\n");
    assert_eq!(new.exit().len(), 2);
}

#[test]
fn the_capabilities_in_force_are_those_that_both_have_and_a_second_hello_changes_nothing() {
    let log = Log::new(Format::Text);
    let mut worker = log.worker();
    let both = Capabilities::NONE.with(Capability::Log).with(Capability::Shutdown);
    assert_eq!(worker.hello(r#"["shutdown","log","teleport"]"#), both);
    worker.print("~{\"type\":\"hello\",\"capabilities\":[]}\n~{\"type\":\"hello\",\"capabilities\":7}\n");
    assert!(log.said("WARN").contains("a second hello: ignored"));
    worker.print("~{\"type\":\"shutdown\"}\n");
    assert_eq!(worker.event(), WorkerEvent::Message(FromWorker::Shutdown));
}

#[test]
fn a_message_whose_capability_was_not_offered_is_one_warning_and_answered_where_it_has_an_answer() {
    let log = Log::new(Format::Text);
    let offered = Capabilities::NONE.with(Capability::Log).with(Capability::Reboot);
    let mut worker = log.worker_offered(offered);
    worker.hello(r#"["autologin","log","shutdown"]"#);
    for (message, why) in
        [("autologin", "not offered"), ("shutdown", "not offered"), ("reboot", "has not announced")]
    {
        worker.print(format!("~{{\"type\":\"{message}\",\"user\":null}}\n").repeat(3));
        let said = log.said("WARN");
        assert!(said.contains(why) && said.ends_with(&format!("ignored kind={message}")), "{said}");
    }
    for _ in 0..3 {
        let asked = AutologinRequest { user: None, session: None };
        let answered = WorkerEvent::Message(FromWorker::Autologin(Err(AutologinRefused::NotOffered(asked))));
        assert_eq!(worker.event(), answered);
    }
    assert_eq!(worker.exit().len(), 0);
    let warnings = log.all().into_iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 0, "of each only one");
}

#[test]
fn a_flood_of_messages_at_fault_is_logged_a_few_times_and_counted_when_the_worker_has_ended() {
    let log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.hello(r#"["log"]"#);
    for message in [r#"{"type":"log"}"#, r#"{"type":"hello","capabilities":["log"]}"#] {
        worker.print(format!("~{message}\n").repeat(5000));
    }
    worker.exit();
    let warnings: Vec<String> = log.all().into_iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 22, "{warnings:#?}");
    for fault in ["fault=malformed messages=4990", "fault=a second hello messages=4990"] {
        assert!(warnings.iter().any(|line| line.ends_with(fault)), "{fault}: {warnings:#?}");
    }
}

#[test]
fn messages_before_hello_and_of_unknown_types_are_ignored() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print("~{\"type\":\"log\",\"body\":{\"textPayload\":\"too early\"}}\n");
    assert!(log.said("not in force").ends_with("kind=log"));
    worker.hello(r#"["log"]"#);
    worker.print("~{\"type\":\"teleport\"}\n");
    assert!(log.said("unknown type").ends_with("kind=teleport"));
    worker.print("~{\"type\":\"log\",\"body\":{\"textPayload\":\"in time\"}}\n");
    assert_eq!(log.text(), "[worker] in time");
}

#[test]
fn structured_records_are_logged_as_text() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.hello(r#"["log"]"#);
    for (message, expected) in [
        (
            r#"{"type":"log","body":{"textPayload":"uhoh","level":"bad","n":[1, 2]}}"#,
            "uhoh; level: bad; n: [1,2]",
        ),
        (r#"{"body":{"n":12345678901234567890.10},"type":"log"}"#, "n: 12345678901234567890.10"),
        (r#"{"type":"log","body":{}}"#, "{}"),
    ] {
        worker.print(format!(" ~{message} \r\n"));
        assert_eq!(log.text(), format!("[worker] {expected}"));
    }
    worker.print(
        "~{\"type\":\"log\",\"body\":{\"textPayload\":\"a\\n2026-01-01T00:00:00.000Z INFO  forged\"}}\n",
    );
    assert_eq!(log.text(), "[worker] a");
    assert_eq!(log.text(), "[worker] 2026-01-01T00:00:00.000Z INFO  forged");
}

#[test]
fn in_json_each_line_is_an_object_and_a_record_goes_as_it_came() {
    let mut log = Log::new(Format::Json);
    let mut worker = log.worker();
    worker.hello(r#"["log"]"#);
    worker.print(b"say \"hi\"\x01\xff\n");
    let line: serde_json::Value = serde_json::from_str(&log.line()).expect("JSON");
    assert_eq!((&line["stream"], &line["message"]), (&"stdout".into(), &"say \"hi\"\u{1}\u{fffd}".into()));
    worker.print("~{\"type\":\"log\",\"body\":{\"n\":12345678901234567890.10, \"t\":\"\\n\"}}\n");
    let line = log.line();
    assert!(line.ends_with(r#","body":{"n":12345678901234567890.10, "t":"\n"}}"#), "{line}");
    serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
    worker.print_error("oh\n");
    let line: serde_json::Value = serde_json::from_str(&log.line()).expect("JSON");
    assert_eq!((&line["source"], &line["stream"]), (&"worker".into(), &"stderr".into()));
    line["timestamp"].as_str().expect("a string").parse::<jiff::Timestamp>().expect("a time");
}

#[test]
fn a_malformed_message_is_a_warning_that_names_the_field_and_the_worker_goes_on() {
    let log = Log::new(Format::Text);
    for (hello, found) in [
        (r#"{"type":"hello","capabilities":"x"}"#, "a string"),
        (r#"{"type":"hello","capabilities":null}"#, "null"),
        (r#"{"type":"hello","capabilities":[1]}"#, "an array"),
        (r#"{"type":"hello"}"#, "missing"),
    ] {
        let mut worker = log.worker();
        worker.print(format!("~{hello}\n"));
        let expected = format!("hello: capabilities is {found}, expected an array of strings");
        assert!(log.said("WARN").ends_with(&expected), "{hello}");
        let none = FromWorker::Hello { capabilities: Capabilities::NONE };
        assert_eq!(worker.event(), WorkerEvent::Message(none), "{hello}");
        worker.exit();
    }
    let mut worker = log.worker();
    worker.hello(r#"["log","error-report"]"#);
    for (message, error) in [
        (r#"{"type":"log","body":null}"#, "log: body is null, expected an object"),
        (r#"{"type":"log","body":"x"}"#, "log: body is a string, expected an object"),
        (r#"{"type":"log"}"#, "log: body is missing, expected an object"),
        (r#"{"type":"error-report","kind":null}"#, "error-report: kind is null, expected a string"),
        (
            r#"{"type":"error-report","kind":"k","title":{}}"#,
            "error-report: title is an object, expected a string",
        ),
        (
            r#"{"type":"error-report","kind":"k","title":"t"}"#,
            "error-report: description is missing, expected a string",
        ),
        (
            r#"{"type":"error-report","kind":"k","title":"t","description":"d","extra":[]}"#,
            "error-report: extra is an array, expected an object",
        ),
    ] {
        worker.print(format!("~{message}\n"));
        let said = log.said("WARN");
        assert!(said.contains(error) && said.contains(message), "{said}");
    }
    worker.print("~{\"type\":\"error-report\",\"kind\":\"k\",\"title\":\"t\",\"description\":\"d\"}\n");
    let report = ErrorReport {
        kind: "k".to_owned(),
        title: "t".to_owned(),
        description: "d".to_owned(),
        extra: "{}".to_owned(),
    };
    assert_eq!(worker.event(), WorkerEvent::Message(FromWorker::ErrorReport(report)));
}

#[test]
fn a_broken_message_is_output() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.hello(r#"["log"]"#);
    for line in
        ["~{", "~{}", r#"~{"type":1}"#, r#"~{"type":"log","body":{}"#, r#"x~{"type":"log","body":{}}"#]
    {
        worker.print(format!("{line}\n"));
        assert_eq!(log.text(), format!("[worker] {line}"));
    }
    worker.print_error("~{\"type\":\"log\",\"body\":{\"textPayload\":\"x\"}}\n");
    assert_eq!(log.text(), r#"[stderr] ~{"type":"log","body":{"textPayload":"x"}}"#);
}

#[test]
fn tasks_are_counted_in_log_records_alone_and_only_where_they_count() {
    let metric = |event: &str| {
        format!(
            "~{{\"type\":\"log\",\"body\":{{\"textPayload\":\"WORKER_METRICS {{\\\"eventType\\\": \\\"{event}\\\"}}\\n\"}}}}\n"
        )
    };
    for format in [Format::Text, Format::Json] {
        let log = Log::new(format);
        let mut worker = log.worker();
        worker.hello(r#"["log"]"#);
        worker.print("WORKER_METRICS {\"eventType\": \"taskStart\"}\n");
        worker.print_error(metric("taskStart"));
        worker.print(metric("workerReady"));
        worker.print(metric("taskStart"));
        worker.print(metric("taskFinish"));
        assert_eq!((worker.event(), worker.event()), (WorkerEvent::TaskStarted, WorkerEvent::TaskFinished));
        worker.exit();
        let mut uncounted = log.worker_with(64, false);
        uncounted.hello(r#"["log"]"#);
        uncounted.print(metric("taskStart"));
        uncounted.exit();
    }
}

#[test]
fn a_supervisor_that_does_not_listen_gets_everything_in_order_later_and_the_log_does_not_wait_for_it() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker_with(1, true);
    worker.print(
        "~{\"type\":\"hello\",\"capabilities\":[\"shutdown\"]}\n~{\"type\":\"shutdown\"}\nmeanwhile\n",
    );
    assert_eq!(log.text(), "[worker] meanwhile");
    assert!(matches!(worker.event(), WorkerEvent::Message(FromWorker::Hello { .. })));
    assert_eq!(worker.event(), WorkerEvent::Message(FromWorker::Shutdown));
    assert_eq!(worker.exit().len(), 1);
}

#[test]
fn a_stalled_sink_loses_no_line_of_the_worker_and_the_runners_lost_lines_are_counted_and_told() {
    const OWN: usize = 5000;
    const WORKERS: usize = 20_000;
    let mut log = Log::stalled(Format::Text);
    let mut worker = log.worker();
    let sink = log.output().log_sink();
    // The thread takes a queue or two of them before it finds the sink stalled: they cannot all fit.
    for number in 0..OWN {
        sink.line(format!("own {number}\n").into_bytes());
    }
    let mut stdout = worker.stdout.take().expect("open");
    let writing = std::thread::spawn(move || {
        for number in 0..WORKERS {
            stdout.write_all(format!("{number}\n").as_bytes()).expect("somebody reads");
        }
    });
    log.unstall();
    writing.join().expect("all is written once the sink moves");
    worker.exit();
    let told = log.said("lines of the runner's own log are missing here: the log was stalled");
    let lost: usize = told.rsplit('=').next().and_then(|count| count.parse().ok()).expect("a count");
    let lines = log.rest();
    let own: Vec<usize> = tagged(&lines, "own ").iter().filter_map(|number| number.parse().ok()).collect();
    assert!(own.is_sorted() && lost > 0);
    assert_eq!(own.len() + lost, OWN);
    let expected: Vec<String> = (0..WORKERS).map(|number| number.to_string()).collect();
    assert_eq!(tagged(&lines, "[worker] "), expected);
}

#[test]
fn while_the_sink_is_stalled_the_end_is_late_but_comes() {
    let mut log = Log::stalled(Format::Text);
    let mut workers: Vec<_> = (0..10).map(|_| log.worker()).collect();
    for worker in &mut workers {
        worker.print("last words");
        worker.attachment.finish();
    }
    log.unstall();
    for worker in &mut workers {
        assert_eq!(worker.end().len(), 1);
        assert_eq!(log.text(), "[worker] last words");
    }
}

#[test]
fn closing_gives_up_where_the_sink_is_stalled_and_writes_all_where_it_is_not() {
    let mut log = Log::stalled(Format::Text);
    log.output().log_sink().line(b"own\n".to_vec());
    assert!(!log.output.take().expect("open").close(Duration::from_millis(20)));
    log.unstall();
    assert_eq!(log.line(), "own");

    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print("no newline");
    for _ in 0..500 {
        log.output().log_sink().line(b"own\n".to_vec());
    }
    let lines = log.rest();
    assert_eq!(lines.iter().filter(|line| *line == "own").count(), 500);
    assert_eq!(tagged(&lines, "[worker] "), ["no newline"]);
}

#[test]
fn a_sink_that_somebody_made_non_blocking_loses_nothing() {
    let (reader, writer) = std::io::pipe().expect("pipe");
    set_nonblocking(&writer, true);
    let log = Log::with_sink(writer.into(), Format::Text);
    let mut worker = log.worker();
    let mut stdout = worker.stdout.take().expect("open");
    let writing =
        std::thread::spawn(move || stdout.write_all(&b"0123456789\n".repeat(100_000)).expect("read"));
    let reading = std::thread::spawn(move || std::io::read_to_string(reader).expect("UTF-8"));
    writing.join().expect("written");
    worker.exit();
    drop(log);
    let text = reading.join().expect("read");
    assert_eq!(text.lines().filter(|line| line.ends_with("[worker] 0123456789")).count(), 100_000);
}

#[test]
fn a_sink_that_fails_stops_neither_the_worker_nor_the_end() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let (reader, gone) = std::io::pipe().expect("pipe");
    drop(reader);
    for sink in [full.into(), gone.into()] {
        let log = Log::with_sink(sink, Format::Text);
        let mut worker = log.worker();
        worker.hello(r#"["shutdown"]"#);
        worker.print(b"lost\n".repeat(200_000));
        worker.print("~{\"type\":\"shutdown\"}\n");
        assert_eq!(worker.event(), WorkerEvent::Message(FromWorker::Shutdown));
        assert_eq!(worker.exit().len(), 3);
    }
}

#[test]
fn a_line_of_64_mib_arrives_whole_in_marked_pieces() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    let mut stdout = worker.stdout.take().expect("open");
    let writing = std::thread::spawn(move || {
        for _ in 0..64 {
            stdout.write_all("ä".repeat(MIB / 2).as_bytes()).expect("read");
        }
        stdout.write_all(b"\nnext\n").expect("read");
    });
    let mut bytes = 0;
    loop {
        let line = log.text();
        let text = line.strip_prefix("[worker] ").expect("tagged");
        if text == "next" {
            break;
        }
        let text = text.strip_prefix("[line continued] ").unwrap_or(text);
        let text = text.strip_suffix(" [line continues]").unwrap_or(text);
        assert!(text.len() <= MIB && text.chars().all(|character| character == 'ä'));
        bytes += text.len();
    }
    assert_eq!(bytes, 64 * MIB);
    writing.join().expect("written");
}

#[test]
fn a_long_line_keeps_the_sink_for_a_second_and_then_lets_others_pass() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.print(vec![b'x'; MIB + 100_000]);
    let mut parts = log.text();
    assert!(parts.starts_with("[worker] xxx") && parts.ends_with("x [line continues]"));
    worker.print_error("waiting\n");
    log.output().log_sink().line(b"own\n".to_vec());
    // The available part of the long line comes before all others.
    let second = log.text();
    assert!(second.starts_with("[worker] [line continued] xxx") && second.ends_with("x [line continues]"));
    parts.push_str(&second);
    let others: BTreeSet<String> = [log.text(), log.text()].into();
    assert_eq!(others, ["[stderr] waiting", "own"].map(str::to_owned).into());
    worker.print("end\n");
    let last = log.text();
    assert!(last.starts_with("[worker] [line continued] ") && last.ends_with("end"));
    parts.push_str(&last);
    assert_eq!(parts.matches('x').count(), MIB + 100_000);
}

#[test]
fn a_long_line_of_one_worker_does_not_keep_the_end_of_another_for_more_than_its_second() {
    let mut log = Log::new(Format::Text);
    let (mut first, second) = (log.worker(), log.worker());
    first.print(vec![b'x'; MIB + 1]);
    log.text();
    assert_eq!(second.exit(), [""; 0]);
    first.exit();
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_next_line_read() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    worker.hello(r#"["log"]"#);
    let text = "x".repeat(5 * MIB);
    let message = format!("~{{\"type\":\"log\",\"body\":{{\"textPayload\":\"{text}\"}}}}\nnext\n");
    let size = message.len() - "\nnext\n".len();
    let writing = std::thread::spawn(move || {
        worker.print(message);
        worker
    });
    assert_eq!(log.text(), "[worker] next");
    assert!(log.said("too long").contains(&format!("bytes={size} limit={}", 4 * MIB)));
    writing.join().expect("written").exit();
}

#[test]
fn a_long_line_that_only_begins_like_a_message_comes_in_pieces() {
    let mut log = Log::new(Format::Text);
    let mut worker = log.worker();
    let writing = std::thread::spawn(move || {
        worker.print(format!("~{{{}\n", "x".repeat(2 * MIB)));
        worker
    });
    let lengths: Vec<usize> = (0..3).map(|_| log.text().len()).collect();
    let marks =
        [" [line continues]", "[line continued]  [line continues]", "[line continued] "].map(str::len);
    let text = [MIB, MIB, 2].map(|length| "[worker] ".len() + length);
    assert_eq!(lengths, std::array::from_fn::<_, 3, _>(|part| marks[part] + text[part]));
    writing.join().expect("written").exit();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_worker_writes_in_whatever_pieces_arrives_line_by_line(
        chunks in proptest::collection::vec(
            prop_oneof![
                "[a-z ä😀~{}\n]{0,30}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..20),
                Just(b"\n".to_vec()),
                (1usize..3).prop_map(|count| vec![b'w'; count * 10_000]),
            ],
            0..12,
        ),
    ) {
        let mut log = Log::new(Format::Text);
        let mut worker = log.worker();
        for chunk in &chunks {
            worker.print(chunk);
        }
        worker.exit();
        let bytes = chunks.concat();
        let mut expected: Vec<String> =
            bytes.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        if expected.last().is_some_and(String::is_empty) {
            expected.pop();
        }
        prop_assert_eq!(tagged(&log.rest(), "[worker] "), expected);
    }
}
