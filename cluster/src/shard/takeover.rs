//! Transactions whose coordinator died, and questions for outcomes.
//!
//! When a coordinator's incarnation is not in the view, every participant primary with an
//! undecided `Prepare` of it asks the anchor's primary, which asks all participants and decides:
//! any `Commit` seen → commit with that epoch; everyone prepared → commit with exactly the highest
//! of the votes and the view's seal + 1; otherwise abort. The decision is a stable record in the
//! anchor's log before anyone hears of it, so a take-over that dies half-way is simply begun again
//! by whoever is undecided in the next view.

use std::collections::BTreeMap;

use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, ShardAddr, TxId};
use lockstep_proto::outcomes::Outcome;
use lockstep_proto::process::Outputs;
use lockstep_proto::wire::data::{Message, OutcomeTold, Partitions, Vote, partitions_to_bytes};

use super::ShardCore;
use super::answers::{Owed, Question};
use super::coordinate::Phase;
use super::read::Blocked;

/// A take-over under way at the anchor's primary.
pub(super) struct Takeover {
    participants: Vec<PartitionId>,
    votes: BTreeMap<PartitionId, Vote>,
    /// The decision, once its record is appended: `Some(epoch)` commits.
    decision: Option<Option<Epoch>>,
}

impl ShardCore {
    /// Asks the anchor's primary about every undecided prepare of a dead coordinator, if the
    /// anchor's primary matches.
    pub(super) fn resolve_orphans(
        &mut self,
        anchored_at: impl Fn(ShardAddr) -> bool,
        out: &mut Outputs,
    ) {
        let Some(view) = self.view.clone() else { return };
        let mut orphans: Vec<(TxId, Vec<PartitionId>)> = Vec::new();
        for part in self.parts.iter().flatten().filter(|part| part.leads) {
            for (id, prepared) in &part.prepared {
                if !view.contains(prepared.coordinator.instance) {
                    orphans.push((*id, prepared.participants.clone()));
                }
            }
        }
        orphans.sort_unstable_by_key(|(id, _)| *id);
        orphans.dedup_by_key(|(id, _)| *id);
        for (id, participants) in orphans {
            let anchor = participants.first().and_then(|p| view.primary_of(*p));
            let Some(anchor) = anchor.filter(|at| anchored_at(*at)) else { continue };
            out.mark("orphan_resolved_by_anchor");
            let bytes = partitions_to_bytes(&participants);
            let participants = Partitions::from_bytes(&bytes).expect("whole partitions");
            let message = Message::Resolve { view: self.view_number, tx: id, participants };
            self.tell(anchor, &message, out);
        }
    }

    /// Whether a prepare of a dead coordinator is undecided here.
    pub(super) fn has_orphans(&self) -> bool {
        let Some(view) = &self.view else { return false };
        self.parts
            .iter()
            .flatten()
            .filter(|part| part.leads)
            .any(|part| part.prepared.values().any(|tx| !view.contains(tx.coordinator.instance)))
    }

    /// A participant has an orphan anchored here.
    pub(super) fn on_resolve(
        &mut self,
        from: ShardAddr,
        id: TxId,
        participants: Partitions<'_>,
        out: &mut Outputs,
    ) {
        let participants: Vec<PartitionId> = participants.iter().collect();
        let Some(anchor) = participants.first().copied().filter(|p| self.leads(*p)) else {
            return;
        };
        match self.part(anchor).outcomes.known(id) {
            Some(_) => self.repeat_decision(from, anchor, id, participants, out),
            None if self.takeovers.contains_key(&id) => {}
            None => {
                out.mark("takeover_begun");
                let view = self.view_number;
                for p in &participants {
                    let Some(at) = self.primary_of(*p) else { continue };
                    self.tell(at, &Message::Inquire { view, tx: id, partition: *p }, out);
                }
                let votes = BTreeMap::new();
                self.takeovers.insert(id, Takeover { participants, votes, decision: None });
            }
        }
    }

    /// The anchor knows the outcome already: it is told once it is stable.
    fn repeat_decision(
        &mut self,
        _from: ShardAddr,
        anchor: PartitionId,
        id: TxId,
        participants: Vec<PartitionId>,
        out: &mut Outputs,
    ) {
        out.mark("takeover_repeats_decision");
        let part = self.part(anchor);
        let after = part.end;
        let decision = match part.outcomes.known(id) {
            Some(Outcome::Committed(epoch)) => Some(epoch),
            Some(Outcome::Aborted) => None,
            None => return,
        };
        let takeover = Takeover { participants, votes: BTreeMap::new(), decision: Some(decision) };
        self.takeovers.insert(id, takeover);
        self.owe(anchor, after, Owed::Takeover { tx: id }, out);
    }

    /// A participant's stable state, during take-over.
    pub(super) fn on_takeover_vote(
        &mut self,
        id: TxId,
        p: PartitionId,
        vote: Vote,
        out: &mut Outputs,
    ) {
        let seal = self.view.as_ref().map_or(Epoch(0), |view| view.seal);
        let Some(takeover) = self.takeovers.get_mut(&id) else { return };
        if takeover.decision.is_some() || !takeover.participants.contains(&p) {
            return;
        }
        takeover.votes.insert(p, vote);
        let votes = takeover.votes.values();
        let committed = votes.clone().find_map(|vote| match vote {
            Vote::Committed(epoch) => Some(*epoch),
            Vote::Prepared(_) | Vote::Refused(_) => None,
        });
        let refused = votes.clone().any(|vote| matches!(vote, Vote::Refused(_)));
        let complete = takeover.votes.len() == takeover.participants.len();
        let decision = match committed {
            Some(epoch) => Some(epoch),
            None if refused => None,
            None if complete => votes
                .filter_map(|vote| match vote {
                    Vote::Prepared(epoch) => Some(*epoch),
                    Vote::Committed(_) | Vote::Refused(_) => None,
                })
                .chain([seal.next()])
                .max(),
            None => return,
        };
        takeover.decision = Some(decision);
        self.record_takeover(id, decision, out);
    }

    /// Makes the decision a record of the anchor's log; told when that is stable.
    fn record_takeover(&mut self, id: TxId, decision: Option<Epoch>, out: &mut Outputs) {
        let Some(takeover) = self.takeovers.get(&id) else { return };
        let anchor = takeover.participants[0];
        if !self.leads(anchor) {
            return;
        }
        let part = self.part(anchor);
        let prepared = part.prepared.get(&id).map(|prepared| prepared.low);
        let after = match (decision, prepared, part.outcomes.known(id)) {
            (Some(epoch), Some(low), None) => {
                out.mark("takeover_commits");
                self.raise_epoch(epoch);
                self.append_commit(anchor, id, low, epoch, out)
            }
            (None, low, None) => {
                out.mark("takeover_aborts");
                self.append_abort(anchor, id, low.unwrap_or(0), out)
            }
            (Some(_), _, Some(Outcome::Committed(_))) | (None, _, Some(Outcome::Aborted)) => {
                part.end
            }
            (decision, _, known) => {
                let text = format!("{id}: take-over decided {decision:?}, anchor knows {known:?}");
                self.broken(text, out);
                return;
            }
        };
        self.owe(anchor, after, Owed::Takeover { tx: id }, out);
    }

    /// A participant's shard is connected again: what it was asked may be lost.
    pub(super) fn ask_takeovers_anew(&mut self, at: ShardAddr, out: &mut Outputs) {
        let view = self.view_number;
        let mut questions: Vec<(TxId, PartitionId)> = Vec::new();
        for (id, takeover) in self.takeovers.iter().filter(|(_, t)| t.decision.is_none()) {
            let open = takeover.participants.iter().filter(|p| !takeover.votes.contains_key(p));
            questions.extend(open.map(|p| (*id, *p)));
        }
        for (tx, partition) in questions {
            if self.primary_of(partition) == Some(at) {
                self.tell(at, &Message::Inquire { view, tx, partition }, out);
            }
        }
    }

    /// The decision is stable at the anchor: every participant may hear it.
    pub(super) fn announce_takeover(&mut self, id: TxId, out: &mut Outputs) {
        let Some(takeover) = self.takeovers.remove(&id) else { return };
        let Some(commit) = takeover.decision else { return };
        let view = self.view_number;
        for partition in takeover.participants {
            let Some(at) = self.primary_of(partition) else { continue };
            self.tell(at, &Message::Decide { view, tx: id, partition, commit }, out);
        }
    }

    /// A client asks what became of its transaction. "Aborted" is only told once a tombstone makes
    /// it true for ever.
    pub(super) fn on_ask_outcome(
        &mut self,
        question: Question,
        id: TxId,
        anchor: PartitionId,
        out: &mut Outputs,
    ) {
        let Question { link, request, to_disk } = question;
        if !self.leads(anchor) {
            self.refuse_request(link, request, Code::NotPrimary, out);
            return;
        }
        if self.expires_too_late(id) {
            self.refuse_request(link, request, Code::EpochAhead, out);
            return;
        }
        let closed = self.closed;
        let part = self.part_mut(anchor);
        if part.prepared.contains_key(&id) {
            out.mark("outcome_waits_for_decision");
            part.blocked.entry(id).or_default().push(Blocked::Outcome(question));
            return;
        }
        let (after, outcome) = match part.outcomes.known(id) {
            Some(Outcome::Committed(epoch)) => (part.end, OutcomeTold::Committed(epoch)),
            Some(Outcome::Aborted) => (part.end, OutcomeTold::Aborted),
            None if id.expiry <= closed => {
                // It may have been committed and forgotten: nobody can say any more.
                out.mark("outcome_asked_too_late");
                self.refuse_request(link, request, Code::TransactionExpired, out);
                return;
            }
            None => {
                out.mark("outcome_makes_tombstone");
                // Whoever asks has given it up: its locks need not wait for the idle limit.
                if self.coordinated.get(&id).is_some_and(|tx| tx.phase == Phase::Open) {
                    self.abort(id, Code::AbortedByTakeover, None, out);
                }
                (self.append_abort(anchor, id, 0, out), OutcomeTold::Aborted)
            }
        };
        let owed = Owed::Outcome { link, request, outcome };
        let owed = match outcome {
            OutcomeTold::Committed(epoch) if to_disk => self.once_durable(epoch, owed),
            _ => owed,
        };
        self.owe(anchor, after, owed, out);
    }
}
