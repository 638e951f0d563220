//! Arguments, the runner configuration file, and the exit codes that they lead to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::Scene;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn versions_and_help_are_answered_on_stdout() {
    for (argument, answer) in [
        ("--version", concat!("start-worker ", env!("CARGO_PKG_VERSION"), "\n")),
        ("-V", concat!("start-worker ", env!("CARGO_PKG_VERSION"), "\n")),
        ("help", "Usage: start-worker"),
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
fn help_and_the_version_are_there_for_each_command() {
    for (arguments, answer) in [
        (&["help", "drain"][..], "--wait"),
        (&["drain", "--help"], "--wait"),
        (&["help"], "start-worker(1), start-worker.yml(5)"),
        (&["help", "autologin", "set"], "<USER>"),
    ] {
        let mut runner = Scene::new().start_with(arguments);
        let ended = runner.ended();
        assert_eq!((ended.code, ended.log.as_str()), (Some(0), ""), "{arguments:?}");
        let stdout = runner.stdout();
        assert!(stdout.contains(answer), "{arguments:?}: {stdout}");
    }
}

#[test]
fn every_command_has_the_version_and_the_name_of_the_program() {
    for arguments in [
        &["check", "-V"][..],
        &["status", "--version"],
        &["drain", "-V"],
        &["resume", "-V"],
        &["autologin", "-V"],
        &["autologin", "show", "--version"],
    ] {
        let mut runner = Scene::new().start_with(arguments);
        assert_eq!(runner.ended().code, Some(0), "{arguments:?}");
        let version = concat!("start-worker ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(runner.stdout(), version, "{arguments:?}");
    }
}

#[test]
fn the_help_names_no_file_that_an_installed_package_has_elsewhere() {
    for arguments in [&["--help"][..], &["check", "--help"], &["status", "--help"], &["autologin", "--help"]]
    {
        let mut runner = Scene::new().start_with(arguments);
        assert_eq!(runner.ended().code, Some(0), "{arguments:?}");
        let help = runner.stdout();
        assert!(!help.contains("docs/"), "{help}");
    }
}

#[test]
fn a_mistyped_command_is_not_taken_for_a_file() {
    for (arguments, meant) in [
        (&["statsu"][..], "status"),
        (&["Status"], "status"),
        (&["chekc", "runner.yml"], "check"),
        (&["drian", "--wait"], "drain"),
        (&["resum"], "resume"),
        (&["auto-login", "show"], "autologin"),
    ] {
        let ended = Scene::new().start_with(arguments).ended();
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.log);
        let tip = format!("a similar command exists: '{meant}'");
        assert!(ended.log.contains(&tip), "{arguments:?}: {}", ended.log);
    }
}

#[test]
fn a_level_that_is_not_understood_is_wrong_usage() {
    for level in [
        "warning",
        "verbose",
        "",
        "off",
        "7",
        "info,",
        "info,debgu",
        "supervisor=debug",
        "start_worker::output=",
        "=debug",
    ] {
        let scene = Scene::new();
        let config = scene.write();
        let ended = scene.start_with(["--log-level".into(), level.into(), config.into_os_string()]).ended();
        assert_eq!((ended.code, ended.starts()), (Some(2), 0), "{level:?}: {}", ended.log);
        assert!(ended.log.contains("--log-level"), "{level:?}: {}", ended.log);
    }
}

#[test]
fn a_level_in_the_environment_that_is_not_understood_is_a_warning_and_info() {
    for level in ["warning", "off", "supervisor=debug"] {
        let ended = Scene::new().worker(["exit 0"]).env("START_WORKER_LOG", level).start().ended();
        assert_eq!(ended.code, Some(0), "{level:?}: {}", ended.log);
        assert!(
            ended.log.contains("WARN  START_WORKER_LOG is not used, the level is info"),
            "{level:?}: {}",
            ended.log
        );
        assert!(ended.log.contains("INFO  worker started"), "{level:?}: {}", ended.log);
    }
}

#[test]
fn errors_are_logged_at_every_level() {
    for level in ["error", "ERROR", "start_worker=error", "error,start_worker::supervisor=warn"] {
        let ended =
            Scene::new().set("worker.path", "/no/such/worker").env("START_WORKER_LOG", level).start().ended();
        assert_eq!(ended.code, Some(1), "{level:?}: {}", ended.log);
        assert!(ended.log.contains("ERROR start-worker ends: "), "{level:?}: {}", ended.log);
        assert!(!ended.log.contains("INFO "), "{level:?}: {}", ended.log);
    }
}

#[test]
fn a_level_of_one_module_leaves_the_others_as_they_are() {
    let ended = Scene::new()
        .worker(["exit 0"])
        .env("START_WORKER_LOG", "start_worker::supervisor=debug")
        .start()
        .ended();
    assert!(ended.log.contains("INFO  start-worker starts") && ended.log.contains("DEBUG"), "{}", ended.log);
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
