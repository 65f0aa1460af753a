//! The coordinator of a transaction that needs more than the fast path: several partitions,
//! several requests, or a lock somebody holds.
//!
//! ```text
//!            step            commit, nothing written
//!   ┌──────┐ ────┐   ┌───────────────────────────────► Checking ──all hold──► (committed)
//!   │ Open │ ◄───┘   │  commit                            │
//!   └──────┘ ────────┴──► Preparing ──all prepared──► Committing ──all confirmed──► (gone)
//!      │                     │
//!      │ abort, wound,       │ refused, wound, give up
//!      ▼                     ▼
//!   (aborted)             Aborting ──all confirmed──► (gone)
//! ```
//!
//! A transaction of this shard alone is committed by its `Write` straight from `Open`. No prepare
//! was sent while it is `Open`, so its abort may be told at once; later an abort is told when an
//! abort record is stable somewhere.

use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, ShardAddr, StartOrder, TxId};
use lockstep_proto::limits::RESULTS_BYTES_MAX;
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::data::{
    Execute, Finish, Forward, Message, Partitions, Results, partitions_to_bytes,
};
use lockstep_proto::wire::op::{OpList, OpResult};

use super::ShardCore;
use super::answers::{Owed, Refusal};

/// Where a coordinated transaction stands. See the module text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    Checking,
    Preparing,
    Committing(Epoch),
    Aborting { code: Code, told: bool },
}

/// One participant, as its coordinator sees it.
pub(super) struct Part {
    pub(super) partition: PartitionId,
    /// Its primary's shard when it was last addressed.
    pub(super) at: ShardAddr,
    /// Its primary has changed under the transaction: what it held there is lost.
    pub(super) moved: bool,
    /// Forwards sent.
    pub(super) steps: u32,
    /// A forward without an answer.
    pub(super) outstanding: bool,
    pub(super) wrote: bool,
    pub(super) voted: bool,
    pub(super) confirmed: bool,
    /// Results of the running request, as they came.
    pub(super) results: Vec<u8>,
}

/// A transaction this shard coordinates.
pub(super) struct CoordTx {
    pub(super) order: StartOrder,
    pub(super) low: u64,
    pub(super) link: LinkId,
    pub(super) request: u64,
    /// Whether the client waits for an answer.
    pub(super) asked: bool,
    pub(super) step: u32,
    pub(super) anchor: PartitionId,
    pub(super) parts: Vec<Part>,
    pub(super) phase: Phase,
    /// The partition of each operation of the running request, in order.
    pub(super) routing: Vec<PartitionId>,
    /// Commit once the running request's operations are done.
    pub(super) commit_after: bool,
    /// The answer to the commit waits for the disks.
    pub(super) to_disk: bool,
    /// Highest vote.
    pub(super) epoch: Epoch,
    pub(super) last_active: Instant,
}

impl CoordTx {
    pub(super) fn part_mut(&mut self, p: PartitionId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.partition == p)
    }

    /// All participants, anchor first.
    pub(super) fn participants(&self) -> Vec<u8> {
        let mut list = vec![self.anchor];
        list.extend(self.parts.iter().map(|p| p.partition).filter(|p| *p != self.anchor));
        partitions_to_bytes(&list)
    }

    /// Changes the phase along an edge of the diagram.
    pub(super) fn transition(&mut self, to: Phase) {
        let legal = matches!(
            (self.phase, to),
            (Phase::Open, Phase::Checking | Phase::Preparing)
                | (Phase::Preparing, Phase::Committing(_) | Phase::Aborting { .. })
                | (Phase::Aborting { told: false, .. }, Phase::Aborting { told: true, .. })
        );
        assert!(legal, "no edge from {:?} to {to:?}", self.phase);
        self.phase = to;
    }

    /// The results of the running request in order of its operations, or the first failure.
    pub(super) fn merged_results(&self) -> Result<Vec<u8>, (Code, u16)> {
        let mut readers: Vec<(PartitionId, Reader<'_>)> = self
            .parts
            .iter()
            .map(|part| (part.partition, Reader::new(part.results.get(2..).unwrap_or_default())))
            .collect();
        let mut merged = bytes::BytesMut::new();
        let count = u16::try_from(self.routing.len()).expect("bounded by BATCH_OPS_MAX");
        merged.extend_from_slice(&count.to_le_bytes());
        let mut failed = None;
        for (index, p) in self.routing.iter().enumerate() {
            let reader = readers.iter_mut().find(|(id, _)| id == p).map(|(_, r)| r);
            let result = reader.and_then(|r| OpResult::read(r).ok());
            let result = match result.unwrap_or(OpResult::Failed(Code::ResultsLost)) {
                OpResult::Row(row) if merged.len() + row.len() > RESULTS_BYTES_MAX => {
                    OpResult::Failed(Code::AnswerTooLarge)
                }
                result => result,
            };
            if let (OpResult::Failed(code), None) = (result, failed) {
                failed = Some((code, u16::try_from(index).expect("bounded by BATCH_OPS_MAX")));
            }
            result.write(&mut merged);
        }
        match failed {
            Some(failure) if self.commit_after => Err(failure),
            _ => Ok(Vec::from(merged)),
        }
    }
}

impl ShardCore {
    /// Opens a transaction with its first request.
    pub(super) fn begin(&mut self, link: LinkId, e: &Execute<'_>, out: &mut Outputs) {
        let order = if e.order.is_stamped() {
            e.order
        } else {
            let wall_ms = self.options.wall_offset_ms + self.now.0 / 1_000_000;
            StartOrder { wall_ms, session: e.tx.session, sequence: e.tx.sequence }
        };
        let tx = CoordTx {
            order,
            low: e.low,
            link,
            request: e.request,
            asked: true,
            step: 0,
            anchor: e.anchor,
            parts: Vec::new(),
            phase: Phase::Open,
            routing: Vec::new(),
            commit_after: false,
            to_disk: false,
            epoch: Epoch(0),
            last_active: self.now,
        };
        self.coordinated.insert(e.tx, tx);
        self.run_request(e, out);
    }

    /// A later request of an open transaction, or its end.
    pub(super) fn on_step(&mut self, link: LinkId, e: &Execute<'_>, out: &mut Outputs) {
        let now = self.now;
        let gone = |tx: &mut CoordTx| tx.link == link && tx.phase != Phase::Open;
        if self.coordinated.get_mut(&e.tx).is_none_or(gone) {
            self.refuse_request(link, e.request, Code::TransactionGone, out);
            return;
        }
        let Some(tx) = self.coordinated.get_mut(&e.tx) else { return };
        if tx.link != link || tx.asked && e.finish != Finish::Abort {
            self.refuse_request(link, e.request, Code::NoSuchTransaction, out);
            return;
        }
        if e.step != tx.step + 1 && e.finish != Finish::Abort {
            self.refuse_request(link, e.request, Code::Malformed, out);
            return;
        }
        tx.step = e.step;
        tx.request = e.request;
        tx.asked = true;
        tx.low = e.low;
        tx.last_active = now;
        tx.anchor = e.anchor;
        let durable = match e.finish {
            Finish::CommitToDisk => self.redo.admit_durable(),
            _ => Ok(()),
        };
        if e.finish == Finish::Abort {
            self.abort(e.tx, Code::AbortedByClient, None, out);
        } else if let Err(code) = durable {
            self.abort(e.tx, code, None, out);
        } else {
            self.run_request(e, out);
        }
    }

    /// Sends the operations of one request to their participants.
    fn run_request(&mut self, e: &Execute<'_>, out: &mut Outputs) {
        let groups = match self.group_ops(e) {
            Ok(groups) => groups,
            Err(code) => {
                self.abort(e.tx, code, None, out);
                return;
            }
        };
        let (me, view, epoch) = (self.me, self.view_number, self.epoch);
        let Some(tx) = self.coordinated.get_mut(&e.tx) else { return };
        tx.commit_after = e.finish.commits();
        tx.to_disk = e.finish == Finish::CommitToDisk;
        let anchored = tx.parts.iter().any(|part| part.partition == tx.anchor);
        if !anchored {
            self.abort(e.tx, Code::Malformed, None, out);
            return;
        }
        if groups.is_empty() {
            self.on_request_done(e.tx, out);
            return;
        }
        // A one-shot batch on several partitions executes and prepares in one go.
        let alone = tx.parts.len() == 1 && tx.parts[0].at == me;
        let one_shot = e.step == 0 && tx.commit_after && !alone;
        let writes = tx.parts.iter().any(|part| part.wrote);
        let participants = if one_shot && writes { tx.participants() } else { Vec::new() };
        if !participants.is_empty() {
            tx.transition(Phase::Preparing);
        }
        let mut sends = Vec::with_capacity(groups.len());
        for (p, ops) in groups {
            let part = tx.part_mut(p).expect("group_ops added it");
            sends.push((part.at, p, part.steps, ops));
            part.steps += 1;
            part.outstanding = true;
        }
        let (low, order) = (tx.low, tx.order);
        for (at, partition, step, ops) in sends {
            let participants = Partitions::from_bytes(&participants).expect("whole partitions");
            let (tx, ops) = (e.tx, ops.as_ops());
            let forward =
                Forward { view, tx, low, order, epoch, partition, step, participants, ops };
            self.tell(at, &Message::Forward(forward), out);
        }
    }

    /// Sorts a request's operations by participant, adding new participants.
    fn group_ops(&mut self, e: &Execute<'_>) -> Result<Vec<(PartitionId, OpList)>, Code> {
        let view = self.view.clone().ok_or(Code::NotServing)?;
        let tx = self.coordinated.get_mut(&e.tx).ok_or(Code::NoSuchTransaction)?;
        let mut groups: Vec<(PartitionId, OpList)> = Vec::new();
        tx.routing.clear();
        for part in &mut tx.parts {
            part.results.clear();
        }
        for op in e.ops.iter() {
            let at = view.primary_of(op.partition).ok_or(Code::Malformed)?;
            tx.routing.push(op.partition);
            if tx.part_mut(op.partition).is_none() {
                tx.parts.push(Part {
                    partition: op.partition,
                    at,
                    moved: false,
                    steps: 0,
                    outstanding: false,
                    wrote: false,
                    voted: false,
                    confirmed: false,
                    results: Vec::new(),
                });
            }
            let part = tx.part_mut(op.partition).expect("just added");
            part.wrote |= op.kind.writes();
            match groups.iter_mut().find(|(p, _)| *p == op.partition) {
                Some((_, ops)) => ops.push(&op),
                None => {
                    let mut ops = OpList::default();
                    ops.push(&op);
                    groups.push((op.partition, ops));
                }
            }
        }
        Ok(groups)
    }

    /// A participant has executed its part of a request.
    pub(super) fn on_forwarded(
        &mut self,
        id: TxId,
        p: PartitionId,
        step: u32,
        refused: Option<Code>,
        results: Results<'_>,
        out: &mut Outputs,
    ) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        if tx.phase != Phase::Open {
            return;
        }
        let Some(part) = tx.part_mut(p) else { return };
        if !part.outstanding || step + 1 != part.steps {
            return;
        }
        part.outstanding = false;
        part.results = results.0.to_vec();
        if let Some(code) = refused {
            self.abort(id, code, None, out);
        } else if tx.parts.iter().all(|part| !part.outstanding) {
            self.on_request_done(id, out);
        }
    }

    /// All operations of the running request are done: answer, or go on to the commit.
    fn on_request_done(&mut self, id: TxId, out: &mut Outputs) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        match tx.merged_results() {
            Err((code, op)) => self.abort(id, code, Some(op), out),
            Ok(_) if tx.commit_after => self.commit(id, out),
            Ok(results) => self.answer(id, &results, out),
        }
    }

    /// Answers the running request of a transaction.
    pub(super) fn answer(&mut self, id: TxId, results: &[u8], out: &mut Outputs) {
        let (epoch, now) = (self.epoch, self.now);
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        if !std::mem::take(&mut tx.asked) {
            return;
        }
        tx.last_active = now;
        if let Some(buffer) = out.buffer(tx.link) {
            let (request, order) = (tx.request, tx.order);
            Message::Answer { request, epoch, order, results: Results(results) }.encode(buffer);
        }
    }

    /// Answers a commit: at once, or when it is on disk if that was asked for.
    pub(super) fn answer_commit(
        &mut self,
        id: TxId,
        epoch: Epoch,
        results: &[u8],
        out: &mut Outputs,
    ) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        if !tx.to_disk {
            return self.answer(id, results, out);
        }
        if !std::mem::take(&mut tx.asked) {
            return;
        }
        let (link, request, anchor) = (tx.link, tx.request, tx.anchor);
        let owed = Owed::Answer { link, request, results: results.into(), lease: false };
        let owed = self.once_durable(epoch, owed);
        self.settle_debt(anchor, owed, out);
    }

    /// Tells the client that its transaction is aborted.
    pub(super) fn tell_aborted(
        &mut self,
        id: TxId,
        code: Code,
        op: Option<u16>,
        out: &mut Outputs,
    ) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        if !std::mem::take(&mut tx.asked) {
            return;
        }
        let (link, request, order) = (tx.link, tx.request, tx.order);
        let detail = format!("transaction {id}");
        let op = op.unwrap_or(u16::MAX);
        self.refuse(&Refusal { link, request, code, op, order, detail }, out);
    }

    /// The client's connection is gone: its open transactions end; decided ones go on.
    pub(super) fn on_client_gone(&mut self, link: LinkId, out: &mut Outputs) {
        self.abort_open(|tx| tx.link == link, Code::IdleAborted, out);
    }

    /// Aborts the open transactions that match, in order of id.
    pub(super) fn abort_open(
        &mut self,
        matches: impl Fn(&CoordTx) -> bool,
        code: Code,
        out: &mut Outputs,
    ) {
        let mut ids: Vec<TxId> = self
            .coordinated
            .iter()
            .filter(|(_, tx)| matches!(tx.phase, Phase::Open | Phase::Checking) && matches(tx))
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        for id in ids {
            out.mark("open_transaction_aborted");
            self.abort(id, code, None, out);
        }
    }
}
