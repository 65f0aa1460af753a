//! `lockstep top`: what every data node does, per second.

use std::time::{Duration, Instant};

use lockstep_proto::ids::GroupId;
use serde_json::{Value, json};

use super::error::{CliResult, ExitKind};
use super::output::{bytes, table, thousands};
use super::status::{NodeReport, Page, collect};
use super::watch::{Look, repeat};
use super::{Global, block_on, connect, duration};

const NOTES: &str = "\
Examples:
  lockstep top                                    every second, until Ctrl-C
  lockstep top -o jsonl --count 10 | jq .committed_per_second
  lockstep top --every 5s

CPU is that of a node's process: 100 % is one processor. Commits are counted at the node that
coordinated them, reads at the node that answered them.";

/// Arguments of `lockstep top`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = NOTES)]
pub(super) struct TopArgs {
    /// The time between two looks
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration::parse)]
    every: Duration,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) fn run(global: &Global, args: &TopArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    // Two looks at the same moment have no rate.
    let every = args.every.max(Duration::from_millis(50));
    block_on(async {
        let client = connect::client(global).await?;
        let mut before = (Instant::now(), collect(&client).await?);
        tokio::time::sleep(every).await;
        repeat(&voice, every, args.count, async || {
            let now = (Instant::now(), collect(&client).await?);
            let seconds = now.0.duration_since(before.0).as_secs_f64();
            let top = Top::of(&before.1, &now.1, seconds);
            let look = Look { json: top.json(), text: top.text(&now.1), exit: ExitKind::Done };
            before = now;
            Ok(look)
        })
        .await
    })
}

/// Rates of one node, or of all.
#[derive(Clone, Copy, Default)]
struct Rates {
    committed: f64,
    aborted: f64,
    reads: f64,
    /// Processors used.
    cpu: f64,
}

impl Rates {
    /// `None` if it is silent, or began another life in between.
    fn of(before: &NodeReport, now: &NodeReport, seconds: f64) -> Option<Self> {
        let same = before.member.instance == now.member.instance;
        let whole = now.shards.len() == before.shards.len() && !now.shards.is_empty();
        (same && whole && seconds > 0.0).then(|| {
            let rate =
                |of: fn(&NodeReport) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
            Self {
                committed: rate(|node| node.sum(|s| s.committed)),
                aborted: rate(|node| node.sum(|s| s.aborted)),
                reads: rate(|node| node.sum(|s| s.reads)),
                cpu: rate(NodeReport::cpu_us) / 1e6,
            }
        })
    }
}

struct Line {
    node: u16,
    group: GroupId,
    state: &'static str,
    rates: Option<Rates>,
    open: u64,
    clients: u64,
    data: (u64, u64),
    rss: u64,
    redo_waiting: Option<u64>,
    primaries: u64,
}

struct Top {
    seconds: f64,
    health: &'static str,
    all: Rates,
    lines: Vec<Line>,
}

impl Top {
    fn of(before: &Page, now: &Page, seconds: f64) -> Self {
        let line = |node: &NodeReport| {
            let id = node.member.instance.node;
            let earlier = before.nodes.iter().find(|n| n.member.instance.node == id);
            Line {
                node: id.0,
                group: node.member.group,
                state: node.state(),
                rates: earlier.and_then(|earlier| Rates::of(earlier, node, seconds)),
                open: node.sum(|s| s.open),
                clients: node.sum(|s| u64::from(s.clients)),
                data: node.memory(),
                rss: node.rss_bytes(),
                redo_waiting: node.disk().map(|disk| disk.redo_waiting_bytes),
                primaries: node.primaries(),
            }
        };
        let lines: Vec<Line> = now.nodes.iter().map(line).collect();
        let known = lines.iter().filter_map(|line| line.rates);
        let all = known.fold(Rates::default(), |sum, rates| Rates {
            committed: sum.committed + rates.committed,
            aborted: sum.aborted + rates.aborted,
            reads: sum.reads + rates.reads,
            cpu: sum.cpu + rates.cpu,
        });
        Self { seconds, health: now.health().name(), all, lines }
    }

    fn json(&self) -> Value {
        let nodes = self.lines.iter().map(|line| {
            json!({
                "node": line.node,
                "group": line.group.number(),
                "state": line.state,
                "committed_per_second": line.rates.map(|rates| rates.committed),
                "aborted_per_second": line.rates.map(|rates| rates.aborted),
                "reads_per_second": line.rates.map(|rates| rates.reads),
                "cpus": line.rates.map(|rates| rates.cpu),
                "open": line.open,
                "clients": line.clients,
                "partitions_primary": line.primaries,
                "data_bytes": line.data.0,
                "data_bytes_max": line.data.1,
                "rss_bytes": line.rss,
                "redo_waiting_bytes": line.redo_waiting,
            })
        });
        json!({
            "schema": "lockstep.top/v1",
            "seconds": self.seconds,
            "health": self.health,
            "committed_per_second": self.all.committed,
            "aborted_per_second": self.all.aborted,
            "reads_per_second": self.all.reads,
            "cpus": self.all.cpu,
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }

    fn text(&self, page: &Page) -> String {
        let whole = |rate: f64| thousands(rate.round() as u64);
        let all = &self.all;
        let headers = [
            "node",
            "group",
            "state",
            "commits/s",
            "aborts/s",
            "reads/s",
            "open",
            "clients",
            "primary",
            "cpu",
            "data",
            "used",
            "rss",
            "redo waits",
        ];
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let rate = |of: fn(&Rates) -> f64| {
                    line.rates.map_or("-".to_owned(), |rates| whole(of(&rates)))
                };
                let cpu = line.rates.map_or("-".into(), |r| format!("{:.0} %", r.cpu * 100.0));
                let (used, limit) = line.data;
                let percent = used.saturating_mul(100).checked_div(limit).unwrap_or_default();
                vec![
                    line.node.to_string(),
                    line.group.in_words(),
                    line.state.to_owned(),
                    rate(|r| r.committed),
                    rate(|r| r.aborted),
                    rate(|r| r.reads),
                    thousands(line.open),
                    thousands(line.clients),
                    line.primaries.to_string(),
                    cpu,
                    bytes(used),
                    format!("{percent} %"),
                    bytes(line.rss),
                    line.redo_waiting.map_or("-".to_owned(), bytes),
                ]
            })
            .collect();
        let troubles = page.troubles();
        let why =
            if troubles.is_empty() { String::new() } else { format!(": {}", troubles.join("; ")) };
        format!(
            "{}{why}\n{} commits/s, {} aborts/s, {} reads/s, {:.1} processors, {} rows, epoch \
             {}\n\n{}",
            self.health,
            whole(all.committed),
            whole(all.aborted),
            whole(all.reads),
            all.cpu,
            thousands(page.rows()),
            page.epoch(),
            table(&headers, &rows),
        )
    }
}
