//! Compares the replicas of a running cluster: every table of every partition, read from each
//! replica in sync by itself, as of one closed epoch.
//!
//! Nothing is changed and no writer waits. Each data node is asked for one page at a time, and what
//! is kept of a replica is a digest, until its partition has been read everywhere. Replicas keep
//! the versions of that epoch as long as it takes. If one cannot tell rows of that epoch, because
//! it has just come back, or because too much was written since, or if a node goes away, all is
//! read anew at a newer epoch.
//!
//! Invariant: what is compared is of one epoch of one restart generation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_client::core::{AtLeast, Call, Moment, ReadFrom, Reply};
use lockstep_client::{Client, Error};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{NodeId, PartitionId, ShardAddr};
use lockstep_proto::key::decode_key;
use lockstep_proto::schema::{CATALOG, TableDef, catalog_def};
use lockstep_proto::view::View;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::comparison::{Comparison, Contents, Difference, Meeting};
use super::digest::{Digest, Slice};
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::table::page::each_row;

/// Rows asked for at a time.
const SWEEP_ROWS: u32 = 1000;

/// How often all is read anew, and the time in between.
const ATTEMPTS_MAX: u32 = 12;
const REST: Duration = Duration::from_millis(250);

/// How often replicas are told to go on keeping what is read: they forget a reader after 15 s.
const HOLD_EVERY: Duration = Duration::from_secs(4);

/// Differences of which keys are looked for, and keys that are named of each.
const LOOKED_INTO_MAX: usize = 8;
const KEYS_MAX: usize = 5;

/// Refusals that a newer epoch or view may do away with.
const PASSING: [Code; 4] =
    [Code::SnapshotTooOld, Code::NotReplica, Code::NotServing, Code::WrongSchema];

/// Compares all replicas in sync. `progress` is told how many replicas of partitions have been
/// read, and of how many.
///
/// # Errors
/// If a replica cannot be read; a difference is not an error.
pub async fn compare(
    client: &Client,
    mut progress: impl FnMut(usize, usize),
) -> CliResult<Comparison> {
    let mut attempts = 1;
    loop {
        let compared = compare_once(client, &mut progress).await;
        let Err(error) = compared else { return compared };
        if !PASSING.iter().any(|code| *code as u16 == error.number) {
            return Err(error);
        }
        if attempts == ATTEMPTS_MAX {
            let then = "try again when fewer nodes come and go and less is written";
            return Err(error.at("the replicas cannot be compared").then(then));
        }
        attempts += 1;
        tokio::time::sleep(REST).await;
    }
}

async fn compare_once(
    client: &Client,
    progress: &mut impl FnMut(usize, usize),
) -> CliResult<Comparison> {
    // Everything acknowledged before is compared.
    let snapshot = client.fresh_snapshot().await?;
    let (at, view) = (snapshot.moment(), client.view().await?);
    if at.generation != view.restart_generation {
        return Err(CliError::from_code(Code::SnapshotTooOld, "the cluster has been restarted"));
    }
    let _held = Held::hold(client, &view, at).await?;
    let mut tables = snapshot.tables().await?;
    tables.push(Arc::new(catalog_def().clone()));
    let tables: Arc<[Arc<TableDef>]> = tables.into();
    let reader = Reader { client: client.clone(), at, tables: Arc::clone(&tables) };
    let mut meeting = Meeting::new(&view, at.epoch, &tables);
    read_all(&reader, &view, &mut meeting, progress).await?;
    let mut comparison = meeting.end();
    if comparison.differences.iter().any(Difference::lacks_table) {
        // A table that was dropped meanwhile is gone here earlier than there.
        let now = client.tables().await?;
        let exists = |table: &TableDef| {
            table.id == CATALOG || now.iter().any(|existing| existing.id == table.id)
        };
        comparison.differences.retain(|d| !d.lacks_table() || exists(&d.table));
    }
    for difference in comparison.differences.iter_mut().take(LOOKED_INTO_MAX) {
        // What is different is known; which keys is only a help, and may be too old to tell.
        if reader.look_into(difference).await.is_err() {
            break;
        }
    }
    Ok(comparison)
}

/// Reads all nodes at once, each partition by partition.
async fn read_all(
    reader: &Reader,
    view: &View,
    meeting: &mut Meeting,
    progress: &mut impl FnMut(usize, usize),
) -> CliResult {
    let mut nodes: BTreeMap<NodeId, Vec<PartitionId>> = BTreeMap::new();
    for (partition, placement) in view.partitions().zip(&view.placements) {
        placement.replicas.iter().for_each(|node| nodes.entry(*node).or_default().push(partition));
    }
    let total = nodes.values().map(Vec::len).sum();
    let (tell, mut told) = mpsc::channel(nodes.len().max(1));
    // Ends with this function: nothing is read in vain.
    let mut tasks = JoinSet::new();
    for (node, partitions) in nodes {
        let (reader, tell) = (reader.clone(), tell.clone());
        tasks.spawn(async move {
            for partition in partitions {
                let contents = reader.contents(partition, node).await;
                let ended = contents.is_err();
                if tell.send((partition, node, contents)).await.is_err() || ended {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut read = 0;
    while let Some((partition, node, contents)) = told.recv().await {
        meeting.take(partition, node, contents?);
        read += 1;
        progress(read, total);
    }
    if read < total {
        return Err(CliError::new(Trouble::Process, "a task ended before its work was done"));
    }
    Ok(())
}

/// What reads as of one epoch.
#[derive(Clone)]
struct Reader {
    client: Client,
    at: Moment,
    tables: Arc<[Arc<TableDef>]>,
}

impl Reader {
    /// What one replica of a partition has of every table.
    async fn contents(&self, partition: PartitionId, node: NodeId) -> CliResult<Contents> {
        let mut contents = Contents::with_capacity(self.tables.len());
        for table in self.tables.iter() {
            let mut digest = Digest::default();
            let is_there =
                self.sweep(table, partition, node, |key, row| digest.add(key, row)).await?;
            contents.push(is_there.then_some(digest));
        }
        Ok(contents)
    }

    /// Hands out all rows. False if there is no such table.
    async fn sweep(
        &self,
        table: &TableDef,
        partition: PartitionId,
        node: NodeId,
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> CliResult<bool> {
        let mut place = 0;
        loop {
            let call = Call::Sweep {
                table: table.id,
                schema: table.version,
                partition,
                from: ReadFrom::Node(node),
                at: self.at,
                place,
                rows_max: SWEEP_ROWS,
            };
            let (next, rows) = match self.client.call(call).await {
                Ok(Reply::Swept { next, rows }) => (next, rows),
                Err(error) if error.code == Code::NoSuchTable => return Ok(false),
                Err(error) => return Err(Error::from(error).into()),
                Ok(_) => return Err(broken()),
            };
            each_row(&rows, &mut take).map_err(|_| broken())?;
            match next {
                Some(next) => place = next,
                None => return Ok(true),
            }
        }
    }

    /// Looks for keys whose rows are not the same on two replicas.
    async fn look_into(&self, difference: &mut Difference) -> CliResult {
        let Some((one, other, slice)) = difference.pair() else { return Ok(()) };
        let (table, partition) = (Arc::clone(&difference.table), difference.partition);
        let mut slices = [Slice::new(slice), Slice::new(slice)];
        for (node, slice) in [one, other].into_iter().zip(&mut slices) {
            self.sweep(&table, partition, node, |key, row| slice.add(key, row)).await?;
        }
        let name = |(key, here, there)| {
            let values = decode_key(&table, key).unwrap_or_default();
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            let place = match (here, there) {
                (true, false) => format!("only on {one}"),
                (false, true) => format!("only on {other}"),
                _ => format!("not the same on {one} and {other}"),
            };
            format!("{} ({place})", values.join(", "))
        };
        let [here, there] = &slices;
        difference.keys = here.differences(there, KEYS_MAX).into_iter().map(name).collect();
        Ok(())
    }
}

fn broken() -> CliError {
    CliError::new(Trouble::Process, "a page of rows cannot be read")
}

/// Lets every shard keep what is read, as long as this lives.
struct Held(JoinHandle<()>);

impl Held {
    async fn hold(client: &Client, view: &View, at: Moment) -> CliResult<Self> {
        let mut shards: BTreeMap<ShardAddr, (PartitionId, NodeId)> = BTreeMap::new();
        for (partition, placement) in view.partitions().zip(&view.placements) {
            for node in &placement.replicas {
                if let Some(shard) = view.shard_of(partition, *node) {
                    shards.entry(shard).or_insert((partition, *node));
                }
            }
        }
        let shards: Vec<(PartitionId, NodeId)> = shards.into_values().collect();
        pin(client, &shards, at).await?;
        let client = client.clone();
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HOLD_EVERY).await;
                // The next page tells what is wrong.
                let _ = pin(&client, &shards, at).await;
            }
        });
        Ok(Self(renewing))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks all shards at once, each through a partition of its own.
async fn pin(client: &Client, shards: &[(PartitionId, NodeId)], at: Moment) -> CliResult {
    let mut asked = JoinSet::new();
    for (partition, node) in shards.iter().copied() {
        let (client, at_least) = (client.clone(), AtLeast::Pinned(at));
        let from = ReadFrom::Node(node);
        let call = Call::OpenSnapshot { partition, from, at_least };
        asked.spawn(async move { client.call(call).await });
    }
    while let Some(answered) = asked.join_next().await {
        let ended = |_| CliError::new(Trouble::Process, "a task ended before its work was done");
        answered.map_err(ended)?.map_err(Error::from)?;
    }
    Ok(())
}
