//! Requests of clients: admission, and the fast path of a batch that stays on one partition this
//! shard leads. One message in, one record, one answer, no lock taken: running the batch is one
//! uninterrupted step, and locks would end with the record anyway (early lock release).

use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, StartOrder, TxId};
use lockstep_proto::limits::{
    ANSWERS_OWED_MAX, EPOCH_AHEAD_MAX, REQUEST_BYTES_MAX, TRANSACTIONS_OPEN_MAX, TX_EXPIRY_EPOCHS,
};
use lockstep_proto::outcomes::Unusable;
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::record::{RecordBuilder, RecordKind};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::wire::data::{Execute, Finish, Message};
use lockstep_proto::wire::op::{Op, OpFlags};
use lockstep_storage::Mode;

use super::ShardCore;
use super::answers::{Owed, Question, Refusal};
use super::evaluate::{Failing, Failure, run_ops};
use super::partition::Partition;

/// The lock an operation needs on its row.
pub(super) fn lock_mode(op: &Op<'_>) -> Mode {
    if op.kind.writes() || op.flags.has(OpFlags::FOR_UPDATE) {
        Mode::Exclusive
    } else {
        Mode::Shared
    }
}

/// Why a transaction id is refused.
pub(super) fn refusal_of(unusable: Unusable) -> Code {
    match unusable {
        Unusable::Known(_) => Code::TransactionKnown,
        Unusable::Expired => Code::TransactionExpired,
    }
}

impl Partition {
    /// Whether a batch that takes no locks would run into one.
    fn batch_conflicts(&self, e: &Execute<'_>) -> bool {
        if self.locks.is_empty() {
            return false;
        }
        e.ops.iter().any(|op| {
            let row = self.locks.conflict(op.table, key_hash(op.key), op.key, lock_mode(&op), None);
            let catalog = self.tables.get(&op.table).and_then(|table| {
                let key = &table.catalog_key;
                self.locks.conflict(CATALOG, key_hash(key), key, Mode::Shared, None)
            });
            row.or(catalog).is_some()
        })
    }
}

impl ShardCore {
    pub(super) fn on_client_request(
        &mut self,
        link: LinkId,
        message: Message<'_>,
        out: &mut Outputs,
    ) {
        match message {
            Message::Execute(execute) => self.on_execute(link, &execute, out),
            Message::Read { request, epoch, ops } => {
                self.raise_epoch_of_client(epoch);
                self.on_read(link, request, ops, out);
            }
            Message::ReadAt { .. } | Message::ScanAt { .. } | Message::Sweep { .. } => {
                self.on_past(link, &message, out);
            }
            Message::Scan { request, table, schema, partition, rows_max, after } => {
                self.on_scan(link, request, (table, schema), partition, rows_max, after, out);
            }
            Message::AskOutcome { request, tx, anchor, to_disk } => {
                let question = Question { link, request, to_disk };
                self.on_ask_outcome(question, tx, anchor, out);
            }
            _ => self.on_malformed(link, out),
        }
    }

    /// A client's clock counts, unless it is far ahead: then somebody is wild.
    pub(super) fn raise_epoch_of_client(&mut self, epoch: lockstep_proto::ids::Epoch) -> bool {
        if epoch.0 > self.epoch.0 + EPOCH_AHEAD_MAX {
            return false;
        }
        self.raise_epoch(epoch);
        true
    }

    fn on_execute(&mut self, link: LinkId, e: &Execute<'_>, out: &mut Outputs) {
        if let Err(code) = self.admit(e) {
            self.refuse_request(link, e.request, code, out);
            return;
        }
        if e.step > 0 || e.finish == Finish::Abort {
            self.on_step(link, e, out);
            return;
        }
        if self.coordinated.contains_key(&e.tx) {
            self.refuse_request(link, e.request, Code::TransactionKnown, out);
            return;
        }
        let Some(first) = e.ops.iter().next() else {
            self.refuse_request(link, e.request, Code::Malformed, out);
            return;
        };
        let p = first.partition;
        if !self.leads(p) {
            self.refuse_request(link, e.request, Code::NotPrimary, out);
            return;
        }
        let one_partition = e.ops.iter().all(|op| op.partition == p);
        let alone = one_partition && e.finish.commits();
        if alone && !self.part(p).batch_conflicts(e) {
            self.execute_alone(link, p, e, out);
        } else {
            self.begin(link, e, out);
        }
    }

    fn admit(&mut self, e: &Execute<'_>) -> Result<(), Code> {
        if self.view.is_none() {
            return Err(Code::NotServing);
        }
        if !self.raise_epoch_of_client(e.epoch) {
            return Err(Code::EpochAhead);
        }
        if self.expires_too_late(e.tx) {
            return Err(Code::EpochAhead);
        }
        if e.ops.byte_len() > REQUEST_BYTES_MAX {
            return Err(Code::BatchTooLarge);
        }
        self.redo.admit_writes(e.ops)?;
        if e.step == 0 && e.finish == Finish::CommitToDisk {
            self.redo.admit_durable()?;
        }
        if e.step == 0 && self.draining {
            return Err(Code::Leaving);
        }
        let full = self.data_bytes >= 0 && self.data_bytes.unsigned_abs() >= self.data_memory;
        if full && e.ops.iter().any(|op| op.kind.grows()) {
            return Err(Code::OutOfMemory);
        }
        if e.step == 0 && self.coordinated.len() >= TRANSACTIONS_OPEN_MAX {
            return Err(Code::Busy);
        }
        Ok(())
    }

    /// An id that nobody will ever forget is none of ours.
    pub(super) fn expires_too_late(&self, tx: TxId) -> bool {
        tx.expiry.0 > self.epoch.0.saturating_add(EPOCH_AHEAD_MAX + TX_EXPIRY_EPOCHS)
    }

    /// The fast path. Nobody holds a conflicting lock, so the batch runs now, as a whole.
    fn execute_alone(&mut self, link: LinkId, p: PartitionId, e: &Execute<'_>, out: &mut Outputs) {
        let (closed, partitions) = (self.closed, self.partitions());
        let careless = self.canary == Some(Canary::ApplyTwice);
        let part = self.parts[usize::from(p.0)].as_ref().expect("led partitions exist");
        if part.prepared.contains_key(&e.tx) || part.open.contains_key(&e.tx) {
            self.refuse_request(link, e.request, Code::TransactionKnown, out);
            return;
        }
        let usable = part.outcomes.check(e.tx, closed);
        if let (Err(unusable), false) = (usable, careless) {
            self.refuse_request(link, e.request, refusal_of(unusable), out);
            return;
        }
        if part.owed.len().max(self.lease_waiting.len()) >= ANSWERS_OWED_MAX {
            self.refuse_request(link, e.request, Code::Busy, out);
            return;
        }
        self.staged.clear();
        self.results.clear();
        let ran =
            run_ops(part, partitions, e.ops, Failing::Batch, &mut self.staged, &mut self.results);
        let after = match ran {
            Ok(after) => after,
            Err(failure) => {
                self.stats.aborted += 1;
                self.refuse_failed(link, p, e, &failure, out);
                return;
            }
        };
        if self.staged.is_empty() {
            let results = self.results.as_ref().into();
            let owed = Owed::Answer { link, request: e.request, results, lease: true };
            self.owe(p, after, owed, out);
            return;
        }
        let count = u16::try_from(e.ops.len()).expect("bounded by BATCH_OPS_MAX");
        // A result that carries a row is longer than its tag: then the bytes are kept.
        let plain = self.results.len() == 2 + e.ops.len();
        let owed = if plain && self.results[2..].iter().all(|tag| *tag == 0) {
            Owed::Done { link, request: e.request, count }
        } else {
            let results = self.results.as_ref().into();
            Owed::Answer { link, request: e.request, results, lease: false }
        };
        let header = self.next_header(p, RecordKind::Write, e.tx, e.low);
        let mut builder = RecordBuilder::write(&header, self.staged.size());
        self.staged.write_to(&mut builder);
        let seq = self.append(p, builder.finish(), out);
        self.stats.committed += 1;
        let owed = match e.finish {
            Finish::CommitToDisk => self.once_durable(self.epoch, owed),
            _ => owed,
        };
        self.owe(p, seq, owed, out);
    }

    fn refuse_failed(
        &mut self,
        link: LinkId,
        p: PartitionId,
        e: &Execute<'_>,
        failure: &Failure,
        out: &mut Outputs,
    ) {
        let detail = e
            .ops
            .iter()
            .nth(usize::from(failure.op))
            .map(|op| format!("operation {} on {} in {p}", failure.op, op.table))
            .unwrap_or_default();
        let refusal = Refusal {
            link,
            request: e.request,
            code: failure.code,
            op: failure.op,
            order: StartOrder::default(),
            detail,
        };
        self.owe(p, failure.after, Owed::Refuse(Box::new(refusal)), out);
    }
}
