//! The three sources: the effect of each, and its behaviour on faults.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use start_worker::clock::SystemClock;
use start_worker::config::{self, RunnerConfig};
use start_worker::credentials::Credentials;
use start_worker::event::{Cause, Event, Exit, ExitClass, Strength};
use start_worker::registration::Registrar;
use start_worker::run_spec::{WorkerIdentity, WorkerPoolId};
use start_worker::taskcluster::{Client, Proxies};
use start_worker::telemetry::status_board::StatusPublisher;
use start_worker::watch::deployment::{Deployed, Watch};
use start_worker::worker::{InPlace, LaunchSpec};
use tokio::sync::{mpsc, watch};

use crate::deployments::server::{POOL, Reply, Server, TERMINATE};
use crate::harness::captured::Log;

const DEADLINE: Duration = Duration::from_secs(20);
const DRAIN: Event = Event::Asked { strength: Strength::Drain, cause: Cause::Redeploy };

const AWS: &str = "providerType: aws";
const STATIC: &str = "providerType: static, rootURL: 'https://x', providerID: p, workerPoolID: pp/ww, workerGroup: wg, workerID: wi, staticSecret: abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR";
const DOCKER: &str = "implementation: docker-worker, path: /w, configPath: /c";
const GENERIC: &str = "implementation: generic-worker, path: /w, configPath: /c";

/// A watch, and the worker-manager that it asks.
struct Scene {
    server: Server,
    log: Log,
    events: mpsc::Receiver<Event>,
    checks: watch::Sender<()>,
    launches: watch::Sender<LaunchSpec>,
    watching: Option<Watch>,
}

fn runner_config(provider: &str, worker: &str) -> RunnerConfig {
    let text = format!("provider: {{{provider}}}\nworker: {{{worker}}}\n");
    let mut config = config::parse(Path::new("r.yml"), text.as_bytes()).unwrap().config;
    config.deployment.interval = Duration::from_millis(5);
    config
}

fn launch() -> LaunchSpec {
    LaunchSpec {
        implementation: "generic-worker",
        program: "/w".into(),
        or_else: None,
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        cwd: None,
        user: None,
        oom_score_adj: 0,
        config_file: None,
        renewals: 0,
        credentials: credentials("first"),
        hello_timeout: Duration::from_secs(1),
        restart_in_place: InPlace::Yes,
        disable_reboots: false,
        counts_tasks: false,
        explain: |status| Exit { status, class: ExitClass::Done, meaning: "done" },
    }
}

fn credentials(client: &str) -> Credentials {
    Credentials {
        client_id: client.to_owned(),
        access_token: "hush".into(),
        certificate: None,
        expires: None,
        obtained: None,
    }
}

impl Scene {
    fn new(provider: &str, worker: &str, deployed: Deployed) -> Self {
        let (log, server) = (Log::capture(), Server::start());
        let identity = WorkerIdentity {
            provider_id: "p".to_owned(),
            worker_pool_id: WorkerPoolId::parse("pp/ww").unwrap(),
            worker_group: "wg".to_owned(),
            worker_id: "wi".to_owned(),
        };
        let client = Client::new(&server.root_url, &Proxies::default(), Arc::new(SystemClock)).unwrap();
        let (launches, newest) = watch::channel(launch());
        let (sender, events) = mpsc::channel(64);
        let checks = watch::Sender::new(());
        let watching = Watch {
            registrar: Registrar::new(client, &identity, None),
            config: Arc::new(runner_config(provider, worker)),
            deployed,
            clock: Arc::new(SystemClock),
            launches: newest,
            publisher: StatusPublisher::new(Arc::new(SystemClock)),
            checks: checks.subscribe(),
            events: sender,
        };
        Self { server, log, events, checks, launches, watching: Some(watching) }
    }

    /// A worker of a cloud that knows all that there is to know.
    fn cloud() -> Self {
        let deployed =
            Deployed { deployment_id: Some("d1".to_owned()), launch_config_id: Some("lc-1".to_owned()) };
        Self::new(AWS, DOCKER, deployed).pool(&current()).terminate(Reply::terminate(false, "none"))
    }

    fn pool(self, config: &Value) -> Self {
        self.server.tell(POOL, Reply::pool(config));
        self
    }

    fn terminate(self, reply: Reply) -> Self {
        self.server.tell(TERMINATE, reply);
        self
    }

    fn begin(mut self) -> Self {
        tokio::spawn(self.watching.take().unwrap().watch());
        self
    }

    /// Waits until the call has been made so many times more.
    async fn asked(&self, call: &str, more: usize) {
        let before = self.server.asked(call);
        until(call, || self.server.asked(call) >= before + more).await;
    }

    async fn logged(&self, text: &str) {
        until(text, || self.count(text) > 0).await;
    }

    /// Number of lines that contain this text.
    fn count(&self, text: &str) -> usize {
        self.log.lines().iter().filter(|line| line.contains(text)).count()
    }

    async fn drains(&mut self) {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        assert_eq!(event.expect("a drain in time"), Some(DRAIN));
    }

    fn drains_nothing(&mut self) {
        assert!(self.events.try_recv().is_err(), "{:?}", self.log.lines());
    }
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn pool_of(deployment: &str, launch_config: &str) -> Value {
    let worker_config = json!({"dockerWorker": {"config": {"deploymentId": deployment}}});
    json!({"launchConfigs": [
        {"workerConfig": worker_config, "workerManager": {"launchConfigId": launch_config}},
    ]})
}

fn current() -> Value {
    pool_of("d1", "lc-1")
}

fn only_deployment_id() -> Deployed {
    Deployed { deployment_id: Some("d1".to_owned()), launch_config_id: None }
}

#[tokio::test]
async fn a_worker_of_the_current_deployment_goes_on() {
    let mut scene = Scene::cloud().begin();
    scene.asked(POOL, 10).await;
    scene.drains_nothing();
    assert_eq!(
        scene.log.lines(),
        [
            "INFO watching for a new deployment sources=\"shouldWorkerTerminate, deploymentId, launchConfigId\" interval=\"5ms\""
        ]
    );
}

#[tokio::test]
async fn another_deployment_id_drains_and_is_logged_once_with_old_and_new() {
    let mut scene = Scene::cloud().pool(&pool_of("d2", "lc-1")).begin();
    for _ in 0..3 {
        scene.drains().await;
    }
    let line = "INFO the worker pool has a new deployment: asking the worker to finish its tasks what=\"deploymentId\" old=\"d1\" new=d2";
    assert_eq!(scene.count(line), 1, "{:?}", scene.log.lines());
    scene.server.tell(POOL, Reply::pool(&pool_of("d3", "lc-1")));
    scene.logged("old=\"d1\" new=d3").await;
}

#[tokio::test]
async fn a_launch_config_that_is_gone_drains() {
    let mut scene = Scene::cloud().pool(&pool_of("d1", "lc-2")).begin();
    scene.drains().await;
    assert_eq!(scene.count("what=\"launchConfigId\" old=\"lc-1\" new=lc-2"), 1, "{:?}", scene.log.lines());
}

#[tokio::test]
async fn a_static_pool_with_another_deployment_id_drains() {
    let pool = |id| json!({"workerConfig": {"genericWorker": {"config": {"deploymentId": id}, "files": []}}});
    let mut scene = Scene::new(STATIC, GENERIC, only_deployment_id()).pool(&pool("d1")).begin();
    scene.asked(POOL, 3).await;
    scene.drains_nothing();
    scene.server.tell(POOL, Reply::pool(&pool("d2")));
    scene.drains().await;
    assert_eq!(scene.server.asked(TERMINATE), 0);
}

#[tokio::test]
async fn worker_manager_must_want_the_end_twice_running() {
    let mut scene = Scene::cloud();
    scene.watching.as_mut().unwrap().config = {
        let mut config = runner_config(AWS, DOCKER);
        config.deployment.poll = false;
        Arc::new(config)
    };
    let mut scene = scene.begin();
    scene.logged("at SIGHUP only").await;
    let rounds = [(true, false), (false, false), (true, false), (true, true), (true, true), (false, false)];
    for (round, (wanted, drains)) in rounds.into_iter().enumerate() {
        scene.server.tell(TERMINATE, Reply::terminate(wanted, "over capacity"));
        scene.checks.send(()).unwrap();
        // The pool is looked at last.
        until("a round", || scene.server.asked(POOL) == round + 1).await;
        if drains {
            scene.drains().await;
        } else {
            assert!(tokio::time::timeout(Duration::from_millis(30), scene.events.recv()).await.is_err());
        }
    }
    let line = "INFO worker-manager wants this worker to end: asking it to finish its tasks reason=\"over capacity\"";
    assert_eq!(scene.count(line), 1, "{:?}", scene.log.lines());
}

#[tokio::test]
async fn who_asks_by_itself_or_needs_no_answer_is_not_asked_for() {
    for (provider, worker) in [(AWS, GENERIC), (STATIC, DOCKER), (STATIC, GENERIC)] {
        let scene = Scene::new(provider, worker, only_deployment_id()).pool(&json!({})).begin();
        scene.asked(POOL, 3).await;
        assert_eq!(scene.server.asked(TERMINATE), 0, "{provider} {worker}");
    }
}

#[tokio::test]
async fn a_pool_that_nothing_is_known_to_compare_with_is_not_read() {
    let scene = Scene::new(AWS, DOCKER, Deployed::default());
    let scene = scene.terminate(Reply::terminate(false, "none")).begin();
    scene.asked(TERMINATE, 5).await;
    assert_eq!(scene.server.asked(POOL), 0);
}

#[tokio::test]
async fn missing_scopes_are_named_once_and_the_worker_runs_on() {
    let pool_scope = "worker-manager:get-worker-pool:pp/ww";
    let end_scope = "worker-manager:should-worker-terminate:pp/ww/wg/wi";
    let scene = Scene::cloud().terminate(Reply::lacks(end_scope));
    scene.server.tell(POOL, Reply::lacks(pool_scope));
    let mut scene = scene.begin();
    scene.logged(&format!("missing_scope=\"{pool_scope}\"")).await;
    scene.logged(&format!("missing_scope=\"{end_scope}\"")).await;
    let nothing = "there is nothing that would tell this worker of a new deployment";
    for times in 1..4 {
        scene.checks.send(()).unwrap();
        until(nothing, || scene.count(nothing) == times).await;
    }
    assert_eq!((scene.server.asked(POOL), scene.server.asked(TERMINATE)), (1, 1));
    assert_eq!((scene.count("missing_scope"), scene.count("WARN")), (2, 0), "{:?}", scene.log.lines());
    scene.drains_nothing();
}

#[tokio::test]
async fn a_source_that_may_not_be_asked_leaves_the_other_alone() {
    let scene = Scene::cloud().terminate(Reply::lacks("s")).pool(&pool_of("d2", "lc-1"));
    let mut scene = scene.begin();
    scene.drains().await;
    let scene = Scene::cloud().terminate(Reply::terminate(true, "launch config archived"));
    scene.server.tell(POOL, Reply::lacks("s"));
    let mut scene = scene.begin();
    scene.drains().await;
    assert_eq!(scene.server.asked(POOL), 1);
}

#[tokio::test]
async fn errors_are_told_once_and_so_is_their_end_and_the_worker_runs_on() {
    let errors = [
        Reply::Answer(500, json!({"code": "InternalServerError", "message": "oh"}).to_string()),
        Reply::Answer(403, "<html>a proxy's".to_owned()),
        Reply::Answer(404, json!({"code": "ResourceNotFound", "message": "no pool"}).to_string()),
        Reply::Answer(401, json!({"code": "AuthenticationFailed", "message": "expired"}).to_string()),
        Reply::Answer(200, "{\"terminate\": tr".to_owned()),
        Reply::Answer(200, "{}".to_owned()),
        Reply::Answer(200, String::new()),
    ];
    for error in errors {
        let mut scene = Scene::cloud();
        scene.server.tell(POOL, error.clone());
        scene.server.tell(TERMINATE, error.clone());
        scene = scene.begin();
        scene.asked(POOL, 5).await;
        scene.drains_nothing();
        let warnings = scene.count("WARN cannot look for a new deployment: the worker goes on");
        assert_eq!((warnings, scene.count("WARN")), (2, 2), "{error:?}: {:?}", scene.log.lines());
        scene.server.tell(TERMINATE, Reply::terminate(false, "none"));
        scene.server.tell(POOL, Reply::pool(&pool_of("d2", "lc-1")));
        scene.drains().await;
        until("both work again", || scene.count("looking for a new deployment works again") == 2).await;
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_lets_the_worker_run_on() {
    let mut scene = Scene::cloud();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client =
        Client::new(&format!("http://{nobody}"), &Proxies::default(), Arc::new(SystemClock)).unwrap();
    let watching = scene.watching.as_mut().unwrap();
    let identity = WorkerIdentity {
        provider_id: "p".to_owned(),
        worker_pool_id: WorkerPoolId::parse("pp/ww").unwrap(),
        worker_group: "wg".to_owned(),
        worker_id: "wi".to_owned(),
    };
    watching.registrar = Registrar::new(client, &identity, None);
    let mut scene = scene.begin();
    until("two warnings", || scene.count("WARN") == 2).await;
    scene.drains_nothing();
}

#[tokio::test]
async fn an_answer_that_does_not_come_keeps_nothing_but_the_next_look() {
    let mut scene = Scene::cloud();
    scene.server.tell(POOL, Reply::Silence);
    scene = scene.begin();
    scene.asked(POOL, 1).await;
    scene.checks.send(()).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), scene.events.recv()).await.is_err());
    assert_eq!((scene.server.asked(POOL), scene.server.asked(TERMINATE)), (1, 1));
    // The stream breaks off.
    scene.server.tell(POOL, Reply::pool(&pool_of("d2", "lc-1")));
    scene.drains().await;
    assert_eq!(scene.count("WARN"), 1, "{:?}", scene.log.lines());
}

#[tokio::test]
async fn an_empty_pool_is_told_once_and_lets_the_worker_run_on() {
    for config in [json!({}), json!(null), json!({"launchConfigs": []}), json!({"workerConfig": {}})] {
        let mut scene = Scene::cloud().pool(&config).begin();
        scene.asked(POOL, 5).await;
        scene.drains_nothing();
        let told = "INFO the worker pool's definition has nothing to compare with: the worker goes on";
        assert_eq!((scene.count(told), scene.count("WARN")), (2, 0), "{config}: {:?}", scene.log.lines());
    }
}

#[tokio::test]
async fn the_newest_credentials_are_used() {
    let scene = Scene::cloud().begin();
    scene.asked(POOL, 1).await;
    assert_eq!(scene.server.last_client(), "first");
    scene.launches.send_modify(|launch| launch.credentials = credentials("renewed"));
    until("the renewed credentials", || scene.server.last_client() == "renewed").await;
}
