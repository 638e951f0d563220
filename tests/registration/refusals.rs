//! Permanent refusals: they are logged, requests are paced, and a stop is obeyed meanwhile.

use nix::sys::signal::Signal;
use serde_json::json;
use test_support::fake_taskcluster::{Fault, Times, WorkerState};

use crate::harness::Scene;
use crate::registration::site::{
    AT_ONCE, GROUP, POOL, STATIC_SECRET, Site, WORKER, assert_discreet, line, lines, stop,
};

const NOT_YET: &str = "the worker cannot start yet";

/// A refusal of a static worker's registration: asked once, told once, again in ten minutes, and a stop ends it; with a
/// limit that is nearer the runner ends at once.
#[track_caller]
fn refused(site: &Site, scene: impl Fn() -> Scene, says: &str) {
    let runner = scene().start();
    runner.wait_for_log(NOT_YET);
    let ended = stop(&runner);
    let said = line(&ended.log, NOT_YET);
    for part in
        ["ERROR", "cannot register the worker: registerWorker failed: POST http://", says, "again_in=10m"]
    {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!(lines(&ended.log, NOT_YET), 1, "{}", ended.log);
    assert_eq!(ended.starts(), 0);
    assert_discreet(&ended.log, &[STATIC_SECRET]);
    assert_eq!(site.calls(), ["registerWorker"]);
    site.taskcluster.forget_requests();
    let ended = scene().set("startTimeout", "5m").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(1), 0), "{}", ended.log);
    assert!(ended.after < AT_ONCE, "{:?}", ended.after);
    assert!(line(&ended.log, "start-worker ends:").contains(says), "{}", ended.log);
    assert_eq!(site.calls(), ["registerWorker"]);
    assert_eq!(ended.host_commands, [""; 0]);
}

#[test]
fn a_wrong_static_secret_is_asked_about_once() {
    let site = Site::new();
    site.taskcluster.add_static_worker(POOL, GROUP, WORKER, &STATIC_SECRET.replace('4', "5"));
    refused(&site, || site.scene(), ": 400 InputError: bad staticSecret in workerIdentityProof");
}

#[test]
fn a_pool_that_does_not_exist_is_asked_about_once() {
    let site = Site::new();
    let scene = || site.scene().set("provider.workerPoolID", "demo/windows");
    refused(&site, scene, ": 404 ResourceNotFound: Worker pool demo/windows does not exist");
}

#[test]
fn a_worker_that_was_stopped_by_the_service_is_asked_about_once() {
    let site = Site::new();
    site.taskcluster.set_worker_state(&site.worker, WorkerState::Stopped);
    refused(&site, || site.scene(), ": 400 InputError: worker is not running");
}

#[test]
fn a_proxys_page_for_404_is_asked_about_once() {
    let site = Site::new();
    let page = "<html><body>nothing here</body></html>";
    site.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::answer(404, "text/html", page));
    refused(&site, || site.scene(), ": 404 Not Found: the answer (text/html) is not shown");
}

#[test]
fn a_redirection_is_not_followed() {
    let elsewhere = Site::new();
    let site = Site::new();
    let target = format!("{}/api/worker-manager/v1/worker/register", elsewhere.taskcluster.url());
    site.taskcluster.fail("registerWorker", Times::UntilCleared, Fault::redirect(&target));
    let says = format!("redirections are not followed; set rootURL to {}", elsewhere.taskcluster.url());
    refused(&site, || site.scene(), &says);
    assert_eq!(elsewhere.taskcluster.connections(), 0);
}

#[test]
fn a_static_secret_of_the_wrong_form_is_told_before_anybody_is_asked() {
    let site = Site::new();
    let ended = site.scene().set("provider.staticSecret", "too-short").start().ended();
    assert_eq!((ended.code, ended.starts()), (Some(64), 0), "{}", ended.log);
    assert!(ended.log.contains("staticSecret"), "{}", ended.log);
    assert_discreet(&ended.log, &["too-short"]);
    assert_eq!(site.taskcluster.connections(), 0);
}

#[test]
fn a_worker_configuration_that_is_no_object_is_a_refusal() {
    let site = Site::new();
    site.set_worker_config(&json!({"command": ["hidden-by-all-means"]}));
    let runner = site.scene().start();
    runner.wait_for_log(NOT_YET);
    runner.signal(Signal::SIGTERM);
    let ended = runner.ended();
    assert_eq!((ended.code, ended.starts()), (Some(0), 0), "{}", ended.log);
    assert!(line(&ended.log, NOT_YET).contains("workerConfig.command must be an object"), "{}", ended.log);
    assert_discreet(&ended.log, &["hidden-by-all-means"]);
}

#[test]
fn a_signed_call_whose_credentials_are_refused_is_not_repeated() {
    let site = Site::new();
    let page = r#"{"code": "AuthenticationFailed", "message": "ext.certificate.expiry < now"}"#;
    site.taskcluster.fail("secret", Times::UntilCleared, Fault::answer(401, "application/json", page));
    let runner = site.scene().set("getSecrets", true).start();
    runner.wait_for_log(NOT_YET);
    let ended = stop(&runner);
    assert!(
        line(&ended.log, NOT_YET).contains("401 AuthenticationFailed: ext.certificate.expiry < now"),
        "{}",
        ended.log
    );
    assert_eq!(site.calls(), ["registerWorker", "secret"]);
}
