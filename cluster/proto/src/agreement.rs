//! The bookkeeping of a view change: what a member has answered, what a president has collected,
//! and the view that follows from it.
//!
//! A member answers only a higher proposal than it has answered, and tells with every answer what
//! else it has answered since the view it acts in: each of those may be in force on the other side
//! of a split. One president's lower attempts are dead once it makes a higher one, so the highest
//! of each president is enough. Two presidents never use one number: a view made by a president
//! that fell silent right after is told from the one made without it by its number alone.
//!
//! Invariant: the next view is a function of the view acted in, the change and the answers of *all*
//! its members; a partition's new primary is its replica with the longest log.

use crate::ids::{Epoch, NodeId, NodeInstance, PartitionId, Seq, ViewNumber};
use crate::transfer::TransferStep;
use crate::view::{Member, Placement, Standing, View, ViewIdentity};
use crate::wire::control::{Answer, AnsweredProposal, ViewChange};
use crate::wire::shard_control::ProposalId;

/// What a member has answered since the view it acts in.
#[derive(Debug, Default)]
pub struct AnswerBook {
    highest: ProposalId,
    answered: Vec<AnsweredProposal>,
}

/// How a proposal compares with what was answered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// To be answered.
    Higher,
    /// The one answered last: a repetition.
    Same,
    /// Not to be answered; this one was.
    Lower(ProposalId),
}

impl AnswerBook {
    /// Compares a proposal with the highest answered.
    #[must_use]
    pub fn judge(&self, proposal: ProposalId) -> Judgement {
        match proposal.cmp(&self.highest) {
            std::cmp::Ordering::Greater => Judgement::Higher,
            std::cmp::Ordering::Equal => Judgement::Same,
            std::cmp::Ordering::Less => Judgement::Lower(self.highest),
        }
    }

    /// Notes that a proposal is being answered.
    pub fn answer(&mut self, proposal: ProposalId, change: &ViewChange) {
        debug_assert_eq!(self.judge(proposal), Judgement::Higher);
        self.highest = proposal;
        self.answered.retain(|a| a.proposal.president != proposal.president);
        self.answered.push(AnsweredProposal { proposal, change: change.clone() });
    }

    /// What `president` proposes next on top of view `base`: higher than everything answered. Its
    /// number is its own: another president's proposal may be in force somewhere, so the number of
    /// none of them, nor one up to `told` (the highest somebody else's answer has named), is used
    /// again.
    #[must_use]
    pub fn next(&self, base: ViewNumber, told: ViewNumber, president: NodeInstance) -> ProposalId {
        let mut number = told.max(base).next();
        let mut attempt = 1;
        for AnsweredProposal { proposal, .. } in &self.answered {
            if proposal.president != president {
                number = number.max(proposal.number.next());
            }
        }
        for AnsweredProposal { proposal, .. } in &self.answered {
            if proposal.president == president && proposal.number >= number {
                (number, attempt) = (proposal.number, proposal.attempt + 1);
            }
        }
        ProposalId { number, attempt, president }
    }

    /// The highest proposal answered; the default if none was.
    #[must_use]
    pub fn highest(&self) -> ProposalId {
        self.highest
    }

    /// Whether nothing was answered in this view.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answered.is_empty()
    }

    /// What was answered beside `proposal`.
    #[must_use]
    pub fn beside(&self, proposal: ProposalId) -> Vec<AnsweredProposal> {
        self.answered.iter().filter(|a| a.proposal != proposal).cloned().collect()
    }

    /// Everybody some answered proposal drops, in order.
    #[must_use]
    pub fn refused(&self) -> Vec<NodeInstance> {
        let mut all: Vec<NodeInstance> =
            self.answered.iter().flat_map(|a| a.change.failed.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A new view: answers given before are history.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What a president has collected for one proposal.
#[derive(Debug)]
pub struct Collection {
    proposal: ProposalId,
    change: ViewChange,
    members: Vec<NodeInstance>,
    answers: Vec<(NodeInstance, Answer)>,
}

impl Collection {
    /// Starts a proposal that changes `view`.
    #[must_use]
    pub fn new(proposal: ProposalId, change: ViewChange, view: &View) -> Self {
        let stays = |node: &NodeInstance| !change.failed.contains(node);
        let members = view.members.iter().map(|m| m.instance).filter(stays).collect();
        Self { proposal, change, members, answers: Vec::new() }
    }

    /// The proposal.
    #[must_use]
    pub fn proposal(&self) -> ProposalId {
        self.proposal
    }

    /// What it changes.
    #[must_use]
    pub fn change(&self) -> &ViewChange {
        &self.change
    }

    /// Names the view it would make of `view`.
    #[must_use]
    pub fn identity(&self, view: &View) -> ViewIdentity {
        changed(view, self.proposal.number, &self.change).identity()
    }

    /// The members the new view will have.
    #[must_use]
    pub fn members(&self) -> &[NodeInstance] {
        &self.members
    }

    /// Takes an answer; a repeated one changes nothing. Returns whether it was new.
    pub fn add(&mut self, from: NodeInstance, answer: Answer) -> bool {
        let asked = self.members.contains(&from) || self.change.leaving.contains(&from);
        if !asked || self.has_answered(from) {
            return false;
        }
        self.answers.push((from, answer));
        true
    }

    /// Whether `node` has answered.
    #[must_use]
    pub fn has_answered(&self, node: NodeInstance) -> bool {
        self.answers.iter().any(|(from, _)| *from == node)
    }

    /// Whom to ask (again), leaving members included.
    pub fn unanswered(&self) -> impl Iterator<Item = NodeInstance> {
        let asked = self.members.iter().chain(&self.change.leaving).copied();
        asked.filter(|node| !self.has_answered(*node))
    }

    /// Whether everybody who stays has answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.members.iter().all(|member| self.has_answered(*member))
    }

    /// The leaving members that have answered: from then on they serve nothing.
    #[must_use]
    pub fn left(&self) -> Vec<NodeInstance> {
        self.change.leaving.iter().copied().filter(|node| self.has_answered(*node)).collect()
    }

    /// Other proposals to follow the same view that somebody here has answered, each once.
    #[must_use]
    pub fn rivals(&self) -> Vec<AnsweredProposal> {
        let mut rivals: Vec<AnsweredProposal> = Vec::new();
        for rival in self.answers.iter().flat_map(|(_, answer)| &answer.answered) {
            if !rivals.iter().any(|known| known.proposal == rival.proposal) {
                rivals.push(rival.clone());
            }
        }
        rivals.sort_unstable_by_key(|rival| rival.proposal);
        rivals
    }

    /// Failed nodes that somebody knows to be dead.
    pub fn known_dead(&self) -> impl Iterator<Item = NodeInstance> {
        self.answers.iter().flat_map(|(_, answer)| answer.known_dead.iter().copied())
    }

    /// The highest epoch any answer names.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.answers.iter().map(|(_, answer)| answer.epoch).max().unwrap_or_default()
    }

    /// The view that follows from `view`, this change and these answers.
    #[must_use]
    pub fn next_view(&self, view: &View) -> View {
        let seal = self.answers.iter().map(|(_, answer)| answer.seal).max().unwrap_or_default();
        let mut next = changed(view, self.proposal.number, &self.change);
        next.seal = view.seal.max(seal);
        for partition in view.partitions() {
            let placement = &mut next.placements[usize::from(partition.0)];
            if !placement.replicas.contains(&placement.primary)
                && let Some(primary) = self.longest(partition, placement)
            {
                placement.primary = primary;
            }
        }
        next
    }

    /// The replica with the longest log of a partition; of equals the preferred one.
    fn longest(&self, partition: PartitionId, placement: &Placement) -> Option<NodeId> {
        let end = |node| {
            let answer = self.answers.iter().find(|(from, _)| from.node == node);
            answer.map_or(Seq(0), |(_, answer)| end_of(answer, partition))
        };
        // `max_by_key` takes the last of equals, so ask from the least preferred on.
        placement.replicas.iter().rev().copied().max_by_key(|node| end(*node))
    }
}

/// The view a change makes of `view`, but for what only the answers can tell: primaries and seal.
///
/// Nobody is promoted and nothing is moved by a change that drops somebody: a log that counts for
/// the first time must not be the longest by accident, and who is dropped may lead.
#[must_use]
pub fn changed(view: &View, number: ViewNumber, change: &ViewChange) -> View {
    let mut next = view.clone();
    next.number = number;
    next.members.retain(|m| !change.failed.contains(&m.instance));
    next.arbitrator.clone_from(&change.arbitrator);
    next.left_out.clone_from(&change.reasons);
    if let Some(config) = &change.config {
        // A change made for another version is none: whoever wants it is told by the view.
        let _made = next.configured.apply(&mut next.config, config);
    }
    for member in &mut next.members {
        if member.standing == Standing::Copying && change.attached.contains(&member.instance) {
            member.standing = Standing::Attached;
        }
        if member.standing == Standing::Attached
            && change.promoted.contains(&member.instance)
            && change.failed.is_empty()
        {
            member.standing = Standing::InSync;
        }
    }
    // A view with a new arbitrator is shown to that one before it is in force: it gives no seats.
    if change.failed.is_empty() && change.arbitrator == view.arbitrator {
        change.orders.iter().for_each(|order| next.obey(order));
        change.seated.iter().for_each(|seat| next.roster.add(seat.clone()));
    }
    for member in &change.admitted {
        let Some(seat) = next.roster.seat_mut(member.instance.node) else { continue };
        seat.zone.clone_from(&member.zone);
        seat.addr.clone_from(&member.addr);
        let group = seat.group;
        let at = next.members.binary_search_by_key(&member.instance.node, |m| m.instance.node);
        if let Err(at) = at {
            let standing = Standing::Copying;
            next.members.insert(at, Member { standing, group, ..member.clone() });
        }
    }
    let undisturbed = change.failed.is_empty() && change.arbitrator == view.arbitrator;
    if let Some(step) = change.transfer.filter(|_| undisturbed) {
        next.transfer(step);
    }
    next.settle_transfers();
    for placement in &mut next.placements {
        place(placement, &next.members);
    }
    if let Some(TransferStep::HandOver { partition }) = change.transfer.filter(|_| undisturbed)
        && let Some(placement) = next.placement(partition)
        && let Some(best) = next.preferred_primary(placement)
    {
        next.placements[usize::from(partition.0)].primary = best;
    }
    if change.failed.is_empty() {
        for (partition, node) in &change.moved {
            if let Some(placement) = next.placements.get_mut(usize::from(partition.0))
                && placement.replicas.contains(node)
            {
                placement.primary = *node;
            }
        }
    }
    next
}

/// Who holds a partition, given the members: in sync in order of preference, joining in order of
/// node. When somebody is promoted the order is made anew, by the rule of the first view: at local
/// index i replica `(i / S) mod R` leads, the others follow in turn.
fn place(placement: &mut Placement, members: &[Member]) {
    let group: Vec<&Member> = members.iter().filter(|m| m.group == placement.group).collect();
    let of = |standing: fn(Standing) -> bool| -> Vec<NodeId> {
        let those = group.iter().filter(|m| standing(m.standing));
        those.map(|m| m.instance.node).collect()
    };
    let in_sync = of(|standing| standing == Standing::InSync);
    if in_sync.iter().all(|node| placement.replicas.contains(node)) {
        placement.replicas.retain(|node| in_sync.contains(node));
    } else {
        let shards = group.iter().map(|m| m.shards).max().unwrap_or(1).max(1);
        let first = usize::from(placement.local_index / shards) % in_sync.len();
        placement.replicas = in_sync;
        placement.replicas.rotate_left(first);
    }
    placement.joining = of(|standing| standing != Standing::InSync);
    if let Some(to) = placement.to {
        let there = members.iter().filter(|m| m.group == to.group);
        let there = there.filter(|m| m.standing == Standing::InSync);
        placement.joining.extend(there.map(|m| m.instance.node));
    }
}

fn end_of(answer: &Answer, partition: PartitionId) -> Seq {
    match answer.ends.binary_search_by_key(&partition, |(p, _)| *p) {
        Ok(at) => answer.ends[at].1,
        Err(_) => Seq(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, GroupId, Incarnation, RestartGeneration};
    use crate::roster::Roster;
    use crate::view::ClusterConfig;

    fn node(id: u16) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn proposal(attempt: u64, president: u16) -> ProposalId {
        ProposalId { number: ViewNumber(2), attempt, president: node(president) }
    }

    fn dropping(failed: &[u16]) -> ViewChange {
        ViewChange { failed: failed.iter().copied().map(node).collect(), ..Default::default() }
    }

    /// One group of three; partition 0 is led by node 1, partition 1 by node 2.
    fn view() -> View {
        let member = |id| Member {
            instance: node(id),
            group: GroupId(0),
            zone: String::new(),
            addr: String::new(),
            shards: 1,
            seniority: u64::from(id),
            standing: Standing::InSync,
        };
        let placement = |primary: u16, second: u16, third: u16| Placement {
            group: GroupId(0),
            local_index: primary - 1,
            primary: NodeId(primary),
            replicas: vec![NodeId(primary), NodeId(second), NodeId(third)],
            joining: Vec::new(),
            to: None,
        };
        View {
            cluster: ClusterId(1),
            number: ViewNumber(1),
            config: ClusterConfig::default(),
            roster: Roster::of(&[member(1), member(2), member(3)]),
            members: vec![member(1), member(2), member(3)],
            placements: vec![placement(1, 2, 3), placement(2, 3, 1)],
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            configured: crate::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: Epoch(4),
            restart_generation: RestartGeneration(0),
            cuts: Vec::new(),
        }
    }

    fn answer(ends: &[u64], seal: u64) -> Answer {
        let ends = (0..).zip(ends).map(|(p, end)| (PartitionId(p), Seq(*end))).collect();
        Answer { ends, seal: Epoch(seal), ..Default::default() }
    }

    #[test]
    fn a_member_answers_upwards_and_remembers_each_presidents_highest() {
        let mut book = AnswerBook::default();
        book.answer(proposal(1, 1), &dropping(&[3]));
        assert_eq!(book.judge(proposal(1, 1)), Judgement::Same);
        assert_eq!(book.judge(proposal(1, 2)), Judgement::Higher);
        book.answer(proposal(2, 1), &dropping(&[3, 4]));
        book.answer(proposal(2, 2), &dropping(&[1]));
        assert_eq!(book.judge(proposal(2, 1)), Judgement::Lower(proposal(2, 2)));
        let beside = book.beside(proposal(2, 2));
        assert_eq!(beside.len(), 1);
        assert_eq!(beside[0].proposal, proposal(2, 1));
        assert_eq!(book.refused(), vec![node(1), node(3), node(4)]);
        book.clear();
        assert_eq!(book.judge(proposal(1, 1)), Judgement::Higher);
    }

    #[test]
    fn the_longest_log_leads_and_of_equals_the_preferred() {
        let view = view();
        let mut collection = Collection::new(proposal(1, 2), dropping(&[1]), &view);
        assert!(collection.add(node(2), answer(&[7, 5], 3)));
        assert!(!collection.is_complete());
        assert!(collection.add(node(3), answer(&[8, 9], 6)));
        assert!(!collection.add(node(3), answer(&[0, 0], 9)), "repeated");
        assert!(!collection.add(node(1), answer(&[99, 99], 9)), "not asked");
        assert!(collection.is_complete());
        let next = collection.next_view(&view);
        assert_eq!(next.number, ViewNumber(2));
        assert_eq!(next.placements[0].primary, NodeId(3), "has more");
        assert_eq!(next.placements[0].replicas, vec![NodeId(2), NodeId(3)]);
        assert_eq!(next.placements[1].primary, NodeId(2), "a living primary stays");
        assert_eq!(next.seal, Epoch(6));
        let mut equal = Collection::new(proposal(1, 2), dropping(&[1]), &view);
        equal.add(node(2), answer(&[7, 5], 3));
        equal.add(node(3), answer(&[7, 5], 3));
        let next = equal.next_view(&view);
        assert_eq!(next.placements[0].primary, NodeId(2));
        assert_eq!(next.seal, Epoch(4), "the view's own");
    }

    #[test]
    fn a_member_comes_back_step_by_step_and_not_while_another_goes() {
        let view = changed(&view(), ViewNumber(2), &dropping(&[1]));
        assert_eq!(view.placements[0].replicas, vec![NodeId(2), NodeId(3)]);
        let life = NodeInstance { incarnation: Incarnation(2), ..node(1) };
        let seniority = 4;
        let member =
            Member { instance: life, seniority, ..super::tests::view().members[0].clone() };
        let admitted = ViewChange { admitted: vec![member], ..Default::default() };
        let view = changed(&view, ViewNumber(3), &admitted);
        assert_eq!(view.members[0].standing, Standing::Copying);
        assert_eq!(view.placements[0].joining, vec![NodeId(1)]);
        assert_eq!(view.placements[0].replicas, vec![NodeId(2), NodeId(3)]);
        let promoted = ViewChange { promoted: vec![life], ..Default::default() };
        assert_eq!(changed(&view, ViewNumber(4), &promoted).members, view.members, "not yet");
        let attached = ViewChange { attached: vec![life], ..Default::default() };
        let view = changed(&view, ViewNumber(4), &attached);
        assert_eq!(view.members[0].standing, Standing::Attached);
        assert_eq!(view.placements[0].joining, vec![NodeId(1)]);
        let both = ViewChange { promoted: vec![life], ..dropping(&[3]) };
        let next = changed(&view, ViewNumber(5), &both);
        assert_eq!(next.members[0].standing, Standing::Attached, "somebody goes");
        let moved = vec![(PartitionId(0), NodeId(1))];
        let promoted = ViewChange { moved, ..promoted };
        let next = changed(&view, ViewNumber(5), &promoted);
        assert_eq!(next.placements[0].replicas, vec![NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(next.placements[1].replicas, vec![NodeId(2), NodeId(3), NodeId(1)]);
        assert!(next.placements.iter().all(|p| p.joining.is_empty()));
        assert_eq!(next.placements[0].primary, NodeId(1), "moved");
    }

    #[test]
    fn rivals_are_other_proposals_to_follow_the_same_view() {
        let view = view();
        let mut collection = Collection::new(proposal(3, 2), dropping(&[1]), &view);
        let rival = AnsweredProposal { proposal: proposal(1, 1), change: dropping(&[3]) };
        let higher = ProposalId { number: ViewNumber(3), ..proposal(1, 3) };
        let other = AnsweredProposal { proposal: higher, change: dropping(&[2]) };
        for id in [2, 3] {
            let answered = vec![rival.clone(), other.clone()];
            collection.add(node(id), Answer { answered, ..Default::default() });
        }
        assert_eq!(collection.rivals(), vec![rival, other]);
    }

    #[test]
    fn two_presidents_never_make_views_of_one_number() {
        let base = ViewNumber(1);
        let mut book = AnswerBook::default();
        assert_eq!(book.next(base, ViewNumber(0), node(2)), proposal(1, 2));
        book.answer(proposal(1, 2), &dropping(&[3]));
        assert_eq!(book.next(base, ViewNumber(0), node(2)), proposal(2, 2), "its own: once more");
        let other = book.next(base, ViewNumber(0), node(1));
        assert_eq!(other, ProposalId { number: ViewNumber(3), ..proposal(1, 1) });
        let told = book.next(base, ViewNumber(5), node(2));
        assert_eq!(told.number, ViewNumber(6), "what others told counts too");
        assert!(book.judge(other) == Judgement::Higher && book.judge(told) == Judgement::Higher);
    }

    #[test]
    fn a_leaving_member_is_asked_but_not_waited_for() {
        let view = view();
        let change = ViewChange { leaving: vec![node(3)], ..dropping(&[3]) };
        let mut collection = Collection::new(proposal(1, 1), change, &view);
        assert_eq!(collection.unanswered().collect::<Vec<_>>(), vec![node(1), node(2), node(3)]);
        collection.add(node(1), answer(&[1, 1], 0));
        collection.add(node(2), answer(&[1, 1], 0));
        assert!(collection.is_complete());
        assert!(collection.left().is_empty());
        collection.add(node(3), answer(&[1, 1], 0));
        assert_eq!(collection.left(), vec![node(3)]);
    }
}
