//! EC2's notices: the end of a spot instance, a rebalance recommendation, maintenance.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tracing::{info, trace, warn};

use super::{Failing, Kind, Notice};
use crate::provider::ProviderError;
use crate::provider::metadata::{Failure, MetadataOrigins, SOON, Service};
use crate::provider::spot::{INSTANCE_ACTION, Spot, TERMINATION_TIME};

const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const MAINTENANCE: &str = "/latest/meta-data/events/maintenance/scheduled";

/// The notice is given two minutes before a spot instance ends.
const SPOT_EVERY: Duration = Duration::from_secs(5);
const REBALANCE_EVERY: Duration = Duration::from_secs(30);
const MAINTENANCE_EVERY: Duration = Duration::from_secs(300);

/// Watches an EC2 instance.
pub(super) struct Watcher {
    service: Service,
    polls: Vec<Poll>,
    pub(super) failing: Failing,
    /// The last value of [`INSTANCE_ACTION`].
    action: Option<Spot>,
    /// The last value of [`TERMINATION_TIME`].
    termination: Option<Spot>,
    rebalance: Option<String>,
    maintenance: BTreeSet<String>,
}

/// A path that is polled at intervals.
struct Poll {
    path: &'static str,
    every: Duration,
    due: Instant,
}

impl Watcher {
    pub(super) fn new(
        origins: &MetadataOrigins,
        without_sessions: bool,
        rebalance: bool,
    ) -> Result<Self, ProviderError> {
        let mut paths = vec![
            (INSTANCE_ACTION, SPOT_EVERY),
            (TERMINATION_TIME, SPOT_EVERY),
            (MAINTENANCE, MAINTENANCE_EVERY),
        ];
        if rebalance {
            paths.push((REBALANCE, REBALANCE_EVERY));
        }
        let due = Instant::now();
        Ok(Self {
            service: Service::ec2(origins, without_sessions)?,
            polls: paths.into_iter().map(|(path, every)| Poll { path, every, due }).collect(),
            failing: Failing::default(),
            action: None,
            termination: None,
            rebalance: None,
            maintenance: BTreeSet::new(),
        })
    }

    pub(super) async fn next(&mut self) -> Notice {
        loop {
            let earliest = self.polls.iter().min_by_key(|poll| poll.due).map(|poll| (poll.path, poll.due));
            let Some((path, due)) = earliest else { return std::future::pending().await };
            sleep_until(due).await;
            let asked = Instant::now();
            let answer = match self.service.get(path, SOON).await {
                Ok(answer) => Ok(Some(answer.text)),
                Err(Failure::Absent) => Ok(None),
                Err(failure) => Err(failure),
            };
            for poll in self.polls.iter_mut().filter(|poll| poll.path == path) {
                poll.due = asked + poll.every;
            }
            trace!(path, ?answer, "polled for interruptions");
            match answer.and_then(|text| self.take(path, text.as_deref())) {
                Ok(notice) => {
                    self.failing.answered(path);
                    if let Some(notice) = notice {
                        return notice;
                    }
                }
                Err(failure) => self.failing.failed(path, &self.service.url(path), &failure),
            }
        }
    }

    fn take(&mut self, path: &str, text: Option<&str>) -> Result<Option<Notice>, Failure> {
        match path {
            INSTANCE_ACTION => {
                let spot = text.map(|text| Spot::from_instance_action(text).ok_or(Failure::Garbage));
                Ok(self.spot(spot.transpose()?, INSTANCE_ACTION))
            }
            TERMINATION_TIME => Ok(self.spot(text.and_then(Spot::from_termination_time), TERMINATION_TIME)),
            REBALANCE => self.rebalance(text),
            _ => self.maintenance(text).map(|()| None),
        }
    }

    /// Handles a change in one of the two equivalent paths. A notice from one path is not repeated for the other.
    fn spot(&mut self, now: Option<Spot>, path: &str) -> Option<Notice> {
        let (this, other) = match path {
            INSTANCE_ACTION => (&mut self.action, &self.termination),
            _ => (&mut self.termination, &self.action),
        };
        if *this == now {
            return None;
        }
        let before = std::mem::replace(this, now);
        let Some(spot) = this else {
            if other.is_none() {
                let action = before.map(|spot| spot.action);
                info!(name: "interruption-withdrawn", action, "EC2 has withdrawn its notice of an interruption");
            }
            return None;
        };
        (Some(&*spot) != other.as_ref()).then(|| Notice {
            source: "EC2 spot",
            action: spot.action.clone(),
            deadline: spot.time,
            time_left: None,
            ends: spot.ends(),
            kind: Kind::Interruption,
        })
    }

    /// `{"noticeTime": …}`
    fn rebalance(&mut self, text: Option<&str>) -> Result<Option<Notice>, Failure> {
        let notice_time = |text: &str| {
            let value: Value = serde_json::from_str(text).ok()?;
            Some(value.get("noticeTime")?.as_str()?.to_owned())
        };
        let now = text.map(|text| notice_time(text).ok_or(Failure::Garbage)).transpose()?;
        if now.is_none() || now == self.rebalance {
            return Ok(None);
        }
        self.rebalance = now;
        Ok(Some(Notice {
            source: "EC2 rebalance recommendation",
            action: "rebalance".to_owned(),
            deadline: None,
            time_left: None,
            ends: true,
            kind: Kind::Rebalance,
        }))
    }

    /// Reads `[{"EventId", "Code", "NotBefore", "Description", "State"}]` and logs a warning for each new event.
    fn maintenance(&mut self, text: Option<&str>) -> Result<(), Failure> {
        let events: Vec<Value> = serde_json::from_str(text.unwrap_or("[]")).map_err(|_| Failure::Garbage)?;
        let word =
            |event: &Value, key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let active =
            events.iter().filter(|event| !matches!(word(event, "State").as_str(), "completed" | "canceled"));
        let mut now = BTreeSet::new();
        for event in active {
            let [id, code, not_before, description] =
                ["EventId", "Code", "NotBefore", "Description"].map(|key| word(event, key));
            let event = format!("{id} {code} {not_before}");
            if !self.maintenance.contains(&event) {
                warn!(id, code, not_before, description, "EC2 has scheduled maintenance for this instance");
            }
            now.insert(event);
        }
        self.maintenance = now;
        Ok(())
    }
}
