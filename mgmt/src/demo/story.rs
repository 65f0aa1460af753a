//! The demo from start to end.

use std::time::{Duration, Instant};

use lockstep_client::{Client, TableBuilder};
use lockstep_proto::ids::NodeId;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::OpKind;
use tokio::task::JoinSet;

use super::bank::{Account, BALANCE_AT_START, Books, Finding, Ledger, Told, Transfer, audit};
use super::replicas::{self, Holdings};
use super::tellers::{Report, Teller};
use crate::bench::gap::Fault;
use crate::bench::measure::Latencies;
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::{Voice, rate, thousands};
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::{Signal, Tie};

/// The node that dies: the president, which also leads partitions, so everything has to move.
const VICTIM: u16 = 1;

/// How long processes may take to serve, and calls may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long backups may take to apply what is committed already.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the demo does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Accounts of the bank.
    pub accounts: u64,
    /// Tasks that transfer.
    pub tasks: u32,
    /// How long they do; the node dies in the middle.
    pub time: Duration,
}

/// How it went.
pub struct Ending {
    /// Data nodes at the start.
    pub nodes: u16,
    /// Transfers acknowledged.
    pub committed: u64,
    /// Transfers that certainly did not happen, such as for lack of money.
    pub refused: u64,
    /// Transfers nobody could tell about in time.
    pub unknown: u64,
    /// Transfers the tasks themselves tried again.
    pub retries: u64,
    /// How long the tasks worked.
    pub time: Duration,
    /// Latencies of committed transfers.
    pub latencies: Latencies,
    /// The longest wait of any task around the kill.
    pub failover_gap: Duration,
    /// Replicas of partitions that were read.
    pub replicas: u64,
    /// Replicas that are not alike.
    pub different: Vec<String>,
    /// What the audit found.
    pub finding: Finding,
    /// Whether everything is as it must be.
    pub verified: bool,
}

impl Ending {
    /// Acknowledged transfers per second.
    #[must_use]
    pub fn throughput(&self) -> u64 {
        rate(self.committed, self.time)
    }
}

/// Plays the demo. The cluster and its directory are gone afterwards, however it ends.
///
/// # Errors
/// If a process does not come up or the cluster cannot be worked with; losing data is not an error
/// but an ending that is not verified.
pub async fn play(voice: &Voice, plan: &Plan) -> CliResult<Ending> {
    let shape = Shape::two_by_two();
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    voice.say("starting 4 data nodes (2 groups in zones a and b) and a management server");
    let cluster = LocalCluster::start(&shape, dir.path(), false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    load(&client, voice, plan.accounts).await?;
    let (reports, time) = transfer(&client, voice, plan, &cluster).await?;
    voice.say("verifying every replica");
    let ledger = Ledger(reports.iter().map(|report| report.told.clone()).collect());
    let (holdings, finding) = verify(&client, &ledger, plan.accounts).await?;
    let clean = finding.is_clean(plan.accounts) && holdings.different.is_empty();
    Ok(ending(shape.nodes(), &reports, time, &ledger, holdings, finding, clean))
}

fn ending(
    nodes: u16,
    reports: &[Report],
    time: Duration,
    ledger: &Ledger,
    holdings: Holdings,
    finding: Finding,
    verified: bool,
) -> Ending {
    let mut latencies = Latencies::default();
    reports.iter().for_each(|report| latencies.merge(&report.latencies));
    Ending {
        nodes,
        committed: ledger.count(Told::Committed),
        refused: ledger.count(Told::NotDone),
        unknown: ledger.count(Told::Unknown),
        retries: reports.iter().map(|report| report.retries).sum(),
        time,
        latencies,
        failover_gap: reports.iter().map(|r| r.gap.longest()).max().unwrap_or_default(),
        replicas: holdings.replicas,
        different: holdings.different,
        finding,
        verified,
    }
}

async fn load(client: &Client, voice: &Voice, accounts: u64) -> CliResult {
    let def = client.create_table(TableBuilder::of::<Account>()).await?;
    client.create_table(TableBuilder::of::<Transfer>()).await?;
    let started = Instant::now();
    let mut progress = voice.progress("loading", accounts, "accounts");
    let mut loader = crate::table::loader::Loader::new(client, &def, OpKind::Insert);
    for id in 0..accounts {
        let row = [Value::UInt(id), Value::Int(BALANCE_AT_START)];
        loader.add(&row, id).await.map_err(|failed| failed.error)?;
        progress.set(loader.loaded());
    }
    loader.flush().await.map_err(|failed| failed.error)?;
    progress.finish();
    let per_second = thousands(rate(accounts, started.elapsed()));
    voice.say(format!("{} accounts loaded ({per_second} per second)", thousands(accounts)));
    Ok(())
}

/// Runs all tasks to their end and kills a node in the middle.
async fn transfer(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    cluster: &LocalCluster,
) -> CliResult<(Vec<Report>, Duration)> {
    voice.say(format!(
        "{} tasks transfer money for {:.0} s; data node {VICTIM} dies in the middle",
        plan.tasks,
        plan.time.as_secs_f64()
    ));
    let fault = Fault::default();
    let started = Instant::now();
    let deadline = started + plan.time;
    let mut tasks = JoinSet::new();
    for task in 0..plan.tasks {
        let teller = Teller::new(client, task, plan.accounts, deadline, &fault);
        tasks.spawn_local(async move { (task, teller.work().await) });
    }
    tokio::time::sleep_until((started + plan.time / 2).into()).await;
    let before = client.view().await?.number;
    fault.happens();
    cluster.signal(VICTIM, Signal::Kill)?;
    voice.say(format!("SIGKILL to data node {VICTIM}"));
    let mut reports = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        reports.push(ended.map_err(|error| {
            CliError::new(Trouble::Process, "a task ended").why(error.to_string())
        })?);
    }
    let time = started.elapsed();
    let after = client.view().await?;
    voice.detail(format!("view {} became {}", before.0, after.number.0));
    if after.member(NodeId(VICTIM)).is_some() {
        return Err(CliError::new(Trouble::NotVerified, "the dead node is still in the view"));
    }
    reports.sort_by_key(|(task, _)| *task);
    Ok((reports.into_iter().map(|(_, report)| report).collect(), time))
}

/// Compares what the tasks were told with what every replica has. Backups apply commits a moment
/// after they are acknowledged, so a difference counts only if it stays.
async fn verify(client: &Client, ledger: &Ledger, accounts: u64) -> CliResult<(Holdings, Finding)> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut holdings = replicas::read_all(client).await?;
        let books: Books = std::mem::take(&mut holdings.books);
        let finding = audit(ledger, &books, accounts);
        let clean = finding.is_clean(accounts) && holdings.different.is_empty();
        if clean || Instant::now() >= deadline {
            return Ok((holdings, finding));
        }
    }
}
