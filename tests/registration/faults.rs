//! Temporary faults: networks and services that fail for a while. The start continues, logs the fault once, and paces
//! its requests.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use jiff::SignedDuration;
use nix::sys::signal::Signal;
use serde_json::json;
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times};

use crate::harness::{Ended, wait_until};
use crate::registration::site::{AT_ONCE, Site, between, line, lines, once, ready, stop};

const FAILS: &str = "a call to Taskcluster fails: trying again";
const WORKS_AGAIN: &str = "a call to Taskcluster works again";

/// Starts where a call fails twice, and runs all the same; the log says why.
#[track_caller]
fn survives(call: &str, fault: &Fault, why: &str) -> (Site, Ended) {
    let site = Site::new();
    site.taskcluster.set_secret("worker-type:demo/linux", json!({"config": {}}));
    site.set_pool_secret(&json!({"config": {"from": "the secret"}}));
    site.taskcluster.fail(call, Times::Only(2), fault.clone());
    let ended = once(site.scene().set("getSecrets", true));
    assert_eq!(site.worker_config()["from"], "the secret");
    let said = line(&ended.log, FAILS);
    let api_name = if call == "secret" { "get" } else { call };
    assert!(said.contains(&format!("{api_name} failed: ")) && said.contains(why), "no `{why}` in {said}");
    assert!(said.contains("next_in="), "{said}");
    assert_eq!(lines(&ended.log, FAILS), 1, "{}", ended.log);
    let again = line(&ended.log, WORKS_AGAIN);
    assert!(again.contains("attempts=3"), "{again}");
    assert_eq!(lines(&ended.log, "ERROR"), 0, "{}", ended.log);
    (site, ended)
}

/// At every call that a start makes.
#[track_caller]
fn survives_everywhere(fault: &Fault, why: &str) {
    let (site, _) = survives("registerWorker", fault, why);
    assert_eq!(site.calls(), ["registerWorker", "registerWorker", "registerWorker", "secret", "secret"]);
    let (site, _) = survives("secret", fault, why);
    assert_eq!(site.calls(), ["registerWorker", "secret", "secret", "secret", "secret"]);
}

#[test]
fn a_connection_that_is_reset_is_made_again() {
    survives_everywhere(&Fault::Reset, "no answer: ");
}

#[test]
fn a_connection_that_is_reset_at_once_is_made_again() {
    let site = Site::new();
    site.taskcluster.fail("any", Times::Only(2), Fault::ResetAtAccept);
    let ended = once(site.scene());
    assert_eq!(lines(&ended.log, FAILS), 1, "{}", ended.log);
    assert_eq!(site.calls(), ["registerWorker"]);
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    survives_everywhere(&Fault::AnswerLost, "no answer: ");
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_again() {
    survives_everywhere(&Fault::truncated(), "the answer broke off");
}

#[test]
fn a_chunked_answer_that_breaks_off_is_asked_for_again() {
    survives_everywhere(&Fault::unfinished(), "the answer broke off");
}

#[test]
fn a_refusal_that_breaks_off_is_asked_for_again() {
    for fault in [Fault::truncated(), Fault::unfinished()] {
        let site = Site::new();
        // There is no such secret.
        site.taskcluster.fail("secret", Times::Only(2), fault);
        let ended = once(site.scene().set("getSecrets", true));
        assert!(line(&ended.log, FAILS).contains(": 404, and the answer broke off: "), "{}", ended.log);
        assert_eq!(lines(&ended.log, "a call to Taskcluster is answered again"), 1, "{}", ended.log);
        assert_eq!(site.calls(), ["registerWorker", "secret", "secret", "secret", "secret"]);
    }
}

#[test]
fn a_proxys_bad_gateway_passes() {
    survives_everywhere(&Fault::bad_gateway(), ": 502 Bad Gateway: the answer (text/html) is not shown");
}

#[test]
fn a_proxys_time_out_passes() {
    survives_everywhere(
        &Fault::gateway_timeout(),
        ": 504 Gateway Timeout: the answer (text/html) is not shown",
    );
}

#[test]
fn an_error_of_the_service_passes() {
    survives_everywhere(&Fault::InternalError, ": 500 InternalServerError: ");
}

#[test]
fn a_page_in_the_place_of_an_answer_passes() {
    survives_everywhere(
        &Fault::garbage(),
        "the answer is not JSON: expected value at line 1 column 1; the answer (text/html) is not shown",
    );
}

#[test]
fn an_answer_without_what_is_needed_passes() {
    let fault = Fault::answer(200, "application/json", r#"{"expires": "2030-01-01T00:00:00.000Z"}"#);
    survives_everywhere(&fault, "the answer cannot be used: missing field `");
}

#[test]
fn a_request_to_wait_is_followed_in_seconds() {
    let (site, _) = survives("registerWorker", &Fault::too_many_requests("1"), ": 429 Too Many Requests");
    assert_waited(&site);
}

#[test]
fn a_request_to_wait_is_followed_until_a_date() {
    // Whole seconds: between two and three from now, for the first of them.
    #[expect(clippy::disallowed_methods, reason = "a date for a header, by the clock of the fake")]
    let then = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let (site, _) = survives("registerWorker", &Fault::too_many_requests(&then), ": 429 Too Many Requests");
    let requests = site.taskcluster.requests();
    let waited = between(requests[0].at, requests[2].at);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

fn assert_waited(site: &Site) {
    let requests = site.taskcluster.requests();
    for pair in requests[..3].windows(2) {
        let waited = between(pair[0].at, pair[1].at);
        assert!(waited >= Duration::from_millis(990), "{waited:?}");
    }
}

/// An address that no other test can be given meanwhile: they use 127.0.0.1.
fn own_address() -> SocketAddr {
    ([127, 0, 0, 2], 0).into()
}

#[test]
fn a_taskcluster_that_comes_up_late_is_waited_for() {
    let site = Site::with_taskcluster(FakeTaskcluster::start_on(own_address()).unwrap());
    site.taskcluster.stop();
    let runner = site.scene().start();
    runner.wait_for_log(FAILS);
    wait_until(Instant::now() + Duration::from_secs(3));
    site.taskcluster.start_at(site.taskcluster.address()).unwrap();
    ready(&runner);
    let ended = stop(&runner);
    let said = line(&ended.log, FAILS);
    assert!(said.contains("cannot connect: Connection refused"), "{said}");
    assert_eq!(lines(&ended.log, FAILS), 1, "{}", ended.log);
    let again = line(&ended.log, WORKS_AGAIN);
    let attempts = again.split("attempts=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let attempts: u32 = attempts.parse().unwrap();
    assert!((2..=15).contains(&attempts), "{again}");
    assert_eq!(site.calls(), ["registerWorker"]);
}

#[test]
fn a_name_that_does_not_resolve_is_tried_again_until_the_start_gives_up() {
    // No resolver asks a server about a name with a part of more than 63 characters (RFC 1035).
    let name = format!("http://{}.invalid", "x".repeat(64));
    let site = Site::new();
    let scene = site.scene().set("provider.rootURL", name.clone()).set("startTimeout", "2s");
    let ended = scene.start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(75), 0), "{}", ended.log);
    let said = line(&ended.log, FAILS);
    assert!(
        said.contains(&format!("POST {name}/api/worker-manager/v1/worker/register: cannot connect: ")),
        "{said}"
    );
    assert_eq!(lines(&ended.log, FAILS), 1, "{}", ended.log);
}

#[test]
fn a_start_that_is_given_a_limit_gives_up_with_69() {
    let site = Site::new();
    site.taskcluster.stop();
    let ended = site.scene().set("startTimeout", "2s").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(75), 0), "{}", ended.log);
    assert!(ended.after >= Duration::from_millis(900) && ended.after < AT_ONCE, "{:?}", ended.after);
    let said = line(&ended.log, "start-worker ends:");
    for part in [
        "ERROR",
        "cannot register the worker: registerWorker failed: POST ",
        "Connection refused",
        "(attempt ",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!(ended.host_commands, [""; 0]);
}

#[test]
fn a_stop_ends_the_wait_for_an_answer_and_for_the_next_attempt() {
    let hanging = Site::new();
    hanging.taskcluster.fail("registerWorker", Times::Only(1), Fault::Hang);
    let runner = hanging.scene().start();
    hanging.wait_for("registerWorker", 1);
    stop(&runner);
    let away = Site::new();
    away.taskcluster.stop();
    let runner = away.scene().start();
    runner.wait_for_log(FAILS);
    let ended = stop(&runner);
    assert!(ended.log.contains("start-worker ends: stopped as asked"), "{}", ended.log);
    let busy = Site::new();
    busy.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::too_many_requests("300"));
    let runner = busy.scene().start();
    runner.wait_for_log(FAILS);
    assert!(runner.log().contains("next_in=5m") || runner.log().contains("next_in=\"5m "), "{runner}");
    stop(&runner);
    assert_eq!(busy.calls(), ["registerWorker"]);
}

#[test]
fn an_answer_that_comes_late_is_waited_for() {
    for call in ["registerWorker", "secret"] {
        let site = Site::new();
        let rule = site.taskcluster.fail(call, Times::Only(1), Fault::Hang);
        let runner = site.scene().set("getSecrets", true).start();
        site.wait_for(call, 1);
        site.taskcluster.clear_fault(rule);
        ready(&runner);
        let ended = stop(&runner);
        assert_eq!(site.calls(), ["registerWorker", "secret", "secret"]);
        assert_eq!(lines(&ended.log, FAILS), 0, "{}", ended.log);
    }
}

#[test]
fn a_drain_signal_before_there_is_a_worker_ends_the_start() {
    let site = Site::new();
    site.taskcluster.fail("registerWorker", Times::Only(1), Fault::Hang);
    let runner = site.scene().start();
    site.wait_for("registerWorker", 1);
    runner.signal(Signal::SIGUSR1);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{runner}");
}

#[test]
fn a_clock_that_is_wrong_is_told_once_and_worked_around() {
    for (minutes, way) in [(20, "behind"), (-20, "ahead")] {
        let site = Site::new();
        site.taskcluster.set_clock_offset(SignedDuration::from_mins(minutes));
        site.set_pool_secret(&json!({"config": {"from": "the secret"}}));
        let ended = once(site.scene().set("getSecrets", true));
        assert_eq!(site.worker_config()["from"], "the secret");
        let said = line(&ended.log, "the host's clock is wrong");
        // `Date` has whole seconds.
        let about = ["20m ", "19m 59s ", "19m 58s ", "20m 1s "].map(|off| format!("clock=\"{off}{way}\""));
        assert!(about.iter().any(|about| said.contains(about)), "{said}");
        assert_eq!(lines(&ended.log, "clock is wrong"), 1, "{}", ended.log);
        assert_eq!(site.calls(), ["registerWorker", "secret", "secret", "secret"]);
        let statuses: Vec<_> =
            site.taskcluster.requests().iter().map(|request| request.status.unwrap()).collect();
        assert_eq!(statuses, [200, 401, 404, 200]);
    }
}
