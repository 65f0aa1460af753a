//! `bench failover`: how long clients wait when a data node is lost, over many fresh clusters.
//!
//! Each cluster loses one node, another one each time. Tasks commit to rows that the lost node
//! leads, one row each; the gap of a run is the longest time between two successive
//! acknowledgements any of them saw around the loss.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_client::core::{CallError, Outcome};
use lockstep_proto::ids::NodeId;
use lockstep_proto::wire::op::OpList;
use tokio::task::JoinSet;

use super::gap::{Fault, Gap};
use super::rows::BenchTable;
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::{Signal, Tie};

/// Rows to choose affected ones from.
const ROWS: u64 = 4096;

/// How long a cluster works before it loses a node.
const WARM_UP: Duration = Duration::from_millis(500);

/// Acknowledgements a task wants after the loss before it believes that it is over.
const ACKNOWLEDGED_AFTER: u32 = 20;

/// How long a run may take to get going again.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether all tasks are going again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What `bench failover` does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clusters, one after the other.
    pub kills: u32,
    /// How a node is lost.
    pub signal: Signal,
    /// Node groups.
    pub groups: u16,
    /// Data nodes per group.
    pub replicas: u16,
    /// Tasks.
    pub tasks: u16,
}

/// What the runs came to.
#[derive(Default)]
pub struct Gaps {
    /// The gap of each run.
    pub gaps: Vec<Duration>,
    /// Commits nobody could tell about.
    pub unknown: u64,
    /// Commits that failed, nothing applied.
    pub failed: u64,
    /// The first failure of either kind, in words.
    pub first_error: Option<String>,
}

impl Gaps {
    /// The gap that half of the runs do not exceed.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut sorted = self.gaps.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }

    /// The longest gap.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.gaps.iter().max().copied().unwrap_or_default()
    }
}

/// Runs all of them.
///
/// # Errors
/// If a cluster does not start, or does not go on after its loss.
pub async fn run(voice: &Voice, plan: &Plan) -> CliResult<Gaps> {
    let mut gaps = Gaps::default();
    for number in 0..plan.kills {
        let nodes = plan.groups * plan.replicas;
        let victim = u16::try_from(number % u32::from(nodes)).expect("below the number of nodes");
        let gap = one(plan, victim + 1, &mut gaps).await?;
        voice.say(format!(
            "  {:>3} of {}  node {} lost, clients waited {:.1} ms",
            number + 1,
            plan.kills,
            victim + 1,
            gap.as_secs_f64() * 1e3
        ));
        gaps.gaps.push(gap);
    }
    Ok(gaps)
}

async fn one(plan: &Plan, victim: u16, gaps: &mut Gaps) -> CliResult<Duration> {
    let shape = Shape { groups: plan.groups, replicas: plan.replicas, ..Shape::two_by_two() };
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    let cluster = LocalCluster::start(&shape, dir.path(), false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    let table = BenchTable::create(&client, "lockstep_bench_failover").await?;
    let keys = led_by(&client, &table, NodeId(victim)).await?;
    let fault = Fault::default();
    let watch = Rc::new(Watch::default());
    let mut tasks = JoinSet::new();
    // A row for each task: tasks of the same row would wait for each other.
    for (_task, key) in (0..plan.tasks).zip(&keys) {
        let (table, watch, gap) = (table.clone(), Rc::clone(&watch), Gap::new(&fault));
        tasks.spawn_local(commit_again_and_again(table, *key, gap, watch));
    }
    tokio::time::sleep(WARM_UP).await;
    fault.happens();
    cluster.signal(victim, plan.signal)?;
    let wanted = ACKNOWLEDGED_AFTER * u32::from(plan.tasks);
    let deadline = Instant::now() + PATIENCE;
    while watch.going_again.get() < wanted && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    watch.over.set(true);
    let mut longest = Duration::ZERO;
    while let Some(gap) = tasks.join_next().await {
        longest = longest.max(gap.map_or(PATIENCE, |gap| gap.longest()));
    }
    gaps.unknown += watch.unknown.get();
    gaps.failed += watch.failed.get();
    gaps.first_error = gaps.first_error.take().or(watch.first_error.take());
    if watch.going_again.get() < wanted {
        return Err(CliError::new(
            Trouble::TimedOut,
            format!("commits did not go on within {PATIENCE:?} after node {victim} was lost"),
        ));
    }
    Ok(longest)
}

/// Rows whose partition the node leads.
async fn led_by(client: &Client, table: &BenchTable, node: NodeId) -> CliResult<Vec<u64>> {
    let view = client.view().await?;
    let led = |id: &u64| {
        view.placement(table.partition(*id)).is_some_and(|placement| placement.primary == node)
    };
    Ok((0..ROWS).filter(led).collect())
}

/// What the tasks of one run share.
#[derive(Default)]
struct Watch {
    over: Cell<bool>,
    /// Acknowledgements of commits begun after the fault, of each task no more than it must have.
    going_again: Cell<u32>,
    unknown: Cell<u64>,
    failed: Cell<u64>,
    first_error: Cell<Option<String>>,
}

impl Watch {
    fn on_error(&self, error: &CallError) {
        let count = |cell: &Cell<u64>| cell.set(cell.get() + 1);
        count(if error.outcome == Outcome::Unknown { &self.unknown } else { &self.failed });
        let first = self.first_error.take().unwrap_or_else(|| error.to_string());
        self.first_error.set(Some(first));
    }
}

async fn commit_again_and_again(
    table: BenchTable,
    key: u64,
    mut gap: Gap,
    watch: Rc<Watch>,
) -> Gap {
    let mut after = 0;
    while !watch.over.get() {
        let begun_after = gap.is_armed();
        let mut ops = OpList::default();
        table.push_upsert(&mut ops, key);
        match table.commit(ops).await {
            Ok(()) | Err(CallError { outcome: Outcome::Applied, .. }) => {
                gap.acknowledged();
                if begun_after && after < ACKNOWLEDGED_AFTER {
                    after += 1;
                    watch.going_again.set(watch.going_again.get() + 1);
                }
            }
            Err(error) => watch.on_error(&error),
        }
    }
    gap.end();
    gap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_worst() {
        let millis = |list: &[u64]| Gaps {
            gaps: list.iter().map(|n| Duration::from_millis(*n)).collect(),
            ..Gaps::default()
        };
        let gaps = millis(&[30, 10, 20, 500]);
        assert_eq!(gaps.median(), Duration::from_millis(20));
        assert_eq!(gaps.worst(), Duration::from_millis(500));
        assert_eq!(Gaps::default().median(), Duration::ZERO);
    }
}
