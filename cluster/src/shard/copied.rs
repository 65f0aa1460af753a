//! Which rows of a partition go into a piece of a copy: those whose newest version is stable. The
//! records of the others are in the stream that the joiner follows.
//!
//! The side table of unstable rows knows them by a tag of 64 bits. A row of the same tag as another
//! that is unstable must not be taken for it, or the copy lacks it: what the tag leaves open is
//! looked up in the records themselves.

use std::collections::VecDeque;

use lockstep_proto::hash::IdMap;
use lockstep_proto::ids::{Epoch, Seq, TableId};
use lockstep_proto::placement::key_hash;
use lockstep_proto::record::{Record, RecordKind, Writes};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::wire::join::CopiedRow;
use lockstep_storage::Position;

use super::partition::{DecidedTx, Partition, row_tag};

/// What came of one step of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step<P> {
    Further(P),
    Over,
    /// Something must become stable first.
    Wait,
}

/// Whether the newest version of a row is stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Newest {
    Stable,
    Unstable,
    /// The records that would tell are gone. They will be stable soon.
    Unknown,
}

/// The records that are not stable.
struct Unstable<'a> {
    tags: &'a IdMap<u64, Seq>,
    tail: &'a VecDeque<Box<[u8]>>,
    stable: Seq,
    /// Position of the last record.
    end: Seq,
    decided: &'a VecDeque<DecidedTx>,
}

impl Unstable<'_> {
    fn newest(&self, table: TableId, hash: u64, key: &[u8]) -> Newest {
        let tagged = self.tags.get(&row_tag(table, hash)).copied().unwrap_or(Seq(0));
        if tagged <= self.stable {
            return Newest::Stable;
        }
        // As a rule it is the row the tag was noted for.
        let mut newest = self.changes(tagged, table, key);
        let mut seq = self.stable.next();
        while newest == Newest::Stable && seq <= self.end {
            newest = self.changes(seq, table, key);
            seq = seq.next();
        }
        newest
    }

    /// What the record at this position says of a row.
    fn changes(&self, seq: Seq, table: TableId, key: &[u8]) -> Newest {
        let has = |writes: Writes<'_>| {
            let found = writes.iter().any(|write| write.table == table && write.key == key);
            if found { Newest::Unstable } else { Newest::Stable }
        };
        let base = self.end.0 - self.tail.len() as u64;
        let at = seq.0.checked_sub(base + 1).and_then(|at| usize::try_from(at).ok());
        let Some(bytes) = at.and_then(|at| self.tail.get(at)) else { return Newest::Unknown };
        let Ok(record) = Record::decode_sealed(bytes) else { return Newest::Unknown };
        match record.header.kind {
            RecordKind::Write => record.writes().map_or(Newest::Unknown, has),
            RecordKind::Commit => {
                let at = self.decided.binary_search_by_key(&seq, |tx| tx.seq);
                let prepare = at.ok().and_then(|at| self.decided.get(at));
                let prepare = prepare.and_then(|tx| Record::decode_sealed(&tx.record).ok());
                let body = prepare.and_then(|prepare| prepare.prepare().ok());
                body.map_or(Newest::Unknown, |body| has(body.writes))
            }
            RecordKind::Prepare | RecordKind::Abort | RecordKind::Copied => Newest::Stable,
        }
    }
}

impl Partition {
    /// From which epoch on a joiner restored to `recovered` is told what changed; 0 if what was
    /// deleted since is not known, and it gets everything.
    pub(super) fn changes_known_since(&self, recovered: Epoch) -> Epoch {
        if self.deletes.known_since() <= recovered { recovered } else { Epoch(0) }
    }

    /// Takes the next row deleted after an epoch and not there again; tells where the next step
    /// begins.
    pub(super) fn copy_deleted(&self, after: Epoch, from: u64, bytes: &mut Vec<u8>) -> Step<u64> {
        let Some((number, gone)) = self.deletes.next(from) else { return Step::Over };
        let hash = key_hash(&gone.key);
        if gone.epoch > after
            && let Some(table) = self.tables.get(&gone.table)
            && table.rows.get(hash, &gone.key).is_none()
        {
            let (tags, tail, decided) = (&self.unstable, &self.tail, &self.decided);
            let unstable = Unstable { tags, tail, stable: self.stable, end: self.end, decided };
            match unstable.newest(gone.table, hash, &gone.key) {
                Newest::Stable => {
                    let (epoch, key) = (gone.epoch, &gone.key);
                    CopiedRow { table: gone.table, epoch, key, value: None }.write(bytes);
                }
                // The delete, or what followed it, is in the stream.
                Newest::Unstable => {}
                Newest::Unknown => return Step::Wait,
            }
        }
        Step::Further(number + 1)
    }

    /// Takes some rows written after an epoch, where the newest version is stable.
    pub(super) fn copy_step(
        &mut self,
        id: TableId,
        after: Epoch,
        from: Position,
        bytes: &mut Vec<u8>,
    ) -> Step<Position> {
        let (tags, tail, decided) = (&self.unstable, &self.tail, &self.decided);
        let unstable = Unstable { tags, tail, stable: self.stable, end: self.end, decided };
        let Some(table) = self.tables.get_mut(&id) else { return Step::Over };
        let before = bytes.len();
        let mut wait = false;
        let next = table.rows.scan(Epoch(u64::MAX), from, |hash, row| {
            match unstable.newest(id, hash, row.key()) {
                Newest::Stable if row.epoch() > after => {
                    let value = Some(row.value());
                    CopiedRow { table: id, epoch: row.epoch(), key: row.key(), value }.write(bytes);
                }
                Newest::Stable => {}
                // In the stream; but a table's rows are not understood without its definition.
                Newest::Unstable => wait |= id == CATALOG,
                Newest::Unknown => wait = true,
            }
        });
        if wait {
            bytes.truncate(before);
            return Step::Wait;
        }
        next.map_or(Step::Over, Step::Further)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use lockstep_proto::ids::{PartitionId, SchemaVersion, TxId, ViewNumber};
    use lockstep_proto::record::{Header, RecordBuilder, RowWrite};
    use lockstep_proto::schema::catalog_def;
    use lockstep_proto::wire::join::copied_rows;
    use lockstep_storage::Fragment;

    use crate::shard::partition::Table;

    const T: TableId = TableId(9);

    fn header(kind: RecordKind, seq: u64) -> Header {
        let (partition, view, epoch) = (PartitionId(0), ViewNumber(1), Epoch(seq));
        Header { kind, partition, view, seq: Seq(seq), epoch, tx: TxId::default(), low: 0 }
    }

    /// A stable row `a`, and `b` written by a record that is not stable.
    fn partition() -> Partition {
        let mut part = Partition::new(PartitionId(0));
        let (def, rows) = (Arc::new(catalog_def().clone()), Fragment::new(SchemaVersion(1)));
        part.tables.insert(T, Table { def, rows, catalog_key: Box::default() });
        for (seq, key) in [(1, b"a"), (2, b"b")] {
            let mut record = RecordBuilder::write(&header(RecordKind::Write, seq), 64);
            record.push(&RowWrite { table: T, key, value: Some(b"value") });
            let record = record.finish();
            let writes = Record::decode_sealed(&record).unwrap().writes().unwrap();
            part.apply_writes(writes, Epoch(seq), Seq(seq));
            part.push_record(record);
        }
        part.raise_stable(Seq(1));
        part
    }

    /// As if the hashes of both keys were the same.
    fn collide(part: &mut Partition, noted: u64) {
        for key in [b"a", b"b"] {
            part.unstable.insert(row_tag(T, key_hash(key)), Seq(noted));
        }
    }

    fn copied(part: &mut Partition) -> Vec<Vec<u8>> {
        let (mut bytes, mut at) = (Vec::new(), Position(0));
        while let Step::Further(next) = part.copy_step(T, Epoch(0), at, &mut bytes) {
            at = next;
        }
        copied_rows(&bytes).map(|row| row.unwrap().key.to_vec()).collect()
    }

    #[test]
    fn a_row_is_not_taken_for_another_one_of_its_tag() {
        let mut part = partition();
        collide(&mut part, 2);
        assert_eq!(copied(&mut part), [b"a"]);
    }

    #[test]
    fn a_row_that_is_not_the_newest_of_its_tag_is_found() {
        let mut part = partition();
        let mut record = RecordBuilder::write(&header(RecordKind::Write, 3), 64);
        record.push(&RowWrite { table: T, key: b"c", value: Some(b"value") });
        part.push_record(record.finish());
        collide(&mut part, 3);
        assert_eq!(copied(&mut part), [b"a"]);
    }

    #[test]
    fn a_deleted_row_is_told_of_in_spite_of_its_tag() {
        let mut part = partition();
        part.deletes.push(Epoch(1), T, b"gone");
        part.unstable.insert(row_tag(T, key_hash(b"gone")), Seq(2));
        let mut bytes = Vec::new();
        assert_eq!(part.copy_deleted(Epoch(0), 0, &mut bytes), Step::Further(1));
        assert_eq!(copied_rows(&bytes).count(), 1);
    }
}
