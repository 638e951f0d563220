//! The fake's state: pools, workers, secrets, clients, roles.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::auth::ISSUER;
use super::scopes::Role;

/// The type of a provider, which determines the proof of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderType {
    Static,
    Aws,
    Azure,
    Google,
    /// Has no workers of its own (`null-provider`).
    Null,
}

/// A worker's state according to worker-manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// A cloud's worker that is not registered yet.
    Requested,
    Running,
    Stopped,
}

impl WorkerState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Identifies a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey {
    pub pool: String,
    pub group: String,
    pub id: String,
}

impl WorkerKey {
    pub fn new(pool: &str, group: &str, id: &str) -> Self {
        Self { pool: pool.to_owned(), group: group.to_owned(), id: id.to_owned() }
    }

    /// The name in scopes.
    pub fn full(&self) -> String {
        format!("{}/{}/{}", self.pool, self.group, self.id)
    }

    /// The scopes that worker-manager gives a worker, in its order.
    pub fn scopes(&self) -> Vec<String> {
        let Self { pool, group, id } = self;
        let full = self.full();
        vec![
            format!("assume:worker-type:{pool}"),
            format!("assume:worker-pool:{pool}"),
            format!("assume:worker-id:{group}/{id}"),
            format!("queue:worker-id:{group}/{id}"),
            format!("secrets:get:worker-type:{pool}"),
            format!("secrets:get:worker-pool:{pool}"),
            format!("queue:claim-work:{pool}"),
            format!("worker-manager:remove-worker:{full}"),
            format!("worker-manager:reregister-worker:{full}"),
            format!("worker-manager:should-worker-terminate:{full}"),
        ]
    }
}

/// A worker's record.
#[derive(Debug, Clone)]
pub struct Worker {
    pub provider_id: String,
    pub state: WorkerState,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// For a static worker.
    pub static_secret: Option<String>,
    /// The expected proof; `None`: any proof of the right form.
    pub proof: Option<Value>,
    /// The secret that the next reregisterWorker must present.
    pub secret: Option<String>,
    pub launch_config_id: Option<String>,
    /// The answer of shouldWorkerTerminate.
    pub terminate: (bool, String),
}

impl Worker {
    /// A worker that has not registered.
    pub fn new(provider_id: &str, state: WorkerState, now: Timestamp) -> Self {
        Self {
            provider_id: provider_id.to_owned(),
            state,
            created: now,
            expires: now + Duration::from_secs(30 * 24 * 3600),
            static_secret: None,
            proof: None,
            secret: None,
            launch_config_id: None,
            terminate: (false, "none".to_owned()),
        }
    }
}

/// A permanent client.
pub struct Client {
    pub access_token: String,
    pub scopes: Vec<String>,
}

/// A secret of the secrets service.
pub struct Secret {
    pub value: Value,
    pub expires: Timestamp,
}

/// A single-use secret of the legacy aws-provisioner.
pub struct LegacySecret {
    pub data: Value,
    pub scopes: Vec<String>,
}

/// The recent nonces.
#[derive(Default)]
pub struct Nonces {
    seen: HashSet<String>,
    order: VecDeque<String>,
}

impl Nonces {
    /// The most recent ones are enough.
    const KEPT: usize = 10_000;

    /// Adds a nonce. Returns true if it is new.
    pub fn is_new(&mut self, nonce: String) -> bool {
        if !self.seen.insert(nonce.clone()) {
            return false;
        }
        self.order.push_back(nonce);
        if self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

pub struct State {
    pub pools: BTreeMap<String, Map<String, Value>>,
    pub workers: BTreeMap<WorkerKey, Worker>,
    pub providers: BTreeMap<String, ProviderType>,
    pub clients: HashMap<String, Client>,
    pub roles: Vec<Role>,
    pub secrets: HashMap<String, Secret>,
    pub legacy_secrets: HashMap<String, LegacySecret>,
    /// The workers' error reports, newest first.
    pub errors: VecDeque<Value>,
    /// The workers that have asked the queue for tasks, as it describes them.
    pub queue: BTreeMap<WorkerKey, Value>,
    pub nonces: Nonces,
    /// The lifetime of credentials if the pool does not set it.
    pub credentials_life: Duration,
    /// False for an older deployment, which refuses `systemBootTime` as an unknown key.
    pub knows_boot_time: bool,
}

impl State {
    pub fn new() -> Self {
        let issuer = [
            "assume:worker-type:*",
            "assume:worker-pool:*",
            "assume:worker-id:*",
            "queue:worker-id:*",
            "queue:claim-work:*",
            "secrets:get:worker-type:*",
            "secrets:get:worker-pool:*",
            "worker-manager:remove-worker:*",
            "worker-manager:reregister-worker:*",
            "worker-manager:should-worker-terminate:*",
            "auth:create-client:worker/*",
        ];
        let issuer = Client { access_token: random_secret(), scopes: issuer.map(str::to_owned).to_vec() };
        let providers = [("static", ProviderType::Static), ("null-provider", ProviderType::Null)];
        Self {
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            providers: providers.map(|(id, kind)| (id.to_owned(), kind)).into(),
            clients: HashMap::from([(ISSUER.to_owned(), issuer)]),
            roles: Vec::new(),
            queue: BTreeMap::new(),
            secrets: HashMap::new(),
            legacy_secrets: HashMap::new(),
            errors: VecDeque::new(),
            nonces: Nonces::default(),
            credentials_life: Duration::from_secs(96 * 3600),
            knows_boot_time: true,
        }
    }

    /// Creates a pool, or changes it: keys that the definition does not contain are kept.
    pub fn set_pool(&mut self, id: &str, definition: Value, now: Timestamp) {
        let pool = self.pools.entry(id.to_owned()).or_insert_with(|| {
            let Value::Object(pool) = json!({
                "workerPoolId": id, "providerId": "static", "description": "", "created": rfc3339(now),
                "config": {}, "owner": "owner@example.com", "emailOnError": false,
                "currentCapacity": 0, "requestedCount": 0, "runningCount": 0, "stoppingCount": 0, "stoppedCount": 0,
                "requestedCapacity": 0, "runningCapacity": 0, "stoppingCapacity": 0, "stoppedCapacity": 0,
            }) else {
                return Map::new();
            };
            pool
        });
        if let Value::Object(definition) = definition {
            pool.extend(definition);
        }
        pool.insert("workerPoolId".to_owned(), json!(id));
        pool.insert("lastModified".to_owned(), json!(rfc3339(now)));
    }
}

/// Formats a time like the API.
pub(super) fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// 22 characters: a random id.
pub(super) fn random_id() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    // A version 4 UUID that starts with a letter, like Taskcluster's.
    bytes[0] &= 0x7f;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    URL_SAFE_NO_PAD.encode(bytes)
}

/// 44 characters, the form of Taskcluster's secrets.
pub(super) fn random_secret() -> String {
    random_id() + &random_id()
}
