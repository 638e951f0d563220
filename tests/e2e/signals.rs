//! All 64 signals, each sent to a runner with a worker, and the documentation's table of them.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::{Runner, Scene, eventually, messages, signals};

/// One row of the table "All signals" in docs/operations.md.
#[derive(Debug)]
struct Row {
    numbers: std::ops::RangeInclusive<i32>,
    name: Option<String>,
    effect: String,
}

fn documented() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(path).unwrap();
    let section = page.split_once("### All signals").unwrap().1.split_once("\n## ").unwrap().0.to_owned();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let words: Vec<&str> = cells[1].split(' ').collect();
        let first = words[0].parse().unwrap();
        let last = if words.get(1) == Some(&"to") { words[2].parse().unwrap() } else { first };
        let name = (first == last).then(|| words.get(1).map(|name| (*name).to_owned())).flatten();
        Row { numbers: first..=last, name, effect: cells[2].to_owned() }
    })
    .collect()
}

/// Also signals for which nix has no name.
fn send(runner: &Runner, number: i32) {
    let kill = ["-c", &format!("kill -{number} {}", runner.pid())].map(str::to_owned);
    assert!(std::process::Command::new("/bin/sh").args(kill).status().unwrap().success(), "kill -{number}");
}

fn libc_number(signal: Signal) -> i32 {
    signal as i32
}

fn running() -> Runner {
    let runner = Scene::new()
        .worker(["on now: exit 0", "on finish: exit 0", "hello all", "print ready", "wait"])
        .start();
    runner.wait_for_log("ready");
    runner
}

fn assert_has_effect(runner: &Runner, number: i32, row: &Row) {
    let name = row.name.clone().unwrap_or_else(|| format!("SIGRTMIN+{}", number - 34));
    let line = format!("signal={name} from_pid=");
    send(runner, number);
    match row.effect.as_str() {
        "stop" | "drain" => {
            let ended = runner.ended();
            let told = if row.effect == "stop" { "now" } else { "finish" };
            assert_eq!(
                (ended.code, messages(&ended.events)),
                (Some(0), vec!["welcome".into(), told.into()]),
                "{name}"
            );
            assert!(ended.log.contains(&line), "{name}\n{}", ended.log);
            return;
        }
        "end" => {
            assert_eq!(runner.ended().code, None, "{name}");
            let told = eventually(|| signals(&runner.events()).contains(&"SIGTERM").then_some(()));
            assert!(told.is_some(), "the worker is told nothing: {runner}");
            return;
        }
        "reload" | "none" => runner.wait_for_log(&line),
        "suspend" => {
            let stat = || fs::read_to_string(format!("/proc/{}/stat", runner.pid())).unwrap();
            assert!(eventually(|| stat().contains(") T ").then_some(())).is_some(), "{name}");
            runner.signal(Signal::SIGCONT);
            runner.wait_for_log("signal=SIGCONT from_pid=");
        }
        "silent" => {}
        other => panic!("{other}?"),
    }
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(
        (ended.code, messages(&ended.events)),
        (Some(0), vec!["welcome".into(), "now".into()]),
        "{name}"
    );
}

#[test]
fn every_signal_does_what_the_documentation_says() {
    let rows = documented();
    let all: Vec<i32> = rows.iter().flat_map(|row| row.numbers.clone()).collect();
    assert_eq!(all, (1..=64).collect::<Vec<_>>());
    // A few at once: they mostly wait.
    for numbers in all.chunks(4) {
        std::thread::scope(|scope| {
            for number in numbers {
                let row = rows.iter().find(|row| row.numbers.contains(number)).unwrap();
                scope.spawn(move || assert_has_effect(&running(), *number, row));
            }
        });
    }
}

#[test]
fn a_runner_that_was_started_with_blocked_and_ignored_signals_obeys_them_and_its_worker_has_none() {
    let scene = Scene::new().worker(["on now: exit 0", "hello all", "print ready", "wait"]);
    let runner = scene.through(["env", "--block-signal", "--ignore-signal"]).start();
    runner.wait_for_log("ready");
    let worker = runner.children()[0].pid;
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for field in ["SigBlk", "SigIgn"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
        // A program in Rust ignores SIGPIPE by itself.
        let own = 1 << (libc_number(Signal::SIGPIPE) - 1);
        let inherited = u64::from_str_radix(mask.trim(), 16).unwrap() & !own;
        assert_eq!(inherited, 0, "{field} of the worker");
    }
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn a_signal_that_comes_before_the_runner_can_act_on_it_is_kept() {
    // The parent blocks the signal, so it is pending before the program's first instruction.
    let scene = Scene::new().worker(["on now: exit 0", "hello all", "wait"]);
    let shell = "kill -TERM $$; exec \"$@\"";
    let runner = scene.through(["env", "--block-signal=TERM", "/bin/sh", "-c", shell, "sh"]).start();
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn a_log_that_has_reached_the_largest_size_of_a_file_is_like_a_full_disk() {
    let scene = Scene::new().worker(["on now: exit 0", "hello all", "lines 200 100", "note flooded", "wait"]);
    let log = scene.path("log");
    // In blocks of 512 bytes.
    let scene = scene.after(format!("ulimit -f 8 && exec 2>'{}'", log.display()));
    let runner = scene.start();
    runner.wait_for_note("flooded");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    assert!(fs::metadata(log).unwrap().len() <= 8 * 512);
}
