//! The runner's own log: formats `tracing` events as lines, human-readable or as JSON, and passes them to the output
//! thread.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::output::{BEGINS_ENTRY, Format, Identity, LogSink};
use crate::redact::{Secrets, cut};
use crate::telemetry::events;
use crate::telemetry::recent_warnings::{QUOTED, RecentWarnings, Warning};

/// Maximum length of a warning or error for observers, in characters: enough for one that quotes a server's answer.
const LONGEST_TROUBLE: usize = 4000;

/// Selects the logged lines: `info`, or per module `warn,start_worker::supervisor=debug`. Errors are always logged.
#[derive(Debug, Clone)]
pub struct Filter(Targets);

/// The reason why a log filter is invalid.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The level is unknown.
    #[error("{0:?} is not a level; use error, warn, info, debug or trace")]
    Level(String),
    /// The module is not one of this program's.
    #[error(
        "{0:?} is not a module of start-worker; use start_worker::MODULE=LEVEL, as in info,start_worker::supervisor=debug"
    )]
    Module(String),
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Parses the filter of `--log-level` and `START_WORKER_LOG`: a level, `MODULE=LEVEL`, or several of these
    /// separated by commas. Modules without a level of their own get the level that stands alone, or info.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut filter = Self::default().0;
        for part in text.split(',').map(str::trim) {
            filter = match part.split_once('=') {
                None => filter.with_default(level(part)?),
                Some((module, of_module)) => {
                    filter.with_target(own_module(module.trim())?, level(of_module.trim())?)
                }
            };
        }
        Ok(Self(filter))
    }
}

fn level(name: &str) -> Result<LevelFilter, FilterError> {
    match name.to_ascii_lowercase().as_str() {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(FilterError::Level(name.to_owned())),
    }
}

/// Modules of other crates log nothing here.
fn own_module(name: &str) -> Result<&str, FilterError> {
    let is_own = name == "start_worker" || name.starts_with("start_worker::");
    if is_own { Ok(name) } else { Err(FilterError::Module(name.to_owned())) }
}

impl Default for Filter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

/// The level of the runner's log: the configured one, or a temporary one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LogLevel(Arc<Levels>);

#[derive(Debug, Default)]
struct Levels {
    configured: Filter,
    now: RwLock<Change>,
}

/// The last change of the level.
#[derive(Debug, Default)]
struct Change {
    number: u64,
    /// `None`: the configured level.
    filter: Option<Filter>,
}

impl LogLevel {
    fn new(configured: Filter) -> Self {
        Self(Arc::new(Levels { configured, now: RwLock::default() }))
    }

    /// Sets a temporary level. Returns the number of this change.
    pub fn set(&self, filter: Filter) -> u64 {
        self.change(|_| true, Some(filter)).unwrap_or_default()
    }

    /// Restores the configured level.
    pub fn reset(&self) {
        self.change(|_| true, None);
    }

    /// Restores the configured level, unless another change followed the one with this number. Returns true if it did.
    pub fn reset_if(&self, number: u64) -> bool {
        self.change(|last| last == number, None).is_some()
    }

    /// Makes a change if the number of the last one `fits`. Returns the number of the new one.
    fn change(&self, fits: impl FnOnce(u64) -> bool, filter: Option<Filter>) -> Option<u64> {
        let number = {
            let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
            if !fits(now.number) {
                return None;
            }
            *now = Change { number: now.number + 1, filter };
            now.number
        };
        // tracing caches per call site whether an event is enabled.
        tracing::callsite::rebuild_interest_cache();
        Some(number)
    }

    fn with<T>(&self, ask: impl FnOnce(&Targets) -> T) -> T {
        let now = self.0.now.read().unwrap_or_else(PoisonError::into_inner);
        ask(&now.filter.as_ref().unwrap_or(&self.0.configured).0)
    }
}

/// Directs the log of the whole process to `sink` from now on, with the known `secrets` masked. Warnings and errors are
/// also recorded in `recent_warnings`. Returns the control of the level.
pub fn install(
    sink: LogSink,
    format: Format,
    filter: Filter,
    secrets: Secrets,
    recent_warnings: RecentWarnings,
) -> LogLevel {
    let level = LogLevel::new(filter);
    let lines = Lines { sink, format, level: level.clone(), secrets, recent_warnings };
    // Fails only if a log is already installed, which then remains.
    let _ = tracing::subscriber::set_global_default(lines);
    level
}

/// Makes panics print their location and message with these secrets masked.
pub fn mask_panics(secrets: Secrets) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let text = secrets.mask(panic.to_string());
        let trace = Backtrace::capture();
        let trace =
            if trace.status() == BacktraceStatus::Captured { trace.to_string() } else { String::new() };
        // A failure cannot be reported without a stderr.
        let _ = writeln!(io::stderr(), "\nthread '{name}' {text}\n{trace}");
    }));
}

/// Formats events and passes them to the output thread. Spans are not kept: a registry of them would need more memory
/// than the rest of the log, and no code here opens a span.
struct Lines {
    sink: LogSink,
    format: Format,
    level: LogLevel,
    secrets: Secrets,
    recent_warnings: RecentWarnings,
}

impl Lines {
    fn is_logged(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
            || self.level.with(|filter| filter.would_enable(metadata.target(), metadata.level()))
    }

    fn note(&self, at: jiff::Timestamp, event: &Event<'_>) {
        let is_error = match *event.metadata().level() {
            Level::ERROR => true,
            Level::WARN => false,
            _ => return,
        };
        if event.metadata().target() == QUOTED {
            return;
        }
        let fields = TextFields::of(event, &self.secrets);
        let text = cut(&(fields.message + &fields.rest), LONGEST_TROUBLE, "…").into_owned();
        self.recent_warnings.note(Warning { at, is_error, text });
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Warnings and errors are recorded even if their lines are not logged.
        metadata.is_event() && (*metadata.level() <= Level::WARN || self.is_logged(metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.level.with(|filter| {
            let levels = filter.iter().map(|(_, level)| level).chain(filter.default_level());
            levels.chain([LevelFilter::WARN]).max()
        })
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let now = jiff::Timestamp::now();
        self.note(now, event);
        if !self.is_logged(event.metadata()) {
            return;
        }
        let secrets = &self.secrets;
        let line = match self.format {
            Format::Text => text_line(now, event, secrets),
            Format::Json => json_line(now, event, self.sink.identity(), secrets),
            Format::Prioritised => {
                let priority = priority(*event.metadata().level());
                format!("<{priority}>{}", text_fields(event, secrets))
            }
            Format::Journald => journal_entry(event, secrets),
        };
        let line = line.into_bytes();
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == QUOTED {
            self.sink.line_of_less_weight(line);
        } else {
            self.sink.line(line);
        }
    }
}

/// `2026-11-23T19:12:00.123Z INFO  worker started pid=4711`
fn text_line(now: jiff::Timestamp, event: &Event<'_>, secrets: &Secrets) -> String {
    format!("{now:.3} {}", text_fields(event, secrets))
}

/// `INFO  worker started pid=4711`
fn text_fields(event: &Event<'_>, secrets: &Secrets) -> String {
    let fields = TextFields::of(event, secrets);
    format!("{:5} {}{}\n", event.metadata().level(), fields.message, fields.rest)
}

/// The priority according to syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// One line of fields, which the output thread converts to an entry. No value contains a control character.
fn journal_entry(event: &Event<'_>, secrets: &Secrets) -> String {
    let text = TextFields::of(event, secrets);
    let mut fields = JournalFields { text: String::new(), secrets };
    event.record(&mut fields);
    let (priority, message) = (priority(*event.metadata().level()), format!("{}{}", text.message, text.rest));
    let mut entry = format!("{BEGINS_ENTRY}PRIORITY={priority}{BEGINS_ENTRY}MESSAGE={message}");
    if let Some(id) = events::id_of(event.metadata()) {
        // Writing to a String cannot fail.
        let _ = write!(entry, "{BEGINS_ENTRY}START_WORKER_EVENT={id}");
        if let Some(message_id) = events::message_id(id) {
            let _ = write!(entry, "{BEGINS_ENTRY}MESSAGE_ID={message_id}");
        }
    }
    entry + &fields.text + "\n"
}

/// `START_WORKER_PID=4711`: neither the journal nor any other program uses this prefix.
struct JournalFields<'s> {
    text: String,
    secrets: &'s Secrets,
}

impl Visit for JournalFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            let name =
                field.name().to_ascii_uppercase().replace(|other: char| !other.is_ascii_alphanumeric(), "_");
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{BEGINS_ENTRY}START_WORKER_{name}=");
            escape(&mut self.text, &self.secrets.mask(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Masks the values one by one before they are quoted and escaped, so that the line remains well-formed around a mask.
struct TextFields<'s> {
    message: String,
    rest: String,
    secrets: &'s Secrets,
}

impl<'s> TextFields<'s> {
    fn of(event: &Event<'_>, secrets: &'s Secrets) -> Self {
        let mut fields = Self { message: String::new(), rest: String::new(), secrets };
        event.record(&mut fields);
        fields
    }

    fn add(&mut self, field: &Field, value: &str) {
        let value = &self.secrets.mask(value);
        if field.name() == "message" {
            escape(&mut self.message, value);
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(self.rest, " {}=", field.name());
        let plain =
            !value.is_empty() && !value.contains([' ', '"', '=']) && !value.contains(char::is_control);
        if plain {
            self.rest.push_str(value);
        } else {
            let _ = write!(self.rest, "{value:?}");
        }
    }
}

/// Escapes control characters, which could make a line look like another one, or like two.
fn escape(into: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() {
            into.extend(character.escape_default());
        } else {
            into.push(character);
        }
    }
}

impl Visit for TextFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// `{"timestamp":"…","level":"info","event":"worker-started","source":"start-worker","message":"worker started","pid":4711}`
fn json_line(
    now: jiff::Timestamp,
    event: &Event<'_>,
    identity: Option<&Identity>,
    secrets: &Secrets,
) -> String {
    let whose = identity.map_or("", Identity::json);
    let mut fields = JsonFields { text: String::new(), secrets };
    event.record(&mut fields);
    let level = match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let id = events::id_of(event.metadata()).map(|id| format!("\"event\":\"{id}\",")).unwrap_or_default();
    format!(
        "{{\"timestamp\":\"{now:.3}\",\"level\":\"{level}\",{id}{whose}\"source\":\"start-worker\"{}}}\n",
        fields.text
    )
}

struct JsonFields<'s> {
    text: String,
    secrets: &'s Secrets,
}

impl JsonFields<'_> {
    fn add(&mut self, field: &Field, value: &Value) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, ",{}:{value}", Value::from(field.name()));
    }
}

impl Visit for JsonFields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &self.secrets.mask(value).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &self.secrets.mask(format!("{value:?}")).into());
    }
}
