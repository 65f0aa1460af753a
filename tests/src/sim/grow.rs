//! Data nodes that come new: hosts that nobody has put into the first view, the process that asks
//! for a seat, and who got which.

use lockstep_cluster::newcomer::{NewcomerCore, NewcomerOptions};
use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::process::StoredFile;
use lockstep_proto::roster::Newcomer;
use lockstep_proto::stored::{Stored, StoredIdentity};
use lockstep_proto::view::{Standing, View};

use super::cluster::Cluster;
use super::core::Core;
use super::disk::HostDisk;
use super::host::{HostId, Life, Role};
use super::world::World;

impl Cluster {
    /// The host of a node id.
    ///
    /// # Panics
    /// If nobody has that id.
    #[must_use]
    pub fn node(&self, node: NodeId) -> HostId {
        *self.ids.get(&node).expect("a member's host has its id")
    }

    /// Starts a data node on a host that is none yet, or none any more.
    pub fn come(
        &self,
        world: &mut World,
        host: HostId,
        wanted: Option<NodeId>,
        group: Option<u16>,
    ) {
        if !matches!(world.host(host).life, Life::Killed | Life::Dark) {
            return;
        }
        let removed = match world.host(host).role {
            Role::Fresh => false,
            Role::Data(me) => {
                let view = self.newest_view(world);
                let removed = view.is_some_and(|view| view.roster.seat(me.node).is_none());
                if !removed {
                    // It belongs to the cluster: this is its next life.
                    return self.revive(world, host, false);
                }
                removed
            }
            _ => return,
        };
        let zone = world.host(host).zone;
        let number = world.procs.len() as u64;
        *world.tally.faults.entry("join_of_a_newcomer").or_default() += 1;
        let entry = world.host_mut(host);
        if removed {
            // The machine is given to somebody new.
            entry.files.clear();
            entry.disk = HostDisk::default();
            entry.disk.replaced = true;
        }
        entry.role = Role::Fresh;
        entry.life = Life::Running;
        entry.exit = None;
        entry.procs.clear();
        let addr = entry.addr.clone();
        if entry.files.contains_key(&StoredFile::Identity) {
            world.reborn.push(host);
            return;
        }
        let core = NewcomerCore::new(NewcomerOptions {
            mgmts: self.mgmt_list(),
            newcomer: Newcomer {
                addr,
                zone: format!("z{zone}"),
                shards: self.shape.shards,
                // No two processes of the world have one number.
                process: number + 1,
                wanted,
                group: group.map(GroupId),
            },
        });
        let name = format!("f{}", host.0);
        world.host_mut(host).name.clone_from(&name);
        let proc = world.add_proc(host, name, Core::Newcomer(Box::new(core)));
        world.plan_next_turn(proc);
    }

    /// The id of its own that the next newcomer has, if any: one that was passed over, or one
    /// beyond the next.
    #[must_use]
    pub fn id_to_want(&self, world: &World) -> Option<NodeId> {
        let roster = &self.newest_view(world)?.roster;
        let number = world.procs.len();
        let passed = roster.passed_over.first().map(|range| *range.start());
        let skipped = if number.is_multiple_of(2) { 1 } else { 2 };
        let beyond = Some(NodeId(roster.last.0.saturating_add(1 + skipped)));
        match number % 3 {
            0 => passed.or(beyond),
            1 => beyond,
            _ => None,
        }
    }

    /// A newcomer has its identity on disk: it is a data node from now on.
    pub(super) fn take_seat(&mut self, world: &mut World, host: HostId) {
        let bytes = world.host(host).files.get(&StoredFile::Identity);
        let identity = bytes.and_then(|bytes| StoredIdentity::from_file(bytes).ok());
        world.end_procs(host);
        let Some(identity) = identity else {
            world.host_mut(host).life = Life::Killed;
            return;
        };
        let node = identity.instance.node;
        if let Some(other) = self.ids.insert(node, host).filter(|other| *other != host) {
            let other = &world.host(other).name;
            let text = format!("{node} was given to {other} and to {}", world.host(host).name);
            world.violation(text);
        }
        if !self.nodes.contains(&host) {
            self.nodes.push(host);
        }
        let entry = world.host_mut(host);
        entry.role = Role::Data(identity.instance);
        entry.life = Life::Killed;
        self.revive(world, host, false);
    }

    /// Whether a view is as its roster says, with everybody there who has ever been.
    #[must_use]
    pub fn is_in_order(&self, view: &View) -> bool {
        let there = |node: NodeId, group: GroupId| {
            view.member(node).is_some_and(|member| {
                let in_sync = member.standing == Standing::InSync;
                member.group == group && (in_sync || group == GroupId::NONE)
            })
        };
        let seated = |node: NodeId| view.roster.seat(node).is_some();
        view.roster.seats.iter().all(|seat| there(seat.node, seat.group))
            && view.members.iter().all(|member| seated(member.instance.node))
            && view.spares_to_join().is_empty()
            && view.moving().is_none()
            && view.next_transfer().is_none()
            && view.roster.dropped.is_empty()
            && view.placements.iter().all(|p| view.preferred_primary(p) == Some(p.primary))
    }

    /// Seats whose newcomer has died before it knew of them: somebody has to remove them.
    #[must_use]
    pub fn seats_of_nobody(&self, view: &View) -> Vec<NodeId> {
        let nobody = |node: &NodeId| !self.ids.contains_key(node);
        view.roster.seats.iter().map(|seat| seat.node).filter(nobody).collect()
    }

    /// Whether somebody is being given a seat.
    #[must_use]
    pub fn newcomer_asks(&self, world: &World) -> bool {
        let asks = |host: &HostId| world.host(*host).role == Role::Fresh && world.runs(*host);
        self.fresh.iter().chain(&self.nodes).any(asks)
    }
}
