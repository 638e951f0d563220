//! The recorded exchanges, one by one, each with a fake that is in the state in which the real services were.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{
    Claims, Credentials, FakeTaskcluster, Fault, ProviderType, Times, WorkerKey, WorkerState,
};
use test_support::raw_http::{Answer, Request, Signature};

use super::shape::differences;

const POOL: &str = "demo-provider/demo-pool";
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
struct Exchange {
    name: String,
    request: Recorded,
    response: Expected,
}

#[derive(Deserialize)]
struct Recorded {
    method: String,
    path: String,
    /// `None`, as `none`: without credentials.
    auth: Option<String>,
    body: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Expected {
    status: u16,
    content_type: String,
    body: Value,
}

fn exchanges() -> Vec<Exchange> {
    let recorded = [
        include_str!("../fixtures/contract/exchanges.json"),
        include_str!("../fixtures/contract/exchanges-auth.json"),
    ];
    recorded.into_iter().flat_map(|text| serde_json::from_str::<Vec<_>>(text).unwrap()).collect()
}

/// A fake in the recordings' state, and who calls.
struct World {
    fake: FakeTaskcluster,
    caller: Credentials,
}

/// A secret as the recordings have them.
fn made_up(number: &str) -> String {
    format!("fake{number}-{}", "A".repeat(36))
}

impl World {
    fn new() -> Self {
        let fake = FakeTaskcluster::start();
        fake.add_provider("testing", ProviderType::Static);
        let worker_config = json!({"genericWorker": {"files": [], "config": {"deploymentId": "abc", "shutdownMachineOnIdle": false}}});
        fake.set_pool(
            POOL,
            json!({
                "providerId": "static", "description": "demo", "owner": "demo@example.com",
                "config": {"lifecycle": {"reregistrationTimeout": 3600}, "workerConfig": worker_config},
            }),
        );
        fake.set_pool(
            "demo-provider/doomed",
            json!({"providerId": "null-provider", "owner": "a@b.c", "config": {"workerConfig": {"a": 1}}}),
        );
        fake.set_pool("demo-provider/test-pool", json!({"providerId": "testing"}));
        fake.add_static_worker(POOL, "demo-group", "worker-1", &made_up("000"));
        let old = fake.add_static_worker(POOL, "demo-group", "worker-exp", &made_up("011"));
        fake.set_worker_expires(&old, fake.now() - Duration::from_secs(1));
        fake.add_static_worker(POOL, "demo-group", "worker-colon", &made_up("016"));
        fake.add_static_worker("demo-provider/doomed", "g", "w", &made_up("018"));
        fake.add_static_worker("demo-provider/test-pool", "g", "t1", &made_up("019"));
        let needed = fake.add_static_worker("demo-provider/test-pool", "g", "t2", &made_up("020"));
        fake.set_should_terminate(&needed, false, "needed");
        fake.set_launch_config(&needed, "lc-old");
        fake.set_secret(
            &format!("worker-pool:{POOL}"),
            json!({
                "config": {"deploymentSecret": "s3cr3t", "livelogSecret": "ll"},
                "files": [{"description": "f", "path": "/etc/demo.conf", "content": "aGVsbG8K", "encoding": "base64",
                           "format": "file"}],
            }),
        );
        fake.grant("anonymous", &["secrets:get:project/demo/*"]);
        fake.add_client("root", "root-token", &["*"]);
        let caller = Credentials {
            client_id: "root".to_owned(),
            access_token: "root-token".to_owned(),
            certificate: None,
        };
        Self { fake, caller }
    }

    /// A worker's credentials, with these claims changed.
    fn worker(&self, key: &WorkerKey, change: impl FnOnce(&mut Claims)) -> Credentials {
        let now = self.fake.now();
        let mut claims = Claims {
            client_id: format!("worker/static/{}", key.full()),
            scopes: key.scopes(),
            start: now - Duration::from_secs(900),
            expiry: now + 4 * DAY,
        };
        change(&mut claims);
        self.fake.issue(&claims)
    }

    /// Registers a worker, so that it has a secret for reregisterWorker.
    fn register(&self, key: &WorkerKey, static_secret: &str) -> String {
        let body = json!({
            "workerPoolId": key.pool, "providerId": "static", "workerGroup": key.group, "workerId": key.id,
            "workerIdentityProof": {"staticSecret": static_secret},
        });
        let request = Request::new("POST", "/api/worker-manager/v1/worker/register").json(&body);
        let answer = request.send(self.fake.address()).unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        answer.json().unwrap()["secret"].as_str().unwrap().to_owned()
    }

    fn report(&self, kind: &str, title: &str, extra: &Value) {
        let key = WorkerKey::new(POOL, "demo-group", "worker-1");
        let credentials = self.worker(&key, |_| {});
        let body = json!({
            "workerGroup": "demo-group", "workerId": "worker-1", "kind": kind, "title": title,
            "description": "long text", "extra": extra,
        });
        let path = "/api/worker-manager/v1/worker-pool-errors/demo-provider%2Fdemo-pool";
        let request =
            Request::new("POST", path).json(&body).signed(self.fake.address(), &signature(&credentials));
        assert_eq!(request.send(self.fake.address()).unwrap().status, 200);
    }
}

fn signature(credentials: &Credentials) -> Signature<'_> {
    Signature::new(&credentials.client_id, &credentials.access_token, credentials.certificate.as_deref())
}

/// Which worker signs, where the recording says only that one did.
fn signer(name: &str) -> WorkerKey {
    let demo = |id| WorkerKey::new(POOL, "demo-group", id);
    match name {
        "removeWorker other worker with these creds"
        | "removeWorker as itself"
        | "shouldWorkerTerminate after removeWorker"
        | "reregister after removeWorker" => demo("worker-2"),
        "auth currentScopes as worker" => WorkerKey::new("demo-provider/linux", "wg", "w1"),
        "shouldWorkerTerminate in deleted pool" => WorkerKey::new("demo-provider/doomed", "g", "w"),
        "testing: shouldWorkerTerminate t1 before any scan" => {
            WorkerKey::new("demo-provider/test-pool", "g", "t1")
        }
        "testing: shouldWorkerTerminate t2, target capacity 1" => {
            WorkerKey::new("demo-provider/test-pool", "g", "t2")
        }
        _ => demo("worker-1"),
    }
}

/// Puts the fake into the state that an exchange needs in addition to the common state.
fn prepare(world: &World, name: &str) {
    let fake = &world.fake;
    let second = WorkerKey::new(POOL, "demo-group", "worker-2");
    let pool_timeout = |seconds: i64| {
        fake.set_pool(POOL, json!({"config": {"lifecycle": {"reregistrationTimeout": seconds}}}));
    };
    // These came after the list was recorded.
    if !name.starts_with("listWorkers") {
        fake.add_static_worker(POOL, "demo-group", "worker-2", &made_up("014"));
        let full = fake.add_static_worker(POOL, "demo-group", "worker-3", &made_up("017"));
        fake.set_should_terminate(&full, true, "over capacity");
    }
    match name {
        "shouldWorkerTerminate after removeWorker" | "registerWorker after removeWorker" => {
            fake.set_worker_state(&second, WorkerState::Stopped);
        }
        "registerWorker with reregistrationTimeout -1" => pool_timeout(-1),
        // Recorded with another pool's life of credentials.
        "reregister ok" => pool_timeout(96 * 3600),
        "listWorkerPoolErrors as root" => {
            world.report("worker-error", "Something broke", &json!({"a": 1}));
            world.report("Xx bad", "Something broke", &json!({"a": 1}));
            world.report("worker-error", "", &json!({"a": 1}));
            world.report("worker-error", "Something broke", &json!({}));
        }
        _ if name.starts_with("auth down:") => {
            fake.fail("signed", Times::UntilCleared, Fault::InternalError);
        }
        _ if name.starts_with("postgres down:") => {
            fake.fail("any", Times::UntilCleared, Fault::InternalError);
        }
        "worker-manager down: registerWorker" => {
            fake.fail("any", Times::Only(1), Fault::bad_gateway());
        }
        _ if name.starts_with("worker-manager frozen:") => {
            fake.fail("any", Times::Only(1), Fault::gateway_timeout());
        }
        _ => {}
    }
}

/// The recorded payload, or, where it was not recorded because it is no JSON, one that is wrong in the same way.
fn with_payload(request: Request, exchange: &Exchange, world: &World) -> Request {
    let raw = |text: &str| {
        let mut request = request.clone().header("Content-Type", "application/json");
        request.body = text.as_bytes().to_vec();
        request
    };
    let mut body = exchange.request.body.clone();
    match exchange.name.as_str() {
        "registerWorker malformed JSON" => return raw("{"),
        "registerWorker JSON scalar" => return raw("1"),
        "reregister malformed JSON with creds" => return raw("{malformed"),
        "reregister with the secret of an older registerWorker (superseded)" => {
            let key = WorkerKey::new(POOL, "demo-group", "worker-1");
            body["secret"] = json!(world.register(&key, &made_up("000")));
            world.register(&key, &made_up("000"));
        }
        "reregister after removeWorker" => {
            let key = WorkerKey::new(POOL, "demo-group", "worker-2");
            body["secret"] = json!(world.register(&key, &made_up("014")));
            world.fake.set_worker_state(&key, WorkerState::Stopped);
        }
        name if name.starts_with("reregister") => {
            let key = WorkerKey::new(POOL, "demo-group", "worker-1");
            body["secret"] = json!(world.register(&key, &made_up("000")));
        }
        _ => {}
    }
    if body.is_null() { request } else { request.json(&body) }
}

/// The certificate changed by its holder.
fn tampered(credentials: &mut Credentials, change: impl FnOnce(&mut Vec<Value>)) {
    let mut certificate: Value = serde_json::from_str(credentials.certificate.as_ref().unwrap()).unwrap();
    change(certificate["scopes"].as_array_mut().unwrap());
    credentials.certificate = Some(certificate.to_string());
}

/// The credentials that an exchange was signed with.
fn credentials(world: &World, exchange: &Exchange) -> Credentials {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let now = world.fake.now();
    let worker = |change: &dyn Fn(&mut Claims)| world.worker(&signer(&exchange.name), change);
    match exchange.name.as_str() {
        "secrets.get temp creds without ext" => Credentials { certificate: None, ..worker(&|_| {}) },
        "secrets.get unknown clientId, no cert" => {
            Credentials { client_id: "nobody/here".to_owned(), ..world.caller.clone() }
        }
        "auth currentScopes as worker" => worker(&|_| {}),
        "auth currentScopes with a wrong access token" => {
            Credentials { access_token: "wrong".to_owned(), ..world.caller.clone() }
        }
        "auth currentScopes of an unknown client" => {
            Credentials { client_id: "no/such".to_owned(), ..world.caller.clone() }
        }
        "secrets.get bad mac" | "reregister bad mac" => {
            Credentials { access_token: "wrong".to_owned(), ..worker(&|_| {}) }
        }
        "secrets.get certificate scopes reordered" => {
            let mut credentials = worker(&|_| {});
            tampered(&mut credentials, |scopes| scopes.swap(0, 1));
            credentials
        }
        "secrets.get certificate with added scope" => {
            let mut credentials = worker(&|_| {});
            tampered(&mut credentials, |scopes| scopes.push(json!("*")));
            credentials
        }
        name if name.ends_with("cert expired 6 min ago") || name.contains("really expired credentials") => {
            worker(&|claims| claims.expiry = now - minutes(6))
        }
        "secrets.get cert starts in 6 min" => worker(&|claims| claims.start = now + minutes(6)),
        "secrets.get cert lasts 31 days + 1 s" => {
            worker(&|claims| claims.expiry = claims.start + 31 * DAY + Duration::from_secs(1))
        }
        _ if exchange.request.auth.as_deref().is_some_and(|auth| auth.contains("temporary")) => {
            worker(&|_| {})
        }
        _ => world.caller.clone(),
    }
}

/// The exchange's request as this fake must get it.
fn request(world: &World, exchange: &Exchange) -> Request {
    let Recorded { method, path, auth, .. } = &exchange.request;
    let request = with_payload(Request::new(method, path), exchange, world);
    if matches!(auth.as_deref(), None | Some("none")) {
        return request;
    }
    let credentials = credentials(world, exchange);
    let mut signature = signature(&credentials);
    match exchange.name.as_str() {
        "Authorization: Bearer" => return request.header("Authorization", "Bearer abc"),
        "Authorization: Hawk missing mac" => {
            return request.header("Authorization", r#"Hawk id="root", ts="1795450146", nonce="abc""#);
        }
        "secrets.get ext not base64 JSON" => signature.ext = Some("no JSON".to_owned()),
        "secrets.get hawk ts skewed -960 s" => signature.behind = 960,
        "GET with wrong-length payload hash" => signature.hash = Some(vec![0; 6]),
        "GET with wrong payload hash (well-formed)" | "reregister with wrong payload hash" => {
            signature.hash = Some(vec![0; 32]);
        }
        "secrets.get authorizedScopes exceeding" => {
            let certificate: Value = serde_json::from_str(credentials.certificate.as_ref().unwrap()).unwrap();
            signature.ext =
                Some(json!({"certificate": certificate, "authorizedScopes": ["secrets:get:x"]}).to_string());
        }
        _ => {}
    }
    request.signed(world.fake.address(), &signature)
}

fn replay(exchange: &Exchange) -> Result<(), String> {
    let world = World::new();
    prepare(&world, &exchange.name);
    let answer = request(&world, exchange).send(world.fake.address()).map_err(|error| error.to_string())?;
    let Answer { status, .. } = answer;
    let expected = &exchange.response;
    let mut wrong = Vec::new();
    if (status, answer.header("content-type")) != (expected.status, Some(&expected.content_type)) {
        wrong.push(format!("{status} {:?}", answer.header("content-type")));
    }
    let body = answer.json().unwrap_or_default();
    wrong.extend(differences(&expected.body, &body));
    // Of pages that are no JSON only the kind was recorded.
    if expected.body.is_null() && answer.body.is_empty() {
        wrong.push("an empty page".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}:\n{}", exchange.name, wrong.join("\n"))) }
}

#[test]
fn every_recorded_exchange_is_answered_as_it_was_recorded() {
    let exchanges = exchanges();
    assert_eq!(exchanges.len(), 94);
    let wrong: Vec<String> = exchanges.iter().filter_map(|exchange| replay(exchange).err()).collect();
    assert!(wrong.is_empty(), "{} of 88:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn the_comparison_notices_what_differs() {
    let recorded = json!({"a": "2026-11-23T16:25:53.071Z", "list": [{"x": 1}], "secret": made_up("001")});
    let same =
        json!({"a": Timestamp::now().to_string(), "list": [{"x": 1}, {"x": 1}], "secret": made_up("002")});
    assert_eq!(differences(&recorded, &same), Vec::<String>::new());
    for (key, value) in
        [("a", json!("now")), ("list", json!([{"x": 2}])), ("b", json!(1)), ("secret", json!("s"))]
    {
        let mut other = same.clone();
        other[key] = value;
        assert!(!differences(&recorded, &other).is_empty(), "{key}");
    }
}
