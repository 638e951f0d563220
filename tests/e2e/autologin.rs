//! Automatic login: the worker's request, the configured user, and the user set by hand, each in a root of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Ended, Scene, eventually};

const LIGHTDM: &str = "root/etc/lightdm/lightdm.conf.d/90-start-worker-autologin.conf";
const GDM: &str = "root/etc/gdm3/custom.conf";

/// A host with lightdm, and the users `task_1` (1001), `task_2` (1002) and `daemon` (1).
fn host() -> Scene {
    let scene = Scene::new().set("autologin.displayManager", "lightdm");
    let users = "root:x:0:0::/:\ndaemon:x:1:1::/:\ntask_1:x:1001:1001::/:\ntask_2:x:1002:1002::/:\n";
    fs::create_dir_all(scene.path("root/etc")).unwrap();
    fs::write(scene.path("root/etc/passwd"), users).unwrap();
    scene
}

fn gdm_host(content: &str) -> Scene {
    let scene = host().set("autologin.displayManager", "gdm");
    fs::create_dir_all(scene.path("root/etc/gdm3")).unwrap();
    fs::write(scene.path(GDM), content).unwrap();
    scene
}

/// A worker that sends these, and waits for each answer.
fn asking(requests: &[&str]) -> Vec<String> {
    let mut script = vec!["await welcome".to_owned(), "hello all".to_owned()];
    for request in requests {
        script.extend([format!("send {request}"), "await autologin-result".to_owned()]);
    }
    script.push("exit 0".to_owned());
    script
}

fn answers(ended: &Ended) -> Vec<Value> {
    let messages = ended.events.iter().map(|event| event.field("message").clone());
    messages.filter(|message| message["type"] == "autologin-result").collect()
}

fn ok(user: &Value) -> Value {
    json!({"type": "autologin-result", "user": user, "ok": true})
}

#[test]
fn the_file_is_there_before_the_answer() {
    let scene = host();
    let file = scene.path(LIGHTDM);
    // The worker itself looks: it dies where there is nothing to read.
    let script = [
        "await welcome".to_owned(),
        "hello all".to_owned(),
        "on autologin-result: note answered ; wait".to_owned(),
        r#"send {"type":"autologin","user":"task_1","session":"ubuntu"}"#.to_owned(),
        "wait".to_owned(),
    ];
    let runner = scene.worker(script).start();
    runner.wait_for_note("answered");
    let content = fs::read_to_string(file).unwrap();
    assert!(content.contains("autologin-user=task_1\n") && content.contains("autologin-session=ubuntu\n"));
    runner.wait_for_log("automatic login is set: the next boot logs the user in");
}

#[test]
fn requests_are_done_in_their_order_and_null_clears() {
    let (one, two, none) = (
        r#"{"type":"autologin","user":"task_1"}"#,
        r#"{"type":"autologin","user":"task_2"}"#,
        r#"{"type":"autologin","user":null}"#,
    );
    let scene = host().worker(asking(&[one, two, none, one, one]));
    let runner = scene.start();
    let ended = runner.ended();
    let users: Vec<Value> = answers(&ended).iter().map(|answer| answer["user"].clone()).collect();
    assert_eq!(users, [json!("task_1"), json!("task_2"), json!(null), json!("task_1"), json!("task_1")]);
    assert!(answers(&ended).iter().all(|answer| answer == &ok(&answer["user"])), "{}", ended.log);
    assert!(fs::read_to_string(runner.path(LIGHTDM)).unwrap().contains("autologin-user=task_1\n"));
    // Without waiting for the answers.
    let mut script = vec!["await welcome".to_owned(), "hello all".to_owned()];
    script.extend([one, none, two].iter().map(|request| format!("send {request}")));
    script.extend(
        ["await autologin-result", "await autologin-result", "await autologin-result", "exit 0"]
            .map(str::to_owned),
    );
    let runner = host().worker(script).start();
    assert_eq!(answers(&runner.ended()), [ok(&json!("task_1")), ok(&json!(null)), ok(&json!("task_2"))]);
    assert!(fs::read_to_string(runner.path(LIGHTDM)).unwrap().contains("autologin-user=task_2\n"));
}

#[test]
fn gdms_file_is_edited_and_given_back() {
    let content = "# mine\r\n[daemon]\r\n# AutomaticLogin = x\r\n[security]\r\n";
    let ask = asking(&[r#"{"type":"autologin","user":"task_1"}"#]);
    let runner = gdm_host(content).worker(ask).start();
    runner.ended();
    let edited =
        content.replace("[daemon]\r\n", "[daemon]\r\nAutomaticLoginEnable=true\r\nAutomaticLogin=task_1\r\n");
    assert_eq!(fs::read_to_string(runner.path(GDM)).unwrap(), edited);
    let ask = asking(&[r#"{"type":"autologin","user":null}"#]);
    let runner = gdm_host(&edited).worker(ask).start();
    runner.ended();
    assert_eq!(fs::read_to_string(runner.path(GDM)).unwrap(), content);
}

#[test]
fn what_cannot_be_done_is_answered_and_logged_and_the_runner_goes_on() {
    let requests = [
        r#"{"type":"autologin"}"#,
        r#"{"type":"autologin","user":7}"#,
        r#"{"type":"autologin","user":"task_1","session":[]}"#,
        r#"{"type":"autologin","user":"task_1","session":"a\nUser=root"}"#,
        r#"{"type":"autologin","user":""}"#,
        r#"{"type":"autologin","user":"root"}"#,
        r#"{"type":"autologin","user":"task_1\nautologin-user=root"}"#,
        r#"{"type":"autologin","user":"nemo"}"#,
        r#"{"type":"autologin","user":"daemon"}"#,
    ];
    let runner = host().worker(asking(&requests)).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let answers = answers(&ended);
    assert!(answers.iter().all(|answer| answer["ok"] == false), "{answers:?}");
    let said: Vec<&str> = answers.iter().map(|answer| answer["error"].as_str().unwrap()).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    autologin: user is missing, expected a string or null
    autologin: user is a number, expected a string or null
    autologin: session is an array, expected a string
    cannot use "a\nUser=root": not a session's name: up to 128 letters, digits and - _ . +
    cannot use "": not a user name: up to 32 of a-z, 0-9, - and _, a letter or _ first
    cannot use "root": root is not logged in automatically: display managers refuse it
    cannot use "task_1\nautologin-user=root": not a user name: up to 32 of a-z, 0-9, - and _, a letter or _ first
    no user nemo on this host: make the user first
    daemon has uid 1: a worker may ask for users from uid 1000 (see autologin.allowedUsers), and never for nobody
    "#);
    assert!(!runner.path(LIGHTDM).exists());
    for line in ["autologin: user is missing", "no user nemo on this host"] {
        assert!(ended.log.contains(line), "no {line} in {}", ended.log);
    }
}

#[test]
fn allowed_users_are_the_only_ones_a_worker_may_ask_for() {
    let requests = [r#"{"type":"autologin","user":"task_1"}"#, r#"{"type":"autologin","user":"task_2"}"#];
    let runner = host().set("autologin.allowedUsers", "*_2").worker(asking(&requests)).start();
    let ended = runner.ended();
    let error = "task_1 does not match autologin.allowedUsers (*_2)";
    let refused = json!({"type": "autologin-result", "user": "task_1", "ok": false, "error": error});
    assert_eq!(answers(&ended), [refused, ok(&json!("task_2"))], "{}", ended.log);
}

#[test]
fn the_capability_is_offered_only_where_there_is_somebody_to_tell() {
    let offers = |scene: Scene| {
        let runner =
            scene.worker(["await welcome", r#"send {"type":"autologin","user":"task_1"}"#, "exit 0"]).start();
        let ended = runner.ended();
        let welcome =
            ended.events.iter().find(|event| event.name() == "message").unwrap().field("message").clone();
        assert!(answers(&ended).is_empty() && !runner.path(LIGHTDM).exists());
        welcome["capabilities"].as_array().unwrap().contains(&json!("autologin"))
    };
    assert!(offers(host()));
    assert!(!offers(host().set("autologin.displayManager", "none")));
    let unknown = host().set("autologin.displayManager", "auto");
    fs::create_dir_all(unknown.path("root/etc/X11")).unwrap();
    fs::write(unknown.path("root/etc/X11/default-display-manager"), "/usr/bin/xdm\n").unwrap();
    assert!(!offers(unknown));
}

#[test]
fn a_reboot_waits_for_the_login_that_was_asked_for_before_it() {
    // The worker does not wait for the answer. The host command sees the file as it is when the command runs.
    let scene = host();
    let (file, copy) = (scene.path(LIGHTDM), scene.path("seen"));
    let reboot = format!("cp {} {}", file.display(), copy.display());
    let script = [
        "await welcome",
        "hello all",
        r#"send {"type":"autologin","user":"task_1"}"#,
        r#"send {"type":"reboot"}"#,
        "exit 0",
    ];
    let runner = scene.set("host.rebootCommand", json!(["sh", "-c", reboot])).worker(script).start();
    let seen = || fs::read_to_string(&copy).ok().filter(|seen| seen.contains("autologin-user=task_1\n"));
    assert!(eventually(seen).is_some(), "{runner}");
    let log = runner.log();
    let (set, run) = (log.find("automatic login is set"), log.find("running the host command"));
    assert!(set.unwrap() < run.unwrap(), "{log}");
}

#[test]
fn the_configured_user_is_set_before_the_worker_starts_also_from_the_cache() {
    let kept = tempfile::tempdir().unwrap();
    let start = || {
        let scene = host().set("autologin.user", "task_2").set("autologin.session", "plasma");
        let scene = scene.set("cacheOverRestarts", kept.path().join("run.json").to_str().unwrap());
        let scene = scene.set("provider.workerID", "the-same");
        // The worker itself looks.
        let file = scene.path(LIGHTDM);
        let script = [format!("wait-file {}", file.display()), "exit 0".to_owned()];
        let runner = scene.worker(script).start();
        let ended = runner.ended();
        let content = fs::read_to_string(file).unwrap();
        assert!(
            content.contains("autologin-user=task_2\nautologin-user-timeout=0\nautologin-session=plasma\n")
        );
        let (set, started) = (ended.log.find("automatic login is set"), ended.log.find("worker started"));
        assert!(set.unwrap() < started.unwrap(), "{}", ended.log);
        ended.log
    };
    assert!(!start().contains("from the cache"));
    let again = start();
    assert!(again.contains("cache"), "{again}");
}

#[test]
fn a_configured_user_that_cannot_be_set_is_an_error_in_the_log_and_the_worker_starts() {
    let runner = host().set("autologin.user", "nemo").worker(["exit 0"]).start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
    assert!(ended.log.contains("ERROR") && ended.log.contains("autologin.user is not set"), "{}", ended.log);
    assert!(!runner.path(LIGHTDM).exists());
}

/// Runs `start-worker autologin …`: exit code, stdout, stderr. `ROOT` stands for the scene's folder.
fn by_hand(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String, String) {
    limited(scene, "exec \"$@\"", arguments)
}

fn limited(scene: &Scene, shell: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let config: PathBuf = scene.write();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", shell, "sh", env!("CARGO_BIN_EXE_start-worker"), "autologin"]).args(arguments);
    match arguments.first() {
        Some(&"apply") => command.arg(config),
        _ => command.arg("--config").arg(config),
    };
    let output = command.output().unwrap();
    let folder = scene.path("");
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(folder.to_str().unwrap().trim_end_matches('/'), "ROOT")
    };
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn read(scene: &Scene, path: impl AsRef<Path>) -> String {
    fs::read_to_string(scene.path("").join(path)).unwrap_or_default()
}

#[test]
fn an_operator_shows_sets_and_clears() {
    let scene = gdm_host("[daemon]\n");
    let mut story = String::new();
    for arguments in
        [&["show"][..], &["set", "task_1"], &["set", "task_1"], &["show"], &["clear"], &["clear"]]
    {
        let (code, stdout, stderr) = by_hand(&scene, arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        write!(story, "$ {}\n{stdout}", arguments.join(" ")).unwrap();
    }
    insta::assert_snapshot!(story, @r#"
    $ show
    display manager  gdm
    file             ROOT/root/etc/gdm3/custom.conf
    logs in          nobody
    $ set task_1
    the next boot logs task_1 in (gdm): ROOT/root/etc/gdm3/custom.conf changed
    $ set task_1
    the next boot logs task_1 in (gdm): ROOT/root/etc/gdm3/custom.conf was so already
    $ show
    display manager  gdm
    file             ROOT/root/etc/gdm3/custom.conf
    logs in          task_1
    $ clear
    the next boot logs nobody in (gdm): ROOT/root/etc/gdm3/custom.conf changed
    $ clear
    the next boot logs nobody in (gdm): ROOT/root/etc/gdm3/custom.conf was so already
    "#);
    assert_eq!(read(&scene, GDM), "[daemon]\n");
}

#[test]
fn the_unit_before_the_display_manager_applies_the_configured_user() {
    let scene = host();
    let nothing = "there is no autologin.user in the runner configuration: nothing is changed\n";
    assert_eq!(by_hand(&scene, &["apply"]), (Some(0), nothing.to_owned(), String::new()));
    let scene = scene.set("autologin.user", "task_1");
    let (code, stdout, _) = by_hand(&scene, &["apply"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(stdout, @r#"the next boot logs task_1 in (lightdm): ROOT/root/etc/lightdm/lightdm.conf.d/90-start-worker-autologin.conf changed"#);
    assert!(read(&scene, LIGHTDM).contains("autologin-user=task_1\n"));
}

#[test]
fn what_goes_wrong_by_hand_has_an_exit_code_and_a_reason() {
    let scene = host();
    let mut story = String::new();
    let none = host().set("autologin.displayManager", "none");
    let wrong = host().set("autologin.tty", "../x");
    for (scene, arguments) in [
        (&scene, &["set", "nemo"][..]),
        (&scene, &["set", "root"]),
        (&scene, &["set", "a=b"]),
        (&none, &["clear"]),
        (&wrong, &["show"]),
    ] {
        let (code, stdout, stderr) = by_hand(scene, arguments);
        assert_eq!(stdout, "");
        write!(story, "$ {}\n{stderr}exit {}\n", arguments.join(" "), code.unwrap()).unwrap();
    }
    insta::assert_snapshot!(story, @r#"
    $ set nemo
    error: no user nemo on this host: make the user first
    exit 1
    $ set root
    error: cannot use "root": root is not logged in automatically: display managers refuse it
    exit 1
    $ set a=b
    error: cannot use "a=b": not a user name: up to 32 of a-z, 0-9, - and _, a letter or _ first
    exit 1
    $ clear
    error: autologin.displayManager is none: this host logs nobody in automatically
    exit 1
    $ show
    error: ROOT/runner.yml:5: autologin.tty: expected a terminal's name, found "../x"
    exit 64
    "#);
    assert_eq!(by_hand(&scene, &["set"]).0, Some(2));
    assert_eq!(by_hand(&scene, &["steal"]).0, Some(2));
}

#[test]
fn a_disk_that_takes_no_more_leaves_the_old_file() {
    let scene = gdm_host(&"# padding\n".repeat(2000));
    let before = read(&scene, GDM);
    // The size that a file may have stands in for a full disk.
    let (code, _, stderr) = limited(&scene, "trap '' XFSZ; ulimit -f 8; exec \"$@\"", &["set", "task_1"]);
    assert_eq!((code, read(&scene, GDM) == before), (Some(1), true), "{stderr}");
    insta::assert_snapshot!(stderr, @r#"error: cannot write ROOT/root/etc/gdm3/custom.conf: File too large (os error 27)"#);
    assert_eq!(fs::read_dir(scene.path("root/etc/gdm3")).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_old_file() {
    let scene = gdm_host("[daemon]\n");
    // Also root cannot write through a file that stands where a folder should be.
    fs::write(scene.path("root/etc/lightdm"), "").unwrap();
    let scene = scene.set("autologin.displayManager", "lightdm");
    let (code, _, stderr) = by_hand(&scene, &["set", "task_1"]);
    assert_eq!(code, Some(1));
    insta::assert_snapshot!(stderr, @r#"error: cannot open the directory ROOT/root/etc/lightdm/lightdm.conf.d: Not a directory (os error 20)"#);
}
