//! Drives a cluster with many tasks and measures what they see and what everybody's CPU does.
//!
//! The tasks run on one thread, as the client library's do in a small API node. Invariant: only
//! operations that start within the measured time count, and CPU time is taken at its two ends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_client::core::CallError;

use super::measure::{Latencies, Measured};
use super::pace::Pace;
use super::sources::CpuSources;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::{Voice, rate, thousands};

/// What every load has.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tasks that work at the same time.
    pub tasks: u32,
    /// How long to measure.
    pub time: Duration,
    /// Operations per second to start; a closed loop if not given.
    pub rate: Option<u64>,
    /// An open loop starts what is due this often at most.
    pub wake: Duration,
}

/// Time before a load of this length is measured: connections, caches and allocators get warm.
#[must_use]
pub fn warm_up(time: Duration) -> Duration {
    (time / 5).clamp(Duration::from_millis(100), Duration::from_secs(2))
}

/// What one operation was, for separate percentiles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It read.
    Read,
    /// It wrote.
    Write,
}

/// What one task does again and again.
pub trait Work {
    /// One operation.
    fn step(&mut self) -> impl Future<Output = Result<Kind, CallError>>;
}

/// What a run came to.
#[derive(Default)]
pub struct Loaded {
    /// All operations.
    pub all: Measured,
    /// The reads among them.
    pub reads: Latencies,
    /// The writes among them.
    pub writes: Latencies,
    /// Operations that failed.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// Operations of an open loop that no task was free for.
    pub left_behind: u32,
}

/// What the tasks write down.
#[derive(Default)]
struct Notes {
    measured_from: Option<Instant>,
    reads: Latencies,
    writes: Latencies,
    errors: u64,
    first_error: Option<String>,
}

impl Notes {
    fn on_step(&mut self, start: Instant, result: Result<Kind, CallError>) {
        if self.measured_from.is_none_or(|from| start < from) {
            return;
        }
        match result {
            Ok(Kind::Read) => self.reads.record(start.elapsed()),
            Ok(Kind::Write) => self.writes.record(start.elapsed()),
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn done(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }
}

/// Runs the load; must be called within a [`tokio::task::LocalSet`].
///
/// # Errors
/// If no operation succeeds, or a node does not tell its CPU time.
pub async fn run<W: Work + 'static>(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    worker: impl FnMut(u32) -> W,
) -> CliResult<Loaded> {
    let nothing = std::future::pending::<Infallible>();
    let (loaded, _) = run_beside(client, voice, plan, worker, nothing).await?;
    Ok(loaded)
}

/// The same beside something that begins when it is measured; when that is done, so is the load.
///
/// # Errors
/// As [`run`].
pub async fn run_beside<W: Work + 'static, T>(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    mut worker: impl FnMut(u32) -> W,
    meanwhile: impl Future<Output = T>,
) -> CliResult<(Loaded, Option<T>)> {
    let sources = CpuSources::find(client).await?;
    let notes = Rc::new(RefCell::new(Notes::default()));
    let start = Instant::now();
    let from = start + warm_up(plan.time);
    let deadline = from + plan.time;
    let pace = match plan.rate {
        None => Pace::closed(deadline),
        Some(rate) => Pace::open(start, deadline, rate, plan.wake).map_err(|error| {
            CliError::new(Trouble::Process, "no timer for an open loop").why(error.to_string())
        })?,
    };
    notes.borrow_mut().measured_from = Some(from);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..plan.tasks {
        let (pace, notes, worker) = (Rc::clone(&pace), Rc::clone(&notes), worker(number));
        tasks.spawn_local(work(pace, notes, worker));
    }
    tokio::time::sleep_until(from.into()).await;
    let (started, cpu_before) = (Instant::now(), sources.total(client).await);
    let done = tokio::select! {
        done = meanwhile => Some(done),
        () = watch(voice, &notes, from, deadline) => None,
    };
    pace.stop();
    let (ended, cpu_after) = (Instant::now(), sources.total(client).await);
    while tasks.join_next().await.is_some() {}
    let notes = std::mem::take(&mut *notes.borrow_mut());
    let mut latencies = notes.reads.clone();
    latencies.merge(&notes.writes);
    if notes.done() == 0 {
        let why = notes.first_error.unwrap_or_else(|| "nothing was answered in time".to_owned());
        return Err(CliError::new(Trouble::NotVerified, "no operation succeeded").why(why));
    }
    let cpu = cpu_before.and_then(|before| Ok(cpu_after?.saturating_sub(before)));
    let cpu = cpu.map_err(|error| voice.say(format!("CPU time is not known: {}", error.what)));
    let all = Measured { ops: latencies.count(), time: ended - started, latencies, cpu: cpu.ok() };
    let loaded = Loaded {
        all,
        reads: notes.reads,
        writes: notes.writes,
        errors: notes.errors,
        first_error: notes.first_error,
        left_behind: pace.left_behind(),
    };
    Ok((loaded, done))
}

async fn work<W: Work>(pace: Rc<Pace>, notes: Rc<RefCell<Notes>>, mut worker: W) {
    while let Some(start) = pace.next().await {
        let result = worker.step().await;
        notes.borrow_mut().on_step(start, result);
    }
}

/// Says once a second how it goes, until the deadline.
async fn watch(voice: &Voice, notes: &RefCell<Notes>, from: Instant, deadline: Instant) {
    let mut told = 0;
    loop {
        let next = (Instant::now() + Duration::from_secs(1)).min(deadline);
        tokio::time::sleep_until(next.into()).await;
        if next == deadline {
            return;
        }
        let notes = notes.borrow();
        let done = notes.done();
        let (p50, p99) = match notes.writes.count() {
            0 => (notes.reads.micros_at(0.5), notes.reads.micros_at(0.99)),
            _ => (notes.writes.micros_at(0.5), notes.writes.micros_at(0.99)),
        };
        voice.say(format!(
            "  {:>3} s  {:>9} ops/s  p50 {p50} µs  p99 {p99} µs{}",
            from.elapsed().as_secs(),
            thousands(rate(done - told, Duration::from_secs(1))),
            if notes.errors > 0 { format!("  {} errors", notes.errors) } else { String::new() },
        ));
        told = done;
    }
}
