//! Headers that Python's `mohawk` made (`tests/fixtures/hawk/make.py`): the fake accepts them, and nothing near them.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use test_support::fake_taskcluster::FakeTaskcluster;
use test_support::fake_taskcluster::auth::ISSUER;
use test_support::raw_http::{Answer, Request};

#[derive(Deserialize)]
struct Fixture {
    /// Seconds since the epoch.
    time: i64,
    requests: Vec<Signed>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Signed {
    name: String,
    method: String,
    host: String,
    path: String,
    content_type: String,
    content: String,
    authorization: String,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/hawk/requests.json")).unwrap()
}

/// A fake that lives at the time of the fixture and knows its clients.
fn fake(fixture: &Fixture) -> FakeTaskcluster {
    let fake = FakeTaskcluster::start();
    let time = Timestamp::from_second(fixture.time).unwrap();
    fake.set_clock_offset(time.duration_since(Timestamp::now()));
    fake.set_pool("demo/linux", json!({}));
    fake.add_client("project/demo/root", "root-token", &["*"]);
    fake.add_client(ISSUER, "issuer-token", &["*"]);
    fake.set_secret("worker-pool:demo/linux", json!({}));
    fake
}

fn send(fake: &FakeTaskcluster, signed: &Signed) -> Answer {
    let mut request = Request::new(&signed.method, &signed.path)
        .header("Host", &signed.host)
        .header("Authorization", &signed.authorization);
    if !signed.content_type.is_empty() {
        request = request.header("Content-Type", &signed.content_type);
    }
    request.body = signed.content.clone().into_bytes();
    request.send(fake.address()).unwrap()
}

fn message(answer: &Answer) -> String {
    answer.json().unwrap()["message"].as_str().unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn what_another_implementation_signed_is_accepted() {
    let fixture = fixture();
    let fake = fake(&fixture);
    for signed in &fixture.requests {
        let answer = send(&fake, signed);
        if signed.method == "POST" {
            // Past the signature and the scopes: there is no such worker.
            assert_eq!(answer.status, 400, "{}", signed.name);
            assert_eq!(message(&answer), "Could not generate credentials for this secret");
        } else {
            assert_eq!(answer.status, 200, "{}: {:?}", signed.name, answer.json());
        }
    }
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    type Change = fn(&mut Signed);
    let changes: [(&str, Change, &str); 6] = [
        ("the path", |signed| signed.path = signed.path.replace("linux", "other"), "Unauthorized: Bad mac"),
        ("the query", |signed| signed.path.push_str("?x=1"), "Unauthorized: Bad mac"),
        ("the host", |signed| signed.host = "tc.example.org".to_owned(), "Unauthorized: Bad mac"),
        ("the port", |signed| signed.host.push('0'), "Unauthorized: Bad mac"),
        (
            "the time",
            |signed| signed.authorization = signed.authorization.replace("1795450146", "1795450147"),
            "Unauthorized: Bad mac",
        ),
        ("the payload", |signed| signed.content.push(' '), "Invalid payload hash: {{hash}}"),
    ];
    let fixture = fixture();
    let fake = fake(&fixture);
    for (what, change, refusal) in changes {
        let named = if what == "the port" { "another port" } else { "permanent credentials" };
        let named = if what == "the payload" { "temporary credentials with a payload" } else { named };
        let mut signed = fixture.requests.iter().find(|signed| signed.name == named).unwrap().clone();
        change(&mut signed);
        let answer = send(&fake, &signed);
        assert_eq!((answer.status, message(&answer).as_str()), (401, refusal), "{what}");
    }
}

#[test]
fn a_signature_is_good_once_and_for_a_quarter_of_an_hour() {
    let fixture = fixture();
    let fake = fake(&fixture);
    let signed = &fixture.requests[0];
    assert_eq!(send(&fake, signed).status, 200);
    assert_eq!(message(&send(&fake, signed)), "Unauthorized: Invalid nonce");
    let time = Timestamp::from_second(fixture.time).unwrap() + SignedDuration::from_mins(16);
    fake.set_clock_offset(time.duration_since(Timestamp::now()));
    let late = send(&fake, &fixture.requests[1]);
    assert_eq!(message(&late), "Unauthorized: Stale timestamp");
    let date = httpdate::parse_http_date(late.header("date").unwrap()).unwrap();
    let date = Timestamp::try_from(date).unwrap();
    assert!(date.duration_since(time).abs() < SignedDuration::from_secs(60), "{date}");
}
