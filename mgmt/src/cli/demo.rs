//! `lockstep demo`: reads the arguments of [`crate::demo`].

use std::time::Duration;

use serde_json::json;

use super::error::{CliResult, ExitKind};
use super::output::thousands;
use super::{Global, block_on, duration, interrupt, stdout_error};
use crate::bench::measure::round_to;
use crate::demo::story::{Ending, Plan, play};

const EXAMPLES: &str = "\
Examples:
  lockstep demo
  lockstep demo --seconds 60s --tasks 64
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
    /// How long to transfer; the kill comes in the middle
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = duration::parse)]
    pub(super) seconds: Duration,
}

pub(super) fn run(global: &Global, args: &DemoArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
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
        "replicas_different": ending.different,
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
    );
    if !ending.verified {
        text += &format!(
            "  NOT VERIFIED   {} invented, {} mangled, {} wrong balances; different: {}\n",
            finding.invented,
            finding.mangled,
            finding.wrong_balances,
            ending.different.join(", "),
        );
    }
    text
}
