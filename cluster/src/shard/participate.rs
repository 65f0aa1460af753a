//! The participants' side of a transaction: row locks at the primary, staged writes, votes.
//!
//! An unprepared transaction lives on the link it came by: when the coordinator's link or view
//! ends, its locks and staged writes go, and a later `Prepare` finds them missing and is refused.
//! Locks are strict two-phase and never taken anew for a `Prepare`.

use bytes::BytesMut;
use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, Seq, ShardAddr, TxId};
use lockstep_proto::outcomes::Outcome;
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::Outputs;
use lockstep_proto::record::{RecordBuilder, RecordKind};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::wire::data::{Forward, Message, Partitions, Results, Vote};
use lockstep_storage::{Acquired, Mode};

use super::ShardCore;
use super::answers::Owed;
use super::evaluate::{Failing, Failure, Staged, run_ops};
use super::execute::{lock_mode, refusal_of};
use super::partition::{OpenTx, Pending};

impl ShardCore {
    pub(super) fn on_forward(&mut self, from: ShardAddr, f: &Forward<'_>, out: &mut Outputs) {
        self.raise_epoch(f.epoch);
        let p = f.partition;
        if let Err(code) = self.admit_forward(from, f) {
            out.mark("forward_refused");
            self.refuse_forward(from, f, code, out);
            return;
        }
        let part = self.part_mut(p);
        let open = part.open.entry(f.tx).or_insert_with(|| OpenTx {
            coordinator: from,
            order: f.order,
            low: f.low,
            steps: 0,
            staged: Staged::default(),
            pending: None,
        });
        open.low = f.low;
        open.steps += 1;
        open.pending = Some(Pending {
            ops: f.ops.to_list(),
            locked: 0,
            participants: f.participants.as_bytes().to_vec(),
        });
        self.run_pending(p, f.tx, out);
    }

    fn admit_forward(&self, from: ShardAddr, f: &Forward<'_>) -> Result<(), Code> {
        if !self.leads(f.partition) {
            return Err(Code::NotPrimary);
        }
        self.redo.admit_writes(f.ops)?;
        let part = self.part(f.partition);
        part.outcomes.check(f.tx, self.closed).map_err(refusal_of)?;
        match part.open.get(&f.tx) {
            _ if part.prepared.contains_key(&f.tx) => Err(Code::TransactionKnown),
            None if f.step == 0 => Ok(()),
            Some(open) if open.coordinator == from && open.steps == f.step && f.step > 0 => Ok(()),
            _ => Err(Code::LocksLost),
        }
    }

    fn refuse_forward(&mut self, from: ShardAddr, f: &Forward<'_>, code: Code, out: &mut Outputs) {
        let (view, epoch) = (self.view_number, self.epoch);
        if f.participants.is_empty() {
            let message = Message::Forwarded {
                view,
                tx: f.tx,
                partition: f.partition,
                step: f.step,
                epoch,
                refused: Some(code),
                results: Results::EMPTY,
            };
            self.tell(from, &message, out);
        } else if self.leads(f.partition) {
            self.refuse_prepare(from, f.partition, f.tx, f.low, code, None, out);
        }
    }

    /// Takes the locks of the waiting operations; runs them when all are held.
    pub(super) fn run_pending(&mut self, p: PartitionId, id: TxId, out: &mut Outputs) {
        let mut wounds = std::mem::take(&mut self.wounds);
        wounds.clear();
        let locked = self.lock_pending(p, id, &mut wounds);
        for wounded in &wounds {
            self.wound(p, *wounded, out);
        }
        self.wounds = wounds;
        if locked {
            self.run_locked(p, id, out);
        } else {
            out.mark("transaction_waits_for_lock");
        }
    }

    fn lock_pending(&mut self, p: PartitionId, id: TxId, wounds: &mut Vec<TxId>) -> bool {
        let part = self.parts[usize::from(p.0)].as_mut().expect("led partitions exist");
        let (tables, locks) = (&part.tables, &mut part.locks);
        let Some(open) = part.open.get_mut(&id) else { return false };
        let Some(pending) = open.pending.as_mut() else { return false };
        for op in pending.ops.as_ops().iter().skip(pending.locked) {
            if let Some(table) = tables.get(&op.table).filter(|t| !t.def.is_catalog()) {
                let key = &table.catalog_key;
                let hash = key_hash(key);
                let shared = Mode::Shared;
                if locks.acquire(id, open.order, CATALOG, hash, key, shared, wounds)
                    == Acquired::Waiting
                {
                    return false;
                }
            }
            let mode = lock_mode(&op);
            let hash = key_hash(op.key);
            if locks.acquire(id, open.order, op.table, hash, op.key, mode, wounds)
                == Acquired::Waiting
            {
                return false;
            }
            pending.locked += 1;
        }
        true
    }

    /// All locks are held: run the operations, then answer or prepare.
    fn run_locked(&mut self, p: PartitionId, id: TxId, out: &mut Outputs) {
        let partitions = self.partitions();
        let part = self.part_mut(p);
        let Some(open) = part.open.get_mut(&id) else { return };
        let Some(pending) = open.pending.take() else { return };
        let (coordinator, step, low) = (open.coordinator, open.steps - 1, open.low);
        let mut staged = std::mem::take(&mut open.staged);
        let mut results = BytesMut::new();
        let one_shot = !pending.participants.is_empty();
        let failing = if one_shot { Failing::Batch } else { Failing::Operation };
        let ops = pending.ops.as_ops();
        let ran = run_ops(part, partitions, ops, failing, &mut staged, &mut results);
        if let Some(open) = part.open.get_mut(&id) {
            open.staged = staged;
        }
        match ran {
            Err(Failure { code, op, .. }) => {
                self.refuse_prepare(coordinator, p, id, low, code, Some(op), out);
            }
            Ok(_) if one_shot => {
                let results = Vec::from(results).into_boxed_slice();
                self.prepare(p, id, &pending.participants, results, out);
            }
            Ok(after) => {
                let results = Vec::from(results).into_boxed_slice();
                let owed = Owed::Forwarded { to: coordinator, tx: id, step, results };
                self.owe(p, after, owed, out);
            }
        }
    }

    pub(super) fn on_prepare(
        &mut self,
        from: ShardAddr,
        id: TxId,
        p: PartitionId,
        steps: u32,
        participants: Partitions<'_>,
        out: &mut Outputs,
    ) {
        if !self.leads(p) {
            return;
        }
        let closed = self.closed;
        let part = self.part(p);
        let open = part.open.get(&id).filter(|open| open.pending.is_none() && open.steps == steps);
        let low = open.map_or(0, |open| open.low);
        let usable = part.outcomes.check(id, closed).map_err(refusal_of);
        let verdict = usable.and_then(|()| open.map(|_| ()).ok_or(Code::LocksLost));
        match verdict {
            Ok(()) if participants.is_empty() => self.check_reads(from, p, id, out),
            Ok(()) => self.prepare(p, id, participants.as_bytes(), Box::default(), out),
            Err(code) if participants.is_empty() => {
                self.vote_now(from, p, id, Vote::Refused(code), out);
                self.on_release(id, p);
            }
            Err(code) => self.refuse_prepare(from, p, id, low, code, None, out),
        }
    }

    /// A transaction of reads only ends here: its locks were held until now, under the lease.
    fn check_reads(&mut self, from: ShardAddr, p: PartitionId, id: TxId, out: &mut Outputs) {
        let vote = if self.has_lease(p) {
            Vote::Prepared(Epoch(0))
        } else {
            out.mark("read_check_without_lease");
            Vote::Refused(Code::NoLease)
        };
        self.vote_now(from, p, id, vote, out);
        self.on_release(id, p);
    }

    fn vote_now(&mut self, to: ShardAddr, p: PartitionId, tx: TxId, vote: Vote, out: &mut Outputs) {
        let view = self.view_number;
        let results = Results::EMPTY;
        self.tell(to, &Message::Voted { view, tx, partition: p, vote, results }, out);
    }

    /// Appends the yes vote. Its locks stay until the decision.
    fn prepare(
        &mut self,
        p: PartitionId,
        id: TxId,
        participants: &[u8],
        results: Box<[u8]>,
        out: &mut Outputs,
    ) {
        let Some(open) = self.part_mut(p).open.remove(&id) else { return };
        let header = self.next_header(p, RecordKind::Prepare, id, open.low);
        let participants = Partitions::from_bytes(participants).expect("whole partitions");
        let held = self.part(p).locks.held_by(id);
        let shared = held.map(|(table, key, _)| (table, key));
        let mut builder =
            RecordBuilder::prepare(&header, open.coordinator, open.order, participants, shared);
        open.staged.write_to(&mut builder);
        if !builder.fits() {
            self.refuse_prepare(
                open.coordinator,
                p,
                id,
                open.low,
                Code::TransactionTooLarge,
                None,
                out,
            );
            return;
        }
        let seq = self.append(p, builder.finish(), out);
        let careless = self.canary == Some(Canary::CommitBeforePreparesStable);
        let after = if careless { Seq(0) } else { seq };
        let vote = Vote::Prepared(header.epoch);
        self.owe(p, after, Owed::Vote { to: open.coordinator, tx: id, vote, results }, out);
    }

    /// A final no: an abort record makes it permanent, and the vote waits until that is stable.
    #[allow(clippy::too_many_arguments, reason = "the words of one vote")]
    pub(super) fn refuse_prepare(
        &mut self,
        to: ShardAddr,
        p: PartitionId,
        id: TxId,
        low: u64,
        code: Code,
        op: Option<u16>,
        out: &mut Outputs,
    ) {
        let results: Box<[u8]> = op.map(|op| op.to_le_bytes().into()).unwrap_or_default();
        let part = self.part(p);
        let after = match part.outcomes.known(id) {
            Some(Outcome::Aborted) => part.end,
            // Somebody has used the id twice: one of the two is refused.
            Some(Outcome::Committed(_)) => part.end,
            None if part.prepared.contains_key(&id) => return,
            None => self.append_abort(p, id, low, out),
        };
        let vote = Vote::Refused(code);
        self.owe(p, after, Owed::Vote { to, tx: id, vote, results }, out);
    }

    /// Appends an abort record: the end of a prepared transaction, or a tombstone.
    pub(super) fn append_abort(
        &mut self,
        p: PartitionId,
        id: TxId,
        low: u64,
        out: &mut Outputs,
    ) -> Seq {
        let header = self.next_header(p, RecordKind::Abort, id, low);
        self.append(p, RecordBuilder::decision(&header), out)
    }

    /// The decision of the coordinator, or of the anchor in take-over.
    pub(super) fn on_decide(
        &mut self,
        from: ShardAddr,
        id: TxId,
        p: PartitionId,
        commit: Option<Epoch>,
        out: &mut Outputs,
    ) {
        if !self.leads(p) {
            return;
        }
        let closed = self.closed;
        let part = self.part(p);
        let prepared = part.prepared.get(&id).map(|prepared| prepared.low);
        let after = match (prepared, commit, part.outcomes.known(id)) {
            (Some(low), Some(epoch), _) => {
                self.raise_epoch(epoch);
                self.append_commit(p, id, low, epoch, out)
            }
            (Some(low), None, _) => self.append_abort(p, id, low, out),
            (None, Some(epoch), Some(Outcome::Committed(known))) if known == epoch => part.end,
            (None, None, Some(Outcome::Aborted)) => part.end,
            (None, None, None) => self.append_abort(p, id, 0, out),
            (None, Some(_), None) if part.outcomes.check(id, closed).is_err() => part.end,
            (None, decision, known) => {
                self.broken(format!("{p}: {id} decided {decision:?}, known {known:?}"), out);
                return;
            }
        };
        self.owe(p, after, Owed::Confirm { to: from, tx: id }, out);
    }

    /// Appends the commit of a prepared transaction in the epoch that was decided.
    pub(super) fn append_commit(
        &mut self,
        p: PartitionId,
        id: TxId,
        low: u64,
        epoch: Epoch,
        out: &mut Outputs,
    ) -> Seq {
        let header = self.next_header(p, RecordKind::Commit, id, low);
        let header = lockstep_proto::record::Header { epoch, ..header };
        self.append(p, RecordBuilder::decision(&header), out)
    }

    /// The coordinator gave an unprepared transaction up.
    pub(super) fn on_release(&mut self, id: TxId, p: PartitionId) {
        if self.leads(p) && self.part_mut(p).open.remove(&id).is_some() {
            self.release_locks(p, id);
        }
    }

    /// "What is your stable state?": a participant that has none makes an abort stable first.
    pub(super) fn on_inquire(
        &mut self,
        from: ShardAddr,
        id: TxId,
        p: PartitionId,
        out: &mut Outputs,
    ) {
        if !self.leads(p) {
            return;
        }
        let part = self.part(p);
        let (after, vote) = if let Some(prepared) = part.prepared.get(&id) {
            (prepared.seq, Vote::Prepared(prepared.epoch))
        } else {
            match part.outcomes.known(id) {
                Some(Outcome::Committed(epoch)) => (part.end, Vote::Committed(epoch)),
                Some(Outcome::Aborted) => (part.end, Vote::Refused(Code::AbortedByTakeover)),
                None => {
                    out.mark("inquiry_makes_tombstone");
                    let after = self.append_abort(p, id, 0, out);
                    (after, Vote::Refused(Code::AbortedByTakeover))
                }
            }
        };
        self.owe(p, after, Owed::Vote { to: from, tx: id, vote, results: Box::default() }, out);
    }

    /// A transaction has ended in the log: its locks go, its readers go on.
    pub(super) fn on_settled(&mut self, p: PartitionId, id: TxId, out: &mut Outputs) {
        if self.part_mut(p).leads {
            if let Some(open) = self.part_mut(p).open.remove(&id) {
                self.cancel_open(p, id, &open, out);
            }
            self.release_locks(p, id);
        }
        self.unblock(p, id, out);
    }

    /// An abort record overtook an open transaction: its coordinator must not wait for ever for
    /// the results, or for the vote of a request that executes and prepares in one go.
    fn cancel_open(&mut self, p: PartitionId, id: TxId, open: &OpenTx, out: &mut Outputs) {
        let Some(pending) = &open.pending else { return };
        out.mark("open_transaction_cancelled");
        if !pending.participants.is_empty() {
            let vote = Vote::Refused(Code::AbortedByTakeover);
            let (to, after) = (open.coordinator, self.part(p).end);
            self.owe(p, after, Owed::Vote { to, tx: id, vote, results: Box::default() }, out);
            return;
        }
        let message = Message::Forwarded {
            view: self.view_number,
            tx: id,
            partition: p,
            step: open.steps - 1,
            epoch: self.epoch,
            refused: Some(Code::AbortedByTakeover),
            results: Results::EMPTY,
        };
        self.tell(open.coordinator, &message, out);
    }

    /// Releases all locks of a transaction and lets those go on that waited for them.
    pub(super) fn release_locks(&mut self, p: PartitionId, id: TxId) {
        let part = self.parts[usize::from(p.0)].as_mut().expect("led partitions exist");
        if part.locks.is_empty() {
            return;
        }
        let mut granted = std::mem::take(&mut self.granted);
        granted.clear();
        part.locks.release_all(id, &mut granted);
        // They run from the end of the turn: a queue of waiters must not become a deep recursion.
        self.runnable.extend(granted.drain(..).map(|next| (p, next)));
        self.granted = granted;
    }

    /// Sends a wound to the coordinator of a younger holder.
    pub(super) fn wound(&mut self, p: PartitionId, id: TxId, out: &mut Outputs) {
        let view = self.view_number;
        if let Some(coordinator) = self.part(p).coordinator_of(id) {
            self.tell(coordinator, &Message::Wound { view, tx: id }, out);
        }
    }

    /// Unprepared transactions of the coordinators that match are gone.
    pub(super) fn drop_open_of(&mut self, matches: impl Fn(ShardAddr) -> bool, out: &mut Outputs) {
        let gone: Vec<(PartitionId, TxId)> = self
            .parts
            .iter()
            .flatten()
            .flat_map(|part| {
                let ids = part.open.iter().filter(|(_, open)| matches(open.coordinator));
                ids.map(|(id, _)| (part.id, *id))
            })
            .collect();
        for (p, id) in gone {
            out.mark("locks_end_with_coordinator");
            self.part_mut(p).open.remove(&id);
            self.release_locks(p, id);
        }
    }
}
