//! A fake with one pool and one worker, and the calls that a runner makes.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use test_support::fake_taskcluster::{FakeTaskcluster, WorkerKey};
use test_support::raw_http::{Answer, DEADLINE, Request, Signature};

pub(crate) const POOL: &str = "demo/linux";
pub(crate) const SECRET: &str = "a-static-secret-is-of-forty-four-characters-";
pub(crate) const REGISTER: &str = "/api/worker-manager/v1/worker/register";
pub(crate) const REREGISTER: &str = "/api/worker-manager/v1/worker/reregister";
pub(crate) const GET_POOL: &str = "/api/worker-manager/v1/worker-pool/demo%2Flinux";

pub(crate) fn fake() -> (FakeTaskcluster, WorkerKey) {
    let fake = FakeTaskcluster::start();
    fake.set_pool(POOL, json!({"config": {"workerConfig": {"deploymentId": "d1"}}}));
    let key = fake.add_static_worker(POOL, "here", "worker-1", SECRET);
    (fake, key)
}

pub(crate) fn register_request(key: &WorkerKey, proof: &Value) -> Request {
    let body = json!({
        "workerPoolId": key.pool, "providerId": "static", "workerGroup": key.group, "workerId": key.id,
        "workerIdentityProof": proof,
    });
    Request::new("POST", REGISTER).json(&body)
}

pub(crate) fn register(address: SocketAddr, key: &WorkerKey) -> io::Result<Answer> {
    register_request(key, &json!({"staticSecret": SECRET})).send(address)
}

/// The answer to a worker's registration.
pub(crate) struct Registered(pub(crate) Value);

impl Registered {
    pub(crate) fn new(fake: &FakeTaskcluster, key: &WorkerKey) -> Self {
        let answer = register(fake.address(), key).unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        Self(answer.json().unwrap())
    }

    pub(crate) fn secret(&self) -> &str {
        self.0["secret"].as_str().unwrap()
    }

    fn signature(&self) -> Signature<'_> {
        let text = |key: &str| self.0["credentials"][key].as_str();
        Signature::new(text("clientId").unwrap(), text("accessToken").unwrap(), text("certificate"))
    }

    pub(crate) fn send(&self, fake: &FakeTaskcluster, request: Request) -> io::Result<Answer> {
        request.signed(fake.address(), &self.signature()).send(fake.address())
    }

    pub(crate) fn get(&self, fake: &FakeTaskcluster, path: &str) -> Answer {
        self.send(fake, Request::new("GET", path)).unwrap()
    }

    pub(crate) fn reregister(
        &self,
        fake: &FakeTaskcluster,
        key: &WorkerKey,
        secret: &str,
    ) -> io::Result<Answer> {
        let WorkerKey { pool, group, id } = key;
        let body = json!({"workerPoolId": pool, "workerGroup": group, "workerId": id, "secret": secret});
        self.send(fake, Request::new("POST", REREGISTER).json(&body))
    }
}

/// The first line of an error's message.
pub(crate) fn message(answer: &Answer) -> String {
    let body = answer.json().unwrap();
    let message = body["message"].as_str().unwrap();
    message.lines().find(|line| !line.is_empty()).unwrap().to_owned()
}

/// Waits until it holds.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
