//! The runner's metrics in Prometheus's format. Names, types and meanings are in [`METRICS`], from which
//! docs/monitoring.md repeats them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use crate::event::{ExitClass, Phase, Reason};
use crate::telemetry::View;
use crate::telemetry::counters::{BOUNDS, Label, Spread};
use crate::telemetry::status_board::{StatusBoard, TaskResult};

/// The content type of the text format.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the runner lives.
    Counter,
    /// The current value.
    Gauge,
    /// A distribution of values.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name, which includes the unit.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

pub const METRICS: &[Metric] = &[
    BUILD,
    WORKER,
    START_TIME,
    HEALTHY,
    STATE,
    STATE_TIME,
    HELD,
    HELD_TIME,
    RESTARTS,
    EXITS,
    CRASHES,
    FAILED_RUNS,
    TASKS_RUNNING,
    TASKS,
    EXPIRY,
    RENEWAL,
    RENEWALS,
    REQUESTS,
    REQUEST_TIMES,
    POLLS,
    NOTICES,
    OOM_KILLS,
    LINES,
    BYTES,
    LAST_OUTPUT,
    MESSAGES,
    DROPPED,
    LOST,
    CLOCK,
];

const BUILD: Metric =
    metric("start_worker_build_info", Kind::Gauge, &["version"], "Always 1; the version of start-worker.");
const WORKER: Metric = metric(
    "start_worker_worker_info",
    Kind::Gauge,
    &["provider_type", "implementation", "worker_pool_id", "worker_group", "worker_id"],
    "Always 1; who the worker is, as far as that is known.",
);
const START_TIME: Metric = metric(
    "start_worker_start_time_seconds",
    Kind::Gauge,
    &[],
    "When start-worker started, in seconds since the epoch.",
);
const HEALTHY: Metric =
    metric("start_worker_healthy", Kind::Gauge, &[], "1 where the state is as it should be, else 0.");
const STATE: Metric =
    metric("start_worker_state", Kind::Gauge, &["state"], "1 for the state it is in, 0 for all others.");
const STATE_TIME: Metric = metric(
    "start_worker_state_start_time_seconds",
    Kind::Gauge,
    &[],
    "Since when it is in this state, in seconds since the epoch.",
);
const HELD: Metric = metric(
    "start_worker_held",
    Kind::Gauge,
    &["by", "reason"],
    "1 where an operator holds this host, and no other worker is started; absent where none does.",
);
const HELD_TIME: Metric = metric(
    "start_worker_held_timestamp_seconds",
    Kind::Gauge,
    &[],
    "Since when this host is held, in seconds since the epoch; absent where it is not.",
);
const RESTARTS: Metric = metric(
    "start_worker_worker_restarts_total",
    Kind::Counter,
    &[],
    "How often the worker was started after the first time.",
);
const EXITS: Metric = metric(
    "start_worker_worker_exits_total",
    Kind::Counter,
    &["meaning"],
    "Exits of the worker, by what they mean.",
);
const CRASHES: Metric = metric(
    "start_worker_worker_crashes",
    Kind::Gauge,
    &[],
    "Crashes of the worker that count against supervision.maxRestarts.",
);
const TASKS_RUNNING: Metric = metric(
    "start_worker_tasks_running",
    Kind::Gauge,
    &[],
    "Tasks that the worker runs now; absent where it does not tell of its tasks.",
);
const TASKS: Metric = metric(
    "start_worker_tasks_total",
    Kind::Counter,
    &["result"],
    "Tasks that have ended, by result: finished, lost (the worker ended while they ran); absent where it does not tell of its tasks.",
);
const FAILED_RUNS: Metric = metric(
    "start_worker_failed_runs",
    Kind::Gauge,
    &["last"],
    "Failed runs in a row, by the kind of the last one, while the next start is paused because of them; else absent.",
);
const EXPIRY: Metric = metric(
    "start_worker_credentials_expiry_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When the worker's credentials end, in seconds since the epoch; absent where they do not.",
);
const RENEWAL: Metric = metric(
    "start_worker_credentials_renewal_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When they are renewed next, in seconds since the epoch; absent where they are not.",
);
const RENEWALS: Metric = metric(
    "start_worker_credentials_renewals_total",
    Kind::Counter,
    &["result"],
    "Renewals of the worker's credentials, by result: ok, refused, failed.",
);
const REQUESTS: Metric = metric(
    "start_worker_api_requests_total",
    Kind::Counter,
    &["call", "status"],
    "Requests to Taskcluster, by call and HTTP status; none: no answer came.",
);
const REQUEST_TIMES: Metric = metric(
    "start_worker_api_request_duration_seconds",
    Kind::Histogram,
    &["call"],
    "How long requests to Taskcluster took, by call.",
);
const POLLS: Metric = metric(
    "start_worker_polls_total",
    Kind::Counter,
    &["source", "result"],
    "Polls for new deployments (by call) and interruptions (by cloud), by result: ok, refused, failed.",
);
const NOTICES: Metric = metric(
    "start_worker_interruptions_total",
    Kind::Counter,
    &["source", "action"],
    "Notices of interruptions, by who gave them and what was to happen.",
);
const LINES: Metric = metric(
    "start_worker_worker_output_lines_total",
    Kind::Counter,
    &[],
    "Lines that the worker has written, protocol messages included.",
);
const BYTES: Metric = metric(
    "start_worker_worker_output_bytes_total",
    Kind::Counter,
    &[],
    "Bytes that the worker has written.",
);
const LAST_OUTPUT: Metric = metric(
    "start_worker_worker_last_output_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When the worker last wrote something, in seconds since the epoch; absent before that.",
);
const OOM_KILLS: Metric = metric(
    "start_worker_worker_oom_kills_total",
    Kind::Counter,
    &[],
    "Processes that the kernel killed for lack of memory while the worker ran, as counted at its exits.",
);
const MESSAGES: Metric = metric(
    "start_worker_log_messages_total",
    Kind::Counter,
    &["level"],
    "Warnings and errors in start-worker's own log.",
);
const DROPPED: Metric = metric(
    "start_worker_log_dropped_lines_total",
    Kind::Counter,
    &[],
    "Lines of start-worker's own log that were dropped because nobody took them.",
);
const LOST: Metric = metric(
    "start_worker_log_lost_bytes_total",
    Kind::Counter,
    &[],
    "Bytes of the log that could not be written.",
);
/// The age at which an answer of Taskcluster's no longer counts for the clock's offset.
const CLOCK_KNOWN: Duration = Duration::from_secs(3600);

const CLOCK: Metric = metric(
    "start_worker_clock_offset_seconds",
    Kind::Gauge,
    &[],
    "How far Taskcluster's clock was ahead of the host's at its last answer; absent before that, and an hour after it.",
);

/// Formats all metrics as text.
pub(super) fn text(view: &View, now: Timestamp) -> Result<String, prometheus::Error> {
    let healthy = view.health(now).is_ok();
    let mut families = of_board(&view.board.borrow(), healthy);
    families.insert(0, family(BUILD, [(vec![env!("CARGO_PKG_VERSION").into()], 1.0)]));
    families.insert(1, family(WORKER, [(worker(view), 1.0)]));
    families.extend(of_hold(view));
    families.extend(of_counters(view));
    families.extend(of_log(view));
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
}

fn worker(view: &View) -> Vec<Label> {
    let board = view.board.borrow();
    let identity = board.worker.as_ref().map(|worker| &worker.identity);
    let known = identity.map_or_else(Default::default, |identity| {
        [identity.worker_pool_id.to_string(), identity.worker_group.clone(), identity.worker_id.clone()]
    });
    let fixed = [view.provider.into(), view.implementation.into()];
    fixed.into_iter().chain(known.into_iter().map(Label::from)).collect()
}

fn seconds(time: Timestamp) -> f64 {
    time.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

fn of_board(board: &StatusBoard, healthy: bool) -> Vec<MetricFamily> {
    let phase = board.summary.phase;
    let states = Phase::ALL
        .map(|state| (vec![state.name().replace(' ', "_").into()], f64::from(u8::from(state == phase))));
    vec![
        one(START_TIME, seconds(board.started)),
        one(HEALTHY, f64::from(u8::from(healthy))),
        family(STATE, states),
        one(STATE_TIME, seconds(board.since)),
        one(CRASHES, f64::from(board.runs.crashes.count)),
        family(FAILED_RUNS, failed_runs(board.summary.reason)),
        family(TASKS_RUNNING, board.tasks.map(|tasks| (Vec::new(), f64::from(tasks.running)))),
        family(EXPIRY, board.credentials_expire.map(|time| (Vec::new(), seconds(time)))),
        family(RENEWAL, board.credentials_renew.map(|time| (Vec::new(), seconds(time)))),
    ]
}

fn failed_runs(reason: Option<Reason>) -> Option<(Vec<Label>, f64)> {
    match reason {
        Some(Reason::FailedRuns { count, last, .. }) => Some((vec![last.name().into()], f64::from(count))),
        _ => None,
    }
}

fn of_hold(view: &View) -> Vec<MetricFamily> {
    let held = view.hold.borrow().clone();
    let text = |text: &Option<String>| Label::from(view.secrets.mask(text.as_deref().unwrap_or_default()));
    vec![
        family(HELD, held.as_deref().map(|held| (vec![text(&held.by), text(&held.reason)], 1.0))),
        family(
            HELD_TIME,
            held.as_deref().and_then(|held| held.since).map(|since| (Vec::new(), seconds(since))),
        ),
    ]
}

fn of_counters(view: &View) -> Vec<MetricFamily> {
    let counters = &view.counters;
    let mut exits = counters.exits.all();
    for class in ExitClass::ALL {
        // A rate needs a beginning: what has not happened yet is reported as 0.
        exits.entry([class.name().into()]).or_default();
    }
    let mut tasks = counters.tasks.all();
    if view.board.borrow().tasks.is_some() {
        for result in TaskResult::ALL {
            tasks.entry([result.name().into()]).or_default();
        }
    }
    let mut renewals = counters.renewals.all();
    for result in ["ok", "refused", "failed"] {
        renewals.entry([result.into()]).or_default();
    }
    let times = counters.request_times.all().into_iter().map(|(call, spread)| (vec![call.into()], spread));
    vec![
        one(RESTARTS, count(counters.restarts.load(Ordering::Relaxed))),
        family(EXITS, counted(exits)),
        family(TASKS, counted(tasks)),
        one(OOM_KILLS, count(counters.oom_kills.load(Ordering::Relaxed))),
        family(RENEWALS, counted(renewals)),
        family(REQUESTS, counted(counters.requests.all())),
        histogram(REQUEST_TIMES, times),
        family(POLLS, counted(counters.polls.all())),
        family(NOTICES, counted(counters.notices.all())),
        family(
            CLOCK,
            counters
                .clock_offset(CLOCK_KNOWN)
                .map(|offset| (Vec::new(), SignedDuration::from_secs(offset).as_secs_f64())),
        ),
    ]
}

fn of_log(view: &View) -> Vec<MetricFamily> {
    let (counts, known) = (view.output.now(), view.recent_warnings.borrow());
    let messages = [("error", known.errors), ("warning", known.warnings)];
    vec![
        one(LINES, count(counts.worker_lines)),
        one(BYTES, count(counts.worker_bytes)),
        family(LAST_OUTPUT, counts.last_output.map(|time| (Vec::new(), seconds(time)))),
        family(MESSAGES, messages.map(|(level, number)| (vec![level.into()], count(number)))),
        one(DROPPED, count(counts.dropped_lines)),
        one(LOST, count(counts.lost_bytes)),
    ]
}

/// Prometheus has a single type of number.
#[expect(clippy::cast_precision_loss, reason = "above 2^53 a count is off by a few, and its rate is not")]
fn count(number: u64) -> f64 {
    number as f64
}

fn counted<const LABELS: usize>(
    counts: impl IntoIterator<Item = ([Label; LABELS], u64)>,
) -> impl Iterator<Item = (Vec<Label>, f64)> {
    counts.into_iter().map(|(labels, number)| (labels.into(), count(number)))
}

fn one(metric: Metric, value: f64) -> MetricFamily {
    family(metric, [(Vec::new(), value)])
}

fn family(metric: Metric, values: impl IntoIterator<Item = (Vec<Label>, f64)>) -> MetricFamily {
    let samples = values.into_iter().map(|(labels, value)| {
        let mut sample = sample(metric, labels);
        match metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        sample
    });
    whole(metric, samples.collect())
}

fn histogram(metric: Metric, spreads: impl IntoIterator<Item = (Vec<Label>, Spread)>) -> MetricFamily {
    let samples = spreads.into_iter().map(|(labels, spread)| {
        let buckets = spread.within.iter().zip(BOUNDS).map(|(within, bound)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(*within);
            bucket.set_upper_bound(bound);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(spread.count);
        histogram.set_sample_sum(spread.seconds);
        let mut sample = sample(metric, labels);
        sample.set_histogram(histogram);
        sample
    });
    whole(metric, samples.collect())
}

fn sample(metric: Metric, labels: Vec<Label>) -> proto::Metric {
    let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.into_owned());
        pair
    });
    let mut sample = proto::Metric::default();
    sample.set_label(pairs.collect());
    sample
}

fn whole(metric: Metric, samples: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}
