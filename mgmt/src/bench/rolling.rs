//! `bench rolling`: a bank works on while all data nodes of a fresh cluster of two groups of two
//! are restarted one after the other; what its transfers notice.
//!
//! Transfers come by a timetable, at half of the peak, so that none is left out because those
//! before it take long. One that a restart has interrupted is tried again by the client library, as
//! it is for every application; only what has failed after that counts as failed.

use std::time::{Duration, Instant};

use lockstep_client::Client;

use super::durable::BURSTS;
use super::load;
use super::point;
use super::rows::BenchTable;
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::Tie;

const TABLE: &str = "bench_rolling";
const TASKS: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the restarts may take.
const LONGEST: Duration = Duration::from_secs(1800);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows of the table.
    pub keys: u64,
    /// How long the peak, and the quiet cluster, are measured.
    pub time: Duration,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Transfers per second at the peak.
    pub peak_per_s: f64,
    /// How long each node took, until it was in sync again.
    pub nodes: Vec<(u16, Duration)>,
    /// How long all of it took.
    pub time: Duration,
    /// Transfers done meanwhile.
    pub done: u64,
    /// Transfers that failed.
    pub failed: u64,
    /// Why the first of them did.
    pub first_error: Option<String>,
    /// Transfers of the timetable that nobody was free for.
    pub not_started: u32,
    /// Transfers per second by those of the quiet cluster.
    pub rate_ratio: f64,
    /// 99th percentile without restarts and with them, and the longest of each; microseconds.
    pub p99_us: [f64; 2],
    /// See there.
    pub longest_us: [f64; 2],
}

/// Measures; `restart` restarts all data nodes of a cluster and tells how long each took.
///
/// # Errors
/// If the cluster does not come up, or a node does not come back.
pub async fn run(
    voice: &Voice,
    plan: &Plan,
    restart: impl AsyncFnOnce(&Client) -> CliResult<Vec<(u16, Duration)>>,
) -> CliResult<Figures> {
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    let cluster = LocalCluster::start(&Shape::two_by_two(), dir.path(), false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    let table = BenchTable::create(&client, TABLE).await?;
    table.fill_varied(voice, plan.keys).await?;
    let load = |time, rate| point::Plan {
        load: load::Plan { tasks: TASKS, time, rate, wake: BURSTS },
        write_percent: 100,
        keys: plan.keys,
        write: point::Write::Transfer,
        rows: 1,
        floor: false,
    };
    let peak = point::drive(&client, voice, &load(plan.time, None), &table).await?;
    let peak_per_s = peak.all.ops_per_s();
    let rate = Some(((peak_per_s / 2.0) as u64).max(1));
    let quiet = point::drive(&client, voice, &load(plan.time, rate), &table).await?;
    let began = Instant::now();
    let restarts = restart(&client);
    let beside = load(LONGEST, rate);
    let (busy, nodes) = point::drive_beside(&client, voice, &beside, &table, restarts).await?;
    let nodes = nodes.ok_or_else(|| {
        CliError::new(Trouble::TimedOut, "not all data nodes were restarted in half an hour")
    })??;
    let p99 = |loaded: &load::Loaded| loaded.all.latencies.micros_at(0.99);
    let longest = |loaded: &load::Loaded| loaded.all.latencies.micros_max();
    Ok(Figures {
        peak_per_s,
        nodes,
        time: began.elapsed(),
        done: busy.all.ops,
        failed: busy.errors,
        first_error: busy.first_error.clone(),
        not_started: busy.left_behind,
        rate_ratio: busy.all.ops_per_s() / quiet.all.ops_per_s().max(1e-9),
        p99_us: [p99(&quiet), p99(&busy)],
        longest_us: [longest(&quiet), longest(&busy)],
    })
}
