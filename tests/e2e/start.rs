//! The environment that a worker finds when it starts, and failures to start.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Scene, copy_program, is_root, messages, named};

#[test]
fn a_worker_is_welcomed_with_the_capabilities_in_order() {
    let runner = Scene::new().worker(["await welcome", "hello all", "exit 0"]).start();
    let ended = runner.ended();
    assert_eq!((ended.code, messages(&ended.events)), (Some(0), vec!["welcome".to_owned()]));
    let welcome = named(&ended.events, "message")[0].field("message").clone();
    // Nothing here can renew credentials, so `new-credentials` is not offered.
    let offered = ["autologin", "error-report", "graceful-termination", "log", "reboot", "shutdown"];
    assert_eq!(welcome, json!({"type": "welcome", "capabilities": offered}));
    runner.assert_nothing_left();
}

#[test]
fn the_welcome_does_not_wait_for_the_hello() {
    let runner = Scene::new().worker(["await welcome", "note welcomed", "exit 0"]).start();
    runner.wait_for_note("welcomed");
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn credentials_that_are_not_valid_yet_are_a_warning_and_those_with_a_minute_left_are_used() {
    let certificate = |start: i64, expiry: i64| {
        let now = jiff::Timestamp::now().as_millisecond();
        json!({"version": 1, "start": now + start, "expiry": now + expiry, "seed": "s"}).to_string()
    };
    let scene = Scene::new().worker(["hello all", "exit 0"]);
    let ended = scene.set("provider.certificate", certificate(3_600_000, 7_200_000)).start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(ended.log.contains("WARN  the credentials are not valid yet"), "{}", ended.log);
    let scene = Scene::new().worker(["hello all", "exit 0"]);
    let ended = scene.set("provider.certificate", certificate(-3_600_000, 60_000)).start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(!ended.log.contains("not valid yet") && !ended.log.contains("expired"), "{}", ended.log);
}

#[test]
fn a_worker_gets_the_environment_of_the_runner_and_its_own() {
    let location = json!({"room": "basement"});
    let scene = Scene::new().worker(["exit 0"]).set("provider.workerLocation", location);
    let scene = scene.set("worker.env", json!({"COLOUR": "never", "SHADOWED": "worker"}));
    let start = scene.env("SHADOWED", "runner").env("PASSED_ON", "yes").start().wait_for_start(1);
    let env = start.field("env");
    assert_eq!(env["COLOUR"], "never");
    assert_eq!(env["SHADOWED"], "worker");
    assert_eq!(env["PASSED_ON"], "yes");
    assert_eq!(env["PATH"], std::env::var("PATH").unwrap());
    assert_eq!(env["TASKCLUSTER_ROOT_URL"], "https://tc.example.com");
    let location: serde_json::Value =
        serde_json::from_str(env["TASKCLUSTER_WORKER_LOCATION"].as_str().unwrap()).unwrap();
    assert_eq!(location, json!({"cloud": "standalone", "room": "basement"}));
    assert_eq!(env.get("TASKCLUSTER_ACCESS_TOKEN"), None);
}

#[test]
fn credentials_are_in_the_environment_only_when_asked_for() {
    let scene = Scene::new().worker(["exit 0"]).set("worker.credentialsInEnvironment", true);
    let start = scene.start().wait_for_start(1);
    assert_eq!(start.field("env")["TASKCLUSTER_CLIENT_ID"], "client");
    assert_eq!(start.field("env")["TASKCLUSTER_ACCESS_TOKEN"], "made-up-access-token");
}

#[test]
fn a_worker_starts_in_a_process_group_of_its_own_without_the_runners_files_and_signals() {
    let scene = Scene::new().worker(["exit 0"]);
    let cwd = scene.path("").canonicalize().unwrap();
    let start = scene.set("worker.cwd", cwd.to_str().unwrap()).start().wait_for_start(1);
    assert_eq!(start.field("pgid"), start.pid());
    assert_eq!(start.text("cwd"), cwd.to_str().unwrap());
    assert_eq!(start.field("args"), &json!(["exit 0"]));
    assert_eq!(start.field("oom_score_adj"), 0);
    assert_eq!(start.text("blocked"), "0000000000000000");
    // Rust's start-up code ignores SIGPIPE (13) in the test worker, and glibc keeps 32 and 33 to itself.
    let beyond_our_reach = 1 << 12 | 1 << 31 | 1 << 32;
    let ignored = u64::from_str_radix(start.text("ignored"), 16).unwrap();
    assert_eq!(ignored & !beyond_our_reach, 0, "{ignored:x}");
    let open: Vec<&String> = start.field("fds").as_object().unwrap().keys().collect();
    assert_eq!(open, ["0", "1", "2"]);
}

#[test]
fn the_workers_oom_score_is_its_own_and_not_the_runners() {
    let runner = Scene::new().worker(["wait"]).set("worker.oomScoreAdj", 300).start();
    assert_eq!(runner.wait_for_start(1).field("oom_score_adj"), 300);
    let runners = fs::read_to_string(format!("/proc/{}/oom_score_adj", runner.pid())).unwrap();
    // -1000 where the kernel allows it, otherwise the test's own score.
    let before = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert!(runners == "-1000\n" || runners == before, "{runners}");
}

#[test]
fn generic_worker_is_started_with_its_own_arguments_first() {
    let scene = Scene::generic_worker().worker(["exit 0"]);
    let config = scene.path("worker.json");
    let start = scene.start().wait_for_start(1);
    let expected = json!(["run", "--config", config.to_str().unwrap(), "--with-worker-runner", "exit 0"]);
    assert_eq!(start.field("args"), &expected);
}

#[test]
fn a_worker_runs_as_the_user_that_it_should() {
    if !is_root() {
        eprintln!("skipped: changing the user needs root");
        return;
    }
    // The user must reach the program and the record.
    let scene = Scene::new().worker(["exit 0"]).set("worker.user", "nobody").set("worker.cwd", "/");
    let program = scene.path("test-worker");
    copy_program(&crate::harness::test_worker(), &program);
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
    fs::write(scene.path("record"), "").unwrap();
    fs::set_permissions(scene.path("record"), Permissions::from_mode(0o666)).unwrap();
    let scene = scene.set("worker.path", program.to_str().unwrap());
    let start = scene.set("worker.configPath", serde_json::Value::Null).start().wait_for_start(1);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(start.field("uid"), nobody.uid.as_raw());
    assert_eq!(start.field("gid"), nobody.gid.as_raw());
    let own_groups = start.text("groups").split_whitespace().filter(|group| *group == "0").count();
    assert_eq!(own_groups, 0, "root's group is still there: {}", start.text("groups"));
}

#[test]
fn a_worker_that_cannot_be_executed_is_exit_1() {
    for path in ["/no/such/worker", "/etc/passwd"] {
        let ended = Scene::new().set("worker.path", path).start().ended();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        assert!(ended.log.contains(path), "{}", ended.log);
        assert_eq!(ended.host_commands, [""; 0]);
    }
}

#[test]
fn a_second_runner_for_the_same_worker_says_who_holds_it_and_exits_with_1() {
    let first = Scene::new().worker(["wait"]).start();
    first.wait_for_start(1);
    let second = Scene::new().worker(["wait"]).set("provider.workerID", first.worker_id());
    let folder = first.path("");
    let ended = second.env("RUNTIME_DIRECTORY", folder.to_str().unwrap()).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    assert!(ended.log.contains(&first.pid().to_string()), "{}", ended.log);
}
