//! A Taskcluster to test against: worker-manager, secrets and the legacy aws-provisioner, as far as runners use them.
//!
//! It keeps state (pools, workers, one-time secrets), issues temporary credentials with certificates, verifies every
//! Hawk header, and answers as the real services were recorded to answer (`tests/contract.rs` holds it to that). A test
//! can make it fail in all the ways in which networks and services do: see [`Fault`]. It listens on loopback, on a
//! thread of its own, until it is dropped:
//!
//! ```ignore
//! let taskcluster = FakeTaskcluster::start();
//! taskcluster.set_pool("demo/linux", json!({"config": {"workerConfig": {}}}));
//! let worker = taskcluster.add_static_worker("demo/linux", "here", "worker-1", SECRET);
//! taskcluster.fail("registerWorker", Times::Only(2), Fault::bad_gateway());
//! // … a client at work at taskcluster.url() …
//! assert_eq!(taskcluster.count("registerWorker"), 3);
//! ```
//!
//! [`server`] reads a request and applies the script's [`faults`]; [`api`] finds the call,
//! has [`auth`] verify the signature, and calls [`workers`], [`pools`] or [`secrets`], which work on [`state`].
//! By hand: `cargo run --example fake-taskcluster -- --help`.

mod answer;
mod api;
pub mod auth;
pub mod control;
mod faults;
mod hawk;
mod pools;
mod queue;
mod record;
mod schema;
mod scopes;
mod secrets;
mod server;
mod state;
mod workers;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::mpsc::{Sender, channel};

pub use auth::{Claims, Credentials};
pub use faults::{Fault, RuleId, Times};
pub use record::Request;
pub use state::{ProviderType, WorkerKey, WorkerState};

use record::Record;
use scopes::Role;
use server::Command;
use state::{Client, LegacySecret, Secret, State, Worker};

/// Lifetime of a secret.
const SECRET_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The state shared by the server's thread and its owner.
pub(crate) struct Shared {
    state: Mutex<State>,
    record: Record,
    faults: faults::Faults,
    /// The number of accepted connections.
    connections: AtomicU64,
    /// The offset of the server's clock, in ms.
    ahead: AtomicI64,
    /// True if `/fake/…` is served.
    control: AtomicBool,
}

impl Shared {
    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    /// The `Date` header of an answer.
    fn date(&self) -> String {
        let seconds = u64::try_from(self.now().as_second()).unwrap_or_default();
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

/// The fake server, and the handle to change it while it runs.
pub struct FakeTaskcluster {
    shared: Arc<Shared>,
    address: Mutex<SocketAddr>,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FakeTaskcluster {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Starting and stopping.
impl FakeTaskcluster {
    /// Starts on a free loopback port, with no pools, workers or secrets, and the providers `static` and
    /// `null-provider`.
    pub fn start() -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port")
    }

    /// Starts at the given address.
    pub fn start_on(address: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
            record: Record::default(),
            faults: faults::Faults::default(),
            connections: AtomicU64::new(0),
            ahead: AtomicI64::new(0),
            control: AtomicBool::new(false),
        });
        let (commands, orders) = channel(4);
        let thread = Some(server::start(Arc::clone(&shared), orders));
        let fake = Self { shared, address: Mutex::new(address), commands: Some(commands), thread };
        fake.start_at(address)?;
        Ok(fake)
    }

    fn command<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Receiver<T> {
        let (answer, answered) = sync_channel(1);
        let commands = self.commands.as_ref().expect("there until it is dropped");
        commands.try_send(command(answer)).expect("the thread obeys");
        answered
    }

    /// Listens (again) at this address, with the current state.
    pub fn start_at(&self, address: SocketAddr) -> io::Result<()> {
        let answer = self.command(|answer| Command::Listen(address, answer));
        *self.lock_address() = answer.recv().expect("the thread answers")?;
        Ok(())
    }

    /// Stops listening: connections are refused, and open ones are closed. The state is kept.
    pub fn stop(&self) {
        self.command(Command::Close).recv().expect("the thread answers");
    }

    /// Stops listening, and resumes at the same address after this time.
    pub fn stop_for(&self, pause: Duration) {
        self.command(|answer| Command::Pause(pause, answer)).recv().expect("the thread answers");
    }

    fn lock_address(&self) -> MutexGuard<'_, SocketAddr> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current address, or the last one before it was stopped.
    pub fn address(&self) -> SocketAddr {
        *self.lock_address()
    }

    /// The root URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Also serves `/fake/…`, the interface for manual use, see [`control`].
    pub fn serve_control(&self) {
        self.shared.control.store(true, Ordering::Relaxed);
    }
}

/// The state.
impl FakeTaskcluster {
    /// Creates a pool, or changes the given keys of its definition.
    pub fn set_pool(&self, id: &str, definition: Value) {
        let now = self.shared.now();
        self.shared.state().set_pool(id, definition, now);
    }

    /// Adds a provider; `static` exists from the start.
    pub fn add_provider(&self, id: &str, kind: ProviderType) {
        self.shared.state().providers.insert(id.to_owned(), kind);
    }

    /// Adds a static worker of the pool's provider, which may register any number of times.
    pub fn add_static_worker(&self, pool: &str, group: &str, id: &str, secret: &str) -> WorkerKey {
        self.add_worker(WorkerKey::new(pool, group, id), WorkerState::Running, |worker| {
            worker.static_secret = Some(secret.to_owned());
        })
    }

    /// Adds a requested cloud worker, which may register once, with any proof of the right form unless
    /// [`Self::expect_proof`] sets one.
    pub fn add_cloud_worker(&self, pool: &str, group: &str, id: &str) -> WorkerKey {
        self.add_worker(WorkerKey::new(pool, group, id), WorkerState::Requested, |_| {})
    }

    fn add_worker(&self, key: WorkerKey, state: WorkerState, change: impl FnOnce(&mut Worker)) -> WorkerKey {
        let now = self.shared.now();
        let mut all = self.shared.state();
        let provider = all.pools.get(&key.pool).and_then(|pool| pool.get("providerId")?.as_str());
        let mut worker = Worker::new(provider.unwrap_or("static"), state, now);
        change(&mut worker);
        all.workers.insert(key.clone(), worker);
        key
    }

    fn change_worker(&self, key: &WorkerKey, change: impl FnOnce(&mut Worker)) {
        change(self.shared.state().workers.get_mut(key).expect("such a worker"));
    }

    /// Sets the only proof with which a cloud's worker can register.
    pub fn expect_proof(&self, key: &WorkerKey, proof: Value) {
        self.change_worker(key, |worker| worker.proof = Some(proof));
    }

    /// Sets the ID of the launch configuration of a cloud's worker.
    pub fn set_launch_config(&self, key: &WorkerKey, id: &str) {
        self.change_worker(key, |worker| worker.launch_config_id = Some(id.to_owned()));
    }

    /// Sets a worker's state.
    pub fn set_worker_state(&self, key: &WorkerKey, state: WorkerState) {
        self.change_worker(key, |worker| worker.state = state);
    }

    /// Returns a worker's state.
    pub fn worker_state(&self, key: &WorkerKey) -> Option<WorkerState> {
        self.shared.state().workers.get(key).map(|worker| worker.state)
    }

    /// Sets the expiry of a worker's record.
    pub fn set_worker_expires(&self, key: &WorkerKey, expires: Timestamp) {
        self.change_worker(key, |worker| worker.expires = expires);
    }

    /// Gives a static worker another secret to register with, as updateWorker does.
    pub fn set_static_secret(&self, key: &WorkerKey, secret: &str) {
        self.change_worker(key, |worker| worker.static_secret = Some(secret.to_owned()));
    }

    /// The secret that the next reregisterWorker must present.
    pub fn one_time_secret(&self, key: &WorkerKey) -> Option<String> {
        self.shared.state().workers.get(key).and_then(|worker| worker.secret.clone())
    }

    /// Sets the answer of shouldWorkerTerminate.
    pub fn set_should_terminate(&self, key: &WorkerKey, terminate: bool, reason: &str) {
        self.change_worker(key, |worker| worker.terminate = (terminate, reason.to_owned()));
    }

    /// The worker as the queue describes it, once it has asked for tasks.
    pub fn queue_worker(&self, key: &WorkerKey) -> Option<Value> {
        self.shared.state().queue.get(key).cloned()
    }

    /// Adds a secret to the secrets service, for a year.
    pub fn set_secret(&self, name: &str, value: Value) {
        let expires = self.shared.now() + SECRET_LIFE;
        self.shared.state().secrets.insert(name.to_owned(), Secret { value, expires });
    }

    /// Adds a secret of the legacy aws-provisioner: its token, its data, and the scopes of its credentials
    /// (worker-manager issues them, so at most a worker's scopes).
    pub fn add_legacy_secret(&self, token: &str, data: Value, scopes: &[&str]) {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.shared.state().legacy_secrets.insert(token.to_owned(), LegacySecret { data, scopes });
    }

    /// Returns true if a legacy secret has not been removed.
    pub fn has_legacy_secret(&self, token: &str) -> bool {
        self.shared.state().legacy_secrets.contains_key(token)
    }

    /// Adds a permanent client.
    pub fn add_client(&self, id: &str, access_token: &str, scopes: &[&str]) {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.shared
            .state()
            .clients
            .insert(id.to_owned(), Client { access_token: access_token.to_owned(), scopes });
    }

    /// Adds scopes to a role: `anonymous` applies to everybody, `worker-pool:<id>` (it may end in `*`) to the pool's
    /// workers.
    pub fn grant(&self, role: &str, scopes: &[&str]) {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.shared.state().roles.push(Role { name: role.to_owned(), scopes });
    }

    /// Sets the lifetime of credentials if the pool has no `reregistrationTimeout`; the default is 96 h.
    pub fn set_credentials_life(&self, life: Duration) {
        self.shared.state().credentials_life = life;
    }

    /// Sets whether `systemBootTime` is known; older deployments refuse it as an unknown key.
    pub fn set_knows_boot_time(&self, known: bool) {
        self.shared.state().knows_boot_time = known;
    }

    /// Issues temporary credentials with any claims, as worker-manager would.
    pub fn issue(&self, claims: &Claims) -> Credentials {
        auth::issue(&self.shared.state(), claims)
    }

    /// The workers' error reports, newest first.
    pub fn reported_errors(&self) -> Vec<Value> {
        self.shared.state().errors.iter().cloned().collect()
    }

    /// The server's time.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Sets the offset of the server's clock from the host's.
    pub fn set_clock_offset(&self, ahead: SignedDuration) {
        let ahead = i64::try_from(ahead.as_millis()).expect("a few centuries at most");
        self.shared.ahead.store(ahead, Ordering::Relaxed);
    }
}

/// Faults and the record.
impl FakeTaskcluster {
    /// Adds a rule: a fault for these calls and a number of times. `call` is a call's name, `any`, or `signed` (every
    /// call with credentials). Of the rules that match a request, the oldest applies.
    pub fn fail(&self, call: &str, times: Times, fault: Fault) -> RuleId {
        self.shared.faults.add(call, times, fault)
    }

    /// Removes a rule. Requests that hang because of it continue.
    pub fn clear_fault(&self, rule: RuleId) {
        self.shared.faults.clear(rule);
    }

    /// Removes all rules.
    pub fn clear_faults(&self) {
        self.shared.faults.clear_all();
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.record.requests()
    }

    /// The number of calls of this name (`any`: of all calls).
    pub fn count(&self, call: &str) -> usize {
        self.shared.record.count(call)
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.record.clear();
    }

    /// Calls the observer for every completed request, on the server's thread.
    pub fn observe(&self, observer: impl Fn(&Request) + Send + Sync + 'static) {
        self.shared.record.observe(observer);
    }

    /// Waits for this number of calls. Blocks: for tests without a runtime of their own.
    pub fn wait_for(&self, call: &str, times: usize, limit: Duration) {
        let came = self.shared.record.wait(limit, |requests| called(requests, call) >= times);
        assert!(came, "{call} was not called {times} times within {limit:?}, but {}", self.count(call));
    }

    /// As [`Self::wait_for`], for tests with a runtime.
    pub async fn called(&self, call: &str, times: usize, limit: Duration) {
        let came = self.shared.record.wait_async(limit, |requests| called(requests, call) >= times).await;
        assert!(came, "{call} was not called {times} times within {limit:?}, but {}", self.count(call));
    }

    /// Waits until this many calls were answered with a status.
    pub fn wait_for_answers(&self, call: &str, times: usize, limit: Duration) {
        let answered = |requests: &[Request]| {
            requests.iter().filter(|request| request.call == call && request.status.is_some()).count()
        };
        let came = self.shared.record.wait(limit, |requests| answered(requests) >= times);
        assert!(came, "{call} was not answered {times} times within {limit:?}: {:#?}", self.requests());
    }
}

fn called(requests: &[Request], call: &str) -> usize {
    requests.iter().filter(|request| request.call == call || call == "any").count()
}
