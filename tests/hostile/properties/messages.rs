//! Lines of a worker that may be messages: all readers agree, and rendered output parses again.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;
use start_worker::output::Format;
use start_worker::output::render::{Renderer, Stream};
use start_worker::protocol::capabilities::Capability;
use start_worker::protocol::json::{Members, log_members, text};
use start_worker::protocol::message::{RawMessage, ToWorker, parse};

/// The beginning of every rendered line.
const PREFIX: &str = "1970-01-01T00:00:00.007Z [worker] ";

/// In bytes, as written. A longer type is certainly unknown.
const LONGEST_TYPE: usize = 256;

/// Reads each line.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.split('\n') {
        a_line(line);
        let message = parse(line);
        // The result of a plain JSON parser. It accepts less: no lone surrogates, no deep nesting, no numbers out of
        // range.
        let object = line.trim_ascii().strip_prefix('~').filter(|object| object.starts_with('{'));
        let plain: Option<Value> = object.and_then(|object| serde_json::from_str(object).ok());
        if let Some(kind) = plain.as_ref().and_then(|plain| plain.get("type")?.as_str()) {
            let read = message.as_ref().map(|message| &*message.kind);
            let may_be_too_long = line.len() > LONGEST_TYPE;
            assert!(
                read == Some(kind) || may_be_too_long && read == Some("(a very long string)"),
                "{read:?} of {kind:?}"
            );
        }
        let Some(message) = message else {
            assert!(log_members(line).is_none());
            continue;
        };
        assert!(object.is_some());
        fields(&message, plain.as_ref());
        if let Some(members) = log_members(line) {
            assert_eq!(message.kind, "log");
            let longer: Members<'_> = serde_json::from_str(message.log_body().unwrap().get()).unwrap();
            assert_eq!(shown(&members), shown(&longer));
        }
        if let Ok(body) = message.log_body() {
            a_record(body);
        }
    }
}

fn shown(Members(members): &Members<'_>) -> Vec<(String, String)> {
    members.iter().map(|(key, value)| (key.to_string(), value.get().to_owned())).collect()
}

/// Each field equals the plain parser's, or is an error that describes the problem only in the program's own words.
fn fields(message: &RawMessage<'_>, plain: Option<&Value>) {
    let plain_text = |key: &str| plain.and_then(|plain| plain.get(key)?.as_str().map(str::to_owned));
    match message.hello() {
        Ok(capabilities) => {
            if let Some(names) = plain.and_then(|plain| plain.get("capabilities")?.as_array()) {
                for capability in Capability::ALL.into_iter().filter(|_| names.len() <= 256) {
                    let named = names.iter().any(|name| name == capability.name());
                    assert_eq!(capabilities.has(capability), named);
                }
            }
        }
        Err(malformed) => assert!(malformed.to_string().starts_with("hello: capabilities is ")),
    }
    match message.error_report() {
        Ok(report) => {
            if let Some(plain) = plain {
                assert_kept(plain_text("kind"), &report.kind);
                assert_kept(plain_text("title"), &report.title);
                assert_kept(plain_text("description"), &report.description);
                let extra: Value = serde_json::from_str(&report.extra).unwrap();
                if extra.get("startWorker").is_none() {
                    assert_eq!(plain.get("extra").unwrap_or(&serde_json::json!({})), &extra);
                }
            }
        }
        Err(malformed) => assert!(malformed.to_string().starts_with("error-report: ")),
    }
    match message.reboot() {
        Ok(reason) => {
            let plain_reason = plain_text("reason");
            assert!(plain.is_none() || reason.is_some() == plain_reason.is_some());
            if let (Some(reason), Some(_)) = (reason, plain) {
                assert_kept(plain_reason, &reason);
            }
        }
        Err(malformed) => assert!(malformed.to_string().starts_with("reboot: reason is ")),
    }
}

/// The text, or the beginning of a long one.
fn assert_kept(text: Option<String>, kept: &str) {
    let text = text.expect("a string");
    assert!(text == kept || (text.starts_with(kept) && kept.len() > 8000), "{kept:?} of {text:?}");
}

fn renderer(format: Format) -> Renderer {
    let mut renderer = Renderer::new(format, Arc::default());
    renderer.set_time(Timestamp::from_millisecond(7).unwrap());
    renderer
}

/// One whole line, JSON.
fn json_line(renderer: &Renderer) -> Vec<(String, String)> {
    let (newline, line) = renderer.out.split_last().unwrap();
    assert!(*newline == b'\n' && !line.contains(&b'\n'));
    let members: Members<'_> = serde_json::from_slice(line).unwrap();
    shown(&members)
}

/// A line of output, as a line of the log and as a value of a message to a worker.
fn a_line(line: &str) {
    let mut json = renderer(Format::Json);
    json.line(Stream::Stdout, line);
    let members = json_line(&json);
    let (key, message) = members.last().unwrap();
    assert_eq!(key, "message");
    assert_eq!(serde_json::from_str::<String>(message).unwrap(), line);
    let mut as_text = renderer(Format::Text);
    as_text.line(Stream::Stdout, line);
    assert_eq!(String::from_utf8(as_text.out).unwrap(), format!("{PREFIX}{line}\n"));
    for part in [json.out, {
        let mut json = renderer(Format::Json);
        json.part(Stream::Stderr, line.as_bytes().get(1..).unwrap_or_default(), false, true);
        json.out
    }] {
        serde_json::from_slice::<Value>(&part).unwrap();
    }
    let credentials = ToWorker::NewCredentials {
        client_id: line.to_owned(),
        access_token: line.into(),
        certificate: Some(line.into()),
    };
    let encoded = String::from_utf8(credentials.encode()).unwrap();
    assert_eq!(encoded.matches('\n').count(), 1);
    let message = parse(&encoded).unwrap();
    assert_eq!(message.kind, "new-credentials");
    for key in ["client-id", "access-token", "certificate"] {
        assert_eq!(text(message.member(key).unwrap()).unwrap(), line);
    }
}

/// A record: JSON stays what it was, text has a tag on each of its lines.
fn a_record(body: &RawValue) {
    let mut json = renderer(Format::Json);
    json.record(body);
    let members = json_line(&json);
    assert_eq!(members.last(), Some(&("body".to_owned(), body.get().to_owned())));
    let mut as_text = renderer(Format::Text);
    as_text.record(body);
    let out = String::from_utf8(as_text.out).unwrap();
    for line in out.strip_suffix('\n').unwrap().split('\n') {
        assert!(line.starts_with(PREFIX), "{line:?}");
    }
    if let Ok(mut members) = serde_json::from_str(body.get()) {
        let mut at_once = renderer(Format::Text);
        at_once.members(&mut members);
        assert_eq!(String::from_utf8(at_once.out).unwrap(), out);
    }
}
