//! The roster: which data nodes belong to the cluster, here or not, and to which node group.
//!
//! A view's members are those who are here; the roster is part of the view, too, and names
//! everybody who may be. It is the one authority for node ids: a newcomer gets its id by the view
//! change that gives it a *seat*, so two management servers cannot hand out the same one, and an id
//! that was given once is never given again.
//!
//! Newcomers may choose their ids, and do not come in the order of these: ids that were passed over
//! can be given later.
//!
//! Invariant: seats are in order of node id; no two have one id, one process or one address; no id
//! is above the highest ever given, and none was passed over.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId};
use crate::limits::{ADDR_BYTES_MAX, NODES_MAX, REPLICAS_MAX, SHARDS_MAX};
use crate::view::{Member, View};

/// A place in the cluster, kept for one data node until it is removed for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// The node.
    pub node: NodeId,
    /// The node group it belongs to; [`GroupId::NONE`] for a spare.
    pub group: GroupId,
    /// Its availability zone, as last heard; empty if none.
    pub zone: String,
    /// Where it listens, as last heard.
    pub addr: String,
    /// The number by which its first process named itself: asked again, it gets the same seat.
    pub process: u64,
    /// It is to lead nothing where another replica can; a drained spare is not put into a group.
    pub drained: bool,
}

/// Everybody who belongs to the cluster. See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Roster {
    /// In order of node id.
    pub seats: Vec<Seat>,
    /// The highest node id ever given.
    pub last: NodeId,
    /// The ids below it that were never given, ascending; of very many ranges only the highest.
    pub passed_over: Vec<RangeInclusive<NodeId>>,
    /// The highest number of a node group ever given.
    pub last_group: GroupId,
    /// Node groups that are to own nothing: their partitions go to others, then their nodes are
    /// spares.
    pub dropped: Vec<GroupId>,
    /// Partitions do not move by themselves to where fewer are, only when an operator says so.
    pub manual: bool,
    /// An operator has said so: partitions move until all node groups have their share.
    pub rebalance: bool,
}

/// What a data node without an identity says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Newcomer {
    /// `host:port` at which it listens.
    pub addr: String,
    /// Its availability zone; empty if none.
    pub zone: String,
    /// How many shard cores it runs.
    pub shards: u16,
    /// The number this life of the process drew at its start: an identity is given to one process
    /// only, however often it asks; one restarted on an emptied directory is another.
    pub process: u64,
    /// The node id its operator chose.
    pub wanted: Option<NodeId>,
    /// The node group its operator chose.
    pub group: Option<GroupId>,
}

impl Roster {
    /// The roster of a cluster that has these members and nobody else.
    #[must_use]
    pub fn of(members: &[Member]) -> Self {
        let seat = |member: &Member| Seat {
            node: member.instance.node,
            group: member.group,
            zone: member.zone.clone(),
            addr: member.addr.clone(),
            process: 0,
            drained: false,
        };
        let mut seats: Vec<Seat> = members.iter().map(seat).collect();
        seats.sort_unstable_by_key(|seat| seat.node);
        let groups = seats.iter().map(|seat| seat.group).filter(|group| *group != GroupId::NONE);
        let last_group = groups.max().unwrap_or_default();
        let mut roster = Self { last_group, ..Self::default() };
        for seat in &seats {
            roster.count_given(seat.node);
        }
        Self { seats, ..roster }
    }

    /// Whether no node ever had this id, as far as is known.
    #[must_use]
    pub fn was_never_given(&self, node: NodeId) -> bool {
        node > self.last || self.passed_over.iter().any(|range| range.contains(&node))
    }

    /// This id is given.
    fn count_given(&mut self, node: NodeId) {
        let (before, after) = (NodeId(node.0.saturating_sub(1)), NodeId(node.0.saturating_add(1)));
        let next = NodeId(self.last.0.saturating_add(1));
        if node > self.last {
            self.passed_over.extend((next < node).then_some(next..=before));
            self.last = node;
        } else if let Some(at) = self.passed_over.iter().position(|range| range.contains(&node)) {
            let (from, to) = self.passed_over[at].clone().into_inner();
            let halves = [from..=before, after..=to].into_iter();
            let left = halves.filter(|half| !half.is_empty() && !half.contains(&node));
            let left: Vec<_> = left.collect();
            self.passed_over.splice(at..=at, left);
        }
        let surplus = self.passed_over.len().saturating_sub(NODES_MAX);
        self.passed_over.drain(..surplus);
    }

    /// The seat of a node.
    #[must_use]
    pub fn seat(&self, node: NodeId) -> Option<&Seat> {
        let at = self.seats.binary_search_by_key(&node, |seat| seat.node).ok()?;
        self.seats.get(at)
    }

    /// The seat of a node, to change it.
    pub fn seat_mut(&mut self, node: NodeId) -> Option<&mut Seat> {
        let at = self.seats.binary_search_by_key(&node, |seat| seat.node).ok()?;
        self.seats.get_mut(at)
    }

    /// The seats of a node group.
    pub fn of_group(&self, group: GroupId) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(move |seat| seat.group == group)
    }

    /// The seat this process was given.
    #[must_use]
    pub fn seat_of_process(&self, process: u64) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.process == process && process != 0)
    }

    /// The seat a newcomer gets: with the id it wants, or the next one after the highest given.
    #[must_use]
    pub fn seat_for(&self, newcomer: &Newcomer) -> Seat {
        Seat {
            node: newcomer.wanted.unwrap_or(NodeId(self.last.0.saturating_add(1))),
            group: newcomer.group.unwrap_or(GroupId::NONE),
            zone: newcomer.zone.clone(),
            addr: newcomer.addr.clone(),
            process: newcomer.process,
            drained: false,
        }
    }

    /// Gives a seat. One that would break what the module promises changes nothing.
    pub fn add(&mut self, seat: Seat) {
        let known = self.seats.iter().any(|s| s.process == seat.process || s.addr == seat.addr);
        if !self.was_never_given(seat.node) || known || self.seats.len() >= NODES_MAX {
            return;
        }
        let Err(at) = self.seats.binary_search_by_key(&seat.node, |other| other.node) else {
            return;
        };
        self.count_given(seat.node);
        self.seats.insert(at, seat);
    }
}

/// Whether what a newcomer says of itself can be of any data node.
///
/// # Errors
/// What is wrong and what to do now, for the newcomer's operator.
pub fn check_form(newcomer: &Newcomer) -> Result<(), String> {
    let Newcomer { addr, zone, shards, wanted, process, .. } = newcomer;
    let port = addr.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    if addr.len() > ADDR_BYTES_MAX || !matches!(port, Some((host, Ok(1..))) if !host.is_empty()) {
        return Err(format!(
            "the address {addr:?} cannot be reached by other nodes: set `node.advertise` to \
             host:port"
        ));
    }
    if *shards == 0 || *shards > SHARDS_MAX {
        return Err(format!("{shards} shards: set `node.shards` to 1 to {SHARDS_MAX}"));
    }
    if *process == 0 {
        return Err("a process has a number other than 0".to_owned());
    }
    if wanted.is_some_and(|node| node.0 == 0) {
        return Err("node ids begin at 1: change `node.id`".to_owned());
    }
    if zone.len() > ADDR_BYTES_MAX {
        return Err(format!("a zone's name has at most {ADDR_BYTES_MAX} bytes"));
    }
    Ok(())
}

impl View {
    /// Whether a newcomer can be given a seat in this view.
    ///
    /// # Errors
    /// What is wrong and what to do now, for the newcomer's operator.
    pub fn check_newcomer(&self, newcomer: &Newcomer) -> Result<(), String> {
        check_form(newcomer)?;
        let (roster, cluster) = (&self.roster, self.cluster);
        if let Some(seat) = roster.seats.iter().find(|seat| seat.addr == newcomer.addr) {
            let node = seat.node;
            return Err(format!(
                "the address {} is that of node {node} of cluster {cluster}, which comes back only \
                 with the identity in its directory: start it on that directory, with --initial if \
                 its data is damaged; if the directory is lost for good, `lockstep node remove {}` \
                 first; or give this node another address",
                seat.addr, node.0
            ));
        }
        if let Some(node) = newcomer.wanted {
            if let Some(seat) = roster.seat(node) {
                return Err(format!(
                    "node id {} is taken by the data node at {}: give this one another \
                     `node.id`, or none",
                    node.0, seat.addr
                ));
            }
            if !roster.was_never_given(node) {
                return Err(format!(
                    "node id {} is not given any more: it was used before, or is one of very many \
                     that were passed over, and none is used again; leave `node.id` out, or choose \
                     one above {}",
                    node.0, roster.last.0
                ));
            }
            // Ids are never given again: one must not use up all of them.
            let most = usize::from(roster.last.0) + NODES_MAX;
            if usize::from(node.0) > most {
                return Err(format!(
                    "node id {} is far above those that were given: choose one up to {most}, or \
                     leave `node.id` out",
                    node.0
                ));
            }
        }
        if roster.seats.len() >= NODES_MAX || roster.last.0 == u16::MAX {
            return Err(format!(
                "cluster {cluster} has {} data nodes, and no more are possible: remove one first",
                roster.seats.len()
            ));
        }
        let Some(group) = newcomer.group else { return Ok(()) };
        if !self.has_group(group) {
            return Err(format!(
                "cluster {cluster} has no node group {}: change `node.group`, or leave it out",
                group.0
            ));
        }
        if roster.of_group(group).count() >= REPLICAS_MAX {
            return Err(format!(
                "node group {} has {REPLICAS_MAX} data nodes, and more are not possible: remove \
                 one first, or choose another group",
                group.0
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::tests::view;

    fn newcomer(process: u64) -> Newcomer {
        Newcomer {
            addr: format!("new{process}:1"),
            zone: String::new(),
            shards: 1,
            process,
            wanted: None,
            group: None,
        }
    }

    #[test]
    fn an_id_is_given_once() {
        let mut roster = view(&[&[1, 2]]).roster;
        roster.add(roster.seat_for(&newcomer(7)));
        assert_eq!(roster.seat_of_process(7).map(|seat| seat.node), Some(NodeId(3)));
        roster.seats.pop();
        roster.add(roster.seat_for(&newcomer(8)));
        assert_eq!(roster.seat_of_process(8).map(|seat| seat.node), Some(NodeId(4)));
        let before = roster.clone();
        roster.add(Seat { node: NodeId(2), ..roster.seat_for(&newcomer(9)) });
        roster.add(roster.seat_for(&newcomer(8)));
        assert_eq!(roster, before, "a used id and a known process get no seat");
    }

    #[test]
    fn ids_that_were_passed_over_can_be_given_later_and_once() {
        let mut view = view(&[&[1, 2]]);
        let wants = |node, process| Newcomer { wanted: Some(NodeId(node)), ..newcomer(process) };
        let mut comes = |node, process| {
            let newcomer = wants(node, process);
            let checked = view.check_newcomer(&newcomer);
            view.roster.add(view.roster.seat_for(&newcomer));
            let ids: Vec<u16> = view.roster.seats.iter().map(|seat| seat.node.0).collect();
            (checked.is_ok(), ids)
        };
        assert_eq!(comes(6, 7), (true, vec![1, 2, 6]));
        assert_eq!(comes(4, 8), (true, vec![1, 2, 4, 6]));
        assert_eq!(comes(4, 9), (false, vec![1, 2, 4, 6]));
        assert_eq!(comes(3, 10), (true, vec![1, 2, 3, 4, 6]));
        assert_eq!(view.roster.passed_over, [NodeId(5)..=NodeId(5)]);
        assert_eq!((view.roster.last, view.roster.was_never_given(NodeId(0))), (NodeId(6), false));
        view.roster.seats.retain(|seat| seat.node != NodeId(4));
        let refused = view.check_newcomer(&wants(4, 11)).expect_err("it was given");
        assert!(refused.contains("used before"), "{refused}");
    }

    #[test]
    fn of_very_many_ids_that_were_passed_over_the_lowest_are_forgotten() {
        let mut roster = view(&[&[2, 5]]).roster;
        let ids = |from, to| NodeId(from)..=NodeId(to);
        assert_eq!(roster.passed_over, [ids(1, 1), ids(3, 4)], "by those it begins with");
        let wants = |node| Newcomer { wanted: Some(NodeId(node)), ..newcomer(u64::from(node)) };
        for rack in 1..=200 {
            // They come and go.
            roster.add(roster.seat_for(&wants(100 * rack + 1)));
            roster.seats.retain(|seat| seat.node.0 < 100);
        }
        assert_eq!(roster.passed_over.len(), NODES_MAX);
        assert_eq!(roster.passed_over.last(), Some(&ids(19_902, 20_000)));
        let never: Vec<u16> =
            (1..20_100).filter(|id| roster.was_never_given(NodeId(*id))).collect();
        assert!(never.iter().all(|id| id % 100 != 1 || *id > 20_001), "{never:?}");
        roster.add(roster.seat_for(&wants(19_950)));
        let range = roster.passed_over.last_chunk::<2>();
        assert_eq!(range, Some(&[ids(19_902, 19_949), ids(19_951, 20_000)]));
        assert_eq!(roster.seats.iter().map(|seat| seat.node.0).collect::<Vec<_>>(), [2, 5, 19_950]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let view = view(&[&[1, 2]]);
        let refused = |change: &dyn Fn(&mut Newcomer)| {
            let mut newcomer = newcomer(7);
            change(&mut newcomer);
            view.check_newcomer(&newcomer).expect_err("refused")
        };
        assert_eq!(view.check_newcomer(&newcomer(7)), Ok(()));
        assert!(refused(&|n| n.addr = "n2:1".into()).contains("node remove 2"));
        assert!(refused(&|n| n.addr = "nowhere".into()).contains("node.advertise"));
        assert!(refused(&|n| n.wanted = Some(NodeId(2))).contains("is taken"));
        assert!(refused(&|n| n.group = Some(GroupId(9))).contains("no node group 9"));
        assert!(refused(&|n| n.shards = 0).contains("node.shards"));
        let mut later = view.clone();
        later.roster.seats.pop();
        let again = Newcomer { wanted: Some(NodeId(2)), ..newcomer(7) };
        assert!(later.check_newcomer(&again).expect_err("refused").contains("used before"));
    }
}
