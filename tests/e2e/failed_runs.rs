//! Failed runs are counted over processes: the pause before the next start, and what ends or resets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Ended, Runner, Scene, named};

/// A host on which one runner starts after the other.
struct Host {
    state: tempfile::TempDir,
}

const OBEDIENT: [&str; 3] = ["on SIGTERM: exit 0", "print ready", "wait"];

impl Host {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.state.path().join("failures.json")
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap()
    }

    /// A runner of this host, whose worker is started again by the next runner alone.
    fn scene<'s>(&self, pause: &str, script: impl IntoIterator<Item = &'s str>) -> Scene {
        self.place(Scene::new(), pause).worker(script)
    }

    fn place(&self, scene: Scene, pause: &str) -> Scene {
        let socket = scene.path("status.sock");
        scene
            .set("supervision.restart", "never")
            .set("supervision.failureBackoff", json!({"initial": pause, "max": "2h"}))
            .set("status.socket", socket.to_str().unwrap())
            .env("STATE_DIRECTORY", self.state.path().to_str().unwrap())
    }

    /// One run that fails.
    fn fail(&self) -> Ended {
        let ended = self.scene("1h", ["exit 3"]).start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
        ended
    }
}

fn ask(runner: &Runner, command: &[&str]) -> Output {
    let socket = runner.path("status.sock");
    Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(command)
        .arg("--socket")
        .arg(socket)
        .output()
        .unwrap()
}

fn status(runner: &Runner) -> Value {
    let output = ask(runner, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|cause| panic!("{cause}: {output:?}\n{runner}"))
}

/// Makes a record unusable.
type Breaks = fn(&Path);

const PAUSES: &str = "earlier runs have failed: pausing";

#[test]
fn after_a_failed_run_the_next_runner_pauses_and_resume_starts_the_worker_now() {
    let host = Host::new();
    host.fail();
    let runner = host.scene("1h", OBEDIENT).start();
    runner.wait_for_log(PAUSES);
    let status = status(&runner);
    assert_eq!(status["state"], "backing off", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.starts_with("1 failed run in a row, the last because the worker crashed; "), "{reason}");
    assert!(status["unhealthy"].as_str().is_some_and(|why| why == reason), "{status}");
    assert!(named(&runner.events(), "start").is_empty(), "{runner}");
    let resume = ask(&runner, &["resume"]);
    assert!(resume.status.success(), "{resume:?}\n{runner}");
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}

#[test]
fn sigterm_and_a_drain_end_the_pause() {
    let host = Host::new();
    host.fail();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let runner = host.scene("1h", OBEDIENT).start();
        runner.wait_for_log(PAUSES);
        runner.signal(signal);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{signal}\n{}", ended.log);
    }
    assert_eq!(host.record()["failedRuns"], 1, "a stop neither counts nor resets");
}

#[test]
fn each_runner_pauses_longer_than_the_one_before() {
    let host = Host::new();
    let mut runs: Vec<Ended> = Vec::new();
    for _ in 0..4 {
        let ended = host.scene("50ms", ["exit 3"]).start().ended();
        assert_eq!(ended.starts(), 1, "{}", ended.log);
        runs.push(ended);
    }
    for (pair, least) in runs.windows(2).zip([50, 200, 800]) {
        let (exit, start) = (&named(&pair[0].events, "exit")[0], &named(&pair[1].events, "start")[0]);
        let pause = start.after(exit);
        assert!(pause >= Duration::from_millis(least), "{pause:?} < {least} ms\n{}", pair[1].log);
    }
    assert_eq!(host.record()["failedRuns"], 4);
}

#[test]
fn every_kind_of_failed_run_is_counted_with_its_kind() {
    let command = |script: &'static str| Scene::new().worker([script]);
    let generic = |script: &'static str| Scene::generic_worker().worker([script]);
    for (scene, code, failure) in [
        (command("exit 3"), 1, "crash"),
        (command("exit 3").set("worker.restartInPlace", false), 70, "crash"),
        (generic("exit 69"), 1, "unfit"),
        (generic("exit 69").set("worker.restartInPlace", false), 70, "unfit"),
        (generic("exit 64"), 1, "bad_configuration"),
        (command("exit 3").set("worker.path", "/nowhere/worker"), 1, "start"),
        (command("exit 3").set("worker.configPath", "/proc/nowhere/worker.json"), 1, "start"),
    ] {
        let host = Host::new();
        let ended = host.place(scene, "1h").start().ended();
        assert_eq!(ended.code, Some(code), "{failure}\n{}", ended.log);
        let record = host.record();
        assert_eq!(
            (&record["failedRuns"], &record["last"]["failure"]),
            (&json!(1), &json!(failure)),
            "{record}"
        );
    }
}

#[test]
fn a_run_that_ends_as_intended_leaves_no_record() {
    for script in ["exit 0", "exit 67"] {
        let host = Host::new();
        let scene = host.scene("1h", [script]).set("supervision.onReboot", "exit");
        let ended = scene.start().ended();
        assert_eq!(ended.starts(), 1, "{}", ended.log);
        assert!(!host.file().exists(), "{script}: {}", host.record());
    }
}

#[test]
fn a_finished_task_and_a_long_run_make_failed_runs_forgotten() {
    let host = Host::new();
    host.fail();
    let task =
        ["hello all", "metrics taskStart", "metrics taskFinish", "on SIGTERM: exit 0", "print ready", "wait"];
    let scene = host.place(Scene::generic_worker().worker(task), "1ms");
    let runner = scene.start();
    runner.wait_for_log("ready");
    crate::harness::eventually(|| (host.record()["failedRuns"] == 0).then_some(()))
        .unwrap_or_else(|| panic!("{}\n{runner}", host.record()));
    drop(runner);
    host.fail();
    let scene = host.scene("1ms", ["sleep 300ms", "exit 0"]).set("supervision.restartWindow", "200ms");
    assert_eq!(scene.start().ended().code, Some(0));
    assert_eq!(host.record()["failedRuns"], 0);
}

#[test]
fn a_record_that_cannot_be_used_or_written_is_one_warning_and_keeps_no_worker_from_being_started() {
    let ways: [(&str, Breaks); 4] = [
        ("corrupt", |path| std::fs::write(path, "{\"failedRuns\": \"many\"").unwrap()),
        ("from the future", |path| {
            let text =
                std::fs::read_to_string(path).unwrap().replace("\"failedRuns\": 1", "\"failedRuns\": -1");
            std::fs::write(path, text).unwrap();
        }),
        ("a link", |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }),
        ("a directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
    ];
    for (what, break_it) in ways {
        let host = Host::new();
        host.fail();
        break_it(&host.file());
        let ended = host.scene("1h", ["exit 3"]).start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{what}\n{}", ended.log);
        let warnings = ended.log.matches("cannot use the record of failed runs").count();
        assert_eq!(warnings, 1, "{what}\n{}", ended.log);
        let unwritable = ended.log.matches("cannot write the record of failed runs").count();
        assert_eq!(unwritable, usize::from(what == "a directory"), "{what}\n{}", ended.log);
    }
}

#[test]
fn without_a_state_directory_the_record_is_beside_the_cache() {
    let host = Host::new();
    let cache = host.state.path().join("run.json");
    let scene = |script: &'static [&'static str]| {
        let scene = host.scene("1h", script.iter().copied()).env("STATE_DIRECTORY", "");
        scene.set("cacheOverRestarts", cache.to_str().unwrap())
    };
    assert_eq!(scene(&["exit 3"]).start().ended().code, Some(1));
    assert!(host.state.path().join("run.json.failures.json").exists());
    let runner = scene(&OBEDIENT).start();
    runner.wait_for_log(PAUSES);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn an_unfit_worker_is_restarted_once_and_then_waits_until_resume() {
    let host = Host::new();
    let script = ["start 1: exit 69", "start 2: exit 69", "on SIGTERM: exit 0", "print ready", "wait"];
    let scene =
        host.place(Scene::generic_worker().worker(script), "1h").set("supervision.restart", "on-failure");
    let runner = scene.start();
    runner.wait_for_log("found this host unfit for tasks: pausing");
    let status = status(&runner);
    assert_eq!(status["state"], "backing off", "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("2 failed runs in a row, the last because the worker found this host unfit"),
        "{reason}"
    );
    assert_eq!(named(&runner.events(), "start").len(), 2, "{runner}");
    assert!(ask(&runner, &["resume"]).status.success(), "{runner}");
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0), "{runner}");
}
