//! Backups: whoever finds a manifest finds all parts it names, and in them exactly what was there
//! as of its epoch. What was there is noted when the epoch has been pinned, before much is written.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::disk::FileName;
use lockstep_proto::ids::{BackupId, Epoch, MgmtId, NodeId, PartitionId, TableId};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::stored::{Stored, StoredBackups};
use lockstep_proto::wire::backup::{BackupRecord, BackupState, Manifest, ManifestPart};
use lockstep_storage::backup::{PartFile, Unpacked};
use lockstep_storage::disk::{Fate, SimulatedDisk};

use crate::sim::cluster::Cluster;
use crate::sim::core::Core;
use crate::sim::event::Event;
use crate::sim::host::{HostId, Role};
use crate::sim::world::World;

/// The rows of a partition by table and key.
type Rows = BTreeMap<(TableId, Box<[u8]>), Box<[u8]>>;

/// What is known of the epochs that were backed up.
#[derive(Default)]
pub struct BackupBook {
    states: BTreeMap<(BackupId, Epoch), BTreeMap<PartitionId, Rows>>,
    /// Backups that were done, by management server.
    done: BTreeMap<HostId, usize>,
    /// Who has had the last word on each backup, and with which turn, as far as anybody ever knew.
    words: BTreeMap<BackupId, (u64, MgmtId)>,
}

impl BackupBook {
    /// Looks at the process that has just had a turn.
    #[inline]
    pub fn after_event(&mut self, world: &mut World, cluster: &Cluster, event: &Event) {
        let Event::Wake(proc) = event else { return };
        let host = world.procs[proc.index()].host;
        let Some(Core::Mgmt(core)) = &world.procs[proc.index()].core else { return };
        for record in core.backup_records() {
            let word = self.words.entry(record.backup).or_insert((record.turn, record.by));
            *word = (record.turn, record.by).max(*word);
        }
        let pinned = core.backup_pinned();
        let records = core.backup_records().iter();
        let done = records.filter(|record| record.state == BackupState::Done).count();
        if let Some(key) = pinned
            && !self.states.contains_key(&key)
        {
            let state = state_at(world, cluster, key.1);
            self.states.insert(key, state);
        }
        if self.done.insert(host, done).unwrap_or(0) < done {
            self.look(world, cluster, None);
        }
    }

    /// Looks at all manifests there are: as they are, and as a loss of all power would leave them.
    pub fn look_at_all(&self, world: &mut World, cluster: &Cluster) {
        self.look(world, cluster, None);
        self.look(world, cluster, Some(Fate::Nothing));
    }

    fn look(&self, world: &mut World, cluster: &Cluster, fate: Option<Fate>) {
        let disk_of = |host: HostId| {
            let mut disk = world.host(host).disk.files.clone();
            if let Some(fate) = fate {
                disk.lose_power(fate, &mut |_| 0);
            }
            disk
        };
        let mut found = Vec::new();
        let nodes: BTreeMap<HostId, SimulatedDisk> =
            cluster.nodes.iter().map(|host| (*host, disk_of(*host))).collect();
        for server in &cluster.mgmts {
            let Role::Mgmt(id) = world.host(*server).role else { continue };
            for (name, bytes) in disk_of(*server).files() {
                let FileName::Manifest(backup) = name else { continue };
                // An operator had another server remove it while this one could not be reached. It
                // may not learn of it: the other one may have lost its directory meanwhile.
                if self.words.get(&backup).is_some_and(|(_, by)| *by != id) {
                    continue;
                }
                match Manifest::from_file(bytes) {
                    Ok(manifest) => {
                        let rows = self.states.get(&(backup, manifest.epoch));
                        for part in &manifest.parts {
                            let host = cluster.node(part.node);
                            let disk = &world.host(host).disk;
                            if disk.lies || disk.replaced {
                                continue;
                            }
                            let judged = judge(&manifest, part, &nodes[&host], rows);
                            found.extend(judged.err().map(|text| format!("{backup}: {text}")));
                        }
                    }
                    Err(error) => found.push(format!("the manifest of {backup} {error}")),
                }
            }
        }
        found.into_iter().for_each(|text| world.violation(text));
    }
}

/// The newest that any management server has noted of each backup.
fn records(world: &World, cluster: &Cluster) -> BTreeMap<BackupId, BackupRecord> {
    let mut newest: BTreeMap<BackupId, BackupRecord> = BTreeMap::new();
    for server in &cluster.mgmts {
        let file = world.host(*server).files.get(&StoredBackups::FILE);
        let stored = file.and_then(|bytes| StoredBackups::from_file(bytes).ok());
        for record in stored.into_iter().flat_map(|stored| stored.list) {
            let known = newest.get(&record.backup).map(|known| (known.turn, known.by));
            if known.is_none_or(|known| known < (record.turn, record.by)) {
                newest.insert(record.backup, record);
            }
        }
    }
    newest
}

/// The parts that manifests name, and where they lie.
fn named(world: &World, cluster: &Cluster) -> BTreeSet<(NodeId, FileName)> {
    let files = cluster.mgmts.iter().flat_map(|server| world.host(*server).disk.files.files());
    let manifests = files.filter_map(|(name, bytes)| match name {
        FileName::Manifest(_) => Manifest::from_file(bytes).ok(),
        _ => None,
    });
    let parts = manifests.flat_map(|manifest| {
        let backup = manifest.backup;
        manifest.parts.into_iter().map(move |part| (part.node, FileName::Part(part.name(backup))))
    });
    parts.collect()
}

/// Whether a management server has something to remove.
#[must_use]
pub fn has_leftovers(world: &World, cluster: &Cluster) -> bool {
    let cores = cluster.mgmts.iter().filter(|server| world.runs(**server));
    let mut procs = cores.flat_map(|server| &world.host(*server).procs);
    procs.any(|proc| match &world.procs[proc.index()].core {
        Some(Core::Mgmt(core)) => core.has_leftovers(),
        _ => false,
    })
}

/// Looks for files that nobody wants, at nodes that are in sync and known to a server that runs.
pub fn look_for_leftovers(world: &mut World, cluster: &Cluster) {
    let Some(view) = cluster.newest_view(world) else { return };
    // Who has lost its directory has forgotten the backups it was making, and what lies about.
    if cluster.mgmts.iter().any(|server| world.host(*server).disk.replaced) {
        return;
    }
    let records = records(world, cluster);
    let named = named(world, cluster);
    let mut found = Vec::new();
    for member in view.in_sync() {
        let node = member.instance.node;
        let disk = &world.host(cluster.node(node)).disk;
        if disk.lies || disk.replaced {
            continue;
        }
        for (file, _) in disk.files.files() {
            let (FileName::Part(name) | FileName::Unfinished(name)) = file else { continue };
            let Some(record) = records.get(&name.backup) else {
                found.push(format!("{file} is left, and nobody knows of its backup"));
                continue;
            };
            let runs = cluster.mgmts.iter().any(|server| {
                world.host(*server).role == Role::Mgmt(record.by) && world.runs(*server)
            });
            let wanted = record.parts_at.contains(&node);
            if runs && !wanted {
                found.push(format!("{file} is left at {node} of a backup that is {record:?}"));
            }
            if runs && wanted && !named.contains(&(node, file)) {
                found.push(format!("{file} is left at {node}, and no manifest names it"));
            }
        }
    }
    found.into_iter().for_each(|text| world.violation(text));
}

/// What those who have pinned an epoch, and have it, have as of it. A replica that was copied since
/// keeps the epoch pinned for its other partitions, and knows of this one only what came later.
fn state_at(world: &mut World, cluster: &Cluster, epoch: Epoch) -> BTreeMap<PartitionId, Rows> {
    let mut all: BTreeMap<PartitionId, Rows> = BTreeMap::new();
    for node in super::running(world, cluster) {
        for proc in world.host(node).procs.clone() {
            let Some(Core::Shard(shard)) = &mut world.procs[proc.index()].core else { continue };
            if !shard.has_pinned(epoch) {
                continue;
            }
            let held: Vec<PartitionId> = shard
                .inspect(false)
                .partitions
                .iter()
                .map(|part| part.partition)
                .filter(|p| shard.has_past(*p, epoch).is_ok())
                .collect();
            let mut own: BTreeMap<PartitionId, Rows> =
                held.into_iter().map(|p| (p, Rows::new())).collect();
            for ((p, table, key), (_, value)) in shard.rows_at(epoch) {
                if let Some(rows) = own.get_mut(&p)
                    && (table != CATALOG || p == PartitionId(0))
                {
                    rows.insert((table, key), value);
                }
            }
            all.extend(own);
        }
    }
    all
}

fn judge(
    manifest: &Manifest,
    part: &ManifestPart,
    disk: &SimulatedDisk,
    rows: Option<&BTreeMap<PartitionId, Rows>>,
) -> Result<(), String> {
    let name = part.name(manifest.backup);
    let file = disk.files().find(|(file, _)| *file == FileName::Part(name));
    let (_, bytes) = file.ok_or_else(|| format!("{name} is in the manifest and not there"))?;
    let opened = PartFile::open(name, bytes).map_err(|fault| fault.to_string())?;
    if opened.sum() != part.sum || opened.header().epoch != manifest.epoch {
        return Err(format!("{name} is not what the manifest says"));
    }
    let mut found: BTreeMap<PartitionId, Rows> = BTreeMap::new();
    let mut room = Unpacked::default();
    for block in opened.blocks() {
        let rows = block.rows(&mut room).map_err(|fault| fault.to_string())?;
        let (p, table) = (rows.partition, rows.table);
        if !part.partitions.contains(&p) {
            return Err(format!("{name} has rows of {p}"));
        }
        for row in rows {
            let twice =
                found.entry(p).or_default().insert((table, row.key.into()), row.value.into());
            if twice.is_some() {
                return Err(format!("{name} has {:?} of {table} in {p} twice", row.key));
            }
        }
    }
    for p in &part.partitions {
        let Some(wanted) = rows.and_then(|rows| rows.get(p)) else { continue };
        let had = found.remove(p).unwrap_or_default();
        if had == *wanted {
            continue;
        }
        let keys = had.keys().chain(wanted.keys());
        let first = keys.filter(|key| had.get(*key) != wanted.get(*key)).min();
        let (here, there) = (first.and_then(|k| had.get(k)), first.and_then(|k| wanted.get(k)));
        return Err(format!(
            "{name} has {here:?} for {first:?} of {p}, as of {} there was {there:?}",
            manifest.epoch
        ));
    }
    Ok(())
}
