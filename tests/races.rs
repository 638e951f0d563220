//! Whole runs of the real program in which two things meet that seldom meet.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use test_support::secrets::Secrets;

use crate::harness::write_program;

/// Runs start-worker in the folder to its end; its exit code and its log. `worker`, `supervision` and `host` are YAML in
/// flow style, without the braces.
fn run(folder: &Path, [worker, supervision, host]: [&str; 3], script: &str) -> (Option<i32>, String) {
    let program = folder.join("worker.sh");
    write_program(&program, format!("#!/bin/sh\n{script}\n"));
    let config = folder.join("runner.yml");
    let text = format!(
        r#"
provider: {{providerType: standalone, rootURL: "https://tc.example.com", clientID: c, accessToken: hush-hush, workerPoolID: pp/ww, workerGroup: wg, workerID: wi}}
getSecrets: false
worker: {{path: {path}, {worker}}}
supervision: {{{supervision}}}
host: {{rebootCommand: ["true"], forceShutdownCommand: ["true"], forceRebootCommand: ["true"], {host}}}
"#,
        path = program.display()
    );
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_start-worker"))
        .arg(&config)
        .current_dir(folder)
        .env("RUNTIME_DIRECTORY", folder)
        .env_remove("STATE_DIRECTORY")
        .env_remove("START_WORKER_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let secrets = Secrets::of_folder(folder);
    secrets.assert_kept(&ended.stdout);
    secrets.assert_kept(&ended.stderr);
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

#[test]
fn a_host_command_outlives_the_worker_that_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let host = r#"shutdownStatic: true, shutdownCommand: [sh, -c, "sleep 1; touch ran; kill -TERM $PPID"]"#;
    let script =
        r#"echo '~{"type":"hello","capabilities":["shutdown"]}'; echo '~{"type":"shutdown"}'; sleep 0.2"#;
    let (code, log) = run(folder.path(), ["implementation: command", "killTimeout: 1s", host], script);
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("left processes behind"), "{log}");
    assert!(folder.path().join("ran").exists(), "the host command was ended with the worker: {log}");
}

#[test]
fn the_version_is_known_however_its_exit_and_the_reaping_of_orphans_meet() {
    let script = r#"[ "$1" = --version ] && echo "generic-worker (simple engine) 106.0.0" && exit; exit 69"#;
    let worker = "implementation: generic-worker, configPath: worker.json";
    let supervision = "maxRestarts: 1, backoff: {initial: 10ms}";
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let host = r#"shutdownCommand: ["true"]"#;
        let (code, log) = run(folder.path(), [worker, supervision, host], script);
        assert!(!log.contains("cannot ask"), "{log}");
        assert_eq!(code, Some(1), "{log}");
    }
}
