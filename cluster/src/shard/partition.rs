//! One partition as one replica holds it: its log, its rows, and at the primary the locks and the
//! transactions under way.
//!
//! Invariant: rows, prepared transactions and outcomes are a function of the log's records in
//! order; locks and open transactions exist at the primary only and may be lost with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::hash::IdMap;
use lockstep_proto::ids::{
    Epoch, NodeInstance, PartitionId, Seq, ShardAddr, StartOrder, TableId, TxId, ViewNumber,
};
use lockstep_proto::outcomes::Outcomes;
use lockstep_proto::process::LinkId;
use lockstep_proto::schema::{CATALOG, TableDef, catalog_def};
use lockstep_proto::wire::op::OpList;
use lockstep_storage::{Fragment, LockTable, Tombstones};

use super::answers::Owed;
use super::evaluate::Staged;
use super::join::Join;
use super::kept::Kept;
use super::read::Blocked;

/// A table's rows in one partition, and what its schema says.
pub(super) struct Table {
    pub(super) def: Arc<TableDef>,
    pub(super) rows: Fragment,
    /// Key of the table's row in the catalog; transactions hold it shared. Empty for the catalog.
    pub(super) catalog_key: Box<[u8]>,
}

/// Another replica of a partition this shard leads.
pub(super) struct Backup {
    pub(super) addr: ShardAddr,
    /// Its log holds everything up to here.
    pub(super) acked: Seq,
    /// The link records are streamed on; `None` until it has told its log ends in this view.
    pub(super) stream: Option<LinkId>,
    /// Stability waits for it: it is in sync or attached.
    pub(super) counts: bool,
    /// It is not in sync: it says what it holds in words of its own.
    pub(super) joins: bool,
    /// It joins, and records are kept so that it can go on after a broken link or a view change.
    pub(super) follows: bool,
}

/// A transaction that holds locks here and is not prepared.
pub(super) struct OpenTx {
    pub(super) coordinator: ShardAddr,
    pub(super) order: StartOrder,
    pub(super) low: u64,
    /// Forwards executed.
    pub(super) steps: u32,
    pub(super) staged: Staged,
    /// The forward that waits for locks.
    pub(super) pending: Option<Pending>,
}

/// Operations that wait for locks.
pub(super) struct Pending {
    pub(super) ops: OpList,
    /// Operations whose locks are held.
    pub(super) locked: usize,
    /// Non-empty: prepare in one go. Encoded as in `Partitions`.
    pub(super) participants: Vec<u8>,
}

/// A transaction with an undecided `Prepare` in the log.
pub(super) struct PreparedTx {
    pub(super) coordinator: ShardAddr,
    pub(super) order: StartOrder,
    /// All participants, anchor first.
    pub(super) participants: Vec<PartitionId>,
    /// This partition's vote.
    pub(super) epoch: Epoch,
    /// Where the `Prepare` is.
    pub(super) seq: Seq,
    pub(super) low: u64,
    /// The record, whose writes are applied at commit.
    pub(super) record: Box<[u8]>,
}

/// A decided transaction whose `Prepare` may be wanted once more.
pub(super) struct DecidedTx {
    /// When it was prepared here.
    pub(super) prepared: Epoch,
    /// When it was decided.
    pub(super) epoch: Epoch,
    /// Where its decision is in the log: they are in this order.
    pub(super) seq: Seq,
    /// The `Prepare`.
    pub(super) record: Box<[u8]>,
}

/// See the module text.
pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) leads: bool,
    /// This replica is not in sync yet.
    pub(super) join: Option<Join>,
    /// Replicas in the view that stability waits for, this one included.
    pub(super) replicas: usize,
    pub(super) end: Seq,
    pub(super) stable: Seq,
    /// What the backups were last told of `stable`.
    pub(super) stable_told: Seq,
    /// Rolls over every record: equal at equal `end` on every replica.
    pub(super) digest: u64,
    /// The records after `stable`, in order.
    pub(super) tail: VecDeque<Box<[u8]>>,
    /// At the primary, stable records that a joiner may still ask for.
    pub(super) kept: Kept,
    /// The view of the record at `stable`; 0 if that came in a copy or from a disk.
    pub(super) stable_view: ViewNumber,
    /// No older versions are kept here than from this epoch on.
    pub(super) versions_from: Epoch,
    pub(super) backups: Vec<Backup>,
    /// The other replicas, whose promises make the read lease.
    pub(super) peers: Vec<NodeInstance>,
    pub(super) tables: IdMap<TableId, Table>,
    pub(super) locks: LockTable,
    pub(super) open: BTreeMap<TxId, OpenTx>,
    pub(super) prepared: BTreeMap<TxId, PreparedTx>,
    /// (row tag, transaction) of every prepared write.
    pub(super) prepared_rows: BTreeSet<(u64, TxId)>,
    pub(super) outcomes: Outcomes,
    /// Prepared transactions decided in an epoch that may not be closed yet: as of an earlier one
    /// they are undecided. While a joiner follows also those decided in the epoch of their
    /// `Prepare`: what they have written may not be stable.
    pub(super) decided: VecDeque<DecidedTx>,
    /// Rows deleted lately.
    pub(super) deletes: Tombstones,
    /// How many tables have been dropped here.
    pub(super) tables_dropped: u64,
    /// It has all rows: it is not being copied from another replica.
    pub(super) whole: bool,
    /// Row tag to the newest record that changed the row and is not stable.
    pub(super) unstable: IdMap<u64, Seq>,
    pub(super) unstable_order: VecDeque<(Seq, u64)>,
    /// What is owed once the log is stable up to a position, in order of position.
    pub(super) owed: VecDeque<(Seq, Owed)>,
    /// What waits for the end of a prepared transaction.
    pub(super) blocked: BTreeMap<TxId, Vec<Blocked>>,
}

impl Partition {
    /// Why a table is not there. A client that was told that its table is created may be faster
    /// than the commit of that creation, which follows the answer: it is to try again.
    pub(super) fn why_no_table(&self) -> Code {
        let defines = |tx: &PreparedTx| tx.writes().iter().any(|write| write.table == CATALOG);
        if self.prepared.values().any(defines) { Code::NotServing } else { Code::NoSuchTable }
    }

    pub(super) fn new(id: PartitionId) -> Self {
        let mut tables = IdMap::default();
        let catalog = Table {
            def: Arc::new(catalog_def().clone()),
            rows: Fragment::new(catalog_def().version),
            catalog_key: Box::default(),
        };
        tables.insert(CATALOG, catalog);
        Self {
            id,
            leads: false,
            join: None,
            replicas: 0,
            end: Seq(0),
            stable: Seq(0),
            stable_told: Seq(0),
            digest: 0,
            tail: VecDeque::new(),
            kept: Kept::default(),
            stable_view: ViewNumber(0),
            versions_from: Epoch(0),
            backups: Vec::new(),
            peers: Vec::new(),
            tables,
            locks: LockTable::new(),
            open: BTreeMap::new(),
            prepared: BTreeMap::new(),
            prepared_rows: BTreeSet::new(),
            outcomes: Outcomes::default(),
            decided: VecDeque::new(),
            deletes: Tombstones::default(),
            tables_dropped: 0,
            whole: true,
            unstable: IdMap::default(),
            unstable_order: VecDeque::new(),
            owed: VecDeque::new(),
            blocked: BTreeMap::new(),
        }
    }

    /// The position that must be stable before the row as it is now may be told.
    pub(super) fn unstable_at(&self, tag: u64) -> Seq {
        if self.unstable.is_empty() {
            return Seq(0);
        }
        self.unstable.get(&tag).copied().unwrap_or(Seq(0))
    }

    /// A prepared, undecided transaction that would change the row.
    pub(super) fn preparer_of(&self, tag: u64) -> Option<TxId> {
        if self.prepared_rows.is_empty() {
            return None;
        }
        let first = (tag, TxId::default());
        self.prepared_rows.range(first..).next().filter(|(t, _)| *t == tag).map(|(_, tx)| *tx)
    }

    /// Records after `after`, with their positions.
    pub(super) fn records_after(&self, after: Seq) -> impl Iterator<Item = (Seq, &[u8])> {
        let base = self.end.0 - self.tail.len() as u64;
        assert!(after.0 >= base, "{}: asked for records before the kept tail", self.id);
        let skip = usize::try_from(after.0 - base).expect("the tail fits memory");
        self.tail
            .iter()
            .skip(skip)
            .enumerate()
            .map(move |(i, r)| (Seq(after.0 + 1 + i as u64), &**r))
    }

    /// How many rows it has. Definitions of tables are rows, too, but nobody put them there.
    pub(super) fn rows(&self) -> u64 {
        self.tables.keys().map(|table| self.rows_of(*table)).sum()
    }

    /// How many rows of one table; none of the catalog.
    pub(super) fn rows_of(&self, table: TableId) -> u64 {
        let counted = self.tables.get(&table).filter(|_| table != CATALOG);
        counted.map_or(0, |table| table.rows.len() as u64)
    }

    /// The coordinator of a transaction that holds locks here.
    pub(super) fn coordinator_of(&self, tx: TxId) -> Option<ShardAddr> {
        let open = self.open.get(&tx).map(|t| t.coordinator);
        open.or_else(|| self.prepared.get(&tx).map(|t| t.coordinator))
    }
}

/// Names a row in the side tables: its key's hash with the table mixed in. Two rows of one tag only
/// wait for each other a little too long.
pub(super) fn row_tag(table: TableId, hash: u64) -> u64 {
    hash ^ u64::from(table.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
