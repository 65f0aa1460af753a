//! Minutes of a real cluster whose nodes are killed over and over, also while others come back.
//!
//! Invariant: no kill takes the last node in sync of a node group, because that stops the cluster
//! as it must; every other one is allowed, whatever else is going on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::View;

use super::bank::{Finding, Ledger, Told};
use super::replicas::compare;
use super::story::{in_directory, in_sync, load, verify};
use super::tellers::{Crew, Order, Report};
use crate::bench::dice::Dice;
use crate::bench::gap::{Fault, Gap};
use crate::bench::measure::Latencies;
use crate::cli::connect;
use crate::cli::error::CliResult;
use crate::cli::output::Voice;
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::{Condition, Signal, Tie};

/// How long processes may take to serve, and calls may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at the cluster.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Milliseconds between two kills, and from a death to the start of the next life, at most.
const KILL_WITHIN_MS: u64 = 4_000;
const REVIVE_WITHIN_MS: u64 = 2_000;

/// What a soak does.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Accounts of the bank.
    pub accounts: u64,
    /// Tasks that transfer.
    pub tasks: u32,
    /// How long.
    pub time: Duration,
    /// Decides who dies when.
    pub seed: u64,
}

/// A wait for an acknowledgement.
#[derive(Clone, Copy, Default)]
pub struct Wait {
    /// How long it took.
    pub time: Duration,
    /// How long after the beginning it ended.
    pub until: Duration,
}

/// How it went.
pub struct Outcome {
    /// Transfers acknowledged.
    pub committed: u64,
    /// Transfers that certainly did not happen.
    pub refused: u64,
    /// Transfers nobody could tell about in time.
    pub unknown: u64,
    /// How long the tasks worked.
    pub time: Duration,
    /// Nodes killed.
    pub kills: u64,
    /// Nodes killed while a node of their group, themselves perhaps, was coming back.
    pub kills_in_rejoin: u64,
    /// Nodes that were started again.
    pub revived: u64,
    /// Data nodes that ended by themselves; each was started again.
    pub ended: u64,
    /// The longest of a task that has its transfers on disk before they are acknowledged.
    pub disk_wait: Wait,
    /// The longest of the others.
    pub memory_wait: Wait,
    /// From the last kill to full redundancy.
    pub last_rejoin: Duration,
    /// Latencies of committed transfers.
    pub latencies: Latencies,
    /// Replicas of partitions that were read.
    pub replicas: u64,
    /// Replicas that are not alike.
    pub different: Vec<String>,
    /// Whether all replicas were equal at one epoch, under load, once all nodes were back.
    pub replicas_equal: bool,
    /// What the audit found.
    pub finding: Finding,
    /// Whether everything is as it must be.
    pub verified: bool,
}

impl Outcome {
    /// The longest wait of any task.
    #[must_use]
    pub fn longest_wait(&self) -> Wait {
        let (disk, memory) = (self.disk_wait, self.memory_wait);
        if disk.time > memory.time { disk } else { memory }
    }
}

/// Who is dead, when each is started again, and when the next kill is due.
struct Reaper {
    dice: Dice,
    next: Instant,
    dead: BTreeMap<u16, Instant>,
    kills: u64,
    kills_in_rejoin: u64,
    revived: u64,
    ended: u64,
}

impl Reaper {
    fn new(seed: u64) -> Self {
        let (kills, kills_in_rejoin, revived, ended) = (0, 0, 0, 0);
        let (dead, next) = (BTreeMap::new(), Instant::now() + Duration::from_secs(1));
        Self { dice: Dice::new(seed), next, dead, kills, kills_in_rejoin, revived, ended }
    }

    fn after(&mut self, within_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.dice.below(within_ms))
    }

    /// Starts again who has been dead for long enough: what a supervisor does.
    async fn revive(&mut self, cluster: &mut LocalCluster, nodes: u16) -> CliResult {
        let gone = |cluster: &LocalCluster, node| {
            cluster.process_of(node).is_some_and(|p| p.condition() == Condition::Gone)
        };
        for node in 1..=nodes {
            if gone(cluster, node) && !self.dead.contains_key(&node) {
                // Nobody killed it: it has stopped by itself.
                self.ended += 1;
                let at = self.after(REVIVE_WITHIN_MS);
                self.dead.insert(node, at);
            }
        }
        // On a busy machine a killed process takes its time to be gone.
        let now = Instant::now();
        let due = self.dead.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node);
        let due = due.filter(|node| gone(cluster, *node));
        for node in due.collect::<Vec<u16>>() {
            self.dead.remove(&node);
            cluster.revive(node).await?;
            self.revived += 1;
        }
        Ok(())
    }

    /// Kills somebody, if one is due and somebody may die.
    fn kill(&mut self, cluster: &LocalCluster, view: &View, shape: &Shape) -> CliResult {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = self.after(KILL_WITHIN_MS);
        let victim = self.dice.below(u64::from(shape.nodes()));
        let victim = 1 + u16::try_from(victim).expect("a node");
        if self.dead.contains_key(&victim) {
            return Ok(());
        }
        // Nodes of one group have numbers that follow each other.
        let first = victim - (victim - 1) % shape.replicas;
        let mates = || (first..first + shape.replicas).filter(|node| *node != victim);
        let in_sync = |node: u16| view.in_sync().any(|m| m.instance.node == NodeId(node));
        if !mates().any(|node| in_sync(node) && !self.dead.contains_key(&node)) {
            return Ok(());
        }
        self.kills_in_rejoin += u64::from(!in_sync(victim) || !mates().all(in_sync));
        self.kills += 1;
        cluster.signal(victim, Signal::Kill)?;
        let at = self.after(REVIVE_WITHIN_MS);
        self.dead.insert(victim, at);
        Ok(())
    }
}

/// Runs a soak. The cluster and its directory are gone afterwards, however it ends.
///
/// # Errors
/// If a process does not come up or the cluster cannot be worked with.
pub async fn soak(voice: &Voice, plan: &Soak) -> CliResult<Outcome> {
    in_directory(voice, |dir| async move { soak_in(voice, plan, &dir).await }, |o| o.verified).await
}

async fn soak_in(voice: &Voice, plan: &Soak, dir: &Path) -> CliResult<Outcome> {
    let shape = Shape { replicas: 3, ..Shape::two_by_two() };
    let nodes = shape.nodes();
    voice.say(format!("starting {nodes} data nodes in 2 groups and a management server"));
    let mut cluster = LocalCluster::start(&shape, dir, false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    load(&client, voice, plan.accounts).await?;
    let fault = Fault::default();
    fault.happens();
    let started = Instant::now();
    let crew = Crew::start(&client, 0..plan.tasks, plan.accounts, &fault, |task| task % 8 == 0);
    let mut reaper = Reaper::new(plan.seed);
    let total = plan.time.as_secs();
    let mut progress = voice.progress("killing nodes", total, "s");
    while started.elapsed() < plan.time {
        reaper.revive(&mut cluster, nodes).await?;
        let view = client.view().await?;
        reaper.kill(&cluster, &view, &shape)?;
        progress.set(started.elapsed().as_secs().min(total));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    progress.finish();
    let ended = Instant::now();
    while !reaper.dead.is_empty() {
        reaper.revive(&mut cluster, nodes).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let redundant = in_sync(&client).await;
    let last_rejoin = ended.elapsed();
    let unequal = match redundant {
        Ok(_) => compare(&client, voice).await,
        Err(error) => Err(error),
    };
    let reports = crew.end(Order::Finish).await?;
    let time = started.elapsed();
    let unequal = unequal?;
    voice.say(format!("{} kills; verifying every replica", reaper.kills));
    let mut outcome = finish(&client, plan, &reaper, &reports, (time, last_rejoin)).await?;
    let longest = |durable: bool| {
        let waits = reports.iter().filter(|report| report.durable == durable);
        let longest = waits.max_by_key(|report| report.gap.longest()).map(|report| &report.gap);
        let until = |gap: &Gap| gap.longest_until().saturating_duration_since(started);
        longest.map_or_else(Wait::default, |gap| Wait { time: gap.longest(), until: until(gap) })
    };
    (outcome.disk_wait, outcome.memory_wait) = (longest(true), longest(false));
    outcome.replicas_equal = unequal.is_empty();
    outcome.verified &= outcome.replicas_equal;
    outcome.different.extend(unequal);
    Ok(outcome)
}

async fn finish(
    client: &Client,
    plan: &Soak,
    reaper: &Reaper,
    reports: &[Report],
    (time, last_rejoin): (Duration, Duration),
) -> CliResult<Outcome> {
    let ledger = Ledger(reports.iter().map(|report| report.told.clone()).collect());
    let (holdings, finding) = verify(client, &ledger, plan.accounts).await?;
    let verified = finding.is_clean(plan.accounts) && holdings.different.is_empty();
    let mut latencies = Latencies::default();
    reports.iter().for_each(|report| latencies.merge(&report.latencies));
    Ok(Outcome {
        committed: ledger.count(Told::Committed),
        refused: ledger.count(Told::NotDone),
        unknown: ledger.count(Told::Unknown),
        time,
        kills: reaper.kills,
        kills_in_rejoin: reaper.kills_in_rejoin,
        revived: reaper.revived,
        ended: reaper.ended,
        disk_wait: Wait::default(),
        memory_wait: Wait::default(),
        last_rejoin,
        latencies,
        replicas: holdings.replicas,
        different: holdings.different,
        replicas_equal: false,
        finding,
        verified,
    })
}
