//! The demo from start to end: a node dies under load and comes back, then everything dies at once
//! and comes back, then a backup of it becomes another cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::{Client, TableBuilder};
use lockstep_proto::ids::{Epoch, NodeId};
use lockstep_proto::recovery::last_cut;
use lockstep_proto::value::Value;
use lockstep_proto::view::{Standing, View};
use lockstep_proto::wire::op::OpKind;

use super::backup::{Copied, copy};
use super::bank::{Account, BALANCE_AT_START, Books, Finding, Ledger, Told, Transfer, audit};
use super::power::{Cut, examine};
use super::replicas::{self, Holdings};
use super::tellers::{Crew, Order, Report};
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
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How long backups may take to apply what is committed already.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node may take until it is in sync again.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at the view, which the client library keeps up to date.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long tasks work before everything is killed: a few times as long as the redo log may lag.
const WORK_BEFORE_POWER_LOSS: Duration = Duration::from_secs(2);

/// What the demo does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Accounts of the bank.
    pub accounts: u64,
    /// Tasks that transfer.
    pub tasks: u32,
    /// How long they do; the node dies after a third and is started again after half.
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
    /// Whether all replicas were equal at one epoch, both times they were compared.
    pub replicas_equal: bool,
    /// What the audit found.
    pub finding: Finding,
    /// From the start of the dead node's new process to its being in sync.
    pub rejoin: Duration,
    /// From the start of the first process after the power loss to all partitions being served.
    pub restart: Duration,
    /// The moment the cluster came back at.
    pub restored_epoch: Epoch,
    /// What came back.
    pub cut: Cut,
    /// The backup and what was restored from it.
    pub copied: Copied,
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
    in_directory(voice, |dir| async move { play_in(voice, plan, &dir).await }, |e| e.verified).await
}

/// Works in a temporary directory, which is left behind, with its logs, if it did not go well.
pub(super) async fn in_directory<T, W: Future<Output = CliResult<T>>>(
    voice: &Voice,
    work: impl FnOnce(PathBuf) -> W,
    well: impl FnOnce(&T) -> bool,
) -> CliResult<T> {
    let dir = tempfile::tempdir().map_err(|error| {
        CliError::new(Trouble::File, "no temporary directory").why(error.to_string())
    })?;
    let result = work(dir.path().to_owned()).await;
    if !result.as_ref().is_ok_and(well) {
        voice.say(format!("directories and logs are left in {}", dir.keep().display()));
    }
    result
}

async fn play_in(voice: &Voice, plan: &Plan, dir: &Path) -> CliResult<Ending> {
    let shape = Shape::two_by_two();
    voice.say("starting 4 data nodes (2 groups in zones a and b) and a management server");
    let mut cluster = LocalCluster::start(&shape, dir, false, Tie::Child)?;
    connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    load(&client, voice, plan.accounts).await?;
    let first = one_dies(&client, voice, plan, &mut cluster).await?;
    voice.say("verifying every replica");
    let mut ledger = Ledger(first.reports.iter().map(|report| report.told.clone()).collect());
    let (holdings, finding) = verify(&client, &ledger, plan.accounts).await?;
    let told = told_of(&first.reports, &ledger);
    let all = all_die(client, voice, plan, &mut cluster, &mut ledger).await?;
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    let copied = copy(&client, voice, plan, plan.tasks * 2..plan.tasks * 3, dir).await?;
    let replicas_equal = first.unequal.is_empty() && all.unequal.is_empty();
    let different = [holdings.different, first.unequal, all.different, all.unequal].concat();
    let clean = finding.is_clean(plan.accounts) && all.cut.is_clean(plan.accounts);
    let verified = clean && different.is_empty() && copied.equal;
    Ok(Ending {
        nodes: shape.nodes(),
        time: first.time,
        rejoin: first.rejoin,
        replicas: holdings.replicas,
        different,
        replicas_equal,
        finding,
        restart: all.restart,
        restored_epoch: all.restored_epoch,
        cut: all.cut,
        copied,
        verified,
        ..told
    })
}

/// The part of the ending that the tasks tell.
fn told_of(reports: &[Report], ledger: &Ledger) -> Ending {
    let mut latencies = Latencies::default();
    reports.iter().for_each(|report| latencies.merge(&report.latencies));
    Ending {
        nodes: 0,
        committed: ledger.count(Told::Committed),
        refused: ledger.count(Told::NotDone),
        unknown: ledger.count(Told::Unknown),
        retries: reports.iter().map(|report| report.retries).sum(),
        time: Duration::ZERO,
        latencies,
        failover_gap: reports.iter().map(|r| r.gap.longest()).max().unwrap_or_default(),
        replicas: 0,
        different: Vec::new(),
        replicas_equal: false,
        finding: Finding::default(),
        rejoin: Duration::ZERO,
        restart: Duration::ZERO,
        restored_epoch: Epoch(0),
        cut: Cut::default(),
        copied: Copied::default(),
        verified: false,
    }
}

pub(super) async fn load(client: &Client, voice: &Voice, accounts: u64) -> CliResult {
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

/// The first half.
struct First {
    reports: Vec<Report>,
    time: Duration,
    rejoin: Duration,
    unequal: Vec<String>,
}

/// Tasks transfer; a node is killed, started again, and in sync again before they end.
async fn one_dies(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    cluster: &mut LocalCluster,
) -> CliResult<First> {
    voice.say(format!(
        "{} tasks transfer money for {:.0} s; meanwhile data node {VICTIM} dies and comes back",
        plan.tasks,
        plan.time.as_secs_f64()
    ));
    let fault = Fault::default();
    let started = Instant::now();
    let crew = Crew::start(client, 0..plan.tasks, plan.accounts, &fault, |_| false);
    tokio::time::sleep_until((started + plan.time / 3).into()).await;
    let before = client.view().await?;
    fault.happens();
    cluster.signal(VICTIM, Signal::Kill)?;
    voice.say(format!("SIGKILL to data node {VICTIM}"));
    let gone = |view: &View| view.member(NodeId(VICTIM)).is_none();
    let after = until(client, PATIENCE, gone, "the dead node is still in the view").await?;
    voice.detail(format!("view {} became {}", before.number.0, after.number.0));
    tokio::time::sleep_until((started + plan.time / 2).into()).await;
    voice.say(format!("starting data node {VICTIM} again, under load"));
    let revived = Instant::now();
    cluster.revive(VICTIM).await?;
    in_sync(client).await?;
    let rejoin = revived.elapsed();
    voice.say(format!("data node {VICTIM} is in sync again after {:.2} s", rejoin.as_secs_f64()));
    let unequal = replicas::compare(client, voice).await?;
    tokio::time::sleep_until((started + plan.time).into()).await;
    let reports = crew.end(Order::Finish).await?;
    Ok(First { reports, time: started.elapsed(), rejoin, unequal })
}

/// Waits until all members are in sync and none is missing.
///
/// # Errors
/// If that takes too long.
pub(crate) async fn in_sync(client: &Client) -> CliResult<Arc<View>> {
    let whole = |view: &View| {
        let wanted = usize::from(view.config.replicas) * view.groups().len();
        view.members.len() == wanted && view.members.iter().all(|m| m.standing == Standing::InSync)
    };
    until(client, REJOIN_TIMEOUT, whole, "not all data nodes are in sync").await
}

/// Waits for a view.
async fn until(
    client: &Client,
    timeout: Duration,
    done: impl Fn(&View) -> bool,
    what: &str,
) -> CliResult<Arc<View>> {
    let deadline = Instant::now() + timeout;
    loop {
        let view = client.view().await?;
        if done(&view) {
            return Ok(view);
        }
        if Instant::now() >= deadline {
            return Err(CliError::new(Trouble::NotVerified, what)
                .why(format!("waited {timeout:?}; the newest view is {}", view.number)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The second half.
struct Second {
    restart: Duration,
    restored_epoch: Epoch,
    cut: Cut,
    different: Vec<String>,
    unequal: Vec<String>,
}

/// Tasks transfer, half of them to the disk; everything is killed at once and started again.
async fn all_die(
    client: Client,
    voice: &Voice,
    plan: &Plan,
    cluster: &mut LocalCluster,
    ledger: &mut Ledger,
) -> CliResult<Second> {
    voice.say("half of the tasks now have every transfer on disk; then every process dies at once");
    let tasks = plan.tasks..plan.tasks * 2;
    let crew = Crew::start(&client, tasks, plan.accounts, &Fault::default(), |task| task % 2 == 0);
    tokio::time::sleep(WORK_BEFORE_POWER_LOSS).await;
    cluster.kill_all()?;
    let reports = crew.end(Order::Abandon).await?;
    // The library would try again what was under way: it dies with the rest.
    drop(client);
    ledger.0.extend(reports.iter().map(|report| report.told.clone()));
    voice.say("SIGKILL to all data nodes and the management server; starting them again");
    let started = Instant::now();
    cluster.revive_all()?;
    let view = connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
    let restart = started.elapsed();
    let restored_epoch = last_cut(&view);
    voice.say(format!(
        "the cluster serves again after {:.2} s, as of epoch {}",
        restart.as_secs_f64(),
        restored_epoch.0
    ));
    let client = connect::connect(&cluster.url(), PATIENCE).await?;
    in_sync(&client).await?;
    let unequal = replicas::compare(&client, voice).await?;
    voice.say("verifying that it is one moment of the past");
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut holdings = replicas::read_all(&client).await?;
        let books: Books = std::mem::take(&mut holdings.books);
        let cut = examine(ledger, &reports, plan.tasks, &books, plan.accounts);
        let clean = cut.is_clean(plan.accounts) && holdings.different.is_empty();
        if clean || Instant::now() >= deadline {
            let different = holdings.different;
            return Ok(Second { restart, restored_epoch, cut, different, unequal });
        }
    }
}

/// Compares what the tasks were told with what every replica has. Backups apply commits a moment
/// after they are acknowledged, so a difference counts only if it stays.
pub(super) async fn verify(
    client: &Client,
    ledger: &Ledger,
    accounts: u64,
) -> CliResult<(Holdings, Finding)> {
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
