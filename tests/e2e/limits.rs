//! Limits that the runner is started with, and a program that is being replaced.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::harness::{Scene, copy_program, is_root, test_worker, write_program};

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
    copy_program(&test_worker(), &program);
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

/// The worker's program is this file.
fn program(scene: Scene, content: &[u8]) -> Scene {
    let path = scene.path("program");
    write_program(&path, content);
    scene.set("worker.path", path.to_str().unwrap())
}

#[test]
fn a_file_that_is_no_program_is_never_given_to_a_shell_and_ends_the_runner_with_the_reason() {
    for content in [&b"exit 0\n"[..], b"", b"\x7fELF\x02\x01\x01\0half of it"] {
        let ended = program(Scene::new(), content).start().ended();
        assert_eq!(ended.code, Some(1), "{content:?}: {}", ended.log);
        assert_eq!(ended.log.matches("worker cannot be started").count(), 1, "{content:?}: {}", ended.log);
        for said in ["/program: Exec format error (os error 8) (it is empty or damaged", "see worker.path"] {
            assert!(ended.log.contains(said), "{content:?}: no {said}\n{}", ended.log);
        }
    }
    let ended = program(Scene::new(), b"#!/bin/sh\nexit 0\n").start().ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

#[test]
fn a_program_on_a_noexec_mount_ends_the_runner_and_the_mount_is_named() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = Scene::new();
    let place = scene.path("noexec");
    fs::create_dir(&place).unwrap();
    let in_namespace = || {
        // In a mount namespace of this thread, which its children share.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("noexec"), &place, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
        let worker = place.join("worker");
        copy_program(&test_worker(), &worker);
        let runner = scene.set("worker.path", worker.to_str().unwrap()).start();
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
        let said = format!("its file system, {}, is mounted noexec", place.display());
        assert_eq!(ended.log.matches("worker cannot be started").count(), 1, "{}", ended.log);
        assert!(ended.log.contains(&said) && ended.log.contains("Permission denied"), "{}", ended.log);
        runner
    };
    std::thread::scope(|scope| {
        let runner = scope.spawn(in_namespace).join();
        drop(runner.unwrap_or_else(|failure| std::panic::resume_unwind(failure)));
    });
}

/// An unused account: `RLIMIT_NPROC` counts the processes of an account, and does not apply to root.
const ACCOUNT: &str = "61987";

#[test]
fn with_few_processes_the_runner_says_so_before_or_instead_of_a_worker_and_never_panics() {
    if !is_root() {
        eprintln!("skipped: only root can run the runner as an account of nobody's");
        return;
    }
    // A folder that the account can access.
    let programs = tempfile::tempdir().unwrap();
    fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).unwrap();
    let runner = programs.path().join("runner").display().to_string();
    copy_program(env!("CARGO_BIN_EXE_start-worker").as_ref(), runner.as_ref());
    let mut seen = [false; 3];
    for limit in 1..=16 {
        let scene = Scene::new().set("worker.path", "true").set("supervision.maxRestarts", 0);
        let folder = scene.path("").display().to_string();
        let as_account = format!("setpriv --reuid={ACCOUNT} --regid={ACCOUNT} --clear-groups");
        let limited =
            format!("exec {as_account} prlimit --nproc={limit}:{limit} {runner} {folder}/runner.yml");
        let ended = scene.after(format!("chown -R {ACCOUNT} {folder} && {limited}")).start().ended();
        let names_limit = ended.log.contains("ulimit -u") && ended.log.contains("TasksMax=");
        let outcome = match ended.code {
            Some(1) if names_limit && ended.log.contains("worker cannot be started now") => Enough::Threads,
            Some(1) if names_limit => Enough::Nothing,
            Some(0) => Enough::Worker,
            other => panic!("{limit}: {other:?}\n{}", ended.log),
        };
        assert!(!ended.log.contains("panicked"), "{limit}: {}", ended.log);
        seen[outcome as usize] = true;
    }
    assert_eq!(seen, [true; 3], "for no thread, for no child, for both");
}

/// The start that a number of processes allows.
#[derive(Clone, Copy)]
enum Enough {
    Nothing,
    Threads,
    Worker,
}

/// The main thread, the runtime's, three for calls that can hang, and the output's.
const THREADS: usize = 6;

#[test]
fn all_threads_of_a_runner_exist_before_its_first_worker_and_no_more_are_made() {
    let scene = Scene::new();
    let go = scene.path("go").display().to_string();
    let script =
        [&format!("start 1: wait-file {go}"), "start 1: exit 1", "on now: exit 0", "hello all", "wait"];
    let runner = scene.worker(script).start();
    let threads = || fs::read_dir(format!("/proc/{}/task", runner.pid())).unwrap().count();
    runner.wait_for_start(1);
    assert_eq!(threads(), THREADS, "{runner}");
    fs::write(go, "").unwrap();
    runner.wait_for_start(2);
    runner.wait_for_event("message");
    runner.signal(Signal::SIGHUP);
    runner.wait_for_log("SIGHUP");
    assert_eq!(threads(), THREADS, "{runner}");
}
