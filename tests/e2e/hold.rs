//! Hosts that an operator holds: no worker is started until `start-worker resume`, whatever comes between.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Runner, Scene, eventually, is_root};

/// Finishes its tasks, or stops, as soon as it is asked.
const OBEDIENT: [&str; 5] = ["on finish: exit 0", "on now: exit 0", "hello all", "print ready", "wait"];

/// A host: its state directory outlives its runners.
struct Host {
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap() }
    }

    fn marker(&self) -> PathBuf {
        self.state.path().join("held")
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.marker()).unwrap()).unwrap()
    }

    fn scene<const N: usize>(&self, script: [&str; N]) -> Scene {
        Scene::new()
            .worker(script)
            .set("status.socket", self.socket().to_str().unwrap())
            .env("STATE_DIRECTORY", self.state.path().to_str().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.state.path().join("status.sock")
    }

    /// A command from another terminal, as the operator alice.
    fn say<const N: usize>(&self, command: [&str; N]) -> Said {
        let mut said = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        said.args(command).arg("--socket").arg(self.socket());
        said.env("STATE_DIRECTORY", self.state.path()).env("SUDO_USER", "alice");
        said.output().unwrap().into()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.say(["status", "--json"]).stdout).unwrap()
    }

    #[track_caller]
    fn wait_for_state(&self, state: &str, runner: &Runner) -> Value {
        let mut last = None;
        let found = eventually(|| {
            let said = self.say(["status", "--json"]);
            let seen: Option<Value> = serde_json::from_str(&said.stdout).ok();
            last = Some(said.stderr);
            seen.filter(|seen| seen["state"] == state)
        });
        found.unwrap_or_else(|| panic!("never {state}, last {last:?}\n{runner}"))
    }

    /// The status of a held host says who, when and why.
    #[track_caller]
    fn assert_held(&self, reason: Option<&str>) {
        let (status, words) = (self.status(), self.say(["status"]).stdout);
        let by = status["hold"]["by"].as_str().unwrap();
        assert!(by.ends_with("(sudo: alice)"), "{by}");
        status["hold"]["since"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(status["hold"]["reason"].as_str(), reason);
        assert!(words.contains(&format!(" by {by}")), "{words}");
        assert!(words.contains(reason.unwrap_or("held since")), "{words}");
    }
}

/// A command's output.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Said {
    #[track_caller]
    fn fine(self, starts: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        assert!(self.stdout.starts_with(starts), "{}", self.stdout);
    }

    #[track_caller]
    fn fails(self, text: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(text), "{}", self.stderr);
    }
}

fn ready(scene: Scene) -> Runner {
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner
}

#[track_caller]
fn ends_well(runner: &Runner, starts: usize) {
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), starts), "{}", ended.log);
}

#[test]
fn a_drained_host_holds_at_every_start_until_it_is_resumed() {
    let host = Host::new();
    let runner = ready(host.scene(OBEDIENT));
    host.say(["drain", "--wait", "--reason", "new disk"]).fine("drained: stopped as asked\n");
    ends_well(&runner, 1);
    for _ in 0..2 {
        let next = host.scene(OBEDIENT).start();
        host.wait_for_state("holding", &next);
        host.assert_held(Some("new disk"));
        next.signal(Signal::SIGTERM);
        ends_well(&next, 0);
    }
    let last = host.scene(OBEDIENT).start();
    host.wait_for_state("holding", &last);
    host.say(["resume"]).fine("resumed\n");
    last.wait_for_log("ready");
    assert_eq!((host.status()["hold"].clone(), host.marker().exists()), (Value::Null, false));
    last.signal(Signal::SIGTERM);
    ends_well(&last, 1);
}

#[test]
fn the_marker_of_a_drain_is_on_the_disk_when_the_drain_is_accepted() {
    let host = Host::new();
    let runner = ready(host.scene(["hello all", "print ready", "wait"]));
    host.say(["drain"]).fine("asked to drain\n");
    assert!(host.record()["by"].as_str().unwrap().ends_with("(sudo: alice)"), "{}", host.record());
    host.record()["since"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    host.assert_held(None);
    runner.signal(Signal::SIGKILL);
    runner.ended();
    let next = host.scene(OBEDIENT).start();
    host.wait_for_state("holding", &next);
}

#[test]
fn a_signal_a_drain_that_is_meant_once_and_a_stop_hold_nothing() {
    for drain in ["SIGUSR1", "SIGTERM", "--once"] {
        let host = Host::new();
        let runner = ready(host.scene(OBEDIENT));
        match drain {
            "SIGUSR1" => drop(runner.signal(Signal::SIGUSR1)),
            "SIGTERM" => drop(runner.signal(Signal::SIGTERM)),
            _ => host.say(["drain", "--once"]).fine("asked to drain\n"),
        }
        ends_well(&runner, 1);
        assert!(!host.marker().exists(), "{drain}");
    }
}

#[test]
fn only_a_drain_that_is_meant_once_is_remembered_over_the_workers_own_reboot_and_a_signal_is_not() {
    for (once, held) in [(true, true), (false, false)] {
        let host = Host::new();
        let runner = ready(host.scene(["on finish: exit 67", "hello all", "print ready", "wait"]));
        if once {
            host.say(["drain", "--once"]).fine("asked to drain\n");
        } else {
            runner.signal(Signal::SIGUSR1);
        }
        ends_well(&runner, 1);
        assert_eq!(host.marker().exists(), held);
    }
}

#[test]
fn on_a_held_host_the_present_worker_goes_on_and_no_other_starts_until_resume() {
    let host = Host::new();
    let scene =
        host.scene(["on now: exit 0", "hello all", "print ready", "start 1: wait-file go ; exit 3", "wait"]);
    let go = scene.path("go");
    let scene = host.scene([
        "on now: exit 0",
        "hello all",
        "print ready",
        &format!("start 1: wait-file {} ; exit 3", go.display()),
        "wait",
    ]);
    let folder = tempfile::tempdir().unwrap();
    drop(folder);
    std::fs::create_dir_all(go.parent().unwrap()).unwrap();
    let runner = ready(scene);
    host.say(["hold", "--reason", "new disk"]).fine("held since ");
    let status = host.status();
    assert_eq!(status["state"], "running");
    host.assert_held(Some("new disk"));
    std::fs::write(&go, "").unwrap();
    host.wait_for_state("holding", &runner);
    host.assert_held(Some("new disk"));
    assert_eq!(runner.events().iter().filter(|event| event.name() == "start").count(), 1);
    host.say(["resume"]).fine("resumed\n");
    runner.wait_for_start(2);
    assert_eq!(host.wait_for_state("running", &runner)["hold"], Value::Null);
    host.say(["resume"]).fine("not holding\n");
    runner.signal(Signal::SIGTERM);
    ends_well(&runner, 2);
    std::fs::remove_dir_all(go.parent().unwrap()).unwrap();
}

#[test]
fn a_hold_with_a_drain_lets_the_worker_finish_and_ends_the_runner() {
    let host = Host::new();
    let runner = ready(host.scene(OBEDIENT));
    host.say(["hold", "--drain", "--reason", "new disk"]).fine("held since ");
    ends_well(&runner, 1);
    assert_eq!(host.record()["reason"], "new disk");
    host.say(["status"]).fails("new disk: no worker is started until `start-worker resume`");
}

#[test]
fn a_host_is_held_and_resumed_without_a_runner() {
    let host = Host::new();
    host.say(["resume"]).fine("not holding\n");
    host.say(["hold", "--reason", "new disk"]).fine("held since ");
    host.say(["status"]).fails("this host is held since ");
    let runner = host.scene(OBEDIENT).start();
    host.wait_for_state("holding", &runner);
    host.assert_held(Some("new disk"));
    runner.signal(Signal::SIGTERM);
    ends_well(&runner, 0);
    // Without a reason the earlier one stays.
    host.say(["hold"]).fine("held since ");
    assert_eq!(host.record()["reason"], "new disk");
    host.say(["resume"]).fine("resumed\n");
    let runner = ready(host.scene(OBEDIENT));
    runner.signal(Signal::SIGTERM);
    ends_well(&runner, 1);
}

#[test]
fn without_a_state_directory_the_runner_configuration_tells_where_the_marker_is() {
    let host = Host::new();
    let scene = Scene::new().worker(OBEDIENT);
    let cache = scene.path("cache.json");
    let config = scene.set("cacheOverRestarts", cache.to_str().unwrap());
    let path = config.write();
    let say = |command: &[&str]| -> Said {
        let mut said = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        said.args(command).arg("--socket").arg(host.socket()).env_remove("STATE_DIRECTORY");
        said.output().unwrap().into()
    };
    say(&["hold"]).fails("--config");
    let config = path.to_str().unwrap();
    say(&["hold", "--config", config]).fine("held since ");
    assert!(Path::new(&format!("{}.held", cache.display())).exists());
    say(&["resume", "--config", config]).fine("resumed\n");
    assert!(!Path::new(&format!("{}.held", cache.display())).exists());
}

#[test]
fn what_is_not_a_marker_is_neither_trusted_nor_replaced() {
    let host = Host::new();
    std::os::unix::fs::symlink("/etc/passwd", host.marker()).unwrap();
    host.say(["hold"]).fails(&host.marker().display().to_string());
    host.say(["resume"]).fails(&host.marker().display().to_string());
    assert!(std::fs::symlink_metadata(host.marker()).unwrap().is_symlink());
    if is_root() {
        std::fs::remove_file(host.marker()).unwrap();
        std::fs::write(host.marker(), "").unwrap();
        std::os::unix::fs::chown(host.marker(), Some(12_345), None).unwrap();
        host.say(["hold"]).fails("chown root ");
    }
}

#[test]
fn a_drain_goes_on_where_the_host_cannot_be_held_and_says_so() {
    let host = Host::new();
    let runner = ready(host.scene(OBEDIENT));
    std::fs::create_dir(host.marker()).unwrap();
    host.say(["hold"]).fails("this host is not held: ");
    let said = host.say(["drain", "--wait"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "drained: stopped as asked\n"));
    assert!(
        said.stderr.starts_with("warning: a worker is started again at the next start: "),
        "{}",
        said.stderr
    );
    ends_well(&runner, 1);
}
