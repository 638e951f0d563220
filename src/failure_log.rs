//! The record of failed runs, which outlives the runner and the boot: how many there were in a row, when the last one
//! was, and which causes have been reported.
//!
//! It is a file in the state directory, else beside the cache. Where there is neither, the record lasts as long as the
//! process. A file that cannot be read, understood or written is one warning: it never keeps a worker from being started.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::clock::Clock;
use crate::error_chain::ErrorChain;
use crate::event::RunFailure;
use crate::host::atomic::{self, Attributes};
use crate::host::blocking::Lane;
use crate::host::{boot_time, private_file};
use crate::retry::FailureBackoff;

/// The file's name in the state directory, or after the cache's own name.
const NAME: &str = "failures.json";

/// Time limit of its disk.
const TIME: Duration = Duration::from_secs(10);

/// More bytes than a record has.
const LONGEST: u64 = 64 * 1024;

/// Each cause is reported once in this time.
const REPORT_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// The number of causes that are remembered.
const CAUSES: usize = 16;

/// Returns the path of the record; see [`private_file::place`].
pub fn place(state_directory: Option<&Path>, cache: Option<&Path>) -> Option<PathBuf> {
    private_file::place(NAME, state_directory, cache)
}

/// A point in time, by clocks that do not fail together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moment {
    /// The wall clock.
    #[serde(serialize_with = "write_date", deserialize_with = "read_date")]
    at: Timestamp,
    /// The kernel's name for the boot.
    boot_id: Option<String>,
    /// The time since the boot, in milliseconds.
    since_boot: u64,
}

fn write_date<S: serde::Serializer>(date: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(date)
}

fn read_date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Moment {
    fn now(clock: &dyn Clock) -> Self {
        let since_boot = u64::try_from(boot_time::since_boot().as_millis()).unwrap_or(u64::MAX);
        Self { at: clock.now(), boot_id: boot_time::boot_id(), since_boot }
    }

    /// The time since an earlier moment. Within a boot the wall clock does not count, because it can jump. Over boots, the
    /// time since the boot has certainly passed, whatever the wall clock says.
    fn since(&self, earlier: &Self) -> Duration {
        if self.boot_id.is_some() && self.boot_id == earlier.boot_id {
            return Duration::from_millis(self.since_boot.saturating_sub(earlier.since_boot));
        }
        let by_wall_clock = Duration::try_from(self.at.duration_since(earlier.at)).unwrap_or_default();
        by_wall_clock.max(Duration::from_millis(self.since_boot))
    }
}

/// The record on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    /// Failed runs in a row.
    failed_runs: u32,
    last: Option<Last>,
    /// The least pause after the last of them, in milliseconds: a quarantine.
    least_pause: u64,
    /// The causes that worker-manager has been told, and when.
    reports: Vec<Report>,
}

/// The last failed run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    failure: String,
    #[serde(flatten)]
    when: Moment,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    cause: String,
    #[serde(flatten)]
    when: Moment,
}

impl Record {
    fn pause(&self, backoff: FailureBackoff, now: &Moment) -> Option<Pause> {
        let last = self.last.as_ref().filter(|_| self.failed_runs > 0)?;
        let pause = backoff.pause(self.failed_runs).max(Duration::from_millis(self.least_pause));
        let left = pause.saturating_sub(now.since(&last.when));
        let known = RunFailure::ALL.into_iter().find(|failure| failure.name() == last.failure);
        let last = known.unwrap_or(RunFailure::Crash);
        (!left.is_zero()).then_some(Pause { left, failed_runs: self.failed_runs, last })
    }

    /// Returns true if this cause has not been reported for a day, and notes that it is now.
    fn reports(&mut self, cause: &str, now: &Moment) -> bool {
        self.reports.retain(|report| now.since(&report.when) < REPORT_AGAIN);
        if self.reports.iter().any(|report| report.cause == cause) {
            return false;
        }
        if self.reports.len() >= CAUSES {
            self.reports.remove(0);
        }
        self.reports.push(Report { cause: cause.to_owned(), when: now.clone() });
        true
    }
}

/// The pause that is left before the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Its rest.
    pub left: Duration,
    /// Failed runs in a row.
    pub failed_runs: u32,
    /// The last of them.
    pub last: RunFailure,
}

/// The record of failed runs. Clones share one record.
#[derive(Debug, Clone)]
pub struct FailureLog(Arc<Shared>);

struct Shared {
    /// `None`: the record lasts as long as the process.
    path: Option<PathBuf>,
    lane: Lane,
    clock: Arc<dyn Clock>,
    record: Mutex<Record>,
    warned: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

impl FailureLog {
    /// Reads the record at `path`; `None`: the record begins empty and is not written.
    pub async fn open(path: Option<PathBuf>, lane: Lane, clock: Arc<dyn Clock>) -> Self {
        let record = match &path {
            Some(path) => read(path, &lane).await,
            None => Record::default(),
        };
        let record = Mutex::new(record);
        Self(Arc::new(Shared { path, lane, clock, record, warned: AtomicBool::new(false) }))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of failed runs in a row.
    pub fn failed_runs(&self) -> u32 {
        self.record().failed_runs
    }

    /// Returns the pause that is left before the next start; `None`: there is none.
    pub fn pause(&self, backoff: FailureBackoff) -> Option<Pause> {
        self.record().pause(backoff, &Moment::now(&*self.0.clock))
    }

    /// Notes a failed run, which is the last of this many in a row.
    pub async fn failed(&self, failed_runs: u32, failure: RunFailure) {
        let when = Moment::now(&*self.0.clock);
        {
            let mut record = self.record();
            record.failed_runs = failed_runs;
            record.last = Some(Last { failure: failure.name().to_owned(), when });
            record.least_pause = 0;
        }
        self.write().await;
    }

    /// The pause after the last failed run lasts this long at least.
    pub async fn pause_for(&self, time: Duration) {
        self.record().least_pause = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.write().await;
    }

    /// An operator does not want to wait for the pause to end. The failed runs still count.
    pub async fn skip_pause(&self) {
        {
            let mut record = self.record();
            record.last = None;
            record.least_pause = 0;
        }
        self.write().await;
    }

    /// Notes that a run did not fail.
    pub async fn forget(&self) {
        {
            let mut record = self.record();
            record.failed_runs = 0;
            record.last = None;
            record.least_pause = 0;
        }
        self.write().await;
    }

    /// Returns true if worker-manager is to be told this cause: once a day. [`FailureLog::write`] must follow.
    pub fn reports(&self, cause: &str) -> bool {
        let now = Moment::now(&*self.0.clock);
        self.record().reports(cause, &now)
    }

    /// Writes the record as it is then.
    pub async fn write(&self) {
        let Some(path) = self.0.path.clone() else { return };
        let log = self.clone();
        let written = self.0.lane.at(&path, TIME, move || log.write_now()).await;
        let cause = match written {
            Ok(Ok(())) => return,
            Ok(Err(cause)) => cause,
            Err(cause) => cause.to_string(),
        };
        if !self.0.warned.swap(true, Ordering::Relaxed) {
            warn!(
                path = %path.display(), error = cause,
                "cannot write the record of failed runs: the next start of start-worker does not pause for them"
            );
        }
    }

    /// Writes the newest record, whatever it was when the write was requested: an earlier write never replaces a later one.
    fn write_now(&self) -> Result<(), String> {
        let Some(path) = &self.0.path else { return Ok(()) };
        let text = serde_json::to_string_pretty(&*self.record()).map_err(|cause| cause.to_string())? + "\n";
        atomic::replace(path, text.as_bytes(), Attributes { mode: 0o600, owner: None }, 0o700)
            .map_err(|cause| ErrorChain(&cause).to_string())
    }
}

async fn read(path: &Path, lane: &Lane) -> Record {
    let file = path.to_owned();
    let read = move || private_file::read(&file, private_file::Access::Refuse, LONGEST);
    let cause = match lane.at(path, TIME, read).await {
        Ok(Ok(contents)) => match serde_json::from_slice(&contents.bytes) {
            Ok(record) => return record,
            Err(cause) => format!("{}: {cause}", path.display()),
        },
        Ok(Err(cause)) if cause.kind() == private_file::ErrorKind::Missing => return Record::default(),
        Ok(Err(cause)) => cause.to_string(),
        Err(cause) => cause.to_string(),
    };
    warn!(
        error = cause,
        "cannot use the record of failed runs: starting as if there were none; remove the file if this repeats"
    );
    Record::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const BACKOFF: FailureBackoff =
        FailureBackoff { initial: Duration::from_secs(30), max: Duration::from_secs(1800) };

    fn moment(boot: &str, wall: i64, since_boot: u64) -> Moment {
        Moment {
            at: Timestamp::from_second(wall).unwrap(),
            boot_id: Some(boot.to_owned()),
            since_boot: since_boot * 1000,
        }
    }

    fn failed(failed_runs: u32, when: Moment) -> Record {
        Record { failed_runs, last: Some(Last { failure: "unfit".to_owned(), when }), ..Record::default() }
    }

    fn left(record: &Record, now: &Moment) -> u64 {
        record.pause(BACKOFF, now).map_or(0, |pause| pause.left.as_secs())
    }

    #[test]
    fn the_pause_counts_from_the_failure_and_not_from_the_start() {
        let record = failed(2, moment("a", 1000, 50));
        for (passed, expected) in [(0, 120), (30, 90), (119, 1), (120, 0), (5000, 0)] {
            let now = moment("a", 1000 + i64::try_from(passed).unwrap(), 50 + passed);
            assert_eq!(left(&record, &now), expected, "{passed}");
        }
    }

    #[test]
    fn a_clock_that_jumps_changes_no_pause_within_a_boot_and_makes_none_longer_over_boots() {
        let record = failed(3, moment("a", 1_000_000, 50));
        for wall in [0, 1_000_000, 9_000_000] {
            assert_eq!(left(&record, &moment("a", wall, 80)), 450, "{wall}");
        }
        assert_eq!(left(&record, &moment("b", 0, 20)), 460, "set back");
        assert_eq!(left(&record, &moment("b", 1_000_100, 20)), 380);
        assert_eq!(left(&record, &moment("b", 9_000_000, 20)), 0, "set forward");
        assert_eq!(left(&failed(u32::MAX, moment("a", 9_000_000, 50)), &moment("b", 0, 0)), 1800);
        let unknown = Moment { boot_id: None, ..moment("", 1_000_000, 50) };
        assert_eq!(left(&failed(1, unknown.clone()), &unknown), 0, "the boot is longer ago than the pause");
    }

    /// A worker that fails at once, whose failures are counted: over an hour, with a service manager that starts the runner
    /// again after `between`, in the same boot or the next.
    fn starts(between: u64, reboots: bool) -> Vec<u64> {
        let (mut now, mut record, mut starts) = (0, Record::default(), Vec::new());
        while now < 3600 {
            let boots = if reboots { starts.len() } else { 0 };
            let at = |now: u64| {
                let since_boot = if reboots { 0 } else { now };
                moment(&boots.to_string(), 1_000_000 + i64::try_from(now).unwrap(), since_boot)
            };
            now += left(&record, &at(now));
            starts.push(now);
            record = failed(record.failed_runs + 1, at(now));
            now += between;
        }
        starts
    }

    #[test]
    fn a_worker_that_fails_at_once_is_started_three_times_in_five_minutes_and_twelve_times_in_an_hour() {
        for between in [0, 1, 30, 100] {
            for reboots in [false, true] {
                let starts = starts(between, reboots);
                let first = starts.iter().filter(|start| **start < 300).count();
                let hour = starts.iter().filter(|start| **start < 3600).count();
                assert!(first <= 3 && (5..=12).contains(&hour), "{between} {reboots} {starts:?}");
            }
        }
    }

    #[test]
    fn a_cause_is_reported_once_a_day() {
        let mut record = Record::default();
        let at = |seconds: u64| moment("a", i64::try_from(seconds).unwrap(), seconds);
        assert!(record.reports("exit code 64", &at(0)));
        assert!(!record.reports("exit code 64", &at(86_399)));
        assert!(record.reports("exit code 69", &at(86_399)));
        assert!(record.reports("exit code 64", &at(86_400)));
        for cause in 0..1000 {
            record.reports(&cause.to_string(), &at(86_400));
        }
        assert_eq!(record.reports.len(), CAUSES);
    }

    #[tokio::test]
    async fn the_record_is_there_for_the_next_process_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(Some(folder.path()), None).unwrap();
        let open = || FailureLog::open(Some(path.clone()), Lane::default(), Arc::new(SystemClock));
        let log = open().await;
        assert_eq!(log.pause(BACKOFF), None);
        assert!(!path.exists(), "nothing was noted");
        log.failed(2, RunFailure::Unfit).await;
        let pause = open().await.pause(BACKOFF).unwrap();
        assert_eq!((pause.failed_runs, pause.last), (2, RunFailure::Unfit));
        assert!(pause.left <= Duration::from_secs(120) && pause.left > Duration::from_secs(60), "{pause:?}");
        log.forget().await;
        assert_eq!(open().await.pause(BACKOFF), None);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_used_is_as_none() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failures.json");
        let whole = serde_json::to_string(&failed(3, Moment::now(&SystemClock))).unwrap();
        for (text, mode, failed_runs) in [
            (whole.as_str(), 0o600, 3),
            (whole.as_str(), 0o666, 0),
            ("", 0o600, 0),
            ("{\"failedRuns\": -1}", 0o600, 0),
            ("[[[[[[", 0o600, 0),
            ("{}", 0o600, 0),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let log = FailureLog::open(Some(path.clone()), Lane::default(), Arc::new(SystemClock)).await;
            assert_eq!(log.failed_runs(), failed_runs, "{text} {mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let log = FailureLog::open(Some(path), Lane::default(), Arc::new(SystemClock)).await;
        log.failed(1, RunFailure::Start).await;
        assert_eq!(log.failed_runs(), 1, "it lasts as long as the process");
    }

    #[test]
    fn the_state_directory_is_preferred_to_the_cache() {
        let (state, cache) = (Path::new("/var/lib/start-worker"), Path::new("/etc/cache.json"));
        assert_eq!(place(Some(state), Some(cache)), Some("/var/lib/start-worker/failures.json".into()));
        assert_eq!(place(None, Some(cache)), Some("/etc/cache.json.failures.json".into()));
        assert_eq!(place(None, None), None);
    }
}
