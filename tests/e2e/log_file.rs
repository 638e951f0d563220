//! The log in a file, which logrotate copies and cuts while start-worker goes on: docs/operations.md.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use crate::harness::{Scene, eventually};

#[test]
fn a_log_file_that_logrotate_copies_and_cuts_goes_on_at_its_beginning() {
    let scene = Scene::new();
    let more = scene.path("more");
    let scene = scene.worker([
        "on now: exit 0".to_owned(),
        "hello all".to_owned(),
        "lines 100 100".to_owned(),
        "print before".to_owned(),
        format!("wait-file {}", more.display()),
        "print after".to_owned(),
        "wait".to_owned(),
    ]);
    let (config, log) = (scene.write(), scene.path("start-worker.log"));
    // As systemd's `StandardError=append:` opens it.
    let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    command.arg(&config).env("STATE_DIRECTORY", scene.path("")).env("RUNTIME_DIRECTORY", scene.path(""));
    let mut runner = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    let read = || fs::read_to_string(&log).unwrap();
    eventually(|| read().contains("] before").then_some(())).expect("the worker's first lines");

    // What `copytruncate` does.
    let old = scene.path("start-worker.log.1");
    fs::copy(&log, &old).unwrap();
    OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    fs::write(&more, "").unwrap();
    eventually(|| read().contains("] after").then_some(())).expect("the worker's last line");
    let new = read();
    assert!(!new.contains('\0') && new.len() < 2000, "a hole, or the old lines: {new:?}");
    assert!(fs::read_to_string(&old).unwrap().contains("start-worker starts"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(runner.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(runner.wait().unwrap().success());
    assert!(read().contains("start-worker ends"), "{}", read());
}
