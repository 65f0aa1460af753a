//! `lockstep bench`: reads the arguments of [`crate::bench`].

use std::time::Duration;

use clap::ValueEnum;
use lockstep_client::{Client, Durability};
use serde_json::{Map, Value};

use super::error::{CliResult, ExitKind};
use super::output::{Voice, table, thousands};
use super::{Global, block_on, connect, duration, interrupt, node, stdout_error};
use crate::bench::backup;
use crate::bench::load::{self, Loaded};
use crate::bench::measure::{Measured, round_to};
use crate::bench::pace::WAKE_INTERVAL;
use crate::bench::restart;
use crate::bench::{durable, failover, memory, moves, point, rolling, tpcb};
use crate::dev::process::Signal;

const POINT_EXAMPLES: &str = "\
Examples:
  lockstep bench point --tasks 64 --write 100 --floor        commits, beside four bare hops
  lockstep bench point --tasks 64 --write 0 --floor          reads, beside two bare hops
  lockstep bench point --tasks 64 --op transfer --floor      two rows on two partitions, six hops
  lockstep bench point --tasks 64 --keys 1 --op increment    one hot counter
  lockstep bench point --tasks 256 --rate 20000 --write 20   open loop, no coordinated omission";

/// Arguments of `lockstep bench`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum BenchCommand {
    /// Single-row reads and writes, increments or transfers
    #[command(after_help = POINT_EXAMPLES)]
    Point(PointArgs),
    /// One-shot batches of many rows
    Batch(BatchArgs),
    /// The TPC-B transaction: account, teller, branch and a history row
    Tpcb(TpcbArgs),
    /// Fill rows and report what one costs in memory
    Memory(MemoryArgs),
    /// How long clients wait when a data node dies; uses fresh clusters of its own
    Failover(FailoverArgs),
    /// What coming back costs: loading, replaying, and writing; uses fresh clusters of its own
    Restart(RestartArgs),
    /// For how long writes to a partition stop while it moves; uses a fresh cluster of its own
    Move(MoveArgs),
    /// What a backup under load and a restore cost; uses fresh clusters of its own
    Backup(BackupArgs),
    /// What transactions notice of a rolling restart; uses a fresh cluster of its own
    Rolling(RollingArgs),
}

/// Arguments of `lockstep bench rolling`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RollingArgs {
    /// Rows of the table
    #[arg(long, default_value_t = 1_000_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub(super) keys: u64,
    /// How long the peak, and the quiet cluster, are measured
    #[arg(long, default_value = "10", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
}

/// Arguments of `lockstep bench move`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct MoveArgs {
    /// Partitions of the cluster: half of them move to a second node group, and back
    #[arg(long, default_value_t = 16, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub(super) partitions: u16,
    /// Rows of the table
    #[arg(long, default_value_t = 100_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) rows: u64,
    /// How often there and back
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(super) rounds: u32,
}

/// Arguments of `lockstep bench backup`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct BackupArgs {
    /// Rows of the table
    #[arg(long, default_value_t = 1_000_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub(super) keys: u64,
    /// How long each turn of the load takes; longer if a backup is
    #[arg(long, default_value = "5", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
    /// Turns with backups, as many without, and restores of each kind
    #[arg(long, default_value_t = 11, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(super) turns: u32,
}

/// What every load has.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// Tasks that work at the same time
    #[arg(long, default_value_t = 64, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) tasks: u32,
    /// How long to measure
    #[arg(long, default_value = "10", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
    /// Operations per second to start, whether or not earlier ones are answered (open loop)
    #[arg(long, value_name = "R")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) rate: Option<u64>,
    /// Acknowledge commits when they are in memory or on the disks of all in-sync replicas
    #[arg(long, value_enum, default_value_t = BenchDurability::Memory, value_name = "WHERE")]
    pub(super) durability: BenchDurability,
    /// Measure bare processes that pass the same bytes along as many hops, in the same run
    #[arg(long)]
    pub(super) floor: bool,
}

/// When commits are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum BenchDurability {
    /// In the memory of all in-sync replicas
    Memory,
    /// On their disks, too
    Disk,
}

impl From<BenchDurability> for Durability {
    fn from(durability: BenchDurability) -> Self {
        match durability {
            BenchDurability::Memory => Self::Memory,
            BenchDurability::Disk => Self::Disk,
        }
    }
}

/// Arguments of `lockstep bench point`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct PointArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Percentage of operations that write; the others are committed reads
    #[arg(long, default_value_t = 100, value_name = "PERCENT")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) write: u8,
    /// Rows to choose from
    #[arg(long, default_value_t = 100_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) keys: u64,
    /// What a write does
    #[arg(long, value_enum, default_value_t = PointOp::Upsert, value_name = "OP")]
    pub(super) op: PointOp,
}

/// What a write of `bench point` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum PointOp {
    /// Puts a whole row
    Upsert,
    /// Adds one to a column
    Increment,
    /// Moves an amount between two rows on two partitions, in one batch
    Transfer,
}

impl PointOp {
    /// The name in reports.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upsert => "upsert",
            Self::Increment => "increment",
            Self::Transfer => "transfer",
        }
    }
}

/// Arguments of `lockstep bench batch`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct BatchArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Rows in a batch
    #[arg(long, default_value_t = 100, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) rows: u16,
    /// Percentage of batches that write; the others read
    #[arg(long, default_value_t = 100, value_name = "PERCENT")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) write: u8,
    /// Rows to choose from
    #[arg(long, default_value_t = 100_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) keys: u64,
}

/// Arguments of `lockstep bench tpcb`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct TpcbArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Bank branches; each has 10 tellers and 10 000 accounts
    #[arg(long, default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) branches: u32,
}

/// Arguments of `lockstep bench memory`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct MemoryArgs {
    /// Rows to fill, each a u64 key and 100 bytes
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    pub(super) rows: u64,
}

/// Arguments of `lockstep bench failover`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FailoverArgs {
    /// How many clusters lose a node, one after the other
    #[arg(long, default_value_t = 20, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) kills: u32,
    /// How a node is lost: killed (SIGKILL) or silent (SIGSTOP)
    #[arg(long, value_enum, default_value_t = FailoverSignal::Kill, value_name = "SIGNAL")]
    pub(super) signal: FailoverSignal,
    /// Node groups of each cluster
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(super) groups: u16,
    /// Data nodes per group
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=4))]
    pub(super) replicas: u16,
    /// Tasks that commit to rows led by the lost node
    #[arg(long, default_value_t = 8, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) tasks: u16,
}

/// Arguments of `lockstep bench restart`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RestartArgs {
    /// Rows of the checkpoint, and records of the redo log
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) rows: u64,
    /// How long each turn of a measurement with clusters takes
    #[arg(long, default_value = "3", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
    /// Rows that the clusters write to
    #[arg(long, default_value_t = 100_000, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub(super) keys: u64,
    /// Only what needs no cluster: loading and replaying on one core, without a disk
    #[arg(long)]
    pub(super) no_clusters: bool,
}

/// How `bench failover` takes a node away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum FailoverSignal {
    /// SIGKILL: its sockets end at once
    Kill,
    /// SIGSTOP: it falls silent
    Stop,
}

impl LoadArgs {
    fn plan(&self) -> load::Plan {
        load::Plan { tasks: self.tasks, time: self.seconds, rate: self.rate, wake: WAKE_INTERVAL }
    }
}

pub(super) fn run(global: &Global, command: &BenchCommand) -> CliResult<ExitKind> {
    match command {
        BenchCommand::Point(args) => run_point(global, args),
        BenchCommand::Batch(args) => run_batch(global, args),
        BenchCommand::Tpcb(args) => run_tpcb(global, args),
        BenchCommand::Memory(args) => run_memory(global, args),
        BenchCommand::Failover(args) => run_failover(global, args),
        BenchCommand::Restart(args) => run_restart(global, args),
        BenchCommand::Backup(args) => run_backup(global, args),
        BenchCommand::Rolling(args) => run_rolling(global, args),
        BenchCommand::Move(args) => run_move(global, args),
    }
}

fn run_point(global: &Global, args: &PointArgs) -> CliResult<ExitKind> {
    let plan = point::Plan {
        load: args.load.plan(),
        write_percent: args.write,
        keys: args.keys,
        write: match args.op {
            PointOp::Upsert => point::Write::Upsert,
            PointOp::Increment => point::Write::Increment,
            PointOp::Transfer => point::Write::Transfer,
        },
        rows: 1,
        floor: args.load.floor,
    };
    let outcome = with_client(global, &args.load, async |client, voice| {
        point::run(client, voice, &plan).await
    })?;
    let mut report = Report::of_load("point", &args.load);
    report.set("op", args.op.name());
    report.set("write_percent", args.write);
    report.set("keys", args.keys);
    report.loaded(&outcome.loaded);
    report.floor(&outcome.loaded.all, outcome.floor.as_ref());
    report.print(&global.voice())
}

fn run_batch(global: &Global, args: &BatchArgs) -> CliResult<ExitKind> {
    let plan = point::Plan {
        load: args.load.plan(),
        write_percent: args.write,
        keys: args.keys,
        write: point::Write::Upsert,
        rows: args.rows,
        floor: args.load.floor,
    };
    let outcome = with_client(global, &args.load, async |client, voice| {
        point::run(client, voice, &plan).await
    })?;
    let mut report = Report::of_load("batch", &args.load);
    report.set("rows_per_batch", args.rows);
    report.set("write_percent", args.write);
    report.set("keys", args.keys);
    report.loaded(&outcome.loaded);
    let rows_per_s = outcome.loaded.all.ops_per_s() * f64::from(args.rows);
    report.set("rows_per_s", round_to(rows_per_s, 1));
    report.floor(&outcome.loaded.all, outcome.floor.as_ref());
    report.print(&global.voice())
}

fn run_tpcb(global: &Global, args: &TpcbArgs) -> CliResult<ExitKind> {
    let plan = args.load.plan();
    let loaded = with_client(global, &args.load, async |client, voice| {
        tpcb::run(client, voice, &plan, args.branches).await
    })?;
    let mut report = Report::of_load("tpcb", &args.load);
    report.set("branches", args.branches);
    report.loaded(&loaded);
    report.print(&global.voice())
}

fn run_memory(global: &Global, args: &MemoryArgs) -> CliResult<ExitKind> {
    let filled = block_on(async {
        let client = connect::client(global).await?;
        memory::run(&client, &global.voice(), args.rows).await
    })?;
    let mut report = Report::new("memory");
    report.set("rows", args.rows);
    report.set("node", filled.node.0);
    report.set("rows_on_node", filled.rows);
    report.set("rss_growth_bytes", filled.rss_growth);
    report.set("rss_bytes_per_row", filled.rss_per_row());
    report.set("counted_bytes_per_row", filled.counted_per_row());
    report.set("overhead_bytes_per_row", round_to(filled.overhead_per_row(), 2));
    report.print(&global.voice())
}

fn run_backup(global: &Global, args: &BackupArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let BackupArgs { keys, seconds: time, turns } = *args;
    let plan = backup::Plan { keys, time, turns };
    let figures = block_on(interrupt::or_interrupted(backup::run(&voice, &plan)))?;
    let mut report = Report::new("backup");
    report.set("rows", keys);
    report.set("row_bytes", figures.row_bytes);
    report.set("file_bytes", figures.file_bytes);
    report.set("peak_per_s", round_to(figures.peak_per_s, 1));
    report.set("backup_s", round_to(figures.backup_s, 3));
    let cost = figures.backup_mb_per_cpu_s.map(|cost| round_to(cost, 1));
    report.set("backup_mb_per_cpu_second", cost);
    report.set("backup_share", round_to(figures.backup_share, 3));
    report.set("rate_ratio", round_to(figures.rate_ratio, 3));
    report.set("p99_ratio", round_to(figures.p99_ratio, 3));
    let [one, two] = figures.restore_mb_per_cpu_s;
    report.set("restore_mb_per_cpu_second_r1", round_to(one, 1));
    report.set("restore_mb_per_cpu_second_r2", round_to(two, 1));
    report.set("restore_s_r1", round_to(figures.restore_s[0], 3));
    report.set("restore_s_r2", round_to(figures.restore_s[1], 3));
    report.print(&voice)
}

fn run_rolling(global: &Global, args: &RollingArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let plan = rolling::Plan { keys: args.keys, time: args.seconds };
    let restart = async |client: &Client| node::restart_all(global, client).await;
    let figures = block_on(interrupt::or_interrupted(rolling::run(&voice, &plan, restart)))?;
    let seconds = |time: &Duration| round_to(time.as_secs_f64(), 3);
    let mut report = Report::new("rolling");
    report.set("rows", args.keys);
    report.set("peak_per_s", round_to(figures.peak_per_s, 1));
    let nodes = figures.nodes.iter().map(|(_, time)| seconds(time));
    report.set("node_s", nodes.collect::<Vec<f64>>());
    report.set("restart_s", seconds(&figures.time));
    report.set("transactions", figures.done);
    report.set("failed", figures.failed);
    report.set("not_started", figures.not_started);
    report.set("rate_ratio", round_to(figures.rate_ratio, 3));
    let ([quiet, busy], [longest_quiet, longest]) = (figures.p99_us, figures.longest_us);
    report.set("quiet_p99_us", quiet);
    report.set("p99_us", busy);
    report.set("quiet_longest_us", longest_quiet);
    report.set("longest_us", longest);
    if let Some(error) = figures.first_error {
        report.set("first_error", error);
    }
    report.print(&voice)
}

fn run_restart(global: &Global, args: &RestartArgs) -> CliResult<ExitKind> {
    let figures = restart::run(args.rows)?;
    let mut report = Report::new("restart");
    report.set("rows", figures.rows);
    report.set("checkpoint_write_rows_per_s", round_to(figures.checkpoint_write_per_s, 0));
    report.set("load_rows_per_s", round_to(figures.load_per_s, 0));
    report.set("load_floor_rows_per_s", round_to(figures.load_floor_per_s, 0));
    report.set("load_ratio", round_to(figures.load_ratio(), 3));
    report.set("redo_check_records_per_s", round_to(figures.redo_check_per_s, 0));
    report.set("redo_replay_records_per_s", round_to(figures.redo_replay_per_s, 0));
    let voice = global.voice();
    if args.no_clusters {
        return report.print(&voice);
    }
    let plan = durable::Plan { turn: args.seconds, keys: args.keys };
    let figures = block_on(interrupt::or_interrupted(durable::run(&voice, &plan)))?;
    report.set("commits_per_s", round_to(figures.commits_per_s, 1));
    report.set("redo_throughput_ratio", round_to(figures.redo.throughput, 3));
    report.set("redo_cpu_ratio", round_to(figures.redo.cpu, 3));
    report.set("idle_core_share", round_to(figures.idle_core_share, 5));
    report.set("fdatasync_p50_us", figures.fdatasync_us);
    report.set("disk_one_task_p50_us", figures.disk_one_task_us);
    report.set("disk_one_task_fdatasyncs", round_to(figures.disk_one_task_syncs(), 2));
    report.set("disk_throughput_ratio", round_to(figures.disk.throughput, 3));
    report.set("disk_cpu_ratio", round_to(figures.disk.cpu, 3));
    report.set("checkpoint_throughput_ratio", round_to(figures.checkpoints.throughput, 3));
    report.set("checkpoint_cpu_ratio", round_to(figures.checkpoints.cpu, 3));
    report.set("checkpoint_p99_ratio", round_to(figures.checkpoints_p99, 3));
    report.set("rejoin_s", round_to(figures.rejoin.seconds, 3));
    report.set("rejoin_throughput_ratio", round_to(figures.rejoin.throughput, 3));
    report.set("rejoin_copied_of_changed", round_to(figures.rejoin.copied_of_changed, 3));
    report.set("rejoin_copied_of_held", round_to(figures.rejoin.copied_of_held, 4));
    report.print(&voice)
}

fn run_failover(global: &Global, args: &FailoverArgs) -> CliResult<ExitKind> {
    let plan = failover::Plan {
        kills: args.kills,
        signal: match args.signal {
            FailoverSignal::Kill => Signal::Kill,
            FailoverSignal::Stop => Signal::Stop,
        },
        groups: args.groups,
        replicas: args.replicas,
        tasks: args.tasks,
    };
    let voice = global.voice();
    let gaps = block_on(interrupt::or_interrupted(failover::run(&voice, &plan)))?;
    let millis = |time: Duration| round_to(time.as_secs_f64() * 1e3, 2);
    let mut report = Report::new("failover");
    report.set("kills", args.kills);
    report.set("signal", if args.signal == FailoverSignal::Kill { "kill" } else { "stop" });
    report.set("median_ms", millis(gaps.median()));
    report.set("worst_ms", millis(gaps.worst()));
    report.set("gaps_ms", gaps.gaps.iter().map(|gap| millis(*gap)).collect::<Vec<f64>>());
    report.set("unknown", gaps.unknown);
    report.set("failed", gaps.failed);
    if let Some(error) = gaps.first_error {
        report.set("first_error", error);
    }
    report.print(&voice)
}

fn run_move(global: &Global, args: &MoveArgs) -> CliResult<ExitKind> {
    let MoveArgs { partitions, rows, rounds } = *args;
    let plan = moves::Plan { partitions, rows, rounds };
    let voice = global.voice();
    let stops = block_on(interrupt::or_interrupted(moves::run(&voice, &plan)))?;
    let millis = |time: Duration| round_to(time.as_secs_f64() * 1e3, 2);
    let worst = |times: &[Duration]| millis(times.iter().max().copied().unwrap_or_default());
    let mut report = Report::new("move");
    report.set("partitions", partitions);
    report.set("rows", rows);
    report.set("moves", stops.stops.len());
    report.set("median_ms", millis(moves::median(&stops.stops)));
    report.set("worst_ms", worst(&stops.stops));
    report.set("stops_ms", stops.stops.iter().map(|stop| millis(*stop)).collect::<Vec<f64>>());
    report.set("others_median_ms", millis(moves::median(&stops.others)));
    report.set("others_worst_ms", worst(&stops.others));
    report.set("seconds_each", round_to(stops.each, 3));
    report.set("commits", stops.commits);
    report.set("failed", stops.failed);
    report.print(&voice)
}

/// Connects, works, and gives up the connection.
fn with_client<T>(
    global: &Global,
    load: &LoadArgs,
    work: impl AsyncFnOnce(&Client, &Voice) -> CliResult<T>,
) -> CliResult<T> {
    block_on(async {
        let client = connect::client(global).await?.with_durability(load.durability.into());
        work(&client, &global.voice()).await
    })
}

/// What a bench prints: one JSON object, or its keys and values for people.
struct Report(Map<String, Value>);

impl Report {
    fn new(bench: &str) -> Self {
        let mut report = Self(Map::new());
        report.set("schema", "lockstep.bench/v1");
        report.set("bench", bench);
        report
    }

    fn of_load(bench: &str, args: &LoadArgs) -> Self {
        let mut report = Self::new(bench);
        report.set("tasks", args.tasks);
        if args.durability == BenchDurability::Disk {
            report.set("durability", "disk");
        }
        if let Some(rate) = args.rate {
            report.set("rate", rate);
        }
        report
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn loaded(&mut self, loaded: &Loaded) {
        self.0.extend(loaded.all.to_json());
        if loaded.reads.count() > 0 && loaded.writes.count() > 0 {
            self.set("read_p50_us", loaded.reads.micros_at(0.5));
            self.set("read_p99_us", loaded.reads.micros_at(0.99));
            self.set("write_p50_us", loaded.writes.micros_at(0.5));
            self.set("write_p99_us", loaded.writes.micros_at(0.99));
        }
        self.set("errors", loaded.errors);
        if let Some(error) = &loaded.first_error {
            self.set("first_error", error.as_str());
        }
        if loaded.left_behind > 0 {
            self.set("not_started", loaded.left_behind);
        }
    }

    fn floor(&mut self, measured: &Measured, floor: Option<&Measured>) {
        let Some(floor) = floor else { return };
        let of = |a: f64, b: f64| if b > 0.0 { round_to(a / b, 3) } else { 0.0 };
        let (p50, floor_p50) = (measured.latencies.micros_at(0.5), floor.latencies.micros_at(0.5));
        self.set("floor_p50_us", floor_p50);
        let bare = floor.ops_per_cpu_second();
        self.set("floor_ops_per_cpu_second", bare.map(|ops| round_to(ops, 1)));
        self.set("p50_over_floor", of(p50, floor_p50));
        let ours = measured.ops_per_cpu_second();
        self.set("cpu_over_floor", bare.zip(ours).map(|(bare, ours)| of(bare, ours)));
    }

    fn print(self, voice: &Voice) -> CliResult<ExitKind> {
        let cell = |value: &Value| match value {
            Value::Number(number) if number.is_u64() => {
                thousands(number.as_u64().unwrap_or_default())
            }
            Value::String(text) => text.clone(),
            Value::Null => "unknown".to_owned(),
            other => other.to_string(),
        };
        let rows: Vec<Vec<String>> = self
            .0
            .iter()
            .filter(|(key, _)| *key != "schema")
            .map(|(key, value)| vec![key.clone(), cell(value)])
            .collect();
        let json = Value::Object(self.0.clone());
        voice.data(&json, || table(&["figure", "value"], &rows)).map_err(stdout_error)?;
        Ok(ExitKind::Done)
    }
}
