//! The faults that a test can request, from the client's point of view.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::fake_taskcluster::{Fault, Times};
use test_support::raw_http::{DEADLINE, Request};

use super::support::{Registered, SECRET, eventually, fake, message, register, register_request};

#[test]
fn a_stopped_fake_refuses_and_comes_back_at_its_address_with_its_state() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    let address = fake.address();
    fake.stop();
    assert_eq!(register(address, &key).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    fake.start_at(address).unwrap();
    assert_eq!((fake.address(), fake.url()), (address, format!("http://{address}")));
    assert_eq!(worker.reregister(&fake, &key, worker.secret()).unwrap().status, 200);
    drop(fake);
    assert_eq!(register(address, &key).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_pause_ends_by_itself_or_with_the_fake() {
    let (first, key) = fake();
    first.stop_for(Duration::from_millis(50));
    assert_eq!(register(first.address(), &key).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    eventually(|| register(first.address(), &key).is_ok());
    let (second, _) = fake();
    second.stop_for(Duration::from_secs(3600));
    let asked = Instant::now();
    drop(second);
    assert!(asked.elapsed() < DEADLINE);
}

#[test]
fn a_reset_comes_before_or_after_the_call_takes_effect() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    let reset = |fault: Fault| {
        fake.fail("reregisterWorker", Times::Only(1), fault);
        let error = worker.reregister(&fake, &key, worker.secret()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    };
    reset(Fault::Reset);
    assert_eq!(fake.one_time_secret(&key).as_deref(), Some(worker.secret()));
    reset(Fault::AnswerLost);
    assert_ne!(fake.one_time_secret(&key).as_deref(), Some(worker.secret()));
    let refused = worker.reregister(&fake, &key, worker.secret()).unwrap();
    assert_eq!(message(&refused), "Could not generate credentials for this secret");
    let statuses: Vec<_> = fake.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(200), None, None, Some(400)]);
}

#[test]
fn a_connection_can_be_reset_before_it_says_anything() {
    let (fake, key) = fake();
    fake.fail("any", Times::Only(1), Fault::ResetAtAccept);
    assert!(register(fake.address(), &key).is_err());
    assert_eq!((fake.count("any"), fake.connections()), (0, 1));
    assert_eq!(register(fake.address(), &key).unwrap().status, 200);
}

#[test]
fn who_hangs_goes_on_when_the_rule_is_cleared() {
    let (fake, key) = fake();
    for times in [Times::Only(1), Times::UntilCleared] {
        fake.forget_requests();
        let rule = fake.fail("registerWorker", times, Fault::Hang);
        std::thread::scope(|scope| {
            let hanging = scope.spawn(|| register(fake.address(), &key));
            fake.wait_for("registerWorker", 1, DEADLINE);
            assert_eq!(fake.requests()[0].status, None);
            fake.clear_fault(rule);
            assert_eq!(hanging.join().unwrap().unwrap().status, 200);
        });
    }
}

#[test]
fn answers_can_be_late_and_calls_held_for_a_while() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    let pause = Duration::from_millis(100);
    for fault in [Fault::HangFor(pause), Fault::LateAnswer(pause)] {
        fake.fail("any", Times::Only(1), fault);
        let asked = Instant::now();
        assert_eq!(register(fake.address(), &key).unwrap().status, 200);
        assert!(asked.elapsed() >= pause);
    }
    // The call has taken effect long before its answer comes.
    let before = fake.one_time_secret(&key);
    assert_ne!(before.as_deref(), Some(worker.secret()));
    fake.fail("registerWorker", Times::Only(1), Fault::LateAnswer(DEADLINE));
    std::thread::scope(|scope| {
        scope.spawn(|| register(fake.address(), &key));
        eventually(|| fake.one_time_secret(&key) != before);
        fake.stop();
    });
}

#[test]
fn an_answer_can_break_off_in_both_ways() {
    let (fake, key) = fake();
    for fault in [Fault::truncated(), Fault::unfinished()] {
        fake.fail("registerWorker", Times::Only(1), fault);
        let error = register(fake.address(), &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(fake.one_time_secret(&key).is_some(), "the call took effect");
    }
    assert_eq!(fake.requests().last().unwrap().status, Some(200));
}

#[test]
fn other_answers_come_instead_of_the_call() {
    let (fake, key) = fake();
    let date = "Tue, 24 Nov 2026 18:00:00 GMT";
    let faults = [
        (Fault::bad_gateway(), 502, "text/html; charset=utf-8", None),
        (Fault::gateway_timeout(), 504, "text/html; charset=utf-8", None),
        (Fault::too_many_requests("7"), 429, "text/html; charset=utf-8", Some(("retry-after", "7"))),
        (Fault::too_many_requests(date), 429, "text/html; charset=utf-8", Some(("retry-after", date))),
        (Fault::garbage(), 200, "text/html", None),
        (
            Fault::redirect("http://127.0.0.1:1/"),
            302,
            "text/html; charset=utf-8",
            Some(("location", "http://127.0.0.1:1/")),
        ),
        (Fault::answer(418, "text/plain", "no"), 418, "text/plain", None),
        (Fault::InternalError, 500, "application/json; charset=utf-8", None),
    ];
    for (fault, status, kind, header) in faults {
        fake.fail("registerWorker", Times::Only(1), fault);
        let answer = register(fake.address(), &key).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (status, Some(kind)));
        assert!(!answer.body.is_empty());
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value));
        }
    }
    assert_eq!(fake.one_time_secret(&key), None, "nothing has taken effect");
    assert_eq!(register(fake.address(), &key).unwrap().status, 200);
}

#[test]
fn a_rule_is_for_some_calls_and_so_many_times() {
    let (fake, key) = fake();
    let worker = Registered::new(&fake, &key);
    let secret = "/api/secrets/v1/secret/worker-pool%3Ademo%2Flinux";
    fake.fail("signed", Times::UntilCleared, Fault::InternalError);
    fake.fail("registerWorker", Times::Only(2), Fault::bad_gateway());
    let statuses: Vec<u16> = (0..3).map(|_| register(fake.address(), &key).unwrap().status).collect();
    assert_eq!(statuses, [502, 502, 200]);
    assert_eq!(worker.get(&fake, secret).status, 500);
    assert_eq!(Request::new("GET", secret).send(fake.address()).unwrap().status, 403);
    fake.clear_faults();
    assert_eq!(worker.get(&fake, secret).status, 404, "superseded credentials hold; there is no such secret");
}

#[test]
fn the_record_can_be_waited_for_in_a_runtime() {
    let (fake, key) = fake();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = fake.address();
    runtime.block_on(async {
        let request = register_request(&key, &json!({"staticSecret": SECRET}));
        #[expect(clippy::disallowed_methods, reason = "a test, which has no lanes")]
        let sent = tokio::task::spawn_blocking(move || request.send(address));
        fake.called("registerWorker", 1, DEADLINE).await;
        assert_eq!(sent.await.unwrap().unwrap().status, 200);
    });
}
