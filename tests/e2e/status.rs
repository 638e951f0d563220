//! The status socket, and the commands that speak to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::scene::ACCESS_TOKEN;
use crate::harness::{DEADLINE, Runner, Scene, copy_program, eventually, is_root};

/// Finishes its tasks when the test says so.
const PATIENT: [&str; 4] = ["on now: exit 0", "hello all", "print ready", "wait"];

/// With a socket in its folder.
fn open(scene: Scene) -> Scene {
    let path = scene.path("status.sock");
    scene.set("status.socket", path.to_str().unwrap())
}

fn patient() -> Scene {
    let scene = open(Scene::new());
    let finish = format!("on finish: wait-file {} ; exit 0", scene.path("finish").display());
    scene.worker([&[finish.as_str()][..], &PATIENT].concat())
}

fn ready(scene: Scene) -> Runner {
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner
}

fn command(command: &str, options: &[&str], socket: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .arg(command)
        .args(options)
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, stdout and stderr.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn say(name: &str, options: &[&str], socket: &Path) -> (Option<i32>, String, String) {
    outcome(&command(name, options, socket).wait_with_output().unwrap())
}

fn fine(text: &str) -> (Option<i32>, String, String) {
    (Some(0), text.to_owned(), String::new())
}

fn socket(runner: &Runner) -> PathBuf {
    runner.path("status.sock")
}

#[track_caller]
fn status(runner: &Runner) -> Value {
    let (code, stdout, stderr) = say("status", &["--json"], &socket(runner));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{runner}");
    serde_json::from_str(&stdout).unwrap()
}

/// Also before there is a socket.
#[track_caller]
fn wait_for_state(runner: &Runner, state: &str) -> Value {
    let mut last = None;
    let found = eventually(|| {
        let (code, stdout, stderr) = say("status", &["--json"], &socket(runner));
        let seen = (code == Some(0)).then(|| serde_json::from_str::<Value>(&stdout).unwrap());
        last = Some((stdout, stderr));
        seen.filter(|seen| seen["state"] == state)
    });
    found.unwrap_or_else(|| panic!("never {state}, last {last:?}\n{runner}"))
}

/// Waits until so many drains have been asked for.
#[track_caller]
fn wait_for_drains(runner: &Runner, count: usize) {
    let asked = || runner.log().matches("asked to drain through the status socket").count();
    assert!(eventually(|| (asked() == count).then_some(())).is_some(), "{} of {count}\n{runner}", asked());
}

/// A connection of one's own.
pub(super) struct Client(BufReader<UnixStream>);

impl Client {
    pub(super) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// `None`: the connection was closed.
    fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    pub(super) fn ask(&mut self, request: &[u8]) -> Value {
        self.send(request);
        self.answer().expect("an answer")
    }
}

#[test]
fn the_status_tells_what_the_runner_is_doing_and_who_the_worker_is() {
    let runner = ready(patient());
    let seen = status(&runner);
    let worker = runner.wait_for_start(1).pid();
    let since: jiff::Timestamp = seen["since"].as_str().unwrap().parse().unwrap();
    assert!(since <= jiff::Timestamp::now(), "{since}");
    // The whole is in tests/monitoring.
    for (key, expected) in [
        ("state", json!("running")),
        ("reason", Value::Null),
        ("unhealthy", Value::Null),
        ("workerPid", json!(worker)),
        ("pid", json!(runner.pid())),
        ("workerPoolID", json!("pp/ww")),
        ("workerGroup", json!("wg")),
        ("workerID", json!(runner.worker_id())),
        ("rootURL", json!("https://tc.example.com")),
        ("providerType", json!("standalone")),
        ("credentialsExpire", Value::Null),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(seen[key], expected, "{key}");
    }

    let (code, words, _) = say("status", &[], &socket(&runner));
    assert_eq!(code, Some(0));
    for line in ["state         running, since ", &format!("worker        command, pid {worker}\n")] {
        assert!(words.contains(line), "{words}");
    }
    assert!(!words.contains(ACCESS_TOKEN));

    assert_eq!(say("drain", &[], &socket(&runner)), fine("asked to drain\n"));
    let draining = wait_for_state(&runner, "draining");
    assert_eq!((&draining["reason"], &draining["workerPid"]), (&json!("operator"), &json!(worker)));
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert!(!socket(&runner).exists(), "the socket is still there");
}

#[test]
fn a_drain_asks_the_worker_as_sigusr1_does_and_can_be_waited_for() {
    let runner = ready(patient());
    let waiting = [command("drain", &["--wait"], &socket(&runner)), {
        runner.wait_for_graceful_termination(true);
        command("drain", &["--wait"], &socket(&runner))
    }];
    wait_for_drains(&runner, 2);
    assert_eq!(status(&runner)["state"], "draining");
    std::fs::write(runner.path("finish"), "").unwrap();
    for waiting in waiting {
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(outcome(&output), fine("drained: stopped as asked\n"));
    }
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert_eq!(crate::harness::messages(&ended.events), ["welcome", "finish"]);
}

#[test]
fn a_drain_is_over_for_who_waits_whatever_ends_the_runner() {
    let runner = ready(patient());
    let waiting = command("drain", &["--wait"], &socket(&runner));
    runner.wait_for_graceful_termination(true);
    runner.signal(Signal::SIGKILL);
    let (code, stdout, stderr) = outcome(&waiting.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("has ended without an answer"), "{stderr}");
}

/// A runner that was drained, rebooted by its worker, and holds. The second start's worker is a patient one.
fn holding() -> Runner {
    let before = Scene::new().worker(["on finish: exit 67", "hello all", "print ready", "wait"]);
    let before = ready(open(before));
    assert_eq!(say("drain", &["--wait", "--once"], &socket(&before)).0, Some(0));
    let ended = before.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(before.path("held").exists(), "{}", ended.log);
    let after = patient();
    std::fs::copy(before.path("held"), after.path("held")).unwrap();
    after.start()
}

#[test]
fn a_drained_host_holds_after_its_reboot_until_it_is_resumed() {
    let runner = holding();
    runner.wait_for_log("holding");
    let held = wait_for_state(&runner, "holding");
    assert_eq!((&held["workerPid"], &held["workerID"]), (&Value::Null, &json!(runner.worker_id())));
    assert!(runner.events().is_empty());
    assert_eq!(say("resume", &[], &socket(&runner)), fine("resumed\n"));
    assert!(!runner.path("held").exists());
    runner.wait_for_log("ready");
    assert_eq!(wait_for_state(&runner, "running")["pid"], runner.pid());
    assert_eq!(say("resume", &[], &socket(&runner)), fine("not holding\n"));
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_drain_of_a_host_that_holds_ends_the_runner_and_leaves_the_mark() {
    let runner = holding();
    wait_for_state(&runner, "holding");
    assert_eq!(say("drain", &["--wait"], &socket(&runner)), fine("drained: stopped as asked\n"));
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert!(runner.path("held").exists());
}

#[test]
fn of_many_who_resume_at_once_one_has_done_it() {
    let runner = holding();
    wait_for_state(&runner, "holding");
    let path = socket(&runner);
    let all: Vec<Child> = (0..8).map(|_| command("resume", &[], &path)).collect();
    let said: Vec<_> = all.into_iter().map(|one| outcome(&one.wait_with_output().unwrap())).collect();
    assert_eq!(said.iter().filter(|said| **said == fine("resumed\n")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| **said == fine("not holding\n")).count(), 7, "{said:?}");
    runner.wait_for_log("ready");
}

#[test]
fn a_drain_while_the_runner_prepares_ends_it() {
    let scene = open(Scene::new()).worker(PATIENT);
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let runner = scene.set("provider.rootURL", url).set("getSecrets", true).start();
    wait_for_state(&runner, "preparing");
    assert_eq!(say("drain", &["--wait"], &socket(&runner)), fine("drained: stopped as asked\n"));
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn the_socket_is_for_its_owner_alone_and_replaces_a_dead_runners() {
    let scene = open(Scene::new());
    let folder = scene.path("run/inner");
    let path = folder.join("s.sock");
    let runner = ready(scene.worker(PATIENT).set("status.socket", path.to_str().unwrap()));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
    runner.signal(Signal::SIGKILL);
    runner.ended();
    let (code, _, stderr) = say("status", &[], &path);
    assert_eq!(code, Some(1));
    let told = format!("error: no start-worker listens at {}: Connection refused", path.display());
    assert!(stderr.starts_with(&told) && stderr.lines().count() == 1, "{stderr}");

    let next = ready(Scene::new().worker(PATIENT).set("status.socket", path.to_str().unwrap()));
    assert_eq!(say("status", &[], &path).0, Some(0));
    assert!(!next.log().contains("WARN"), "{next}");
}

#[test]
fn another_user_is_refused_also_where_the_file_lets_them_in() {
    if !is_root() {
        return; // only root can become another user
    }
    let runner = ready(patient());
    let (path, program) = (socket(&runner), runner.path("start-worker"));
    copy_program(env!("CARGO_BIN_EXE_start-worker").as_ref(), &program);
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(&program, 0o755);
    allow(&runner.path(""), 0o711);
    let drain = || {
        let mut command = Command::new(&program);
        command.arg("drain").arg("--socket").arg(&path).current_dir("/").uid(65_534).gid(65_534);
        outcome(&command.output().unwrap())
    };
    for (mode, told) in [
        (0o600, "may not speak to the start-worker at"),
        (0o666, "refuses: only root and the runner's own user"),
    ] {
        allow(&path, mode);
        let (code, stdout, stderr) = drain();
        assert!(code == Some(1) && stdout.is_empty() && stderr.contains(told), "{stderr}");
    }
    assert_eq!(status(&runner)["state"], "running");
}

#[test]
fn a_second_runner_with_the_same_socket_warns_and_goes_on() {
    let first = ready(patient());
    let path = socket(&first);
    let second = ready(Scene::new().worker(PATIENT).set("status.socket", path.to_str().unwrap()));
    let log = second.log();
    assert!(log.contains("cannot open the status socket") && log.contains("another start-worker"), "{log}");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().code, Some(0));
    assert_eq!(status(&first)["pid"], first.pid());
}

#[test]
fn what_is_in_the_sockets_place_is_left_alone_with_a_warning() {
    let scene = open(Scene::new()).worker(PATIENT);
    std::fs::write(scene.path("status.sock"), "precious").unwrap();
    let runner = ready(scene);
    assert!(runner.log().contains("what is there is no socket"), "{runner}");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(std::fs::read_to_string(socket(&runner)).unwrap(), "precious");
}

#[test]
fn without_a_path_both_sides_meet_in_the_runtime_directory() {
    let scene = Scene::new().worker(PATIENT).set("status", json!({}));
    let folder = scene.path("");
    let runner = ready(scene);
    let output = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .args(["status", "--json"])
        .env("RUNTIME_DIRECTORY", &folder)
        .output()
        .unwrap();
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["pid"], runner.pid());
}

#[test]
fn no_socket_is_made_where_none_is_wanted() {
    let runner = ready(Scene::new().worker(PATIENT));
    assert!(!socket(&runner).exists());
    let (code, _, stderr) = say("drain", &[], &socket(&runner));
    assert!(code == Some(1) && stderr.contains("no start-worker listens at"), "{stderr}");
}

#[test]
fn garbage_is_answered_with_an_error_and_harms_nobody() {
    let runner = ready(patient());
    let mut client = Client::connect(&socket(&runner));
    for request in [&b"\n"[..], b"status\n", b"\xff\x00\xfe\n", b"[[[[\n", b"{\"request\":\"stop\"}\n"] {
        let answer = client.ask(request);
        assert!(answer["error"].as_str().unwrap().starts_with("not a request: "), "{answer}");
    }
    // The connection is still good, for requests in one piece or several.
    client.send(b"{\"request\":");
    assert_eq!(client.ask(b"\"status\"}\n")["state"], "running");
    client.send(b"{\"request\":\"status\"}\n{\"request\":\"resume\"}\n");
    assert_eq!(client.answer().unwrap()["state"], "running");
    assert_eq!(client.answer().unwrap(), json!({"resume": "not holding"}));
    // A last line without its end.
    client.send(b"{\"request\":\"status\"}");
    client.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.answer().unwrap()["state"], "running");
    assert_eq!(client.answer(), None);
    assert!(runner.is_running());
}

#[test]
fn a_huge_request_is_refused_and_its_connection_closed() {
    let runner = ready(patient());
    let mut client = Client::connect(&socket(&runner));
    let mut huge = client.0.get_ref().try_clone().unwrap();
    // It ends with an error, because the runner does not read all of it.
    let sending = std::thread::spawn(move || huge.write_all(&vec![b'x'; 16 << 20]).is_err());
    let answer = client.answer().unwrap();
    assert!(answer["error"].as_str().unwrap().contains("longer than"), "{answer}");
    assert!(sending.join().unwrap());
    assert_eq!(status(&runner)["state"], "running");
    runner.assert_small();
}

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    let runner = ready(patient());
    let path = socket(&runner);
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(&path);
                (0..10).all(|_| client.ask(b"{\"request\":\"status\"}\n")["state"] == "running")
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()), "{runner}");
    runner.assert_small();
}

#[test]
fn clients_that_never_read_or_never_speak_keep_nobody_waiting() {
    let runner = ready(patient());
    let path = socket(&runner);
    let silent: Vec<_> = (0..10).map(|_| Client::connect(&path)).collect();
    let deaf: Vec<_> = (0..10)
        .map(|_| {
            let stream = UnixStream::connect(&path).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut sender = &stream;
            // Until the answers that it does not read fill all buffers.
            while sender.write(b"{\"request\":\"status\"}\n").is_ok_and(|sent| sent > 0) {}
            stream
        })
        .collect();
    assert_eq!(status(&runner)["state"], "running");
    assert_eq!(say("drain", &[], &path), fine("asked to drain\n"));
    std::fs::write(runner.path("finish"), "").unwrap();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    for mut client in silent {
        assert_eq!(client.0.get_mut().read(&mut [0; 1]).unwrap(), 0);
    }
    drop(deaf);
}

#[test]
fn a_client_that_waits_for_a_drain_may_go_away() {
    let runner = ready(patient());
    for _ in 0..100 {
        let mut client = Client::connect(&socket(&runner));
        client.send(b"{\"request\":\"drain\",\"wait\":true}\n");
    }
    wait_for_drains(&runner, 100);
    let waiting = command("drain", &["--wait"], &socket(&runner));
    wait_for_drains(&runner, 101);
    std::fs::write(runner.path("finish"), "").unwrap();
    assert_eq!(outcome(&waiting.wait_with_output().unwrap()), fine("drained: stopped as asked\n"));
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn what_answers_nonsense_is_no_start_worker() {
    let scene = Scene::new();
    let path = scene.path("other.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).unwrap();
        stream.get_mut().write_all(b"220 mail.example.com\n").unwrap();
    });
    let (code, stdout, stderr) = say("status", &[], &path);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("is no start-worker"), "{stderr}");
}
