//! Notifications to the service manager, whose socket is the test's own.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::scene::ACCESS_TOKEN;
use crate::harness::{DEADLINE, Runner, Scene, eventually};

/// The notifications that a service manager has received, one datagram each.
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
    manager.wait_for(&runner, "STOPPING=1");
    let all = manager.all();
    assert_eq!(all.iter().filter(|told| is_ready(told)).count(), 1, "{all:#?}");
    assert!(all.iter().any(|told| told.starts_with("STATUS=stopping command (pid ")), "{all:#?}");
    assert_eq!(all.last().map(String::as_str), Some("STOPPING=1"), "{all:#?}");
}

#[test]
fn a_run_that_was_only_shown_is_no_failure() {
    let scene = Scene::new().set("worker", json!({"implementation": "dummy"}));
    let (mut manager, scene) = Manager::of(scene);
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(0));
    manager.wait_for(&runner, "STOPPING=1");
    let all = manager.all();
    assert!(all.iter().any(|told| is_ready(told)), "{all:#?}");
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
fn a_start_that_pauses_for_failed_runs_is_ready_and_says_why() {
    let state = tempfile::tempdir().unwrap();
    let scene = |script: &[&str]| {
        let scene = Scene::new().worker(script).set("supervision.restart", "never");
        scene.env("STATE_DIRECTORY", state.path().to_str().unwrap())
    };
    assert_eq!(scene(&["exit 3"]).start().ended().code, Some(1));
    let (mut manager, scene) = Manager::of(scene(&["wait"]));
    let runner = scene.start();
    let ready = manager.wait_for(&runner, "READY=1");
    let words = "STATUS=waiting before command is started again, pool pp/ww; 1 failed run in a row, the last because the worker crashed; the next start is at ";
    assert!(ready.contains(words), "{ready}");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_host_that_holds_is_ready_for_a_boot_does_not_wait_for_it() {
    let scene = Scene::new().worker(["on SIGTERM: exit 0", "wait"]);
    let socket = scene.path("status.sock");
    let scene = scene.set("status.socket", socket.to_str().unwrap());
    std::fs::write(scene.path("held"), "").unwrap();
    let (mut manager, scene) = Manager::of(scene);
    let runner = scene.start();
    let ready = manager.wait_for(&runner, "READY=1");
    assert!(ready.contains("STATUS=holding: "), "{ready}");
    let resume = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(["resume", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert!(resume.status.success(), "{resume:?}\n{runner}");
    manager.wait_for(&runner, "STATUS=running command (pid ");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    let all = manager.all();
    assert_eq!(all.iter().filter(|told| is_ready(told)).count(), 1, "{all:#?}");
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
    // Notifications already sent, then silence.
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

/// A journal's own socket: each entry as its fields.
fn journal_of(scene: Scene) -> (UnixDatagram, Scene) {
    let path = scene.path("journal");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (socket, scene.env("START_WORKER_JOURNAL_SOCKET", path.to_str().unwrap()))
}

/// Receives entries up to the first that holds this.
#[track_caller]
fn entries(journal: &UnixDatagram, runner: &Runner, until: &str) -> Vec<String> {
    let (mut buffer, mut entries) = (vec![0; 256 * 1024], Vec::new());
    loop {
        let Ok(size) = journal.recv(&mut buffer) else { panic!("no {until:?} in {entries:#?}\n{runner}") };
        entries.push(String::from_utf8_lossy(&buffer[..size]).into_owned());
        if entries.last().unwrap().contains(until) {
            return entries;
        }
    }
}

#[test]
fn the_journal_gets_fields_and_a_worker_cannot_forge_any() {
    let scene = Scene::new().set("logging.implementation", "journald");
    let scene = scene.worker(["raw MESSAGE=forged\\x01PRIORITY=0\\n", "err oh", "exit 0"]);
    let (journal, scene) = journal_of(scene);
    let runner = scene.start();
    let all = entries(&journal, &runner, "start-worker ends");
    let id = runner.worker_id();
    let whose =
        format!("TASKCLUSTER_WORKER_POOL=pp/ww\nTASKCLUSTER_WORKER_GROUP=wg\nTASKCLUSTER_WORKER_ID={id}\n");
    // It may already be known whose it is, by the time when the line is written.
    assert!(all[0].starts_with("SYSLOG_IDENTIFIER=start-worker\n"), "{}", all[0]);
    assert!(all[0].contains("\nPRIORITY=6\nMESSAGE=start-worker starts "), "{}", all[0]);
    assert!(all[0].contains("\nSTART_WORKER_PROVIDER=standalone\n"), "{}", all[0]);
    let of_worker = |stream: &str, text: &str| {
        format!(
            "SYSLOG_IDENTIFIER=command\n{whose}PRIORITY=6\nSTART_WORKER_STREAM={stream}\nMESSAGE={text}\n"
        )
    };
    assert!(all.contains(&of_worker("stdout", "MESSAGE=forged\u{1}PRIORITY=0")), "{all:#?}");
    assert!(all.contains(&of_worker("stderr", "oh")), "{all:#?}");
    assert!(all.last().unwrap().contains(&whose), "{all:#?}");
    assert_eq!(runner.ended().log, "");
}

#[test]
fn no_secret_gets_into_an_entry_of_the_journal_whatever_the_runner_logs() {
    let report = json!({
        "type": "error-report", "kind": ACCESS_TOKEN, "title": ACCESS_TOKEN,
        "description": format!("two lines\nand {ACCESS_TOKEN}"), "extra": {"token": ACCESS_TOKEN},
    });
    let scene = Scene::new().set("logging.implementation", "journald").set("worker.configPath", Value::Null);
    let scene = scene.worker(["hello all", &format!("send {report}"), "exit 7"]);
    let (journal, scene) = journal_of(scene.set("supervision.restart", "never"));
    let runner = scene.env("START_WORKER_LOG", "trace").start();
    let all = entries(&journal, &runner, "start-worker ends");
    let reported = all.iter().find(|entry| entry.contains("MESSAGE=worker reports an error")).unwrap();
    assert!(reported.contains("\nSTART_WORKER_EVENT=worker-reported-error\n"), "{reported}");
    let exited = all.iter().find(|entry| entry.contains("MESSAGE=worker exited")).unwrap();
    assert!(exited.contains("\nSTART_WORKER_EVENT=worker-exited\n"), "{exited}");
    assert!(exited.contains("\nMESSAGE_ID="), "{exited}");
    assert!(reported.contains("\nSTART_WORKER_KIND=(masked)\n"), "{reported}");
    // The worker's own output is its own affair.
    let of_runner = all.iter().filter(|entry| entry.starts_with("SYSLOG_IDENTIFIER=start-worker\n"));
    assert!(of_runner.clone().count() > 10, "{all:#?}");
    for entry in of_runner {
        runner.assert_no_secrets(entry.as_bytes());
    }
}

#[test]
fn a_metadata_service_that_does_not_answer_is_told() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", silent.local_addr().unwrap());
    let scene = Scene::new().set("provider", json!({"providerType": "google"}));
    let (mut manager, scene) = Manager::of(scene.env("START_WORKER_GCE_METADATA_URL", &origin));
    let runner = scene.start();
    let told = manager.wait_for(&runner, "trying again: ");
    // The start of the service is not to wait for it.
    assert!(told.starts_with("READY=1\nSTATUS=preparing: "), "{told}");
    assert!(told.contains(&format!("trying again: {origin}/computeMetadata/")), "{told}");
    assert!(told.ends_with(": no answer within 2s"), "{told}");
    runner.signal(Signal::SIGTERM);
    runner.ended();
}

#[test]
fn without_a_journal_the_log_goes_to_stderr_with_a_warning() {
    let scene = Scene::new().set("logging.implementation", "journald").worker(["print here", "exit 0"]);
    let ended = scene.env("START_WORKER_JOURNAL_SOCKET", "/nowhere/socket").start().ended();
    assert!(ended.log.contains("no journal listens at /nowhere/socket"), "{}", ended.log);
    assert!(ended.log.contains("[worker] here"), "{}", ended.log);
}

#[test]
fn a_journal_that_is_gone_does_not_stop_the_worker() {
    let scene = Scene::new().set("logging.implementation", "journald");
    let (journal, scene) = journal_of(scene);
    let go = scene.path("go");
    let scene = scene.worker([
        format!("wait-file {}", go.display()),
        "lines 1000 100".to_owned(),
        "exit 0".to_owned(),
    ]);
    let runner = scene.start();
    entries(&journal, &runner, "worker started");
    drop(journal);
    std::fs::write(go, "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

/// A socket at this path whose queue is full, because it is not read.
fn full_socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    // One sender can fill only a part of the queue.
    let fill = || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        (0..1_000_000).take_while(|_| sender.send_to(b"x", path).is_ok()).count()
    };
    while fill() > 0 {}
    socket
}

#[test]
fn a_journal_and_a_service_manager_that_never_read_keep_neither_status_nor_a_stop_waiting() {
    let scene = Scene::new().set("logging.implementation", "journald");
    let [journal, notify, socket] = ["journal", "notify", "status.sock"].map(|name| scene.path(name));
    let _never_read = [&journal, &notify].map(|path| full_socket(path));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let scene = scene
        .env("START_WORKER_JOURNAL_SOCKET", &text(&journal))
        .env("NOTIFY_SOCKET", &text(&notify))
        .set("status.socket", text(&socket))
        .worker(["on now: exit 0", "hello all", "lines 10000 100", "wait"]);
    let runner = scene.start();
    runner.wait_for_event("message");
    let status = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
        let output = command.args(["status", "--json", "--socket"]).arg(&socket).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).ok()
    };
    eventually(status).unwrap_or_else(|| panic!("no status\n{runner}"));
    runner.signal(Signal::SIGHUP);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
}

#[test]
fn records_of_json_say_whose_they_are_once_that_is_known() {
    let scene = Scene::new().set("logging.implementation", "json").worker(["print here", "exit 0"]);
    let runner = scene.start();
    let log = runner.ended().log;
    let records: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (key, text) in [("message", "here"), ("message", "worker exited")] {
        let record = records.iter().find(|record| record[key] == text).unwrap();
        assert_eq!(
            (&record["workerPool"], &record["workerGroup"], &record["workerId"]),
            (&json!("pp/ww"), &json!("wg"), &json!(runner.worker_id())),
            "{log}"
        );
    }
}

#[test]
fn lines_have_priorities_and_no_time_where_a_journal_reads_them() {
    // The runner's stderr is a pipe of the test's; a shell tells the runner which.
    let scene = Scene::new().worker(["print here", "err there", "exit 0"]);
    let path = scene.write();
    let script = format!(
        "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec {} {} ",
        env!("CARGO_BIN_EXE_start-worker"),
        path.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("RUNTIME_DIRECTORY", path.parent().unwrap())
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    for line in ["<6>[worker] here\n", "<6>[stderr] there\n", "<6>INFO  start-worker starts version="] {
        assert!(log.contains(line), "{line:?}: {log}");
    }
    assert!(log.lines().all(|line| line.starts_with('<') && line.as_bytes()[2] == b'>'), "{log}");
}
