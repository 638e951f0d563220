//! What the service manager is told: its socket is the test's own.

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{DEADLINE, Runner, Scene};

/// What a service manager has been told, datagram by datagram.
struct Manager {
    told: mpsc::Receiver<String>,
    before: Vec<String>,
}

impl Manager {
    /// Gives the scene a service manager.
    fn of(scene: Scene) -> (Self, Scene) {
        let path = scene.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (sender, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(size) = socket.recv(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..size]).into_owned()).is_err() {
                    return;
                }
            }
        });
        (Self { told, before: Vec::new() }, scene.env("NOTIFY_SOCKET", path.to_str().unwrap()))
    }

    /// Waits for a datagram that holds this; all that came before it is in `before`.
    #[track_caller]
    fn wait_for(&mut self, runner: &Runner, text: &str) -> String {
        loop {
            let Ok(told) = self.told.recv_timeout(DEADLINE) else {
                panic!("{text:?} was not told, but {:#?}\n{runner}", self.before)
            };
            self.before.push(told.clone());
            if told.contains(text) {
                return told;
            }
        }
    }

    /// All that is told until the runner's end.
    fn all(mut self) -> Vec<String> {
        self.before.extend(self.told.try_iter());
        self.before
    }
}

fn is_ready(told: &str) -> bool {
    told.lines().any(|line| line == "READY=1")
}

#[test]
fn ready_is_told_when_the_worker_has_been_started_and_what_goes_on_in_words() {
    let scene = Scene::new().worker(["on SIGTERM: exit 0", "wait"]);
    let (mut manager, scene) = Manager::of(scene);
    let runner = scene.start();
    let ready = manager.wait_for(&runner, "READY=1");
    let pid = runner.wait_for_event("start").pid();
    assert_eq!(ready, format!("READY=1\nSTATUS=running command (pid {pid}), pool pp/ww"));
    assert!(manager.before[0].starts_with("EXTEND_TIMEOUT_USEC="), "{:?}", manager.before);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    manager.wait_for(&runner, "STATUS=stopped as asked");
    let all = manager.all();
    assert_eq!(all.iter().filter(|told| is_ready(told)).count(), 1, "{all:#?}");
    assert!(all.iter().any(|told| told == "STOPPING=1"), "{all:#?}");
    assert!(all.iter().any(|told| told.starts_with("STATUS=stopping command (pid ")), "{all:#?}");
}

#[test]
fn a_worker_that_cannot_be_started_is_never_told_to_be_ready() {
    let scene = Scene::new().set("worker.path", "/nowhere/worker");
    let (mut manager, scene) = Manager::of(scene);
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(1));
    manager.wait_for(&runner, "STATUS=the worker could not be started");
    let all = manager.all();
    assert!(!all.iter().any(|told| is_ready(told)), "{all:#?}");
}

#[test]
fn a_reload_is_told_to_have_begun_and_to_be_over() {
    let (mut manager, scene) = Manager::of(Scene::new().worker(["on SIGTERM: exit 0", "wait"]));
    let runner = scene.start();
    manager.wait_for(&runner, "READY=1");
    runner.signal(Signal::SIGHUP);
    let reloading = manager.wait_for(&runner, "RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    manager.wait_for(&runner, "READY=1");
}

#[test]
fn heartbeats_come_while_the_supervisor_goes_on_and_end_when_it_is_frozen() {
    let (mut manager, scene) = Manager::of(Scene::new().worker(["on SIGTERM: exit 0", "wait"]));
    let runner = scene.env("WATCHDOG_USEC", "200000").start();
    manager.wait_for(&runner, "READY=1");
    for _ in 0..5 {
        manager.wait_for(&runner, "WATCHDOG=1");
    }
    runner.signal(Signal::SIGSTOP);
    // What was on its way; then silence.
    while manager.told.recv_timeout(Duration::from_secs(1)).is_ok() {}
    runner.signal(Signal::SIGCONT);
    manager.wait_for(&runner, "WATCHDOG=1");
}

#[test]
fn heartbeats_of_another_process_are_not_given() {
    let (mut manager, scene) = Manager::of(Scene::new().worker(["on SIGTERM: exit 0", "wait"]));
    let runner = scene.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1").start();
    manager.wait_for(&runner, "READY=1");
    runner.signal(Signal::SIGTERM);
    runner.ended();
    let all = manager.all();
    assert!(!all.iter().any(|told| told.contains("WATCHDOG=1")), "{all:#?}");
}

#[test]
fn a_crash_is_told_while_the_worker_waits_to_be_started_again() {
    let scene = Scene::new().worker(["start 1: exit 7", "on SIGTERM: exit 0", "wait"]);
    let scene = scene.set("supervision.backoff", json!({"initial": "300ms", "max": "300ms"}));
    let (mut manager, scene) = Manager::of(scene);
    let runner = scene.start();
    manager.wait_for(&runner, "waiting before command is started again, pool pp/ww; exit code 7");
    manager.wait_for(&runner, "running command (pid ");
}

#[test]
fn the_worker_sees_nothing_of_the_service_manager() {
    let (mut manager, scene) = Manager::of(Scene::new().worker(["on SIGTERM: exit 0", "wait"]));
    let scene = scene.env("WATCHDOG_USEC", "60000000").env("JOURNAL_STREAM", "1:2").env("LISTEN_FDS", "0");
    let runner = scene.start();
    manager.wait_for(&runner, "READY=1");
    let pid = runner.wait_for_event("start").pid();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "JOURNAL_STREAM", "INVOCATION_ID", "MAINPID"] {
        assert!(!environment.split('\0').any(|entry| entry.starts_with(name)), "{name}: {environment}");
    }
}
