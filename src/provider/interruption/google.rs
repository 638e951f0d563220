//! GCE's preemption: one value, waited for with a hanging GET, so that the notice comes at once.
//! <https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange>

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep_until};
use tracing::{info, trace};

use super::{Failing, Kind, Notice, PREEMPTED};
use crate::provider::ProviderError;
use crate::provider::metadata::{Answer, Failure, MetadataOrigins, SOON, Service};

/// A hanging GET. That it fails is not made good by an answer at once.
const WAITING: &str = "wait_for_change";

/// How long the service is asked to wait, in seconds.
const WAIT: u32 = 60;
/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(75);
/// After a failure. A hanging GET that fails at once must not become a tight loop.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long an instance has from the notice of its preemption.
/// <https://cloud.google.com/compute/docs/instances/preemptible#preemption-process>
const NOTICE: Duration = Duration::from_secs(30);
/// Between two hanging GETs. One that waits for a change takes longer; one that is answered at once must not become a tight
/// loop, whether its answers change or not.
const AT_LEAST: Duration = Duration::from_secs(5);

/// Watches a GCE instance.
pub(super) struct Watcher {
    service: Service,
    due: Instant,
    pub(super) failing: Failing,
    /// The version that is known; `None`: ask without waiting.
    etag: Option<String>,
    preempted: bool,
}

impl Watcher {
    pub(super) fn new(origins: &MetadataOrigins) -> Result<Self, ProviderError> {
        Ok(Self {
            service: Service::gce(origins)?,
            due: Instant::now(),
            failing: Failing::default(),
            etag: None,
            preempted: false,
        })
    }

    pub(super) async fn next(&mut self) -> Notice {
        loop {
            sleep_until(self.due).await;
            let asked = Instant::now();
            let call = if self.etag.is_some() { WAITING } else { PREEMPTED };
            let answer = match &self.etag {
                None => self.service.get(PREEMPTED, SOON).await,
                Some(etag) => {
                    let etag = utf8_percent_encode(etag, NON_ALPHANUMERIC);
                    let path =
                        format!("{PREEMPTED}?wait_for_change=true&timeout_sec={WAIT}&last_etag={etag}");
                    self.service.get(&path, LIMIT).await
                }
            };
            trace!(?answer, "polled for interruptions");
            match answer.and_then(|answer| self.take(answer, asked)) {
                Ok(notice) => {
                    self.failing.answered(call);
                    if let Some(notice) = notice {
                        return notice;
                    }
                }
                Err(failure) => {
                    self.failing.failed(call, &self.service.url(PREEMPTED), &failure);
                    self.etag = None;
                    self.due = Instant::now() + AFTER_FAILURE;
                }
            }
        }
    }

    fn take(&mut self, answer: Answer, asked: Instant) -> Result<Option<Notice>, Failure> {
        let preempted = match answer.text.trim() {
            "TRUE" => true,
            "FALSE" => false,
            _ => return Err(Failure::Garbage),
        };
        let known = std::mem::replace(&mut self.etag, answer.etag);
        let changed = preempted != self.preempted;
        if self.etag.is_none() {
            // Nothing to wait for a change of.
            self.due = asked + AFTER_FAILURE;
        } else if known.is_some() {
            self.due = asked + AT_LEAST;
        }
        self.preempted = preempted;
        if changed && !preempted {
            info!("GCE has withdrawn its notice of a preemption");
        }
        Ok((changed && preempted).then(|| Notice {
            source: "GCE preemption",
            action: "preempt".to_owned(),
            deadline: None,
            time_left: Some(NOTICE),
            ends: true,
            kind: Kind::Interruption,
        }))
    }
}
