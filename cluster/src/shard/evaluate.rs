//! Running operations against rows, with the transaction's own writes laid over them.
//!
//! Nothing is changed here: results go to the answer, writes are staged and become a record.

use std::ops::Range;

use bytes::BytesMut;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Seq, TableId};
use lockstep_proto::limits::{
    KEY_BYTES_MAX, RESULTS_BYTES_MAX, TX_WRITES_BYTES_MAX, TX_WRITES_MAX,
};
use lockstep_proto::placement::{key_hash, partition_of};
use lockstep_proto::record::{RecordBuilder, RowWrite};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpResult, Ops};
use lockstep_storage::{Effect, evaluate};

use super::partition::{Partition, Table, row_tag};

/// Writes looked through one by one; more get an index.
const INDEXED_FROM: usize = 16;

/// Writes of a transaction that are not in the log yet: one arena, so that staging allocates
/// nothing once the arena has grown.
#[derive(Default)]
pub(super) struct Staged {
    arena: Vec<u8>,
    writes: Vec<StagedWrite>,
    /// Open addressing by row hash: one more than the place in `writes` of a row's last write, 0
    /// where free. Empty below `INDEXED_FROM`, else a power of two and at least half free.
    index: Vec<u32>,
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
        self.index.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether one more write of this size still makes a record that others can read.
    fn has_room(&self, bytes: usize) -> bool {
        self.writes.len() < TX_WRITES_MAX && self.size() + bytes < TX_WRITES_BYTES_MAX
    }

    /// Bytes of the staged writes in a record: a count, and lengths and table with each.
    pub(super) fn size(&self) -> usize {
        2 + self.arena.len() + self.writes.len() * 10
    }

    /// What the transaction itself has made of a row: `Some(None)` if it deleted it.
    fn own(&self, table: TableId, hash: u64, key: &[u8]) -> Option<Option<&[u8]>> {
        let same = |write: &&StagedWrite| self.is_row(write, table, hash, key);
        let found = if self.index.is_empty() {
            self.writes.iter().rev().find(same)?
        } else {
            let place = self.index[self.slot_of(table, hash, key)].checked_sub(1)?;
            &self.writes[place as usize]
        };
        Some(found.value.clone().map(|range| &self.arena[range]))
    }

    fn is_row(&self, write: &StagedWrite, table: TableId, hash: u64, key: &[u8]) -> bool {
        write.hash == hash && write.table == table && &self.arena[write.key.clone()] == key
    }

    /// Where the index has a row, or has room for it.
    fn slot_of(&self, table: TableId, hash: u64, key: &[u8]) -> usize {
        let mask = self.index.len() - 1;
        let mut slot = (hash >> 16) as usize & mask;
        loop {
            match self.index[slot].checked_sub(1) {
                Some(place) if !self.is_row(&self.writes[place as usize], table, hash, key) => {
                    slot = (slot + 1) & mask;
                }
                _ => return slot,
            }
        }
    }

    /// Enters the last write into the index; all of them when it is made or grows.
    fn index_last(&mut self) {
        let count = self.writes.len();
        if count < INDEXED_FROM {
            return;
        }
        let mut from = count - 1;
        if count * 2 > self.index.len() {
            self.index.clear();
            self.index.resize((count * 4).next_power_of_two(), 0);
            from = 0;
        }
        for place in from..count {
            let write = &self.writes[place];
            let slot = self.slot_of(write.table, write.hash, &self.arena[write.key.clone()]);
            self.index[slot] = u32::try_from(place + 1).expect("bounded by TX_WRITES_MAX");
        }
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
        self.index_last();
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
    if let OpResult::Row(row) = result
        && results.len() + row.len() > RESULTS_BYTES_MAX
    {
        return Err((Code::AnswerTooLarge, after));
    }
    let written = match &effect {
        Effect::Keep => 0,
        Effect::Put(value) => op.key.len() + value.len(),
        Effect::Delete => op.key.len(),
    };
    if written > 0 && !staged.has_room(written) {
        return Err((Code::TransactionTooLarge, after));
    }
    result.write(results);
    match effect {
        Effect::Keep => {}
        Effect::Put(value) => staged.push(op.table, hash, op.key, Some(value)),
        Effect::Delete => staged.push(op.table, hash, op.key, None),
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_of_a_row_is_found_with_and_without_the_index() {
        let mut staged = Staged::default();
        let (first, second) = (TableId(1), TableId(2));
        for round in 0..3_u64 {
            for row in 0..100_u64 {
                // Few hashes, many rows: probing must tell them apart.
                let (hash, key) = ((row % 7) << 16, row.to_le_bytes());
                let value = (row + round * 1000).to_le_bytes();
                staged.push(first, hash, &key, (row % 10 != round).then_some(&value));
                assert_eq!(staged.own(second, hash, &key), None, "another table");
                for known in 0..=row {
                    let known_value = (known + round * 1000).to_le_bytes();
                    let expected = (known % 10 != round).then_some(&known_value[..]);
                    let key = known.to_le_bytes();
                    assert_eq!(staged.own(first, (known % 7) << 16, &key), Some(expected));
                }
            }
        }
        assert_eq!(staged.own(first, 0, b"never written"), None);
        staged.clear();
        assert_eq!(staged.own(first, 0, &0_u64.to_le_bytes()), None);
    }
}
