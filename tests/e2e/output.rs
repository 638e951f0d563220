//! The worker's output: every line of it, in order, in little memory, whatever the worker and the reader of the log do.

use nix::sys::signal::Signal;

use crate::harness::{Ended, Runner, Scene, named};

/// The record with which a runner that gives up repeats the worker's last lines.
const REPEATED: &str = "the worker's last lines";

/// The numbers of the lines that `lines` has written, as they are in the log. A repeated line is not counted twice.
fn numbers(log: &str) -> Vec<usize> {
    let lines = log.lines().filter(|line| !line.contains(REPEATED));
    let worker = lines.filter_map(|line| line.split_once("[worker] "));
    worker.filter_map(|(_, text)| text.split_once(' ')?.0.parse().ok()).collect()
}

/// Lets the worker end, which waits for the file `end`.
fn end(runner: &Runner) -> Ended {
    std::fs::write(runner.path("end"), "").unwrap();
    runner.ended()
}

/// A scene whose worker does this, then waits for [`end`], so that the runner can be looked at.
fn scene(statements: &[&str]) -> Scene {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let mut script = statements.to_vec();
    script.extend([end.as_str(), "exit 0"]);
    scene.worker(script)
}

#[test]
fn no_line_is_lost_or_out_of_order() {
    let runner = scene(&["hello all", "lines 100000 100", "print done", "note done"]).start();
    runner.wait_for_log("[worker] done\n");
    runner.assert_small();
    let ended = end(&runner);
    assert_eq!(ended.code, Some(0));
    assert!(numbers(&ended.log).into_iter().eq(0..100_000), "{} lines", numbers(&ended.log).len());
}

#[test]
fn what_is_printed_just_before_the_exit_is_there() {
    for code in [0, 1] {
        let exit = format!("exit {code}");
        let scene = Scene::new().worker(["lines 5000 100", "err last on stderr", &exit]);
        let ended = scene.set("supervision.restart", "never").start().ended();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        let found = numbers(&ended.log);
        assert!(found.iter().copied().eq(0..5000), "{} lines", found.len());
        // A runner that gives up repeats the last ones, in one line that is no error.
        let repeated: Vec<&str> = ended.log.lines().filter(|line| line.contains(REPEATED)).collect();
        assert_eq!(repeated.len(), usize::from(code != 0), "{repeated:?}");
        assert!(
            repeated.iter().all(|line| line.contains("INFO") && line.contains("repeated=true")),
            "{repeated:?}"
        );
        assert!(ended.log.contains("[stderr] last on stderr\n"));
    }
}

#[test]
fn a_last_line_without_newline_counts() {
    let ended = Scene::new().worker(["raw last words", "err-raw last cry", "exit 0"]).start().ended();
    assert!(ended.log.contains("[worker] last words\n"), "{}", ended.log);
    assert!(ended.log.contains("[stderr] last cry\n"), "{}", ended.log);
}

#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    let runner = scene(&[r"raw ab\xff\xc3cd\n", r"err-raw \x80\n", "print behind"]).start();
    runner.wait_for_log("behind");
    let ended = end(&runner);
    assert!(ended.log.contains("[worker] ab\u{fffd}\u{fffd}cd\n"), "{}", ended.log);
    assert!(ended.log.contains("[stderr] \u{fffd}\n"), "{}", ended.log);
}

#[test]
fn a_line_is_visible_as_soon_as_it_is_complete() {
    let runner = scene(&["raw no newline, then", r"raw \xc3\xa9\n", "raw and nothing behind this"]).start();
    runner.wait_for_log("[worker] no newline, then\u{e9}\n");
    assert!(end(&runner).log.contains("[worker] and nothing behind this\n"));
}

#[test]
fn a_line_of_64_mib_goes_through_in_pieces_and_little_memory() {
    const SIZE: usize = 64 << 20;
    let runner = scene(&["blob 67108864", r"raw \n", "print behind"]).start();
    runner.wait_for_log("[worker] behind\n");
    runner.assert_small();
    let ended = end(&runner);
    assert_eq!(ended.code, Some(0));
    let count = memchr::memchr_iter(b'x', &runner.log_bytes()).count();
    // A few are in the words of the runner's own lines.
    assert!((SIZE..SIZE + 100).contains(&count), "{count}");
    let longest = ended.log.lines().map(str::len).max().unwrap();
    assert!(longest <= (1 << 20) + 200, "{longest}");
}

#[test]
fn a_message_of_64_mib_is_refused_and_the_next_line_is_not() {
    let runner = scene(&["hello all", "raw ~{", "blob 67108864", r"raw }\n", "log behind"]).start();
    runner.wait_for_log("[worker] behind\n");
    runner.assert_small();
    let ended = end(&runner);
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains(&((64 << 20) + 3).to_string()), "the size is not in\n{}", ended.log);
    assert!(ended.log.len() < 10_000, "{}", ended.log.len());
}

#[test]
fn a_worker_that_closes_its_stdout_has_not_ended() {
    let script =
        ["on now: note told ; exit 0", "hello all", "print closing", "close-stdout", "note closed", "wait"];
    let runner = Scene::new().worker(script).start();
    runner.wait_for_note("closed");
    runner.wait_for_log("closing");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts(), named(&ended.events, "note").len()), (Some(0), 1, 2));
}

#[test]
fn a_log_that_nobody_reads_blocks_the_worker_and_not_the_supervisor() {
    const LINES: usize = 300_000;
    let script = [
        "on finish: note told",
        "hello all",
        "note before",
        &format!("lines {LINES} 100"),
        "print behind",
        "note after",
    ];
    let runner = scene(&script).blocked_sink().start();
    runner.wait_for_note("before");
    // The supervisor still hears a signal, and tells the worker.
    runner.signal(Signal::SIGUSR1);
    runner.wait_for_note("told");
    assert!(!runner.events().iter().any(|event| event.text("text") == "after"), "30 MB fit into no pipe");
    runner.assert_small();
    runner.unblock_sink();
    runner.wait_for_note("after");
    runner.wait_for_log("[worker] behind\n");
    runner.assert_small();
    let ended = end(&runner);
    assert_eq!(ended.code, Some(0));
    assert!(numbers(&ended.log).into_iter().eq(0..LINES), "{} lines", numbers(&ended.log).len());
}

#[test]
fn a_log_that_is_never_read_does_not_keep_the_runner_from_stopping() {
    let script = ["on SIGTERM:", "hello all", "note before", "lines 300000 100", "wait"];
    let scene = Scene::new().worker(script).set("supervision.stopTimeout", "200ms").blocked_sink();
    let runner = scene.start();
    runner.wait_for_note("before");
    runner.signal(Signal::SIGTERM);
    runner.wait_for("the end of the worker", |_| runner.living().is_empty().then_some(()));
    runner.assert_small();
    // The log is not read yet, so the test can wait for its end only after it starts reading.
    runner.unblock_sink();
    assert_eq!(runner.ended().code, Some(0));
}
