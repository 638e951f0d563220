//! The page's claims about a running container.

use nix::sys::signal::Signal;
use test_support::record::{messages, named, signals};

use crate::containers::container::{Container, Kind, children, eventually, pid_inside};

/// A worker that ends when it is asked to.
const OBEDIENT: [&str; 4] = ["on now: exit 0", "on finish: exit 0", "hello all", "wait"];

/// PID 1 where an engine adds an init (`--init`, tini): it forwards a stop to its one child and waits for it.
const INIT: [&str; 3] = [
    "/bin/sh",
    "-c",
    "/opt/bin/start-worker /data/runner.yml & child=$!; trap 'kill -TERM $child' TERM;
    while kill -0 $child 2>/dev/null; do wait $child; code=$?; done; exit $code",
];

#[test]
fn as_pid_1_a_stop_asks_the_worker_and_ends_the_container_with_0() {
    for kind in Kind::all() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut running = Container::new(kind).with_directories().worker(&OBEDIENT).start();
            running.wait_for_event("welcome", |event| event.name() == "message");
            assert_eq!(running.must(&["/bin/cat", "/proc/1/comm"]), "start-worker\n");
            running.signal(signal);
            let ended = running.ended();
            assert_eq!(ended.code, Some(0), "{running}");
            assert_eq!(messages(&ended.events), ["welcome", "now"], "{running}");
        }
    }
}

#[test]
fn as_pid_1_a_drain_lets_the_worker_finish() {
    for kind in Kind::all() {
        let mut running = Container::new(kind).with_directories().worker(&OBEDIENT).start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        running.signal(Signal::SIGUSR1);
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{running}");
        assert_eq!(messages(&ended.events), ["welcome", "finish"], "{running}");
    }
}

#[test]
fn behind_an_init_a_stop_that_it_forwards_does_the_same() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&OBEDIENT).command(&INIT);
        let mut running = container.start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        assert_eq!(running.must(&["/bin/cat", "/proc/1/comm"]), "sh\n");
        running.signal(Signal::SIGTERM);
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{running}");
        assert_eq!(messages(&ended.events), ["welcome", "now"], "{running}");
    }
}

#[test]
fn orphans_are_reaped_as_pid_1_and_behind_an_init() {
    for kind in Kind::all() {
        for behind_an_init in [false, true] {
            let script = ["on now: exit 0", "hello all", "spawn daemon", "spawn daemon", "wait"];
            let mut container = Container::new(kind).with_directories().worker(&script);
            if behind_an_init {
                container = container.command(&INIT);
            }
            let mut running = container.start();
            let left = || running.events().iter().filter(|event| event.name() == "descendant").count() == 2;
            assert!(eventually(|| left().then_some(())).is_some(), "{running}");
            let parent = if behind_an_init { children(running.init)[0].0 } else { running.init };
            let runner = pid_inside(parent);
            let events = running.events();
            let daemons: Vec<String> =
                named(&events, "descendant").iter().map(|event| event.pid().to_string()).collect();
            for daemon in &daemons {
                let status = || running.must(&["/bin/cat", &format!("/proc/{daemon}/status")]);
                let adopted = eventually(|| status().contains(&format!("\nPPid:\t{runner}\n")).then_some(()));
                assert!(adopted.is_some(), "{}{running}", status());
            }
            let kill = format!("kill -KILL {}", daemons.join(" "));
            running.must(&["/bin/sh", "-c", &kill]);
            let reaped = eventually(|| (children(parent).len() == 1).then_some(()));
            assert!(reaped.is_some(), "{:?}\n{running}", children(parent));
            running.signal(Signal::SIGTERM);
            assert_eq!(running.ended().code, Some(0), "{running}");
        }
    }
}

#[test]
fn a_worker_that_ignores_everything_is_killed_before_a_grace_that_allows_for_it() {
    for kind in Kind::all() {
        let script = ["on now: wait", "on SIGTERM:", "hello all", "spawn session ignore-term", "wait"];
        let container = Container::new(kind).with_directories().worker(&script);
        let mut running = container.set("supervision.stopTimeout", "300ms").start();
        running.wait_for_event("its descendant", |event| event.name() == "descendant");
        running.signal(Signal::SIGTERM);
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{running}");
        assert_eq!(signals(&ended.events), ["SIGTERM"], "{running}");
        assert!(ended.log.contains("SIGKILL") || ended.log.contains("kill"), "{running}");
    }
}

#[test]
fn when_the_grace_is_over_all_of_the_container_ends_at_once() {
    for kind in Kind::all() {
        let script = ["on now: wait", "on SIGTERM:", "hello all", "spawn session ignore-term", "wait"];
        let mut running = Container::new(kind).with_directories().worker(&script).start();
        running.wait_for_event("its descendant", |event| event.name() == "descendant");
        let below: Vec<i32> = children(running.init).into_iter().map(|(pid, _)| pid).collect();
        assert!(!below.is_empty());
        running.signal(Signal::SIGKILL);
        running.ended();
        let gone = |pid: &i32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        assert!(below.iter().all(gone), "{below:?}");
    }
}

#[test]
fn without_a_writable_run_there_is_no_status_socket_and_the_worker_runs_all_the_same() {
    for kind in Kind::all() {
        let mut running = Container::new(kind).option("read-only").worker(&OBEDIENT).start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        running.wait_for_log("WARN");
        assert!(running.log().contains("status socket"), "{running}");
        let status = running.exec(&["/opt/bin/start-worker", "status"]);
        assert_eq!(status.status.code(), Some(1), "{running}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn on_a_read_only_root_with_the_directories_of_the_page_nothing_is_missing() {
    for kind in Kind::all() {
        let container = Container::new(kind).option("read-only").with_directories().worker(&OBEDIENT);
        let mut running = container.set("cacheOverRestarts", "/data/run.json").start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        assert!(running.must(&["/opt/bin/start-worker", "status"]).contains("running, since "), "{running}");
        assert!(!running.log().contains("WARN"), "{running}");
        assert!(
            running.container.path("run.json").exists() && running.container.path("worker.json").exists()
        );
        let touched = running.exec(&["/bin/sh", "-c", ": >/etc/touched"]);
        assert!(!touched.status.success(), "the root can be written");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn a_session_beside_it_sees_the_status_and_can_drain() {
    for kind in Kind::all() {
        let mut running = Container::new(kind).with_directories().worker(&OBEDIENT).start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        let status = running.must(&["/opt/bin/start-worker", "status"]);
        assert!(status.contains("running, since ") && status.contains("0.1.0, pid 1, "), "{status}");
        // It may be killed before it has its answer, because the container ends with its PID 1.
        running.exec(&["/opt/bin/start-worker", "drain", "--wait"]);
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{running}");
        assert_eq!(messages(&ended.events), ["welcome", "finish"], "{running}");
    }
}

#[test]
fn a_reboot_without_an_init_system_is_the_containers_restart_with_on_reboot_exit() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&["hello all", "exit 67"]);
        let mut running = container.set("supervision.onReboot", "exit").start();
        let ended = running.ended();
        assert_eq!(ended.code, Some(70), "{running}");
        assert!(!running.container.path("host-commands").exists(), "{running}");
    }
}

#[test]
fn a_reboot_command_that_the_image_lacks_is_told_and_the_container_ends_with_70() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&["hello all", "exit 67"]);
        let container = container.set("worker.restartInPlace", false);
        let container =
            container.set("supervision.onReboot", "reboot").set("supervision.rebootTimeout", "300ms");
        let mut running = container.set("host.rebootCommand", vec!["/usr/sbin/no-such-reboot"]).start();
        let ended = running.ended();
        assert_eq!(ended.code, Some(70), "{running}");
        assert!(ended.log.contains("/usr/sbin/no-such-reboot"), "{running}");
    }
}

#[test]
fn a_command_of_the_container_can_stand_in_for_a_reboot() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&["hello all", "exit 67"]);
        let mut running = container.set("supervision.onReboot", "reboot").start();
        let asked = eventually(|| running.container.path("host-commands").exists().then_some(()));
        assert!(asked.is_some(), "{running}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn with_no_display_manager_a_worker_is_not_offered_an_automatic_login() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&OBEDIENT);
        let mut running = container.set("autologin.displayManager", "none").start();
        let welcome = running.wait_for_event("welcome", |event| event.name() == "message");
        let offered = welcome.field("message")["capabilities"].to_string();
        assert!(offered.contains("graceful-termination") && !offered.contains("autologin"), "{offered}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn a_configuration_that_is_mounted_alone_and_read_only_is_used() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&OBEDIENT).option("file=runner.yml");
        let mut running = container.command(&["/opt/bin/start-worker", "/file/runner.yml"]).start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn a_configuration_of_a_user_that_the_container_does_not_have_ends_it_with_77() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root can give a file away
    }
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&OBEDIENT);
        container.write("runner.yml", "provider: {}\n");
        // Readable by all: what a container sees as nobody's file.
        let path = container.path("runner.yml");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&path, Some(4711), Some(4711)).unwrap();
        let mut running = container.start_as_it_is();
        let ended = running.ended();
        assert_eq!(ended.code, Some(77), "{running}");
        assert!(ended.log.contains("/data/runner.yml"), "{running}");
    }
}

#[test]
fn the_log_is_on_stderr_and_json_where_that_is_wanted() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().set("logging.implementation", "json");
        let mut running =
            container.worker(&["on now: exit 0", "hello all", "print from the worker", "wait"]).start();
        running.wait_for_log("from the worker");
        running.signal(Signal::SIGTERM);
        let ended = running.ended();
        assert!(
            ended.log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
            "{running}"
        );
    }
}

#[test]
fn a_crashed_worker_is_started_again_and_what_it_left_is_gone() {
    for kind in Kind::all() {
        let script =
            ["start 2: on now: exit 0", "hello all", "start 1: spawn daemon", "start 1: exit 1", "wait"];
        let mut running = Container::new(kind).with_directories().worker(&script).start();
        running.wait_for_start(2);
        let left =
            running.wait_for_event("descendant", |event| event.name() == "descendant").pid().to_string();
        let pids = running.must(&["/bin/ls", "/proc"]);
        assert!(!pids.lines().any(|pid| pid == left), "{left} is left\n{running}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn what_a_session_has_left_is_not_the_workers_and_is_left_alone() {
    for kind in Kind::all() {
        let script =
            ["start 2: on now: exit 0", "hello all", "start 1: wait-file /data/crash ; exit 1", "wait"];
        let mut running = Container::new(kind).with_directories().worker(&script).start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        // Its parent is gone, so that it becomes a child of PID 1.
        let daemon = running.must(&["/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
        running.container.write("crash", "");
        running.wait_for_start(2);
        running.wait_for_log("worker exited");
        let status = running.must(&["/bin/cat", &format!("/proc/{}/status", daemon.trim())]);
        assert!(status.contains("sleep") && status.contains("\nPPid:\t1\n"), "{status}{running}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}

#[test]
fn a_worker_configuration_that_is_mounted_alone_is_written_in_place() {
    for kind in Kind::all() {
        let container = Container::new(kind).with_directories().worker(&OBEDIENT).option("file=worker.json");
        container.write("worker.json", "");
        let mut running = container.set("worker.configPath", "/file/worker.json").start();
        running.wait_for_event("welcome", |event| event.name() == "message");
        let written = std::fs::read_to_string(running.container.path("worker.json")).unwrap();
        assert!(
            written.contains("\"workerId\": \"wi\"") || written.contains("\"workerId\":\"wi\""),
            "{written}"
        );
        running.signal(Signal::SIGTERM);
        assert_eq!(running.ended().code, Some(0), "{running}");
    }
}
