//! What a shard core shows to whoever checks it: the simulator's invariants and the `check`
//! command. Nothing here changes anything.

use std::collections::BTreeMap;

use lockstep_proto::ids::{
    Epoch, NodeInstance, PartitionId, Seq, ShardAddr, TableId, TxId, ViewNumber,
};
use lockstep_proto::wire::progress::JoinProgress;
use lockstep_storage::{Owner, Position};

use super::ShardCore;

/// One shard, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardInspection {
    /// Who it is.
    pub addr: ShardAddr,
    /// The view it acts in.
    pub view: ViewNumber,
    /// Its epoch.
    pub epoch: Epoch,
    /// The highest closed epoch it knows.
    pub closed: Epoch,
    /// The highest epoch it has reported in this view.
    pub reported: Epoch,
    /// Transactions it coordinates, open or undecided or unconfirmed.
    pub coordinated: usize,
    /// Take-overs under way.
    pub takeovers: usize,
    /// Reads that wait.
    pub reads_waiting: usize,
    /// Frames of newer views held.
    pub frames_held: usize,
    /// Records appended as primary in an epoch that was closed already: must be 0.
    pub late_records: u64,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionInspection>,
}

/// One replica of a partition, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionInspection {
    /// Which.
    pub partition: PartitionId,
    /// Whether it is the primary.
    pub leads: bool,
    /// Whether it is in sync.
    pub in_sync: bool,
    /// Log end.
    pub end: Seq,
    /// Stable end, as far as this replica knows.
    pub stable: Seq,
    /// Rolling digest of all records: equal at equal `end`.
    pub log_digest: u64,
    /// Digest of all rows, independent of their order.
    pub rows_digest: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Transactions with locks or waiting for some, at the primary.
    pub lock_owners: Vec<Owner>,
    /// Unprepared transactions with state here.
    pub open: Vec<TxId>,
    /// Undecided prepares, with their coordinators.
    pub prepared: Vec<(TxId, ShardAddr)>,
    /// Outcomes kept.
    pub outcomes: usize,
    /// Answers owed.
    pub owed: usize,
    /// Transactions somebody waits for.
    pub blocked: usize,
}

impl ShardCore {
    /// The node's life.
    #[must_use]
    pub fn instance(&self) -> NodeInstance {
        self.me.instance
    }

    /// Whether it keeps what is as of an epoch for somebody.
    #[must_use]
    pub fn has_pinned(&self, epoch: Epoch) -> bool {
        self.snapshots.has_pinned(epoch)
    }

    /// How far it is, or how it went, and how many of its partitions are not in sync; `None` unless
    /// the node has come back in this life.
    #[must_use]
    pub fn join_inspection(&self) -> Option<(JoinProgress, usize)> {
        let joining = self.parts.iter().flatten().filter(|part| part.join.is_some());
        Some((self.join_progress()?, joining.count()))
    }

    /// The whole state in figures. `with_rows` also digests every row: linear in the data.
    #[must_use]
    pub fn inspect(&self, with_rows: bool) -> ShardInspection {
        let partitions = self
            .parts
            .iter()
            .flatten()
            .map(|part| PartitionInspection {
                partition: part.id,
                leads: part.leads,
                in_sync: part.join.is_none(),
                end: part.end,
                stable: part.stable,
                log_digest: part.digest,
                rows_digest: if with_rows { part.rows_digest() } else { 0 },
                rows: part.tables.values().map(|table| table.rows.len() as u64).sum(),
                lock_owners: part.locks.owners(),
                open: part.open.keys().copied().collect(),
                prepared: part.prepared.iter().map(|(id, tx)| (*id, tx.coordinator)).collect(),
                outcomes: part.outcomes.len(),
                owed: part.owed.len(),
                blocked: part.blocked.len(),
            })
            .collect();
        ShardInspection {
            addr: self.me,
            view: self.view_number,
            epoch: self.epoch,
            closed: self.closed,
            reported: self.reported,
            coordinated: self.coordinated.len(),
            takeovers: self.takeovers.len(),
            reads_waiting: self.reads.len(),
            frames_held: self.held.len(),
            late_records: self.late_records,
            partitions,
        }
    }
}

/// Rows by partition, table and key, each with its epoch and value.
pub type RowsAt = BTreeMap<(PartitionId, TableId, Box<[u8]>), (Epoch, Box<[u8]>)>;

impl ShardCore {
    /// All rows as of a closed epoch whose versions are still kept: linear in the data.
    #[must_use]
    pub fn rows_at(&mut self, epoch: Epoch) -> RowsAt {
        let mut rows = RowsAt::new();
        for part in self.parts.iter_mut().flatten() {
            let p = part.id;
            for (id, table) in &mut part.tables {
                let mut at = Some(Position::default());
                while let Some(from) = at {
                    at = table.rows.scan(epoch, from, |_, row| {
                        rows.insert((p, *id, row.key().into()), (row.epoch(), row.value().into()));
                    });
                }
            }
        }
        rows
    }
}

impl super::partition::Partition {
    /// A sum over rows, so that the order of the hash index does not matter.
    fn rows_digest(&self) -> u64 {
        let mut sum: u64 = 0;
        for (id, table) in &self.tables {
            for row in table.rows.iter() {
                let key = lockstep_proto::placement::key_hash(row.key());
                let value = lockstep_proto::placement::key_hash(row.value());
                let mixed = key.rotate_left(17) ^ value ^ row.epoch().0.rotate_left(40);
                let tagged = mixed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                sum = sum.wrapping_add(tagged.wrapping_mul(0xff51_afd7_ed55_8ccd));
            }
        }
        sum
    }
}
