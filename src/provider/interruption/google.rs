//! GCE's preemption and host maintenance: two values, each awaited with a hanging GET, so that the notice arrives at
//! once. <https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange>

use std::pin::Pin;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, sleep_until};
use tracing::{info, trace};

use super::{Failing, Hears, Kind, Notice, PREEMPTED};
use crate::provider::ProviderError;
use crate::provider::google::MACHINE_TYPE;
use crate::provider::metadata::{Answer, Failure, MetadataOrigins, SOON, Service};

/// The name of the hanging GET. An immediate answer to a normal GET does not make up for its failure.
const WAITING: &str = "wait_for_change";

/// The time that the service is asked to wait, in seconds.
const WAIT: u32 = 60;
/// Time limit of a hanging GET.
const LIMIT: Duration = Duration::from_secs(75);
/// The wait after a failure: a hanging GET that fails at once must not become a tight loop.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// The time from the notice of a preemption to the instance's end.
/// <https://cloud.google.com/compute/docs/instances/preemptible#preemption-process>
const NOTICE: Duration = Duration::from_secs(30);
/// The minimum interval between two hanging GETs. One that waits for a change takes longer; one that is answered at
/// once must not become a tight loop, whether its answers change or not.
const AT_LEAST: Duration = Duration::from_secs(5);

/// The time from the notice of host maintenance to its beginning, for an instance with GPUs and for any other.
/// <https://cloud.google.com/compute/docs/gpus/gpu-host-maintenance>
const MAINTENANCE_NOTICE: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));
/// Interval at which a value is requested that the service does not have.
const ABSENT: Duration = Duration::from_secs(300);

const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";
/// The name of the hanging GET for maintenance.
const WAITING_FOR_MAINTENANCE: &str = "maintenance-event wait_for_change";
/// `TRUE`: an instance that was stopped for host maintenance is started again.
const AUTOMATIC_RESTART: &str = "/computeMetadata/v1/instance/scheduling/automatic-restart";
/// The families of machine types that come with GPUs.
const GPU_FAMILIES: [&str; 5] = ["a2-", "a3-", "a4-", "a4x-", "g"];
/// NVIDIA's PCI vendor id, for machines with attached GPUs.
const NVIDIA: &str = "0x10de";

pub(super) struct Watcher {
    preemption: Asked,
    maintenance: Asked,
    failing: Failing,
}

/// A pending request for a value, and its result.
type Asked = Pin<Box<dyn Future<Output = (Value, News)> + Send>>;

/// The name of a call, and the notice in its answer.
type News = (&'static str, Result<Option<Notice>, Failure>);

/// A value of the metadata service that is watched.
struct Value {
    service: Service,
    path: &'static str,
    /// The name of the hanging GET, whose failures are tracked separately.
    waiting: &'static str,
    due: Instant,
    /// The known version; `None`: request the value without waiting.
    etag: Option<String>,
    text: String,
}

impl Watcher {
    pub(super) fn new(origins: &MetadataOrigins) -> Result<Self, ProviderError> {
        let preemption = Value::new(origins, PREEMPTED, WAITING, "FALSE")?;
        let mut maintenance = Value::new(origins, MAINTENANCE, WAITING_FOR_MAINTENANCE, "NONE")?;
        // Maintenance is announced at least a minute in advance, so the preemption is requested first.
        maintenance.due += AFTER_FAILURE;
        Ok(Self {
            preemption: Box::pin(preemption.news()),
            maintenance: Box::pin(maintenance.news()),
            failing: Failing::default(),
        })
    }

    pub(super) fn set_hears(&mut self, hears: Hears) {
        self.failing.hears = Some(hears);
    }

    pub(super) async fn next(&mut self) -> Notice {
        loop {
            let (value, (call, news)) = tokio::select! {
                news = &mut self.preemption => news,
                news = &mut self.maintenance => news,
            };
            let notice = match news {
                Ok(notice) => {
                    self.failing.answered(call);
                    notice
                }
                Err(failure) => {
                    self.failing.failed(call, &value.service.url(value.path), &failure);
                    None
                }
            };
            match value.path {
                PREEMPTED => self.preemption = Box::pin(value.news()),
                _ => self.maintenance = Box::pin(value.news()),
            }
            if let Some(notice) = notice {
                return notice;
            }
        }
    }
}

impl Value {
    async fn maintenance_notice(&mut self, event: &str) -> Option<Notice> {
        if event != "TERMINATE_ON_HOST_MAINTENANCE" {
            info!(event, "GCE maintains this machine's host: the machine goes on");
            return None;
        }
        let service = &mut self.service;
        let machine_type =
            service.get(MACHINE_TYPE, SOON).await.map(|answer| answer.text).unwrap_or_default();
        let restarts = service.get(AUTOMATIC_RESTART, SOON).await;
        let gpus = has_gpus(&machine_type) || has_nvidia_device();
        let (with_gpus, without) = MAINTENANCE_NOTICE;
        Some(Notice {
            source: "GCE host maintenance",
            action: "terminate".to_owned(),
            deadline: None,
            time_left: Some(if gpus { with_gpus } else { without }),
            ends: !restarts.is_ok_and(|answer| answer.text.trim() == "TRUE"),
            kind: if gpus { Kind::Maintenance } else { Kind::Interruption },
        })
    }

    fn new(
        origins: &MetadataOrigins,
        path: &'static str,
        waiting: &'static str,
        usual: &str,
    ) -> Result<Self, ProviderError> {
        let service = Service::gce(origins)?;
        Ok(Self { service, path, waiting, due: Instant::now(), etag: None, text: usual.to_owned() })
    }

    /// Waits for the next answer.
    async fn news(mut self) -> (Self, News) {
        let (call, text) = self.ask().await;
        let notice = match text {
            Ok(Some(text)) if self.path == PREEMPTED => Ok(preemption(&text)),
            Ok(Some(text)) => Ok(self.maintenance_notice(&text).await),
            Ok(None) => Ok(None),
            Err(failure) => Err(failure),
        };
        (self, (call, notice))
    }

    /// Makes one request. Returns the name of the call, and the value if it has changed.
    async fn ask(&mut self) -> (&'static str, Result<Option<String>, Failure>) {
        sleep_until(self.due).await;
        let asked = Instant::now();
        let call = if self.etag.is_some() { self.waiting } else { self.path };
        let answer = match &self.etag {
            None => self.service.get(self.path, SOON).await,
            Some(etag) => {
                let etag = utf8_percent_encode(etag, NON_ALPHANUMERIC);
                let path = format!("{}?wait_for_change=true&timeout_sec={WAIT}&last_etag={etag}", self.path);
                self.service.get(&path, LIMIT).await
            }
        };
        trace!(?answer, "polled for interruptions");
        match answer.and_then(|answer| self.take(answer, asked)) {
            Ok(news) => (call, Ok(news)),
            Err(Failure::Absent) if self.path == MAINTENANCE => {
                self.etag = None;
                self.due = Instant::now() + ABSENT;
                (call, Ok(None))
            }
            Err(failure) => {
                self.etag = None;
                self.due = Instant::now() + AFTER_FAILURE;
                (call, Err(failure))
            }
        }
    }

    fn take(&mut self, answer: Answer, asked: Instant) -> Result<Option<String>, Failure> {
        let text = answer.text.trim();
        let known_value = match self.path {
            PREEMPTED => matches!(text, "TRUE" | "FALSE"),
            _ => matches!(text, "NONE" | "MIGRATE_ON_HOST_MAINTENANCE" | "TERMINATE_ON_HOST_MAINTENANCE"),
        };
        if !known_value {
            return Err(Failure::Garbage);
        }
        let known = std::mem::replace(&mut self.etag, answer.etag);
        let changed = text != self.text;
        if self.etag.is_none() {
            // The value does not exist, so a change cannot be awaited.
            self.due = asked + AFTER_FAILURE;
        } else if known.is_some() {
            self.due = asked + AT_LEAST;
        }
        if !changed {
            return Ok(None);
        }
        text.clone_into(&mut self.text);
        match text {
            "FALSE" => info!(name: "interruption-withdrawn", "GCE has withdrawn its notice of a preemption"),
            "NONE" => info!("the maintenance of this machine's host is over, or withdrawn"),
            _ => return Ok(Some(self.text.clone())),
        }
        Ok(None)
    }
}

fn preemption(text: &str) -> Option<Notice> {
    (text == "TRUE").then(|| Notice {
        source: "GCE preemption",
        action: "preempt".to_owned(),
        deadline: None,
        time_left: Some(NOTICE),
        ends: true,
        kind: Kind::Interruption,
    })
}

/// Reads the family in `projects/1234/machineTypes/a2-highgpu-1g`.
fn has_gpus(machine_type: &str) -> bool {
    let name = machine_type.trim().rsplit('/').next().unwrap_or_default();
    GPU_FAMILIES.iter().any(|family| match name.strip_prefix(family) {
        Some(_) if family.ends_with('-') => true,
        // `g2-standard-4`, `g4-…`
        Some(rest) => rest.starts_with(|first: char| first.is_ascii_digit()),
        None => false,
    })
}

fn has_nvidia_device() -> bool {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let vendor = |device: std::fs::DirEntry| std::fs::read_to_string(device.path().join("vendor"));
    devices.map(vendor).any(|vendor| vendor.is_ok_and(|vendor| vendor.trim() == NVIDIA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_type_tells_of_gpus() {
        for (name, gpus) in [
            ("projects/1/machineTypes/a2-highgpu-1g", true),
            ("projects/1/machineTypes/g2-standard-4", true),
            ("a3-megagpu-8g", true),
            ("n2-standard-4", false),
            ("projects/1/machineTypes/custom-g", false),
            ("", false),
        ] {
            assert_eq!(has_gpus(name), gpus, "{name}");
        }
    }
}
