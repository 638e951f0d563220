//! The queue's recorded exchanges, in their order, with one fake.

use std::time::Duration;

use serde_json::Value;
use test_support::fake_taskcluster::{Claims, Credentials, FakeTaskcluster, WorkerKey};
use test_support::raw_http::{Request, Signature};

use super::shape::differences;

const POOL: &str = "demo-provider/linux";

fn worker(fake: &FakeTaskcluster) -> Credentials {
    let (key, now) = (WorkerKey::new(POOL, "wg", "w1"), fake.now());
    fake.issue(&Claims {
        client_id: format!("worker/static/{}", key.full()),
        scopes: key.scopes(),
        start: now - Duration::from_secs(900),
        expiry: now + Duration::from_secs(3600),
    })
}

fn send(fake: &FakeTaskcluster, exchange: &Value) -> (u16, Value) {
    let text = |key: &str| exchange["request"][key].as_str().unwrap_or_default();
    let mut request = Request::new(text("method"), text("path"));
    let body = exchange["request"]["body"].clone();
    if !body.is_null() {
        request = request.json(&body);
    }
    let root = Credentials {
        client_id: "root".to_owned(),
        access_token: "root-token".to_owned(),
        certificate: None,
    };
    let credentials = match text("auth") {
        auth if auth.contains("temporary") => Some(worker(fake)),
        auth if auth.contains("permanent") => Some(root),
        _ => None,
    };
    if let Some(Credentials { client_id, access_token, certificate }) = &credentials {
        let signature = Signature::new(client_id, access_token, certificate.as_deref());
        request = request.signed(fake.address(), &signature);
    }
    let answer = request.send(fake.address()).unwrap();
    (answer.status, answer.json().unwrap_or_default())
}

#[test]
fn the_queue_answers_as_it_was_recorded() {
    let fake = FakeTaskcluster::start();
    // Long texts were recorded as descriptions of them.
    let text = include_str!("../fixtures/contract/exchanges-queue.json")
        .replace("(4001 to 5000 times x)", &"x".repeat(5000))
        .replace("(as sent)", &"x".repeat(5000))
        .replace("https://tc.example.com", &fake.url());
    let exchanges: Vec<Value> = serde_json::from_str(&text).unwrap();
    fake.add_client("root", "root-token", &["*"]);
    let mut wrong = Vec::new();
    for exchange in &exchanges {
        let name = exchange["name"].as_str().unwrap();
        if name == "quarantineWorker as worker with scope by the pool role" {
            fake.grant(&format!("worker-pool:{POOL}"), &[&format!("queue:quarantine-worker:{POOL}/*")]);
        }
        let (status, body) = send(&fake, exchange);
        let expected = &exchange["response"];
        if expected["status"] != status {
            wrong.push(format!("{name}: {status}"));
        }
        wrong.extend(differences(&expected["body"], &body).iter().map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
