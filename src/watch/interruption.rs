//! Converts the cloud's interruption and maintenance notices to events.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::event::{Cause, Event, Strength};
use crate::provider::interruption::{Kind, Notice, Watcher};
use crate::telemetry::counters::Label;
use crate::telemetry::status_board::StatusPublisher;

/// Time limit for telling the cloud that its machine is ready.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// The parameters for handling notices.
pub struct Interruptions {
    pub watcher: Watcher,
    /// A machine with more time than this finishes its tasks.
    pub finish_tasks_if_over: Option<Duration>,
    pub clock: Arc<dyn Clock>,
    /// Publishes the cloud's answers.
    pub publisher: StatusPublisher,
    /// Sends events to the supervisor.
    pub events: mpsc::Sender<Event>,
    /// Cancelled once the worker is gone and will not restart.
    pub gone: CancellationToken,
}

impl Interruptions {
    /// Watches until the worker is gone, then acknowledges the notice to the cloud if that is enabled.
    pub async fn watch(mut self) {
        self.listen();
        loop {
            let notice = tokio::select! {
                biased;
                () = self.gone.cancelled() => break,
                notice = self.watcher.next() => notice,
            };
            let event = self.event(&notice);
            self.publisher.counters().notices.count([notice.source.into(), label(&notice.action)]);
            self.publisher.publish_notice(notice.to_string());
            warn!(name: "interruption-notice",
                source = notice.source,
                action = notice.action,
                ends = notice.ends,
                deadline = notice.deadline.map_or_else(|| "unknown".to_owned(), |time| format!("{time:.0}")),
                "the cloud gives notice"
            );
            if self.events.send(event).await.is_err() {
                break;
            }
        }
        // Best effort: the machine is about to end.
        let _ = tokio::time::timeout(ACKNOWLEDGE, self.watcher.acknowledge()).await;
    }

    /// Counts each poll, and publishes the last result.
    fn listen(&mut self) {
        let (publisher, cloud) = (self.publisher.clone(), self.watcher.cloud());
        publisher.publish_interruption_watch(cloud);
        self.watcher.set_hears(Box::new(move |result| {
            publisher.counters().polls.count([cloud, if result.is_ok() { "ok" } else { "failed" }]);
            publisher.publish_poll(result);
        }));
    }

    fn event(&self, notice: &Notice) -> Event {
        let left = notice.deadline.map(|deadline| deadline.duration_since(self.clock.now()));
        let within = left.map(|left| Duration::try_from(left).unwrap_or_default()).or(notice.time_left);
        let finish = match (notice.kind, within, self.finish_tasks_if_over) {
            (Kind::Rebalance | Kind::Maintenance, ..) => true,
            (Kind::Interruption, Some(within), Some(limit)) => within > limit,
            (Kind::Interruption, ..) => false,
        };
        let cause = match notice.kind {
            Kind::Rebalance => Cause::Rebalance,
            Kind::Interruption | Kind::Maintenance => Cause::Interruption { ends: notice.ends },
        };
        Event::Interrupted { strength: if finish { Strength::Drain } else { Strength::Stop }, cause, within }
    }
}

/// Converts the action to a label with few possible values. (The log contains the cloud's own words.)
fn label(action: &str) -> Label {
    const KNOWN: [&str; 9] = [
        "terminate",
        "stop",
        "hibernate",
        "rebalance",
        "preempt",
        "Preempt",
        "Terminate",
        "Reboot",
        "Redeploy",
    ];
    Label::from(KNOWN.into_iter().find(|known| *known == action).unwrap_or("other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_cloud_says_makes_no_new_label() {
        for (action, expected) in [("terminate", "terminate"), ("Redeploy", "Redeploy"), ("a novel", "other")]
        {
            assert_eq!(label(action), expected);
        }
    }
}
