//! The worker's side of the protocol: decides which of its messages are valid, and passes them to the supervisor.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use memchr::memmem::{self, Finder};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tracing::{debug, warn};

use super::WorkerEvent;
use super::complaints::{Complaints, Fault};
use super::render::Renderer;
use crate::protocol::capabilities::{Capabilities, Capability};
use crate::protocol::json::{Members, log_members, text};
use crate::protocol::message::{self, AutologinRefused, FromWorker, Malformed, RawMessage};
use crate::protocol::transport::LONGEST_MESSAGE;
use crate::quota::Quota;

/// The prefix of a metric in generic-worker's log records.
const METRICS: &str = "WORKER_METRICS ";

/// The number of bytes of a malformed message to show.
const SHOWN: usize = 1000;

/// The number of error reports a minute that are passed to the supervisor. Further ones are only counted.
const REPORTS_A_MINUTE: usize = 10;

/// A worker that may use the protocol.
#[derive(Debug)]
pub(super) struct Speaker {
    offered: Capabilities,
    /// Only a valid hello counts.
    has_said_hello: bool,
    in_force: Capabilities,
    /// Finds [`METRICS`], if tasks are counted.
    metrics: Option<Finder<'static>>,
    events: PollSender<WorkerEvent>,
    /// Events for which the supervisor's channel has no room yet. Nothing is read from the worker meanwhile, so their
    /// number is limited to what one read can yield.
    late: VecDeque<WorkerEvent>,
    pub(super) complaints: Complaints,
    /// Capabilities that are not in force and for which a warning has been logged once.
    complained: Capabilities,
    reports: Quota,
    /// Requests that only count once: repeating them has no effect.
    asked_for: Capabilities,
}

impl Speaker {
    pub(super) fn new(offered: Capabilities, counts_tasks: bool, events: mpsc::Sender<WorkerEvent>) -> Self {
        Self {
            offered,
            has_said_hello: false,
            in_force: Capabilities::NONE,
            metrics: counts_tasks.then(|| memmem::Finder::new(METRICS)),
            events: PollSender::new(events),
            late: VecDeque::new(),
            complaints: Complaints::new(),
            complained: Capabilities::NONE,
            reports: Quota::new(REPORTS_A_MINUTE, Duration::from_secs(60)),
            asked_for: Capabilities::NONE,
        }
    }

    /// Returns true if this line of stdout was a message, and false if it is output.
    #[inline]
    pub(super) fn hears(&mut self, line: &str, renderer: &mut Renderer) -> bool {
        let first = line.as_bytes().first();
        first.is_some_and(|first| *first == b'~' || first.is_ascii_whitespace())
            && self.hears_message(line, renderer)
    }

    fn hears_message(&mut self, line: &str, renderer: &mut Renderer) -> bool {
        // The fast path: a flood consists of these.
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
            return self.not_in_force(needed, message);
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
                Err(malformed) => self.malformed(&malformed, line),
            },
            Capability::ErrorReport => match message.error_report() {
                Ok(report) => {
                    if let Some(dropped) = self.reports.take(Instant::now()) {
                        self.tell_dropped_reports(dropped);
                        self.tell(WorkerEvent::Message(FromWorker::ErrorReport(report)));
                    }
                }
                Err(malformed) => self.malformed(&malformed, line),
            },
            Capability::Autologin => {
                let request = message.autologin();
                if let Err(malformed) = &request {
                    self.malformed(malformed, line);
                }
                // A malformed request is answered, too.
                let request = request.map_err(AutologinRefused::from);
                self.tell(WorkerEvent::Message(FromWorker::Autologin(request)));
            }
            Capability::Reboot => {
                let reason = message.reboot().unwrap_or_else(|malformed| {
                    self.malformed(&malformed, line);
                    None
                });
                self.ask_once(needed, FromWorker::Reboot { reason });
            }
            _ => self.ask_once(needed, FromWorker::Shutdown),
        }
    }

    /// Handles a hello. The worker's first one counts; another one is a fault, and costs the same whatever it contains.
    /// A malformed hello counts as one without capabilities until a valid one arrives.
    fn hello(&mut self, message: &RawMessage<'_>) {
        if self.has_said_hello {
            if self.complaints.is_logged(Fault::SecondHello) {
                warn!("worker sent a second hello: ignored, its first one stays in force");
            }
            return;
        }
        match message.hello() {
            Ok(said) => {
                self.has_said_hello = true;
                self.in_force = self.offered.and(said);
            }
            Err(_) if !self.complaints.is_logged(Fault::Malformed) => return,
            Err(malformed) => {
                warn!(name: "worker-message-malformed", error = %malformed, "worker's hello is malformed: taken as one without capabilities");
            }
        }
        self.tell(WorkerEvent::Message(FromWorker::Hello { capabilities: self.in_force }));
    }

    /// Logs one warning for each capability. If the message has an answer, the worker receives it.
    fn not_in_force(&mut self, needed: Capability, message: &RawMessage<'_>) {
        let (kind, offered) = (needed.name(), self.offered.has(needed));
        if !self.complained.has(needed) {
            self.complained = self.complained.with(needed);
            if offered {
                warn!(
                    kind,
                    "worker sent a message whose capability is not in force (its hello has not announced it): ignored"
                );
            } else {
                warn!(
                    kind,
                    "worker sent a message whose capability is not in force (it was not offered on this host): ignored"
                );
            }
        } else if self.complaints.is_logged(Fault::NotInForce) {
            debug!(kind, "worker sent a message whose capability is not in force: ignored");
        }
        // A worker that has not said hello does not expect an answer.
        if needed == Capability::Autologin
            && self.has_said_hello
            && let Ok(request) = message.autologin()
        {
            let why = if offered { AutologinRefused::NotAnnounced } else { AutologinRefused::NotOffered };
            self.tell(WorkerEvent::Message(FromWorker::Autologin(Err(why(request)))));
        }
    }

    fn malformed(&mut self, malformed: &Malformed, line: &str) {
        if self.complaints.is_logged(Fault::Malformed) {
            let shown = String::from_utf8_lossy(line.as_bytes().get(..SHOWN).unwrap_or(line.as_bytes()));
            warn!(name: "worker-message-malformed", error = %malformed, message_text = %shown, "worker sent a malformed message: ignored");
        }
    }

    /// Reports a message of this many bytes that was not read.
    pub(super) fn refused(&mut self, size: u64) {
        if self.complaints.is_logged(Fault::TooLong) {
            warn!(
                bytes = size,
                limit = LONGEST_MESSAGE,
                "worker sent a message that is too long: it is not read, the next line is"
            );
        }
    }

    fn tell_dropped_reports(&mut self, count: u64) {
        if count > 0 {
            self.tell(WorkerEvent::ReportsDropped { count });
        }
    }

    fn ask_once(&mut self, capability: Capability, message: FromWorker) {
        if self.asked_for.has(capability) {
            debug!(kind = capability.name(), "worker has sent this message before: ignored");
            return;
        }
        self.asked_for = self.asked_for.with(capability);
        self.tell(WorkerEvent::Message(message));
    }

    fn count_tasks(&mut self, body: &Members<'_>) {
        if let Some(metrics) = &self.metrics
            && let Some(event) = task_event(metrics, body)
        {
            self.tell(event);
        }
    }

    /// Queues an event. It is passed to the supervisor at the end of this turn, or once the channel has room.
    fn tell(&mut self, event: WorkerEvent) {
        self.late.push_back(event);
    }

    /// Returns true if the supervisor's channel has no room for the pending events. The worker has to wait until it
    /// has.
    pub(super) fn waits(&self) -> bool {
        !self.late.is_empty()
    }

    /// Passes on the pending events, as far as the supervisor's channel has room. If it has none, `context` is woken
    /// once it has.
    pub(super) fn hand_over(&mut self, context: &mut Context<'_>) {
        while !self.late.is_empty() {
            match self.events.poll_reserve(context) {
                Poll::Ready(Ok(())) => {
                    if let Some(event) = self.late.pop_front() {
                        // Fails only if the supervisor is gone, as below.
                        let _ = self.events.send_item(event);
                    }
                }
                // The supervisor is gone: the events have no receiver.
                Poll::Ready(Err(_)) => self.late.clear(),
                Poll::Pending => return,
            }
        }
        // Releases the memory of a burst.
        self.late.shrink_to(16);
    }

    /// Sends the final event after everything is read.
    pub(super) fn end(&mut self, last_lines: Vec<String>) {
        self.complaints.tell(None);
        let dropped = self.reports.take_refused();
        self.tell_dropped_reports(dropped);
        self.tell(WorkerEvent::End { last_lines });
    }
}

/// The task event in a record: its `textPayload` contains `WORKER_METRICS {"eventType": "taskStart", …}`.
fn task_event(metrics: &Finder<'_>, Members(body): &Members<'_>) -> Option<WorkerEvent> {
    #[derive(serde::Deserialize)]
    struct Metric {
        #[serde(rename = "eventType")]
        event_type: String,
    }
    let (_, payload) = body.iter().rev().find(|(key, _)| key == "textPayload")?;
    // Searched before unescaping, which costs much more.
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
        let mut context = Context::from_waker(std::task::Waker::noop());
        for event in &told {
            assert!(speaker.waits());
            speaker.hand_over(&mut context);
            assert_eq!(received.try_recv().as_ref(), Ok(event));
        }
        assert!(!speaker.waits());
    }

    #[test]
    fn where_the_supervisor_is_gone_nothing_waits_for_it() {
        let (events, received) = mpsc::channel(1);
        let mut speaker = Speaker::new(Capabilities::NONE, false, events);
        drop(received);
        speaker.tell(WorkerEvent::TaskStarted);
        speaker.hand_over(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(!speaker.waits());
    }
}
