//! The log of a process: lines on stderr, counted by how loud they are, through a filter that can
//! be changed while the process runs.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Longer than any filter somebody means.
pub const FILTER_BYTES_MAX: usize = 1024;

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

/// Puts another filter in place.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The filter in force, as it was written, and how to replace it.
struct Control {
    filter: Mutex<String>,
    replace: Replace,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

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

/// A filter: a level, or directives.
fn read(filter: &str) -> Result<EnvFilter, String> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(format!("a filter has at most {FILTER_BYTES_MAX} bytes"));
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

/// Starts the log with a filter: a level, or directives.
///
/// # Errors
/// Why the filter cannot be understood.
pub fn start(filter: &str) -> Result<(), String> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(read(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter_reloading();
    let handle = builder.reload_handle();
    let replace: Replace =
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    // Only a test that runs two processes' code in one process has a log already: the first stays.
    if builder.finish().with(Counting).try_init().is_ok() {
        let _first = CONTROL.set(Control { filter: Mutex::new(filter.to_owned()), replace });
    }
    Ok(())
}

/// The filter in force; `None` if there is no log.
#[must_use]
pub fn filter() -> Option<String> {
    Some(CONTROL.get()?.filter.lock().clone())
}

/// Puts another filter in force until the process ends; returns the one before.
///
/// # Errors
/// Why it cannot be understood, or that there is no log.
pub fn change(filter: &str) -> Result<String, String> {
    let understood = read(filter)?;
    let control = CONTROL.get().ok_or("this process has no log")?;
    let mut current = control.filter.lock();
    (control.replace)(understood)?;
    let before = std::mem::replace(&mut *current, filter.to_owned());
    tracing::info!("the log shows {filter:?} now; it was {before:?}");
    Ok(before)
}
