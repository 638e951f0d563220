//! Files and sockets of other users, files that cannot be replaced, and leftovers of a killed start.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Ended, Runner, Scene, copy_program, is_root, test_worker};

/// Neither root nor anybody whom the host knows.
const STRANGER: u32 = 12_345;
const PATIENT: [&str; 4] = ["on now: exit 0", "hello all", "print ready", "wait"];

fn ready(scene: Scene) -> Runner {
    let runner = scene.start();
    runner.wait_for_log("ready");
    runner
}

fn stop(runner: &Runner) -> Ended {
    runner.signal(Signal::SIGTERM);
    runner.ended()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A file with this content, mode and owner.
fn put(path: &Path, content: &str, mode: u32, owner: u32) {
    fs::write(path, content).unwrap();
    set_mode(path, mode);
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Runs the runner as another user, to whom the scene's folder belongs.
fn as_stranger(scene: Scene) -> Scene {
    let copy = |from: &Path, name: &str| {
        let to = scene.path(name);
        copy_program(from, &to);
        set_mode(&to, 0o755);
        to
    };
    let program = copy(Path::new(env!("CARGO_BIN_EXE_start-worker")), "start-worker");
    let worker = copy(&test_worker(), "test-worker");
    let folder = scene.path("");
    chown(&folder, Some(STRANGER), Some(STRANGER)).unwrap();
    let become_stranger = format!(
        "cd / && shift && exec setpriv --reuid={STRANGER} --regid={STRANGER} --clear-groups {} \"$@\"",
        program.display()
    );
    scene.set("worker.path", worker.to_str().unwrap()).after(become_stranger)
}

/// Runs the runner in a mount namespace of its own, in which these commands were run.
fn with_mounts(scene: Scene, commands: &str) -> Scene {
    let inside = format!("{commands} && exec \"$@\"").replace('\'', r"'\''");
    scene.after(format!("exec unshare --mount --propagation private sh -ec '{inside}' sh \"$@\""))
}

/// Mounts need a privilege that not every container has.
fn can_mount() -> bool {
    is_root()
        && Command::new("unshare")
            .args(["--mount", "--propagation", "private", "mount", "--bind", "/tmp", "/tmp"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

#[test]
fn a_worker_configuration_and_a_cache_that_are_mounted_by_themselves_are_written_in_place() {
    if !can_mount() {
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let [worker, cache] = ["worker.json", "run.json"].map(|name| kept.path().join(name));
    put(
        &worker,
        "{\"old\": \"and much longer than what takes its place, so that a rest would be seen\"}",
        0o644,
        0,
    );
    put(&cache, "", 0o600, 0);
    let inode = worker.metadata().unwrap().ino();
    for start in 1..=2 {
        let scene = Scene::new().worker(PATIENT).env("START_WORKER_LOG", "debug");
        let [here_worker, here_cache] = ["worker.json", "run.json"].map(|name| scene.path(name));
        fs::write(&here_worker, "").unwrap();
        fs::write(&here_cache, "").unwrap();
        let mount = |from: &Path, to: &Path| format!("mount --bind {} {}", from.display(), to.display());
        let mounts = format!("{} && {}", mount(&worker, &here_worker), mount(&cache, &here_cache));
        let scene = scene
            .set("cacheOverRestarts", here_cache.to_str().unwrap())
            .set("provider.workerID", "mounted")
            .set("worker.configPath", here_worker.to_str().unwrap());
        let ended = stop(&ready(with_mounts(scene, &mounts)));
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert!(!ended.log.contains("WARN"), "{}", ended.log);
        let in_place = ended.log.lines().filter(|line| line.contains("is written in place"));
        assert_eq!(in_place.filter(|line| line.contains("DEBUG")).count(), 2, "{}", ended.log);
        assert_eq!(json(&cache)["WorkerID"], "mounted");
        assert_eq!(json(&worker)["workerId"], Value::Null, "what a command worker gets");
        assert_eq!((mode(&worker), mode(&cache)), (0o600, 0o600));
        assert_eq!(worker.metadata().unwrap().ino(), inode, "the same file");
        assert_eq!(ended.log.contains("going on with the cached run"), start == 2, "{}", ended.log);
        assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 2);
    }
}

#[test]
fn files_in_a_directory_that_may_not_be_written_are_written_in_place_where_they_are_the_runners() {
    if !is_root() {
        return; // only root can become another user
    }
    for (owner, starts) in [(STRANGER, 1), (0, 0)] {
        let scene = Scene::new().worker(PATIENT);
        fs::create_dir(scene.path("fixed")).unwrap();
        let file = scene.path("fixed/worker.json");
        put(&file, "old", 0o666, owner);
        let scene = as_stranger(scene.set("worker.configPath", file.to_str().unwrap()));
        let config = scene.write();
        chown(&config, Some(STRANGER), None).unwrap();
        let runner = scene.start_with([config]);
        let ended = if starts == 1 {
            runner.wait_for_log("ready");
            stop(&runner)
        } else {
            runner.ended()
        };
        assert_eq!(ended.starts(), starts, "{}", ended.log);
        let content = fs::read_to_string(&file).unwrap();
        if starts == 1 {
            assert!(content.starts_with('{'), "{content}");
            assert_eq!(mode(&file), 0o600);
        } else {
            assert_eq!(content, "old");
            assert!(ended.log.contains("Permission denied"), "{}", ended.log);
        }
    }
}

#[test]
fn a_runner_configuration_or_a_cache_of_another_user_is_77_and_the_command_that_helps_is_named() {
    if !is_root() {
        return; // only root can give files away
    }
    for mode in [0o600, 0o400, 0o644] {
        let scene = Scene::new().worker(PATIENT);
        let config = scene.write();
        set_mode(&config, mode);
        chown(&config, Some(STRANGER), None).unwrap();
        let runner = scene.start_with([&config]);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(77), 0), "{}", ended.log);
        let command = format!("chown root {}", config.display());
        assert!(ended.log.contains(&command) && ended.log.contains("uid 12345"), "{}", ended.log);
        assert_eq!(fs::metadata(&config).unwrap().mode() & 0o777, mode);
    }
    let scene = Scene::new().worker(PATIENT);
    let cache = scene.path("run.json");
    put(&cache, "{}", 0o600, STRANGER);
    let ended = scene.set("cacheOverRestarts", cache.to_str().unwrap()).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(77), 0), "{}", ended.log);
    assert!(ended.log.contains(&format!("`chown root {}`", cache.display())), "{}", ended.log);
}

#[test]
fn a_runner_that_is_not_root_is_told_to_be_given_the_file() {
    if !is_root() {
        return; // only root can become another user
    }
    for (mode, owner, helps) in [
        (0o644, 0, "chown 12345 {} && chmod 0600 {}` and rotate"),
        (0o600, 0, "chown 12345 {}`"),
        (0o600, 54_321, "chown 12345 {}`"),
        (0o200, STRANGER, "chmod 0600 {}`"),
    ] {
        let scene = as_stranger(Scene::new().worker(PATIENT));
        let config = scene.write();
        set_mode(&config, mode);
        chown(&config, Some(owner), None).unwrap();
        let ended = scene.start_with([&config]).ended();
        assert_eq!((ended.code, ended.starts()), (Some(77), 0), "{}", ended.log);
        let helps = helps.replace("{}", config.to_str().unwrap());
        assert!(ended.log.contains(&helps), "{mode:o} of {owner}: {}", ended.log);
    }
    // A directory on the way.
    let scene = as_stranger(Scene::new().worker(PATIENT));
    let closed = scene.path("closed");
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o700);
    let ended = scene.start_with([closed.join("r.yml")]).ended();
    assert_eq!(ended.code, Some(77), "{}", ended.log);
    assert!(ended.log.contains(&format!("`chmod o+x {}`", closed.display())), "{}", ended.log);
}

#[test]
fn a_drain_mark_of_another_user_is_77() {
    if !is_root() {
        return; // only root can give files away
    }
    let scene = Scene::new().worker(PATIENT);
    let mark = scene.path("held");
    // A mark holds no secrets, so that its mode does not matter.
    put(&mark, "", 0o644, STRANGER);
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(77), 0), "{}", ended.log);
    assert!(ended.log.contains(&format!("`chown root {}`, or remove it", mark.display())), "{}", ended.log);
    assert!(!ended.log.contains("holding"), "{}", ended.log);
}

#[test]
fn authorities_that_another_user_can_change_are_77() {
    if !is_root() {
        return; // only root can give files away
    }
    for (mode, owner, code, helps) in [
        (0o644, STRANGER, 77, "`chown root "),
        (0o666, 0, 77, "`chmod go-w "),
        (0o644, 0, 0, "start-worker starts"),
    ] {
        let scene = Scene::new().worker(["hello all", "exit 0"]);
        let authorities = scene.path("ca.pem");
        put(&authorities, "", mode, owner);
        let ended = scene.env("SSL_CERT_FILE", authorities.to_str().unwrap()).start().ended();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        assert!(ended.log.contains(helps), "{}", ended.log);
    }
}

#[test]
fn no_status_socket_is_opened_where_others_could_put_theirs_and_the_runner_goes_on() {
    for mode in [0o777, 0o1777, 0o770] {
        let scene = Scene::new().worker(PATIENT);
        let shared = scene.path("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, mode);
        let socket = shared.join("status.sock");
        let runner = ready(scene.set("status.socket", socket.to_str().unwrap()));
        let log = runner.log();
        assert!(log.contains("cannot open the status socket"), "{log}");
        assert!(log.contains(&format!("`chmod go-w {}`", shared.display())), "{log}");
        assert!(fs::symlink_metadata(&socket).is_err());
        assert_eq!(stop(&runner).code, Some(0));
    }
}

#[test]
fn commands_do_not_believe_a_stranger_who_listens_at_the_socket() {
    if !is_root() {
        return; // only root can become another user
    }
    let scene = as_stranger(Scene::new().worker(PATIENT));
    let socket = scene.path("status.sock");
    let scene = scene.set("status.socket", socket.to_str().unwrap());
    let config = scene.write();
    chown(&config, Some(STRANGER), None).unwrap();
    let runner = scene.start_with([&config]);
    runner.wait_for_log("ready");
    let ask = |arguments: &[&str], as_stranger: bool| {
        let mut command = Command::new(runner.path("start-worker"));
        command.args(arguments).arg("--socket").arg(&socket).current_dir("/");
        if as_stranger {
            command.uid(STRANGER).gid(STRANGER);
        }
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
        &["drain"],
        &["drain", "--wait"],
        &["resume"],
    ] {
        let (code, stdout, stderr) = ask(arguments, false);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("uid 12345 listens at") && stderr.contains("setpriv --reuid=12345"),
            "{stderr}"
        );
    }
    let (code, stdout, stderr) = ask(&["status"], true);
    assert!(code == Some(0) && stdout.contains("running"), "its own user: {stdout}{stderr}");
    assert_eq!(stop(&runner).code, Some(0));
}

#[test]
fn a_squatted_lock_in_a_runtime_directory_of_everybody_keeps_no_runner_from_starting() {
    if !is_root() {
        return; // only root can give files away
    }
    for squat in ["a link", "a file that is held"] {
        let scene = Scene::new().worker(PATIENT).set("provider.workerID", "squatted");
        let runtime = scene.path("runtime");
        fs::create_dir(&runtime).unwrap();
        set_mode(&runtime, 0o1777);
        let lock = runtime.join("pp%2Fww%20wg%20squatted.lock");
        let victim = scene.path("victim");
        put(&victim, "untouched", 0o600, 0);
        let _held = if squat == "a link" {
            symlink(&victim, &lock).unwrap();
            None
        } else {
            put(&lock, "1\n", 0o600, STRANGER);
            Some(Flock::lock(File::open(&lock).unwrap(), FlockArg::LockExclusiveNonblock).unwrap())
        };
        let directory = runtime.to_str().unwrap().to_owned();
        let runner = ready(scene.env("RUNTIME_DIRECTORY", &directory));
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        let found = fs::symlink_metadata(&lock).unwrap();
        assert!(found.is_file() && found.uid() == 0, "{squat}");
        let second = Scene::new().worker(PATIENT).set("provider.workerID", "squatted");
        let ended = second.env("RUNTIME_DIRECTORY", &directory).start().ended();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        assert!(ended.log.contains(&format!("another start-worker (pid {})", runner.pid())), "{}", ended.log);
        assert_eq!(stop(&runner).code, Some(0));
    }
}

#[test]
fn two_runners_do_not_share_a_cache() {
    let kept = tempfile::tempdir().unwrap();
    let cache = kept.path().join("run.json");
    let scene = |cache: &Path| Scene::new().worker(PATIENT).set("cacheOverRestarts", cache.to_str().unwrap());
    let first = ready(scene(&cache));
    let before = fs::read(&cache).unwrap();
    let ended = scene(&cache).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    let said = format!("another start-worker (pid {}) keeps its run in {}", first.pid(), cache.display());
    assert!(ended.log.contains(&said), "{}", ended.log);
    assert_eq!(fs::read(&cache).unwrap(), before);
    let other = ready(scene(&kept.path().join("other.json")));
    for runner in [first, other] {
        assert_eq!(stop(&runner).code, Some(0));
    }
}

#[test]
fn a_cache_that_is_only_switched_on_is_in_the_state_directory() {
    for name in ["one", "two"] {
        let scene = Scene::new().worker(PATIENT).set("cacheOverRestarts", true);
        let state = scene.path(name);
        let scene = scene.env("STATE_DIRECTORY", state.to_str().unwrap());
        let runner = ready(scene);
        let log = runner.log();
        assert!(
            log.contains(&format!("taken as {}; write the path", state.join("run.json").display())),
            "{log}"
        );
        assert_eq!(json(&state.join("run.json"))["WorkerID"], runner.worker_id());
        assert_eq!(stop(&runner).code, Some(0));
    }
}

#[test]
fn what_a_killed_start_has_left_is_removed_also_by_process_1_and_beside_a_cache_without_a_directory() {
    let can_unshare = is_root()
        && Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    for as_process_1 in [false, true] {
        if as_process_1 && !can_unshare {
            continue;
        }
        let scene = Scene::new().worker(["hello all", "exit 0"]).set("cacheOverRestarts", "run.json");
        fs::create_dir(scene.path("worker")).unwrap();
        let scene = scene.set("worker.configPath", "worker/config.json");
        // The process id is the runner's own, or one that lives.
        let left = [".start-worker-1-0.tmp", "worker/.start-worker-1-0.tmp"].map(|name| scene.path(name));
        for path in &left {
            put(path, "secret", 0o600, nix::unistd::geteuid().as_raw());
        }
        let exec = if as_process_1 { "exec unshare --pid --fork --mount-proc \"$@\"" } else { "true" };
        let here = format!("cd {} && {exec}", scene.path("").display());
        let ended = scene.after(here).start().ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        for path in &left {
            assert!(!path.exists(), "{}: {}", path.display(), ended.log);
        }
    }
}
