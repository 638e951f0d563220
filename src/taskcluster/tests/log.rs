//! The log lines of the current thread. One subscriber serves the whole process, because scoped subscribers conflict
//! with the cache of call sites.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Recorder;

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || !metadata.target().contains("taskcluster") {
            return;
        }
        let mut line = Line { message: String::new(), fields: String::new() };
        event.record(&mut line);
        let text = format!("{} {}{}", metadata.level(), line.message, line.fields);
        LINES.with_borrow_mut(|lines| lines.push(text));
    }
}

struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap();
        }
    }
}

/// Discards earlier lines and starts recording.
pub(super) fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Recorder);
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber");
    });
    LINES.with_borrow_mut(Vec::clear);
}

/// The recorded lines, from the info level up.
pub(super) fn lines() -> Vec<String> {
    LINES.with_borrow(Clone::clone)
}
