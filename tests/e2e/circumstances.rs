//! Facts about the worker's end in the log, beside its exit status.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Ended, Scene, eventually, is_root, write_program};

/// A cgroup with little memory, below the test's own. Dropping it removes it.
struct LittleMemory(PathBuf);

impl LittleMemory {
    /// `None`: not on this machine.
    fn new() -> Option<Self> {
        let folder = tree()?.join(format!("start-worker-e2e-memory-{}", std::process::id()));
        if !is_root() || fs::create_dir(&folder).is_err() {
            eprintln!("skipped: making a memory cgroup needs root and a memory controller");
            return None;
        }
        let made = Self(folder);
        let limited =
            ["memory.max", "memory.limit_in_bytes"].iter().any(|file| set(&made.0.join(file), "150000000"));
        // Swap in place of memory would be no lack of it.
        set(&made.0.join("memory.swap.max"), "0");
        if !limited {
            eprintln!("skipped: this cgroup has no memory controller");
        }
        limited.then_some(made)
    }
}

impl Drop for LittleMemory {
    fn drop(&mut self) {
        let gone = eventually(|| fs::remove_dir(&self.0).ok().or_else(|| (!self.0.exists()).then_some(())));
        assert!(gone.is_some() || std::thread::panicking(), "cannot remove {}", self.0.display());
    }
}

/// Sets a value of a cgroup, where it has that.
fn set(file: &Path, value: &str) -> bool {
    file.exists() && fs::write(file, value).is_ok()
}

/// The test's own cgroup in the memory controller's tree; in the unified one its root, where others may be made.
fn tree() -> Option<PathBuf> {
    let (own, mounts) =
        (fs::read_to_string("/proc/self/cgroup").ok()?, fs::read_to_string("/proc/self/mounts").ok()?);
    let mounted = |kind: &str, option: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.find_map(|fields| {
            let fits = fields.get(2) == Some(&kind)
                && (option.is_empty() || fields.get(3)?.split(',').any(|known| known == option));
            fits.then(|| PathBuf::from(fields[1]))
        })
    };
    match own.lines().find_map(|line| line.split_once(":memory:")) {
        Some((_, path)) => Some(mounted("cgroup", "memory")?.join(path.trim_start_matches('/'))),
        None => mounted("cgroup2", ""),
    }
}

/// The worker is this shell script.
fn shell(scene: Scene, script: &str) -> Scene {
    let program = scene.path("worker.sh");
    write_program(&program, format!("#!/bin/sh\n{script}\n"));
    scene.set("worker.path", program.to_str().unwrap()).set("supervision.maxRestarts", 0)
}

fn exit_line(ended: &Ended) -> &str {
    ended.log.lines().find(|line| line.contains("worker exited")).unwrap_or_default()
}

#[test]
fn processes_that_were_killed_for_lack_of_memory_are_counted_whatever_the_exit() {
    for (script, code, says) in [
        // A task's process, whose end the worker ignores; and a wrapper that reports the end of its child.
        ("head -c 400M /dev/zero | tail >/dev/null; exit 0", 0, "exit code 0"),
        ("sh -c 'exec tail /dev/zero' >/dev/null; exit $?", 1, "the signal 9 of a child, through a wrapper"),
        ("exec tail /dev/zero >/dev/null", 1, "SIGKILL"),
    ] {
        let Some(little) = LittleMemory::new() else { return };
        let ended = shell(Scene::new().in_cgroup(&little.0), script).start().ended();
        assert_eq!(ended.code, Some(code), "{}", ended.log);
        assert!(exit_line(&ended).contains(says), "{}", ended.log);
        let why = "the kernel killed 1 process for lack of memory while it ran";
        assert!(ended.log.contains(why), "{}", ended.log);
    }
    let ended = shell(Scene::new(), "exit 0").start().ended();
    assert!(!ended.log.contains("lack of memory"), "{}", ended.log);
}

#[test]
fn a_core_dump_is_named_and_where_to_find_it() {
    for (limit, dumps) in [("unlimited", true), ("0", false)] {
        // Wherever the kernel writes it: in a folder that goes with the test.
        let scene = Scene::new();
        let script = format!("cd '{}'; ulimit -c {limit} && kill -ABRT $$", scene.path("").display());
        let ended = shell(scene, &script).start().ended();
        let line = exit_line(&ended);
        assert!(line.contains("SIGABRT"), "{}", ended.log);
        // A core pattern of /dev/null, or a hard limit, writes none.
        if dumps && line.contains("dumped=true") {
            let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            assert!(line.contains(&format!("coredumpctl info {pid}")), "{line}");
        }
        assert!(dumps || !line.contains("dumped"), "{line}");
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        if dumps && is_root() && pattern.trim() == "core" {
            assert!(line.contains("dumped=true"), "{line}");
        }
    }
}

#[test]
fn the_time_of_the_last_output_is_told() {
    let scene = Scene::new();
    let socket = scene.path("status.sock");
    let scene = scene.set("status.socket", socket.to_str().unwrap());
    let runner = scene.worker(["print something", "wait"]).start();
    runner.wait_for_log("something");
    let said = || {
        let command = std::process::Command::new(env!("CARGO_BIN_EXE_start-worker"))
            .args(["status", "--json", "--socket"])
            .arg(runner.path("status.sock"))
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&command.stdout).ok()?;
        status["log"]["lastOutput"].as_str()?.parse::<jiff::Timestamp>().ok()
    };
    let last = eventually(said).unwrap_or_else(|| panic!("no time of the last output\n{runner}"));
    let age = jiff::Timestamp::now().duration_since(last).unsigned_abs();
    assert!(age < Duration::from_secs(600), "{last}");
}
