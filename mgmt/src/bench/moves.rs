//! `bench move`: for how long writes to a partition stop while it moves to another node group and
//! back, in a fresh cluster that works.
//!
//! One task for each partition commits to a row of it, again and again. The stop of a move is the
//! longest time between two successive acknowledgements of that task around the moment at which
//! the client hears that the partition is another group's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_client::core::{CallError, Outcome};
use lockstep_proto::ids::{GroupId, NodeId, PartitionId};
use lockstep_proto::orders::Order;
use lockstep_proto::view::{Standing, View};
use lockstep_proto::wire::op::OpList;
use tokio::task::JoinSet;

use super::rows::BenchTable;
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::Tie;

/// Rows written in one batch when the table is filled.
const FILL_BATCH: u64 = 200;

/// How long the cluster works before anything moves.
const WARM_UP: Duration = Duration::from_secs(1);

/// A task's pause between two commits: it finds a stop, and leaves the processors alone.
const PACE: Duration = Duration::from_millis(1);

/// How far from the moment of the move its stop is looked for.
const AROUND: Duration = Duration::from_millis(400);

/// How long all moves of one direction may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two times that the cluster is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What `bench move` does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Partitions of the cluster; half of them move there, and back.
    pub partitions: u16,
    /// Rows of the table.
    pub rows: u64,
    /// How often there and back.
    pub rounds: u32,
}

/// What came out.
#[derive(Default)]
pub struct Stops {
    /// The stop of each move.
    pub stops: Vec<Duration>,
    /// As many figures of partitions that stay, at the same moments.
    pub others: Vec<Duration>,
    /// From one move to the next, seconds.
    pub each: f64,
    /// Commits while partitions moved.
    pub commits: u64,
    /// Commits that failed.
    pub failed: u64,
}

/// Of these times the one that half of them do not exceed.
#[must_use]
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Starts a cluster of one node group, and lets partitions move to a second one and back.
///
/// # Errors
/// If the cluster does not start, or something does not move.
pub async fn run(voice: &Voice, plan: &Plan) -> CliResult<Stops> {
    let zones = vec!["a".to_owned(), "b".to_owned()];
    let partitions = Some(plan.partitions);
    let shape = Shape { groups: 1, replicas: 2, zones, partitions, ..Shape::default() };
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    let mut cluster = LocalCluster::start(&shape, dir.path(), false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    let table = BenchTable::create(&client, "lockstep_bench_move").await?;
    fill(&table, plan.rows).await?;
    let watch = Rc::new(Watch::default());
    let view = client.view().await?;
    let mut tasks = JoinSet::new();
    for partition in view.partitions() {
        let key = (0..u64::MAX).find(|key| table.partition(*key) == partition).unwrap_or_default();
        let (table, watch) = (table.clone(), Rc::clone(&watch));
        tasks.spawn_local(commit_again_and_again(table, partition, key, watch));
    }
    watch.acks.borrow_mut().resize(view.placements.len(), Vec::new());
    let mut stops = Stops::default();
    let mut spares = Vec::new();
    for zone in ["a", "b"] {
        spares.push(NodeId(cluster.add_node(None, zone).await?));
    }
    until(&client, |view| spares.iter().all(|node| is_spare(view, *node))).await?;
    tokio::time::sleep(WARM_UP).await;
    for round in 1..=plan.rounds {
        for node in &spares {
            tell(&client, &Order::Drain { node: *node, drained: false }).await?;
        }
        until(&client, |view| spares.iter().all(|node| is_spare(view, *node))).await?;
        let there = watch_moves(&client, &watch, &mut stops, || Order::CreateGroup {
            nodes: spares.clone(),
        });
        let group = there.await?;
        let back = watch_moves(&client, &watch, &mut stops, || Order::DropGroup { group });
        back.await?;
        let (of, so_far) = (plan.rounds, &stops.stops);
        voice.say(format!(
            "  round {round} of {of}: {} moves, writes stopped for {:.1} ms (median), {:.1} ms at \
             worst",
            so_far.len(),
            median(so_far).as_secs_f64() * 1e3,
            so_far.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e3,
        ));
    }
    watch.over.set(true);
    while tasks.join_next().await.is_some() {}
    stops.failed = watch.failed.get();
    Ok(stops)
}

async fn fill(table: &BenchTable, rows: u64) -> CliResult {
    let mut next = 0;
    while next < rows {
        let mut ops = OpList::default();
        for key in next..rows.min(next + FILL_BATCH) {
            table.push_upsert(&mut ops, key);
        }
        table.commit(ops).await.map_err(lockstep_client::Error::from)?;
        next += FILL_BATCH;
    }
    Ok(())
}

fn is_spare(view: &View, node: NodeId) -> bool {
    view.member(node).is_some_and(|member| member.group == GroupId::NONE)
}

/// Waits for a view.
async fn until(client: &Client, done: impl Fn(&View) -> bool) -> CliResult {
    let deadline = Instant::now() + PATIENCE;
    while !done(&*client.view().await?) {
        if Instant::now() >= deadline {
            return Err(CliError::new(Trouble::TimedOut, "the cluster is not as it should be")
                .why(format!("waited {PATIENCE:?}")));
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Gives an order until a view shows it.
async fn tell(client: &Client, order: &Order) -> CliResult {
    let mut told: Option<Instant> = None;
    let deadline = Instant::now() + PATIENCE;
    while !client.view().await?.obeys(order) && Instant::now() < deadline {
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            client.order(order.clone()).await?;
            told = Some(Instant::now());
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Gives an order and measures all that moves for it; returns the group it made, or ended.
async fn watch_moves(
    client: &Client,
    watch: &Watch,
    stops: &mut Stops,
    order: impl Fn() -> Order,
) -> CliResult<GroupId> {
    watch.acks.borrow_mut().iter_mut().for_each(Vec::clear);
    let before = client.view().await?;
    let order = order();
    tell(client, &order).await?;
    let began = Instant::now();
    let mut last = before.clone();
    let mut moved: Vec<(PartitionId, Instant)> = Vec::new();
    loop {
        let view = client.view().await?;
        let now = Instant::now();
        let pairs = view.partitions().zip(last.placements.iter().zip(&view.placements));
        moved.extend(pairs.filter(|(_, (a, b))| a.group != b.group).map(|(p, _)| (p, now)));
        last = view;
        let whole = last
            .members
            .iter()
            .all(|member| member.standing == Standing::InSync || member.group == GroupId::NONE);
        let there = last.roster.dropped.is_empty();
        if !moved.is_empty() && last.is_balanced() && last.moving().is_none() && whole && there {
            break;
        }
        if began.elapsed() >= PATIENCE {
            return Err(CliError::new(Trouble::TimedOut, "partitions have not moved")
                .why(format!("waited {PATIENCE:?}, {} have", moved.len())));
        }
        tokio::time::sleep(PACE).await;
    }
    tokio::time::sleep(AROUND).await;
    let span = moved.last().map_or(Duration::ZERO, |(_, at)| *at - moved[0].1);
    stops.each = span.as_secs_f64() / (moved.len().saturating_sub(1).max(1)) as f64;
    let acks = watch.acks.borrow();
    stops.commits += acks.iter().map(|acks| acks.len() as u64).sum::<u64>();
    for (partition, at) in &moved {
        stops.stops.push(stop_around(&acks[usize::from(partition.0)], *at));
        let stays = before.partitions().find(|p| moved.iter().all(|(other, _)| other != p));
        if let Some(stays) = stays {
            stops.others.push(stop_around(&acks[usize::from(stays.0)], *at));
        }
    }
    let groups = |view: &View| view.node_groups();
    let (had, has) = (groups(&before), groups(&last));
    let news = has.iter().find(|group| !had.contains(group));
    Ok(*news.or(had.iter().find(|group| !has.contains(group))).unwrap_or(&GroupId::NONE))
}

/// The longest time between two successive acknowledgements around a moment.
fn stop_around(acks: &[Instant], at: Instant) -> Duration {
    let near = acks.windows(2).filter(|pair| pair[1] + AROUND >= at && pair[0] <= at + AROUND);
    near.map(|pair| pair[1] - pair[0]).max().unwrap_or(AROUND)
}

/// What the tasks share.
#[derive(Default)]
struct Watch {
    over: Cell<bool>,
    failed: Cell<u64>,
    /// When commits were acknowledged, by partition.
    acks: RefCell<Vec<Vec<Instant>>>,
}

async fn commit_again_and_again(
    table: BenchTable,
    partition: PartitionId,
    key: u64,
    watch: Rc<Watch>,
) {
    while !watch.over.get() {
        let mut ops = OpList::default();
        table.push_upsert(&mut ops, key);
        match table.commit(ops).await {
            Ok(()) | Err(CallError { outcome: Outcome::Applied, .. }) => {
                let mut acks = watch.acks.borrow_mut();
                if let Some(acks) = acks.get_mut(usize::from(partition.0)) {
                    acks.push(Instant::now());
                }
            }
            Err(_) => watch.failed.set(watch.failed.get() + 1),
        }
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_is_the_longest_gap_around_the_move() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let acks = [0, 900, 1000, 1002, 1030, 1031, 3000].map(at);
        assert_eq!(stop_around(&acks[2..6], at(1020)), Duration::from_millis(28));
        assert_eq!(stop_around(&acks, at(100)), Duration::from_millis(900));
        assert_eq!(stop_around(&[], at(100)), AROUND, "nothing was acknowledged at all");
        assert_eq!(median(&[3, 1, 2].map(Duration::from_millis)), Duration::from_millis(2));
    }
}
