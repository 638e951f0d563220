//! A worker in a cgroup of its own: below one that the test makes, and removes again. Nothing else is moved.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::harness::{Scene, eventually, is_root};

/// The worker's, below the runner's.
const WORKERS: &str = "start-worker.worker";

/// A cgroup for a runner, as systemd would make one. Dropping it kills its processes and removes it.
struct Unit(PathBuf);

impl Unit {
    /// `None`: not on this machine. With CI=true it must be possible for root.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            eprintln!("skipped: making a cgroup needs root");
            return None;
        }
        let name =
            format!("start-worker-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        match unified_tree().and_then(|tree| {
            let folder = tree.join(name);
            fs::create_dir(&folder)?;
            Ok(folder)
        }) {
            Ok(folder) => Some(Self(folder)),
            Err(error) => {
                let must = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!must, "cannot make a cgroup: {error}");
                eprintln!("skipped: cannot make a cgroup: {error}");
                None
            }
        }
    }

    /// Marked as systemd marks what it delegates.
    fn delegated() -> Option<Self> {
        let unit = Self::new()?;
        rustix::fs::setxattr(&unit.0, "user.delegate", b"1", rustix::fs::XattrFlags::empty())
            .or_else(|_| {
                rustix::fs::setxattr(&unit.0, "trusted.delegate", b"1", rustix::fs::XattrFlags::empty())
            })
            .unwrap();
        Some(unit)
    }

    fn workers(&self) -> PathBuf {
        self.0.join(WORKERS)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        fs::write(self.0.join("cgroup.kill"), "1").ok();
        let gone = eventually(|| {
            for folder in below(&self.0).iter().rev() {
                fs::remove_dir(folder).ok();
            }
            (!self.0.exists()).then_some(())
        });
        assert!(gone.is_some() || std::thread::panicking(), "cannot remove {}", self.0.display());
    }
}

/// The mount point of the unified tree.
fn unified_tree() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let place = mount.and_then(|line| line.split(' ').nth(4));
    place.map(PathBuf::from).ok_or_else(|| io::Error::other("no unified tree is mounted"))
}

/// A cgroup and all cgroups below it, parents first.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let inside: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.extend(inside);
        next += 1;
    }
    found
}

/// The processes in this cgroup, without those in cgroups below.
fn members(folder: &Path) -> Vec<i32> {
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    list.lines().map(|line| line.parse().unwrap()).collect()
}

/// A process that is none of the runner's descendants, in this cgroup; it notes a SIGTERM, and lives on.
fn stranger(cgroup: &Path, note: &Path) -> Child {
    let script = "trap 'echo asked >>\"$1\"' TERM; echo 0 >\"$0/cgroup.procs\"; while :; do sleep 0.05; done";
    let mut shell = Command::new("/bin/sh");
    // The shell reports each `sleep` that is killed.
    shell.args(["-c", script]).args([cgroup, note]).stderr(Stdio::null());
    let child = shell.spawn().unwrap();
    let joined = eventually(|| members(cgroup).contains(&child.id().cast_signed()).then_some(()));
    joined.expect("it joins the cgroup");
    child
}

/// The signal that has ended it; none within the deadline: it lives.
fn end_of(stranger: &mut Child) -> Option<i32> {
    eventually(|| stranger.try_wait().unwrap())?.signal()
}

#[test]
fn the_worker_lives_in_a_cgroup_of_its_own_and_nothing_is_left_of_it() {
    let Some(unit) = Unit::delegated() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "200ms");
    let end = format!("wait-file {}", scene.path("end").display());
    let runner =
        scene.worker(["spawn daemon ignore-term", "spawn session", "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    assert_eq!(members(&unit.0), [runner.pid()]);
    let mut inside = members(&unit.workers());
    inside.sort_unstable();
    let mut expected: Vec<i32> = runner.living().iter().map(|process| process.pid).collect();
    assert_eq!(expected.len(), 3, "{runner}");
    expected.sort_unstable();
    assert_eq!(inside, expected, "{runner}");
    // As a worker may do that gives each task one.
    fs::create_dir_all(unit.workers().join("task/inner")).unwrap();
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    assert!(
        runner.log().lines().any(|line| line.contains("worker exited") && line.contains(" cpu=")),
        "{runner}"
    );
    runner.assert_nothing_left();
    assert_eq!(below(&unit.0).len(), 1, "{runner}");
}

#[test]
fn whoever_lives_in_it_is_asked_to_end_and_then_killed_whoever_its_parent_is() {
    let Some(unit) = Unit::delegated() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "300ms");
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker([&end, "exit 0"]).start();
    runner.wait_for_start(1);
    let inner = unit.workers().join("task");
    fs::create_dir(&inner).unwrap();
    let note = runner.path("asked");
    let mut strangers = [stranger(&unit.workers(), &note), stranger(&inner, &note)];
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    for stranger in &mut strangers {
        assert_eq!(end_of(stranger), Some(libc::SIGKILL), "{runner}");
    }
    assert_eq!(fs::read_to_string(note).unwrap(), "asked\nasked\n", "{runner}");
    assert_eq!(below(&unit.0).len(), 1, "{runner}");
}

#[test]
fn a_worker_that_is_started_again_lives_in_one_again() {
    let Some(unit) = Unit::delegated() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "200ms");
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker(["start 1: spawn daemon ignore-term ; exit 7", &end, "exit 0"]).start();
    let second = runner.wait_for_start(2).pid();
    assert_eq!(members(&unit.workers()), [second], "{runner}");
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn what_the_worker_of_a_killed_runner_left_is_gone_before_the_next_worker_starts() {
    let Some(unit) = Unit::delegated() else { return };
    let script = ["on SIGTERM:", "spawn daemon ignore-term", "note spawned", "wait"];
    let first = Scene::new().in_cgroup(&unit.0).worker(script).start();
    first.wait_for_note("spawned");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ended().code, None);
    assert_eq!(first.living().len(), 2, "{first}");
    let second = Scene::new().in_cgroup(&unit.0).worker(["on SIGTERM: exit 0", "wait"]).start();
    let worker = second.wait_for_start(1).pid();
    first.assert_nothing_left();
    assert_eq!(members(&unit.workers()), [worker], "{second}");
    assert!(
        second.log().contains("killed what an earlier runner's worker has left in its cgroup"),
        "{second}"
    );
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().code, Some(0));
    assert_eq!(below(&unit.0).len(), 1, "{second}");
}

#[test]
fn a_second_runner_in_the_same_cgroup_does_not_touch_the_first_ones_worker() {
    let Some(unit) = Unit::delegated() else { return };
    let first = Scene::new().in_cgroup(&unit.0).worker(["on SIGTERM: exit 0", "wait"]).start();
    let worker = first.wait_for_start(1).pid();
    let second = Scene::new().in_cgroup(&unit.0).worker(["spawn daemon", "exit 0"]).start();
    assert_eq!(second.ended().code, Some(0));
    second.assert_nothing_left();
    assert_eq!(members(&unit.workers()), [worker], "{second}");
    assert_eq!(first.living().len(), 1, "{first}");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.ended().code, Some(0));
}

#[test]
fn a_lock_on_the_units_cgroup_keeps_no_worker_from_its_own() {
    let Some(unit) = Unit::delegated() else { return };
    let lock = |folder: &Path| {
        let folder = fs::File::open(folder).unwrap();
        nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|(_, e)| e)
            .unwrap()
    };
    fs::create_dir(unit.workers()).unwrap();
    let held = [lock(&unit.0), lock(&unit.workers())];
    let scene = Scene::new().in_cgroup(&unit.0);
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker(["spawn daemon", "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    assert_eq!(members(&unit.0), [runner.pid()], "{runner}");
    let second = unit.0.join(format!("{WORKERS}-2"));
    assert_eq!(members(&second).len(), 2, "{runner}");
    // Only its owner can open it, and therefore hold its lock.
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&second).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o711);
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
    drop(held);
}

#[test]
fn a_process_that_leaves_the_workers_cgroup_does_not_survive() {
    for place in ["", "sibling"] {
        for spawn in ["session", "daemon ignore-term", "daemon wiped", "leaderless ignore-term"] {
            let Some(unit) = Unit::delegated() else { return };
            let cgroup = unit.0.join(place);
            let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "200ms");
            let end = format!("wait-file {}", scene.path("end").display());
            let spawn = format!("spawn {spawn} cgroup={}", cgroup.display());
            let runner = scene.worker([&spawn, "note spawned", &end, "exit 0"]).start();
            runner.wait_for_note("spawned");
            assert_eq!(members(&unit.workers()).len(), 1, "{spawn}\n{runner}");
            fs::write(runner.path("end"), "").unwrap();
            assert_eq!(runner.ended().code, Some(0), "{spawn}");
            runner.assert_nothing_left();
        }
    }
}

#[test]
fn in_a_cgroup_neither_a_chain_of_forks_nor_a_dead_main_thread_survives() {
    for spawn in ["chain ignore-term", "leaderless ignore-term"] {
        let Some(unit) = Unit::delegated() else { return };
        let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "2s");
        let runner = scene.worker([&format!("spawn {spawn}"), "exit 0"]).start();
        let ended = runner.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        runner.assert_nothing_left();
        assert!(!ended.log.contains("cannot be killed"), "{}", ended.log);
        assert_eq!(below(&unit.0).len(), 1, "{runner}");
    }
}

#[test]
fn a_frozen_cgroup_is_thawed_so_that_sigterm_has_its_effect() {
    let Some(unit) = Unit::delegated() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "1h");
    let end = format!("wait-file {}", scene.path("end").display());
    let inner = unit.workers().join("task");
    let spawn = format!("spawn session handle-term cgroup={}", inner.display());
    let runner = scene.worker([&spawn, "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    fs::write(inner.join("cgroup.freeze"), "1").unwrap();
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
}

#[test]
fn a_worker_that_gets_no_cgroup_of_its_own_is_a_warning_with_the_reason() {
    let Some(unit) = Unit::delegated() else { return };
    fs::write(unit.0.join("cgroup.max.descendants"), "0").unwrap();
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "200ms");
    let script = ["start 1: exit 7", "spawn daemon ignore-term", "exit 0"];
    let runner = scene.worker(script).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(ended.log.matches("the worker has no cgroup of its own").count(), 1, "{}", ended.log);
    assert!(ended.log.contains("Resource temporarily unavailable"), "{}", ended.log);
    runner.assert_nothing_left();
}

#[test]
fn without_delegation_all_is_ended_without_a_cgroup() {
    let Some(unit) = Unit::new() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killTimeout", "200ms");
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker(["spawn daemon ignore-term", "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    assert_eq!(members(&unit.0).len(), 3, "{runner}");
    assert_eq!(below(&unit.0).len(), 1);
    fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
}

#[test]
fn where_nothing_is_to_be_ended_the_worker_stays_with_the_runner() {
    let Some(unit) = Unit::delegated() else { return };
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.killDescendants", false);
    let runner = scene.worker(["spawn session", "exit 0"]).start();
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(runner.living().len(), 1);
    assert_eq!(below(&unit.0).len(), 1);
}

#[test]
fn a_second_stop_signal_kills_all_that_is_in_it() {
    let Some(unit) = Unit::delegated() else { return };
    let script = ["on SIGTERM:", "on now:", "hello all", "spawn daemon ignore-term", "note spawned", "wait"];
    let scene = Scene::new().in_cgroup(&unit.0).set("supervision.stopTimeout", "1h").worker(script);
    let runner = scene.set("supervision.killTimeout", "1h").start();
    runner.wait_for_note("spawned");
    let mut stranger = stranger(&unit.workers(), &runner.path("asked"));
    let first = runner.signal(Signal::SIGTERM);
    runner.wait_for_graceful_termination(false);
    crate::harness::wait_until(first + std::time::Duration::from_millis(1100));
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(end_of(&mut stranger), Some(libc::SIGKILL), "{runner}");
    runner.assert_nothing_left();
    assert_eq!(below(&unit.0).len(), 1, "{runner}");
}
