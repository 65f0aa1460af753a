//! Logs and rows of the replicas of one partition, compared with each other.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_cluster::RowsAt;
use lockstep_cluster::shard::ShardInspection;
use lockstep_proto::ids::{Epoch, NodeInstance, PartitionId, Seq, ViewNumber};

use crate::sim::cluster::Cluster;
use crate::sim::core::Core;
use crate::sim::host::{HostId, Role};
use crate::sim::world::World;

/// Log positions remembered for comparison, in all.
const REMEMBERED_MAX: usize = 50_000;

/// What replicas were seen to have at which position.
#[derive(Default)]
pub struct LogBook {
    digests: BTreeMap<(PartitionId, Seq), (NodeInstance, u64)>,
    stable: BTreeMap<PartitionId, Seq>,
    /// The newest view anybody was seen in.
    newest: ViewNumber,
}

/// What the shards of a running node show.
pub fn inspections(world: &World, node: HostId, with_rows: bool) -> Vec<ShardInspection> {
    let procs = &world.host(node).procs;
    procs
        .iter()
        .filter_map(|proc| match world.procs[proc.index()].core.as_ref()? {
            Core::Shard(shard) => Some(shard.inspect(with_rows)),
            _ => None,
        })
        .collect()
}

impl LogBook {
    /// Compares members of the newest view: equal log prefix, equal digest; and no member's log
    /// ends before what was seen to be stable.
    pub fn sample(&mut self, world: &mut World, cluster: &Cluster) {
        let Some(view) = cluster.newest_view(world) else { return };
        let (number, members) = (view.number, view.members.clone());
        if number < self.newest {
            return; // All members of the newest view have ended: who is left has lost.
        }
        self.newest = number;
        let mut found = Vec::new();
        for member in &members {
            let me = member.instance;
            let host = cluster.node(me.node);
            for shard in inspections(world, host, false) {
                if shard.late_records > 0 {
                    found.push(format!("{me} committed in an epoch that was closed already"));
                }
                if shard.view != number {
                    continue;
                }
                for part in shard.partitions.iter().filter(|part| part.in_sync) {
                    let position = (part.partition, part.end);
                    let mine = (me, part.log_digest);
                    if let Some((other, digest)) = self.digests.insert(position, mine)
                        && digest != part.log_digest
                        && members.iter().any(|member| member.instance == other)
                    {
                        found.push(format!(
                            "{other} and {me} have different logs of {} up to {}",
                            part.partition, part.end
                        ));
                    }
                    let stable = self.stable.entry(part.partition).or_default();
                    *stable = (*stable).max(part.stable);
                    if part.end < *stable {
                        found.push(format!(
                            "{me} has the log of {} up to {} only, but {} was stable",
                            part.partition, part.end, stable
                        ));
                    }
                }
            }
        }
        if self.digests.len() > REMEMBERED_MAX {
            self.digests.clear();
        }
        for text in found {
            world.violation(text);
        }
    }
}

/// What keeps shards of running nodes from being idle, in words.
#[must_use]
pub fn stuck(world: &World, cluster: &Cluster) -> String {
    let mut text = Vec::new();
    for node in super::running(world, cluster) {
        for shard in inspections(world, node, false) {
            let (open, waiting) = (shard.coordinated, shard.reads_waiting);
            if open + waiting + shard.takeovers > 0 {
                let takeovers = shard.takeovers;
                text.push(format!(
                    "{} in {}: {open} coordinated, {takeovers} take-overs, {waiting} reads wait",
                    shard.addr, shard.view
                ));
            }
            for part in shard.partitions.iter().filter(|part| part.leads) {
                if !part.open.is_empty() || !part.prepared.is_empty() || part.blocked > 0 {
                    text.push(format!(
                        "{} of {}: open {:?}, prepared {:?}, {} block others, end {}, stable {}",
                        part.partition,
                        shard.addr,
                        part.open,
                        part.prepared,
                        part.blocked,
                        part.end,
                        part.stable
                    ));
                }
            }
        }
    }
    if text.is_empty() { "all shards are idle".into() } else { text.join("; ") }
}

/// When everything is healed and quiet: replicas are equal, and nothing is left without an owner.
#[must_use]
pub fn at_rest(world: &World, cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let mut replicas: BTreeMap<PartitionId, Vec<(NodeInstance, Seq, u64, u64)>> = BTreeMap::new();
    let mut closed = Epoch(0);
    for node in super::running(world, cluster) {
        let Role::Data(me) = world.host(node).role else { continue };
        for shard in inspections(world, node, true) {
            closed = closed.max(shard.closed);
            found.extend(leftovers(&shard));
            for part in &shard.partitions {
                let seen = (me, part.end, part.log_digest, part.rows_digest);
                replicas.entry(part.partition).or_default().push(seen);
            }
        }
    }
    for (partition, seen) in &replicas {
        let (first, end, log, rows) = seen[0];
        for (other, other_end, other_log, other_rows) in &seen[1..] {
            if (end, log, rows) != (*other_end, *other_log, *other_rows) {
                found.push(format!(
                    "{first} and {other} differ in {partition}: log {end} {log:016x} rows \
                     {rows:016x}, log {other_end} {other_log:016x} rows {other_rows:016x}"
                ));
            }
        }
    }
    if closed == Epoch(0) {
        found.push("no epoch was ever closed".into());
    }
    found
}

/// Rows told by each difference between two replicas.
const TOLD: usize = 5;

/// The first rows in which the replicas of a partition differ.
#[must_use]
pub fn differences(world: &mut World, cluster: &Cluster) -> Vec<String> {
    let mut held: BTreeMap<PartitionId, Vec<(NodeInstance, RowsAt)>> = BTreeMap::new();
    for node in super::running(world, cluster) {
        let Role::Data(me) = world.host(node).role else { continue };
        let mut rows = RowsAt::new();
        for proc in world.host(node).procs.clone() {
            if let Some(Core::Shard(shard)) = &mut world.procs[proc.index()].core {
                rows.extend(shard.rows_at(Epoch(u64::MAX)));
            }
        }
        for shard in inspections(world, node, false) {
            for part in &shard.partitions {
                let of = |(key, _): &(&(PartitionId, _, _), _)| key.0 == part.partition;
                let own = rows.iter().filter(of).map(|(k, v)| (k.clone(), v.clone())).collect();
                held.entry(part.partition).or_default().push((me, own));
            }
        }
    }
    let mut found = Vec::new();
    for replicas in held.values() {
        let Some(((first, rows), others)) = replicas.split_first() else { continue };
        for (other, other_rows) in others {
            let keys = rows.keys().chain(other_rows.keys());
            let unequal = keys.filter(|key| rows.get(*key) != other_rows.get(*key));
            for key in unequal.collect::<BTreeSet<_>>().into_iter().take(TOLD) {
                let (here, there) = (rows.get(key), other_rows.get(key));
                found.push(format!("{key:?}: {first} has {here:?}, {other} has {there:?}"));
            }
        }
    }
    found
}

fn leftovers(shard: &ShardInspection) -> Vec<String> {
    let mut found = Vec::new();
    let me = shard.addr;
    if shard.coordinated > 0 {
        found.push(format!("{me} still coordinates {} transactions", shard.coordinated));
    }
    if shard.takeovers > 0 {
        found.push(format!("{me} still takes over {} transactions", shard.takeovers));
    }
    if shard.reads_waiting > 0 {
        found.push(format!("{me} has {} reads that wait for ever", shard.reads_waiting));
    }
    if shard.frames_held > 0 {
        found.push(format!("{me} holds {} frames of a view it never entered", shard.frames_held));
    }
    for part in &shard.partitions {
        let p = part.partition;
        if !part.lock_owners.is_empty() {
            found.push(format!("{me} {p}: locks without an owner: {:?}", part.lock_owners));
        }
        if !part.open.is_empty() {
            found.push(format!("{me} {p}: staged writes without an owner: {:?}", part.open));
        }
        if !part.prepared.is_empty() {
            found.push(format!("{me} {p}: prepared for ever: {:?}", part.prepared));
        }
        if part.owed > 0 || part.blocked > 0 {
            found.push(format!("{me} {p}: {} answers owed, {} blocked", part.owed, part.blocked));
        }
    }
    found
}
