//! `bench backup`: what backups cost a cluster that works at half of its peak, and what a restore
//! into an idle one costs, in fresh clusters of its own.
//!
//! The load is the same open loop with and without backups, in turns, whichever first; what the
//! processors do more of in the same time is the backups'. Turns are short and many: a machine that
//! stands still for a tenth of a second spoils the tail of a turn, and the median takes no notice.
//! They are as long as a backup needs, so that the tail is that beside backups and not that of a
//! long quiet time with one of them in it. Half of each row is noise: rows that are all the same
//! would cost nothing to pack. No checkpoint is written meanwhile, on either side.

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

/// How often turns are made longer because no backup fits into them.
const LONGER_MAX: u32 = 4;

/// What share of all CPU time the backups' must be to be told from what else the machine does.
const NOISE: f64 = 0.01;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows of the table.
    pub keys: u64,
    /// How long each turn of the load takes, if a backup takes less.
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
    longest: Duration,
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
        let cpu = loaded.all.known_cpu()? + mgmt_cpu(&self.cluster)?.saturating_sub(before);
        loaded.all.cpu = Some(cpu);
        Ok(loaded)
    }

    /// How long a turn has to be for a backup beside this load: found by making some.
    async fn fitting(
        &self,
        voice: &Voice,
        plan: &Plan,
        rate: Option<u64>,
        place: &Path,
    ) -> CliResult<Duration> {
        let mut time = plan.time;
        for _ in 0..LONGER_MAX {
            let (load, made) =
                tokio::join!(self.load(voice, time, rate), self.back_up(voice, time, place));
            let (_load, (made, mut server, last)) = (load?, made?);
            remove(&mut server, last).await?;
            if made.longest * 5 / 4 <= time {
                break;
            }
            time = made.longest * 4 / 3;
            voice.say(format!(
                "  a backup takes {:.1} s: turns of {:.1} s",
                made.longest.as_secs_f64(),
                time.as_secs_f64()
            ));
        }
        Ok(time)
    }

    /// Makes one backup after the other while the load is measured; the last one stays.
    async fn back_up(
        &self,
        voice: &Voice,
        time: Duration,
        place: &Path,
    ) -> CliResult<(Made, Server, BackupId)> {
        let silent = Voice { quiet: true, ..*voice };
        tokio::time::sleep(load::warm_up(time)).await;
        let (began, mut made) = (Instant::now(), Made::default());
        loop {
            let begun = Instant::now();
            let (mut server, id) = begin(&self.client, Some(place)).await?;
            let record = wait(&mut server, id, &silent).await?;
            let next = began.elapsed() + begun.elapsed() * 5 / 4;
            let late = began.elapsed() > time;
            made.longest = made.longest.max(begun.elapsed());
            // Of one that ends too late some work is measured, and none of its rows count.
            if !late {
                made.row_bytes += record.row_bytes;
                made.file_bytes += record.file_bytes;
                made.took.push(begun.elapsed());
            }
            if late || next > time {
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

/// One turn: the load beside backups, and without.
struct Turn {
    busy: Measured,
    quiet: Measured,
    made: Made,
}

impl Turn {
    /// CPU-seconds more with backups.
    fn added_s(&self) -> f64 {
        let per_s = |side: &Measured| side.cpu_s() / side.time.as_secs_f64();
        (per_s(&self.busy) - per_s(&self.quiet)) * self.busy.time.as_secs_f64()
    }

    fn p99_ratio(&self) -> f64 {
        let p99 = |side: &Measured| side.latencies.micros_at(0.99);
        p99(&self.busy) / p99(&self.quiet).max(1e-9)
    }

    fn rate_ratio(&self) -> f64 {
        self.busy.ops_per_s() / self.quiet.ops_per_s().max(1e-9)
    }

    /// Seconds that one of its backups took.
    fn backup_s(&self) -> f64 {
        let took = self.made.took.iter().sum::<Duration>().as_secs_f64();
        took / self.made.took.len() as f64
    }

    /// In what share of the time there was one under way.
    fn share(&self) -> f64 {
        self.backup_s() * self.made.took.len() as f64 / self.busy.time.as_secs_f64()
    }

    fn tell(&self, voice: &Voice, number: u32) {
        let p99 = |side: &Measured| side.latencies.micros_at(0.99);
        voice.say(format!(
            "  turn {number}: {} backups of {:.2} s, {:.0} % of the time, {:.2} CPU-s more for \
             {:.0} MB; p99 {:.0} µs, quiet {:.0} µs; {} transfers/s, quiet {}",
            self.made.took.len(),
            self.backup_s(),
            self.share() * 100.0,
            self.added_s(),
            self.made.row_bytes as f64 / MEGA,
            p99(&self.busy),
            p99(&self.quiet),
            thousands(self.busy.ops_per_s() as u64),
            thousands(self.quiet.ops_per_s() as u64),
        ));
    }
}

async fn under_load(
    voice: &Voice,
    plan: &Plan,
    lab: &Lab,
    place: &Path,
    figures: &mut Figures,
) -> CliResult {
    let peak = lab.load(voice, plan.time, None).await?.all.ops_per_s();
    figures.peak_per_s = peak;
    let rate = Some(((peak / 2.0) as u64).max(1));
    let time = lab.fitting(voice, plan, rate, place).await?;
    let mut turns: Vec<Turn> = Vec::new();
    for number in 1..=plan.turns {
        // What comes first is not always the same: a machine may grow tired.
        let mut quiet = None;
        if number % 2 == 1 {
            quiet = Some(lab.load(voice, time, rate).await?);
        }
        let (busy, made) =
            tokio::join!(lab.load(voice, time, rate), lab.back_up(voice, time, place));
        let (busy, (made, mut server, last)) = (busy?, made?);
        let quiet = match quiet {
            Some(quiet) => quiet,
            None => lab.load(voice, time, rate).await?,
        };
        // The last one is restored.
        if number < plan.turns {
            remove(&mut server, last).await?;
        }
        let longest = made.longest.as_secs_f64();
        let turn = Turn { busy: busy.all, quiet: quiet.all, made };
        if turn.made.took.is_empty() {
            voice.say(format!("  turn {number} does not count: a backup took {longest:.1} s"));
            continue;
        }
        turn.tell(voice, number);
        turns.push(turn);
    }
    let Some(last) = turns.last() else {
        return Err(CliError::new(Trouble::NotVerified, "no backup ended while load was measured")
            .why("so its cost cannot be told from the load's")
            .then("a longer --seconds, or fewer --keys"));
    };
    let count = last.made.took.len() as u64;
    figures.row_bytes = last.made.row_bytes / count;
    figures.file_bytes = last.made.file_bytes / count;
    let added: f64 = turns.iter().map(Turn::added_s).sum();
    let cpu: f64 = turns.iter().map(|turn| turn.busy.cpu_s()).sum();
    let bytes: u64 = turns.iter().map(|turn| turn.made.row_bytes).sum();
    figures.backup_mb_per_cpu_s = (added > cpu * NOISE).then(|| bytes as f64 / MEGA / added);
    let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
    figures.p99_ratio = of(Turn::p99_ratio);
    figures.rate_ratio = of(Turn::rate_ratio);
    figures.backup_share = of(Turn::share);
    figures.backup_s = of(Turn::backup_s);
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
    let backup = Arc::new(Backup::open(place, &[], None)?);
    let _rows = verified(&backup, voice)?;
    let plan = restore::Plan::make(&client, &backup, &Wanted::default()).await?;
    let done = restore::run(&client, &url, voice, &backup, &plan, THREADS).await?;
    let used = used().await?.saturating_sub(before);
    Ok((done.bytes as f64 / MEGA / used.as_secs_f64().max(1e-3), done.time))
}
