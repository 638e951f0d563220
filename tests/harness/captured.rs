//! The lines that the library logs on this thread, at info level and above; and its pending requests to a metadata
//! service.

use std::cell::{Cell, RefCell};
use std::fmt::{Debug, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

thread_local! {
    /// Filled by a single subscriber for all threads: with one for each thread, an event can be lost to another thread
    /// that has it disabled.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The number of pending requests to a metadata service.
    static ASKING: Cell<u32> = const { Cell::new(0) };
}

/// Starts capturing.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Capture);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Returns true while a request to a metadata service, or its answer, is on its way.
pub(crate) fn asking() -> bool {
    ASKING.get() > 0
}

/// The lines logged since its creation.
pub(crate) struct Log(());

impl Log {
    pub(crate) fn capture() -> Self {
        install();
        LINES.take();
        Self(())
    }

    /// `WARN message key=value …`
    #[expect(clippy::unused_self, reason = "there are lines only where there is a log")]
    pub(crate) fn lines(&self) -> Vec<String> {
        LINES.with_borrow(Clone::clone)
    }
}

struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("start_worker") {
            return;
        }
        let mut line = Line(metadata.level().to_string());
        event.record(&mut line);
        if *metadata.level() <= Level::INFO {
            LINES.with_borrow_mut(|lines| lines.push(line.0));
        } else if line.0.starts_with("TRACE asking the metadata service") {
            ASKING.set(ASKING.get() + 1);
        } else if line.0.starts_with("TRACE the metadata service was asked") {
            ASKING.set(ASKING.get() - 1);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let done = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        done.unwrap();
    }
}
