//! From files back to partitions: the rows of checkpoints, then the records of the redo log, by the
//! same rules by which a replica applies them.
//!
//! What is prepared and undecided as of the epoch restored to is dropped. A closed epoch has the
//! commits of all transactions decided in it or before, so an undecided one has committed after it,
//! if at all, and what came after it is dropped; a node that rejoins gets from its group what has
//! become of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_proto::disk::SegmentName;
use lockstep_proto::ids::{Epoch, ShardId, TableId};
use lockstep_proto::outcomes::Outcome;
use lockstep_proto::placement::key_hash;
use lockstep_proto::record::{Record, RecordKind, Writes};
use lockstep_proto::schema::{CATALOG, TableDef};
use lockstep_storage::checkpoint::{CheckpointHeader, Items, StoredTable};
use lockstep_storage::disk::{FaultKind, FileFault, FileName};
use lockstep_storage::redo::Redone;
use lockstep_storage::restore::{Files, Owner, Restoration, Source};
use lockstep_storage::{Fragment, Tombstones};

use super::ShardCore;
use super::apply::catalog_table;
use super::partition::{Partition, Table};

/// A partition as of the epoch restored to.
pub struct RestoredPartition {
    local_index: u16,
    pub(super) partition: Box<Partition>,
    /// Its complete checkpoints on the disk.
    pub(super) checkpoints: Vec<CheckpointHeader>,
}

/// What a shard begins with.
#[derive(Default)]
pub struct RestoredShard {
    /// As of when.
    pub(super) epoch: Epoch,
    pub(super) partitions: Vec<RestoredPartition>,
    /// Redo of earlier lives, needed until checkpoints hold these partitions as of `epoch`.
    pub(super) segments: Vec<SegmentName>,
}

/// What a node begins with.
pub struct Restored {
    /// As of when.
    pub epoch: Epoch,
    partitions: Vec<RestoredPartition>,
    segments: BTreeMap<ShardId, Vec<SegmentName>>,
    /// Files to be removed.
    pub superfluous: Vec<FileName>,
}

impl RestoredShard {
    /// As of when.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Restored {
    /// What has been restored, lane after lane.
    #[must_use]
    pub fn new(
        restoration: &Restoration<'_>,
        shards: u16,
        lanes: Vec<Vec<RestoredPartition>>,
    ) -> Self {
        let of = |shard| (shard, restoration.segments_of(shard, shards));
        Self {
            epoch: restoration.epoch(),
            partitions: lanes.into_iter().flatten().collect(),
            segments: (0..shards).map(ShardId).map(of).collect(),
            superfluous: restoration.superfluous(),
        }
    }

    /// How many rows there are, definitions of tables not counted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let tables = self.partitions.iter().flat_map(|restored| &restored.partition.tables);
        let tables = tables.filter(|(id, _)| **id != CATALOG);
        tables.map(|(_, table)| table.rows.len() as u64).sum()
    }

    /// Takes out what a shard of so many begins with.
    pub fn take_shard(&mut self, shard: ShardId, shards: u16) -> RestoredShard {
        let own = |part: &mut RestoredPartition| part.local_index % shards.max(1) == shard.0;
        RestoredShard {
            epoch: self.epoch,
            partitions: self.partitions.extract_if(.., own).collect(),
            segments: self.segments.remove(&shard).unwrap_or_default(),
        }
    }
}

/// Restores all partitions of a node with so many shards, one after the other: to `to`, or as far
/// as the files reach. Those who have threads restore the lanes of a [`Restoration`] in parallel.
///
/// # Errors
/// What is wrong with the files; none of it is used then.
pub fn restore(
    owner: &Owner,
    files: &Files<'_>,
    to: Option<Epoch>,
    shards: u16,
) -> Result<Restored, Vec<FileFault>> {
    let restoration = Restoration::open(owner, files, to).map_err(|reach| reach.faults)?;
    let lanes = (0..restoration.lanes()).map(|lane| restore_lane(&restoration, lane));
    let all = |fault: Box<FileFault>| {
        // What is missing may be in one that cannot be used.
        let mut faults = vec![*fault];
        faults.extend(restoration.reach().faults.iter().cloned());
        faults
    };
    let lanes = lanes.collect::<Result<_, _>>().map_err(all)?;
    Ok(Restored::new(&restoration, shards, lanes))
}

/// Restores the partitions of one lane.
///
/// # Errors
/// The first thing that is wrong with the files.
pub fn restore_lane(
    restoration: &Restoration<'_>,
    lane: u16,
) -> Result<Vec<RestoredPartition>, Box<FileFault>> {
    let mut loaded = BTreeMap::new();
    for source in restoration.sources(lane) {
        let partition = Box::new(load(source)?);
        let after = source.epoch();
        let restored = RestoredPartition {
            local_index: source.local_index,
            partition,
            checkpoints: restoration.checkpoints_of(source),
        };
        loaded.insert(source.partition, (after, restored));
    }
    for mut replay in restoration.replays(lane) {
        while let Some(redone) = replay.next() {
            let Redone { bytes, record } = redone?;
            // One that is not here was moved away, or never moved here.
            let Some((after, restored)) = loaded.get_mut(&record.header.partition) else {
                continue;
            };
            if record.header.epoch > *after {
                let applied = restored.partition.replay(&record, bytes);
                applied.map_err(|what| replay.fault(what))?;
            }
        }
    }
    Ok(loaded.into_values().map(|(_, restored)| restored.finish(restoration.epoch())).collect())
}

impl ShardCore {
    /// A shard that begins with what was on its node's disk. It must be told before anything else.
    #[must_use]
    pub fn with_restored(mut self, restored: RestoredShard) -> Self {
        self.raise_epoch(restored.epoch.next());
        self.closed = self.closed.max(restored.epoch);
        self.recovered = restored.epoch;
        self.checkpoints.found_redo(restored.segments, restored.epoch);
        for RestoredPartition { partition, checkpoints, .. } in restored.partitions {
            self.checkpoints.found(partition.id, checkpoints);
            let bytes: usize = partition.tables.values().map(|table| table.rows.bytes()).sum();
            self.data_bytes += i64::try_from(bytes).unwrap_or(i64::MAX);
            let at = usize::from(partition.id.0);
            if self.parts.len() <= at {
                self.parts.resize_with(at + 1, || None);
            }
            self.parts[at] = Some(partition);
        }
        self
    }
}

impl RestoredPartition {
    /// See the module text for what is dropped.
    fn finish(mut self, epoch: Epoch) -> Self {
        self.partition.prepared.clear();
        self.partition.prepared_rows.clear();
        self.partition.versions_from = epoch;
        self
    }
}

/// Loads the checkpoints of a partition.
fn load(source: &Source<'_>) -> Result<Partition, Box<FileFault>> {
    let mut part = Partition::new(source.partition);
    let (Some(chain), Some(newest)) = (&source.chain, source.files.last()) else {
        return Ok(part);
    };
    let fault = |name, what| {
        Box::new(FileFault {
            file: FileName::Checkpoint(name),
            offset: 0,
            kind: FaultKind::Damaged(what),
        })
    };
    let newest_name = newest.header().name;
    for block in newest.blocks().filter(|block| !block.has_rows()) {
        let unusable = match block.items()? {
            Items::Tables(mut tables) => tables.any(|table| part.define(&table).is_none()),
            Items::Prepared(mut records) => {
                records.any(|record| part.load_prepared(record).is_none())
            }
            Items::Outcomes(mut pieces) => pieces.any(|piece| part.outcomes.load(piece).is_err()),
            Items::Rows(..) => true,
        };
        if unusable {
            return Err(fault(newest_name, "an item that makes no sense"));
        }
    }
    for (id, table) in part.tables.iter_mut().filter(|(id, _)| **id != CATALOG) {
        // A file of the chain has the rows of its slices, and some that have changed often.
        table.rows.reserve(source.files.iter().map(|file| file.rows_of(*id)).sum());
    }
    for (at, file) in source.files.iter().enumerate() {
        for block in file.blocks().filter(lockstep_storage::checkpoint::Block::has_rows) {
            let Items::Rows(table, _, rows) = block.items()? else { continue };
            // Rows of a table that the newest checkpoint does not name were dropped with it.
            let Some(table) = part.tables.get_mut(&table) else { continue };
            for row in rows {
                let hash = key_hash(row.key);
                if !chain.takes(at, hash) {
                    continue;
                }
                match row.value {
                    Some(value) => table.rows.load(hash, row.key, value, row.epoch),
                    None => table.rows.unload(hash, row.key),
                };
            }
        }
    }
    part.deletes = Tombstones::since(chain.epoch());
    part.name_tables().ok_or_else(|| fault(newest_name, "a catalog of other tables"))?;
    Ok(part)
}

impl Partition {
    /// Makes the table of a checkpoint; the catalog is there already.
    fn define(&mut self, table: &StoredTable<'_>) -> Option<()> {
        let def = TableDef::decode(table.definition).ok()?;
        if table.table != def.id || table.schema != def.version {
            return None;
        }
        let rows = Fragment::new(def.version);
        self.tables.entry(def.id).or_insert(Table {
            def: Arc::new(def),
            rows,
            catalog_key: Box::default(),
        });
        Some(())
    }

    /// Takes the record of a transaction that was undecided as of the checkpoint.
    fn load_prepared(&mut self, bytes: &[u8]) -> Option<()> {
        let record = Record::decode(bytes).ok()?;
        self.hold_prepared(&record.header, &record.prepare().ok()?, bytes);
        Some(())
    }

    /// Tells each table its row in the catalog; `None` if that names one that is not here.
    fn name_tables(&mut self) -> Option<()> {
        let catalog = &self.tables.get(&CATALOG)?.rows;
        let named = catalog.iter().filter_map(|row| {
            let def = catalog_table(row.value())?;
            Some((def.id, Box::from(row.key())))
        });
        let named: Vec<(TableId, Box<[u8]>)> = named.collect();
        for (id, key) in named {
            self.tables.get_mut(&id)?.catalog_key = key;
        }
        Some(())
    }

    /// Applies a record of the redo log, after those before it.
    fn replay(&mut self, record: &Record<'_>, bytes: &[u8]) -> Result<(), &'static str> {
        let header = &record.header;
        let outcome = match header.kind {
            RecordKind::Write => {
                let writes = record.writes().map_err(|_| "a record without its writes")?;
                self.replay_writes(writes, header.epoch);
                Outcome::Committed(header.epoch)
            }
            RecordKind::Prepare => {
                let body = record.prepare().map_err(|_| "a prepare without its body")?;
                self.hold_prepared(header, &body, bytes);
                return Ok(());
            }
            RecordKind::Commit => {
                let prepared = self.take_prepared(header.tx);
                let prepared = prepared.ok_or("a commit without its prepare")?;
                self.replay_writes(prepared.writes(), header.epoch);
                Outcome::Committed(header.epoch)
            }
            RecordKind::Abort => {
                self.take_prepared(header.tx);
                Outcome::Aborted
            }
            RecordKind::Copied => return Err("rows copied here, which are in no checkpoint"),
        };
        let agrees = self.outcomes.record(header.tx, outcome, header.low, Epoch(0));
        if agrees { Ok(()) } else { Err("a transaction with two outcomes") }
    }

    fn replay_writes(&mut self, writes: Writes<'_>, epoch: Epoch) {
        for write in writes.iter() {
            if write.table == CATALOG {
                self.apply_schema(&write);
            }
            let Some(table) = self.tables.get_mut(&write.table) else { continue };
            let hash = key_hash(write.key);
            match write.value {
                Some(value) => table.rows.load(hash, write.key, value, epoch),
                None => {
                    self.deletes.push(epoch, write.table, write.key);
                    table.rows.unload(hash, write.key)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::ids::{PartitionId, Seq, TxId, ViewNumber};
    use lockstep_proto::record::{Header, RecordBuilder};

    #[test]
    fn what_was_copied_is_not_made_of_the_log_alone() {
        let (partition, view, epoch) = (PartitionId(3), ViewNumber(2), Epoch(9));
        let (kind, seq, tx) = (RecordKind::Copied, Seq(7), TxId::default());
        let header = Header { kind, partition, view, seq, epoch, tx, low: 0 };
        let bytes = RecordBuilder::decision(&header);
        let record = Record::decode(&bytes).expect("as it was built");
        let mut part = Partition::new(partition);
        assert!(part.replay(&record, &bytes).is_err(), "a checkpoint as of e9 would come after it");
    }
}
