//! A disk that does not answer: whatever path is on it, the runner answers, ends, and says which path it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::harness::hung_disk::{HungDisk, Wait, somebody_waits, with_hung_disk};
use crate::harness::{Runner, Scene, eventually, is_root, write_program};

const SECRET: &str = "made-up-secret-of-forty-four-characters-1234";

/// Puts one path of the runner on the disk.
type Place = (&'static str, fn(Scene, &HungDisk) -> Scene);

const PLACES: [Place; 16] = [
    ("cacheOverRestarts", |scene, disk| scene.set("cacheOverRestarts", text(&disk.path("cache.json")))),
    ("worker.path", |scene, disk| scene.set("worker.path", text(&disk.path("worker")))),
    ("worker.configPath", |scene, disk| scene.set("worker.configPath", text(&disk.path("worker.json")))),
    ("worker.cwd", |scene, disk| scene.set("worker.cwd", text(&disk.path("")))),
    ("status.socket", |scene, disk| scene.set("status.socket", text(&disk.path("status.sock")))),
    ("state directory", |scene, disk| scene.env("STATE_DIRECTORY", &text(&disk.path("")))),
    ("runtime directory", |scene, disk| scene.env("RUNTIME_DIRECTORY", &text(&disk.path("")))),
    ("autologin.root", |scene, disk| scene.set("autologin.root", text(&disk.path("")))),
    ("SSL_CERT_FILE", |scene, disk| over_tls(scene).env("SSL_CERT_FILE", &text(&disk.path("certificates")))),
    ("SSL_CERT_DIR", |scene, disk| over_tls(scene).env("SSL_CERT_DIR", &text(&disk.path("certificates")))),
    ("PATH, for a worker.path without a slash", |scene, disk| {
        scene.set("worker.path", "sleep").env("PATH", &before_path(disk))
    }),
    ("a script's interpreter", |scene, disk| {
        let script = scene.path("worker.sh");
        write_program(&script, format!("#!{}\n", text(&disk.path("interpreter"))));
        scene.set("worker.path", text(&script))
    }),
    ("docker-worker's folder", |scene, disk| {
        scene
            .set("worker.implementation", "docker-worker")
            .set("worker.path", text(&disk.path("docker-worker")))
    }),
    ("host.shutdownCommand", |scene, disk| shut_down_by(scene, &text(&disk.path("shutdown")))),
    ("PATH, for a host command without a slash", |scene, disk| {
        shut_down_by(scene, "true").env("PATH", &before_path(disk))
    }),
    ("NOTIFY_SOCKET", |scene, disk| scene.env("NOTIFY_SOCKET", &text(&disk.path("notify")))),
];

fn over_tls(scene: Scene) -> Scene {
    let provider = json!({
        "providerType": "static", "rootURL": "https://127.0.0.1:1", "providerID": "p",
        "workerPoolID": "pp/ww", "workerGroup": "wg", "workerID": "w", "staticSecret": SECRET,
    });
    scene.set("provider", provider)
}

/// A `PATH` whose first folder is on the disk.
fn before_path(disk: &HungDisk) -> String {
    format!("{}:/usr/bin:/bin", text(&disk.path("bin")))
}

/// The worker asks for a shutdown, for which this program is executed.
fn shut_down_by(scene: Scene, program: &str) -> Scene {
    scene
        .worker(["on now: exit 0", "hello all", r#"send {"type": "shutdown"}"#, "wait"])
        .set("host.shutdownStatic", true)
        .set("host.shutdownCommand", json!([program]))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn patient() -> Scene {
    let scene = Scene::new().worker(["on now: exit 0", "hello all", "print ready", "wait"]);
    let socket = text(&scene.path("status.sock"));
    scene.set("status.socket", socket)
}

fn status(runner: &Runner) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_start-worker"));
    let output =
        command.args(["status", "--json", "--socket"]).arg(runner.path("status.sock")).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

fn answers_and_ends(wait: Wait) {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    // Most of the time is waiting.
    std::thread::scope(|scope| {
        for places in PLACES.chunks(4) {
            scope.spawn(move || places.iter().for_each(|place| answers_and_ends_with(*place, wait)));
        }
    });
}

fn answers_and_ends_with((name, put): Place, wait: Wait) {
    let scene = patient();
    let _runner = with_hung_disk(wait, |disk| {
        let runner = put(scene, disk).start();
        eventually(|| somebody_waits(&runner).then_some(()))
            .unwrap_or_else(|| panic!("{name}: not used\n{runner}"));
        if name != "status.socket" {
            eventually(|| status(&runner)).unwrap_or_else(|| panic!("{name}: no status\n{runner}"));
        }
        runner.signal(Signal::SIGTERM);
        let ended = runner.ended();
        // A host that must go, and is still here, is not as intended.
        let code = i32::from(ended.log.contains("is still here"));
        assert_eq!(ended.code, Some(code), "{name}: {}", ended.log);
        runner
    });
}

#[test]
fn with_any_path_on_a_disk_that_takes_no_request_status_answers_and_sigterm_ends_the_runner() {
    answers_and_ends(Wait::Killable);
}

#[test]
fn with_any_path_on_a_disk_whose_server_has_hung_status_answers_and_sigterm_ends_the_runner() {
    answers_and_ends(Wait::Endless);
}

#[test]
fn a_runner_configuration_that_cannot_be_read_does_not_keep_the_runner() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = patient();
    let _runner = with_hung_disk(Wait::Endless, |disk| {
        let runner = scene.start_with([disk.path("runner.yml")]);
        eventually(|| somebody_waits(&runner).then_some(())).expect("the file is not read");
        runner.signal(Signal::SIGTERM);
        runner.ended();
        runner
    });
}

#[test]
fn a_look_up_of_the_workers_user_that_never_answers_keeps_neither_status_nor_a_stop_waiting() {
    if !is_root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    let scene = patient().set("worker.user", "nobody");
    // As with a directory server that does not answer: opening a FIFO blocks until there is a writer.
    let fifo = scene.path("passwd");
    mkfifo(&fifo, Mode::from_bits_truncate(0o644)).unwrap();
    let in_namespace = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some(&fifo), "/etc/passwd", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        scene.start()
    };
    let runner = std::thread::scope(|scope| scope.spawn(in_namespace).join()).unwrap();
    let opens = || {
        let threads = fs::read_dir(format!("/proc/{}/task", runner.pid())).unwrap().flatten();
        let mut places = threads.flat_map(|thread| fs::read_to_string(thread.path().join("wchan")));
        places.any(|place| place.contains("wait_for_partner") || place.contains("fifo")).then_some(())
    };
    eventually(opens).unwrap_or_else(|| panic!("nobody is looked up\n{runner}"));
    eventually(|| status(&runner)).unwrap_or_else(|| panic!("no status\n{runner}"));
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
}
