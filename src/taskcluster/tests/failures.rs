//! The failures between the runner and Taskcluster, and their error texts.

use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;

use super::server::{Reply, Server};
use super::{client, credentials, hasty_client, worker};
use crate::taskcluster::{CallError, Effort};

/// Makes one call that receives this reply.
async fn failing(reply: Reply) -> (Server, CallError) {
    let client = if matches!(reply, Reply::Silence) { hasty_client } else { client };
    let server = Server::start([reply]).await;
    let (credentials, secret) = (credentials(None), SecretString::from("fake-secret"));
    let client = client(&server.root_url);
    let error =
        client.reregister_worker(&credentials, &worker("w"), &secret, Effort::Once).await.unwrap_err();
    (server, error)
}

fn raw(text: &str) -> Reply {
    Reply::Bytes(text.as_bytes().to_vec())
}

fn html(status: u16) -> Reply {
    let body =
        format!("<html>\n<head><title>{status}</title></head>\n<body>{}</body></html>", "x".repeat(500));
    Reply::with_headers(status, "Content-Type: text/html\r\n", &body)
}

/// Makes a call for each of these replies. Returns the error texts.
async fn told(cases: impl IntoIterator<Item = (&str, Reply)>, refused: bool) -> String {
    let mut lines = Vec::new();
    for (name, reply) in cases {
        let (server, error) = failing(reply).await;
        assert_eq!(error.refused(), refused, "{name}: {error}");
        assert!(!error.is_not_found());
        let text = server.shown(&error);
        for secret in ["leaky", "fake-secret", "fake-access-token", "pw@"] {
            assert!(!text.contains(secret) && !format!("{error:?}").contains(secret), "{name}: {error:?}");
        }
        let prefix =
            "reregisterWorker failed: POST http://tc.example.com/api/worker-manager/v1/worker/reregister: ";
        let lost = if error.may_have_been_done() { " [lost]" } else { "" };
        lines.push(format!("{name}: {}{lost}", text.strip_prefix(prefix).expect(&text)));
    }
    lines.join("\n")
}

#[tokio::test]
async fn what_may_work_later_is_told_in_words() {
    let registered =
        r#"{"expires": "soon", "credentials": {"clientId": "c", "accessToken": "a"}, "secret": "s"}"#;
    let wrong_type = r#"{"expires": "soon", "credentials": "leaky", "secret": "s"}"#;
    let cases = [
        ("silence", Reply::Silence),
        ("closed", raw("")),
        ("not HTTP", raw("SSH-2.0-OpenSSH_9.2\r\n")),
        ("half a header", raw("HTTP/1.1 200 OK\r\nContent-")),
        ("half a body", raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"secret\": \"le")),
        ("half a chunk", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{\"a\":")),
        ("half an object", raw("HTTP/1.1 200 OK\r\n\r\n{\"secret\": \"leaky\", \"credentials\": {")),
        ("not gzip", raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")),
        ("nothing", Reply::json(200, "")),
        ("a page", html(200)),
        ("a field is missing", Reply::json(200, "{}")),
        ("a wrong type", Reply::json(200, wrong_type)),
        ("no date", Reply::json(200, registered)),
        ("too long", Reply::json(200, &" ".repeat((16 << 20) + 1))),
        ("a page of a proxy", html(502)),
        ("busy", Reply::json(429, "")),
        ("slow", Reply::json(408, "Request Timeout")),
    ];
    insta::assert_snapshot!(told(cases, false).await, @"
    silence: timed out after 2s [lost]
    closed: no answer: connection closed before message completed [lost]
    not HTTP: no answer: invalid HTTP version parsed [lost]
    half a header: no answer: connection closed before message completed [lost]
    half a body: the answer broke off: end of file before message length reached [lost]
    half a chunk: the answer broke off: end of file before message length reached [lost]
    half an object: the answer is not JSON: EOF while parsing an object at line 1 column 36 [lost]
    not gzip: the answer broke off: Invalid gzip header [lost]
    nothing: the answer is not JSON: EOF while parsing a value at line 1 column 0 [lost]
    a page: the answer is not JSON: expected value at line 1 column 1; the answer (text/html) is not shown because it may hold secrets [lost]
    a field is missing: the answer cannot be used: missing field `expires` at line 1 column 2 [lost]
    a wrong type: the answer cannot be used: not the expected JSON at line 1, column 42 [lost]
    no date: the answer cannot be used: expires is no date [lost]
    too long: the answer is longer than 16 MiB [lost]
    a page of a proxy: 502 Bad Gateway: the answer (text/html) is not shown because it may hold secrets [lost]
    busy: 429 Too Many Requests
    slow: 408 Request Timeout: the answer (application/json) is not shown because it may hold secrets
    ");
}

#[tokio::test]
async fn what_will_not_change_is_told_in_words_and_final() {
    let echo = r#"{"code": "InputError", "message": "no fake-secret,\n\n fake-access-token\u0007 please"}"#;
    let cases = [
        ("a page for 404", html(404)),
        ("unknown path", Reply::json(404, r#"{"error": "Not found"}"#)),
        ("other JSON", Reply::json(400, r#"{"code": 7}"#)),
        ("an echo", Reply::json(400, echo)),
        (
            "redirected",
            Reply::with_headers(
                301,
                "Location: https://tc.example.com/api/worker-manager/v1/worker/reregister\r\n",
                "",
            ),
        ),
        (
            "to a login",
            Reply::with_headers(302, "Location: https://me:pw@login.example.com/?next=secret\r\n", ""),
        ),
        ("redirected to nowhere", Reply::with_headers(307, "", "")),
        (
            "redirected with a token",
            Reply::with_headers(307, "Location: https://login.example.com/done/leaky-token/\r\n", ""),
        ),
        ("a token as type", Reply::with_headers(400, "Content-Type: text/leaky-token\r\n", "no")),
    ];
    insta::assert_snapshot!(told(cases, true).await, @r#"
    a page for 404: 404 Not Found: the answer (text/html) is not shown because it may hold secrets
    unknown path: 404 Not Found: the answer (application/json) is not shown because it may hold secrets
    other JSON: 400 Bad Request: the answer (application/json) is not shown because it may hold secrets
    an echo: 400 InputError: no (masked),
    redirected: 301, redirected to https://tc.example.com/api/worker-manager/v1/worker/reregister: redirections are not followed; set rootURL to https://tc.example.com
    to a login: 302, redirected to https://login.example.com/: redirections are not followed; see whether rootURL is right
    redirected to nowhere: 307, redirected to nowhere: redirections are not followed; see whether rootURL is right
    redirected with a token: 307, redirected to https://login.example.com/…: redirections are not followed; see whether rootURL is right
    a token as type: 400 Bad Request: the answer is not shown because it may hold secrets
    "#);
}

/// A possible answer of registerWorker, whose tokens the caller cannot know yet.
const NEW_SECRETS: &str = r#"{"expires": "2999-01-01T00:00:00Z", "secret": "leaky-registration-secret", "credentials": {"clientId": "c", "accessToken": "leaky-access-token", "certificate": "{\"signature\":\"leaky-signature\"}"}}"#;

#[tokio::test]
async fn an_answer_that_is_nearly_json_is_not_quoted() {
    let form = "expires=2999&secret=leaky-registration-secret&credentials.accessToken=leaky-access-token";
    for (name, body) in [
        ("a guard", format!(")]}}'\n{NEW_SECRETS}")),
        ("JSONP", format!("callback({NEW_SECRETS});")),
        ("a page", format!("<pre>{NEW_SECRETS}</pre>")),
        ("a form", form.to_owned()),
        ("a NUL", format!("\0{NEW_SECRETS}")),
        ("more after it", format!("{NEW_SECRETS} and more")),
        ("twice", format!("{NEW_SECRETS}{NEW_SECRETS}")),
        ("a list", format!("[{NEW_SECRETS}]")),
        ("a string", serde_json::Value::from(NEW_SECRETS).to_string()),
        ("another type", NEW_SECRETS.replace("\"2999-01-01T00:00:00Z\"", "{\"leaky-key\": \"leaky-value\"}")),
        ("no date", NEW_SECRETS.replace("2999-01-01T00:00:00Z", "leaky-value")),
        ("UTF-16", NEW_SECRETS.chars().flat_map(|c| [c, '\0']).collect()),
        ("another mark", format!("\u{2060}{NEW_SECRETS}")),
    ] {
        for status in [200, 201, 400, 401, 403, 404, 409, 418, 429, 500, 502, 503] {
            let (_server, error) = failing(Reply::json(status, &body)).await;
            let said = format!("{error} {error:?} {:?} {:?}", error.code(), error.missing_scopes());
            assert!(!said.contains("leaky"), "{name}: {said}");
            let answered = said.replace('\0', "");
            assert!(!answered.contains("leaky"), "{name}: {said}");
        }
    }
}

#[tokio::test]
async fn a_refusal_with_credentials_in_it_shows_code_and_first_line_alone() {
    let credentials = r#""credentials": {"accessToken": "leaky-access-token"}"#;
    for (body, expected) in [
        (
            format!("{{{credentials}}}"),
            "400 Bad Request: the answer (application/json) is not shown because it may hold secrets",
        ),
        (
            format!(r#"{{"code": "InputError", {credentials}}}"#),
            "400 InputError: the answer (application/json) is not shown because it may hold secrets",
        ),
        (format!(r#"{{"code": "InputError", "message": "no\nleaky", {credentials}}}"#), "400 InputError: no"),
        (
            format!(r#"{{"code": "leaky: x", "message": "no fake-secret", {credentials}}}"#),
            "400 Bad Request: no (masked)",
        ),
        (r#"{"code": "leaky0token", "message": "no"}"#.to_owned(), "400 Bad Request: no"),
        (format!("{{\"code\": \"{}\", \"message\": \"no\"}}", "leaky".repeat(9)), "400 Bad Request: no"),
        (r#"{"code": "InputError", "message": "no\rleaky"}"#.to_owned(), "400 InputError: no"),
        (r#"{"code": "InputError", "message": "no\u2028leaky"}"#.to_owned(), "400 InputError: no"),
        (r#"{"code": "InputError", "message": "no\u0085leaky"}"#.to_owned(), "400 InputError: no"),
        (r#"{"code": "InputError", "message": "\nleaky"}"#.to_owned(), "400 InputError"),
        (
            serde_json::json!({"code": "InputError", "message": format!("{{{credentials}}}")}).to_string(),
            "400 InputError: the answer (application/json) is not shown because it may hold secrets",
        ),
        (
            r#"{"code": "InputError", "message": "expires=2999&accessToken=leaky"}"#.to_owned(),
            "400 InputError: the answer (application/json) is not shown because it may hold secrets",
        ),
        (
            format!(r#"{{"error": "leaky", {credentials}}}"#),
            "400 Bad Request: the answer (application/json) is not shown because it may hold secrets",
        ),
        (
            format!("\u{feff}{{\"code\": \"InputError\", \"message\": \"no\", {credentials}}}"),
            "400 InputError: no",
        ),
    ] {
        let (_server, error) = failing(Reply::json(400, &body)).await;
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(!format!("{error} {error:?}").contains("leaky"), "{error:?}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_an_answer_is_skipped() {
    let server = Server::start([Reply::json(200, &format!("\u{feff}{NEW_SECRETS}"))]).await;
    let (credentials, secret) = (credentials(None), SecretString::from("fake-secret"));
    let client = client(&server.root_url);
    client.reregister_worker(&credentials, &worker("w"), &secret, Effort::Once).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_holds_no_secret_of_its_own_is_quoted_masked_first_and_then_cut() {
    let body = format!("{} fake-access-token {}", "x".repeat(195), "y".repeat(100));
    let server = Server::start([Reply::with_headers(502, "Content-Type: text/html\r\n", &body)]).await;
    let client = client(&server.root_url);
    let error = client.remove_worker(&credentials(None), &worker("w"), Effort::Once).await.unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with(&format!("502 Bad Gateway: {} …", "x".repeat(195))), "{text}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_told() {
    let (server, error) = failing(Reply::Reset).await;
    let text = server.shown(&error);
    // The point at which the connection breaks is a race.
    assert!(text.contains(": no answer: "), "{text}");
    assert!(!error.refused() && error.may_have_been_done());
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&root_url);
    let error = client.remove_worker(&credentials(None), &worker("w"), Effort::Once).await.unwrap_err();
    assert!(!error.refused() && !error.may_have_been_done());
    assert_eq!(error.status(), None);
    let text = error.to_string().replace(&root_url, "http://tc.example.com");
    insta::assert_snapshot!(text, @"removeWorker failed: DELETE http://tc.example.com/api/worker-manager/v1/workers/demo-provider%2Fdemo-pool/demo-group/w: cannot connect: Connection refused");
}

#[tokio::test]
async fn what_is_lost_on_the_way_is_tried_again() {
    let half = raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
    let server = Server::start([Reply::Reset, half, Reply::json(200, "{}")]).await;
    let client = client(&server.root_url);
    client
        .remove_worker(&credentials(None), &worker("w"), Effort::For(Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_remembered_when_the_next_attempt_is_refused() {
    let refusal =
        r#"{"code": "InputError", "message": "Could not generate credentials for this secret\n\n---\n"}"#;
    let server = Server::start([Reply::Silence, Reply::json(400, refusal)]).await;
    let client = hasty_client(&server.root_url);
    let (credentials, secret) = (credentials(None), SecretString::from("fake"));
    let error =
        client.reregister_worker(&credentials, &worker("w"), &secret, Effort::Forever).await.unwrap_err();
    assert!(error.refused() && error.may_have_been_done());
    assert_eq!((error.status(), error.code()), (Some(400), Some("InputError")));
}

#[tokio::test]
async fn credentials_that_cannot_sign_are_told_and_nothing_is_sent() {
    let server = Server::start([]).await;
    let client = client(&server.root_url);
    let error = client
        .remove_worker(&credentials(Some("not-json-secret")), &worker("w"), Effort::Forever)
        .await
        .unwrap_err();
    assert!(error.refused());
    insta::assert_snapshot!(server.shown(&error), @"removeWorker failed: DELETE http://tc.example.com/api/worker-manager/v1/workers/demo-provider%2Fdemo-pool/demo-group/w: cannot sign with the credentials: certificate is not a JSON object");
}
