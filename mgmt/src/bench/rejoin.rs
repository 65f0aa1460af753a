//! The last part of `bench restart`: a data node is away for a while, comes back, and copies what
//! it has missed while its cluster works. Only some of the rows change meanwhile.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::{NodeId, ShardId};
use lockstep_proto::wire::op::OpList;
use lockstep_proto::wire::progress::JoinProgress;
use tokio::task::JoinSet;

use super::dice::Dice;
use super::durable::{Lab, TASKS, median};
use super::rows::BenchTable;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::demo::story::in_sync;
use crate::dev::process::Signal;

/// How long the node is away.
const AWAY: Duration = Duration::from_secs(10);

/// Nodes that go and come back, one after the other, each of another place in its group.
const VICTIMS: [u16; 3] = [2, 3, 4];

/// One in so many rows changes.
const CHANGES_ONE_IN: u64 = 20;

/// What came out: medians over all rejoins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// From the start of the process until it is in sync, seconds.
    pub seconds: f64,
    /// Commits per second in that time by commits per second before the node was lost.
    pub throughput: f64,
    /// Rows copied by rows of the node that were written to while it was away.
    pub copied_of_changed: f64,
    /// Rows copied by rows that it holds.
    pub copied_of_held: f64,
}

/// One rejoin.
struct Rejoin {
    time: Duration,
    throughput: f64,
    changed: u64,
    held: u64,
    progress: JoinProgress,
}

/// Lets one node after the other go and come back.
///
/// # Errors
/// If one of them does not come back, or the cluster refuses to work.
pub(super) async fn run(voice: &Voice, lab: &mut Lab, before: Duration) -> CliResult<Figures> {
    let mut rejoins = Vec::new();
    for victim in VICTIMS {
        let rejoin = one(lab, victim, before).await?;
        voice.say(format!(
            "  node {victim}  {:>5.2} s  {:>3.0} % of the commits before  {} rows copied, {} had \
             changed, {} held",
            rejoin.time.as_secs_f64(),
            rejoin.throughput * 100.0,
            rejoin.progress.rows,
            rejoin.changed,
            rejoin.held,
        ));
        rejoins.push(rejoin);
    }
    let of = |figure: fn(&Rejoin) -> f64| median(rejoins.iter().map(figure).collect());
    Ok(Figures {
        seconds: of(|rejoin| rejoin.time.as_secs_f64()),
        throughput: of(|rejoin| rejoin.throughput),
        copied_of_changed: of(|rejoin| rejoin.progress.rows as f64 / rejoin.changed.max(1) as f64),
        copied_of_held: of(|rejoin| rejoin.progress.rows as f64 / rejoin.held.max(1) as f64),
    })
}

async fn one(lab: &mut Lab, victim: u16, before: Duration) -> CliResult<Rejoin> {
    let changing = (lab.keys / CHANGES_ONE_IN).max(1);
    let watch = Rc::new(Watch::default());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let dice = Dice::new(u64::from(task) + 1);
        tasks.spawn_local(write_again_and_again(
            lab.table.clone(),
            dice,
            changing,
            Rc::clone(&watch),
        ));
    }
    // Past the first moments of all connections.
    tokio::time::sleep(before / 4).await;
    let usual = watch.rate(before).await;
    lab.cluster.signal(victim, Signal::Kill)?;
    tokio::time::sleep(AWAY).await;
    let (done, began) = (watch.done.get(), Instant::now());
    lab.cluster.revive(victim).await?;
    in_sync(&lab.client).await?;
    let time = began.elapsed();
    let meanwhile = (watch.done.get() - done) as f64 / time.as_secs_f64();
    watch.over.set(true);
    while tasks.join_next().await.is_some() {}
    let progress = progress_of(&lab.client, NodeId(victim)).await?;
    let held_of = |keys: u64| held_by(&lab.client, &lab.table, NodeId(victim), keys);
    Ok(Rejoin {
        time,
        throughput: meanwhile / usual.max(1e-9),
        changed: held_of(changing).await?,
        held: held_of(lab.keys).await?,
        progress,
    })
}

/// How many of the first rows a node holds.
async fn held_by(client: &Client, table: &BenchTable, node: NodeId, keys: u64) -> CliResult<u64> {
    let view = client.view().await?;
    let holds = |id: &u64| {
        view.placement(table.partition(*id)).is_some_and(|place| place.replicas.contains(&node))
    };
    Ok((0..keys).filter(holds).count() as u64)
}

/// How the node's way back went, all shards together.
async fn progress_of(client: &Client, node: NodeId) -> CliResult<JoinProgress> {
    let view = client.view().await?;
    let shards = view.member(node).map_or(0, |member| member.shards);
    let mut sum: Option<JoinProgress> = None;
    for shard in (0..shards).map(ShardId) {
        let status = client.status(node, shard).await?;
        let Some(join) = status.join.clone() else { continue };
        sum = Some(match sum {
            Some(before) => before.and(join),
            None => join,
        });
    }
    sum.ok_or_else(|| CliError::new(Trouble::NotVerified, format!("{node} did not rejoin")))
}

/// What the tasks share.
#[derive(Default)]
struct Watch {
    over: Cell<bool>,
    done: Cell<u64>,
}

impl Watch {
    /// Commits per second, from now on for so long.
    async fn rate(&self, time: Duration) -> f64 {
        let (done, began) = (self.done.get(), Instant::now());
        tokio::time::sleep(time).await;
        (self.done.get() - done) as f64 / began.elapsed().as_secs_f64()
    }
}

async fn write_again_and_again(table: BenchTable, mut dice: Dice, keys: u64, watch: Rc<Watch>) {
    while !watch.over.get() {
        let mut ops = OpList::default();
        table.push_upsert(&mut ops, dice.below(keys));
        // A node is lost: what fails then is no commit, and that is all there is to say.
        if table.commit(ops).await.is_ok() {
            watch.done.set(watch.done.get() + 1);
        }
    }
}
