//! May this side of a failure go on? The five rules, as a function without memory.
//!
//! When nodes are missing, the rest cannot know whether they are dead or merely cut off and
//! asking themselves the same question. The rules compare the survivors with the members of a view
//! and are made so that two disjoint sides can never both go on: a side that holds a whole node
//! group leaves the other without that group; two majorities overlap; everything else is settled by
//! the arbitrator, who says yes once.
//!
//! Counting against one view is not enough. While a view change is under way the other side may
//! already act in the proposed view, so a side must pass against the view it acts in *and* against
//! every later proposal one of its nodes has answered; the strictest result holds.
//!
//! Invariant: for any two disjoint sides that count against a common view, at most one gets
//! [`Survival::GoOn`], and none does if the other got [`Survival::Ask`] and was granted.
//! `tests/split_enumeration.rs` tries every split of small clusters.

use std::fmt;

use crate::canary::Canary;
use crate::ids::{GroupId, NodeId, NodeInstance};
use crate::limits::REPLICAS_MAX;
use crate::view::{Standing, View};

/// What the rules need to know of a view or proposal: who counts, and what must not be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counted {
    members: Vec<(NodeInstance, GroupId)>,
    owners: Vec<GroupId>,
}

/// The answer of the rules. Ordered: a later one is stricter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Survival {
    /// This side goes on without asking anybody.
    GoOn,
    /// This side may go on if the arbitrator grants it; without its answer it shuts down.
    Ask,
    /// This side must stop.
    ShutDown(Cause),
}

/// Why a side must stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// Rule 1: nobody is left who has this group's partitions.
    GroupLost(GroupId),
    /// Rule 4: the others could be enough to go on by themselves.
    TooFew {
        /// Members on this side.
        here: usize,
        /// Members of the view.
        members: usize,
        /// Members that are not here and not known to be dead.
        perhaps_alive: usize,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GroupLost(group) => write!(f, "no node of node group {group} is left"),
            Self::TooFew { here, members, perhaps_alive } => write!(
                f,
                "only {here} of {members} members are here and {perhaps_alive} others may be \
                 going on without them"
            ),
        }
    }
}

impl Counted {
    /// The counting side of a view: a member counts if it is an in-sync replica of every
    /// partition of its group; a group that owns no partition cannot be lost.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let mut owners: Vec<GroupId> = view.placements.iter().map(|p| p.group).collect();
        owners.sort_unstable();
        owners.dedup();
        let in_sync = |node, group| {
            view.placements.iter().filter(|p| p.group == group).all(|p| p.replicas.contains(&node))
        };
        let members = view
            .members
            .iter()
            .filter(|m| m.standing == Standing::InSync && in_sync(m.instance.node, m.group))
            .map(|m| (m.instance, m.group))
            .collect();
        Self { members, owners }
    }

    /// For views that exist only as member sets: `members` with their groups, and the groups that
    /// own partitions.
    #[must_use]
    pub fn new(members: Vec<(NodeInstance, GroupId)>, owners: Vec<GroupId>) -> Self {
        Self { members, owners }
    }

    /// Applies the rules to one view: `survivors` are here, `dead` are known to be dead (evidence,
    /// not silence) and died before they could have taken part in another side's view.
    ///
    /// A minority may ask only if nobody else lives: the dead may have answered a living one first,
    /// and the two together went on by rule 2 or 3 without asking.
    fn judge(&self, survivors: &[NodeInstance], dead: &[NodeInstance]) -> Survival {
        let is_here = |member: NodeInstance| survivors.contains(&member);
        if let Some(lost) = self.groups_without(is_here).next() {
            return Survival::ShutDown(Cause::GroupLost(lost));
        }
        let is_missing = |member| !is_here(member);
        if self.groups_without(is_missing).next().is_some() {
            return Survival::GoOn;
        }
        let members = self.members.len();
        let here = self.count(is_here);
        if here * 2 > members {
            return Survival::GoOn;
        }
        let perhaps_alive = self.count(|m| is_missing(m) && !dead.contains(&m));
        if here * 2 == members || perhaps_alive == 0 {
            return Survival::Ask;
        }
        Survival::ShutDown(Cause::TooFew { here, members, perhaps_alive })
    }

    /// The groups that own partitions and have no member for which `test` holds.
    fn groups_without(&self, test: impl Fn(NodeInstance) -> bool) -> impl Iterator<Item = GroupId> {
        let has = move |group| self.members.iter().any(|(m, g)| *g == group && test(*m));
        self.owners.iter().copied().filter(move |group| !has(*group))
    }

    fn count(&self, test: impl Fn(NodeInstance) -> bool) -> usize {
        self.members.iter().filter(|(m, _)| test(*m)).count()
    }
}

/// How many more losses a cluster survives, by the rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outlook {
    /// Data nodes, one after the other, whichever they are.
    pub nodes: usize,
    /// Zones, each with all its nodes at once, one after the other, whichever they are. Zero if
    /// there is only one.
    pub zones: usize,
    /// Single nodes whose loss would end it, and why.
    pub fatal_nodes: Vec<(NodeId, String)>,
    /// Single zones whose loss would end it, and why.
    pub fatal_zones: Vec<(String, String)>,
}

/// A set of members that is lost at once.
type Loss = Vec<NodeInstance>;

/// Tries every next loss, every loss after that, and so on. Nobody is taken to be known dead, which
/// is how a machine goes; `arbitrated`: an arbitrator would answer.
#[must_use]
pub fn outlook(view: &View, arbitrated: bool) -> Outlook {
    let counted = Counted::of(view);
    let node = |m: &(NodeInstance, GroupId)| vec![m.0];
    let nodes: Vec<Loss> = counted.members.iter().map(node).collect();
    let zone_of = |m: &NodeInstance| view.member(m.node).map_or("", |member| &member.zone);
    let mut names: Vec<&str> = counted.members.iter().map(|(m, _)| zone_of(m)).collect();
    names.sort_unstable();
    names.dedup();
    let in_zone = |name: &&str| -> Loss {
        let all = counted.members.iter().map(|(m, _)| *m);
        all.filter(|m| zone_of(m) == *name).collect()
    };
    let zones: Vec<Loss> =
        if names.len() > 1 { names.iter().map(in_zone).collect() } else { vec![] };
    // As many as a group has replicas end it; with many zones two are enough to look at.
    let zones_deep = if zones.len() > REPLICAS_MAX { 2 } else { REPLICAS_MAX };
    let ends = |loss: &Loss| counted.ends_by(loss, arbitrated);
    Outlook {
        nodes: counted.survives(&counted.one_of_each_group(), arbitrated, &nodes, REPLICAS_MAX),
        zones: counted.survives(&zones, arbitrated, &zones, zones_deep),
        fatal_nodes: nodes.iter().filter_map(|n| Some((n.first()?.node, ends(n)?))).collect(),
        fatal_zones: names
            .iter()
            .zip(&zones)
            .filter_map(|(name, loss)| Some(((*name).to_owned(), ends(loss)?)))
            .collect(),
    }
}

impl Counted {
    /// Why a loss ends the cluster; `None` if it does not.
    fn ends_by(&self, lost: &[NodeInstance], arbitrated: bool) -> Option<String> {
        let members = self.members.iter().map(|(m, _)| *m);
        let here: Vec<NodeInstance> = members.filter(|m| !lost.contains(m)).collect();
        match self.judge(&here, &[]) {
            Survival::GoOn => None,
            Survival::Ask if arbitrated => None,
            Survival::Ask => Some("half would be left, and no arbitrator answers".to_owned()),
            Survival::ShutDown(cause) => Some(cause.to_string()),
        }
    }

    /// What is left after a loss that was survived.
    fn without(&self, lost: &[NodeInstance]) -> Self {
        let members = self.members.iter().filter(|(m, _)| !lost.contains(m)).copied().collect();
        Self { members, owners: self.owners.clone() }
    }

    /// One member of each size of group: for how many nodes may go it does not matter which of
    /// them, or which group of that size, goes first.
    fn one_of_each_group(&self) -> Vec<Loss> {
        let size = |group| self.members.iter().filter(|(_, g)| *g == group).count();
        let mut sizes = Vec::new();
        let mut chosen = Vec::new();
        for (member, group) in &self.members {
            let of = (size(*group), self.owners.contains(group));
            if !sizes.contains(&of) {
                sizes.push(of);
                chosen.push(vec![*member]);
            }
        }
        chosen
    }

    /// The most losses in a row that are survived whichever they are. `next` are the losses to try
    /// first; `all` those there are. Ends after `depth` losses.
    fn survives(&self, next: &[Loss], arbitrated: bool, all: &[Loss], depth: usize) -> usize {
        if depth == 0 {
            return 0;
        }
        let alone = all.iter().all(|loss| loss.len() == 1);
        let after = |lost: &Loss| {
            if self.ends_by(lost, arbitrated).is_some() {
                return 0;
            }
            let left = self.without(lost);
            let rest: Vec<Loss> = all.iter().filter(|loss| *loss != lost).cloned().collect();
            let next = if alone { left.one_of_each_group() } else { rest.clone() };
            1 + left.survives(&next, arbitrated, &rest, depth - 1)
        };
        next.iter().map(after).min().unwrap_or_default()
    }
}

/// May `survivors` go on? `counted` holds the view they act in and every later proposal one of them
/// has answered; `dead` are missing members whose process is known to be dead, found out while one
/// of them still had promised this side not to act without it. Ask only when every
/// survivor has answered, so that the side asked for is final.
///
/// # Panics
/// If `counted` is empty: without a view there is nothing to survive.
#[must_use]
pub fn survival(
    counted: &[Counted],
    survivors: &[NodeInstance],
    dead: &[NodeInstance],
    canary: Option<Canary>,
) -> Survival {
    assert!(!counted.is_empty(), "a side always counts against the view it acts in");
    let strictest = counted.iter().map(|view| view.judge(survivors, dead)).max();
    match strictest.expect("checked not empty") {
        Survival::ShutDown(Cause::TooFew { .. }) if canary == Some(Canary::MinorityGoesOn) => {
            Survival::GoOn
        }
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    fn node(id: u16) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn nodes(ids: &[u16]) -> Vec<NodeInstance> {
        ids.iter().copied().map(node).collect()
    }

    /// A view whose groups have these nodes; all of them own partitions.
    fn groups(groups: &[&[u16]]) -> Counted {
        let number = |index: usize| GroupId(u16::try_from(index).expect("small"));
        let members = groups
            .iter()
            .enumerate()
            .flat_map(|(g, ids)| ids.iter().map(move |id| (node(*id), number(g))))
            .collect();
        Counted::new(members, (0..groups.len()).map(number).collect())
    }

    fn check(view: &Counted, survivors: &[u16], dead: &[u16], expected: Survival) {
        let counted = std::slice::from_ref(view);
        assert_eq!(survival(counted, &nodes(survivors), &nodes(dead), None), expected);
    }

    #[test]
    fn rule_1_a_lost_group_ends_everything() {
        let view = groups(&[&[1, 2], &[3, 4]]);
        check(&view, &[1, 2], &[3, 4], Survival::ShutDown(Cause::GroupLost(GroupId(1))));
    }

    #[test]
    fn rules_2_and_3_a_whole_group_or_a_majority_goes_on() {
        let view = groups(&[&[1, 2], &[3, 4]]);
        check(&view, &[1, 2, 3], &[], Survival::GoOn);
        let view = groups(&[&[1, 2, 3], &[4, 5, 6]]);
        check(&view, &[1, 2, 4, 5], &[], Survival::GoOn);
    }

    #[test]
    fn rule_4_a_minority_asks_only_when_all_others_are_known_dead() {
        let view = groups(&[&[1, 2, 3]]);
        let too_few = |perhaps_alive| Cause::TooFew { here: 1, members: 3, perhaps_alive };
        check(&view, &[1], &[], Survival::ShutDown(too_few(2)));
        // Node 3 may have gone on with the answer that node 2 gave before it died.
        check(&view, &[1], &[2], Survival::ShutDown(too_few(1)));
        check(&view, &[1], &[2, 3], Survival::Ask);
    }

    #[test]
    fn rule_5_half_asks_even_when_the_others_are_known_dead() {
        let view = groups(&[&[1, 2]]);
        check(&view, &[1], &[], Survival::Ask);
        check(&view, &[1], &[2], Survival::Ask);
    }

    #[test]
    fn a_group_without_partitions_neither_saves_nor_kills() {
        let members = vec![(node(1), GroupId(0)), (node(2), GroupId(0)), (node(3), GroupId(1))];
        let view = Counted::new(members, vec![GroupId(0)]);
        check(&view, &[1, 2], &[], Survival::GoOn);
        let too_few = Cause::TooFew { here: 1, members: 3, perhaps_alive: 2 };
        check(&view, &[1], &[], Survival::ShutDown(too_few));
    }

    #[test]
    fn the_strictest_of_all_counted_views_holds() {
        let acted = groups(&[&[1, 2], &[3, 4]]);
        let proposed = groups(&[&[1, 2, 5], &[3, 4]]);
        let side = nodes(&[2, 4]);
        assert_eq!(survival(std::slice::from_ref(&acted), &side, &[], None), Survival::Ask);
        let verdict = survival(&[acted, proposed], &side, &[], None);
        assert!(matches!(verdict, Survival::ShutDown(Cause::TooFew { .. })), "{verdict:?}");
    }

    #[test]
    fn another_life_of_a_member_does_not_count() {
        let view = groups(&[&[1, 2]]);
        let restarted = NodeInstance { node: NodeId(1), incarnation: Incarnation(2) };
        let verdict = survival(&[view], &[restarted], &[], None);
        assert_eq!(verdict, Survival::ShutDown(Cause::GroupLost(GroupId(0))));
    }

    fn losses(view: &Counted, arbitrated: bool) -> usize {
        let nodes: Vec<Loss> = view.members.iter().map(|(m, _)| vec![*m]).collect();
        view.survives(&view.one_of_each_group(), arbitrated, &nodes, REPLICAS_MAX)
    }

    #[test]
    fn how_many_may_go_is_tried_out() {
        // A pair needs an arbitrator for its first loss; more replicas only for the last.
        let pair = groups(&[&[1, 2]]);
        assert_eq!((losses(&pair, true), losses(&pair, false)), (1, 0));
        let three = groups(&[&[1, 2, 3]]);
        assert_eq!((losses(&three, true), losses(&three, false)), (2, 1));
        // Another group that lost nobody, or a majority, needs none.
        let two_by_two = groups(&[&[1, 2], &[3, 4]]);
        assert_eq!((losses(&two_by_two, true), losses(&two_by_two, false)), (1, 1));
        let uneven = groups(&[&[1, 2, 3], &[4]]);
        assert_eq!(losses(&uneven, true), 0);
        let many: Vec<Vec<u16>> = (0..36).map(|g| (g * 4 + 1..=g * 4 + 4).collect()).collect();
        let many: Vec<&[u16]> = many.iter().map(Vec::as_slice).collect();
        assert_eq!(losses(&groups(&many), false), 3);
        assert!(two_by_two.ends_by(&nodes(&[1, 3]), false).is_some());
        assert_eq!(two_by_two.ends_by(&nodes(&[1, 3]), true), None);
        assert!(two_by_two.ends_by(&nodes(&[1, 2]), true).is_some());
    }

    #[test]
    fn the_canary_lets_a_minority_go_on() {
        let view = groups(&[&[1, 2, 3]]);
        let verdict = survival(&[view], &nodes(&[1]), &[], Some(Canary::MinorityGoesOn));
        assert_eq!(verdict, Survival::GoOn);
    }
}
