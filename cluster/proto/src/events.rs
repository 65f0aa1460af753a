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
use crate::view::{Arbitrator, Member, Placement, Reason, Standing, View};

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
    /// There is a node group more.
    GroupCreated {
        /// Which.
        group: GroupId,
    },
    /// A node group is to own nothing: its partitions move to others.
    GroupDropBegun {
        /// Which.
        group: GroupId,
    },
    /// A node group is no more.
    GroupDropped {
        /// Which.
        group: GroupId,
    },
    /// Partitions begin to move between node groups.
    RebalanceBegun,
    /// No more partitions are to move between node groups.
    RebalanceEnded {
        /// How many have moved, as far as this server has seen.
        partitions: u16,
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
    /// Rows are to have so many replicas.
    ReplicasSet {
        /// How many.
        replicas: u16,
    },
    /// Primaries are to be in another zone than before.
    PrimaryZoneSet {
        /// Which; empty for none in particular.
        zone: String,
    },
    /// Partitions move between node groups by themselves, or only when it is said.
    RebalancingSet {
        /// Whether by themselves.
        automatic: bool,
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
            Self::GroupCreated { .. } => "group_created",
            Self::GroupDropBegun { .. } => "group_drop_begun",
            Self::GroupDropped { .. } => "group_dropped",
            Self::RebalanceBegun => "rebalance_begun",
            Self::RebalanceEnded { .. } => "rebalance_ended",
            Self::PrimariesMoved { .. } => "primaries_moved",
            Self::ArbitratorNamed { .. } => "arbitrator_named",
            Self::Configured { .. } => "configured",
            Self::Restarted { .. } => "cluster_restarted",
            Self::RegisterLost => "register_lost",
            Self::BackupBegun { .. } => "backup_begun",
            Self::BackupDone { .. } => "backup_done",
            Self::BackupFailed { .. } => "backup_failed",
            Self::BackupDeleted { .. } => "backup_deleted",
            Self::ReplicasSet { .. } => "replicas_set",
            Self::PrimaryZoneSet { .. } => "primary_zone_set",
            Self::RebalancingSet { .. } => "rebalancing_set",
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
            | Self::GroupCreated { .. }
            | Self::GroupDropBegun { .. }
            | Self::GroupDropped { .. }
            | Self::RebalanceBegun
            | Self::RebalanceEnded { .. }
            | Self::PrimariesMoved { .. }
            | Self::ArbitratorNamed { .. }
            | Self::Configured { .. }
            | Self::Restarted { .. }
            | Self::RegisterLost
            | Self::BackupBegun { .. }
            | Self::BackupDone { .. }
            | Self::BackupFailed { .. }
            | Self::BackupDeleted { .. }
            | Self::ReplicasSet { .. }
            | Self::PrimaryZoneSet { .. }
            | Self::RebalancingSet { .. } => None,
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
        "group_created",
        "group_drop_begun",
        "group_dropped",
        "rebalance_begun",
        "rebalance_ended",
        "primaries_moved",
        "arbitrator_named",
        "configured",
        "cluster_restarted",
        "register_lost",
        "backup_begun",
        "backup_done",
        "backup_failed",
        "backup_deleted",
        "replicas_set",
        "primary_zone_set",
        "rebalancing_set",
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
    all.extend(wishes(before, after));
    all.extend(groups(before, after));
    all.extend(seats(&before.roster, &after.roster));
    // A partition that is another group's now has another primary, of course.
    let led = |one: &Placement, other: &Placement| {
        one.group == other.group && one.primary != other.primary
    };
    let partitions = count(before, after, led);
    if partitions > 0 {
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

/// What operators want from now on.
fn wishes(before: &View, after: &View) -> Vec<Happening> {
    let mut all = Vec::new();
    let replicas = after.config.replicas;
    if replicas != before.config.replicas {
        all.push(Happening::ReplicasSet { replicas });
    }
    if after.config.primary_zone != before.config.primary_zone {
        let zone = after.config.primary_zone.clone();
        all.push(Happening::PrimaryZoneSet { zone });
    }
    if after.roster.manual != before.roster.manual {
        all.push(Happening::RebalancingSet { automatic: !after.roster.manual });
    }
    all
}

/// Of how many partitions the placements differ in this way.
fn count(before: &View, after: &View, differ: impl Fn(&Placement, &Placement) -> bool) -> u16 {
    let placed = before.placements.iter().zip(&after.placements);
    let count = placed.filter(|(one, other)| differ(one, other)).count();
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// How many partitions belong to another node group than before.
fn moved(before: &View, after: &View) -> u16 {
    count(before, after, |one, other| one.group != other.group)
}

fn groups(before: &View, after: &View) -> Vec<Happening> {
    let (old, new) = (before.node_groups(), after.node_groups());
    let mut all = Vec::new();
    let created = new.iter().filter(|group| !old.contains(group));
    all.extend(created.map(|group| Happening::GroupCreated { group: *group }));
    let leaving = after.roster.dropped.iter().filter(|g| !before.roster.dropped.contains(g));
    all.extend(leaving.map(|group| Happening::GroupDropBegun { group: *group }));
    // Partitions of a group that is gone have moved before.
    let (was, is) = (before.is_rebalancing(), after.is_rebalancing());
    let partitions = moved(before, after);
    if !was && is {
        all.push(Happening::RebalanceBegun);
    }
    if !is && (was || partitions > 0) {
        all.push(Happening::RebalanceEnded { partitions });
    }
    let gone = old.iter().filter(|group| !new.contains(group));
    all.extend(gone.map(|group| Happening::GroupDropped { group: *group }));
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
    /// Partitions that have gone to another node group since the last rebalancing ended.
    moved: u16,
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
        let mut news = between(self.told.as_ref(), view);
        // Each step moves one partition: their sum is told, not every one.
        let steps = self.told.as_ref().map_or(0, |told| moved(told, view));
        self.moved = self.moved.saturating_add(steps);
        for what in &mut news {
            if let Happening::RebalanceEnded { partitions } = what {
                *partitions = std::mem::take(&mut self.moved);
            }
        }
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
mod tests;
