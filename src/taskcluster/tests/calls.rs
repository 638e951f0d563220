//! Tests of boot times, clocks, truncation, tokens and proxies.

use std::sync::Arc;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::server::{Reply, Server};
use super::{Stopped, client, credentials, hasty_client, log, proof, worker};
use crate::clock::SystemClock;
use crate::taskcluster::client::retry_after;
use crate::taskcluster::{Client, Effort, Proxies, RegisterWorker, WorkerError};

const REGISTERED: &str = r#"{"expires": "2026-11-23T17:24:06.086Z", "workerConfig": {"big": 12345678901234567890123, "a": 1.10},
    "credentials": {"clientId": "c", "accessToken": "fake"}, "secret": "fake"}"#;

fn unknown_key(key: &str) -> Reply {
    let message = format!(
        "\nSchema Validation Failed!\nErrors:\n{}  * data must NOT have additional properties: \"{key}\"\n\n---\n\n* x",
        "  * data/x is long\n".repeat(100)
    );
    Reply::json(400, &serde_json::json!({"code": "InputValidationError", "message": message}).to_string())
}

async fn register(server: &Server) -> Result<String, String> {
    let (name, proof) = (worker("w"), proof("fake"));
    let boot_time = Some("2026-11-23T16:00:00Z".parse().unwrap());
    let request =
        RegisterWorker { name: &name, provider_id: "static", proof: &proof, system_boot_time: boot_time };
    let result = client(&server.root_url).register_worker(&request, Effort::Once).await;
    result.map(|registered| registered.worker_config.get().to_owned()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_deployment_that_does_not_know_the_boot_time_is_asked_without_it() {
    log::record();
    let server = Server::start([unknown_key("systemBootTime"), Reply::json(200, REGISTERED)]).await;
    let config = register(&server).await.unwrap();
    assert_eq!(config, r#"{"big": 12345678901234567890123, "a": 1.10}"#);
    let times: Vec<Value> = server
        .requests()
        .iter()
        .map(|request| serde_json::from_str::<Value>(&request.body).unwrap()["systemBootTime"].clone())
        .collect();
    assert_eq!(times, [Value::from("2026-11-23T16:00:00Z"), Value::Null]);
    assert_eq!(
        log::lines(),
        ["WARN this Taskcluster deployment does not know systemBootTime: registering without it"]
    );
}

#[tokio::test]
async fn another_refusal_is_not_taken_for_that() {
    let server = Server::start([unknown_key("providerId")]).await;
    register(&server).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
    let twice = Server::start([unknown_key("systemBootTime"), unknown_key("systemBootTime")]).await;
    register(&twice).await.unwrap_err();
    assert_eq!(twice.requests().len(), 2);
}

fn stale(date: &str) -> Reply {
    let body =
        r#"{"code": "AuthenticationFailed", "message": "Unauthorized: Stale timestamp\n\n---\n\n* x"}"#;
    Reply::with_headers(401, &format!("Date: {date}\r\n"), body)
}

fn signed_at(server: &Server) -> Vec<i64> {
    let time = |header: &str| header.split("ts=\"").nth(1)?.split('"').next()?.parse().ok();
    server.requests().iter().map(|request| time(request.header("authorization").unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_corrected_once_and_for_all_calls() {
    log::record();
    let answer = Reply::json(200, r#"{"terminate": false, "reason": "none"}"#);
    let replies = [stale("Mon, 23 Nov 2026 16:30:00 GMT"), answer.clone(), answer];
    let server = Server::start(replies).await;
    let local: Timestamp = "2026-11-23T14:00:00Z".parse().unwrap();
    let client = Client::new(&server.root_url, &Proxies::default(), Arc::new(Stopped(local))).unwrap();
    for client in [client.clone(), client] {
        client.should_worker_terminate(&credentials(None), &worker("w"), Effort::Once).await.unwrap();
    }
    let (wrong, right) = (local.as_second(), local.as_second() + 9000);
    assert_eq!(signed_at(&server), [wrong, right, right]);
    assert_eq!(
        log::lines(),
        [
            "WARN the host's clock is wrong: calls are signed with Taskcluster's time; set the clock clock=2h 30m behind"
        ]
    );
}

#[tokio::test]
async fn a_clock_that_cannot_be_corrected_is_no_reason_to_try_again() {
    let local: Timestamp = "2026-11-23T16:30:00Z".parse().unwrap();
    let dates = [("Mon, 23 Nov 2026 16:30:20 GMT", 1), ("nonsense", 1), ("Mon, 23 Nov 2026 12:00:00 GMT", 2)];
    for (date, attempts) in dates {
        let server = Server::start([stale(date), stale(date)]).await;
        let client = Client::new(&server.root_url, &Proxies::default(), Arc::new(Stopped(local))).unwrap();
        let error =
            client.remove_worker(&credentials(None), &worker("w"), Effort::Forever).await.unwrap_err();
        assert!(error.refused());
        assert_eq!(server.requests().len(), attempts, "{date}");
    }
}

#[tokio::test]
async fn every_attempt_is_signed_anew() {
    let busy = Reply::json(503, "");
    let server = Server::start([busy, Reply::json(200, "{}")]).await;
    let client = client(&server.root_url);
    client.remove_worker(&credentials(None), &worker("w"), Effort::Forever).await.unwrap();
    let headers: Vec<String> =
        server.requests().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(headers.len(), 2);
    let nonce = |header: &str| header.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_ne!(nonce(&headers[0]), nonce(&headers[1]));
}

#[tokio::test]
async fn reports_are_cut_to_what_is_taken_and_the_cut_is_marked() {
    let server = Server::start([Reply::json(200, "{}"), Reply::json(200, "{}")]).await;
    let client = client(&server.root_url);
    let report = async |title: &str, description: &str| {
        let error = WorkerError {
            kind: "k".to_owned(),
            title: title.to_owned(),
            description: description.to_owned(),
            extra: Map::new(),
        };
        client.report_worker_error(&credentials(None), &worker("w"), &error, Effort::Once).await.unwrap();
        let body: Value = serde_json::from_str(&server.requests().last().unwrap().body).unwrap();
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        (text("title"), text("description"))
    };
    let (title, description) = report(&"ü".repeat(129), &"ü".repeat(10_241)).await;
    assert_eq!((title.chars().count(), description.chars().count()), (128, 10_240));
    assert!(title.ends_with("üü…") && description.ends_with("ü\n… (cut)"));
    let fits = ("ü".repeat(128), "ü".repeat(10_239) + "\0");
    let (title, description) = report(&fits.0, &fits.1).await;
    assert_eq!((title, description), (fits.0, fits.1.replace('\0', "\u{fffd}")));
}

#[tokio::test]
async fn the_legacy_secret_is_read_and_removed_and_its_token_never_shown() {
    let answer = r#"{"data": {"a": 1.0}, "credentials": {"clientId": "c", "accessToken": "fake", "certificate": ""}, "scopes": ["s"]}"#;
    let echo = Reply::json(404, r#"{"message": "no secret tok-en_1 here"}"#);
    let elsewhere = Reply::with_headers(302, "Location: /api/aws-provisioner/v1/secret/tok-en_1?x\r\n", "");
    let empty = Reply::with_headers(204, "", "");
    let server = Server::start([Reply::json(200, answer), empty, echo, elsewhere]).await;
    let client = client(&server.root_url);
    let token = SecretString::from("tok-en_1");
    let secret = client.provisioner_secret(&token, Effort::Once).await.unwrap();
    assert_eq!(secret.data.get(), r#"{"a": 1.0}"#);
    assert_eq!(secret.credentials.access_token.expose_secret(), "fake");
    assert!(secret.credentials.certificate.is_none() && secret.credentials.expires.is_none());
    assert_eq!(secret.scopes, ["s"]);
    client.remove_provisioner_secret(&token, Effort::Once).await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..2 {
        let error = client.provisioner_secret(&token, Effort::Once).await.unwrap_err();
        assert!(!format!("{error:?}").contains("tok-en_1"), "{error:?}");
        errors.push(server.shown(&error));
    }
    insta::assert_snapshot!(errors.join("\n"), @"
    getSecret failed: GET http://tc.example.com/api/aws-provisioner/v1/secret/<token>: 404 Not Found: no secret <token> here
    getSecret failed: GET http://tc.example.com/api/aws-provisioner/v1/secret/<token>: 302, redirected to http://tc.example.com/api/aws-provisioner/v1/secret/<token>: redirections are not followed; see whether rootURL is right
    ");
    let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(lines[0], "GET /api/aws-provisioner/v1/secret/tok-en_1");
    assert_eq!(lines[1], "DELETE /api/aws-provisioner/v1/secret/tok-en_1");
}

#[tokio::test]
async fn an_answer_may_come_compressed() {
    use base64::Engine;
    // gzip of {"terminate": true, "reason": "over capacity"}
    let body = base64::prelude::BASE64_STANDARD.decode(GZIPPED).unwrap();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n\r\n";
    let reply = Reply::Bytes([head.as_bytes(), &body].concat());
    let server = Server::start([reply]).await;
    let client = client(&server.root_url);
    let answer =
        client.should_worker_terminate(&credentials(None), &worker("w"), Effort::Once).await.unwrap();
    assert_eq!(answer.reason, "over capacity");
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("gzip"));
}

const GZIPPED: &str =
    "H4sIAAAAAAACA6tWKkktys3MSyxJVbJSKCkqTdVRUCpKTSzOzwPylfLLUosUkhMLEpMzSyqVagHysrgwLgAAAA==";

#[test]
fn retry_after_is_read_in_both_forms_and_bounded() {
    let now: Timestamp = "2026-11-23T16:00:00Z".parse().unwrap();
    let read = |pairs: &[(&'static str, &'static str)]| {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        retry_after(&headers.collect(), now).map(|wait| wait.as_secs())
    };
    assert_eq!(read(&[]), None);
    assert_eq!(read(&[("retry-after", "7")]), Some(7));
    assert_eq!(read(&[("retry-after", "99999999")]), Some(600));
    assert_eq!(read(&[("retry-after", "Mon, 23 Nov 2026 16:00:30 GMT")]), Some(30));
    assert_eq!(read(&[("retry-after", "Mon, 23 Nov 2026 15:00:00 GMT")]), Some(0));
    // Relative to the answer's own clock, if the answer has a date.
    let both = [("retry-after", "Mon, 23 Nov 2026 18:00:30 GMT"), ("date", "Mon, 23 Nov 2026 18:00:00 GMT")];
    assert_eq!(read(&both), Some(30));
    for nonsense in ["", "soon", "-1", "1.5"] {
        assert_eq!(read(&[("retry-after", nonsense)]), None, "{nonsense}");
    }
}

#[tokio::test]
async fn calls_go_through_the_proxy_unless_the_host_is_excepted() {
    let proxy = Server::start([Reply::json(200, "{}")]).await;
    let through = |http: String, no_proxy: Option<&str>| Proxies {
        http: Some(http),
        https: None,
        no_proxy: no_proxy.map(str::to_owned),
        authorities: Vec::new(),
    };
    let address = proxy.root_url.replace("http://", "user:pass@");
    let client =
        |root_url: &str, proxies: &Proxies| Client::new(root_url, proxies, Arc::new(SystemClock)).unwrap();
    let far = client("http://tc.example.com", &through(address, None));
    far.remove_worker(&credentials(None), &worker("w"), Effort::Once).await.unwrap();
    let request = &proxy.requests()[0];
    assert!(request.line.starts_with("DELETE http://tc.example.com/api/worker-manager/"), "{}", request.line);
    assert_eq!(request.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));

    let direct = Server::start([Reply::json(200, "{}")]).await;
    let near = client(&direct.root_url, &through(proxy.root_url.clone(), Some("127.0.0.1")));
    near.remove_worker(&credentials(None), &worker("w"), Effort::Once).await.unwrap();
    assert_eq!((direct.requests().len(), proxy.requests().len()), (1, 1));
}

#[test]
fn what_is_no_root_url_and_what_is_no_proxy_is_said_without_passwords() {
    let mut errors = Vec::new();
    let roots = [
        "",
        "tc.example.com",
        "ftp://tc.example.com",
        "https://",
        "https://me:pa55@tc.example.com",
        "https://tc.example.com/?a=b",
    ];
    for root in roots {
        errors.push(Client::new(root, &Proxies::default(), Arc::new(SystemClock)).err().unwrap().to_string());
    }
    for proxy in ["socks5://me:pa55@proxy", "http://me:pa55@proxy:nonsense"] {
        let proxies = Proxies { https: Some(proxy.to_owned()), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("pa55"));
        let error = Client::new("https://tc.example.com", &proxies, Arc::new(SystemClock)).err().unwrap();
        errors.push(error.to_string());
        // A bad proxy does not affect URLs that do not use it.
        assert!(Client::new("http://tc.example.com", &proxies, Arc::new(SystemClock)).is_ok());
    }
    let text = errors.join("\n");
    assert!(!text.contains("pa55"));
    insta::assert_snapshot!(text, @"
    cannot call Taskcluster at ``: it is not a URL: relative URL without a base
    cannot call Taskcluster at `tc.example.com`: it is not a URL: relative URL without a base
    cannot call Taskcluster at `ftp://tc.example.com`: it must begin with https:// or http://
    cannot call Taskcluster at `https:`: it is not a URL: empty host
    cannot call Taskcluster at `(masked)`: it must not hold a user or a password
    cannot call Taskcluster at `https://tc.example.com/?(masked)`: it must have neither `?` nor `#`
    cannot call Taskcluster through the proxy that https_proxy names: socks5 proxies are not supported; name one for http or https
    cannot call Taskcluster through the proxy that https_proxy names: it is not a URL: invalid port number
    ");
    assert_eq!(client("https://tc.example.com//").root_url(), "https://tc.example.com");
}

#[test]
fn calls_can_be_made_in_tasks_of_their_own() {
    fn is_send(_: impl Send) {}
    let client = hasty_client("http://127.0.0.1:1");
    let (credentials, name, secret) = (credentials(None), worker("w"), SecretString::from("s"));
    is_send(client.reregister_worker(&credentials, &name, &secret, Effort::Once));
    is_send(client.secret(&credentials, "x", Effort::Once));
}
