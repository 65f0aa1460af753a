//! The second half of the coordinator: votes, the decision, and telling it until it is stable at
//! every participant.
//!
//! The transaction is committed at the instant the last vote is in: the client is answered right
//! then. While this incarnation of the coordinator is in the view, nobody else decides.

use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, ShardAddr, TxId};
use lockstep_proto::process::Outputs;
use lockstep_proto::record::{RecordBuilder, RecordKind};
use lockstep_proto::wire::data::{Message, Partitions, Results, Vote};

use super::ShardCore;
use super::answers::Owed;
use super::coordinate::{Part, Phase};

impl ShardCore {
    /// The client wants the commit, and all operations are done.
    pub(super) fn commit(&mut self, id: TxId, out: &mut Outputs) {
        let me = self.me;
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        let alone = tx.parts.len() == 1 && tx.parts[0].at == me;
        let participants = if !tx.parts.iter().any(|part| part.wrote) {
            tx.transition(Phase::Checking);
            Vec::new()
        } else if alone {
            self.commit_alone(id, out);
            return;
        } else {
            tx.transition(Phase::Preparing);
            tx.participants()
        };
        let (view, epoch, low) = (self.view_number, self.epoch, tx.low);
        let asks: Vec<(ShardAddr, PartitionId, u32)> =
            tx.parts.iter().map(|part| (part.at, part.partition, part.steps)).collect();
        for (at, partition, steps) in asks {
            let participants = Partitions::from_bytes(&participants).expect("whole partitions");
            let message =
                Message::Prepare { view, tx: id, low, epoch, partition, steps, participants };
            self.tell(at, &message, out);
        }
    }

    /// One participant, led here: a `Write` commits it.
    fn commit_alone(&mut self, id: TxId, out: &mut Outputs) {
        let closed = self.closed;
        let Some(tx) = self.coordinated.get(&id) else { return };
        let (p, steps) = (tx.parts[0].partition, tx.parts[0].steps);
        let (low, link, request, to_disk) = (tx.low, tx.link, tx.request, tx.to_disk);
        let results = tx.merged_results().unwrap_or_default();
        if !self.leads(p) {
            self.abort(id, Code::ViewChanged, None, out);
            return;
        }
        let part = self.part_mut(p);
        let intact = part.open.get(&id).is_some_and(|open| open.steps == steps);
        let known = part.prepared.contains_key(&id) || part.outcomes.check(id, closed).is_err();
        if !intact || known {
            self.abort(id, Code::LocksLost, None, out);
            return;
        }
        let open = part.open.remove(&id).expect("looked at it");
        self.coordinated.remove(&id);
        let header = self.next_header(p, RecordKind::Write, id, low);
        let mut builder = RecordBuilder::write(&header, open.staged.size());
        open.staged.write_to(&mut builder);
        assert!(builder.fits(), "writes are bounded when they are staged");
        let seq = self.append(p, builder.finish(), out);
        self.stats.committed += 1;
        let results = results.into_boxed_slice();
        let mut owed = Owed::Answer { link, request, results, lease: false };
        if to_disk {
            owed = self.once_durable(self.epoch, owed);
        }
        self.owe(p, seq, owed, out);
        self.release_locks(p, id);
    }

    /// A participant's vote: to this coordinator, or to this anchor in take-over.
    pub(super) fn on_voted(
        &mut self,
        id: TxId,
        p: PartitionId,
        vote: Vote,
        results: Results<'_>,
        out: &mut Outputs,
    ) {
        if self.takeovers.contains_key(&id) {
            self.on_takeover_vote(id, p, vote, out);
            return;
        }
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        let phase = tx.phase;
        let Some(part) = tx.part_mut(p) else { return };
        if part.voted {
            return;
        }
        match (phase, vote) {
            (Phase::Preparing | Phase::Checking, Vote::Prepared(epoch)) => {
                part.voted = true;
                part.outstanding = false;
                if !results.0.is_empty() {
                    part.results = results.0.to_vec();
                }
                tx.epoch = tx.epoch.max(epoch);
                if tx.parts.iter().all(|part| part.voted) {
                    self.on_all_votes(id, out);
                }
            }
            (Phase::Preparing | Phase::Checking, Vote::Refused(code)) => {
                // The refusal stands on a stable abort record: it may be told at once.
                part.confirmed = true;
                out.mark("participant_refused");
                let op = self.failed_op(id, p, results);
                self.abort_told(id, code, op, out);
            }
            (Phase::Preparing, Vote::Committed(_)) => {
                self.broken(format!("{id}: committed at {p} without its coordinator"), out);
            }
            _ => {}
        }
    }

    /// Which operation of the client's batch a refusing participant failed on: its results carry
    /// the position among its own.
    fn failed_op(&self, id: TxId, p: PartitionId, results: Results<'_>) -> Option<u16> {
        let local = usize::from(u16::from_le_bytes(*results.0.first_chunk::<2>()?));
        let routing = &self.coordinated.get(&id)?.routing;
        let at = routing.iter().enumerate().filter(|(_, at)| **at == p).nth(local)?.0;
        u16::try_from(at).ok()
    }

    /// Every participant holds: the transaction is committed, from now on and for ever.
    fn on_all_votes(&mut self, id: TxId, out: &mut Outputs) {
        let epoch_here = self.epoch;
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        let results = tx.merged_results().unwrap_or_default();
        if tx.phase == Phase::Checking {
            self.answer(id, &results, out);
            self.coordinated.remove(&id);
            self.stats.committed += 1;
            return;
        }
        let epoch = tx.epoch.max(epoch_here);
        tx.transition(Phase::Committing(epoch));
        if tx.parts.len() > 1 {
            out.mark("commit_on_several_partitions");
        }
        self.raise_epoch(epoch);
        *self.committing.entry(epoch).or_default() += 1;
        self.stats.committed += 1;
        self.answer_commit(id, epoch, &results, out);
        self.tell_decision(id, out);
    }

    /// Sends the decision to every participant that has not confirmed it.
    pub(super) fn tell_decision(&mut self, id: TxId, out: &mut Outputs) {
        let view = self.view_number;
        let Some(tx) = self.coordinated.get(&id) else { return };
        let commit = match tx.phase {
            Phase::Committing(epoch) => Some(epoch),
            Phase::Aborting { .. } => None,
            Phase::Open | Phase::Checking | Phase::Preparing => return,
        };
        let to: Vec<(ShardAddr, PartitionId)> = tx
            .parts
            .iter()
            .filter(|part| !part.confirmed)
            .map(|part| (part.at, part.partition))
            .collect();
        for (at, partition) in to {
            self.tell(at, &Message::Decide { view, tx: id, partition, commit }, out);
        }
        self.forget_if_confirmed(id);
    }

    /// A participant has the decision in its stable log.
    pub(super) fn on_confirmed(&mut self, id: TxId, p: PartitionId, out: &mut Outputs) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        let Some(part) = tx.part_mut(p) else { return };
        part.confirmed = true;
        if matches!(tx.phase, Phase::Aborting { .. }) {
            self.tell_abort_stable(id, None, out);
        }
        self.forget_if_confirmed(id);
    }

    fn forget_if_confirmed(&mut self, id: TxId) {
        let Some(tx) = self.coordinated.get(&id) else { return };
        if !tx.parts.iter().all(|part| part.confirmed) {
            return;
        }
        if let Phase::Committing(epoch) = tx.phase
            && let Some(count) = self.committing.get_mut(&epoch)
        {
            *count -= 1;
            if *count == 0 {
                self.committing.remove(&epoch);
            }
        }
        self.coordinated.remove(&id);
    }

    /// Gives a transaction up. Told at once if no prepare was ever sent, else when an abort record
    /// is stable somewhere.
    pub(super) fn abort(&mut self, id: TxId, code: Code, op: Option<u16>, out: &mut Outputs) {
        let tell = self.canary == Some(Canary::AbortBeforeStable);
        self.abort_and(tell, id, code, op, out);
    }

    /// Gives a transaction up whose abort is stable somewhere.
    fn abort_told(&mut self, id: TxId, code: Code, op: Option<u16>, out: &mut Outputs) {
        self.abort_and(true, id, code, op, out);
    }

    fn abort_and(&mut self, tell: bool, id: TxId, code: Code, op: Option<u16>, out: &mut Outputs) {
        let view = self.view_number;
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        match tx.phase {
            Phase::Open | Phase::Checking => {
                self.stats.aborted += 1;
                self.tell_aborted(id, code, op, out);
                let Some(tx) = self.coordinated.remove(&id) else { return };
                for part in tx.parts {
                    let partition = part.partition;
                    self.tell(part.at, &Message::Release { view, tx: id, partition }, out);
                }
            }
            Phase::Preparing => {
                self.stats.aborted += 1;
                out.mark("abort_after_prepare");
                tx.transition(Phase::Aborting { code, told: tell });
                if tell {
                    self.tell_aborted(id, code, op, out);
                }
                self.tell_decision(id, out);
            }
            Phase::Committing(_) | Phase::Aborting { .. } => {}
        }
    }

    /// An abort record is stable somewhere: nothing can contradict "aborted" any more.
    fn tell_abort_stable(&mut self, id: TxId, op: Option<u16>, out: &mut Outputs) {
        let Some(tx) = self.coordinated.get_mut(&id) else { return };
        if let Phase::Aborting { code, told: false } = tx.phase {
            tx.transition(Phase::Aborting { code, told: true });
            self.tell_aborted(id, code, op, out);
        }
    }

    /// An older transaction needs a lock this one holds: it goes, unless it is decided.
    pub(super) fn on_wound(&mut self, id: TxId, out: &mut Outputs) {
        let canary = self.canary;
        let view = self.view_number;
        let Some(tx) = self.coordinated.get(&id) else { return };
        match tx.phase {
            Phase::Open | Phase::Checking => {
                out.mark("open_transaction_wounded");
                self.abort(id, Code::Wounded, None, out);
            }
            Phase::Preparing if canary == Some(Canary::IgnoreWoundOfPrepared) => {}
            Phase::Preparing => {
                out.mark("prepared_transaction_wounded");
                self.abort(id, Code::Wounded, None, out);
            }
            Phase::Committing(_) if canary == Some(Canary::AbortWithAllVotes) => {
                let open: Vec<(ShardAddr, PartitionId)> = tx
                    .parts
                    .iter()
                    .filter(|part| !part.confirmed)
                    .map(|part| (part.at, part.partition))
                    .collect();
                for (at, partition) in open {
                    let message = Message::Decide { view, tx: id, partition, commit: None };
                    self.tell(at, &message, out);
                }
            }
            Phase::Committing(_) | Phase::Aborting { .. } => out.mark("wound_of_decided_ignored"),
        }
    }

    /// After a view change or a reconnect: ask and decide anew, for participants at `touches`.
    pub(super) fn resume_coordination(
        &mut self,
        touches: impl Fn(&Part) -> bool,
        out: &mut Outputs,
    ) {
        let mut ids: Vec<TxId> = self.coordinated.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let view = self.view_number;
            let Some(tx) = self.coordinated.get(&id) else { continue };
            if !tx.parts.iter().any(&touches) {
                continue;
            }
            match tx.phase {
                Phase::Open | Phase::Checking => {
                    out.mark("open_transaction_aborted_by_view");
                    self.abort(id, Code::ViewChanged, None, out);
                }
                Phase::Preparing => {
                    out.mark("coordinator_asks_anew");
                    let missing: Vec<(ShardAddr, PartitionId)> = tx
                        .parts
                        .iter()
                        .filter(|part| !part.voted && touches(part))
                        .map(|part| (part.at, part.partition))
                        .collect();
                    for (at, partition) in missing {
                        self.tell(at, &Message::Inquire { view, tx: id, partition }, out);
                    }
                }
                Phase::Committing(_) | Phase::Aborting { .. } => {
                    out.mark("coordinator_decides_anew");
                    self.tell_decision(id, out);
                }
            }
        }
    }
}
