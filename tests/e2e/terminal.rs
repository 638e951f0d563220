//! A worker on a terminal: a real shell starts the runner, and the test types.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::processes::children;

use crate::harness::shell::{INTERRUPT, QUIT, SUSPEND, Shell};
use crate::harness::{Scene, eventually, named, signals, wait_until};

/// An action for which the kernel stops a process in the background, quickly and without a trace.
const CHANGE: &str = "run stty -F /dev/tty -echo echo";

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// With a status socket in its folder.
fn open(scene: Scene) -> Scene {
    let path = scene.path("status.sock");
    scene.set("status.socket", path.to_str().unwrap())
}

/// The exit codes of the programs that the worker has run.
fn ran(shell: &Shell) -> Vec<Value> {
    named(&shell.events(), "run").iter().map(|event| event.field("code").clone()).collect()
}

/// Runs a worker that changes its terminal at once and then says hello, and waits for that.
fn changed(scene: Scene, reactions: &[&str]) -> (Shell, i32) {
    let script = [reactions, &[CHANGE, "hello all", "note changed", "wait"]].concat();
    let shell = Shell::start(scene.worker(script));
    let runner = shell.run();
    shell.wait_for_event("note", 1);
    let worker = shell.wait_for_event("start", 1).pid();
    assert_eq!((ran(&shell), shell.foreground()), (vec![json!(0)], worker), "{shell}");
    assert!(!shell.screen().contains("stopped"), "{shell}");
    (shell, runner)
}

#[test]
fn a_worker_may_change_its_terminal_from_the_first_and_however_all_ends_the_shell_has_it_back() {
    type End = fn(&Shell, i32, i32);
    let cases: [(&str, &str, End); 6] = [
        ("on now: exit 0", "exit=0.", |_, runner, _| signal(runner, Signal::SIGTERM)),
        ("on SIGUSR1: exit 0", "exit=0.", |_, _, worker| signal(worker, Signal::SIGUSR1)),
        ("on SIGUSR1: exit 5", "exit=1.", |_, _, worker| signal(worker, Signal::SIGUSR1)),
        ("on now:", "exit=1.", |_, _, worker| killpg(Pid::from_raw(worker), Signal::SIGKILL).unwrap()),
        ("on now:", "exit=137.", |_, runner, _| signal(runner, Signal::SIGKILL)),
        ("on now:", "exit=0.", |shell, runner, worker| {
            // Also one that has never got anything but SIGKILL.
            signal(worker, Signal::SIGSTOP);
            signal(runner, Signal::SIGTERM);
            shell.wait_for("asked the worker to stop at once");
        }),
    ];
    for (reaction, exit, end) in cases {
        let scene = Scene::new().set("supervision.maxRestarts", 0).set("supervision.stopTimeout", "300ms");
        let (shell, runner) = changed(scene, &[reaction]);
        end(&shell, runner, shell.wait_for_event("start", 1).pid());
        shell.wait_for(exit);
        shell.assert_usable();
        let alone = eventually(|| shell.living().is_empty().then_some(()));
        assert!(alone.is_some(), "{reaction}: {shell}");
    }
}

#[test]
fn a_worker_may_read_from_its_terminal() {
    let scene = Scene::new();
    let program = scene.path("reads");
    std::fs::write(&program, "read line </dev/tty && test \"$line\" = typed").unwrap();
    let read = format!("run sh {}", program.display());
    let shell = Shell::start(scene.worker([&read, "hello all", "wait"]));
    let runner = shell.run();
    shell.line("typed");
    shell.wait_for_event("run", 1);
    assert_eq!(ran(&shell), [json!(0)], "{shell}");
    signal(runner, Signal::SIGTERM);
    shell.wait_for("exit=0.");
    shell.assert_usable();
}

#[test]
fn ctrl_c_is_an_operators_stop_whatever_the_worker_does_about_it() {
    let ends = [
        "on SIGUSR2:",
        "on SIGINT: exit 0",
        "on SIGINT: exit 1",
        "on SIGINT: exit 67",
        "on SIGINT: exit 71",
        "on SIGINT: exit 130",
        "on SIGINT: die SIGKILL",
        "on SIGINT:",
    ];
    for reaction in ends {
        for scene in [Scene::new(), Scene::generic_worker()] {
            let scene = scene.set("supervision.restart", "always").set("supervision.onReboot", "reboot");
            let scene = scene.set("supervision.maxRestarts", 0);
            let (shell, _) = changed(scene, &[reaction, "on now: exit 0"]);
            shell.press(INTERRUPT);
            shell.wait_for("exit=0.");
            assert!(shell.screen().contains("start-worker ends: stopped as asked"), "{reaction}: {shell}");
            assert_eq!(named(&shell.events(), "start").len(), 1, "{reaction}: {shell}");
            shell.assert_usable();
        }
    }
}

#[test]
fn ctrl_backslash_is_an_operators_stop_too() {
    let (shell, _) = changed(Scene::new(), &["on SIGQUIT: exit 131"]);
    shell.press(QUIT);
    shell.wait_for("exit=0.");
    assert!(shell.screen().contains("received a signal to stop signal=SIGQUIT from=terminal"), "{shell}");
    shell.assert_usable();
}

#[test]
fn a_second_ctrl_c_kills() {
    let scene = Scene::new().set("supervision.stopTimeout", "1h").set("supervision.killTimeout", "1h");
    let (shell, _) = changed(scene, &["on SIGINT:", "on SIGTERM:", "on now:"]);
    shell.press(INTERRUPT);
    shell.wait_for("received a signal to stop");
    wait_until(Instant::now() + Duration::from_millis(1100));
    shell.press(INTERRUPT);
    shell.wait_for("exit=0.");
    assert!(shell.screen().contains("received a second signal to stop"), "{shell}");
    shell.assert_usable();
}

#[test]
fn each_worker_is_lent_the_terminal_although_the_one_before_has_left_a_process_with_it() {
    let scene = Scene::new();
    let (job, took) = (scene.path("job"), scene.path("took"));
    // An interactive shell takes the terminal for a process group of its own.
    let interactive =
        format!("bash --norc -ic 'touch {}; sleep 1000' </dev/tty >/dev/tty 2>&1", took.display());
    std::fs::write(&job, interactive).unwrap();
    let first = format!("start 1: run sh {}", job.display());
    let shell = Shell::start(scene.worker([
        "on SIGUSR1: exit 5",
        &first,
        CHANGE,
        "hello all",
        "note changed",
        "wait",
    ]));
    let runner = shell.run();
    assert!(eventually(|| took.exists().then_some(())).is_some(), "{shell}");
    let worker = shell.wait_for_event("start", 1).pid();
    assert_ne!(shell.foreground(), worker, "{shell}");
    signal(worker, Signal::SIGUSR1);
    shell.wait_for_event("note", 1);
    let second = shell.wait_for_event("start", 2).pid();
    assert_eq!((shell.foreground(), ran(&shell)), (second, vec![json!(0)]), "{shell}");
    signal(runner, Signal::SIGTERM);
    shell.wait_for("exit=0.");
    shell.assert_usable();
}

#[test]
fn in_the_background_nothing_is_lent_and_after_fg_the_worker_can_be_continued_with_the_terminal() {
    let scene = open(Scene::new());
    let shell = Shell::start(scene.worker([CHANGE, "hello all", "note changed", "on now: exit 0", "wait"]));
    shell.line(&format!("{} &", shell.runner()));
    let worker = shell.wait_for_event("start", 1).pid();
    shell.wait_for("worker was stopped by a signal: continuing it with SIGCONT, once");
    shell.wait_for("worker was stopped again because it uses the terminal in the background");
    assert_eq!(shell.foreground(), shell.pid(), "{shell}");
    assert_eq!(shell.status()["workerStopped"]["signal"], "SIGTTOU", "{shell}");
    shell.line("echo \"still $((40 + 2))\"");
    shell.wait_for("still 42");

    let runner = shell.child("start-worker");
    shell.line("fg");
    shell.wait_for_foreground(runner);
    killpg(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    shell.wait_for_event("note", 1);
    assert_eq!((ran(&shell), shell.foreground()), (vec![json!(0)], worker), "{shell}");
    assert_eq!(shell.status()["workerStopped"], Value::Null, "{shell}");
    shell.press(INTERRUPT);
    shell.wait_for("start-worker ends: stopped as asked");
    shell.assert_usable();
}

#[test]
fn a_runner_that_was_suspended_and_brought_back_lends_the_terminal_when_the_worker_needs_it() {
    let scene = Scene::new();
    let reaction = format!("on SIGUSR1: {CHANGE} ; note again");
    let (shell, runner) = changed(scene, &[&reaction, "on now: exit 0"]);
    let worker = shell.wait_for_event("start", 1).pid();
    signal(runner, Signal::SIGSTOP);
    shell.wait_for("Stopped");
    shell.wait_for_foreground(shell.pid());
    shell.line("fg");
    shell.wait_for("received a signal to continue");
    shell.wait_for_foreground(runner);
    signal(worker, Signal::SIGUSR1);
    shell.wait_for_event("note", 2);
    assert_eq!((ran(&shell), shell.foreground()), (vec![json!(0), json!(0)], worker), "{shell}");
    assert!(!shell.screen().contains("worker was stopped"), "{shell}");
    shell.press(INTERRUPT);
    shell.wait_for("start-worker ends: stopped as asked");
    shell.assert_usable();
}

#[test]
fn ctrl_z_suspends_nothing_and_a_worker_that_stays_stopped_does_not_keep_ctrl_c_from_the_runner() {
    let (shell, runner) = changed(open(Scene::new()), &["on now: exit 0"]);
    let worker = shell.wait_for_event("start", 1).pid();
    shell.press(SUSPEND);
    shell.wait_for("worker was stopped by a signal: continuing it with SIGCONT, once");
    assert!(eventually(|| shell.status()["workerStopped"].is_null().then_some(())).is_some(), "{shell}");
    assert_eq!(shell.foreground(), worker, "{shell}");
    shell.press(SUSPEND);
    shell.wait_for("worker was stopped by a signal again within a minute, and stays so");
    shell.wait_for_foreground(runner);
    shell.press(INTERRUPT);
    shell.wait_for("exit=0.");
    shell.assert_usable();
}

#[test]
fn a_shell_without_job_control_can_read_again_after_the_runner_was_killed() {
    let scene = Scene::new();
    let go = scene.path("go");
    let shell = Shell::start(scene.worker([CHANGE, "hello all", "note changed", "wait"]));
    let then = format!("until [ -e {} ]; do sleep 0.05; done; read line; echo \"read=$line.\"", go.display());
    shell.line(&format!("sh -c '{}; {then}'", shell.runner()));
    shell.wait_for_event("note", 1);
    let script = shell.child("sh");
    let runner = children(script).into_iter().find(|child| child.name == "start-worker");
    signal(runner.unwrap().pid, Signal::SIGKILL);
    shell.wait_for_foreground(script);
    std::fs::write(go, "").unwrap();
    shell.line("something");
    shell.wait_for("read=something.");
    shell.assert_usable();
}

#[test]
fn a_terminal_that_goes_away_ends_the_worker_and_not_the_runner() {
    let (shell, runner) = changed(Scene::new(), &["on now: exit 0"]);
    signal(shell.pid(), Signal::SIGKILL);
    shell.wait_for_event("start", 2);
    assert_eq!(signals(&shell.events()), ["SIGHUP"], "{shell}");
    shell.wait_for_event("note", 2);
    assert_ne!(ran(&shell), [json!(0), json!(0)], "{shell}");
    signal(runner, Signal::SIGTERM);
    let alone = eventually(|| shell.living().is_empty().then_some(()));
    assert!(alone.is_some(), "{shell}");
}

#[test]
fn what_reads_the_log_in_a_pipeline_gets_it_to_its_end() {
    let shell =
        Shell::start(Scene::new().worker([CHANGE, "hello all", "note changed", "on now: exit 0", "wait"]));
    shell.line(&format!("{} 2>&1 | cat; echo \"exit=${{PIPESTATUS[0]}}.\"", shell.runner()));
    shell.wait_for_event("note", 1);
    shell.press(INTERRUPT);
    shell.wait_for("exit=0.");
    assert!(shell.screen().contains("start-worker ends: stopped as asked"), "{shell}");
    shell.assert_usable();
}

#[test]
fn a_host_command_may_change_the_terminal() {
    let scene = Scene::new().set("supervision.onReboot", "reboot").set("supervision.rebootTimeout", "100ms");
    let done = scene.path("done");
    let command = format!("stty -F /dev/tty -echo echo && touch {}; kill -TERM $PPID", done.display());
    let scene = scene.set("host.rebootCommand", json!(["/bin/sh", "-c", command]));
    let shell = Shell::start(scene.worker(["hello all", "exit 67"]));
    shell.line(&shell.runner());
    shell.wait_for("start-worker ends");
    assert!(done.exists(), "{shell}");
    shell.assert_usable();
}

#[test]
fn without_a_terminal_a_stopped_worker_is_said_and_shown_and_continued_once() {
    let scene = open(Scene::new());
    let socket = scene.path("status.sock");
    let runner = scene
        .worker(["on SIGUSR1: note alive", "on now: exit 0", "hello all", "print ready", "wait"])
        .start();
    let status = |options: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_start-worker"));
        let said = command.arg("status").args(options).arg("--socket").arg(&socket).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let json = || serde_json::from_str::<Value>(&status(&["--json"])).unwrap();
    runner.wait_for_log("ready");
    let worker = runner.wait_for_event("start").pid();
    assert_eq!((&json()["workerStopped"], &json()["unhealthy"]), (&Value::Null, &Value::Null));

    signal(worker, Signal::SIGSTOP);
    let said = format!(
        "worker was stopped by a signal: continuing it with SIGCONT, once pid={worker} signal=SIGSTOP"
    );
    runner.wait_for_log(&said);
    signal(worker, Signal::SIGUSR1);
    runner.wait_for_note("alive");

    signal(worker, Signal::SIGSTOP);
    runner.wait_for_log("worker was stopped by a signal again within a minute, and stays so");
    let now = json();
    assert_eq!((&now["state"], &now["workerStopped"]["signal"]), (&json!("running"), &json!("SIGSTOP")));
    assert!(now["workerStopped"]["since"].as_str().unwrap().ends_with('Z'), "{now}");
    assert_eq!(now["unhealthy"], "the worker is stopped by SIGSTOP");
    assert!(status(&[]).contains("\n  stopped     by SIGSTOP, since 2"), "{}", status(&[]));
    signal(worker, Signal::SIGCONT);
    assert!(eventually(|| json()["workerStopped"].is_null().then_some(())).is_some(), "{runner}");

    signal(worker, Signal::SIGSTOP);
    assert!(eventually(|| json()["workerStopped"].is_object().then_some(())).is_some(), "{runner}");
    // The worker receives the request.
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, named(&ended.events, "exit").len()), (Some(0), 1), "{}", ended.log);
    assert_eq!(ended.log.matches("worker was stopped").count(), 2, "{}", ended.log);
}

#[test]
fn what_the_runner_freezes_to_kill_it_is_no_stopped_worker() {
    let script = [
        "spawn child ignore-term",
        "spawn group ignore-term",
        "on now:",
        "on SIGTERM:",
        "hello all",
        "print ready",
        "wait",
    ];
    let runner = Scene::new().worker(script).set("supervision.stopTimeout", "100ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("was stopped"), "{}", ended.log);
}
