//! Nothing that a worker has started outlives it, and nothing else is touched.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Runner, Scene, eventually, is_root, named};

const PLACES: [&str; 5] = ["child", "group", "session", "daemon", "zombie"];
const MANNERS: [&str; 4] = ["", "ignore-term", "with-zombie", "ignore-term with-zombie"];

#[test]
fn wherever_a_process_hides_it_does_not_survive_the_workers_end() {
    let run = |place: &str, manners: &str| {
        let script = [format!("spawn {place} {manners}"), "exit 0".to_owned()];
        Scene::new().worker(script).set("supervision.killTimeout", "200ms").start()
    };
    for place in PLACES {
        for (manners, runner) in MANNERS.map(|manners| (manners, run(place, manners))) {
            let ended = runner.ended();
            assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{place} {manners}\n{}", ended.log);
            runner.assert_nothing_left();
        }
    }
}

#[test]
fn however_the_worker_ends_nothing_is_left() {
    let spawn =
        ["spawn child", "spawn group ignore-term", "spawn session", "spawn daemon ignore-term with-zombie"];
    for end in ["exit 0", "exit 7", "die SIGSEGV", "die SIGKILL", "die SIGTERM"] {
        let mut script = spawn.to_vec();
        script.push(end);
        let scene = Scene::new().worker(script).set("supervision.killTimeout", "200ms");
        let runner = scene.set("supervision.restart", "never").start();
        let ended = runner.ended();
        assert_eq!(ended.code, Some(i32::from(end != "exit 0")), "{end}\n{}", ended.log);
        runner.assert_nothing_left();
    }
}

#[test]
fn what_is_left_gets_sigterm_first_and_sigkill_only_when_it_does_not_help() {
    let polite = Scene::new().worker(["spawn session", "exit 0"]).set("supervision.killTimeout", "1h");
    let runner = polite.start();
    assert_eq!(runner.ended().code, Some(0));
    let rude = Scene::new().worker(["spawn session ignore-term", "exit 0"]);
    let runner = rude.set("supervision.killTimeout", "600ms").start();
    let left = runner.wait_for_event("exit");
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
    assert!(runner.ended().after >= Duration::from_millis(500), "{left:?}");
}

#[test]
fn a_process_that_holds_stdout_keeps_nobody_waiting() {
    for flags in ["hold-stdout", "hold-stderr", "hold-stdout hold-stderr"] {
        for ignore in ["", "ignore-term"] {
            let script = [&format!("spawn session {flags} {ignore}"), "print last words", "exit 0"];
            let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
            let ended = runner.ended();
            assert_eq!(ended.code, Some(0));
            assert!(ended.log.contains("last words"), "{}", ended.log);
            assert!(ended.after < Duration::from_secs(10), "{flags}: {:?}", ended.after);
            runner.assert_nothing_left();
        }
    }
}

#[test]
fn before_a_crashed_worker_is_started_again_what_it_left_is_gone() {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let spawn = "spawn session ; spawn daemon ignore-term with-zombie ; spawn group hold-stdout ; exit 7";
    let script = [&format!("start 1: {spawn}"), "print second", &end, "exit 0"];
    let runner = scene.worker(script).set("supervision.killTimeout", "200ms").start();
    let second = runner.wait_for_start(2).pid();
    let living: Vec<i32> = runner.living().iter().map(|process| process.pid).collect();
    assert_eq!(living, [second]);
    // No zombies are left unreaped either.
    let reaped = || (runner.children().iter().all(|child| child.pid == second)).then_some(());
    runner.wait_for("an end of all zombies", |_| reaped());
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn orphans_are_reaped_while_the_worker_runs() {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let runner = scene.worker(["spawn daemon", "spawn daemon", "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    let worker = runner.wait_for_start(1).pid();
    for orphan in named(&runner.events(), "descendant") {
        kill(Pid::from_raw(orphan.pid()), Signal::SIGKILL).unwrap();
    }
    let reaped = || (runner.children().iter().all(|child| child.pid == worker)).then_some(());
    runner.wait_for("an end of all zombies", |_| reaped());
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_stop_ends_descendants_that_ignore_everything() {
    let script = [
        "spawn session ignore-term",
        "spawn daemon ignore-term",
        "on now: exit 0",
        "hello all",
        "print ready",
        "wait",
    ];
    let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
    runner.wait_for_log("ready");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
}

#[test]
fn with_kill_descendants_false_they_are_left_alone() {
    let scene = Scene::new().worker(["spawn session", "exit 0"]).set("supervision.killDescendants", false);
    let runner = scene.start();
    assert_eq!(runner.ended().code, Some(0));
    assert_eq!(runner.living().len(), 1);
}

#[test]
fn a_process_whose_main_thread_has_exited_does_not_survive() {
    for manners in ["", "ignore-term"] {
        let script = [format!("spawn leaderless {manners}"), "exit 0".to_owned()];
        let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
        let ended = runner.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(ended.log.contains("worker left processes behind: sent them SIGTERM"), "{}", ended.log);
        runner.assert_nothing_left();
    }
}

#[test]
fn a_chain_of_forks_does_not_survive() {
    let scene = Scene::new().worker(["spawn chain ignore-term", "exit 0"]);
    let runner = scene.set("supervision.killTimeout", "5s").start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    runner.assert_nothing_left();
}

#[test]
fn a_chain_of_forks_is_gone_before_a_crashed_worker_is_started_again() {
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let script = ["start 1: spawn chain ignore-term ; exit 7", &end, "exit 0"];
    let runner = scene.worker(script).set("supervision.killTimeout", "5s").start();
    runner.wait_for_start(2);
    assert!(!runner.a_descendant_lives(), "{runner}");
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_daemon_that_has_wiped_its_environment_does_not_survive() {
    for manners in ["wiped", "wiped ignore-term"] {
        let script = [format!("spawn daemon {manners}"), "exit 0".to_owned()];
        let runner = Scene::new().worker(script).set("supervision.killTimeout", "200ms").start();
        assert_eq!(runner.ended().code, Some(0), "{runner}");
        runner.assert_nothing_left();
    }
}

#[test]
fn a_stopped_process_acts_on_the_sigterm_that_it_gets() {
    for place in ["child", "group", "session", "daemon"] {
        let script = [format!("spawn {place} stopped"), "exit 0".to_owned()];
        let runner = Scene::new().worker(script).set("supervision.killTimeout", "1h").start();
        assert_eq!(runner.ended().code, Some(0), "{place}");
        runner.assert_nothing_left();
    }
}

#[test]
fn a_stopped_worker_acts_on_the_sigterm_that_it_gets() {
    let scene = Scene::new().worker(["on SIGTERM: exit 0", "hello log", "print ready", "wait"]);
    let scene = scene.set("supervision.killTimeout", "1h").set("supervision.stopTimeout", "1h");
    let runner = scene.start();
    runner.wait_for_log("ready");
    kill(Pid::from_raw(runner.wait_for_start(1).pid()), Signal::SIGSTOP).unwrap();
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

/// A cgroup of version 1 that freezes its processes, so that not even SIGKILL ends them.
struct Freezer(std::path::PathBuf);

impl Freezer {
    /// `None`: not on this machine.
    fn new() -> Option<Self> {
        let tree = std::path::Path::new("/sys/fs/cgroup/freezer");
        if !is_root() || !tree.join("cgroup.procs").exists() {
            eprintln!("skipped: needs root, and the freezer of cgroups of version 1");
            return None;
        }
        let folder = tree.join(format!("start-worker-e2e-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Some(Self(folder))
    }

    fn set(&self, state: &str) {
        std::fs::write(self.0.join("freezer.state"), state).unwrap();
        let reached = || std::fs::read_to_string(self.0.join("freezer.state")).unwrap().trim() == state;
        eventually(|| reached().then_some(())).expect("the freezer does as it is told");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set("THAWED");
        let gone = eventually(|| std::fs::remove_dir(&self.0).is_ok().then_some(()));
        assert!(gone.is_some() || std::thread::panicking(), "cannot remove {}", self.0.display());
    }
}

#[test]
fn what_cannot_be_killed_is_named_in_one_error_and_waited_for_no_longer() {
    let Some(freezer) = Freezer::new() else { return };
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let spawn = format!("spawn session cgroup={}", freezer.0.display());
    let runner = scene.worker([&spawn, "note spawned", &end, "exit 0"]).start();
    runner.wait_for_note("spawned");
    let left = named(&runner.events(), "descendant")[0].pid();
    freezer.set("FROZEN");
    std::fs::write(runner.path("end"), "").unwrap();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let lines = ended.log.lines().filter(|line| line.contains("cannot be killed: going on without"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "{}", ended.log);
    assert!(lines[0].contains(&format!("{left} (")), "{}", lines[0]);
    assert!(runner.a_descendant_lives());
    drop(freezer);
    assert!(eventually(|| (!runner.a_descendant_lives()).then_some(())).is_some(), "{runner}");
}

/// A scene whose runner was a shell that has started this first, in the background.
fn beside(scene: Scene, sidecar: &str) -> Scene {
    scene.after(format!("{{ ({sidecar}) >/dev/null 2>&1 & }}"))
}

/// The pid that a sidecar has written to this file, once it has.
fn pid_in(runner: &Runner, file: &str) -> i32 {
    let read = || std::fs::read_to_string(runner.path(file)).ok()?.trim().parse().ok();
    eventually(read).unwrap_or_else(|| panic!("nobody has written {file}\n{runner}"))
}

fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

#[test]
fn a_sidecar_that_was_started_before_the_runner_is_left_alone_and_its_daemons_too() {
    let scene = Scene::new();
    let (file, go) = (scene.path("sidecar"), scene.path("go"));
    let sidecar = format!(
        "exec sh -c 'echo $$ >{0}; until [ -e {1} ]; do sleep 0.05; done; (setsid sleep 300 & echo $! >{0}.daemon); exec sleep 300'",
        file.display(),
        go.display()
    );
    let daemon = scene.path("sidecar.daemon");
    let script = [
        format!(
            "start 1: run touch {} ; wait-file {} ; spawn session ; exit 7",
            go.display(),
            daemon.display()
        ),
        "start 2: spawn daemon ; exit 0".to_owned(),
    ];
    let runner = beside(scene, &sidecar).worker(script).start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    let strangers = [pid_in(&runner, "sidecar"), pid_in(&runner, "sidecar.daemon")];
    for pid in strangers {
        assert!(lives(pid), "{pid} {strangers:?}\n{runner}");
    }
    // The worker's own were ended nevertheless.
    assert!(!runner.a_descendant_lives(), "{runner}");
}

#[test]
fn beside_a_sidecar_the_workers_processes_are_told_apart_by_their_token_and_by_what_was_seen() {
    for (spawn, hides) in [("daemon ignore-term", false), ("leaderless", false), ("session wiped", true)] {
        let scene = Scene::new();
        let end = format!("wait-file {}", scene.path("end").display());
        let script = [format!("spawn {spawn}"), "note spawned".to_owned(), end, "exit 0".to_owned()];
        let scene = beside(scene, "exec sleep 300").worker(script);
        let path = scene.write();
        let runner = scene.start_with([std::ffi::OsStr::new("--log-level=debug"), path.as_os_str()]);
        runner.wait_for_note("spawned");
        if hides {
            // Its parent lives: it is seen below the worker, once a second.
            runner.wait_for("two looks at the worker's descendants", |_| {
                (runner.log().matches("noted the worker's descendants").count() >= 2).then_some(())
            });
        }
        std::fs::write(runner.path("end"), "").unwrap();
        assert_eq!(runner.ended().code, Some(0), "{spawn}");
        assert!(!runner.a_descendant_lives(), "{spawn}\n{runner}");
    }
}

/// The runner has no `/proc` to look at.
const WITHOUT_PROC: &str =
    "set -- unshare --mount sh -c 'mount -t tmpfs none /proc && exec \"$@\"' sh \"$@\"";

#[test]
fn where_proc_cannot_be_read_that_is_said_once_and_the_workers_group_is_killed() {
    if !is_root() {
        eprintln!("skipped: hiding /proc needs root");
        return;
    }
    let scene = Scene::new();
    let file = scene.path("left");
    // It ignores SIGTERM, and so do its children.
    let command = format!("trap '' TERM; sleep 300 & echo $! >{}; exit 7", file.display());
    let scene = scene.set("worker.path", "/bin/sh").set("worker.args", ["-c", &command].to_vec());
    let scene = scene.set("supervision.killTimeout", "300ms").set("supervision.maxRestarts", 1);
    let runner = scene.after(WITHOUT_PROC.to_owned()).start();
    let ended = runner.ended();
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert_eq!(ended.log.matches("cannot look at all processes in /proc").count(), 1, "{}", ended.log);
    let left = pid_in(&runner, "left");
    assert!(eventually(|| (!lives(left)).then_some(())).is_some(), "{left} lives\n{}", ended.log);
}

#[test]
fn what_a_container_exec_session_has_left_with_a_runner_that_is_pid_1_is_left_alone() {
    if !is_root() {
        eprintln!("skipped: a PID namespace needs root");
        return;
    }
    let scene = Scene::new();
    let [left, end] = ["left", "end"].map(|name| format!("wait-file {}", scene.path(name).display()));
    let script = [&format!("start 1: spawn daemon ; {left} ; exit 7"), &end, "exit 0"];
    let scene = scene.worker(script);
    let runner =
        scene.after("set -- unshare --pid --fork --kill-child --mount-proc \"$@\"".to_owned()).start();
    runner.wait_for_start(1);
    let init = runner.children()[0].pid;
    let mark = format!("stranger-to-{}", runner.worker_id());
    let entered = std::process::Command::new("nsenter")
        .args(["-t", &init.to_string(), "-p", "-m", "--", "sh", "-c", "setsid sleep 300 >/dev/null 2>&1 &"])
        .env("STRANGER", &mark)
        .status();
    assert!(entered.unwrap().success());
    let stranger = || Runner::pids_with(&format!("STRANGER={mark}")).first().copied();
    let before = eventually(stranger).expect("it runs");
    std::fs::write(runner.path("left"), "").unwrap();
    runner.wait_for_start(2);
    assert!(!runner.a_descendant_lives(), "{runner}");
    assert_eq!(stranger(), Some(before), "{runner}");
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_runner_that_can_open_no_more_files_finds_what_its_worker_has_left() {
    if !is_root() {
        eprintln!("skipped: the files of a process that is not dumpable are root's to see");
        return;
    }
    let scene = Scene::new();
    let end = format!("wait-file {}", scene.path("end").display());
    let script = ["spawn session ignore-term", "spawn daemon wiped", "note spawned", &end, "exit 0"];
    let runner = scene.worker(script).set("supervision.killTimeout", "200ms").start();
    runner.wait_for_note("spawned");
    // No number is free below the limit, but those that the runner gives up.
    let is_free = |fd: &u64| !std::path::Path::new(&format!("/proc/{}/fd/{fd}", runner.pid())).is_symlink();
    let limit = (0..1000).find(is_free).unwrap();
    let limited = std::process::Command::new("prlimit")
        .args(["--pid", &runner.pid().to_string(), &format!("--nofile={limit}:{limit}")])
        .status();
    assert!(limited.unwrap().success());
    std::fs::write(runner.path("end"), "").unwrap();
    assert_eq!(runner.ended().code, Some(0));
    runner.assert_nothing_left();
}

/// Number of reads that a process has made (`/proc/PID/io`; needs root).
fn reads(pid: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

#[test]
fn however_many_leftover_processes_die_proc_is_walked_five_times_a_second_at_most() {
    if !is_root() {
        eprintln!("skipped: what a process that is not dumpable has read is root's to see");
        return;
    }
    let mut script = vec!["spawn session ignore-term"; 100];
    script.push("exit 0");
    let runner = Scene::new().worker(script).set("supervision.killTimeout", "1h").start();
    runner.wait_for_log("worker left processes behind");
    let events = runner.events();
    let left = named(&events, "descendant");
    let (before, began) = (reads(runner.pid()), std::time::Instant::now());
    let processes = std::fs::read_dir("/proc").unwrap().count();
    let is_reaped = |pid: i32| runner.children().iter().all(|child| child.pid != pid);
    // The last one ends the runner.
    for leftover in left.iter().skip(1) {
        kill(Pid::from_raw(leftover.pid()), Signal::SIGKILL).unwrap();
        eventually(|| is_reaped(leftover.pid()).then_some(())).expect("it is reaped");
    }
    let walks = began.elapsed().as_secs() * 5 + 6;
    // A file is read until its end.
    let allowed = walks * u64::try_from(processes).unwrap() * 2 + 1000;
    let made = reads(runner.pid()) - before;
    assert!(made <= allowed, "{made} reads, and {walks} walks with {processes} processes make {allowed}");
    kill(Pid::from_raw(left[0].pid()), Signal::SIGKILL).unwrap();
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn processes_that_the_kernel_hides_are_mentioned_once() {
    if !is_root() {
        eprintln!("skipped: mounting /proc needs root");
        return;
    }
    // The kernel hides nothing from the group root, nor from whom it lets trace every process.
    let hides = "mount -t proc -o hidepid=2 none /proc && exec setpriv --regid 65534 --clear-groups --bounding-set -sys_ptrace \"$@\"";
    let script = ["start 1: spawn session ignore-term ; exit 7", "spawn session ignore-term", "exit 0"];
    let scene = Scene::new().worker(script).set("supervision.killTimeout", "300ms");
    let runner = scene.after(format!("set -- unshare --mount sh -c '{hides}' sh \"$@\"")).start();
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 2), "{}", ended.log);
    assert_eq!(ended.log.matches("cannot look at all processes in /proc").count(), 1, "{}", ended.log);
    assert!(ended.log.contains("processes of other users are hidden"), "{}", ended.log);
    runner.assert_nothing_left();
}
