//! The operator's hooks: `hooks.waitFor`, `hooks.beforeStart`, `hooks.afterRun`.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::scene::ACCESS_TOKEN;
use crate::harness::{Runner, Scene, eventually};

const OBEDIENT: [&str; 5] = ["on finish: exit 0", "on now: exit 0", "hello all", "print ready", "wait"];

/// A hook that is a shell script.
fn hook(script: &str) -> serde_json::Value {
    json!({"command": ["/bin/sh", "-c", script], "timeout": "60s"})
}

/// A hook that appends its name to `hooks`, and its environment to a file of its own.
fn recorder(scene: &Scene, name: &str, then: &str) -> serde_json::Value {
    let (hooks, env) = (scene.path("hooks"), scene.path(&format!("{name}.env")));
    hook(&format!("echo {name} >>{}; env >{}; {then}", hooks.display(), env.display()))
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A hook's environment.
fn seen(runner: &Runner, name: &str) -> BTreeMap<String, String> {
    let lines = lines(&runner.path(&format!("{name}.env")));
    lines.iter().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[track_caller]
fn wait_for_file(runner: &Runner, name: &str) {
    let there = eventually(|| runner.path(name).exists().then_some(()));
    assert!(there.is_some(), "no {name}\n{runner}");
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn hooks_run_around_each_run_with_its_facts_and_without_credentials() {
    let scene = Scene::new().worker(["start 1: exit 3", "exit 0"]);
    let before = recorder(&scene, "before", "echo a word; echo another >&2");
    let after = recorder(&scene, "after", "exit 1");
    let scene = scene
        .set("hooks.beforeStart", before)
        .set("hooks.afterRun", after)
        .env("TASKCLUSTER_ACCESS_TOKEN", "of-the-unit")
        .env("SOMEBODYS_COPY", ACCESS_TOKEN);
    let runner = scene.start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(lines(&runner.path("hooks")), ["before", "after", "before", "after"], "{}", ended.log);
    for line in ["[hook beforeStart] a word", "[hook beforeStart] another"] {
        assert_eq!(ended.log.matches(line).count(), 2, "{line}: {}", ended.log);
    }
    assert_eq!(
        ended.log.matches("hooks.afterRun has failed: that changes nothing").count(),
        2,
        "{}",
        ended.log
    );
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let worker = runner.worker_id().to_owned();
    let common = [
        ("START_WORKER_POOL", "pp/ww"),
        ("START_WORKER_GROUP", "wg"),
        ("START_WORKER_ID", worker.as_str()),
        ("START_WORKER_ROOT_URL", "https://tc.example.com"),
        ("START_WORKER_RUN", "2"),
        ("START_WORKER_BOOT_ID", boot.trim()),
    ];
    let of_the_end = [
        ("START_WORKER_EXIT", "0"),
        ("START_WORKER_MEANING", "done"),
        ("START_WORKER_CAUSE", "none"),
        ("START_WORKER_RAN_SECONDS", "0"),
        ("START_WORKER_TASKS", "0"),
        ("START_WORKER_NEXT", "exit"),
    ];
    let (before, after) = (seen(&runner, "before"), seen(&runner, "after"));
    for (name, value) in common {
        assert_eq!(before.get(name).map(String::as_str), Some(value), "{name}");
        assert_eq!(after.get(name).map(String::as_str), Some(value), "{name}");
    }
    for (name, value) in of_the_end {
        assert_eq!((before.get(name), after.get(name).map(String::as_str)), (None, Some(value)), "{name}");
    }
    for environment in [before, after] {
        let text = format!("{environment:?}");
        assert!(!text.contains(ACCESS_TOKEN) && !text.contains("of-the-unit"), "{text}");
    }
}

#[test]
fn runs_are_counted_over_restarts_of_the_runner_in_one_boot() {
    let state = tempfile::tempdir().unwrap();
    for run in ["1", "2"] {
        let scene = Scene::new().worker(["exit 0"]).env("STATE_DIRECTORY", state.path().to_str().unwrap());
        let before = recorder(&scene, "before", "true");
        let runner = scene.set("hooks.beforeStart", before).start();
        assert_eq!(runner.ended().code, Some(0));
        assert_eq!(seen(&runner, "before")["START_WORKER_RUN"], run);
    }
}

#[test]
fn what_follows_a_run_is_said_to_the_hook_after_it() {
    for (script, next, cause) in [
        (vec!["start 1: exit 3", "exit 0"], "restart", "none"),
        (vec!["start 1: exit 67", "exit 0"], "reboot", "none"),
        (vec!["hello all", "print ready", "on now: exit 0", "wait"], "exit", "operator"),
    ] {
        let scene = Scene::new().worker(script);
        let first = scene.path("first");
        let record = format!("[ -e {0} ] || env >{0}", first.display());
        let scene = scene.set("hooks.afterRun", hook(&record)).set("supervision.onReboot", "reboot");
        let scene = scene.set("supervision.rebootTimeout", "100ms");
        let runner = scene.start();
        if next == "exit" {
            runner.wait_for_log("ready");
            runner.signal(Signal::SIGTERM);
        }
        let ended = runner.ended();
        let seen = lines(&first);
        assert!(seen.contains(&format!("START_WORKER_NEXT={next}")), "{seen:?}\n{}", ended.log);
        assert!(seen.contains(&format!("START_WORKER_CAUSE={cause}")), "{seen:?}\n{}", ended.log);
    }
}

#[test]
fn a_start_waits_for_every_path_and_says_for_which() {
    let scene = Scene::new().worker(OBEDIENT);
    let (one, two) = (scene.path("one"), scene.path("two"));
    let socket = scene.path("status.sock");
    let scene = scene.set("hooks.waitFor", json!([one, two])).set("status.socket", socket.to_str().unwrap());
    let runner = scene.start();
    runner.wait_for_log(&format!("path={}", one.display()));
    assert!(runner.events().is_empty());
    let waits = eventually(|| {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .args(["status", "--socket"])
            .arg(&socket)
            .output()
            .unwrap();
        String::from_utf8_lossy(&status.stdout).contains("(hooks.waitFor)").then_some(())
    });
    assert!(waits.is_some(), "{runner}");
    std::fs::write(&one, "").unwrap();
    runner.wait_for_log(&format!("path={}", two.display()));
    std::fs::write(&two, "").unwrap();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_stop_ends_the_wait_for_a_path() {
    let scene = Scene::new().worker(OBEDIENT);
    let never = scene.path("never");
    let runner = scene.set("hooks.waitFor", json!([never])).start();
    runner.wait_for_log("hooks.waitFor");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
}

#[test]
fn a_hook_that_fails_before_the_start_is_a_failed_start_that_is_tried_again() {
    for (command, says) in [
        (
            json!({"command": ["/bin/sh", "-c", "exit 4"]}),
            "hooks.beforeStart has failed: it ended with exit status: 4",
        ),
        (
            json!({"command": ["/nowhere/hook"]}),
            "hooks.beforeStart has failed: cannot execute /nowhere/hook: ",
        ),
        (json!({"command": ["/etc/passwd"]}), "hooks.beforeStart has failed: cannot execute /etc/passwd: "),
        (json!({"command": ["sleep", "1000"], "timeout": "100ms"}), "sleep has not ended within 100ms"),
    ] {
        let scene = Scene::new().worker(["exit 0"]).set("hooks.beforeStart", command);
        let runner = scene.set("supervision.maxRestarts", 1).start();
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
        assert_eq!(ended.log.matches(says).count(), 2, "{says}: {}", ended.log);
    }
}

#[test]
fn not_yet_is_no_failure_and_is_waited_for() {
    let scene = Scene::new().worker(OBEDIENT);
    let socket = scene.path("status.sock");
    let scene = scene
        .set("hooks.beforeStart", hook("exit 75"))
        .set("supervision.maxRestarts", 0)
        .set("status.socket", socket.to_str().unwrap());
    let runner = scene.start();
    runner.wait_for_log("hooks.beforeStart says not yet (exit code 75)");
    let begin = std::time::Instant::now();
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert!(begin.elapsed() < std::time::Duration::from_secs(25), "the pause is not waited for");
}

#[test]
fn a_stop_kills_a_hook_with_its_whole_group_and_what_has_left_it() {
    let scene = Scene::new().worker(OBEDIENT);
    let pids = scene.path("pids");
    let script = format!(
        "trap '' TERM; sleep 1001 & echo $! >>{0}; setsid sh -c 'echo $$ >>{0}; exec sleep 1002' & echo $$ >>{0}; sleep 1003",
        pids.display()
    );
    let runner = scene.set("hooks.beforeStart", hook(&script)).start();
    let all = eventually(|| Some(lines(&pids)).filter(|pids| pids.len() == 3)).expect("the hook runs");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    let gone = eventually(|| (!all.iter().any(|pid| alive(pid))).then_some(()));
    assert!(gone.is_some(), "{all:?}");
}

#[test]
fn a_stop_that_came_before_the_hook_after_a_run_leaves_it_its_grace_and_a_second_one_none() {
    let scene = Scene::new().worker(OBEDIENT);
    let started = scene.path("started");
    let script = format!("echo $$ >{}; exec sleep 1004", started.display());
    let runner = scene.set("hooks.afterRun", hook(&script)).start();
    runner.wait_for_log("ready");
    let first = runner.signal(Signal::SIGTERM);
    wait_for_file(&runner, "started");
    // A signal within a second of the first would count as the same.
    crate::harness::wait_until(first + std::time::Duration::from_millis(1100));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("hooks.afterRun was killed"), "{}", ended.log);
    assert!(!lines(&started).iter().any(|pid| alive(pid)));
}

#[test]
fn a_process_that_a_hook_leaves_behind_goes_on_beside_the_worker() {
    let scene = Scene::new().worker(["hello all", "print ready", "on now: exit 0", "wait"]);
    let pid = scene.path("pid");
    let script = format!("setsid sleep 1005 >/dev/null 2>&1 & echo $! >{}", pid.display());
    let runner = scene.set("hooks.beforeStart", hook(&script)).start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let left = std::fs::read_to_string(&pid).unwrap();
    assert!(alive(&left), "{}", ended.log);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left.trim().parse().unwrap()), Signal::SIGKILL)
        .unwrap();
}

#[test]
fn a_gigabyte_of_output_is_bounded_in_the_log_and_in_memory() {
    let scene = Scene::new().worker(OBEDIENT);
    let runner = scene
        .set("hooks.beforeStart", hook("head -c 1073741824 /dev/zero | tr '\\0' '\\n'; echo done >&2"))
        .start();
    runner.wait_for_log("ready");
    runner.assert_small();
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains("bytes more, not shown"), "the rest is counted");
}

#[test]
fn secrets_in_a_hooks_output_are_masked() {
    let runner = Scene::new()
        .worker(["exit 0"])
        .set("hooks.beforeStart", hook(&format!("echo the token {ACCESS_TOKEN}")))
        .start();
    let ended = runner.ended();
    assert!(ended.log.contains("[hook beforeStart] the token "), "{}", ended.log);
    assert!(!ended.log.contains(ACCESS_TOKEN), "{}", ended.log);
}
