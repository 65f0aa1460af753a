//! Orders: what operators want the roster of a cluster to be.
//!
//! An order names a state, not a step, so it may be given any number of times. Whoever gives it
//! repeats it until a view shows it; the president carries it out by a view change. What is refused
//! and why is a function of the view, so the command line says the same as the president does.
//!
//! Invariant: no order takes the seat of the last node in sync of a node group.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId};
use crate::limits::{ADDR_BYTES_MAX, REPLICAS_MAX};
use crate::roster::Seat;
use crate::view::{Member, Placement, Standing, View};

/// What is wanted. See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// The node leads nothing while another replica can, or does so again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is drained.
        drained: bool,
    },
    /// The node does not belong to the cluster any more: it leaves, and never comes back.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// A spare becomes a replica of a node group.
    Join {
        /// The node.
        node: NodeId,
        /// The group.
        group: GroupId,
    },
    /// The node leaves its node group and is a spare from then on.
    Spare {
        /// The node.
        node: NodeId,
    },
    /// Replicas per partition. More: spares join the groups. Fewer: the surplus becomes spare.
    Replicas {
        /// How many.
        count: u16,
    },
    /// Replicas in this zone lead where they can; empty for none in particular.
    PrimaryZone {
        /// The zone.
        zone: String,
    },
    /// These spares become a node group of their own, which owns nothing yet.
    CreateGroup {
        /// In order.
        nodes: Vec<NodeId>,
    },
    /// A node group is to own nothing: its partitions move to others, then its nodes are spares.
    DropGroup {
        /// Which.
        group: GroupId,
    },
    /// Partitions move until all node groups have their share.
    Rebalance,
    /// Whether they do so by themselves.
    Automatic {
        /// Whether.
        on: bool,
    },
}

/// What a refusal rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ground {
    /// There is no such node.
    NoSuchNode,
    /// There is no such node group.
    NoSuchGroup,
    /// Who belongs where, or who is in sync.
    State,
}

/// Why an order cannot be carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What it rests on.
    pub ground: Ground,
    /// What is refused.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do now.
    pub then: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.then)
    }
}

fn refusal(what: String, why: impl Into<String>, then: impl Into<String>) -> Option<Refusal> {
    Some(Refusal { ground: Ground::State, what, why: why.into(), then: then.into() })
}

fn no_such_group(what: String) -> Option<Refusal> {
    let (why, then) = ("there is no such group".into(), "see `lockstep group list`".into());
    Some(Refusal { ground: Ground::NoSuchGroup, what, why, then })
}

impl View {
    /// Why an order cannot be carried out in this view; `None` if it can.
    #[must_use]
    pub fn refusal(&self, order: &Order) -> Option<Refusal> {
        match order {
            Order::Drain { node, .. } => self.unknown(*node),
            Order::Remove { node } => self.unknown(*node).or_else(|| {
                let what = format!("refusing to remove node {}", node.0);
                self.last_of_group(&[*node], &what)
            }),
            Order::Spare { node } => self.unknown(*node).or_else(|| {
                let what = format!("refusing to make node {} a spare", node.0);
                self.last_of_group(&[*node], &what)
            }),
            Order::Join { node, group } => self.unknown(*node).or_else(|| {
                let what = format!("refusing to put node {} into node group {}", node.0, group.0);
                let seat = self.roster.seat(*node)?;
                if !self.has_group(*group) {
                    return no_such_group(what);
                }
                if seat.group != GroupId::NONE && seat.group != *group {
                    let why = format!("it belongs to group {}", seat.group.0);
                    let then = format!("make it a spare first: `lockstep node spare {}`", node.0);
                    return refusal(what, why, then);
                }
                let full = self.roster.of_group(*group).count() >= REPLICAS_MAX;
                (full && seat.group != *group).then_some(())?;
                let why = format!("the group has {REPLICAS_MAX} nodes, and more are not possible");
                refusal(what, why, "remove one first")
            }),
            Order::Replicas { count } => {
                let possible = (1..=REPLICAS_MAX).contains(&usize::from(*count));
                (!possible).then_some(())?;
                let why = format!("a partition has 1 to {REPLICAS_MAX} replicas");
                refusal(format!("refusing {count} replicas"), why, "choose another number")
            }
            Order::PrimaryZone { zone } => {
                let known = zone.is_empty() || self.roster.seats.iter().any(|s| s.zone == *zone);
                (!known || zone.len() > ADDR_BYTES_MAX).then_some(())?;
                let what = format!("refusing to prefer zone {zone:?}");
                refusal(what, "no data node is in it", "see `lockstep node list`")
            }
            Order::CreateGroup { nodes } => self.refuse_group_of(nodes),
            Order::DropGroup { group } => {
                let what = format!("refusing to drop node group {}", group.0);
                if !self.has_group(*group) {
                    return no_such_group(what);
                }
                let stays = |other: &GroupId| {
                    other != group
                        && !self.roster.dropped.contains(other)
                        && self.roster.of_group(*other).next().is_some()
                };
                (!self.node_groups().iter().any(stays)).then_some(())?;
                let then = "create another one first: `lockstep group create`";
                refusal(what, "no other node group could take its partitions", then)
            }
            Order::Rebalance | Order::Automatic { .. } => None,
        }
    }

    /// Why these nodes cannot be a node group of their own.
    fn refuse_group_of(&self, nodes: &[NodeId]) -> Option<Refusal> {
        let what = "refusing to create a node group".to_owned();
        let ordered = nodes.windows(2).all(|pair| pair[0] < pair[1]);
        if nodes.is_empty() || nodes.len() > REPLICAS_MAX || !ordered {
            let why = format!("a node group has 1 to {REPLICAS_MAX} different nodes");
            return refusal(what, why, "name as many");
        }
        if self.roster.last_group.0 >= GroupId::NONE.0 - 1 {
            return refusal(what, "no more numbers are left for one", "use those there are");
        }
        for node in nodes {
            if let Some(unknown) = self.unknown(*node) {
                return Some(unknown);
            }
            let seat = self.roster.seat(*node)?;
            if seat.group != GroupId::NONE {
                let why = format!("node {} belongs to group {}", node.0, seat.group.0);
                return refusal(what, why, "name spares: `lockstep node list` shows them");
            }
            let member = self.member(*node);
            if member.is_none_or(|member| member.group != GroupId::NONE) {
                let why = format!("node {} is not there, or is leaving its group", node.0);
                return refusal(what, why, "wait until it is there as a spare");
            }
        }
        None
    }

    fn unknown(&self, node: NodeId) -> Option<Refusal> {
        if self.roster.seat(node).is_some() {
            return None;
        }
        let ids: Vec<String> = self.roster.seats.iter().map(|s| s.node.0.to_string()).collect();
        let what = format!("data node {} does not belong to the cluster", node.0);
        let why = format!("its data nodes are {}", ids.join(", "));
        Some(Refusal { ground: Ground::NoSuchNode, what, why, then: "name one of them".to_owned() })
    }

    /// Why these nodes cannot go at once: somebody in sync must stay in each of their groups.
    #[must_use]
    pub fn last_of_group(&self, nodes: &[NodeId], what: &str) -> Option<Refusal> {
        let goes = |node: NodeId| nodes.contains(&node);
        for node in nodes {
            let Some(member) = self.member(*node).filter(|m| m.standing == Standing::InSync) else {
                continue;
            };
            let group = member.group;
            if self.owned_by(group) == 0 {
                continue;
            }
            if self.stays_in_sync(group).any(|m| !goes(m.instance.node)) {
                continue;
            }
            let mates = self.roster.of_group(group).filter(|seat| !goes(seat.node));
            let state = |seat: &Seat| match self.member(seat.node).map(|m| m.standing) {
                None => format!("node {} is not there", seat.node.0),
                Some(Standing::InSync) => format!("node {} is about to leave", seat.node.0),
                Some(_) => format!("node {} is catching up", seat.node.0),
            };
            let mates: Vec<String> = mates.map(state).collect();
            let why = match mates.join(", ") {
                none if none.is_empty() => "the group has no other node".to_owned(),
                mates => mates,
            };
            let last = match nodes {
                [_] => format!("{what}: it is the last in-sync replica of group {}", group.0),
                _ => format!("{what}: no in-sync replica of group {} would be left", group.0),
            };
            return refusal(last, why, "wait until others of the group are in sync");
        }
        None
    }

    /// The members in sync of a group that keep their seats in it.
    fn stays_in_sync(&self, group: GroupId) -> impl Iterator<Item = &Member> {
        let seated = move |member: &&Member| {
            let seat = self.roster.seat(member.instance.node);
            member.group == group && seat.is_some_and(|seat| seat.group == group)
        };
        self.in_sync().filter(seated)
    }

    /// Whether this view shows what an order wants.
    #[must_use]
    pub fn obeys(&self, order: &Order) -> bool {
        let seat = |node: &NodeId| self.roster.seat(*node);
        match order {
            Order::Drain { node, drained } => seat(node).is_some_and(|s| s.drained == *drained),
            Order::Remove { node } => seat(node).is_none(),
            Order::Join { node, group } => seat(node).is_some_and(|s| s.group == *group),
            Order::Spare { node } => seat(node).is_some_and(|s| s.group == GroupId::NONE),
            Order::Replicas { count } => self.config.replicas == *count,
            Order::PrimaryZone { zone } => self.config.primary_zone == *zone,
            Order::CreateGroup { nodes } => {
                // Others may have joined it since: it lacked replicas.
                let group = nodes.first().and_then(seat).map_or(GroupId::NONE, |s| s.group);
                let there = |node| seat(node).is_some_and(|s| s.group == group);
                group != GroupId::NONE && nodes.iter().all(there)
            }
            Order::DropGroup { group } => {
                let was = *group <= self.roster.last_group && !self.has_group(*group);
                was || self.roster.dropped.contains(group)
            }
            Order::Rebalance => !self.roster.manual || self.roster.rebalance || self.is_balanced(),
            Order::Automatic { on } => self.roster.manual != *on,
        }
    }

    /// Carries out an order, unless it is refused.
    pub fn obey(&mut self, order: &Order) {
        if self.obeys(order) || self.refusal(order).is_some() {
            return;
        }
        match order {
            Order::Drain { node, drained } => {
                if let Some(seat) = self.roster.seat_mut(*node) {
                    seat.drained = *drained;
                }
            }
            Order::Remove { node } => self.roster.seats.retain(|seat| seat.node != *node),
            Order::Join { node, group } => self.seat_in(*node, *group),
            Order::Spare { node } => self.unseat(*node),
            Order::Replicas { count } => {
                self.config.replicas = *count;
                for node in self.surplus() {
                    self.unseat(node);
                }
            }
            Order::PrimaryZone { zone } => self.config.primary_zone.clone_from(zone),
            Order::CreateGroup { nodes } => {
                let group = GroupId(self.roster.last_group.0 + 1);
                self.roster.last_group = group;
                for node in nodes {
                    self.seat_in(*node, group);
                }
            }
            Order::DropGroup { group } => self.roster.dropped.push(*group),
            Order::Rebalance => self.roster.rebalance = true,
            Order::Automatic { on } => self.roster.manual = !on,
        }
    }

    /// A spare gets a seat in a node group.
    fn seat_in(&mut self, node: NodeId, group: GroupId) {
        if let Some(seat) = self.roster.seat_mut(node) {
            (seat.group, seat.drained) = (group, false);
        }
        let spare = self.members.iter_mut().find(|m| m.instance.node == node);
        if let Some(member) = spare.filter(|m| m.group == GroupId::NONE) {
            member.group = group;
        }
    }

    /// Drained, so that it is not put into a group again at once.
    fn unseat(&mut self, node: NodeId) {
        if let Some(seat) = self.roster.seat_mut(node) {
            (seat.group, seat.drained) = (GroupId::NONE, true);
        }
    }

    /// Who leaves the groups that have more nodes than replicas are wanted. In sync, not drained
    /// and in a zone of their own is who stays.
    fn surplus(&self) -> Vec<NodeId> {
        let wanted = usize::from(self.config.replicas);
        let mut surplus = Vec::new();
        for group in self.node_groups() {
            let mut left: Vec<&Seat> = self.roster.of_group(group).collect();
            let mut zones: Vec<&str> = Vec::new();
            for _ in 0..wanted.min(left.len()) {
                let behind = |seat: &Seat| {
                    let member = self.member(seat.node);
                    member.is_none_or(|m| m.standing != Standing::InSync)
                };
                let rank = |seat: &&Seat| {
                    let together = zones.iter().filter(|zone| **zone == seat.zone).count();
                    (behind(seat), seat.drained, together, seat.node)
                };
                let Some(best) = left.iter().copied().min_by_key(rank) else { break };
                zones.push(&best.zone);
                left.retain(|seat| seat.node != best.node);
            }
            surplus.extend(left.iter().map(|seat| seat.node));
        }
        surplus
    }

    /// The spares that are here and the groups that lack replicas: who joins what.
    #[must_use]
    pub fn spares_to_join(&self) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.members.iter().all(|member| member.group != GroupId::NONE) {
            return orders;
        }
        let mut view = self.clone();
        for group in self.node_groups() {
            if self.roster.dropped.contains(&group) {
                continue;
            }
            while view.roster.of_group(group).count() < usize::from(self.config.replicas) {
                let alone = |zone: &str| view.roster.of_group(group).all(|seat| seat.zone != zone);
                let is_spare = |member: &&Member| {
                    let seat = view.roster.seat(member.instance.node);
                    member.group == GroupId::NONE
                        && seat.is_some_and(|s| s.group == GroupId::NONE && !s.drained)
                };
                let spares = view.members.iter().filter(is_spare);
                let best = spares.min_by_key(|m| (!alone(&m.zone), m.instance.node));
                let Some(node) = best.map(|member| member.instance.node) else { break };
                let order = Order::Join { node, group };
                view.obey(&order);
                orders.push(order);
            }
        }
        orders
    }

    /// The node groups that own partitions, in order.
    #[must_use]
    pub fn owners(&self) -> Vec<GroupId> {
        let mut owners: Vec<GroupId> = self.placements.iter().map(|p| p.group).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The node groups that own partitions or have seats, in order.
    #[must_use]
    pub fn node_groups(&self) -> Vec<GroupId> {
        let mut groups = self.owners();
        groups.extend(self.roster.seats.iter().map(|seat| seat.group));
        groups.retain(|group| *group != GroupId::NONE);
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Whether there is such a node group.
    #[must_use]
    pub fn has_group(&self, group: GroupId) -> bool {
        self.node_groups().contains(&group)
    }

    /// The nodes that leave their groups because these own nothing any more, and are to own
    /// nothing.
    #[must_use]
    pub fn seats_to_clear(&self) -> Vec<Order> {
        let empty = |seat: &&Seat| {
            self.roster.dropped.contains(&seat.group) && self.owned_by(seat.group) == 0
        };
        let seats = self.roster.seats.iter().filter(empty);
        seats.map(|seat| Order::Spare { node: seat.node }).collect()
    }

    /// Whether everybody who has a seat in this group is in sync.
    #[must_use]
    pub fn is_complete(&self, group: GroupId) -> bool {
        let in_sync = |seat: &Seat| {
            let member = self.member(seat.node);
            member.is_some_and(|m| m.standing == Standing::InSync && m.group == group)
        };
        self.roster.of_group(group).all(in_sync)
    }

    /// Which replica should lead a partition: the first that is to stay and is not drained, in the
    /// preferred zone if there is one.
    #[must_use]
    pub fn preferred_primary(&self, placement: &Placement) -> Option<NodeId> {
        let seat = |node: &NodeId| self.roster.seat(*node).filter(|s| s.group == placement.group);
        let rank = |node: &NodeId| {
            let zone = &self.config.primary_zone;
            let seat = seat(node);
            let elsewhere = !zone.is_empty() && seat.is_none_or(|s| s.zone != *zone);
            (seat.is_none(), seat.is_none_or(|s| s.drained), elsewhere)
        };
        placement.replicas.iter().copied().min_by_key(rank)
    }

    /// Whether a node should not lead: it is drained, or about to leave its group.
    #[must_use]
    pub fn should_not_lead(&self, node: NodeId) -> bool {
        let group = self.member(node).map(|member| member.group);
        let seat = self.roster.seat(node);
        seat.is_none_or(|seat| seat.drained || Some(seat.group) != group)
    }

    /// The groups that have two nodes in one zone, and that zone: to lose it may cost them more
    /// than one replica.
    #[must_use]
    pub fn zones_shared(&self) -> Vec<(GroupId, String)> {
        let mut shared = Vec::new();
        for group in self.node_groups() {
            let mut zones: Vec<&String> = self.roster.of_group(group).map(|s| &s.zone).collect();
            zones.sort_unstable();
            let twice = zones.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].is_empty());
            shared.extend(twice.map(|pair| (group, pair[0].clone())));
        }
        shared
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::configuration::ConfigState;
    use crate::ids::{ClusterId, Epoch, Incarnation, NodeInstance, RestartGeneration, ViewNumber};
    use crate::roster::Roster;
    use crate::view::ClusterConfig;

    /// A view of these groups, one partition each, nodes in zones "a" and "b" in turn.
    pub(crate) fn view(groups: &[&[u16]]) -> View {
        let (mut members, mut placements) = (Vec::new(), Vec::new());
        for (group, nodes) in (1..).map(GroupId).zip(groups) {
            for (at, node) in nodes.iter().enumerate() {
                members.push(Member {
                    instance: NodeInstance { node: NodeId(*node), incarnation: Incarnation(1) },
                    group,
                    zone: ["a", "b"][at % 2].to_owned(),
                    addr: format!("n{node}:1"),
                    shards: 1,
                    seniority: u64::from(*node),
                    standing: Standing::InSync,
                });
            }
            let replicas: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
            let (primary, joining, to) = (replicas[0], Vec::new(), None);
            placements.push(Placement { group, local_index: 0, primary, replicas, joining, to });
        }
        let replicas = groups.iter().map(|g| u16::try_from(g.len()).expect("few")).max();
        View {
            cluster: ClusterId(7),
            number: ViewNumber(1),
            configured: ConfigState::default(),
            config: ClusterConfig { replicas: replicas.unwrap_or(1), ..ClusterConfig::default() },
            roster: Roster::of(&members),
            members,
            placements,
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            left_out: Vec::new(),
            seal: Epoch(0),
            restart_generation: RestartGeneration(0),
            cuts: Vec::new(),
        }
    }

    pub(crate) fn with_spare(mut view: View, node: u16, zone: &str) -> View {
        let member = Member {
            instance: NodeInstance { node: NodeId(node), incarnation: Incarnation(1) },
            group: GroupId::NONE,
            zone: zone.to_owned(),
            addr: format!("n{node}:1"),
            standing: Standing::Copying,
            ..view.members[0].clone()
        };
        let [seat] = &Roster::of(std::slice::from_ref(&member)).seats[..] else { unreachable!() };
        view.roster.add(Seat { process: u64::from(node), ..seat.clone() });
        view.members.push(member);
        view
    }

    #[test]
    fn the_last_in_sync_of_a_group_keeps_its_seat() {
        let mut view = view(&[&[1, 2], &[3, 4]]);
        let remove = |node| Order::Remove { node: NodeId(node) };
        assert_eq!(view.refusal(&remove(1)), None);
        view.obey(&remove(1));
        assert!(view.obeys(&remove(1)));
        let text = view.refusal(&remove(2)).expect("refused").to_string();
        assert!(text.contains("the last in-sync replica of group 1"), "{text}");
        assert!(view.refusal(&Order::Spare { node: NodeId(2) }).is_some());
        view.members[3].standing = Standing::Copying;
        let text = view.refusal(&remove(3)).expect("refused").to_string();
        assert!(text.contains("node 4 is catching up"), "{text}");
        assert_eq!(view.refusal(&remove(4)), None, "who is behind may go");
        assert!(view.refusal(&remove(9)).is_some());
        let both = [NodeId(1), NodeId(2)];
        assert!(view.last_of_group(&both, "refusing").is_some());
    }

    #[test]
    fn who_is_drained_leads_nothing_where_another_can() {
        let mut view = view(&[&[1, 2]]);
        let placement = view.placements[0].clone();
        assert_eq!(view.preferred_primary(&placement), Some(NodeId(1)));
        view.obey(&Order::Drain { node: NodeId(1), drained: true });
        assert_eq!(view.preferred_primary(&placement), Some(NodeId(2)));
        view.obey(&Order::Drain { node: NodeId(2), drained: true });
        assert_eq!(view.preferred_primary(&placement), Some(NodeId(1)), "somebody has to");
        view.obey(&Order::PrimaryZone { zone: "b".to_owned() });
        assert_eq!(view.preferred_primary(&placement), Some(NodeId(2)));
        assert!(view.refusal(&Order::PrimaryZone { zone: "q".to_owned() }).is_some());
    }

    #[test]
    fn a_group_that_others_joined_was_created() {
        let mut view = with_spare(with_spare(view(&[&[1, 2]]), 3, "a"), 4, "b");
        let create = Order::CreateGroup { nodes: vec![NodeId(3)] };
        view.obey(&create);
        view.obey(&view.spares_to_join()[0]);
        assert!(view.obeys(&create));
        assert!(!view.obeys(&Order::CreateGroup { nodes: vec![NodeId(2), NodeId(3)] }));
    }

    #[test]
    fn spares_join_what_lacks_replicas_and_surplus_leaves() {
        let view = with_spare(with_spare(view(&[&[1, 2]]), 3, "a"), 4, "c");
        assert_eq!(view.spares_to_join(), []);
        let mut more = view.clone();
        more.obey(&Order::Replicas { count: 3 });
        let join = Order::Join { node: NodeId(4), group: GroupId(1) };
        let spares = more.spares_to_join();
        assert_eq!(spares, std::slice::from_ref(&join), "a zone of its own comes first");
        more.obey(&join);
        assert_eq!(more.member(NodeId(4)).map(|m| m.group), Some(GroupId(1)));
        assert!(!more.is_complete(GroupId(1)));
        more.obey(&Order::Replicas { count: 1 });
        let kept: Vec<NodeId> = more.roster.of_group(GroupId(1)).map(|s| s.node).collect();
        assert_eq!(kept, [NodeId(1)], "in sync, and the lowest");
        assert_eq!(more.spares_to_join(), [], "who was just made a spare stays one");
        assert!(more.should_not_lead(NodeId(2)));
        assert_eq!(view.zones_shared(), []);
        let mut shared = view;
        shared.obey(&Order::Join { node: NodeId(3), group: GroupId(1) });
        assert_eq!(shared.zones_shared(), [(GroupId(1), "a".to_owned())]);
    }
}
