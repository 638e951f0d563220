//! Requests at the status socket: one of four, or one short line that says why not.

use serde_json::Value;
use start_worker::telemetry::status::request::Request;

/// Maximum length of an answer, in bytes.
const LONGEST: usize = 2000;

/// Reads one request.
pub fn check(data: &[u8]) {
    match Request::parse(data) {
        Ok(request) => {
            let value: Value = serde_json::from_slice(data).unwrap();
            let flag = |name| value.get(name).and_then(Value::as_bool).unwrap_or_default();
            let kind = match request {
                Request::Status { watch } => {
                    assert_eq!(flag("watch"), watch);
                    "status"
                }
                Request::Drain { wait, once, .. } => {
                    assert_eq!((flag("wait"), flag("once")), (wait, once));
                    "drain"
                }
                Request::Hold { .. } => "hold",
                Request::Resume {} => "resume",
                Request::LogLevel { level, seconds } => {
                    assert_eq!(value["level"], level);
                    assert_eq!(value["seconds"], seconds);
                    "log-level"
                }
            };
            assert_eq!(value["request"], kind);
        }
        Err(answer) => {
            let line = answer.line();
            let (newline, json) = line.split_last().unwrap();
            assert!(*newline == b'\n' && !json.contains(&b'\n'));
            assert!(line.len() <= LONGEST, "{} bytes", line.len());
            let value: Value = serde_json::from_slice(json).unwrap();
            assert!(value["error"].as_str().unwrap().starts_with("not a request: "));
        }
    }
}
