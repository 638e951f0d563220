//! Azure's scheduled events for this machine.
//! <https://learn.microsoft.com/en-us/azure/virtual-machines/linux/scheduled-events>

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, trace, warn};

use super::{Failing, Kind, Notice};
use crate::clock::Date;
use crate::provider::ProviderError;
use crate::provider::metadata::{Failure, MetadataOrigins, SIGNED, SOON, Service};

pub(super) const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";

/// A preemption is announced 30 s in advance.
const EVERY: Duration = Duration::from_secs(1);
/// The first call enables scheduled events for the machine, which takes up to two minutes.
const FIRST: Duration = Duration::from_secs(150);
/// The number of attempts at an acknowledgement.
const ACKNOWLEDGEMENTS: u32 = 3;

/// Reads `Mon, 19 Sep 2016 18:29:47 GMT`.
const RFC_1123: DateTimeParser = DateTimeParser::new();

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    document_incarnation: i64,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "EventId")]
    id: String,
    /// `Freeze`, `Reboot`, `Redeploy`, `Preempt`, `Terminate`.
    #[serde(rename = "EventType")]
    action: String,
    #[serde(rename = "EventStatus", default)]
    status: String,
    /// The machines' names.
    #[serde(rename = "Resources", default)]
    resources: Vec<String>,
    /// Empty once the event has begun.
    #[serde(rename = "NotBefore", default)]
    not_before: String,
}

/// An event of which a notice was given.
struct Told {
    action: String,
    /// The event affects no other machine.
    ours_alone: bool,
}

pub(super) struct Watcher {
    service: Service,
    may_acknowledge: bool,
    due: Instant,
    answered: bool,
    pub(super) failing: Failing,
    events: Events,
}

/// The state of one machine's scheduled events. Pure.
pub struct Events {
    /// The machine's name, as in `Resources`.
    machine: String,
    incarnation: Option<i64>,
    /// By event id.
    told: BTreeMap<String, Told>,
    /// Notices found in a document and not returned yet.
    found: Vec<Notice>,
}

impl Watcher {
    pub(super) fn new(
        origins: &MetadataOrigins,
        machine: &str,
        may_acknowledge: bool,
    ) -> Result<Self, ProviderError> {
        Ok(Self {
            service: Service::azure(origins)?,
            may_acknowledge,
            due: Instant::now(),
            answered: false,
            failing: Failing::default(),
            events: Events::new(machine),
        })
    }

    pub(super) async fn next(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.events.next_notice() {
                return notice;
            }
            sleep_until(self.due).await;
            let asked = Instant::now();
            // One call at a time: a slow one only delays the next.
            let answer = self.service.get(EVENTS, if self.answered { SOON } else { FIRST }).await;
            self.due = asked + EVERY;
            trace!(?answer, "polled for interruptions");
            let read = answer.and_then(|answer| self.events.read(&answer.text).map_err(|_| Failure::Garbage));
            match read {
                Ok(()) => {
                    self.answered = true;
                    self.failing.answered(EVENTS);
                }
                Err(failure) => self.failing.failed(EVENTS, &self.service.url(EVENTS), &failure),
            }
        }
    }

    /// Approves the known events that affect only this machine, so that they begin now.
    pub(super) async fn acknowledge(&mut self) {
        if !self.may_acknowledge {
            return;
        }
        let ids: Vec<&str> =
            self.events.told.iter().filter(|(_, told)| told.ours_alone).map(|(id, _)| id.as_str()).collect();
        if ids.is_empty() {
            return;
        }
        let start: Vec<_> = ids.iter().map(|id| json!({ "EventId": id })).collect();
        let body = json!({ "StartRequests": start }).to_string();
        let ids = ids.join(", ");
        for attempt in 1..=ACKNOWLEDGEMENTS {
            match self.service.post(EVENTS, body.clone(), SIGNED).await {
                Ok(()) => return info!(events = ids, "scheduled events acknowledged"),
                Err(failure) if attempt == ACKNOWLEDGEMENTS => {
                    warn!(events = ids, error = %failure, "scheduled events could not be acknowledged: they will take their time");
                }
                Err(_) => sleep(EVERY).await,
            }
        }
    }
}

impl Events {
    /// Creates the initial state for the machine of this name.
    pub fn new(machine: &str) -> Self {
        Self { machine: machine.to_owned(), incarnation: None, told: BTreeMap::new(), found: Vec::new() }
    }

    /// Reads a document. A document that was read before yields no new notice.
    pub fn read(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let document: Document = serde_json::from_str(text)?;
        if self.incarnation != Some(document.document_incarnation) {
            self.incarnation = Some(document.document_incarnation);
            self.take(document.events);
        }
        Ok(())
    }

    /// Takes the next notice.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.found.pop()
    }

    fn take(&mut self, events: Vec<Event>) {
        let ours = |name: &String| name.eq_ignore_ascii_case(&self.machine);
        let over = |event: &Event| matches!(event.status.as_str(), "Completed" | "Canceled");
        let events: Vec<Event> =
            events.into_iter().filter(|event| event.resources.iter().any(ours) && !over(event)).collect();
        self.told.retain(|id, told| {
            let still = events.iter().any(|event| event.id == *id);
            if !still {
                info!(name: "interruption-withdrawn",
                    event = id,
                    action = told.action,
                    "Azure has cancelled a scheduled event, or it is over"
                );
            }
            still
        });
        for event in events {
            // A notice was given before, or the event occurs twice.
            if self.told.contains_key(&event.id) {
                continue;
            }
            let ends = match event.action.as_str() {
                "Preempt" | "Terminate" => true,
                "Reboot" | "Redeploy" => false,
                other => {
                    debug!(event = event.id, action = other, "a scheduled event that stops nothing");
                    continue;
                }
            };
            let notice = Notice {
                source: "Azure scheduled event",
                action: event.action.clone(),
                deadline: deadline(&event.not_before),
                time_left: None,
                ends,
                kind: Kind::Interruption,
            };
            self.found.insert(0, notice);
            let ours_alone = event.resources.len() == 1;
            self.told.insert(event.id, Told { action: event.action, ours_alone });
        }
    }
}

/// `None`: the event has begun, or the time is invalid.
fn deadline(not_before: &str) -> Option<Timestamp> {
    if not_before.is_empty() {
        return None;
    }
    let time = RFC_1123.parse_timestamp(not_before).ok();
    let time = time.or_else(|| Date::parse_http(not_before).map(Date::or_last));
    if time.is_none() {
        debug!(not_before, "a scheduled event's time cannot be read");
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_one_document_has_twice_is_told_once() {
        let event = r#"{"EventId":"e","EventType":"Preempt","Resources":["VM-1"],"NotBefore":""}"#;
        let mut events = Events::new("vm-1");
        events.read(&format!(r#"{{"DocumentIncarnation":1,"Events":[{event},{event}]}}"#)).unwrap();
        assert_eq!(events.next_notice().unwrap().action, "Preempt");
        assert_eq!(events.next_notice(), None);
    }

    #[test]
    fn an_events_time_is_in_the_form_of_http() {
        let time = deadline("Mon, 19 Sep 2016 18:29:47 GMT").unwrap();
        assert_eq!(time.to_string(), "2016-09-19T18:29:47Z");
        assert_eq!(deadline("Fri, 31 Dec 9999 23:59:59 GMT"), Some(Timestamp::MAX));
        for text in ["", "soon", "2016-09-19T18:29:47Z"] {
            assert_eq!(deadline(text), None, "{text}");
        }
    }
}
