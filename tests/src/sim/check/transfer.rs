//! Partitions that move to another node group.

use lockstep_proto::view::View;

use super::replicas::inspections;
use crate::sim::cluster::Cluster;
use crate::sim::host::Role;
use crate::sim::world::World;

/// Of two views that were in force one after the other: a partition is another group's only if that
/// one had everything that is stable in it.
pub(super) fn between(older: &View, newer: &View) -> Option<String> {
    let partitions = older.partitions().zip(older.placements.iter().zip(&newer.placements));
    partitions.into_iter().find_map(|(partition, (before, after))| {
        let given = before.to.is_some_and(|to| to.attached && to.group == after.group);
        (before.group != after.group && !given).then(|| {
            format!(
                "{partition} is of {} in view {} and of {} in {}, which was not attached to it",
                before.group, older.number, after.group, newer.number
            )
        })
    })
}

/// When nothing goes on any more, each partition is held by its replicas and by nobody else.
pub(super) fn at_rest(world: &World, cluster: &Cluster) -> Vec<String> {
    let Some(view) = cluster.newest_view(world) else { return Vec::new() };
    let mut found = Vec::new();
    for node in super::running(world, cluster) {
        let Role::Data(me) = world.host(node).role else { continue };
        if !view.contains(me) {
            continue;
        }
        let shards = inspections(world, node, false);
        for partition in view.partitions() {
            let mut holding = shards
                .iter()
                .filter(|shard| shard.partitions.iter().any(|part| part.partition == partition));
            let (held, more) = (holding.next().map(|shard| shard.addr), holding.next());
            if held != view.shard_of(partition, me.node) || more.is_some() {
                found.push(format!("{me} holds {partition} at {held:?}, contrary to the view"));
            }
        }
    }
    found
}
