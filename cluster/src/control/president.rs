//! The president's side of a view change: propose, collect, decide, wait, make the view.
//!
//! The president is the most senior member that is not gone in its own eyes. More failures on the
//! way start a higher attempt with more nodes dropped; a half-done proposal of a dead president is
//! finished by the next one, because having answered anything is reason enough to make a view.

use std::time::Duration;

use lockstep_proto::agreement::{Collection, changed};
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{NodeId, NodeInstance};
use lockstep_proto::lease::stretched;
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::survival::{Counted, Survival, survival};
use lockstep_proto::suspicion::{Gone, Reason};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, Standing, View};
use lockstep_proto::wire::control::{Answer, ControlMessage, ViewChange};
use lockstep_proto::wire::shard_control::ProposalId;

use super::ControlCore;
use super::arbitration::{Asking, Registering};

/// How long a member that lives may take to answer before it is dropped too.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A proposal of this node.
#[derive(Debug)]
pub(super) struct Proposing {
    pub(super) collection: Collection,
    pub(super) phase: Phase,
    since: Instant,
    /// When the promises to dropped nodes have run out, by this node's clock.
    lease_ends: Vec<(NodeInstance, Instant)>,
    /// A view the arbitrator showed that has this side's nodes: counted against too.
    pub(super) shown: Option<lockstep_proto::view::ViewIdentity>,
}

/// How far it has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for answers.
    Collecting,
    /// Waiting for arbitrators.
    Asking(Asking),
    /// Waiting until the new arbitrator's register holds the view.
    Registering(Registering),
    /// Waiting for promises to run out.
    WaitingLeases(Box<View>),
}

impl ControlCore {
    /// Looks again at who is gone, and proposes a view if that is this node's task.
    pub(super) fn reconsider(&mut self, now: Instant, out: &mut Outputs) {
        self.timers.silence = self.suspicion.next_silence(now);
        if !self.state.acts() || self.leave.has_asked() || self.stopping.is_some() {
            self.timers.settled = None;
            return;
        }
        let gone = self.suspicion.gone(now);
        if self.president(now) != Some(self.me) {
            self.timers.settled = None;
            return;
        }
        if !self.has_settled(&gone, now) {
            return;
        }
        let mut change = self.change_for(&gone, now);
        let half_done = !self.book.is_empty() && self.proposing.is_none();
        let covered = self.proposing.as_ref().is_some_and(|proposing| {
            let failed = &proposing.collection.change().failed;
            change.failed.iter().all(|node| failed.contains(node))
        });
        let other_arbitrator =
            self.proposing.is_none() && change.arbitrator != self.view.arbitrator;
        let wanted = !change.failed.is_empty() && !covered;
        let quiet = self.proposing.is_none() && !half_done && change.failed.is_empty();
        let returns = quiet && self.draft_returns(now, &mut change, out);
        let configures = quiet && !returns && self.draft_configuration(&mut change, out);
        if wanted || half_done || other_arbitrator || returns || configures {
            self.mark_reasons(&gone, out);
            self.propose(now, change, out);
        }
    }

    /// A cut silences several nodes within one heartbeat of each other. Proposing after the first
    /// would make half of them refuse the rest, though this side may be the one that must end; so
    /// silence is acted on one heartbeat later, also in the middle of a proposal, which a cut may
    /// only have kept from its members. Evidence of a death alone is acted on at once.
    fn has_settled(&mut self, gone: &Gone, now: Instant) -> bool {
        let silence = |reason: &Reason| matches!(reason, Reason::Silent | Reason::Asymmetric);
        let proposing = self.proposing.as_ref();
        let covered = |node| proposing.is_some_and(|p| p.collection.change().failed.contains(node));
        let hasty = self.canary == Some(Canary::SilenceAmidProposal)
            && (proposing.is_some() || !self.book.is_empty());
        if hasty || !gone.iter().any(|(node, reason)| silence(reason) && !covered(node)) {
            self.timers.settled = None;
            return true;
        }
        let end = now + self.view.config.heartbeat();
        let settled = now >= *self.timers.settled.get_or_insert(end);
        if settled {
            self.timers.settled = None;
        }
        settled
    }

    /// The change that drops who is gone; a wish to leave is not granted to a group's last node.
    fn change_for(&self, gone: &Gone, now: Instant) -> ViewChange {
        let mut failed: Vec<NodeInstance> = gone
            .iter()
            .filter(|(_, reason)| *reason != Reason::Leaving)
            .map(|(node, _)| *node)
            .collect();
        for (node, _) in gone.iter().filter(|(_, reason)| *reason == Reason::Leaving) {
            let stays = |other: NodeInstance| other != *node && !failed.contains(&other);
            let member = self.view.member(node.node);
            let behind = member.is_some_and(|m| m.standing != Standing::InSync);
            let group = member.map(|m| m.group);
            let idle = group.is_some_and(|group| self.view.owned_by(group) == 0);
            let mut mates = self.view.in_sync().filter(|m| Some(m.group) == group);
            if behind || idle || mates.any(|m| stays(m.instance)) {
                failed.push(*node);
            }
        }
        failed.sort_unstable();
        let leaves = |node: &NodeInstance| {
            self.suspicion.is_leaving(*node) && !self.suspicion.is_known_dead(*node)
        };
        let leaving = failed.iter().copied().filter(leaves).collect();
        let arbitrator = self.arbitrator_wanted(now);
        let goes = |node: &NodeInstance| failed.contains(node);
        let reasons = gone.iter().filter(|(node, _)| goes(node)).copied().collect();
        ViewChange { failed, leaving, reasons, arbitrator, ..ViewChange::default() }
    }

    fn mark_reasons(&self, gone: &Gone, out: &mut Outputs) {
        let eldest = self.view.in_sync().min_by_key(|m| m.seniority).map(|m| m.instance);
        if eldest != Some(self.me) {
            out.mark("president_takeover");
        }
        for (node, reason) in gone {
            match reason {
                Reason::Silent => out.mark("suspected_by_silence"),
                Reason::Dead => out.mark("suspected_by_death"),
                Reason::Leaving => out.mark("view_change_leave"),
                Reason::Refused if self.proposing.is_some() => continue,
                Reason::Refused => out.mark("half_done_proposal"),
                Reason::Asymmetric => out.mark("asymmetric_loss"),
                Reason::Stuck => out.mark("suspected_stuck"),
            }
            out.log(LogLevel::Info, format!("{node} is dropped: {reason:?}"));
            if *reason != Reason::Leaving {
                out.mark("view_change_failure");
            }
        }
    }

    /// Starts a proposal higher than everything seen.
    pub(super) fn propose(&mut self, now: Instant, change: ViewChange, out: &mut Outputs) {
        if let Some(earlier) = &self.proposing {
            out.mark("proposal_superseded");
            let named = &earlier.collection.change().arbitrator;
            let shown = matches!(earlier.phase, Phase::Registering(_) | Phase::WaitingLeases(_));
            if shown && named.is_some() && *named != self.view.arbitrator {
                // The new arbitrator has been sent that view, and tells its clients of it: another
                // one of its number would be no news to them.
                let number = earlier.collection.proposal().number;
                self.number_told = self.number_told.max(number);
            }
        }
        let proposal = self.book.next(self.view.number, self.number_told, self.me);
        let collection = Collection::new(proposal, change.clone(), &self.view);
        self.timers.lease_end = None;
        self.proposing = Some(Proposing {
            collection,
            phase: Phase::Collecting,
            since: now,
            lease_ends: Vec::new(),
            shown: None,
        });
        self.send_proposal(out);
        self.begin_answer(now, proposal, change, out);
    }

    fn send_proposal(&self, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let collection = &proposing.collection;
        let (proposal, change) = (collection.proposal(), collection.change().clone());
        let base = self.view.number;
        let message = ControlMessage::Propose { base, proposal, change };
        for node in collection.unanswered().filter(|node| *node != self.me) {
            self.links.send(node, &message, out);
        }
    }

    /// Proposals are repeated until answered; a member that never answers is dropped.
    pub(super) fn repeat_proposal(&mut self, now: Instant, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        self.send_proposal(out);
        let late = now.since(proposing.since) > ANSWER_WITHIN;
        if matches!(proposing.phase, Phase::Collecting) && late {
            if !proposing.collection.change().moved.is_empty() {
                // Whoever leads them cannot make its log stable: that is for others to find out.
                out.mark("moves_given_up");
                let mut change = proposing.collection.change().clone();
                change.moved.clear();
                return self.propose(now, change, out);
            }
            let members = proposing.collection.members();
            let silent = |node: &&NodeInstance| !proposing.collection.has_answered(**node);
            let stuck: Vec<NodeInstance> =
                members.iter().filter(silent).copied().filter(|n| *n != self.me).collect();
            for node in stuck {
                self.suspicion.stuck(node);
            }
        }
        self.advance(now, out);
    }

    pub(super) fn on_answered(
        &mut self,
        now: Instant,
        from: NodeInstance,
        proposal: ProposalId,
        answer: Answer,
        out: &mut Outputs,
    ) {
        let drift = self.view.config.drift_ppm;
        let Some(proposing) = &mut self.proposing else { return };
        if proposing.collection.proposal() != proposal {
            return;
        }
        let promises = answer.promises.clone();
        let foreign = answer.answered.iter().map(|rival| rival.proposal);
        let foreign = foreign.filter(|rival| rival.president != self.me).map(|rival| rival.number);
        self.number_told = self.number_told.max(foreign.max().unwrap_or_default());
        if self.number_told >= proposal.number {
            // A view of that number may be in force somewhere.
            out.mark("number_taken");
            let change = proposing.collection.change().clone();
            return self.propose(now, change, out);
        }
        if !proposing.collection.add(from, answer) {
            return;
        }
        for (node, left) in promises {
            let end = now + stretched(Duration::from_nanos(left), drift);
            proposing.lease_ends.push((node, end));
        }
        self.epochs.raise(proposing.collection.epoch());
        match proposing.phase {
            Phase::Collecting | Phase::WaitingLeases(_) => self.advance(now, out),
            Phase::Asking(_) | Phase::Registering(_) => {}
        }
    }

    /// The last word of a leaving node: it serves nobody from now on.
    pub(super) fn on_last_answer(
        &mut self,
        now: Instant,
        from: NodeInstance,
        proposal: ProposalId,
        answer: Answer,
        out: &mut Outputs,
    ) {
        if self.suspicion.is_leaving(from) {
            self.on_answered(now, from, proposal, answer, out);
        }
    }

    pub(super) fn on_answered_higher(
        &mut self,
        now: Instant,
        proposal: ProposalId,
        highest: ProposalId,
        out: &mut Outputs,
    ) {
        let Some(proposing) = &self.proposing else { return };
        let mine = proposing.collection.proposal() == proposal;
        if mine && highest > proposal {
            let change = proposing.collection.change().clone();
            self.number_told = self.number_told.max(highest.number);
            self.propose(now, change, out);
        }
    }

    /// Everybody who stays has answered: may this side go on?
    pub(super) fn decide(&mut self, now: Instant, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let collection = &proposing.collection;
        let change = collection.change();
        let survivors = collection.members();
        let mut here = survivors.to_vec();
        here.extend(collection.left());
        here.sort_unstable();
        let dead = if self.view.config.peer_death_by_fin { &self.died_in_time[..] } else { &[] };
        let mut asked: Vec<Arbitrator> = Vec::new();
        let mut nobody_to_ask = false;
        for (counted, arbitrator) in self.counted_against(proposing) {
            let views = [counted];
            let mut verdict = survival(&views, &here, dead, self.canary);
            // Who leaves helps to outnumber the absent, but does not hold a group.
            if !change.leaving.is_empty()
                && let lost @ Survival::ShutDown(lockstep_proto::survival::Cause::GroupLost(_)) =
                    survival(&views, survivors, dead, None)
            {
                verdict = lost;
            }
            match (verdict, arbitrator) {
                (Survival::GoOn, _) => {}
                (Survival::Ask, Some(arbitrator)) => asked.push(arbitrator),
                (Survival::Ask, None) => nobody_to_ask = true,
                (Survival::ShutDown(cause), _) => {
                    out.mark("group_lost");
                    return self.lose(now, &format!("this side cannot go on: {cause}"), out);
                }
            }
        }
        if nobody_to_ask && self.canary != Some(Canary::MinorityGoesOn) {
            let text = "exactly half of the members are here and no arbitrator is configured";
            return self.lose(now, text, out);
        }
        asked.sort_unstable();
        asked.dedup();
        self.ask(now, asked, out);
    }

    /// Dropped nodes whose process somebody here knows to be dead.
    fn dead_of(&self, proposing: &Proposing) -> Vec<NodeInstance> {
        let told: Vec<NodeInstance> = proposing.collection.known_dead().collect();
        let failed = proposing.collection.change().failed.iter().copied();
        failed.filter(|node| told.contains(node) || self.is_proven_dead(*node)).collect()
    }

    /// The view acted in and every other proposal somebody here has answered, each with the
    /// arbitrator to ask about it.
    fn counted_against(&self, proposing: &Proposing) -> Vec<(Counted, Option<Arbitrator>)> {
        let mut counted = vec![(Counted::of(&self.view), self.view.arbitrator.clone())];
        for rival in proposing.collection.rivals() {
            let view = changed(&self.view, rival.proposal.number, &rival.change);
            counted.push((Counted::of(&view), view.arbitrator));
        }
        if let Some(shown) = &proposing.shown {
            let failed = self.view.members.iter().map(|m| m.instance);
            let failed = failed.filter(|node| !shown.members.contains(node)).collect();
            let arbitrator = self.view.arbitrator.clone();
            let change = ViewChange { failed, arbitrator, ..ViewChange::default() };
            let view = changed(&self.view, shown.number, &change);
            counted.push((Counted::of(&view), view.arbitrator));
        }
        counted
    }

    /// The arbitrators have granted what they were asked: on to the promises.
    pub(super) fn wait_for_leases(&mut self, now: Instant, next: Box<View>, out: &mut Outputs) {
        if let Some(proposing) = &mut self.proposing {
            proposing.phase = Phase::WaitingLeases(next);
            self.advance(now, out);
        }
    }

    /// Goes on with what was waiting for answers, evidence or time.
    pub(super) fn advance(&mut self, now: Instant, out: &mut Outputs) {
        match &self.proposing {
            Some(Proposing { phase: Phase::Collecting, .. }) => {
                if self.has_all_answers(now) {
                    self.decide(now, out);
                }
            }
            Some(Proposing { phase: Phase::WaitingLeases(_), .. }) => self.make_view(now, out),
            Some(Proposing { phase: Phase::Asking(_) | Phase::Registering(_), .. }) | None => {}
        }
    }

    /// Everybody who stays must have answered. Who leaves should have: then it counts as here. It
    /// is waited for as long as a silent node would be.
    fn has_all_answers(&self, now: Instant) -> bool {
        let Some(Proposing { collection, since, .. }) = &self.proposing else { return false };
        let waited = now.since(*since) > self.view.config.suspicion();
        let mut leaving = collection.change().leaving.iter();
        collection.is_complete()
            && leaving.all(|n| waited || collection.has_answered(*n) || self.is_proven_dead(*n))
    }

    /// Makes the view when nobody that it drops can still hold a promise.
    fn make_view(&mut self, now: Instant, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let Phase::WaitingLeases(next) = &proposing.phase else { return };
        let dead = self.dead_of(proposing);
        let left = proposing.collection.left();
        let holds = |node: &NodeInstance| !dead.contains(node) && !left.contains(node);
        let ends = proposing.lease_ends.iter().filter(|(node, _)| holds(node));
        let until = ends.map(|(_, end)| *end).max().filter(|end| *end > now);
        match until {
            Some(end) if self.canary != Some(Canary::SkipLeaseWait) => {
                if self.timers.lease_end.replace(end) != Some(end) {
                    out.mark("lease_wait");
                }
            }
            _ => {
                if self.handed_by(proposing.collection.change()).is_some() {
                    out.mark("hand_over_made");
                }
                let next = next.as_ref().clone();
                out.log(LogLevel::Info, format!("made view {}", next.number));
                self.adopt(next, true, out);
            }
        }
    }

    /// This side may not go on: it ends, every node of it.
    pub(super) fn lose(&mut self, now: Instant, text: &str, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let proposal = proposing.collection.proposal();
        let message = ControlMessage::SideLost { proposal, text: text.to_owned() };
        let members: Vec<NodeInstance> = proposing.collection.members().to_vec();
        for node in members.into_iter().filter(|node| *node != self.me) {
            self.links.send(node, &message, out);
        }
        self.stop_lost(now, text.to_owned(), out);
    }

    /// The president of a proposal this node has answered says that the side is lost.
    pub(super) fn on_side_lost(
        &mut self,
        now: Instant,
        from: NodeInstance,
        proposal: ProposalId,
        text: String,
        out: &mut Outputs,
    ) {
        if proposal.president == from && self.book.highest() == proposal {
            self.stop_lost(now, text, out);
        }
    }

    /// The nodes of a view, as people read them.
    pub(super) fn names(nodes: &[NodeInstance]) -> String {
        let ids: Vec<NodeId> = nodes.iter().map(|n| n.node).collect();
        format!("{ids:?}")
    }
}
