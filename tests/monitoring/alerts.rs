//! Each alert that we ship, fired for real: a runner is brought into the condition, a real Prometheus scrapes it, and the
//! alert's own expression finds it. A runner that is well fires none.
//!
//! `for:` is left out: `alerts.test.yml` has the times.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{FakeTaskcluster, Fault, Times, WorkerKey, WorkerState};

use crate::clouds::machine::{EC2, Machine, OBEDIENT};
use crate::harness::{Runner, Scene};
use crate::monitoring::export::{address, measured};
use crate::monitoring::prometheus::{Prometheus, is_there};

const RULES: &str = include_str!("../../config-examples/monitoring/alerts.yml");

const SECRET: &str = "not-a-secret-but-secrets-have-44-characters-";

/// Name and expression of each alert.
fn alerts() -> Vec<(String, String)> {
    let rules: Value = serde_yaml::from_str(RULES).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    rules.iter().map(|rule| (text(rule, "alert"), text(rule, "expr"))).collect()
}

/// A runner in the condition of an alert, and what it needs around it.
struct Condition {
    at: SocketAddr,
    runner: Runner,
    _around: Option<Box<dyn Any>>,
    /// The step after the first scrape.
    then: Option<Box<dyn Fn()>>,
}

impl Condition {
    fn new(scene: Scene) -> Self {
        let runner = measured(scene).start();
        Self { at: address(&runner), runner, _around: None, then: None }
    }

    /// With metrics at an address that the scene has.
    fn at(at: SocketAddr, scene: Scene) -> Self {
        Self { at, runner: scene.start(), _around: None, then: None }
    }

    fn then(self, change: impl Fn() + 'static) -> Self {
        Self { then: Some(Box::new(change)), ..self }
    }

    fn beside(self, around: impl Any) -> Self {
        Self { _around: Some(Box::new(around)), ..self }
    }
}

/// Somebody may take the port between; then this test tells.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn restarted(at: SocketAddr) -> Scene {
    Scene::new().set("metrics.listen", at.to_string()).worker(OBEDIENT)
}

/// The condition of an alert.
type Make = fn() -> Condition;

const CONDITIONS: &[(&str, Make)] = &[
    ("StartWorkerUnhealthy", || {
        let scene = Scene::new().set("provider.rootURL", "http://127.0.0.1:1").set("getSecrets", true);
        Condition::new(scene)
    }),
    ("StartWorkerCrashLoop", || {
        Condition::new(Scene::new().worker(["hello all", "start 5: wait", "exit 7"]))
    }),
    ("StartWorkerRestartLoop", || {
        let at = free_port();
        Condition::at(at, restarted(at))
    }),
    ("StartWorkerBadConfiguration", || {
        let machine = Machine::new(EC2);
        let scene =
            machine.generic_worker().set("host.startFailureDelay", "10m").worker(["hello all", "exit 64"]);
        Condition::new(scene).beside(machine)
    }),
    ("StartWorkerBadConfiguration", || {
        // The service of a host starts it again, and the next start pauses.
        let scene = || Scene::generic_worker().worker(["hello all", "exit 64"]);
        let before = scene().start();
        assert_eq!(before.ended().code, Some(1));
        let state = before.path("").to_str().unwrap().to_owned();
        Condition::new(scene().env("STATE_DIRECTORY", &state)).beside(before)
    }),
    ("StartWorkerRenewalsFail", || {
        let (taskcluster, worker) = taskcluster();
        // They are renewed a few seconds after they have come.
        taskcluster.set_credentials_life(Duration::from_secs(33));
        let scene = registered(&taskcluster);
        // An increase is one since the first scrape.
        Condition::new(scene).then(move || taskcluster.set_worker_state(&worker, WorkerState::Stopped))
    }),
    ("StartWorkerCredentialsExpireSoon", || {
        let at = jiff::Timestamp::now().as_millisecond();
        let certificate = json!({
            "version": 1, "scopes": ["*"], "start": at - 60_000, "expiry": at + 1_200_000, "seed": "s".repeat(44),
            "signature": "x", "issuer": "i",
        });
        let scene = Scene::new().set("provider.certificate", certificate.to_string());
        Condition::new(scene.worker(["hello all", "wait"]))
    }),
    ("StartWorkerClockWrong", || {
        let (taskcluster, _) = taskcluster();
        taskcluster.set_clock_offset(jiff::SignedDuration::from_mins(5));
        Condition::new(registered(&taskcluster)).beside(taskcluster)
    }),
    ("StartWorkerApiErrors", || {
        let (taskcluster, _) = taskcluster();
        taskcluster.fail("registerWorker", Times::UntilCleared, Fault::bad_gateway());
        Condition::new(registered(&taskcluster)).beside(taskcluster)
    }),
    ("StartWorkerPollsFail", || {
        let machine = Machine::new(EC2);
        let condition = Condition::new(machine.scene().worker(["hello all", "wait"]));
        condition.runner.wait_for_log("worker says hello");
        machine.tell("fault * 500");
        condition.beside(machine)
    }),
    ("StartWorkerWaitsForReboot", || {
        let scene = Scene::generic_worker().set("supervision.onReboot", "wait");
        Condition::new(scene.worker(["hello all", "exit 67"]))
    }),
    ("StartWorkerHolds", || {
        let scene = Scene::new();
        std::fs::write(scene.path("held"), "").unwrap();
        Condition::new(scene)
    }),
    ("StartWorkerLosesLog", || {
        // Its log is on a disk that is full.
        let at = free_port();
        let scene = Scene::new().set("metrics.listen", at.to_string()).after("exec 2>/dev/full".to_owned());
        Condition::at(at, scene.worker(["hello all", "pour 20 100 200s"]))
    }),
];

fn taskcluster() -> (Arc<FakeTaskcluster>, WorkerKey) {
    let taskcluster = FakeTaskcluster::start();
    taskcluster.set_pool("demo/linux", json!({"config": {}}));
    let worker = taskcluster.add_static_worker("demo/linux", "here", "worker-1", SECRET);
    (Arc::new(taskcluster), worker)
}

/// A static worker that looks for new deployments as often as is possible.
fn registered(taskcluster: &FakeTaskcluster) -> Scene {
    let scene = Scene::new().set(
        "provider",
        json!({
            "providerType": "static", "rootURL": taskcluster.url(), "providerID": "static", "workerPoolID": "demo/linux",
            "workerGroup": "here", "workerID": "worker-1", "staticSecret": SECRET,
        }),
    );
    scene.set("deployment", json!({"poll": true, "interval": "1s"})).worker(["hello all", "wait"])
}

/// The pause between two polls of a wait with a deadline.
#[expect(clippy::disallowed_methods, reason = "a pause between two looks of a wait with a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(200));
}

/// Time limit of all conditions: calls to Taskcluster are 5 s apart.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_alert_fires_for_what_it_is_about_and_none_for_a_runner_that_is_well() {
    if !is_there("prometheus") {
        return;
    }
    let well = Condition::new(Scene::new().worker(OBEDIENT));
    let mut made: Vec<(&str, Condition)> = CONDITIONS.iter().map(|(alert, make)| (*alert, make())).collect();
    let down = free_port();
    let targets: Vec<SocketAddr> =
        made.iter().map(|(_, condition)| condition.at).chain([well.at, down]).collect();
    let prometheus = Prometheus::scrape(&targets);
    let alerts = alerts();
    let wanted: BTreeSet<&str> = alerts.iter().map(|(alert, _)| alert.as_str()).collect();
    let tried: BTreeSet<&str> = made.iter().map(|(alert, _)| *alert).chain(["StartWorkerDown"]).collect();
    assert_eq!(tried, wanted, "an alert without its condition");

    let until = Instant::now() + LIMIT;
    let mut silent: Vec<(String, String)> = alerts.clone();
    let mut last_start = String::new();
    let mut changed = BTreeSet::new();
    while !silent.is_empty() && Instant::now() < until {
        silent.retain(|(alert, expression)| {
            let instances = prometheus.instances(expression);
            let mut wanted: Vec<SocketAddr> =
                made.iter().filter(|(name, _)| name == alert).map(|(_, condition)| condition.at).collect();
            if wanted.is_empty() {
                wanted.push(down);
            }
            !wanted.iter().all(|at| instances.contains(&at.to_string()))
        });
        for (alert, condition) in &mut made {
            let started = format!("start_worker_start_time_seconds{{instance=\"{}\"}}", condition.at);
            let Some(started) = prometheus.first(&started) else { continue };
            if let (Some(change), true) = (&condition.then, changed.insert(*alert)) {
                change();
            }
            // As its service does, but not before that start was scraped.
            if *alert == "StartWorkerRestartLoop" && started != last_start {
                last_start = started;
                condition.runner.signal(Signal::SIGTERM);
                condition.runner.ended();
                condition.runner = restarted(condition.at).start();
            }
        }
        pause();
    }
    let logs: String = made
        .iter()
        .filter(|(alert, _)| silent.iter().any(|(name, _)| name == alert))
        .map(|(_, condition)| condition.runner.log())
        .collect();
    assert!(silent.is_empty(), "these do not fire: {silent:?}\n{logs}");
    for (alert, expression) in &alerts {
        let instances = prometheus.instances(expression);
        assert!(!instances.contains(&well.at.to_string()), "{alert} fires for a runner that is well");
    }
    assert!(well.runner.is_running());
}
