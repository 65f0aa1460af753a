//! Applying a record to a replica's state: the one place where rows, prepared transactions and
//! outcomes change, the same on primary and backups.

use std::sync::Arc;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, PartitionId, Seq, TxId};
use lockstep_proto::outcomes::Outcome;
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::Outputs;
use lockstep_proto::record::{Header, PrepareBody, Record, RecordKind, RowWrite, Writes};
use lockstep_proto::schema::{CATALOG, TableDef, catalog_row};
use lockstep_storage::Fragment;

use super::ShardCore;
use super::partition::{DecidedTx, Partition, PreparedTx, Table, row_tag};

/// The table a row of the catalog defines; `None` for the row that counts table ids.
pub(super) fn catalog_table(row: &[u8]) -> Option<TableDef> {
    let (_, definition) = catalog_row(row).ok()?;
    TableDef::decode(definition).ok()
}

impl Partition {
    /// Puts or removes one row; returns the change in counted bytes.
    fn apply_write(&mut self, write: &RowWrite<'_>, epoch: Epoch, seq: Seq) -> i64 {
        let hash = key_hash(write.key);
        let mut delta = 0;
        if write.table == CATALOG {
            delta += self.apply_schema(write);
        }
        let Some(table) = self.tables.get_mut(&write.table) else {
            // Only a table dropped by an earlier write of the same record can be missing.
            return delta;
        };
        delta += match write.value {
            Some(value) => table.rows.put(hash, write.key, value, epoch),
            None => {
                let change = table.rows.remove(hash, write.key, epoch);
                // A row that is deleted before it was copied here has been somewhere.
                if change != 0 || self.join.is_some() {
                    self.deletes.push(epoch, write.table, write.key);
                }
                change
            }
        };
        let tag = row_tag(write.table, hash);
        self.unstable.insert(tag, seq);
        self.unstable_order.push_back((seq, tag));
        delta
    }

    /// A row of the catalog changes: the table's fragment comes or goes.
    pub(super) fn apply_schema(&mut self, write: &RowWrite<'_>) -> i64 {
        let mut delta = 0;
        let catalog = &self.tables[&CATALOG];
        let old = catalog.rows.get(key_hash(write.key), write.key);
        let old_def = old.and_then(|row| catalog_table(row.value()));
        let new_def = write.value.and_then(catalog_table);
        if let Some(old) = &old_def
            && new_def.as_ref().is_none_or(|new| new.id != old.id)
            && let Some(gone) = self.tables.remove(&old.id)
        {
            self.tables_dropped += 1;
            delta -= i64::try_from(gone.rows.bytes()).unwrap_or(i64::MAX);
        }
        if let Some(def) = new_def {
            let kept = self.tables.remove(&def.id).map(|table| table.rows);
            let rows = kept.unwrap_or_else(|| Fragment::new(def.version));
            let catalog_key = write.key.into();
            let def: Arc<TableDef> = Arc::new(def);
            self.tables.insert(def.id, Table { def, rows, catalog_key });
        }
        delta
    }

    pub(super) fn apply_writes(&mut self, writes: Writes<'_>, epoch: Epoch, seq: Seq) -> i64 {
        writes.iter().map(|write| self.apply_write(&write, epoch, seq)).sum()
    }

    /// Notes a prepared transaction in the side tables.
    pub(super) fn hold_prepared(&mut self, header: &Header, body: &PrepareBody<'_>, bytes: &[u8]) {
        for write in body.writes.iter() {
            self.prepared_rows.insert((row_tag(write.table, key_hash(write.key)), header.tx));
        }
        self.outcomes.raise_low(header.tx, header.low);
        let prepared = PreparedTx {
            coordinator: body.coordinator,
            order: body.order,
            participants: body.participants.iter().collect(),
            epoch: header.epoch,
            seq: header.seq,
            low: header.low,
            record: bytes.into(),
        };
        self.prepared.insert(header.tx, prepared);
    }

    /// A transaction is decided in `epoch`: its `Prepare` may be wanted once more, by a checkpoint
    /// as of an earlier one, or by a copy that must know what is not stable.
    fn keep_decided(&mut self, prepared: PreparedTx, (epoch, seq): (Epoch, Seq)) {
        if prepared.epoch < epoch || self.keeps() {
            let (prepared, record) = (prepared.epoch, prepared.record);
            self.decided.push_back(DecidedTx { prepared, epoch, seq, record });
        }
    }

    /// Takes a prepared transaction out of the side tables.
    pub(super) fn take_prepared(&mut self, tx: TxId) -> Option<PreparedTx> {
        let prepared = self.prepared.remove(&tx)?;
        for write in prepared.writes().iter() {
            self.prepared_rows.remove(&(row_tag(write.table, key_hash(write.key)), tx));
        }
        Some(prepared)
    }
}

impl PreparedTx {
    /// What changes if it commits.
    pub(super) fn writes(&self) -> Writes<'_> {
        self.body().writes
    }

    /// The `Prepare`'s body.
    pub(super) fn body(&self) -> lockstep_proto::record::PrepareBody<'_> {
        Record::decode_sealed(&self.record)
            .and_then(|record| record.prepare())
            .expect("checked when it entered the log")
    }
}

impl ShardCore {
    /// Applies the next record of a partition's log. Returns the transaction that ends with it and
    /// may have held locks or blocked readers.
    pub(super) fn apply(
        &mut self,
        p: PartitionId,
        bytes: &[u8],
        out: &mut Outputs,
    ) -> Option<TxId> {
        let record = match Record::decode_sealed(bytes) {
            Ok(record) => record,
            Err(error) => {
                self.broken(format!("{p}: unreadable record: {error}"), out);
                return None;
            }
        };
        match record.header.kind {
            RecordKind::Write => self.apply_committed_write(p, &record, out),
            RecordKind::Prepare => self.apply_prepare(p, &record, bytes, out),
            RecordKind::Commit => return self.apply_commit(p, &record, out),
            RecordKind::Abort => return self.apply_abort(p, &record, out),
            RecordKind::Copied => self.broken(format!("{p}: a record of redo logs only"), out),
        }
        None
    }

    fn apply_committed_write(&mut self, p: PartitionId, record: &Record<'_>, out: &mut Outputs) {
        let header = record.header;
        let Ok(writes) = record.writes() else {
            self.broken(format!("{p}: unreadable writes"), out);
            return;
        };
        let (closed, careless) = (self.closed, self.canary == Some(Canary::ApplyTwice));
        let part = self.part_mut(p);
        let delta = part.apply_writes(writes, header.epoch, header.seq);
        let outcome = Outcome::Committed(header.epoch);
        let agrees = part.outcomes.record(header.tx, outcome, header.low, closed);
        self.data_bytes += delta;
        if !agrees && !careless {
            self.broken(format!("{p}: {} written and aborted", header.tx), out);
        }
        self.check_epoch_open(p, header.tx, header.epoch, out);
    }

    pub(super) fn apply_prepare(
        &mut self,
        p: PartitionId,
        record: &Record<'_>,
        bytes: &[u8],
        out: &mut Outputs,
    ) {
        let header = record.header;
        let Ok(body) = record.prepare() else {
            self.broken(format!("{p}: unreadable prepare"), out);
            return;
        };
        self.part_mut(p).hold_prepared(&header, &body, bytes);
    }

    fn apply_commit(
        &mut self,
        p: PartitionId,
        record: &Record<'_>,
        out: &mut Outputs,
    ) -> Option<TxId> {
        let header = record.header;
        let closed = self.closed;
        let part = self.part_mut(p);
        let Some(prepared) = part.take_prepared(header.tx) else {
            self.broken(format!("{p}: commit of {} without its prepare", header.tx), out);
            return None;
        };
        let delta = part.apply_writes(prepared.writes(), header.epoch, header.seq);
        let outcome = Outcome::Committed(header.epoch);
        let agrees = part.outcomes.record(header.tx, outcome, header.low, closed);
        part.keep_decided(prepared, (header.epoch, header.seq));
        self.data_bytes += delta;
        if !agrees {
            self.broken(format!("{p}: {} committed and aborted", header.tx), out);
        }
        self.check_epoch_open(p, header.tx, header.epoch, out);
        Some(header.tx)
    }

    fn apply_abort(
        &mut self,
        p: PartitionId,
        record: &Record<'_>,
        out: &mut Outputs,
    ) -> Option<TxId> {
        let header = record.header;
        let closed = self.closed;
        let part = self.part_mut(p);
        if let Some(prepared) = part.take_prepared(header.tx) {
            part.keep_decided(prepared, (header.epoch, header.seq));
        }
        if !part.outcomes.record(header.tx, Outcome::Aborted, header.low, closed) {
            self.broken(format!("{p}: {} aborted and committed", header.tx), out);
        }
        Some(header.tx)
    }

    /// A commit must never land in an epoch that is closed: a snapshot may have been read there.
    fn check_epoch_open(&mut self, p: PartitionId, tx: TxId, epoch: Epoch, out: &mut Outputs) {
        // A joiner learns late what is stable: the epoch may have closed meanwhile.
        if epoch <= self.closed && self.serves(p) {
            let closed = self.closed;
            self.broken(format!("{p}: {tx} commits in {epoch}, but {closed} is closed"), out);
        }
    }
}
