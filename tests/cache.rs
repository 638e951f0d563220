//! The cache over restarts where the process or the disk does not last.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use start_worker::host::private_file::Access;
use start_worker::run_spec::Object;
use start_worker::run_spec::cache::{self, CachedRun, Leaving, Stage};

const GO_CACHE: &str = include_str!("fixtures/contract/go-cache-google.json");

/// Tells this program that it is the process which is to be tried; its value is the cache's path.
const TRIED: &str = "START_WORKER_TEST_CACHE";

/// The path of the cache, in the process under test.
fn tried() -> Option<PathBuf> {
    std::env::var_os(TRIED).map(PathBuf::from)
}

/// A cache; the longer the reason, the larger it is.
fn cached(folder: &Path, reason: &str) -> CachedRun {
    let path = folder.join("go.json");
    std::fs::write(&path, GO_CACHE).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut cached = cache::read(&path, Access::Refuse).unwrap().unwrap();
    cached.leaving = Some(Leaving::new("2026-11-24T00:00:00Z".parse().unwrap(), reason.to_owned()));
    cached
}

fn reason(path: &Path) -> String {
    let cached = cache::read(path, Access::Refuse).unwrap().unwrap();
    assert_eq!(cached.stage, Stage::Complete);
    cached.leaving.unwrap().reason
}

/// Writes two caches in turn until it is killed, and says when it has done so once more.
fn rewrite_until_killed(path: &Path) -> ! {
    let folder = path.parent().unwrap();
    let versions = ["old", &"new".repeat(20_000)].map(|reason| cached(folder, reason).encode(&Object::new()));
    loop {
        for version in &versions {
            cache::write(path, version).unwrap();
            std::io::stdout().write_all(b"~\n").unwrap();
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_the_old_cache_or_the_new() {
    if let Some(path) = tried() {
        rewrite_until_killed(&path);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    let (mut old, mut new) = (0, 0);
    for round in 0..200_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cache::a_process_that_is_killed_while_it_writes_leaves_the_old_cache_or_the_new",
            ])
            .arg("--nocapture")
            .env(TRIED, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..=round % 2 {
            output.find(|line| line.as_ref().is_ok_and(|line| line.ends_with('~'))).unwrap().unwrap();
        }
        let moment = Instant::now() + Duration::from_micros(u64::from(round) * 7);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        match reason(&path) {
            reason if reason == "old" => old += 1,
            reason => {
                assert_eq!(reason.len(), 60_000);
                new += 1;
            }
        }
    }
    assert!(old > 0 && new > 0, "killed at one point only: {old} old, {new} new");
}

#[test]
fn where_a_file_cannot_grow_the_old_cache_stays_and_nothing_is_left_beside_it() {
    if let Some(path) = tried() {
        let folder = path.parent().unwrap();
        cache::write(&path, &cached(folder, "old").encode(&Object::new())).unwrap();
        let cause =
            cache::write(&path, &cached(folder, &"x".repeat(500_000)).encode(&Object::new())).unwrap_err();
        assert_eq!(cause.io().kind(), std::io::ErrorKind::FileTooLarge);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    // The limit is in units of 512 or 1024 bytes.
    let script = r#"trap "" XFSZ; ulimit -f 100; exec "$@""#;
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cache::where_a_file_cannot_grow_the_old_cache_stays_and_nothing_is_left_beside_it",
        ])
        .env(TRIED, &path)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(reason(&path), "old");
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["go.json", "run.json"]);
}
