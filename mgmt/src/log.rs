//! The log of a process: lines on stderr, counted by how loud they are.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// How many lines the log of this process has, by level.
#[derive(Default, Debug)]
pub struct LogCounts {
    errors: AtomicU64,
    warnings: AtomicU64,
    infos: AtomicU64,
    others: AtomicU64,
}

static COUNTS: LogCounts = LogCounts {
    errors: AtomicU64::new(0),
    warnings: AtomicU64::new(0),
    infos: AtomicU64::new(0),
    others: AtomicU64::new(0),
};

impl LogCounts {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> &'static Self {
        &COUNTS
    }

    fn of(&self, level: Level) -> &AtomicU64 {
        match level {
            Level::ERROR => &self.errors,
            Level::WARN => &self.warnings,
            Level::INFO => &self.infos,
            _ => &self.others,
        }
    }

    /// Lines by level, the loudest first.
    #[must_use]
    pub fn numbers(&self) -> [(&'static str, u64); 4] {
        let number = |of: &AtomicU64| of.load(Ordering::Relaxed);
        [
            ("error", number(&self.errors)),
            ("warn", number(&self.warnings)),
            ("info", number(&self.infos)),
            ("debug", number(&self.others)),
        ]
    }
}

/// Counts what is logged.
struct Counting;

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        COUNTS.of(*event.metadata().level()).fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts the log with a filter: a level, or directives.
///
/// # Errors
/// Why the filter cannot be understood.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(Counting);
    // Only a test that runs two processes' code in one process has a log already.
    let _already_there = log.try_init();
    Ok(())
}
