//! Running operations against rows, with the transaction's own writes laid over them.
//!
//! Nothing is changed here: results go to the answer, writes are staged and become a record.

use std::ops::Range;

use bytes::BytesMut;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Seq, TableId};
use lockstep_proto::limits::KEY_BYTES_MAX;
use lockstep_proto::placement::{key_hash, partition_of};
use lockstep_proto::record::{RecordBuilder, RowWrite};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpResult, Ops};
use lockstep_storage::{Effect, evaluate};

use super::partition::{Partition, Table, row_tag};

/// Writes of a transaction that are not in the log yet: one arena, so that staging allocates
/// nothing once the arena has grown.
#[derive(Default)]
pub(super) struct Staged {
    arena: Vec<u8>,
    writes: Vec<StagedWrite>,
}

struct StagedWrite {
    table: TableId,
    hash: u64,
    key: Range<usize>,
    /// `None` for a delete.
    value: Option<Range<usize>>,
}

impl Staged {
    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.writes.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Bytes of the staged writes in a record: a count, and lengths and table with each.
    pub(super) fn size(&self) -> usize {
        2 + self.arena.len() + self.writes.len() * 10
    }

    /// What the transaction itself has made of a row: `Some(None)` if it deleted it.
    fn own(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Option<&[u8]>> {
        let found =
            self.writes.iter().rev().find(|w| {
                w.hash == hash && w.table == table && &self.arena[w.key.clone()] == key
            })?;
        Some(found.value.clone().map(|range| &self.arena[range]))
    }

    fn push(&mut self, table: TableId, hash: u64, key: &[u8], value: Option<&[u8]>) {
        let at = self.arena.len();
        self.arena.extend_from_slice(key);
        let key = at..self.arena.len();
        let value = value.map(|bytes| {
            let at = self.arena.len();
            self.arena.extend_from_slice(bytes);
            at..self.arena.len()
        });
        self.writes.push(StagedWrite { table, hash, key, value });
    }

    /// Hands all writes to a record. A row written twice is written twice: the last one counts.
    pub(super) fn write_to(&self, builder: &mut RecordBuilder) {
        for write in &self.writes {
            builder.push(&RowWrite {
                table: write.table,
                key: &self.arena[write.key.clone()],
                value: write.value.clone().map(|range| &self.arena[range]),
            });
        }
    }
}

/// How operations that fail are treated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// The first failure ends the batch: the transaction aborts as a whole.
    Batch,
    /// Each operation answers for itself: an interactive transaction goes on.
    Operation,
}

/// Where a batch failed.
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) op: u16,
    /// What must be stable before the failure may be told: it was derived from rows.
    pub(super) after: Seq,
}

/// Looks up an operation's table and checks that the request fits it.
pub(super) fn table_of<'p>(
    part: &'p Partition,
    partitions: u16,
    op: &Op<'_>,
) -> Result<(&'p Table, u64), Code> {
    let table = part.tables.get(&op.table).ok_or_else(|| part.why_no_table())?;
    if table.def.version != op.schema {
        return Err(Code::WrongSchema);
    }
    if op.key.len() > KEY_BYTES_MAX {
        return Err(Code::KeyTooLong);
    }
    table.def.check_key(op.key)?;
    let hash = key_hash(op.key);
    if op.partition != part.id {
        return Err(Code::Malformed);
    }
    if !table.def.is_catalog() {
        let placing = table.def.partition_hash(op.key)?;
        if partition_of(placing, partitions) != part.id {
            return Err(Code::Malformed);
        }
    }
    Ok((table, hash))
}

/// Runs a batch. Results are appended to `results` (`count`, then each); writes go to `staged`.
/// Returns what must be stable before the results may be told.
pub(super) fn run_ops(
    part: &Partition,
    partitions: u16,
    ops: Ops<'_>,
    failing: Failing,
    staged: &mut Staged,
    results: &mut BytesMut,
) -> Result<Seq, Failure> {
    let count = u16::try_from(ops.len()).expect("bounded by BATCH_OPS_MAX");
    results.extend_from_slice(&count.to_le_bytes());
    let mut after = Seq(0);
    let mut scratch = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        match run_op(part, partitions, &op, staged, results, &mut scratch) {
            Ok(seen) => after = after.max(seen),
            Err((code, seen)) => {
                after = after.max(seen);
                if failing == Failing::Batch {
                    let op = u16::try_from(index).expect("bounded by BATCH_OPS_MAX");
                    return Err(Failure { code, op, after });
                }
                OpResult::Failed(code).write(results);
            }
        }
    }
    Ok(after)
}

fn run_op(
    part: &Partition,
    partitions: u16,
    op: &Op<'_>,
    staged: &mut Staged,
    results: &mut BytesMut,
    scratch: &mut Vec<u8>,
) -> Result<Seq, (Code, Seq)> {
    let (table, hash) = table_of(part, partitions, op).map_err(|code| (code, Seq(0)))?;
    // A row the transaction has written itself is rare: copied, so that staging can go on.
    let own = if staged.is_empty() { None } else { staged.own(op.table, hash, op.key) };
    let own = own.map(|value| value.map(<[u8]>::to_vec));
    let (current, after) = match &own {
        Some(value) => (value.as_deref(), Seq(0)),
        None => {
            let after = part.unstable_at(row_tag(op.table, hash));
            (table.rows.get(hash, op.key).map(|row| row.value()), after)
        }
    };
    scratch.clear();
    let effect = evaluate(&table.def, op, current, scratch).map_err(|code| (code, after))?;
    let returning = op.flags.has(OpFlags::RETURNING);
    let result = match (&effect, op.kind) {
        (Effect::Keep, OpKind::Read) => current.map_or(OpResult::Absent, OpResult::Row),
        (Effect::Put(value), _) if returning => OpResult::Row(value),
        (Effect::Delete, _) if returning => current.map_or(OpResult::Done, OpResult::Row),
        _ => OpResult::Done,
    };
    result.write(results);
    match effect {
        Effect::Keep => {}
        Effect::Put(value) => staged.push(op.table, hash, op.key, Some(value)),
        Effect::Delete => staged.push(op.table, hash, op.key, None),
    }
    Ok(after)
}
