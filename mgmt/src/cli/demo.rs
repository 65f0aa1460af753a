//! `lockstep demo`: reads the arguments of [`crate::demo`].

use std::time::Duration;

use serde_json::json;

use super::error::{CliResult, ExitKind};
use super::output::thousands;
use super::{Global, block_on, duration, interrupt, stdout_error};
use crate::bench::measure::round_to;
use crate::demo::soak::{Outcome, Soak, soak};
use crate::demo::story::{Ending, Plan, play};

const EXAMPLES: &str = "\
Examples:
  lockstep demo
  lockstep demo --seconds 60s --tasks 64
  lockstep demo --soak 10m -o json          nodes are killed for ten minutes
  lockstep demo -o json | jq '{committed, lost, failover_gap_ms}'";

/// Arguments of `lockstep demo`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Bank accounts to load
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    pub(super) accounts: u64,
    /// Tasks that transfer money at the same time
    #[arg(long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) tasks: u16,
    /// How long to transfer while a node dies and comes back
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
    /// Instead: kill nodes at random for so long, start them again, and verify
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "seconds")]
    pub(super) soak: Option<Duration>,
    /// Which kills, of a soak
    #[arg(long, default_value_t = 1, value_name = "N", requires = "soak")]
    pub(super) seed: u64,
}

pub(super) fn run(global: &Global, args: &DemoArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    if let Some(time) = args.soak {
        let (accounts, tasks) = (args.accounts, u32::from(args.tasks));
        let plan = Soak { accounts, tasks, time, seed: args.seed };
        let outcome = block_on(interrupt::or_interrupted(soak(&voice, &plan)))?;
        let text = || describe_soak(&outcome);
        voice.data(&soak_to_json(&plan, &outcome), text).map_err(stdout_error)?;
        return Ok(if outcome.verified { ExitKind::Done } else { ExitKind::Failed });
    }
    let plan = Plan { accounts: args.accounts, tasks: u32::from(args.tasks), time: args.seconds };
    let ending = block_on(interrupt::or_interrupted(play(&voice, &plan)))?;
    voice.data(&to_json(&plan, &ending), || describe(&plan, &ending)).map_err(stdout_error)?;
    Ok(if ending.verified { ExitKind::Done } else { ExitKind::Failed })
}

fn to_json(plan: &Plan, ending: &Ending) -> serde_json::Value {
    let finding = &ending.finding;
    json!({
        "schema": "lockstep.demo/v1",
        "verified": ending.verified,
        "nodes": ending.nodes,
        "killed": 1,
        "accounts": plan.accounts,
        "tasks": plan.tasks,
        "seconds": round_to(ending.time.as_secs_f64(), 3),
        "committed": ending.committed,
        "refused": ending.refused,
        "unknown": ending.unknown,
        "retries": ending.retries,
        "lost": finding.lost,
        "invented": finding.invented,
        "mangled": finding.mangled,
        "wrong_balances": finding.wrong_balances,
        "total": finding.total,
        "replicas_read": ending.replicas,
        "replicas_equal": ending.replicas_equal,
        "replicas_different": ending.different,
        "rejoin_s": round_to(ending.rejoin.as_secs_f64(), 3),
        "restart_s": round_to(ending.restart.as_secs_f64(), 3),
        "restored_epoch": ending.restored_epoch.0,
        "durable": ending.cut.durable,
        "durable_lost": ending.cut.durable_lost,
        "memory_lost": ending.cut.memory_lost,
        "backup_epoch": ending.copied.epoch.0,
        "backup_rows": ending.copied.rows,
        "backup_bytes": ending.copied.file_bytes,
        "backup_s": round_to(ending.copied.backup.as_secs_f64(), 3),
        "restore_s": round_to(ending.copied.restore.as_secs_f64(), 3),
        "restore_verified": ending.copied.equal,
        "out_of_order": ending.cut.out_of_order,
        "failover_gap_ms": round_to(ending.failover_gap.as_secs_f64() * 1e3, 2),
        "throughput_per_s": ending.throughput(),
        "commit_p50_us": ending.latencies.micros_at(0.5),
        "commit_p99_us": ending.latencies.micros_at(0.99),
    })
}

fn describe(plan: &Plan, ending: &Ending) -> String {
    let finding = &ending.finding;
    let mut text = format!(
        "
  transfers      {} committed in {:.1} s, {} per second, two partitions each
  latency        p50 {:.0} µs, p99 {:.0} µs
  the kill       clients waited {:.0} ms at most; {} retries, {} unknown
  not done       {} (the payer had too little)
  verified       {} accounts, {} replicas of partitions, total {}
  lost           {}
  came back      data node 1 was in sync again {:.2} s after its start, under load
  power loss     all processes killed at once; served again after {:.2} s, as of epoch {}
  on disk        {} transfers acknowledged as on disk, {} of them lost
  in memory      the last {} transfers acknowledged in memory are gone, as a whole
  backup         {} rows as of epoch {}, made in {:.2} s under load
  restored       into 3 groups of 1 in {:.2} s; the same row by row: {}
",
        thousands(ending.committed),
        ending.time.as_secs_f64(),
        thousands(ending.throughput()),
        ending.latencies.micros_at(0.5),
        ending.latencies.micros_at(0.99),
        ending.failover_gap.as_secs_f64() * 1e3,
        ending.retries,
        ending.unknown,
        thousands(ending.refused),
        thousands(plan.accounts),
        ending.replicas,
        thousands(u64::try_from(finding.total).unwrap_or_default()),
        finding.lost,
        ending.rejoin.as_secs_f64(),
        ending.restart.as_secs_f64(),
        ending.restored_epoch.0,
        thousands(ending.cut.durable),
        ending.cut.durable_lost,
        thousands(ending.cut.memory_lost),
        thousands(ending.copied.rows),
        ending.copied.epoch.0,
        ending.copied.backup.as_secs_f64(),
        ending.copied.restore.as_secs_f64(),
        if ending.copied.equal { "yes" } else { "NO" },
    );
    if !ending.verified {
        text += &format!(
            "  NOT VERIFIED   {} invented, {} mangled, {} wrong balances; different: {}; after the \
             power loss: {} out of order, {:?}\n",
            finding.invented,
            finding.mangled,
            finding.wrong_balances,
            ending.different.join(", "),
            ending.cut.out_of_order,
            ending.cut.finding,
        );
    }
    text
}

fn soak_to_json(plan: &Soak, outcome: &Outcome) -> serde_json::Value {
    let (finding, longest) = (&outcome.finding, outcome.longest_wait());
    json!({
        "schema": "lockstep.soak/v1",
        "verified": outcome.verified,
        "accounts": plan.accounts,
        "tasks": plan.tasks,
        "seed": plan.seed,
        "seconds": round_to(outcome.time.as_secs_f64(), 3),
        "kills": outcome.kills,
        "kills_in_rejoin": outcome.kills_in_rejoin,
        "revived": outcome.revived,
        "ended_by_themselves": outcome.ended,
        "committed": outcome.committed,
        "refused": outcome.refused,
        "unknown": outcome.unknown,
        "lost": finding.lost,
        "invented": finding.invented,
        "mangled": finding.mangled,
        "wrong_balances": finding.wrong_balances,
        "total": finding.total,
        "replicas_read": outcome.replicas,
        "replicas_equal": outcome.replicas_equal,
        "replicas_different": outcome.different,
        "longest_gap_ms": round_to(longest.time.as_secs_f64() * 1e3, 2),
        "longest_gap_until_s": round_to(longest.until.as_secs_f64(), 3),
        "longest_memory_gap_ms": round_to(outcome.memory_wait.time.as_secs_f64() * 1e3, 2),
        "longest_memory_gap_until_s": round_to(outcome.memory_wait.until.as_secs_f64(), 3),
        "full_redundancy_s": round_to(outcome.last_rejoin.as_secs_f64(), 3),
        "commit_p50_us": outcome.latencies.micros_at(0.5),
        "commit_p99_us": outcome.latencies.micros_at(0.99),
    })
}

fn describe_soak(outcome: &Outcome) -> String {
    let finding = &outcome.finding;
    let mut text = format!(
        "
  transfers      {} committed in {:.0} s, {} refused, {} unknown
  kills          {}, of them {} while a node of the group was away; {} nodes started again
  clients        waited {:.0} ms at most; p50 {:.0} µs, p99 {:.0} µs
  redundancy     full again {:.1} s after the last kill
  verified       {} replicas of partitions, total {}
  lost           {}
",
        thousands(outcome.committed),
        outcome.time.as_secs_f64(),
        thousands(outcome.refused),
        outcome.unknown,
        outcome.kills,
        outcome.kills_in_rejoin,
        outcome.revived,
        outcome.longest_wait().time.as_secs_f64() * 1e3,
        outcome.latencies.micros_at(0.5),
        outcome.latencies.micros_at(0.99),
        outcome.last_rejoin.as_secs_f64(),
        outcome.replicas,
        thousands(u64::try_from(finding.total).unwrap_or_default()),
        finding.lost,
    );
    if !outcome.verified {
        text +=
            &format!("  NOT VERIFIED   {finding:?}; different: {}\n", outcome.different.join(", "));
    }
    text
}
