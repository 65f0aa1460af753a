//! `bench backup`: what a backup costs a cluster that works at half of its peak, and what a restore
//! into an idle one costs, in fresh clusters of its own.
//!
//! The load is the same open loop with and without a backup; what the processors do more of in the
//! same time is the backup's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Client;

use super::load::{self, Loaded};
use super::pace::WAKE_INTERVAL;
use super::rows::BenchTable;
use super::sources::CpuSources;
use super::{cpu, point};
use crate::backup::files::Backup;
use crate::backup::restore::{self, Wanted};
use crate::cli::backup::{begin, verified, wait};
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::{Voice, thousands};
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::Tie;

const TABLE: &str = "bench_backup";
const TASKS: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(30);
const THREADS: usize = 2;
const MEGA: f64 = 1e6;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows of the table.
    pub keys: u64,
    /// How long each turn of the load takes: more than a backup does.
    pub time: Duration,
    /// How many turns with a backup, and as many without.
    pub turns: u32,
}

/// What came out: medians over the turns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Transfers per second at the peak.
    pub peak_per_s: f64,
    /// Bytes of keys and values in a backup.
    pub row_bytes: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// How long one took, seconds.
    pub backup_s: f64,
    /// Megabytes of rows per CPU-second that a backup adds.
    pub backup_mb_per_cpu_s: f64,
    /// The 99th percentile with a backup by that without.
    pub p99_ratio: f64,
    /// Megabytes of rows per CPU-second of a restore, all processes, at replication 1 and 2.
    pub restore_mb_per_cpu_s: [f64; 2],
    /// How long these took, seconds.
    pub restore_s: [f64; 2],
}

/// The cluster that is backed up.
struct Lab {
    client: Client,
    table: BenchTable,
    keys: u64,
}

impl Lab {
    async fn load(&self, voice: &Voice, time: Duration, rate: Option<u64>) -> CliResult<Loaded> {
        let plan = point::Plan {
            load: load::Plan { tasks: TASKS, time, rate, wake: WAKE_INTERVAL },
            write_percent: 100,
            keys: self.keys,
            write: point::Write::Transfer,
            rows: 1,
            floor: false,
        };
        point::drive(&self.client, voice, &plan, &self.table).await
    }
}

/// Measures all of it.
///
/// # Errors
/// If a cluster does not come up, or a backup or restore fails.
pub async fn run(voice: &Voice, plan: &Plan) -> CliResult<Figures> {
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    let place = dir.path().join("backups");
    std::fs::create_dir(&place).map_err(|e| CliError::file("make directory", &place, &e))?;
    let mut figures = Figures::default();
    {
        let shape = Shape::two_by_two();
        let cluster = LocalCluster::start(&shape, &dir.path().join("first"), true, Tie::Child)?;
        connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
        let client = connect::connect(&cluster.url(), PATIENCE).await?;
        let table = BenchTable::create(&client, TABLE).await?;
        table.fill(voice, plan.keys).await?;
        let lab = Lab { client, table, keys: plan.keys };
        under_load(voice, plan, &lab, &place, &mut figures).await?;
    }
    for (at, replicas) in [1_u16, 2].into_iter().enumerate() {
        let shape = Shape { groups: 2 / replicas, replicas, ..Shape::default() };
        let name = format!("restored-{replicas}");
        let cluster = LocalCluster::start(&shape, &dir.path().join(name), true, Tie::Child)?;
        connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
        let (mb_per_cpu_s, time) = restored(voice, &cluster.url(), &place).await?;
        voice.say(format!("  restore at replication {replicas}: {mb_per_cpu_s:.0} MB per CPU-s"));
        figures.restore_mb_per_cpu_s[at] = mb_per_cpu_s;
        figures.restore_s[at] = time.as_secs_f64();
    }
    Ok(figures)
}

async fn under_load(
    voice: &Voice,
    plan: &Plan,
    lab: &Lab,
    place: &std::path::Path,
    figures: &mut Figures,
) -> CliResult {
    let peak = lab.load(voice, plan.time / 2, None).await?.all.ops_per_s();
    figures.peak_per_s = peak;
    let rate = Some(((peak / 2.0) as u64).max(1));
    let (mut costs, mut tails, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=plan.turns {
        let quiet = lab.load(voice, plan.time, rate).await?;
        let (mut server, mut took, mut record) = (None, Duration::ZERO, None);
        let backup = async {
            // Within the time that is measured, which begins after the load has warmed up.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let began = Instant::now();
            let (mut asked, id) = begin(&lab.client, Some(place)).await?;
            record = Some(wait(&mut asked, id, voice).await?);
            took = began.elapsed();
            server = Some((asked, id));
            CliResult::Ok(())
        };
        let (busy, made) = tokio::join!(lab.load(voice, plan.time, rate), backup);
        let busy = busy?;
        made?;
        let Some(record) = record else { continue };
        if took + Duration::from_secs(1) > plan.time {
            let what = format!("a backup takes {:.1} s", took.as_secs_f64());
            return Err(CliError::new(Trouble::NotVerified, what)
                .why("so its cost cannot be told from the load's in the time that is measured")
                .then("a longer --seconds, or fewer --keys"));
        }
        let share = busy.all.time.as_secs_f64() / quiet.all.time.as_secs_f64().max(1e-9);
        let added = busy.all.cpu.as_secs_f64() - quiet.all.cpu.as_secs_f64() * share;
        let cost = record.row_bytes as f64 / MEGA / added.max(1e-3);
        let tail =
            busy.all.latencies.micros_at(0.99) / quiet.all.latencies.micros_at(0.99).max(1e-9);
        voice.say(format!(
            "  turn {turn}: {} rows in {:.2} s, {added:.2} CPU-s more: {cost:.0} MB per CPU-s; \
             p99 {:.0} µs, quiet {:.0} µs",
            thousands(record.rows),
            took.as_secs_f64(),
            busy.all.latencies.micros_at(0.99),
            quiet.all.latencies.micros_at(0.99),
        ));
        costs.push(cost);
        tails.push(tail);
        times.push(took.as_secs_f64());
        (figures.row_bytes, figures.file_bytes) = (record.row_bytes, record.file_bytes);
        // The last one is restored.
        if turn < plan.turns
            && let Some((mut server, backup)) = server
        {
            remove(&mut server, backup).await?;
        }
    }
    figures.backup_mb_per_cpu_s = super::durable::median(costs);
    figures.p99_ratio = super::durable::median(tails);
    figures.backup_s = super::durable::median(times);
    Ok(())
}

async fn remove(
    server: &mut crate::backup::ask::Server,
    backup: lockstep_proto::ids::BackupId,
) -> CliResult {
    use lockstep_proto::wire::backup::{BackupMessage, BackupState};
    server.order(&BackupMessage::Delete { backup }).await?;
    while server.record(backup).await?.state != BackupState::Deleted {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Restores into an idle cluster; gives megabytes of rows per CPU-second, and how long it took.
async fn restored(voice: &Voice, url: &str, place: &std::path::Path) -> CliResult<(f64, Duration)> {
    let client = connect::connect(url, PATIENCE).await?;
    let sources = CpuSources::find(&client).await?;
    let backup = Arc::new(Backup::open(place, &[])?);
    let failed = |error: std::io::Error| {
        CliError::new(Trouble::Process, "CPU time is not known").why(error.to_string())
    };
    let (nodes, own) = (sources.nodes(&client).await?, cpu::own().map_err(failed)?);
    let _rows = verified(&backup, voice)?;
    let plan = restore::Plan::make(&client, &backup, &Wanted::default()).await?;
    let done = restore::run(&client, url, voice, &backup, &plan, THREADS).await?;
    let used = sources.nodes(&client).await?.saturating_sub(nodes)
        + cpu::own().map_err(failed)?.saturating_sub(own);
    Ok((done.bytes as f64 / MEGA / used.as_secs_f64().max(1e-3), done.time))
}
