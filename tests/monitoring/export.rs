//! Metrics and health of real runners, over HTTP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::clouds::machine::{EC2, Machine, OBEDIENT};
use crate::harness::{DEADLINE, Runner, Scene, eventually};

/// With metrics at a port that the system chooses.
pub(crate) fn measured(scene: Scene) -> Scene {
    scene.set("metrics.listen", "127.0.0.1:0")
}

/// The address at which a runner serves.
#[track_caller]
pub(crate) fn address(runner: &Runner) -> SocketAddr {
    runner.wait_for_log("serving /metrics and /healthz");
    let log = runner.log();
    let (_, rest) = log.split_once("serving /metrics and /healthz address=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends this, and has all that comes back.
pub(crate) fn exchange(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A cut-off answer is as good as any.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

/// Status and body.
pub(crate) fn get(runner: &Runner, path: &str) -> (u16, String) {
    let answer = exchange(address(runner), &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The samples by name and labels, as they stand.
pub(crate) fn samples(runner: &Runner) -> BTreeMap<String, f64> {
    let (status, text) = get(runner, "/metrics");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[track_caller]
fn wait_for_health(runner: &Runner, status: u16, body: &str) {
    let mut last = None;
    let found = eventually(|| {
        last = Some(get(runner, "/healthz"));
        (last == Some((status, body.to_owned()))).then_some(())
    });
    assert!(found.is_some(), "not {status} {body:?}, last {last:?}\n{runner}");
}

#[test]
fn a_runner_with_a_worker_is_healthy_and_counts_its_output() {
    let script =
        ["on now: exit 0", "hello all", "lines 10 100", "raw last", "close-stdout", "print x", "wait"];
    let runner = measured(Scene::new()).worker(script).start();
    runner.wait_for_log("last");
    wait_for_health(&runner, 200, "ok\n");
    let counted = eventually(|| {
        let samples = samples(&runner);
        (samples["start_worker_worker_output_lines_total"] == 12.0).then_some(samples)
    });
    let counted = counted.unwrap_or_else(|| panic!("{:?}\n{runner}", samples(&runner)));
    let hello = runner.events().len();
    assert!(hello > 0);
    assert!(counted["start_worker_worker_output_bytes_total"] > 1004.0, "{counted:?}");
    assert!(counted["start_worker_worker_last_output_timestamp_seconds"] > 1.7e9, "{counted:?}");
    assert!(counted["start_worker_worker_oom_kills_total"] >= 0.0, "{counted:?}");
    assert_eq!(counted["start_worker_state{state=\"running\"}"], 1.0);
    assert_eq!(counted["start_worker_state{state=\"draining\"}"], 0.0);
    assert_eq!(counted["start_worker_healthy"], 1.0);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(0));
}

#[test]
fn a_crash_loop_is_not_healthy_and_every_crash_is_counted() {
    let runner = measured(Scene::new()).worker(["hello all", "start 4: wait", "exit 7"]).start();
    runner.wait_for_start(4);
    wait_for_health(&runner, 503, "the worker crashes again and again: 3 times in a row\n");
    // The worker's own record of its start may come before the runner counts it.
    let restarted =
        || Some(samples(&runner)).filter(|samples| samples["start_worker_worker_restarts_total"] == 3.0);
    let samples = eventually(restarted).unwrap_or_else(|| samples(&runner));
    assert_eq!(samples["start_worker_worker_exits_total{meaning=\"crash\"}"], 3.0);
    assert_eq!(samples["start_worker_worker_exits_total{meaning=\"done\"}"], 0.0);
    assert_eq!(samples["start_worker_worker_restarts_total"], 3.0);
    assert_eq!(samples["start_worker_worker_crashes"], 3.0);
    assert_eq!(samples["start_worker_log_messages_total{level=\"warning\"}"], 3.0);
    assert_eq!(samples["start_worker_healthy"], 0.0);
}

#[test]
fn a_crash_that_was_long_ago_is_forgotten() {
    let scene = measured(Scene::new()).worker(["hello all", "start 3: wait", "exit 7"]);
    // Long enough to read it meanwhile.
    let runner = scene.set("supervision.restartWindow", "8s").start();
    runner.wait_for_start(3);
    wait_for_health(&runner, 503, "the worker crashes again and again: 2 times in a row\n");
    wait_for_health(&runner, 200, "ok\n");
}

#[test]
fn a_machine_whose_runner_gave_up_is_not_healthy_until_it_leaves() {
    let machine = Machine::new(EC2);
    let scene =
        measured(machine.scene()).set("host.startFailureDelay", "10m").set("supervision.restart", "never");
    let runner = scene.worker(["hello all", "exit 7"]).start();
    wait_for_health(&runner, 503, "gave up on the worker\n");
    let samples = samples(&runner);
    assert_eq!(samples["start_worker_state{state=\"ended\"}"], 1.0);
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.ended().code, Some(1));
}

#[test]
fn calls_polls_and_notices_are_counted() {
    let machine = Machine::new(EC2);
    let runner = measured(machine.scene()).set("supervision.stopTimeout", "60s").worker([
        "on now: wait-file never",
        "hello all",
        "wait",
    ]);
    let runner = runner.start();
    runner.wait_for_log("worker says hello");
    let made = |samples: &BTreeMap<String, f64>, call: &str, status: &str| {
        let name = format!("start_worker_api_requests_total{{call=\"{call}\",status=\"{status}\"}}");
        samples.get(&name).copied().unwrap_or_default()
    };
    let before = samples(&runner);
    assert_eq!(made(&before, "registerWorker", "200"), 1.0, "{before:?}");
    let durations = "start_worker_api_request_duration_seconds_count{call=\"registerWorker\"}";
    assert_eq!(before[durations], 1.0);
    assert!(before["start_worker_credentials_expiry_timestamp_seconds"] > 1.7e9);
    assert!(before["start_worker_credentials_renewal_timestamp_seconds"] > 1.7e9);
    assert!(before["start_worker_clock_offset_seconds"].abs() < 60.0);
    machine.spot("terminate", DEADLINE);
    runner.wait_for_log("the cloud gives notice");
    let after = samples(&runner);
    let notices = "start_worker_interruptions_total{source=\"EC2 spot\",action=\"terminate\"}";
    assert_eq!(after[notices], 1.0, "{after:?}");
    assert!(after["start_worker_polls_total{source=\"EC2\",result=\"ok\"}"] >= 1.0);
    assert_eq!(after["start_worker_state{state=\"stopping\"}"], 1.0);
}

#[test]
fn an_address_that_is_in_use_is_a_warning_and_one_for_all_to_reach_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let scene = Scene::new().set("metrics.listen", address).worker(OBEDIENT);
    let runner = scene.start();
    runner.wait_for_log("cannot listen for metrics: going on without");
    runner.wait_for_log("worker says hello");
    let scene = Scene::new().set("metrics.listen", "0.0.0.0:0").worker(OBEDIENT);
    let runner = scene.start();
    runner.wait_for_log("metrics.listen is no loopback address");
    runner.wait_for_log("worker says hello");
}

#[test]
fn what_is_no_request_does_no_harm_and_too_many_connections_wait() {
    let runner = measured(Scene::new()).worker(OBEDIENT).start();
    runner.wait_for_log("worker says hello");
    let to = address(&runner);
    let status = |request: &str| {
        let answer = exchange(to, request);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "404");
    assert_eq!(status("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "200");
    assert_eq!(status("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), "405");
    assert_eq!(status("nonsense\r\n\r\n"), "400");
    assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000))), "431");
    // Silent connections take all places; then they are closed.
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(to).unwrap()).collect();
    drop(silent);
    wait_for_health(&runner, 200, "ok\n");
    runner.assert_small();
}

#[test]
fn a_static_worker_that_cannot_register_is_told_about() {
    let scene = measured(Scene::new()).set("provider.rootURL", "http://127.0.0.1:1").set("getSecrets", true);
    let runner = scene.set("supervision.restart", json!("never")).start();
    let told = eventually(|| Some(get(&runner, "/healthz")).filter(|(status, _)| *status == 503));
    let (_, why) = told.expect("it is not healthy");
    assert!(why.starts_with("the worker cannot start yet: get failed: GET http://127.0.0.1:1/"), "{why}");
}
