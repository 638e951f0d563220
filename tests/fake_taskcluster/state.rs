//! The state of the fake.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use test_support::fake_taskcluster::{FakeTaskcluster, ProviderType, WorkerState};
use test_support::raw_http::{DEADLINE, Request};

use super::support::{GET_POOL, POOL, Registered, SECRET, fake, message, register, register_request};

#[test]
fn every_reregistration_answers_the_next_secret_and_refuses_the_last_one() {
    let (fake, key) = fake();
    let first = Registered::new(&fake, &key);
    let second = Registered(first.reregister(&fake, &key, first.secret()).unwrap().json().unwrap());
    assert_ne!(first.secret(), second.secret());
    assert_eq!(fake.one_time_secret(&key).as_deref(), Some(second.secret()));
    let again = second.reregister(&fake, &key, first.secret()).unwrap();
    assert_eq!(
        (again.status, message(&again).as_str()),
        (400, "Could not generate credentials for this secret")
    );
    // The refusal has not used up the other one; the first credentials are still good.
    assert_eq!(first.reregister(&fake, &key, second.secret()).unwrap().status, 200);
    // And a static worker may register anew.
    assert_eq!(register(fake.address(), &key).unwrap().status, 200);
}

#[test]
fn a_clouds_worker_registers_once_with_the_launch_configs_worker_config() {
    let proofs = [
        (
            ProviderType::Aws,
            json!({"document": "{}", "signature": "s"}),
            "This worker is either stopped or running.",
        ),
        (ProviderType::Azure, json!({"document": "d"}), "Signature validation error"),
        (ProviderType::Google, json!({"token": "t"}), "Token validation error"),
    ];
    for (kind, proof, refusal) in proofs {
        let fake = FakeTaskcluster::start();
        fake.add_provider("cloud", kind);
        let launch =
            |id: &str| json!({"workerConfig": {"from": id}, "workerManager": {"launchConfigId": id}});
        fake.set_pool(
            "p/p",
            json!({"providerId": "cloud", "config": {"launchConfigs": [launch("a"), launch("b")]}}),
        );
        let key = fake.add_cloud_worker("p/p", "region", "i-1");
        fake.set_launch_config(&key, "b");
        fake.expect_proof(&key, proof.clone());
        let register = |proof: &Value| {
            let mut request = register_request(&key, proof);
            let mut body: Value = serde_json::from_slice(&request.body).unwrap();
            body["providerId"] = json!("cloud");
            request.body = body.to_string().into_bytes();
            request.send(fake.address()).unwrap()
        };
        let mut other = proof.clone();
        for (_, value) in other.as_object_mut().unwrap() {
            *value = json!("other");
        }
        assert_eq!(register(&other).status, 400, "{kind:?}");
        let answer = register(&proof);
        assert_eq!(answer.status, 200, "{kind:?} {:?}", answer.json());
        assert_eq!(answer.json().unwrap()["workerConfig"], json!({"from": "b"}));
        assert_eq!(fake.worker_state(&key), Some(WorkerState::Running));
        let again = register(&proof);
        assert_eq!(again.status, 400);
        assert!(message(&again).starts_with(refusal), "{}", message(&again));
    }
}

#[test]
fn credentials_end_when_they_say_with_five_minutes_of_grace() {
    let (fake, key) = fake();
    fake.set_credentials_life(Duration::from_secs(40));
    let worker = Registered::new(&fake, &key);
    let expires: Timestamp = worker.0["expires"].as_str().unwrap().parse().unwrap();
    let left = expires.duration_since(fake.now());
    assert!(left > SignedDuration::from_secs(20) && left <= SignedDuration::from_secs(40), "{left}");
    fake.grant("worker-pool:demo/*", &["worker-manager:get-worker-pool:*"]);
    assert_eq!(worker.get(&fake, GET_POOL).status, 200);
    fake.set_clock_offset(SignedDuration::from_mins(5));
    assert_eq!(worker.get(&fake, GET_POOL).status, 200);
    fake.set_clock_offset(SignedDuration::from_mins(6));
    let answer = worker.get(&fake, GET_POOL);
    assert_eq!((answer.status, message(&answer).as_str()), (401, "ext.certificate.expiry < now"));
}

#[test]
fn a_client_whose_clock_is_wrong_learns_the_time_from_the_date_alone() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    fake.set_clock_offset(SignedDuration::from_hours(24));
    let answer = worker.get(&fake, GET_POOL);
    assert_eq!((answer.status, message(&answer).as_str()), (401, "Unauthorized: Stale timestamp"));
    let date = httpdate::parse_http_date(answer.header("date").unwrap()).unwrap();
    let ahead = Timestamp::try_from(date).unwrap().duration_since(Timestamp::now());
    assert!((ahead - SignedDuration::from_hours(24)).abs() < SignedDuration::from_secs(30), "{ahead}");
}

#[test]
fn a_worker_may_read_its_pool_once_a_role_says_so() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    assert_eq!(worker.get(&fake, GET_POOL).status, 403);
    fake.grant("worker-pool:demo/linux", &["worker-manager:get-worker-pool:demo/linux"]);
    let first = worker.get(&fake, GET_POOL).json().unwrap();
    fake.set_pool(POOL, json!({"config": {"workerConfig": {"deploymentId": "d2"}}}));
    let second = worker.get(&fake, GET_POOL).json().unwrap();
    assert_eq!(first["config"]["workerConfig"]["deploymentId"], "d1");
    assert_eq!(second["config"]["workerConfig"]["deploymentId"], "d2");
    assert_eq!(first["providerId"], second["providerId"]);
}

#[test]
fn an_older_deployment_refuses_the_boot_time() {
    let (fake, key) = fake();
    let mut request = register_request(&key, &json!({"staticSecret": SECRET}));
    let mut body: Value = serde_json::from_slice(&request.body).unwrap();
    body["systemBootTime"] = json!("2026-11-23T16:23:07Z");
    request.body = body.to_string().into_bytes();
    assert_eq!(request.send(fake.address()).unwrap().status, 200);
    fake.set_knows_boot_time(false);
    let answer = request.send(fake.address()).unwrap();
    assert_eq!((answer.status, answer.json().unwrap()["code"].clone()), (400, json!("InputValidationError")));
    let message = answer.json().unwrap()["message"].to_string();
    assert!(message.contains("must NOT have additional properties: \\\"systemBootTime\\\""), "{message}");
}

#[test]
fn a_legacy_secret_is_there_until_it_is_removed() {
    let (fake, _) = fake();
    fake.add_legacy_secret("token-1", json!({"dockerWorker": {}}), &["queue:claim-work:demo/linux"]);
    let path = "/api/aws-provisioner/v1/secret/token-1";
    let got = Request::new("GET", path).send(fake.address()).unwrap().json().unwrap();
    assert_eq!(got["data"], json!({"dockerWorker": {}}));
    assert_eq!(got["scopes"], json!(["queue:claim-work:demo/linux"]));
    assert!(got["credentials"]["certificate"].is_string());
    assert_eq!(Request::new("DELETE", path).send(fake.address()).unwrap().status, 200);
    assert!(!fake.has_legacy_secret("token-1"));
    assert_eq!(Request::new("GET", path).send(fake.address()).unwrap().status, 404);
}

#[test]
fn requests_are_recorded_with_what_they_carried() {
    let (fake, key) = fake();
    let request = register_request(&key, &json!({"staticSecret": SECRET})).header("User-Agent", "test/1");
    request.send(fake.address()).unwrap();
    Request::new("GET", "/elsewhere?x=1").send(fake.address()).unwrap();
    fake.wait_for_answers("unknown", 1, DEADLINE);
    let requests = fake.requests();
    assert_eq!((fake.count("registerWorker"), fake.count("any"), fake.connections()), (1, 2, 2));
    assert_eq!(requests[0].call, "registerWorker");
    assert_eq!(requests[0].user_agent.as_deref(), Some("test/1"));
    assert_eq!(requests[0].body.as_ref().unwrap()["workerId"], "worker-1");
    assert_eq!((requests[0].status, requests[0].signed), (Some(200), false));
    assert_eq!((requests[1].path.as_str(), requests[1].status), ("/elsewhere?x=1", Some(404)));
    fake.forget_requests();
    assert_eq!(fake.count("any"), 0);
}

#[test]
fn a_long_answer_is_compressed_for_who_takes_that() {
    let (fake, key) = fake();
    fake.set_pool(POOL, json!({"config": {"workerConfig": {"long": "x".repeat(1000)}}}));
    let request = register_request(&key, &json!({"staticSecret": SECRET}));
    let plain = request.send(fake.address()).unwrap();
    assert_eq!((plain.header("content-encoding"), plain.header("transfer-encoding")), (None, None));
    let compressed = request.header("Accept-Encoding", "gzip, br").send(fake.address()).unwrap();
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert_eq!(compressed.header("transfer-encoding"), Some("chunked"));
    let keys = |answer: Value| answer.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(plain.json().unwrap()), keys(compressed.json().unwrap()));
}

#[test]
fn many_clients_at_once_are_all_served() {
    let (fake, _) = fake();
    let keys: Vec<_> =
        (0..200).map(|id| fake.add_static_worker(POOL, "many", &format!("w{id}"), SECRET)).collect();
    std::thread::scope(|scope| {
        let fake = &fake;
        for keys in keys.chunks(20) {
            scope.spawn(move || {
                for key in keys {
                    let worker = Registered::new(fake, key);
                    assert_eq!(worker.reregister(fake, key, worker.secret()).unwrap().status, 200);
                }
            });
        }
    });
    assert_eq!((fake.count("registerWorker"), fake.count("reregisterWorker")), (200, 200));
}
