//! What has happened to a cluster, for people: what each view tells that the one before did not,
//! and what became of backups.
//!
//! A management server keeps these in its directory, the last [`EVENTS_MAX`]; each server writes
//! down what it is told, with its own clock and numbers. What happened while it was gone it sees as
//! one step.
//!
//! Invariant: a log holds the view up to which it tells, so that nothing is forgotten or told twice
//! when a server ends between two files.

use serde::{Deserialize, Serialize};

use crate::ids::{
    BackupId, ClusterId, ConfigVersion, Epoch, GroupId, NodeId, NodeInstance, RestartGeneration,
    ViewNumber,
};
use crate::limits::EVENTS_MAX;
use crate::roster::{Roster, Seat};
use crate::view::{Arbitrator, Member, Reason, Standing, View};

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Happening {
    /// The cluster was created, or this server first heard of it, with so many data nodes.
    Met {
        /// How many.
        nodes: u16,
    },
    /// A data node is no member any more.
    NodeLost {
        /// Which life of it.
        node: NodeInstance,
        /// Its node group.
        group: GroupId,
        /// Why; `None` if that was in a view this server has not seen.
        why: Option<Reason>,
    },
    /// A data node is a member: it copies.
    NodeAdmitted {
        /// Which life of it.
        node: NodeInstance,
        /// Its node group.
        group: GroupId,
    },
    /// A data node has copied everything: commits wait for it.
    NodeAttached {
        /// Which life of it.
        node: NodeInstance,
    },
    /// A data node is in sync: it serves and counts.
    NodeInSync {
        /// Which life of it.
        node: NodeInstance,
    },
    /// A data node has got a seat in the cluster.
    NodeSeated {
        /// Which.
        node: NodeId,
        /// Its node group; [`GroupId::NONE`] for a spare.
        group: GroupId,
    },
    /// A data node belongs to another node group.
    NodePlaced {
        /// Which.
        node: NodeId,
        /// Its node group now; [`GroupId::NONE`] for a spare.
        group: GroupId,
    },
    /// A data node is to lead nothing, or may lead again.
    NodeDrained {
        /// Which.
        node: NodeId,
        /// Whether it is.
        drained: bool,
    },
    /// A data node has no seat any more: it is gone for good.
    NodeRemoved {
        /// Which.
        node: NodeId,
    },
    /// Partitions have other primaries.
    PrimariesMoved {
        /// How many.
        partitions: u16,
    },
    /// Another arbitrator is named.
    ArbitratorNamed {
        /// Which; `None` for nobody.
        arbitrator: Option<Arbitrator>,
    },
    /// Settings of the cluster have changed.
    Configured {
        /// The version that is in force now.
        version: ConfigVersion,
        /// Who wanted it.
        who: String,
    },
    /// The whole cluster was started again from its disks.
    Restarted {
        /// How often it has been.
        generation: RestartGeneration,
    },
    /// This server should hold the arbitrator's register, and has none.
    RegisterLost,
    /// A backup was begun here.
    BackupBegun {
        /// Which.
        backup: BackupId,
    },
    /// A backup is whole.
    BackupDone {
        /// Which.
        backup: BackupId,
        /// As of when it is.
        epoch: Epoch,
        /// Its rows.
        rows: u64,
    },
    /// A backup will never be whole.
    BackupFailed {
        /// Which.
        backup: BackupId,
        /// Why.
        why: String,
    },
    /// A backup's files have been removed.
    BackupDeleted {
        /// Which.
        backup: BackupId,
    },
}

impl Happening {
    /// Its name in output.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Met { .. } => "cluster_met",
            Self::NodeLost { .. } => "node_lost",
            Self::NodeAdmitted { .. } => "node_admitted",
            Self::NodeAttached { .. } => "node_attached",
            Self::NodeInSync { .. } => "node_in_sync",
            Self::NodeSeated { .. } => "node_seated",
            Self::NodePlaced { .. } => "node_placed",
            Self::NodeDrained { drained: true, .. } => "node_drained",
            Self::NodeDrained { drained: false, .. } => "node_undrained",
            Self::NodeRemoved { .. } => "node_removed",
            Self::PrimariesMoved { .. } => "primaries_moved",
            Self::ArbitratorNamed { .. } => "arbitrator_named",
            Self::Configured { .. } => "configured",
            Self::Restarted { .. } => "cluster_restarted",
            Self::RegisterLost => "register_lost",
            Self::BackupBegun { .. } => "backup_begun",
            Self::BackupDone { .. } => "backup_done",
            Self::BackupFailed { .. } => "backup_failed",
            Self::BackupDeleted { .. } => "backup_deleted",
        }
    }

    /// The data node it is about, if it is about one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::NodeLost { node, .. }
            | Self::NodeAdmitted { node, .. }
            | Self::NodeAttached { node }
            | Self::NodeInSync { node } => Some(node.node),
            Self::NodeSeated { node, .. }
            | Self::NodePlaced { node, .. }
            | Self::NodeDrained { node, .. }
            | Self::NodeRemoved { node } => Some(*node),
            Self::Met { .. }
            | Self::PrimariesMoved { .. }
            | Self::ArbitratorNamed { .. }
            | Self::Configured { .. }
            | Self::Restarted { .. }
            | Self::RegisterLost
            | Self::BackupBegun { .. }
            | Self::BackupDone { .. }
            | Self::BackupFailed { .. }
            | Self::BackupDeleted { .. } => None,
        }
    }

    /// The names of all of them.
    pub const NAMES: &'static [&'static str] = &[
        "cluster_met",
        "node_lost",
        "node_admitted",
        "node_attached",
        "node_in_sync",
        "node_seated",
        "node_placed",
        "node_drained",
        "node_undrained",
        "node_removed",
        "primaries_moved",
        "arbitrator_named",
        "configured",
        "cluster_restarted",
        "register_lost",
        "backup_begun",
        "backup_done",
        "backup_failed",
        "backup_deleted",
    ];
}

/// What has happened between two views, the later one just heard of.
#[must_use]
pub fn between(before: Option<&View>, after: &View) -> Vec<Happening> {
    let Some(before) = before else {
        let nodes = u16::try_from(after.members.len()).unwrap_or(u16::MAX);
        return vec![Happening::Met { nodes }];
    };
    let mut all = Vec::new();
    let generation = after.restart_generation;
    let restarted = generation != before.restart_generation;
    if restarted {
        all.push(Happening::Restarted { generation });
    }
    // A start of the whole cluster is a new life of everybody; who is in it was not lost.
    let same = |one: &Member, other: &Member| match restarted {
        true => one.instance.node == other.instance.node,
        false => one.instance == other.instance,
    };
    for member in before.members.iter().filter(|m| !after.members.iter().any(|a| same(m, a))) {
        let (node, group) = (member.instance, member.group);
        let why = after.left_out.iter().find(|(of, _)| *of == node).map(|(_, why)| *why);
        all.push(Happening::NodeLost { node, group, why });
    }
    for member in &after.members {
        let (node, group) = (member.instance, member.group);
        let earlier = before.members.iter().find(|m| same(m, member));
        if earlier.is_none() {
            all.push(Happening::NodeAdmitted { node, group });
        }
        if earlier.map_or(Standing::Copying, |m| m.standing) == member.standing {
            continue;
        }
        match member.standing {
            Standing::Copying => {}
            Standing::Attached => all.push(Happening::NodeAttached { node }),
            Standing::InSync => all.push(Happening::NodeInSync { node }),
        }
    }
    all.extend(seats(&before.roster, &after.roster));
    let placed = before.placements.iter().zip(&after.placements);
    let moved = placed.filter(|(one, other)| one.primary != other.primary).count();
    if moved > 0 {
        let partitions = u16::try_from(moved).unwrap_or(u16::MAX);
        all.push(Happening::PrimariesMoved { partitions });
    }
    if after.arbitrator != before.arbitrator {
        all.push(Happening::ArbitratorNamed { arbitrator: after.arbitrator.clone() });
    }
    let news = |version: ConfigVersion| version > before.configured.version;
    for entry in after.configured.history.iter().filter(|entry| news(entry.version)) {
        let (version, who) = (entry.version, entry.who.clone());
        all.push(Happening::Configured { version, who });
    }
    all
}

fn seats(before: &Roster, after: &Roster) -> Vec<Happening> {
    let mut all = Vec::new();
    for Seat { node, group, drained, .. } in &after.seats {
        let (node, group, drained) = (*node, *group, *drained);
        let Some(seat) = before.seat(node) else {
            all.push(Happening::NodeSeated { node, group });
            continue;
        };
        if seat.group != group {
            all.push(Happening::NodePlaced { node, group });
        }
        if seat.drained != drained {
            all.push(Happening::NodeDrained { node, drained });
        }
    }
    let gone = before.seats.iter().filter(|seat| after.seat(seat.node).is_none());
    all.extend(gone.map(|seat| Happening::NodeRemoved { node: seat.node }));
    all
}

/// One line of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// Its place in this server's log, from 1.
    pub number: u64,
    /// When this server heard of it, in milliseconds since 1970.
    pub when_ms: u64,
    /// The view that told.
    pub view: ViewNumber,
    /// What.
    pub what: Happening,
}

/// The last events of a cluster, as a management server has them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventLog {
    /// Up to which view it tells.
    told: Option<View>,
    /// How many events there have been.
    last: u64,
    /// The last ones, oldest first.
    events: Vec<ClusterEvent>,
}

impl EventLog {
    /// Of which cluster it tells.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.told.as_ref().map(|view| view.cluster)
    }

    /// Up to which view it tells.
    #[must_use]
    pub fn told(&self) -> Option<&View> {
        self.told.as_ref()
    }

    /// The last events, oldest first.
    #[must_use]
    pub fn events(&self) -> &[ClusterEvent] {
        &self.events
    }

    /// Writes down what a view tells; false if that was known.
    pub fn note_view(&mut self, when_ms: u64, view: &View) -> bool {
        if self.told.as_ref() == Some(view) {
            return false;
        }
        let news = between(self.told.as_ref(), view);
        // Also a view without news is kept: the next one is compared with it.
        self.told = Some(view.clone());
        self.note(when_ms, news);
        true
    }

    /// Writes down that the server has no register for the view it was shown; once for each view.
    pub fn note_register_lost(&mut self, when_ms: u64) -> bool {
        let view = self.view();
        let said =
            |event: &ClusterEvent| event.view == view && event.what == Happening::RegisterLost;
        if self.events.iter().rev().any(said) {
            return false;
        }
        self.note(when_ms, vec![Happening::RegisterLost]);
        true
    }

    /// Writes down what has happened; the oldest make room.
    pub fn note(&mut self, when_ms: u64, what: Vec<Happening>) {
        let view = self.view();
        for what in what {
            self.last += 1;
            self.events.push(ClusterEvent { number: self.last, when_ms, view, what });
        }
        let more = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..more);
    }

    /// Those after a number, at most `most` of them.
    #[must_use]
    pub fn after(&self, number: u64, most: usize) -> Vec<ClusterEvent> {
        let later = self.events.iter().filter(|event| event.number > number);
        later.take(most).cloned().collect()
    }

    fn view(&self) -> ViewNumber {
        self.told.as_ref().map_or(ViewNumber(0), |view| view.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;
    use crate::view::{ClusterConfig, Placement};

    fn node(id: u16, life: u32) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(life) }
    }

    fn member(instance: NodeInstance, standing: Standing) -> Member {
        Member {
            instance,
            group: GroupId(1),
            zone: String::new(),
            addr: String::new(),
            shards: 1,
            seniority: u64::from(instance.node.0),
            standing,
        }
    }

    fn view(number: u64, members: Vec<Member>) -> View {
        let primary = members.first().map_or(NodeId(0), |member| member.instance.node);
        let replicas = members.iter().map(|member| member.instance.node).collect();
        let placement = Placement {
            group: GroupId(1),
            local_index: 0,
            primary,
            replicas,
            joining: Vec::new(),
            to: None,
        };
        View {
            cluster: ClusterId(1),
            number: ViewNumber(number),
            config: ClusterConfig::default(),
            configured: crate::configuration::ConfigState::default(),
            left_out: Vec::new(),
            roster: Roster::of(&[node(1, 1), node(2, 1)].map(|n| member(n, Standing::InSync))),
            members,
            placements: vec![placement],
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            seal: Epoch(0),
            restart_generation: RestartGeneration(0),
            cuts: Vec::new(),
        }
    }

    fn whole(number: u64, lives: [u32; 2]) -> View {
        let members = [node(1, lives[0]), node(2, lives[1])];
        view(number, members.map(|node| member(node, Standing::InSync)).to_vec())
    }

    #[test]
    fn a_view_tells_who_has_gone_and_why_and_who_has_come() {
        let first = whole(1, [1, 1]);
        assert_eq!(between(None, &first), [Happening::Met { nodes: 2 }]);
        assert_eq!(between(Some(&first), &first), []);
        let mut second = view(2, vec![member(node(2, 1), Standing::InSync)]);
        second.left_out = vec![(node(1, 1), Reason::Dead)];
        let (group, gone) = (GroupId(1), node(1, 1));
        let lost = Happening::NodeLost { node: gone, group, why: Some(Reason::Dead) };
        let moved = Happening::PrimariesMoved { partitions: 1 };
        assert_eq!(between(Some(&first), &second), [lost, moved]);
        let mut third = view(3, vec![member(node(2, 1), Standing::InSync)]);
        third.members.insert(0, member(node(1, 2), Standing::Copying));
        let back = node(1, 2);
        assert_eq!(between(Some(&second), &third), [Happening::NodeAdmitted { node: back, group }]);
        third.members[0].standing = Standing::Attached;
        let mut fourth = third.clone();
        fourth.members[0].standing = Standing::InSync;
        assert_eq!(between(Some(&third), &fourth), [Happening::NodeInSync { node: back }]);
        // Who was away sees one step, and no reason of a view it has not seen.
        let lost = Happening::NodeLost { node: gone, group, why: None };
        let came = Happening::NodeAdmitted { node: back, group };
        assert_eq!(
            between(Some(&first), &whole(5, [2, 1])),
            [lost, came, Happening::NodeInSync { node: back }]
        );
    }

    #[test]
    fn seats_that_are_given_moved_drained_and_taken_are_told() {
        let first = whole(1, [1, 1]);
        let mut second = whole(2, [1, 1]);
        let (third, none) = (member(node(3, 1), Standing::Copying), GroupId::NONE);
        second.roster = Roster::of(&[first.members[1].clone(), Member { group: none, ..third }]);
        second.roster.seats[0].drained = true;
        let seat = |node| NodeId(node);
        assert_eq!(
            between(Some(&first), &second),
            [
                Happening::NodeDrained { node: seat(2), drained: true },
                Happening::NodeSeated { node: seat(3), group: none },
                Happening::NodeRemoved { node: seat(1) },
            ]
        );
        let mut third = second.clone();
        third.roster.seats[1].group = GroupId(1);
        let placed = Happening::NodePlaced { node: seat(3), group: GroupId(1) };
        assert_eq!(between(Some(&second), &third), [placed]);
    }

    #[test]
    fn a_start_from_the_disks_loses_those_who_are_not_in_it() {
        let first = whole(1, [1, 1]);
        let mut again = view(4, vec![member(node(2, 2), Standing::InSync)]);
        again.restart_generation = RestartGeneration(1);
        let generation = RestartGeneration(1);
        let lost = Happening::NodeLost { node: node(1, 1), group: GroupId(1), why: None };
        let moved = Happening::PrimariesMoved { partitions: 1 };
        let told = between(Some(&first), &again);
        assert_eq!(told, [Happening::Restarted { generation }, lost, moved]);
    }

    #[test]
    fn a_view_is_told_once_also_after_a_restart_between_two_files() {
        let mut log = EventLog::default();
        assert!(log.note_view(5, &whole(1, [1, 1])));
        assert!(!log.note_view(6, &whole(1, [1, 1])));
        assert!(log.note_register_lost(7) && !log.note_register_lost(8));
        assert!(log.note_view(9, &whole(3, [2, 1])));
        let views: Vec<u64> = log.events().iter().map(|event| event.view.0).collect();
        assert_eq!(views, [1, 1, 3, 3, 3]);
        let names: Vec<&str> = log.events().iter().map(|event| event.what.name()).collect();
        assert_eq!(
            names,
            ["cluster_met", "register_lost", "node_lost", "node_admitted", "node_in_sync"]
        );
        assert!(names.iter().all(|name| Happening::NAMES.contains(name)));
    }

    #[test]
    fn the_log_keeps_the_last_events_and_their_numbers() {
        let mut log = EventLog::default();
        let many = EVENTS_MAX as u64 + 10;
        for number in 1..=many {
            log.note(number, vec![Happening::PrimariesMoved { partitions: 1 }]);
        }
        assert_eq!(log.events.len(), EVENTS_MAX);
        assert_eq!((log.last, log.events[0].number), (many, 11));
        let numbers: Vec<u64> = log.after(many - 2, 9).iter().map(|event| event.number).collect();
        assert_eq!(numbers, [many - 1, many]);
        assert_eq!(log.after(0, 3).len(), 3);
        assert_eq!(log.after(many, 9), []);
    }
}
