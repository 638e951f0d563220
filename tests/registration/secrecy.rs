//! Secrets that others repeat, in every form and in every place that the runner writes to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use test_support::fake_taskcluster::{Fault, Times};

use crate::harness::{Runner, Scene, eventually};
use crate::registration::site::{AT_ONCE, STATIC_SECRET, Site, file, line, stop};

/// The contents of a pool's secret.
const POOL_SECRET: &str = "hush \"pool/secret\" & 50% mörē";

/// The content of a file that comes with the pool's secret.
const IN_A_FILE: &str = "c2VlZC1vZi1hbi1lZDI1NTE5LWtleQ-in-a-file";

/// The ways to write a secret, each form as one word or a few.
#[expect(clippy::format_collect, reason = "short texts")]
fn forms(secret: &str) -> Vec<String> {
    let json = |text: &str| Value::from(text).to_string().trim_matches('"').to_owned();
    let each = |write: fn(u8) -> String| secret.bytes().map(write).collect::<String>();
    vec![
        secret.to_owned(),
        json(secret),
        json(&json(secret)),
        json(secret).replace('/', "\\/"),
        secret.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        secret.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect(),
        format!("{secret:?}"),
        each(|byte| format!("%{byte:02x}")),
        each(|byte| format!("%{byte:02X}")),
        secret.replace(' ', "+"),
        each(|byte| format!("{byte:02x}")),
        each(|byte| format!("{byte:02x}:")),
        format!("{:?}", secret.as_bytes()),
        BASE64_STANDARD.encode(secret),
        BASE64_URL_SAFE_NO_PAD.encode(secret),
        BASE64_STANDARD.encode(format!("a{secret}b")),
        BASE64_STANDARD.encode(format!("ab{secret}c")),
    ]
}

/// All forms of all secrets, in one line.
fn planted(secrets: &[String]) -> String {
    secrets.iter().flat_map(|secret| forms(secret)).collect::<Vec<_>>().join(" | ")
}

/// Asserts that none of the secrets appears in the text, neither plain nor as in JSON. Of a secret that may be joined
/// to other words, the inner part is checked.
fn assert_none(place: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        for form in forms(secret) {
            let inner = &form[form.len() / 4..form.len() - form.len() / 4];
            let inner = if form.is_ascii() { inner } else { form.as_str() };
            let quoted = Value::from(inner).to_string();
            for seen in [inner, quoted.trim_matches('"')] {
                assert!(!text.contains(seen), "{seen} of {secret} is in {place}: {text}");
            }
        }
    }
}

/// A runner of which everything is seen.
struct Seen {
    runner: Runner,
    socket: PathBuf,
    manager: UnixDatagram,
}

impl Seen {
    fn start(site: &Site, scene: Scene, log: &str) -> Self {
        let (socket, notify) = (site.path("status.sock"), site.path("notify"));
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_nonblocking(true).unwrap();
        let runner = scene
            .set("status.socket", socket.to_str().unwrap())
            .set("metrics.listen", "127.0.0.1:0")
            .set("logging.implementation", log)
            .env("NOTIFY_SOCKET", notify.to_str().unwrap())
            .start();
        Self { runner, socket, manager }
    }

    fn over_http(&self, path: &str) -> String {
        let log = self.runner.log();
        let (_, rest) = log.split_once("serving /metrics and /healthz").expect(&log);
        let (_, rest) = rest.split_once("127.0.0.1:").unwrap();
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn status(&self) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(AT_ONCE)).unwrap();
        stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    /// The messages to the service manager.
    fn told(&self) -> String {
        let (mut told, mut buffer) = (String::new(), [0; 8192]);
        while let Ok(size) = self.manager.recv(&mut buffer) {
            told.push_str(&String::from_utf8_lossy(&buffer[..size]));
        }
        told
    }

    /// Nowhere is one of these; where they were put instead, a mask is, sooner or later.
    fn assert_discreet(&self, secrets: &[String], masked_in: &[&str]) {
        let mut told = String::new();
        let seen = |place: &str, told: &mut String| match place {
            "the status" => self.status(),
            "/healthz" => self.over_http("/healthz"),
            "/metrics" => self.over_http("/metrics"),
            "the log" => self.runner.log(),
            _ => {
                told.push_str(&self.told());
                told.clone()
            }
        };
        for place in ["the status", "/healthz", "/metrics", "what the service manager was told", "the log"] {
            let shows_mask = || seen(place, &mut told).contains("(masked)").then_some(());
            let masked = !masked_in.contains(&place) || eventually(shows_mask).is_some();
            let text = seen(place, &mut told);
            assert_none(place, &text, secrets);
            assert!(masked, "nothing was repeated in {place}: {text}");
        }
    }
}

/// A server that repeats what it has been sent.
fn repeating(secrets: &[String]) -> Fault {
    let body = json!({"code": "InternalServerError", "message": planted(secrets)});
    Fault::answer(503, "application/json", &body.to_string())
}

#[test]
fn a_start_that_is_refused_with_its_own_secret_shows_it_nowhere() {
    for log in ["stdio", "json"] {
        let (site, secrets) = (Site::new(), [STATIC_SECRET.to_owned()]);
        site.taskcluster.fail("registerWorker", Times::UntilCleared, repeating(&secrets));
        let seen = Seen::start(&site, site.scene(), log);
        site.wait_for("registerWorker", 2);
        seen.runner.wait_for_log("a call to Taskcluster fails");
        seen.assert_discreet(
            &secrets,
            &["the status", "/healthz", "what the service manager was told", "the log"],
        );
        seen.runner.signal(Signal::SIGTERM);
        assert_none("the log", &seen.runner.ended().log, &secrets);
    }
}

#[test]
fn what_was_handed_over_at_the_start_is_shown_nowhere_when_it_is_repeated() {
    for log in ["stdio", "json"] {
        let site = Site::with_life(20);
        let hangs = site.taskcluster.fail("reregisterWorker", Times::Only(1), Fault::Hang);
        site.set_pool_secret(&json!({"config": {"key": POOL_SECRET}}));
        let seen = Seen::start(&site, site.cached_scene().set("getSecrets", true), log);
        seen.runner.wait_for_start(1);
        site.wait_for("reregisterWorker", 1);
        let cache = site.cache();
        let text = |pointer: &str| cache.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let certificate: Value = serde_json::from_str(&text("/Credentials/certificate")).unwrap();
        let part = |name: &str| certificate[name].as_str().unwrap().to_owned();
        let secrets = [
            text("/Credentials/accessToken"),
            text("/RegistrationSecret"),
            part("signature"),
            part("seed"),
            POOL_SECRET.to_owned(),
            STATIC_SECRET.to_owned(),
        ];
        for secret in &secrets {
            site.taskcluster.fail(
                "reregisterWorker",
                Times::Only(1),
                repeating(std::slice::from_ref(secret)),
            );
        }
        site.taskcluster.clear_fault(hangs);
        seen.runner.wait_for_log("a call to Taskcluster fails");
        seen.assert_discreet(&secrets, &["the log"]);
        seen.runner.signal(Signal::SIGTERM);
        assert_none("the log", &seen.runner.ended().log, &secrets);
    }
}

#[test]
fn a_workers_report_has_no_secret_in_its_values_keys_and_kind() {
    let site = Site::new();
    let key = file(&site.text_path("key"), "a key", format!("{IN_A_FILE}\n").as_bytes(), "file");
    site.set_pool_secret(&json!({"config": {"key": POOL_SECRET}, "files": [key]}));
    let secrets = [STATIC_SECRET.to_owned(), POOL_SECRET.to_owned(), IN_A_FILE.to_owned()];
    let extra = json!({planted(&secrets): {planted(&secrets): [planted(&secrets)]}});
    let message = json!({
        "type": "error-report", "kind": planted(&secrets), "title": planted(&secrets),
        "description": format!("{}{}", "x".repeat(10_200), planted(&secrets)), "extra": extra,
    });
    let report = format!("send {message}");
    let scene = site.scene().set("getSecrets", true).worker(["on now: exit 0", "hello all", &report, "wait"]);
    let runner = scene.start();
    site.wait_for("reportWorkerError", 1);
    runner.wait_for_log("reported to worker-manager");
    let log = stop(&runner).log;
    let told = site.taskcluster.reported_errors();
    assert_none("the report", &told[0].to_string(), &secrets);
    assert_none("the log", &log, &secrets);
    for field in ["kind", "title", "description"] {
        assert!(told[0][field].as_str().unwrap().contains("(masked)") || field == "title", "{told:?}");
    }
    let description = told[0]["description"].as_str().unwrap();
    let (_, end) = description.rsplit_once('x').unwrap();
    let whole = end.replace("(masked)", "").replace("\n… (cut)", "");
    assert!(!whole.contains(['(', ')']), "a mask is cut: {end}");
}

#[test]
fn the_last_line_says_why_a_file_cannot_be_written_and_says_it_once() {
    let site = Site::new();
    let files = [file("/proc/no-such-directory/file", "a file", b"content", "file")];
    site.set_pool_secret(&json!({"config": {}, "files": files}));
    let ended = site.scene().set("getSecrets", true).start().ended();
    let said = line(&ended.log, "start-worker ends:");
    assert!(said.contains("cannot write the file"), "{said}");
    assert_eq!(said.matches("(os error ").count(), 1, "{said}");
}
