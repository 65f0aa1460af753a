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
use crate::ids::{GroupId, NodeInstance};
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

    #[test]
    fn the_canary_lets_a_minority_go_on() {
        let view = groups(&[&[1, 2, 3]]);
        let verdict = survival(&[view], &nodes(&[1]), &[], Some(Canary::MinorityGoesOn));
        assert_eq!(verdict, Survival::GoOn);
    }
}
