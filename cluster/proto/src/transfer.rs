//! Partitions that move to another node group: which one is next, the steps it takes, and when it
//! is given up.
//!
//! ```text
//!  (at home) ──Begin──▶ copying ──Attach──▶ attached ──HandOver──▶ (at home, elsewhere)
//!      ▲                   │                   │
//!      └───────────────────┴───────────────────┘ somebody of the two groups is not in sync
//! ```
//! Each step is a change of view, made by the president while nothing else is wrong. One partition
//! moves at a time, and only between node groups of which everybody who has a seat is in sync: who
//! is away knows of no moves when it comes back but of those in the view that it comes back to.
//!
//! Invariant: a partition belongs to the group its placement names, and to no other, until a view
//! hands it over; nothing that happens on the way changes who owns it.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, PartitionId};
use crate::view::{Member, Placement, Standing, Transfer, View};

/// A step of a partition that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TransferStep {
    /// The nodes of the other group receive its log from now on, and are copied to.
    Begin {
        /// Which.
        partition: PartitionId,
        /// Whither.
        group: GroupId,
    },
    /// They have all rows: what is stable is stable with them.
    Attach {
        /// Which.
        partition: PartitionId,
    },
    /// They have everything that was ever acknowledged: it is theirs.
    HandOver {
        /// Which.
        partition: PartitionId,
    },
}

impl View {
    /// The partition that moves, and whither.
    #[must_use]
    pub fn moving(&self) -> Option<(PartitionId, Transfer)> {
        let mut placed = self.partitions().zip(&self.placements);
        placed.find_map(|(partition, placement)| Some((partition, placement.to?)))
    }

    /// The partition that moves to a node group.
    #[must_use]
    pub fn moving_to(&self, group: GroupId) -> Option<(PartitionId, Transfer)> {
        self.moving().filter(|(_, to)| to.group == group)
    }

    /// Whether a step can be taken in this view.
    #[must_use]
    pub fn can_transfer(&self, step: TransferStep) -> bool {
        let to = |partition| {
            let placement = self.placement(partition)?;
            placement.to.filter(|to| self.may_exchange(placement.group, to.group))
        };
        match step {
            TransferStep::Begin { partition, group } => {
                let from = self.placement(partition).map(|placement| placement.group);
                self.moving().is_none()
                    && from.is_some_and(|from| from != group && self.may_exchange(from, group))
            }
            TransferStep::Attach { partition } => to(partition).is_some_and(|to| !to.attached),
            TransferStep::HandOver { partition } => to(partition).is_some_and(|to| to.attached),
        }
    }

    /// Takes a step, if it can be taken.
    pub(crate) fn transfer(&mut self, step: TransferStep) {
        if !self.can_transfer(step) {
            return;
        }
        let (TransferStep::Begin { partition, .. }
        | TransferStep::Attach { partition }
        | TransferStep::HandOver { partition }) = step;
        let local_index = match step {
            TransferStep::Begin { group, .. } => self.free_index(group),
            TransferStep::Attach { .. } | TransferStep::HandOver { .. } => 0,
        };
        let Some(placement) = self.placements.get_mut(usize::from(partition.0)) else { return };
        match (step, &mut placement.to) {
            (TransferStep::Begin { group, .. }, to) => {
                *to = Some(Transfer { group, local_index, attached: false });
            }
            (TransferStep::Attach { .. }, Some(to)) => to.attached = true,
            (TransferStep::HandOver { .. }, to @ Some(_)) => {
                let Some(Transfer { group, local_index, .. }) = to.take() else { return };
                (placement.group, placement.local_index) = (group, local_index);
                // Whoever is in sync there holds it from now on.
                placement.replicas.clear();
            }
            (TransferStep::Attach { .. } | TransferStep::HandOver { .. }, None) => {}
        }
    }

    /// Gives up what cannot go on, forgets groups that are gone, and ends a rebalancing that has
    /// nothing left to do.
    pub(crate) fn settle_transfers(&mut self) {
        let moving = self.moving();
        if let Some((partition, to)) = moving
            && let Some(from) = self.placement(partition).map(|placement| placement.group)
            && !self.may_exchange(from, to.group)
        {
            self.placements[usize::from(partition.0)].to = None;
        }
        let there: Vec<GroupId> = self.node_groups();
        self.roster.dropped.retain(|group| there.contains(group));
        if self.roster.rebalance && self.is_balanced() {
            self.roster.rebalance = false;
        }
    }

    /// Whether partitions may move between these groups: everybody who has a seat in one of them is
    /// in sync, and partitions are to be there.
    fn may_exchange(&self, from: GroupId, to: GroupId) -> bool {
        let in_sync = |m: &Member| m.group == to && m.standing == Standing::InSync;
        self.is_complete(from)
            && self.is_complete(to)
            && self.members.iter().any(in_sync)
            && self.roster.of_group(to).next().is_some()
            && !self.roster.dropped.contains(&to)
    }

    /// The place that a partition gets in a node group: of those that are free one at the shard
    /// that has the fewest, and of these the first.
    fn free_index(&self, group: GroupId) -> u16 {
        let taken: Vec<u16> = self.held_by(group).into_iter().map(|(_, index)| index).collect();
        let shards = self.shards_of(group);
        let last = u16::try_from(taken.len()).unwrap_or(u16::MAX).saturating_add(shards);
        let free = (0..=last).filter(|index| !taken.contains(index));
        let held = |index: &u16| taken.iter().filter(|t| **t % shards == index % shards).count();
        free.min_by_key(|index| (held(index), *index)).unwrap_or(last)
    }

    fn shards_of(&self, group: GroupId) -> u16 {
        let members = self.members.iter().filter(|m| m.group == group);
        members.map(|m| m.shards).max().unwrap_or(1).max(1)
    }

    /// How many partitions a node group owns.
    #[must_use]
    pub fn owned_by(&self, group: GroupId) -> usize {
        self.placements.iter().filter(|placement| placement.group == group).count()
    }

    /// The node groups that may own partitions.
    fn keepers(&self) -> Vec<GroupId> {
        let mut groups = self.node_groups();
        groups.retain(|group| {
            !self.roster.dropped.contains(group) && self.roster.of_group(*group).next().is_some()
        });
        groups
    }

    /// Whether all partitions are where they should be: nothing is owned by a group that is to own
    /// nothing, and no two others differ by more than one partition.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let keepers = self.keepers();
        let owned = || keepers.iter().map(|group| self.owned_by(*group));
        let even = owned().max().unwrap_or(0) <= owned().min().unwrap_or(0) + 1;
        even && self.placements.iter().all(|placement| keepers.contains(&placement.group))
    }

    /// Whether partitions are on their way to where they should be, or wait for somebody who is
    /// away: something moves, or is to move, be it only out of a group that is to own nothing.
    #[must_use]
    pub fn is_rebalancing(&self) -> bool {
        let leaves = || {
            let keepers = self.keepers();
            self.placements.iter().any(|placement| !keepers.contains(&placement.group))
        };
        self.moving().is_some() || (!self.is_balanced() && (self.moves_by_itself() || leaves()))
    }

    /// Whether partitions move to where fewer are.
    fn moves_by_itself(&self) -> bool {
        !self.roster.manual || self.roster.rebalance
    }

    /// How many partitions a node group should own. Where the number does not come out even, those
    /// that have more keep it.
    #[must_use]
    pub fn share_of(&self, group: GroupId) -> usize {
        let keepers = self.keepers();
        if !keepers.contains(&group) {
            return 0;
        }
        let all = self.placements.len();
        let least = all / keepers.len();
        let most = all.div_ceil(keepers.len());
        self.owned_by(group).clamp(least, most)
    }

    /// Which partition should begin to move now, and whither: from a group that is to own nothing,
    /// else from the one that has the most, to the one that has the fewest.
    #[must_use]
    pub fn next_transfer(&self) -> Option<TransferStep> {
        if self.moving().is_some() || self.is_balanced() {
            return None;
        }
        let keepers = self.keepers();
        let leaves = |group: &GroupId| !keepers.contains(group);
        let free = self.moves_by_itself();
        let mut from: Vec<GroupId> = self.owners();
        from.retain(|group| leaves(group) || free);
        // Where most is to be done comes first; a group of which somebody is away is passed over.
        from.sort_by_key(|group| (!leaves(group), usize::MAX - self.owned_by(*group), *group));
        for source in from {
            let fits = |group: &&GroupId| **group != source && self.may_exchange(source, **group);
            let fewest = keepers.iter().filter(fits).min_by_key(|g| (self.owned_by(**g), **g));
            let Some(group) = fewest.copied() else { continue };
            if leaves(&source) || self.owned_by(source) > self.owned_by(group) + 1 {
                return Some(TransferStep::Begin { partition: self.spared_by(source)?, group });
            }
        }
        None
    }

    /// The partition that a group gives away first: of the shard that has the most the last.
    fn spared_by(&self, group: GroupId) -> Option<PartitionId> {
        let (held, shards) = (self.held_by(group), self.shards_of(group));
        let of_shard = |at: u16| held.iter().filter(|(_, i)| i % shards == at % shards).count();
        let last = held.iter().max_by_key(|(_, index)| (of_shard(*index), *index));
        last.map(|(partition, _)| *partition)
    }
}

/// Whether a node is to have all rows of a partition for it to move on.
#[must_use]
pub fn receives(placement: &Placement, member: &Member) -> bool {
    placement.to.is_some_and(|to| to.group == member.group && member.standing == Standing::InSync)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::changed;
    use crate::ids::{NodeId, ViewNumber};
    use crate::orders::Order;
    use crate::orders::tests::{view, with_spare};
    use crate::wire::control::ViewChange;

    /// Two groups, all four partitions at the first; nodes 3 and 4 are the second.
    fn grown() -> View {
        let mut view = with_spare(with_spare(view(&[&[1, 2]]), 3, "a"), 4, "b");
        let first = view.placements[0].clone();
        view.placements = (0..4)
            .map(|at| {
                let mut placement = first.clone();
                placement.local_index = at;
                placement
            })
            .collect();
        view.obey(&Order::CreateGroup { nodes: vec![NodeId(3), NodeId(4)] });
        for member in &mut view.members {
            member.standing = Standing::InSync;
        }
        view
    }

    fn step(view: &View, step: TransferStep) -> View {
        let change = ViewChange { transfer: Some(step), ..ViewChange::default() };
        changed(view, ViewNumber(view.number.0 + 1), &change)
    }

    /// All three steps of whatever is next.
    fn moved(view: &View) -> Option<View> {
        let begin @ TransferStep::Begin { partition, .. } = view.next_transfer()? else {
            return None;
        };
        let view = step(view, begin);
        let view = step(&view, TransferStep::Attach { partition });
        Some(step(&view, TransferStep::HandOver { partition }))
    }

    #[test]
    fn a_partition_moves_in_three_steps_and_belongs_to_one_group_all_the_time() {
        let view = grown();
        let group = GroupId(2);
        let begin = TransferStep::Begin { partition: PartitionId(3), group };
        assert_eq!(view.next_transfer(), Some(begin));
        let copying = step(&view, begin);
        let placement = &copying.placements[3];
        assert_eq!((placement.group, placement.primary), (GroupId(1), NodeId(1)));
        assert_eq!(placement.joining, [NodeId(3), NodeId(4)]);
        assert_eq!(copying.shard_of(PartitionId(3), NodeId(3)).map(|at| at.shard.0), Some(0));
        assert!(!copying.counts_for(placement, NodeId(3)));
        assert!(!copying.can_transfer(TransferStep::HandOver { partition: PartitionId(3) }));
        assert_eq!(copying.next_transfer(), None, "one at a time");
        let attached = step(&copying, TransferStep::Attach { partition: PartitionId(3) });
        assert!(attached.counts_for(&attached.placements[3], NodeId(3)));
        assert_eq!(attached.placements[3].replicas, [NodeId(1), NodeId(2)]);
        let there = step(&attached, TransferStep::HandOver { partition: PartitionId(3) });
        let placement = &there.placements[3];
        assert_eq!((placement.group, placement.local_index), (group, 0));
        assert_eq!(placement.replicas, [NodeId(3), NodeId(4)]);
        assert_eq!((placement.primary, &placement.joining[..]), (NodeId(3), &[][..]));
        assert_eq!(placement.to, None);
    }

    #[test]
    fn shares_become_even_and_a_dropped_group_empty() {
        let mut view = grown();
        while let Some(next) = moved(&view) {
            view = next;
        }
        assert_eq!((view.owned_by(GroupId(1)), view.owned_by(GroupId(2))), (2, 2));
        view.obey(&Order::DropGroup { group: GroupId(1) });
        while let Some(next) = moved(&view) {
            view = next;
        }
        assert_eq!(view.owned_by(GroupId(2)), 4);
        let mut places: Vec<u16> = view.placements.iter().map(|p| p.local_index).collect();
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3]);
    }

    #[test]
    fn whoever_is_missing_ends_a_move_and_begins_none() {
        let view = grown();
        let copying = step(&view, view.next_transfer().expect("something to move"));
        for gone in [1, 4] {
            let failed: Vec<_> = copying.members.iter().map(|m| m.instance).collect();
            let failed = failed.into_iter().filter(|life| life.node == NodeId(gone)).collect();
            let change = ViewChange { failed, ..ViewChange::default() };
            let next = changed(&copying, ViewNumber(9), &change);
            assert_eq!((next.moving(), next.next_transfer()), (None, None), "without {gone}");
            assert!(next.placements[3].joining.is_empty());
        }
    }

    #[test]
    fn a_change_that_drops_somebody_hands_nothing_over() {
        let view = grown();
        let copying = step(&view, view.next_transfer().expect("something to move"));
        let attached = step(&copying, TransferStep::Attach { partition: PartitionId(3) });
        let change = ViewChange {
            failed: vec![attached.members[1].instance],
            transfer: Some(TransferStep::HandOver { partition: PartitionId(3) }),
            ..ViewChange::default()
        };
        let next = changed(&attached, ViewNumber(9), &change);
        assert_eq!(next.placements[3].group, GroupId(1));
    }

    #[test]
    fn by_hand_nothing_moves_before_it_is_said() {
        let mut view = grown();
        view.obey(&Order::Automatic { on: false });
        assert_eq!(view.next_transfer(), None);
        view.obey(&Order::Rebalance);
        assert!(view.obeys(&Order::Rebalance) && view.next_transfer().is_some());
        while let Some(next) = moved(&view) {
            view = next;
        }
        assert!(view.is_balanced() && !view.roster.rebalance);
    }
}
