//! What was told to be durable must be on the disks: if all power went now, every node in sync
//! whose disk does not lie could be restored to the highest epoch that anybody knows to be durable,
//! or to a later one.

use lockstep_proto::ids::{Epoch, NodeInstance};
use lockstep_storage::disk::Fate;
use lockstep_storage::restore::{Files, Owner, survey};

use crate::sim::cluster::Cluster;
use crate::sim::rng::Rng;
use crate::sim::world::World;

/// Samples between two looks: reading a whole disk is not free.
const LOOK_EVERY: usize = 16;

/// Looks at one node after the other.
#[derive(Default)]
pub struct DiskBook {
    samples: usize,
}

impl DiskBook {
    /// Now and then looks at the disk of one member in sync.
    pub fn sample(&mut self, world: &mut World, cluster: &Cluster) {
        self.samples += 1;
        if !self.samples.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let Some(view) = cluster.newest_view(world) else { return };
        let members: Vec<NodeInstance> = view.in_sync().map(|member| member.instance).collect();
        if let Some(member) = members.get(self.samples / LOOK_EVERY % members.len().max(1)) {
            look(world, cluster, *member);
        }
    }
}

/// Looks at the disks of all members in sync: when a run is over.
pub fn look_at_all(world: &mut World, cluster: &Cluster) {
    let Some(view) = cluster.newest_view(world) else { return };
    let members: Vec<NodeInstance> = view.in_sync().map(|member| member.instance).collect();
    members.into_iter().for_each(|member| look(world, cluster, member));
}

fn look(world: &mut World, cluster: &Cluster, me: NodeInstance) {
    let Some(view) = cluster.newest_view(world).cloned() else { return };
    if !cluster.is_up(world, me) {
        return;
    }
    let told = cluster.nodes.iter().filter_map(|node| cluster.control(world, *node));
    let told = told.map(|control| control.epoch_durable()).max().unwrap_or_default();
    let Some(member) = view.member(me.node) else { return };
    let owner = Owner::of(&view, me.node, member.group);
    let host = world.host(cluster.node(me.node));
    if host.disk.lies {
        return;
    }
    // Whatever of the rest survives, by the same draws in every run.
    let mut draw = Rng::new(world.now ^ u64::from(me.node.0));
    let fate = *draw.pick(&[Fate::Nothing, Fate::Nothing, Fate::Prefix, Fate::Any]);
    let mut disk = host.disk.files.clone();
    disk.lose_power(fate, &mut |bound| draw.index(bound));
    let files: Files<'_> = disk.files().collect();
    let reach = survey(&owner, &files);
    if reach.reached.unwrap_or(Epoch(0)) < told {
        let faults: Vec<String> = reach.faults.iter().map(ToString::to_string).collect();
        world.violation(format!(
            "{told} was told to be durable, but a power cut would leave {me} at {:?} {}",
            reach.reached,
            faults.join("; ")
        ));
    }
}
