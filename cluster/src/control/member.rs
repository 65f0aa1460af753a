//! The member's side of a view change: answer a proposal, adopt the view, enter it.
//!
//! Answering means giving something up: from then on everything from the nodes that the proposal
//! drops is refused, no promise is made to them, no seal is confirmed. What needs none of them goes
//! on. The shards fence first and report their log ends; only then the answer leaves.

use lockstep_proto::agreement::{Judgement, changed};
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{NodeInstance, PartitionId, Seq, ShardId, ViewNumber};
use lockstep_proto::process::{Effect, Exit, LogLevel, Outputs};
use lockstep_proto::stored::Stored;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::control::{Answer, ControlMessage, ViewChange};
use lockstep_proto::wire::shard_control::{ProposalId, ShardControl};

use super::links::send_on;
use super::state::State;
use super::{ControlCore, LeaseNews, exit_code};

/// A proposal that is being answered or has been.
#[derive(Debug)]
pub(super) struct Gathering {
    proposal: ProposalId,
    change: ViewChange,
    /// Shards that have not reported yet.
    waiting: Vec<ShardId>,
    ends: Vec<(PartitionId, Seq)>,
}

/// A view on its way to the disk.
#[derive(Debug)]
pub(super) struct Pending {
    token: u64,
    view: View,
}

impl ControlCore {
    /// The newest view this node knows to be finished.
    fn newest_view(&self) -> &View {
        self.pending.as_ref().map_or(&self.view, |pending| &pending.view)
    }

    pub(super) fn on_propose(
        &mut self,
        now: Instant,
        from: NodeInstance,
        base: ViewNumber,
        proposal: ProposalId,
        change: ViewChange,
        out: &mut Outputs,
    ) {
        let newest = self.newest_view();
        if base < newest.number {
            let view = Box::new(newest.clone());
            return self.links.send(from, &ControlMessage::NewView { view }, out);
        }
        let drops_me = change.failed.contains(&self.me) && !change.leaving.contains(&self.me);
        let follows = proposal.number > base && base == self.view.number && self.state.acts();
        if proposal.president != from || drops_me || !follows || !self.is_sane(&change) {
            out.mark("proposal_ignored");
            return;
        }
        match self.book.judge(proposal) {
            Judgement::Higher => self.begin_answer(now, proposal, change, out),
            Judgement::Same => self.send_answer(now, out),
            Judgement::Lower(highest) => {
                let refusal = ControlMessage::AnsweredHigher { proposal, highest };
                self.links.send(from, &refusal, out);
            }
        }
    }

    /// Whether a change names members only, and leaves somebody.
    fn is_sane(&self, change: &ViewChange) -> bool {
        change.failed.iter().all(|node| self.view.contains(*node))
            && change.leaving.iter().all(|node| change.failed.contains(node))
            && change.reasons.len() <= change.failed.len()
            && self.view.in_sync().any(|member| !change.failed.contains(&member.instance))
            && self.brings_back_sanely(change)
            && change.transfer.is_none_or(|step| self.view.can_transfer(step))
            && change.config.as_ref().is_none_or(|config| self.can_be(config))
    }

    /// Fences what the proposal drops; the answer follows when all shards have.
    pub(super) fn begin_answer(
        &mut self,
        now: Instant,
        proposal: ProposalId,
        change: ViewChange,
        out: &mut Outputs,
    ) {
        self.book.answer(proposal, &change);
        if proposal.president != self.me {
            // A higher proposal than any of this node's.
            self.proposing = None;
            self.timers.lease_end = None;
        }
        self.lineage.count(changed(&self.view, proposal.number, &change).identity());
        for node in &change.failed {
            self.suspicion.refuse(*node);
        }
        if change.leaving.contains(&self.me) {
            out.mark("leaver_answers");
            self.retire(out);
        }
        let failed = match self.canary {
            Some(Canary::NoFencing) => Vec::new(),
            _ if self.retired => self.view.members.iter().map(|m| m.instance).collect(),
            _ => self.book.refused(),
        };
        self.state.transition(State::Fencing);
        let waiting = self.shard_ids().collect();
        let moving = self.moving_from_here(&change);
        let handed = self.handed_by(&change);
        self.gathering = Some(Gathering { proposal, change, waiting, ends: Vec::new() });
        self.tell_shards(&ShardControl::Fence { proposal, failed, moving, handed }, out);
        if self.shards.is_empty() {
            self.finish_answer(now, out);
        }
    }

    pub(super) fn on_fenced(
        &mut self,
        now: Instant,
        shard: ShardId,
        proposal: ProposalId,
        ends: Vec<(PartitionId, Seq)>,
        out: &mut Outputs,
    ) {
        let Some(gathering) = self.gathering.as_mut().filter(|g| g.proposal == proposal) else {
            return;
        };
        let waited = gathering.waiting.len();
        gathering.waiting.retain(|other| *other != shard);
        if gathering.waiting.len() == waited {
            return;
        }
        gathering.ends.extend(ends);
        if gathering.waiting.is_empty() {
            gathering.ends.sort_unstable();
            self.finish_answer(now, out);
        }
    }

    fn finish_answer(&mut self, now: Instant, out: &mut Outputs) {
        if self.state == State::Fencing {
            self.state.transition(State::Answered);
            self.send_answer(now, out);
        }
    }

    /// Sends the answer to the proposal answered last, if all shards have reported.
    fn send_answer(&mut self, now: Instant, out: &mut Outputs) {
        let Some(gathering) = self.gathering.as_ref().filter(|_| self.state == State::Answered)
        else {
            return;
        };
        let failed = &gathering.change.failed;
        let remaining = |node: &NodeInstance| {
            let left = self.leases.remaining(*node, now);
            (*node, u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
        };
        let answer = Answer {
            ends: gathering.ends.clone(),
            answered: self.book.beside(gathering.proposal),
            promises: failed.iter().map(remaining).filter(|(_, left)| *left > 0).collect(),
            known_dead: failed.iter().copied().filter(|n| self.is_proven_dead(*n)).collect(),
            seal: self.epochs.seal(),
            epoch: self.epochs.current(),
        };
        let proposal = gathering.proposal;
        if proposal.president == self.me {
            return self.on_answered(now, self.me, proposal, answer, out);
        }
        let answered = ControlMessage::Answered { proposal, answer: Box::new(answer) };
        self.links.send(proposal.president, &answered, out);
    }

    pub(super) fn on_new_view(&mut self, from: NodeInstance, view: View, out: &mut Outputs) {
        let newest = self.newest_view();
        let news = view.number >= newest.number && view.identity() != newest.identity();
        if !news || view.cluster != newest.cluster {
            return;
        }
        if !view.contains(self.me) {
            return self.on_excluded(&view, out);
        }
        let refused = self.suspicion.is_refused(from) || !self.view.contains(from);
        if refused && self.canary != Some(Canary::NoFencing) {
            // It was made without the answer this node gave since.
            out.mark("view_from_refused");
            return;
        }
        if view.number == newest.number {
            let reason = format!(
                "two rival views {} name this node: the agreement is broken; report this",
                view.number
            );
            return self.end(Exit { code: exit_code::BROKEN, reason }, out);
        }
        if self.proposing.is_some() {
            out.mark("view_adopted_from_peer");
        }
        let announce = self.proposing.is_some();
        self.adopt(view, announce, out);
    }

    fn on_excluded(&mut self, view: &View, out: &mut Outputs) {
        if self.leave.has_asked() {
            let reason = match view.roster.seat(self.me.node) {
                Some(_) => format!("left the cluster with view {}", view.number),
                None => format!(
                    "left the cluster with view {}, removed for good: its directory is of no more \
                     use",
                    view.number
                ),
            };
            return self.end(Exit { code: 0, reason }, out);
        }
        out.mark("excluded");
        let reason = format!(
            "excluded from view {} of the cluster: the other members did not hear this node; \
             it comes back with what it has on its disk, and copies the rest",
            view.number
        );
        self.end(Exit { code: exit_code::EXCLUDED, reason }, out);
    }

    /// Takes a finished view: to the disk first. Whoever made it, or found it and leads, tells the
    /// others at once: they write it at the same time, and nobody acts in it before its own disk
    /// has it.
    pub(super) fn adopt(&mut self, view: View, announce: bool, out: &mut Outputs) {
        let token = self.next_number();
        self.state.transition(State::Storing);
        self.gathering = None;
        self.proposing = None;
        self.timers.lease_end = None;
        out.effect(Effect::Store { token, file: View::FILE, bytes: view.to_file() });
        if announce {
            self.announce(&view, out);
        }
        self.pending = Some(Pending { token, view });
    }

    pub(super) fn on_stored(&mut self, now: Instant, token: u64, ok: bool, out: &mut Outputs) {
        if !ok {
            let reason = "the view could not be written to the data directory".to_owned();
            return self.end(Exit { code: exit_code::STUCK, reason }, out);
        }
        match self.pending.take() {
            Some(pending) if pending.token == token => self.enter(now, pending, out),
            other => self.pending = other,
        }
    }

    /// The view is on disk: the shards enter it.
    fn enter(&mut self, now: Instant, pending: Pending, out: &mut Outputs) {
        self.view = pending.view;
        self.state.transition(State::Entering);
        self.lineage.count(self.view.identity());
        self.book.clear();
        self.number_told = ViewNumber(0);
        self.suspicion.enter(&self.view, now);
        self.links.enter(&self.view, now);
        let view = &self.view;
        self.leases.retain_givers(|node| view.contains(node));
        self.died_in_time.retain(|node| view.contains(*node));
        // Heartbeats may be more frequent from now on.
        self.timers.beat = self.timers.beat.min(now + view.config.heartbeat());
        self.enter_epochs(now);
        self.enter_returns(now, out);
        self.enter_roster();
        let number = self.view.number;
        let names: Vec<String> = self.view.members.iter().map(|m| m.instance.to_string()).collect();
        out.log(LogLevel::Info, format!("entering view {number}: {}", names.join(" ")));
        self.tell_shards(&ShardControl::Enter { view: Box::new(self.view.clone()) }, out);
        self.leases_news = LeaseNews::Urgent;
        self.send_heartbeats(now, out);
        self.links.dial_due(now, out);
        if self.shards.is_empty() {
            self.on_all_entered(now, out);
        }
    }

    /// Tells a view to everybody in it and to those it leaves out.
    fn announce(&mut self, view: &View, out: &mut Outputs) {
        out.mark("view_announced");
        let message = ControlMessage::NewView { view: Box::new(view.clone()) };
        let come = view.members.iter().filter(|m| !self.view.contains(m.instance));
        let all = self.view.members.iter().chain(come).filter(|m| m.instance != self.me);
        for member in all {
            for link in self.links.links_to(member.instance) {
                send_on(link, &message, out);
            }
        }
    }

    pub(super) fn on_entered(
        &mut self,
        now: Instant,
        shard: ShardId,
        view: ViewNumber,
        out: &mut Outputs,
    ) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.0)) {
            state.entered = Some(view);
        }
        let all = self.shards.iter().all(|s| s.entered == Some(self.view.number));
        if all && self.state == State::Entering {
            self.on_all_entered(now, out);
        }
    }

    fn on_all_entered(&mut self, now: Instant, out: &mut Outputs) {
        self.state.transition(State::Acting);
        out.mark("view_entered");
        self.leases_news = LeaseNews::Urgent;
        self.register_view(now, out);
        self.reconsider(now, out);
    }
}
