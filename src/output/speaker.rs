//! The worker as a speaker of the protocol: which of its messages count, and what the supervisor learns of them.

use std::collections::VecDeque;

use memchr::memmem::{self, Finder};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, warn};

use super::WorkerEvent;
use super::render::Renderer;
use crate::protocol::capabilities::{Capabilities, Capability};
use crate::protocol::json::{Members, log_members, text};
use crate::protocol::message::{self, FromWorker, Malformed, RawMessage};

/// What generic-worker writes before a metric, in its log records.
const METRICS: &str = "WORKER_METRICS ";

/// How much of a malformed message is shown, in bytes.
const SHOWN: usize = 1000;

/// A worker that may speak.
#[derive(Debug)]
pub(super) struct Speaker {
    offered: Capabilities,
    in_force: Capabilities,
    /// Finds [`METRICS`], where they count.
    metrics: Option<Finder<'static>>,
    events: mpsc::Sender<WorkerEvent>,
    /// What the supervisor had no room for, until the block in which it was said is written. There is as much as fits
    /// into one read.
    late: VecDeque<WorkerEvent>,
}

impl Speaker {
    pub(super) fn new(offered: Capabilities, counts_tasks: bool, events: mpsc::Sender<WorkerEvent>) -> Self {
        let metrics = counts_tasks.then(|| memmem::Finder::new(METRICS));
        Self { offered, in_force: Capabilities::NONE, metrics, events, late: VecDeque::new() }
    }

    /// Whether this line of its stdout was a message; if not, it is output.
    #[inline]
    pub(super) fn hears(&mut self, line: &str, renderer: &mut Renderer) -> bool {
        let first = line.as_bytes().first();
        first.is_some_and(|first| *first == b'~' || first.is_ascii_whitespace())
            && self.hears_message(line, renderer)
    }

    fn hears_message(&mut self, line: &str, renderer: &mut Renderer) -> bool {
        // A flood consists of these.
        if self.in_force.has(Capability::Log)
            && renderer.takes_members()
            && let Some(mut members) = log_members(line)
        {
            self.count_tasks(&members);
            renderer.members(&mut members);
            return true;
        }
        let message = message::parse(line);
        if let Some(message) = &message {
            self.heard(message, line, renderer);
        }
        message.is_some()
    }

    fn heard(&mut self, message: &RawMessage<'_>, line: &str, renderer: &mut Renderer) {
        let needed = match &*message.kind {
            "log" => Capability::Log,
            "autologin" => Capability::Autologin,
            "hello" => return self.hello(message),
            "error-report" => Capability::ErrorReport,
            "reboot" => Capability::Reboot,
            "shutdown" => Capability::Shutdown,
            other => return debug!(kind = other, "worker sent a message of an unknown type: ignored"),
        };
        if !self.in_force.has(needed) {
            debug!(kind = &*message.kind, "worker sent a message whose capability is not in force: ignored");
            return;
        }
        match needed {
            Capability::Log => match message.log_body() {
                Ok(body) => {
                    let found = |metrics: &Finder<'_>| metrics.find(body.get().as_bytes()).is_some();
                    if self.metrics.as_ref().is_some_and(found)
                        && let Ok(members) = serde_json::from_str(body.get())
                    {
                        self.count_tasks(&members);
                    }
                    renderer.record(body);
                }
                Err(malformed) => malformed_message(&malformed, line),
            },
            Capability::ErrorReport => match message.error_report() {
                Ok(report) => self.tell(WorkerEvent::Message(FromWorker::ErrorReport(report))),
                Err(malformed) => malformed_message(&malformed, line),
            },
            Capability::Autologin => {
                let request = message.autologin();
                if let Err(malformed) = &request {
                    malformed_message(malformed, line);
                }
                // It is answered all the same.
                self.tell(WorkerEvent::Message(FromWorker::Autologin(request)));
            }
            Capability::Reboot => {
                let reason = message.reboot().unwrap_or_else(|malformed| {
                    malformed_message(&malformed, line);
                    None
                });
                self.tell(WorkerEvent::Message(FromWorker::Reboot { reason }));
            }
            _ => self.tell(WorkerEvent::Message(FromWorker::Shutdown)),
        }
    }

    fn hello(&mut self, message: &RawMessage<'_>) {
        let said = message.hello().unwrap_or_else(|malformed| {
            warn!(error = %malformed, "worker's hello is malformed: taken as one without capabilities");
            Capabilities::NONE
        });
        self.in_force = self.offered.and(said);
        self.tell(WorkerEvent::Message(FromWorker::Hello { capabilities: self.in_force }));
    }

    fn count_tasks(&mut self, body: &Members<'_>) {
        if let Some(metrics) = &self.metrics
            && let Some(event) = task_event(metrics, body)
        {
            self.tell(event);
        }
    }

    fn tell(&mut self, event: WorkerEvent) {
        if !self.late.is_empty() {
            return self.late.push_back(event);
        }
        // Where the supervisor is gone, nobody wants to know.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            self.late.push_back(event);
        }
    }

    /// Hands over what there was no room for. Blocks until there is.
    pub(super) fn tell_late(&mut self) {
        while let Some(event) = self.late.pop_front() {
            let _ = self.events.blocking_send(event);
        }
    }

    pub(super) fn tell_end(self, last_lines: Vec<String>) {
        let _ = self.events.blocking_send(WorkerEvent::End { last_lines });
    }
}

fn malformed_message(malformed: &Malformed, line: &str) {
    let shown = String::from_utf8_lossy(line.as_bytes().get(..SHOWN).unwrap_or(line.as_bytes()));
    warn!(error = %malformed, message_text = %shown, "worker sent a malformed message: ignored");
}

/// What a record says of a task: its `textPayload` holds `WORKER_METRICS {"eventType": "taskStart", …}`.
fn task_event(metrics: &Finder<'_>, Members(body): &Members<'_>) -> Option<WorkerEvent> {
    #[derive(serde::Deserialize)]
    struct Metric {
        #[serde(rename = "eventType")]
        event_type: String,
    }
    let (_, payload) = body.iter().rev().find(|(key, _)| key == "textPayload")?;
    // Before the escapes are undone, which costs much more.
    metrics.find(payload.get().as_bytes())?;
    let text = text(payload)?;
    let at = metrics.find(text.as_bytes())? + METRICS.len();
    let mut metrics = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<Metric>();
    match metrics.next()?.ok()?.event_type.as_str() {
        "taskStart" => Some(WorkerEvent::TaskStarted),
        "taskFinish" => Some(WorkerEvent::TaskFinished),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &str) -> Option<WorkerEvent> {
        task_event(&Finder::new(METRICS), &serde_json::from_str(body).unwrap())
    }

    #[test]
    fn metrics_tell_of_tasks() {
        let body = r#"{"textPayload":"WORKER_METRICS {\"eventType\":\"taskStart\",\"taskId\":\"x\"}"}"#;
        assert_eq!(event(body), Some(WorkerEvent::TaskStarted));
        let body = r#"{"textPayload":"2026/11/23 WORKER_METRICS {\"taskId\":\"x\", \"eventType\":\"taskFinish\"}\n"}"#;
        assert_eq!(event(body), Some(WorkerEvent::TaskFinished));
        for other in [
            r#"{"textPayload":"WORKER_METRICS {\"eventType\":\"workerReady\"}"}"#,
            r#"{"textPayload":"WORKER_METRICS "}"#,
            r#"{"textPayload":"WORKER_METRICS {"}"#,
            r#"{"text":"WORKER_METRICS {\"eventType\":\"taskStart\"}"}"#,
            r#"{"textPayload":1}"#,
        ] {
            assert_eq!(event(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_supervisor_has_no_room_for_waits_in_order() {
        let (events, mut received) = mpsc::channel(1);
        let mut speaker = Speaker::new(Capabilities::NONE, false, events);
        let told = [WorkerEvent::TaskStarted, WorkerEvent::TaskFinished, WorkerEvent::TaskStarted];
        for event in &told {
            speaker.tell(event.clone());
        }
        assert_eq!(speaker.late.len(), 2);
        let receiving =
            std::thread::spawn(move || std::array::from_fn(|_| received.blocking_recv().unwrap()));
        speaker.tell_late();
        assert_eq!(receiving.join().unwrap(), told);
    }
}
