//! The second half of `bench restart`: what being able to come back costs a cluster that works.
//!
//! Each cost is a ratio between two clusters, or two ways of working, that are measured in turns
//! within the same run: machines are noisy, and what disturbs one turn disturbs its neighbour. The
//! clusters are fresh processes on this machine and are gone afterwards.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_client::{Client, Durability};
use tempfile::TempDir;

use super::load::{self, Loaded};
use super::measure::Latencies;
use super::point::{self, Write as PointWrite};
use super::rejoin;
use super::rows::BenchTable;
use super::sources::CpuSources;
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::Tie;

/// How long a cluster may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tasks of the usual load, and of one that fills every group of commits.
pub(super) const TASKS: u32 = 64;
const TASKS_MANY: u32 = 2048;

/// Turns of each side. Odd, so that the median is one of them.
const TURNS: usize = 5;

/// And where the tail is compared, which one disturbance on the machine is enough to move.
const TURNS_CALM: usize = 11;

/// Operations of the open loop come in bursts this far apart. One by one they would cost the
/// processors more at half of the peak rate than at the peak, where they come together: a machine
/// that is at its limit shows how its system shares the processors out, and nothing else.
pub(super) const BURSTS: Duration = Duration::from_micros(200);

/// Between checkpoints of a partition where they are to be felt: a thirtieth of the default.
const CHECKPOINTS_OFTEN: Duration = Duration::from_secs(1);

/// Between checkpoints where they are not to disturb.
pub(super) const CHECKPOINTS_NEVER: Duration = Duration::from_secs(86_400);

/// How long after the last commit a cluster counts as idle: checkpoints and all.
const IDLE_AFTER: Duration = Duration::from_secs(3);

/// What `fdatasync` is measured with: a block appended, as a lonely commit's redo is.
const SYNC_BLOCK_BYTES: usize = 4096;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long each turn takes.
    pub turn: Duration,
    /// Rows of the table that is written to.
    pub keys: u64,
}

/// One side's share of the other's: the medians over all turns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Operations per second, this by that.
    pub throughput: f64,
    /// CPU time per operation over all processes, this by that.
    pub cpu: f64,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// With redo by without it.
    pub redo: Compared,
    /// The CPU share of one core that an idle data node takes.
    pub idle_core_share: f64,
    /// The median of a bare append and `fdatasync`, in microseconds.
    pub fdatasync_us: f64,
    /// The median of a commit that waits for the disks, one at a time, in microseconds.
    pub disk_one_task_us: f64,
    /// With many tasks: commits that wait for the disks by commits that do not.
    pub disk: Compared,
    /// While checkpoints are written by while none are.
    pub checkpoints: Compared,
    /// The same for the 99th percentile of latency at half of the peak rate, open loop.
    pub checkpoints_p99: f64,
    /// A node that was away.
    pub rejoin: rejoin::Figures,
    /// Commits per second with redo at the usual load.
    pub commits_per_s: f64,
}

impl Figures {
    /// A lonely commit that waits for the disks, in bare `fdatasync`s.
    #[must_use]
    pub fn disk_one_task_syncs(&self) -> f64 {
        self.disk_one_task_us / self.fdatasync_us.max(1e-9)
    }
}

/// Measures all of it.
///
/// # Errors
/// If a cluster does not come up, or refuses to work.
pub async fn run(voice: &Voice, plan: &Plan) -> CliResult<Figures> {
    let usual = Shape { checkpoint_interval: Some(CHECKPOINTS_NEVER), ..Shape::two_by_two() };
    let bare = Shape { volatile: true, ..usual.clone() };
    let busy = Shape { checkpoint_interval: Some(CHECKPOINTS_OFTEN), ..usual.clone() };
    let mut figures = Figures::default();
    let kept = Lab::start(voice, plan, &usual).await?;
    voice.say("what an idle node costs");
    figures.idle_core_share = kept.idle(plan.turn).await?;
    {
        let bare = Lab::start(voice, plan, &bare).await?;
        voice.say("commits with redo and without, in turns");
        let usual = Load { tasks: TASKS, ..Load::default() };
        let turns = turns(&kept.side(&usual), &bare.side(&usual), voice, plan, TURNS).await?;
        figures.redo = compared(&turns);
        let rates = turns.iter().map(|(kept, _)| kept.all.ops_per_s());
        figures.commits_per_s = median(rates.collect());
    }
    voice.say("commits that wait for the disks, one at a time, and bare fdatasync");
    let lonely = Load { tasks: 1, durability: Durability::Disk, rate: None };
    let mut syncs = bare_syncs(kept.dir.path(), plan.turn)?;
    let one = kept.side(&lonely).run(voice, plan).await?;
    syncs.merge(&bare_syncs(kept.dir.path(), plan.turn)?);
    figures.fdatasync_us = syncs.micros_at(0.5);
    figures.disk_one_task_us = one.writes.micros_at(0.5);
    voice.say("many commits that wait for the disks, and that do not, in turns");
    let disk = Load { tasks: TASKS_MANY, durability: Durability::Disk, rate: None };
    let memory = Load { durability: Durability::Memory, ..disk };
    let many = turns(&kept.side(&disk), &kept.side(&memory), voice, plan, TURNS).await?;
    figures.disk = compared(&many);
    let busy = Lab::start(voice, plan, &busy).await?;
    voice.say("commits while checkpoints are written, and without, in turns");
    let usual = Load { tasks: TASKS, ..Load::default() };
    let peak = turns(&busy.side(&usual), &kept.side(&usual), voice, plan, TURNS).await?;
    figures.checkpoints = compared(&peak);
    let rates = peak.iter().map(|(_, kept)| kept.all.ops_per_s());
    let half = Load { rate: Some((median(rates.collect()) / 2.0) as u64), ..usual };
    voice.say("the same at half of the peak rate");
    let calm = turns(&busy.side(&half), &kept.side(&half), voice, plan, TURNS_CALM).await?;
    let p99 = |side: &Loaded| side.writes.micros_at(0.99);
    figures.checkpoints_p99 =
        median(calm.iter().map(|(busy, kept)| p99(busy) / p99(kept)).collect());
    drop((busy, kept));
    let mut usual = Lab::start(voice, plan, &Shape::two_by_two()).await?;
    voice.say("a node is away for ten seconds and comes back under load");
    figures.rejoin = rejoin::run(voice, &mut usual, plan.turn).await?;
    Ok(figures)
}

/// What a side is measured with.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    tasks: u32,
    durability: Durability,
    rate: Option<u64>,
}

/// A cluster with a filled table.
pub(super) struct Lab {
    dir: TempDir,
    pub(super) client: Client,
    pub(super) table: BenchTable,
    pub(super) keys: u64,
    pub(super) cluster: LocalCluster,
}

impl Lab {
    async fn start(voice: &Voice, plan: &Plan, shape: &Shape) -> CliResult<Self> {
        let dir = tempfile::tempdir().map_err(|error| {
            CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
        })?;
        let cluster = LocalCluster::start(shape, dir.path(), false, Tie::Child)?;
        connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
        let client = connect::connect(&cluster.url(), PATIENCE).await?;
        let table = BenchTable::create(&client, "lockstep_bench_restart").await?;
        table.fill(voice, plan.keys).await?;
        Ok(Self { dir, client, table, keys: plan.keys, cluster })
    }

    fn side<'a>(&'a self, load: &'a Load) -> Side<'a> {
        Side { lab: self, load }
    }

    /// The share of a core that a data node takes while nobody asks anything of it.
    async fn idle(&self, time: Duration) -> CliResult<f64> {
        let sources = CpuSources::find(&self.client).await?;
        tokio::time::sleep(IDLE_AFTER).await;
        let (began, before) = (Instant::now(), sources.nodes(&self.client).await?);
        tokio::time::sleep(time).await;
        let cpu = sources.nodes(&self.client).await?.saturating_sub(before);
        let nodes = self.client.view().await?.members.len();
        Ok(cpu.as_secs_f64() / began.elapsed().as_secs_f64() / nodes as f64)
    }
}

/// One of two that are measured in turns.
struct Side<'a> {
    lab: &'a Lab,
    load: &'a Load,
}

impl Side<'_> {
    async fn run(&self, voice: &Voice, plan: &Plan) -> CliResult<Loaded> {
        let Load { tasks, durability, rate } = *self.load;
        let plan = point::Plan {
            load: load::Plan { tasks, time: plan.turn, rate, wake: BURSTS },
            write_percent: 100,
            keys: self.lab.keys,
            write: PointWrite::Upsert,
            rows: 1,
            floor: false,
        };
        // Only its summary is of interest.
        let voice = Voice { quiet: !voice.verbose, ..*voice };
        let table = self.lab.table.with_durability(durability);
        let loaded = point::drive(&self.lab.client, &voice, &plan, &table).await?;
        if let Some(error) = &loaded.first_error {
            return Err(CliError::new(Trouble::NotVerified, "commits failed").why(error.clone()));
        }
        loaded.all.known_cpu()?;
        Ok(loaded)
    }
}

/// Both sides in turns, each as often first as second.
async fn turns(
    this: &Side<'_>,
    that: &Side<'_>,
    voice: &Voice,
    plan: &Plan,
    count: usize,
) -> CliResult<Vec<(Loaded, Loaded)>> {
    let mut turns = Vec::new();
    for turn in 0..count {
        let pair = if turn % 2 == 0 {
            let this = this.run(voice, plan).await?;
            (this, that.run(voice, plan).await?)
        } else {
            let that = that.run(voice, plan).await?;
            (this.run(voice, plan).await?, that)
        };
        let rate = |side: &Loaded| side.all.ops_per_s();
        let p99 = |side: &Loaded| side.writes.micros_at(0.99);
        voice.say(format!(
            "  {:>2} of {count}  {:>8.0} and {:>8.0} ops/s  p99 {:>8} and {:>8} µs",
            turn + 1,
            rate(&pair.0),
            rate(&pair.1),
            p99(&pair.0),
            p99(&pair.1),
        ));
        turns.push(pair);
    }
    Ok(turns)
}

fn compared(turns: &[(Loaded, Loaded)]) -> Compared {
    let of = |figure: fn(&Loaded) -> f64| {
        median(turns.iter().map(|(this, that)| figure(this) / figure(that).max(1e-9)).collect())
    };
    Compared {
        throughput: of(|side| side.all.ops_per_s()),
        cpu: of(|side| side.all.cpu_us_per_op().unwrap_or_default()),
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Appends a block and makes it durable, again and again.
fn bare_syncs(dir: &Path, time: Duration) -> CliResult<Latencies> {
    let path = dir.join("fdatasync");
    let failed = |error: std::io::Error| CliError::file("measure the disk with", &path, &error);
    let mut file = File::create(&path).map_err(failed)?;
    let (mut syncs, deadline) = (Latencies::default(), Instant::now() + time);
    while Instant::now() < deadline {
        let began = Instant::now();
        file.write_all(&[0x5a; SYNC_BLOCK_BYTES]).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        syncs.record(began.elapsed());
    }
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(syncs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_them() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn appends_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let syncs = bare_syncs(dir.path(), Duration::from_millis(20)).unwrap();
        assert!(syncs.count() > 0 && syncs.micros_at(0.5) > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it cleans up");
    }
}
