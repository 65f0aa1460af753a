//! `bench backup`: what backups cost a cluster that works at half of its peak, and what a restore
//! into an idle one costs, in fresh clusters of its own.
//!
//! The load is the same open loop with and without backups, in turns, whichever first; what the
//! processors do more of in the same time is the backups'. One backup follows the other for as long
//! as the load is measured, so that its tail is the tail beside backups and not that of a long
//! quiet time with one of them in it. Half of each row is noise: rows that are all the same would
//! cost nothing to pack. No checkpoint is written meanwhile, on either side.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::BackupId;
use lockstep_proto::wire::backup::{BackupMessage, BackupState};

use super::durable::{BURSTS, CHECKPOINTS_NEVER, median};
use super::load::{self, Loaded};
use super::measure::Measured;
use super::rows::BenchTable;
use super::sources::CpuSources;
use super::{cpu, point};
use crate::backup::ask::Server;
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

/// What share of all CPU time the backups' must be to be told from what else the machine does.
const NOISE: f64 = 0.01;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows of the table.
    pub keys: u64,
    /// How long each turn of the load takes: at least as long as a backup.
    pub time: Duration,
    /// How many turns with backups, as many without, and how many restores of each kind.
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
    /// In what share of the time that was measured with backups there was one under way.
    pub backup_share: f64,
    /// Megabytes of rows per CPU-second that backups add, over all turns; `None` if that is lost in
    /// what the machine does besides.
    pub backup_mb_per_cpu_s: Option<f64>,
    /// Transfers per second with backups by those without, of an open loop.
    pub rate_ratio: f64,
    /// The 99th percentile with backups by that without.
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
    cluster: LocalCluster,
}

/// What the backups of a turn come to.
#[derive(Default)]
struct Made {
    row_bytes: u64,
    file_bytes: u64,
    took: Vec<Duration>,
}

impl Lab {
    async fn load(&self, voice: &Voice, time: Duration, rate: Option<u64>) -> CliResult<Loaded> {
        let plan = point::Plan {
            load: load::Plan { tasks: TASKS, time, rate, wake: BURSTS },
            write_percent: 100,
            keys: self.keys,
            write: point::Write::Transfer,
            rows: 1,
            floor: false,
        };
        let before = mgmt_cpu(&self.cluster)?;
        let mut loaded = point::drive(&self.client, voice, &plan, &self.table).await?;
        // The others are counted there.
        loaded.all.cpu += mgmt_cpu(&self.cluster)?.saturating_sub(before);
        Ok(loaded)
    }

    /// Makes one backup after the other while the load is measured; the last one stays.
    async fn back_up(
        &self,
        voice: &Voice,
        plan: &Plan,
        place: &Path,
    ) -> CliResult<(Made, Server, BackupId)> {
        let silent = Voice { quiet: true, ..*voice };
        tokio::time::sleep(load::warm_up(plan.time)).await;
        let (began, mut made) = (Instant::now(), Made::default());
        loop {
            let begun = Instant::now();
            let (mut server, id) = begin(&self.client, Some(place)).await?;
            let record = wait(&mut server, id, &silent).await?;
            let next = began.elapsed() + begun.elapsed() * 5 / 4;
            let late = began.elapsed() > plan.time;
            // Of one that ends too late some work is measured, and none of its rows count.
            if !late {
                made.row_bytes += record.row_bytes;
                made.file_bytes += record.file_bytes;
                made.took.push(begun.elapsed());
            }
            if made.took.is_empty() {
                let what = format!("a backup takes {:.1} s", begun.elapsed().as_secs_f64());
                return Err(CliError::new(Trouble::NotVerified, what)
                    .why("so its cost cannot be told from the load's in the time that is measured")
                    .then("a longer --seconds, or fewer --keys"));
            }
            if late || next > plan.time {
                return Ok((made, server, id));
            }
            remove(&mut server, id).await?;
        }
    }
}

/// What the management servers have used.
fn mgmt_cpu(cluster: &LocalCluster) -> CliResult<Duration> {
    let used = cluster.mgmt_processes().map(|process| cpu::of(process.pid));
    used.sum::<std::io::Result<Duration>>().map_err(unknown)
}

fn unknown(error: std::io::Error) -> CliError {
    CliError::new(Trouble::Process, "CPU time is not known").why(error.to_string())
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
        let shape = Shape { checkpoint_interval: Some(CHECKPOINTS_NEVER), ..Shape::two_by_two() };
        let cluster = LocalCluster::start(&shape, &dir.path().join("first"), true, Tie::Child)?;
        connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
        let client = connect::connect(&cluster.url(), PATIENCE).await?;
        let table = BenchTable::create(&client, TABLE).await?;
        table.fill_varied(voice, plan.keys).await?;
        let lab = Lab { client, table, keys: plan.keys, cluster };
        under_load(voice, plan, &lab, &place, &mut figures).await?;
    }
    for (at, replicas) in [1_u16, 2].into_iter().enumerate() {
        let (mut costs, mut times) = (Vec::new(), Vec::new());
        for turn in 1..=plan.turns {
            let shape = Shape { groups: 2 / replicas, replicas, ..Shape::default() };
            let home = dir.path().join(format!("restored-{replicas}-{turn}"));
            let cluster = LocalCluster::start(&shape, &home, true, Tie::Child)?;
            connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
            let (mb_per_cpu_s, time) = restored(voice, &cluster, &place).await?;
            voice.say(format!(
                "  restore at replication {replicas}: {:.2} s, {mb_per_cpu_s:.0} MB per CPU-s",
                time.as_secs_f64()
            ));
            costs.push(mb_per_cpu_s);
            times.push(time.as_secs_f64());
        }
        (figures.restore_mb_per_cpu_s[at], figures.restore_s[at]) = (median(costs), median(times));
    }
    Ok(figures)
}

async fn under_load(
    voice: &Voice,
    plan: &Plan,
    lab: &Lab,
    place: &Path,
    figures: &mut Figures,
) -> CliResult {
    let peak = lab.load(voice, plan.time / 2, None).await?.all.ops_per_s();
    figures.peak_per_s = peak;
    let rate = Some(((peak / 2.0) as u64).max(1));
    let (mut tails, mut rates) = (Vec::new(), Vec::new());
    let (mut bytes, mut all_added, mut all_cpu) = (0, 0.0, 0.0);
    let (mut times, mut shares) = (Vec::new(), Vec::new());
    for turn in 1..=plan.turns {
        // What comes first is not always the same: a machine may grow tired.
        let mut quiet = None;
        if turn % 2 == 1 {
            quiet = Some(lab.load(voice, plan.time, rate).await?);
        }
        let (busy, made) =
            tokio::join!(lab.load(voice, plan.time, rate), lab.back_up(voice, plan, place));
        let (busy, (made, mut server, last)) = (busy?, made?);
        let quiet = match quiet {
            Some(quiet) => quiet,
            None => lab.load(voice, plan.time, rate).await?,
        };
        let (busy, quiet) = (&busy.all, &quiet.all);
        let cpu_per_s = |side: &Measured| side.cpu.as_secs_f64() / side.time.as_secs_f64();
        let added = (cpu_per_s(busy) - cpu_per_s(quiet)) * busy.time.as_secs_f64();
        bytes += made.row_bytes;
        all_added += added;
        all_cpu += busy.cpu.as_secs_f64();
        let p99 = |side: &Measured| side.latencies.micros_at(0.99);
        let tail = p99(busy) / p99(quiet).max(1e-9);
        let count = made.took.len() as u64;
        let took = made.took.iter().sum::<Duration>().as_secs_f64();
        let share = took / busy.time.as_secs_f64();
        voice.say(format!(
            "  turn {turn}: {count} backups of {:.2} s, {:.0} % of the time, {added:.2} CPU-s \
             more for {:.0} MB; p99 {:.0} µs, quiet {:.0} µs; {} transfers/s, quiet {}",
            took / count as f64,
            share * 100.0,
            made.row_bytes as f64 / MEGA,
            p99(busy),
            p99(quiet),
            thousands(busy.ops_per_s() as u64),
            thousands(quiet.ops_per_s() as u64),
        ));
        tails.push(tail);
        shares.push(share);
        rates.push(busy.ops_per_s() / quiet.ops_per_s().max(1e-9));
        times.push(took / count as f64);
        (figures.row_bytes, figures.file_bytes) = (made.row_bytes / count, made.file_bytes / count);
        // The last one is restored.
        if turn < plan.turns {
            remove(&mut server, last).await?;
        }
    }
    let told = all_added > all_cpu * NOISE;
    figures.backup_mb_per_cpu_s = told.then(|| bytes as f64 / MEGA / all_added);
    figures.p99_ratio = median(tails);
    figures.rate_ratio = median(rates);
    figures.backup_share = median(shares);
    figures.backup_s = median(times);
    Ok(())
}

async fn remove(server: &mut Server, backup: BackupId) -> CliResult {
    server.order(&BackupMessage::Delete { backup }).await?;
    while server.record(backup).await?.state != BackupState::Deleted {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Restores into an idle cluster; gives megabytes of rows per CPU-second, and how long it took.
async fn restored(
    voice: &Voice,
    cluster: &LocalCluster,
    place: &Path,
) -> CliResult<(f64, Duration)> {
    let url = cluster.url();
    let client = connect::connect(&url, PATIENCE).await?;
    let sources = CpuSources::find(&client).await?;
    let used = async || -> CliResult<Duration> {
        let own = cpu::own().map_err(unknown)?;
        Ok(sources.nodes(&client).await? + mgmt_cpu(cluster)? + own)
    };
    let before = used().await?;
    let backup = Arc::new(Backup::open(place, &[])?);
    let _rows = verified(&backup, voice)?;
    let plan = restore::Plan::make(&client, &backup, &Wanted::default()).await?;
    let done = restore::run(&client, &url, voice, &backup, &plan, THREADS).await?;
    let used = used().await?.saturating_sub(before);
    Ok((done.bytes as f64 / MEGA / used.as_secs_f64().max(1e-3), done.time))
}
