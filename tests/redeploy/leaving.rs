//! A host that goes: removed by worker-manager, or else shut down; once, and never where it is not for that.

use nix::sys::signal::Signal;
use test_support::fake_taskcluster::Times;

use crate::redeploy::host::{Cache, Host, REGISTER, REMOVE, REPORT, refusal};

const ASK: &str = r#"send {"type":"shutdown"}"#;

/// A worker that asks twice for its host to go away, and then exits with this code.
fn leaving(host: &Host, code: i32) -> Vec<String> {
    let asks = ["hello all", ASK, ASK, "print asked"].map(str::to_owned);
    asks.into_iter().chain([host.gate("go"), format!("exit {code}")]).collect()
}

#[test]
fn a_machine_whose_worker_asks_for_it_is_removed_at_once_and_its_exit_adds_nothing() {
    for code in [0, 1, 67, 68, 73] {
        let host = Host::aws();
        let runner = host.generic_worker().worker(leaving(&host, code)).start();
        // Without waiting for the exit.
        host.wait_for_answers(REMOVE, 1);
        assert_eq!(host.cache(), Cache::Removed);
        assert!(runner.is_running());
        host.let_go("go");
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "exit {code}: {}", ended.log);
        assert_eq!(ended.host_commands, [""; 0], "exit {code}");
        host.assert_called(REMOVE, 1);
        host.assert_called(REPORT, 0);
    }
}

#[test]
fn a_machine_that_cannot_be_removed_is_shut_down_once() {
    let host = Host::aws();
    host.taskcluster.fail(REMOVE, Times::UntilCleared, refusal());
    let runner = host.generic_worker().worker(leaving(&host, 0)).start();
    runner.wait_for_log("running the host command what=shutdown");
    host.let_go("go");
    let ended = runner.ended();
    assert_eq!((ended.code, ended.host_commands.as_slice()), (Some(0), &["shutdown".to_owned()][..]));
    host.assert_called(REMOVE, 1);
    // The next end has the same way out.
    let host = Host::aws();
    host.taskcluster.fail(REMOVE, Times::UntilCleared, refusal());
    let ended = host.generic_worker().worker(["hello all", "exit 0"]).start().ended();
    assert_eq!((ended.code, ended.host_commands.as_slice()), (Some(0), &["shutdown".to_owned()][..]));
    host.assert_called(REMOVE, 1);
}

#[test]
fn a_removed_machine_starts_no_worker_again() {
    let host = Host::aws();
    let ended = host.generic_worker().worker(["hello all", "exit 68"]).start().ended();
    assert_eq!((ended.code, host.cache()), (Some(0), Cache::Removed), "{}", ended.log);
    let ended = host.generic_worker().worker(["hello all", "exit 68"]).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert!(ended.log.contains("this worker was removed from worker-manager"), "{}", ended.log);
    host.assert_called(REMOVE, 1);
    host.assert_called(REGISTER, 1);
    assert_eq!(ended.host_commands, [""; 0]);
}

#[test]
fn a_static_host_is_shut_down_for_its_worker_only_where_the_configuration_says_so() {
    // Its own exit decides, where it is not.
    for (code, ends) in [(0, 0), (73, 1)] {
        let host = Host::fixed();
        let runner = host.generic_worker().worker(leaving(&host, code)).start();
        runner.wait_for_log("asked");
        host.let_go("go");
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(ends), 1), "{}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
        host.assert_called(REMOVE, 0);
    }
    for code in [0, 73] {
        let host = Host::fixed();
        let runner =
            host.generic_worker().worker(leaving(&host, code)).set("host.shutdownStatic", true).start();
        runner.wait_for_log("running the host command what=shutdown");
        host.let_go("go");
        let ended = runner.ended();
        assert_eq!((ended.code, ended.starts()), (Some(0), 1), "{}", ended.log);
        assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), vec!["shutdown".to_owned()]));
        host.assert_called(REMOVE, 0);
    }
}

#[test]
fn no_other_end_shuts_a_static_host_down_even_where_that_is_allowed() {
    for code in [0, 68, 73] {
        let host = Host::fixed();
        let scene = host.generic_worker().set("host.shutdownStatic", true);
        let ended = scene.worker(["hello all", &format!("exit {code}")]).start().ended();
        assert_eq!(ended.host_commands, [""; 0], "exit {code}: {}", ended.log);
        host.assert_called(REMOVE, 0);
    }
}

#[test]
fn a_stop_ends_the_wait_before_a_removal_and_the_machine_stays() {
    let host = Host::aws();
    let scene = host.generic_worker().set("host.startFailureDelay", "1h");
    let runner = scene.worker(["hello all", "exit 73"]).start();
    runner.wait_for_log("this machine is removed after host.startFailureDelay");
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 1), "{}", ended.log);
    assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
    host.assert_called(REMOVE, 0);
    host.assert_called(REPORT, 1);
}

#[test]
fn a_worker_that_crashes_too_often_is_given_up_with_its_machine() {
    let host = Host::aws();
    let scene = host.generic_worker().set("supervision.maxRestarts", 2);
    let ended = scene.worker(["hello all", "exit 1"]).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 3), "{}", ended.log);
    host.assert_called(REMOVE, 1);
    host.assert_called(REPORT, 1);
    assert_eq!((host.cache(), ended.host_commands), (Cache::Removed, Vec::new()));

    let host = Host::fixed();
    let scene = host.generic_worker().set("supervision.maxRestarts", 2);
    let ended = scene.worker(["hello all", "exit 1"]).start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 3), "{}", ended.log);
    host.assert_called(REMOVE, 0);
    host.assert_called(REPORT, 1);
    assert_eq!((host.cache(), ended.host_commands), (Cache::of("d1"), Vec::new()));
}
