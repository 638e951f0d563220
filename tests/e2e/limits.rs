//! Limits that the runner is started with, and a program that is being replaced.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::support::{Scene, test_worker};

#[test]
fn with_few_descriptors_the_runner_works_or_says_so_before_there_is_a_worker_and_never_panics() {
    for limit in 4..=40 {
        let ended = Scene::new()
            .worker(["hello all", "exit 0"])
            .through(["prlimit", &format!("--nofile={limit}:{limit}")])
            .start()
            .ended();
        let refused = ended.code == Some(1) && ended.starts() == 0 && ended.log.contains("file descriptors");
        let worked = ended.code == Some(0) && ended.starts() == 1;
        assert!(
            (refused || worked) && !ended.log.contains("panicked"),
            "{limit}: {:?}\n{}",
            ended.code,
            ended.log
        );
    }
}

#[test]
fn a_program_that_is_open_for_writing_is_tried_again_until_it_is_not() {
    let scene = Scene::new().worker(["exit 0"]).set("supervision.maxRestarts", 1000);
    let program = scene.path("busy-worker");
    fs::copy(test_worker(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let writer = OpenOptions::new().append(true).open(&program).unwrap();
    let runner = scene.set("worker.path", program.to_str().unwrap()).start();
    runner.wait_for_log("worker cannot be started now");
    drop(writer);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert!(ended.log.contains("Text file busy"), "{}", ended.log);
}

#[test]
fn what_does_not_pass_by_itself_ends_the_runner_at_its_first_start() {
    let not_executable = Scene::new();
    let script = not_executable.path("script");
    fs::write(&script, "not a program\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o644)).unwrap();
    for path in [script.to_str().unwrap(), "/no/such/worker"] {
        let ended = Scene::new().set("worker.path", path).start().ended();
        assert_eq!(ended.code, Some(1), "{path}: {}", ended.log);
        assert_eq!(ended.log.matches("worker cannot be started").count(), 1, "{path}: {}", ended.log);
    }
    let scene = Scene::new().set("worker.user", "nobody-of-this-name");
    let ended = scene.start().ended();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("nobody-of-this-name"), "{}", ended.log);
}
