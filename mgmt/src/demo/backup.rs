//! The demo's last act: a backup under load, and its restore into a cluster of another shape, which
//! must have exactly the rows that the first had as of the backup's epoch.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::{Client, Record, Snapshot};
use lockstep_proto::ids::Epoch;

use super::bank::{Account, Transfer};
use super::story::{PATIENCE, Plan};
use super::tellers::{Crew, Order};
use crate::backup::files::Backup;
use crate::backup::restore::{self, Wanted};
use crate::bench::gap::Fault;
use crate::cli::backup::{begin, verified, wait};
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult};
use crate::cli::output::{Voice, bytes, thousands};
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::Tie;

/// How long tasks work before the backup is asked for.
const WORK_BEFORE: Duration = Duration::from_secs(1);

/// Threads that restore.
const THREADS: usize = 2;

/// How the last act went.
#[derive(Clone, Copy, Default)]
pub struct Copied {
    /// As of when the backup is.
    pub epoch: Epoch,
    /// Rows in it, the definitions of tables among them.
    pub rows: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// How long it took.
    pub backup: Duration,
    /// How long the restore took.
    pub restore: Duration,
    /// Whether the second cluster has exactly the rows the first had.
    pub equal: bool,
}

/// Makes a backup of the running cluster while tasks transfer, and restores it into another one.
///
/// # Errors
/// If a process does not come up, or the backup or the restore fails.
pub async fn copy(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    tasks: std::ops::Range<u32>,
    dir: &Path,
) -> CliResult<Copied> {
    let place = dir.join("backups");
    std::fs::create_dir(&place).map_err(|e| CliError::file("make directory", &place, &e))?;
    voice.say("tasks transfer again; meanwhile a backup is made");
    let crew = Crew::start(client, tasks, plan.accounts, &Fault::default(), |_| false);
    tokio::time::sleep(WORK_BEFORE).await;
    // What is as of the backup's epoch is still to be there when that is known.
    let held = client.snapshot().await?;
    held.hold().await?;
    let started = Instant::now();
    let (mut server, id) = begin(client, Some(&place)).await?;
    let record = wait(&mut server, id, voice).await?;
    let took = started.elapsed();
    let then = held.later(record.epoch);
    let (accounts, transfers) = read(client, &then).await?;
    crew.end(Order::Finish).await?;
    voice.say(format!(
        "backup {id}: {} rows as of epoch {} in {:.2} s, {}; restoring it into 3 groups of 1",
        thousands(record.rows),
        record.epoch.0,
        took.as_secs_f64(),
        bytes(record.file_bytes)
    ));
    let backup = Arc::new(Backup::open(&place, &[], None)?);
    let rows = verified(&backup, voice)?;
    let shape = Shape { groups: 3, ..Shape::default() };
    let second = LocalCluster::start(&shape, &dir.join("second"), true, Tie::Child)?;
    connect::wait_until_serving(&second.url(), PATIENCE).await?;
    let other = connect::connect(&second.url(), PATIENCE).await?;
    let what = restore::Plan::make(&other, &backup, &Wanted::default()).await?;
    let done = restore::run(&other, &second.url(), voice, &backup, &what, THREADS).await?;
    let now = other.fresh_snapshot().await?;
    let (restored_accounts, restored_transfers) = read(&other, &now).await?;
    let equal = same(voice, &accounts, &restored_accounts)
        && same(voice, &transfers, &restored_transfers)
        && record.epoch == backup.manifest.epoch;
    voice.say(match equal {
        true => format!(
            "{} accounts and {} transfers are the same in both clusters, row by row",
            thousands(accounts.len() as u64),
            thousands(transfers.len() as u64)
        ),
        false => "THE RESTORED ROWS ARE OTHERS".to_owned(),
    });
    Ok(Copied {
        epoch: record.epoch,
        rows,
        file_bytes: record.file_bytes,
        backup: took,
        restore: done.time,
        equal,
    })
}

/// All rows of the bank in a snapshot, in order.
async fn read(client: &Client, at: &Snapshot) -> CliResult<(Vec<Account>, Vec<Transfer>)> {
    let mut accounts = rows::<Account>(client, at).await?;
    let mut transfers = rows::<Transfer>(client, at).await?;
    accounts.sort_unstable_by_key(|account| account.id);
    transfers.sort_unstable_by_key(|transfer| (transfer.task, transfer.number));
    Ok((accounts, transfers))
}

async fn rows<R: Record>(client: &Client, at: &Snapshot) -> CliResult<Vec<R>> {
    Ok(at.table(&client.table::<R>()).scan().all().await?)
}

fn same<R: PartialEq + Debug>(voice: &Voice, wanted: &[R], found: &[R]) -> bool {
    if let Some((a, b)) = wanted.iter().zip(found).find(|(a, b)| a != b) {
        voice.say(format!("{a:?} was backed up, {b:?} was restored"));
    }
    wanted == found
}
