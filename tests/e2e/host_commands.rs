//! The commands that take the host down, and `--version`: whatever a helper writes, forks and leaves behind.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Runner, Scene, eventually, write_program};

/// A host that its worker asks to be shut down, with this command. In the shell script `$1` is the scene's folder.
fn shut_down_by(script: &str, worker: &[&str]) -> Scene {
    let mut statements = vec!["hello all", r#"send {"type": "shutdown"}"#];
    statements.extend(worker);
    let scene = Scene::new().worker(statements).set("host.shutdownStatic", true);
    let folder = scene.path("");
    let command = json!(["/bin/sh", "-c", script, "sh", folder]);
    scene.set("host.shutdownCommand", command)
}

fn wait_for_file(runner: &Runner, name: &str) -> String {
    let read = || fs::read_to_string(runner.path(name)).ok().filter(|text| !text.is_empty());
    eventually(read).unwrap_or_else(|| panic!("there was no {name} in time\n{runner}"))
}

#[test]
fn a_host_command_may_write_as_much_as_it_likes_before_it_does_its_work() {
    let flood = "head -c 300000 /dev/zero | tr '\\0' x";
    let script = format!("echo first words >&2; {flood} >&2; {flood}; echo done >$1/done; kill -TERM $PPID");
    let runner = shut_down_by(&script, &["on now: exit 0", "wait"]).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    wait_for_file(&runner, "done");
    assert!(!ended.log.contains("the host command failed"), "{}", ended.log);
    assert!(ended.log.len() < 20_000, "the log has {} bytes", ended.log.len());
}

#[test]
fn what_a_host_command_says_before_it_fails_is_in_the_log() {
    let script = "echo out of order >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; kill -TERM $PPID; exit 3";
    let ended = shut_down_by(script, &["on now: exit 0", "wait"]).start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("/bin/sh failed (exit status: 3): out of order; xxx"), "{}", ended.log);
}

#[test]
fn a_host_command_that_puts_itself_into_the_background_goes_on_when_the_worker_ends() {
    // In its own process group, in a session of its own, and with its output closed or not.
    for apart in ["", "setsid"] {
        for output in ["", ">/dev/null 2>&1"] {
            let work = "until [ -e $0/record.go ]; do sleep 0.01; done; head -c 200000 /dev/zero >&2; echo $$ >$0/done";
            let script = format!("{apart} sh -c '{work}' $1 {output} & exit 0");
            let runner = shut_down_by(&script, &["exit 0"]).start();
            runner.wait_for_log("worker exited");
            fs::write(runner.path("record.go"), "").unwrap();
            wait_for_file(&runner, "done");
            runner.signal(Signal::SIGTERM);
            let ended = runner.ended();
            assert!(!ended.log.contains("left processes behind"), "{apart} {output}\n{}", ended.log);
            assert!(!ended.log.contains("has not ended within"), "{apart} {output}\n{}", ended.log);
        }
    }
}

#[test]
fn a_host_command_is_found_where_the_services_path_has_no_sbin() {
    // Programs that the command runs itself are found, too.
    let scene = Scene::new().worker(["hello all", r#"send {"type": "shutdown"}"#, "on now: exit 0", "wait"]);
    let report = scene.path("found");
    let script = format!("command -v chroot >{}; kill -TERM $PPID", report.display());
    let runner = scene
        .set("host.shutdownStatic", true)
        .set("host.shutdownCommand", json!(["sh", "-c", script]))
        .env("PATH", "/usr/bin:/bin")
        .start();
    assert_eq!(runner.ended().code, Some(0), "{runner}");
    assert!(wait_for_file(&runner, "found").trim().ends_with("/chroot"), "{runner}");
}

#[test]
fn a_worker_that_is_asked_for_its_version_leaves_nothing_behind() {
    let scene = Scene::generic_worker().set("worker.restartInPlace", Value::Null);
    let (program, pids) = (scene.path("worker.sh"), scene.path("pids"));
    // It leaves one process in its group and one in a session of its own, which holds its output; then it crashes.
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] || exit 1\nsleep 2001 & echo $! >>{0}\n\
         setsid sh -c 'echo $$ >>{0}; exec sleep 2002' &\n\
         until [ \"$(grep -c . {0})\" -ge 2 ]; do sleep 0.01; done\necho 'generic-worker (simple engine) 1.0.0'\n",
        pids.display()
    );
    write_program(&program, script);
    let runner =
        scene.set("worker.path", program.to_str().unwrap()).set("supervision.maxRestarts", 0).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(!ended.log.contains("does not answer --version"), "{}", ended.log);
    assert_eq!(wait_for_file(&runner, "pids").lines().count(), 2, "{}", ended.log);
    runner.assert_nothing_left();
}
