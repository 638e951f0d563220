//! Arguments, the runner configuration file, and the exit codes that they lead to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::Scene;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn versions_and_help_are_answered_on_stdout() {
    for (argument, answer) in [
        ("--version", concat!("start-worker ", env!("CARGO_PKG_VERSION"), "\n")),
        ("--short-version", concat!(env!("CARGO_PKG_VERSION"), "\n")),
        ("--help", "Usage: start-worker"),
    ] {
        let mut runner = Scene::new().start_with([argument]);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{argument}");
        let stdout = runner.stdout();
        assert!(stdout.contains(answer), "{argument}: {stdout}");
    }
}

#[test]
fn wrong_usage_is_exit_2_and_said_on_stderr() {
    for arguments in [&[][..], &["--no-such-option"], &["one", "two"]] {
        let mut runner = Scene::new().start_with(arguments);
        let ended = runner.ended();
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.log.contains("Usage: start-worker"), "{arguments:?}: {}", ended.log);
        assert_eq!(runner.stdout(), "", "{arguments:?}");
    }
}

#[test]
fn a_missing_runner_configuration_is_exit_64() {
    let scene = Scene::new();
    let path = scene.path("no-such-file.yml");
    let ended = scene.start_with([path]).ended();
    assert_eq!(ended.code, Some(64), "{}", ended.log);
    assert!(ended.log.contains("no-such-file.yml"), "{}", ended.log);
}

#[test]
fn an_invalid_runner_configuration_is_exit_64_and_names_the_key_but_no_secret() {
    let ended = Scene::new().set("provider.workerPoolID", "no-slash").start().ended();
    assert_eq!(ended.code, Some(64), "{}", ended.log);
    assert!(ended.log.contains("provider.workerPoolID"), "{}", ended.log);
    assert!(!ended.log.contains("made-up-access-token"), "{}", ended.log);
    assert_eq!(ended.starts(), 0);
}

#[test]
fn a_runner_configuration_that_others_can_read_is_tightened_and_used() {
    let scene = Scene::new().worker(["exit 0"]);
    let path = scene.write();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let runner = scene.start_with([&path]);
    let ended = runner.ended();
    assert_eq!((ended.code, mode(&path)), (Some(0), 0o600), "{}", ended.log);
}

#[test]
fn a_private_runner_configuration_is_left_alone() {
    for allowed in [0o400, 0o500, 0o600, 0o700] {
        let scene = Scene::new().worker(["exit 0"]);
        let path = scene.write();
        fs::set_permissions(&path, Permissions::from_mode(allowed)).unwrap();
        let runner = scene.start_with([&path]);
        assert_eq!((runner.ended().code, mode(&path)), (Some(0), allowed));
    }
}

#[test]
fn what_is_no_regular_file_is_exit_77() {
    let scene = Scene::new();
    let (fifo, link, folder) = (scene.path("fifo"), scene.path("link"), scene.path("folder"));
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    symlink(scene.write(), &link).unwrap();
    fs::create_dir(&folder).unwrap();
    for path in [fifo, link, folder] {
        let ended = Scene::new().start_with([&path]).ended();
        assert_eq!(ended.code, Some(77), "{}: {}", path.display(), ended.log);
    }
}
