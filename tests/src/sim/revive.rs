//! Data nodes that are started again: the process that looks for the cluster, and the cores that
//! follow it in the same operating-system process.

use std::time::Duration;

use lockstep_cluster::control::ControlCore;
use lockstep_cluster::restart::{RestartCore, RestartOptions};
use lockstep_cluster::restore;
use lockstep_proto::ids::{Epoch, Incarnation, NodeInstance};
use lockstep_proto::process::StoredFile;
use lockstep_proto::recovery::{Goal, Recovery};
use lockstep_proto::stored::Stored;
use lockstep_proto::view::{Member, Placement, Standing, View};
use lockstep_storage::restore::{Files, Owner, survey};

use super::cluster::Cluster;
use super::core::Core;
use super::disk::HostDisk;
use super::host::{HostId, Item, Life, ProcId, Role};
use super::world::World;

impl World {
    /// A node that was started again looks at its files.
    pub(super) fn on_recover(&mut self, id: ProcId, wish: &Recovery) {
        let host = self.procs[id.index()].host;
        let result = self.restore(host, wish);
        self.deliver(id, Item::Recovered(wish.token, result));
    }

    fn restore(&mut self, host: HostId, wish: &Recovery) -> Result<Epoch, String> {
        self.host_mut(host).restored = None;
        let entry = self.host(host);
        let Some(owner) = &entry.owner else { return Ok(Epoch(0)) };
        let owner = Owner {
            generations: wish.generations.clone(),
            held: wish.held.clone(),
            ..owner.clone()
        };
        if wish.goal == Goal::Anew {
            // Parts of backups are none of these files.
            self.host_mut(host).disk.set_data_aside();
            return Ok(Epoch(0));
        }
        let files: Files<'_> = entry.disk.files.files().collect();
        if files.is_empty() {
            return match wish.goal {
                Goal::Rejoin | Goal::Anew | Goal::Exactly(Epoch(0)) => Ok(Epoch(0)),
                Goal::Survey | Goal::Exactly(_) => Err("there are no files".to_owned()),
            };
        }
        let to = match wish.goal {
            Goal::Survey => {
                let reach = survey(&owner, &files);
                if reach.faults.iter().any(|fault| entry.disk.explains(fault)) {
                    *self.tally.marks.entry("rot_named").or_default() += 1;
                }
                let reached = reach.reached.filter(|_| !reach.lost);
                return reached.ok_or_else(|| format!("they reach no epoch {:?}", reach.faults));
            }
            Goal::Rejoin | Goal::Anew => None,
            Goal::Exactly(epoch) => Some(epoch),
        };
        match restore(&owner, &files, to, entry.shards) {
            Ok(restored) => {
                let epoch = restored.epoch;
                self.tally.marks.entry("node_restored").and_modify(|n| *n += 1).or_insert(1);
                self.host_mut(host).restored = Some(restored);
                Ok(epoch)
            }
            Err(faults) if wish.goal != Goal::Rejoin => Err(format!("{faults:?}")),
            Err(faults) if faults.is_empty() => {
                // Its only life has not come as far as to a log of its own. As in production, the
                // files are set aside.
                self.host_mut(host).disk.set_data_aside();
                Ok(Epoch(0))
            }
            Err(faults) if faults.iter().any(|fault| entry.disk.explains(fault)) => {
                *self.tally.marks.entry("rot_named").or_default() += 1;
                self.host_mut(host).disk.set_data_aside();
                Ok(Epoch(0))
            }
            Err(faults) => {
                let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
                let entry = self.host(host);
                let names: Vec<String> = entry
                    .disk
                    .files
                    .files()
                    .map(|(name, bytes)| format!("{name} ({})", bytes.len()))
                    .collect();
                let text = format!(
                    "{} cannot restore its files: {}; there are {}",
                    entry.name,
                    words.join("; "),
                    names.join(", ")
                );
                self.violation(text);
                Ok(Epoch(0))
            }
        }
    }
}

/// Longer than any run: a part of a cluster never starts without the others, unless all power has
/// failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);

impl Cluster {
    /// The newest view on any disk.
    pub(super) fn newest_view_on_disk(&self, world: &World) -> Option<View> {
        let views = self.nodes.iter().map(|node| self.view_on_disk(world, *node));
        views.max_by_key(|view| view.number)
    }

    /// The newest view on a node's disk.
    fn view_on_disk(&self, world: &World, host: HostId) -> View {
        let bytes = world.host(host).files.get(&StoredFile::View);
        let view = bytes.and_then(|bytes| View::from_file(bytes).ok());
        view.unwrap_or_else(|| self.view.clone())
    }

    /// Starts a data node whose process or machine is gone: a new life, with what is on its disk,
    /// or with a new disk.
    pub fn revive(&self, world: &mut World, host: HostId, empty: bool) {
        let Role::Data(before) = world.host(host).role else { return };
        if !matches!(world.host(host).life, Life::Killed | Life::Dark) {
            return;
        }
        let incarnation = Incarnation(before.incarnation.0 + 1);
        let instance = NodeInstance { incarnation, ..before };
        let view = self.view_on_disk(world, host);
        let group = view.member(before.node).map(|member| member.group);
        let seat = view.roster.seat(before.node);
        let Some(group) = group.or_else(|| seat.map(|seat| seat.group)) else { return };
        let member = Member {
            instance,
            group,
            zone: format!("z{}", world.host(host).zone),
            addr: world.host(host).addr.clone(),
            shards: self.shape.shards,
            seniority: 0,
            standing: Standing::Copying,
        };
        let owner = Owner { canary: self.canary, ..Owner::of(&view, instance.node, member.group) };
        let name = instance.to_string();
        let now = world.now;
        world.trace.note(now, || format!("{name} is started"));
        *world.tally.faults.entry("revive").or_default() += 1;
        let entry = world.host_mut(host);
        entry.role = Role::Data(instance);
        entry.name.clone_from(&name);
        entry.life = Life::Running;
        entry.exit = None;
        entry.procs.clear();
        entry.owner = Some(owner);
        entry.shards = self.shape.shards;
        entry.restored = None;
        if empty {
            entry.disk = HostDisk::default();
            entry.disk.replaced = true;
        }
        let core = RestartCore::new(RestartOptions {
            member,
            view,
            mgmt: self.mgmt_list(),
            patience: self.patience,
            force: false,
            canary: self.canary,
        });
        let proc = world.add_proc(host, format!("{name}/r"), Core::Restart(Box::new(core)));
        world.plan_next_turn(proc);
    }

    /// The node has found its cluster: its cores begin in the view on its disk.
    pub fn go_on(&self, world: &mut World, host: HostId) {
        let Role::Data(me) = world.host(host).role else { return };
        if !world.runs(host) {
            return;
        }
        let view = self.view_on_disk(world, host);
        world.end_procs(host);
        if let Some(member) = view.member(me.node).filter(|m| m.instance == me).cloned() {
            self.start_cores(world, host, &member, &view);
        }
    }

    /// Whether the cluster lives: in the newest view that somebody acts in, every group has a
    /// member in sync whose process is there.
    #[must_use]
    pub fn serves(&self, world: &World) -> bool {
        let acting = self.nodes.iter().filter_map(|node| self.control(world, *node));
        let view = acting.filter(|control| control.acts()).map(ControlCore::view);
        let Some(view) = view.max_by_key(|view| view.number) else { return false };
        view.groups().iter().all(|group| {
            let mut mates = view.in_sync().filter(|member| member.group == *group);
            mates.any(|member| self.is_up(world, member.instance))
        })
    }

    /// Whether exactly this life of a node runs.
    #[must_use]
    pub fn is_up(&self, world: &World, instance: NodeInstance) -> bool {
        let host = self.node(instance.node);
        world.host(host).role == Role::Data(instance) && world.runs(host)
    }

    /// Whether all nodes are in sync, act in one view, and lead what they should.
    #[must_use]
    pub fn is_whole(&self, world: &World) -> bool {
        let Some(view) = self.newest_view(world) else { return false };
        let acts = |member: &Member| {
            let control = self.control(world, self.node(member.instance.node));
            self.is_up(world, member.instance)
                && control.is_some_and(|c| c.acts() && c.view().number == view.number)
        };
        view.members.iter().all(acts) && self.is_in_order(view) && !self.newcomer_asks(world)
    }

    /// Who is where, in words.
    #[must_use]
    pub fn describe(&self, world: &World) -> String {
        let Some(view) = self.newest_view(world) else { return "nobody is left".into() };
        let members = view.members.iter().map(|m| format!("{} {:?}", m.instance, m.standing));
        let dead = self.dead_nodes(world);
        let dead = dead.iter().map(|node| format!("{} is dead", world.host(*node).name));
        let well = |p: &Placement| view.preferred_primary(p) == Some(p.primary);
        let led = view.placements.iter().filter(|p| !well(p));
        let missing = view.roster.seats.iter().filter(|seat| view.member(seat.node).is_none());
        let missing = missing.map(|seat| format!("{} is not there", seat.node));
        let moving = view.moving().map(|(p, to)| format!("{p} moves to {}", to.group));
        let owned = view.node_groups().into_iter();
        let owned: Vec<String> =
            owned.map(|g| format!("{g} owns {}", view.owned_by(g))).chain(moving).collect();
        let led = format!("{} partitions led by others, {}", led.count(), owned.join(", "));
        let words: Vec<String> = members.chain(dead).chain(missing).chain([led]).collect();
        format!("view {}: {}", view.number, words.join(", "))
    }

    /// Data nodes whose process is gone, and who have not been removed.
    #[must_use]
    pub fn dead_nodes(&self, world: &World) -> Vec<HostId> {
        let view = self.newest_view(world);
        let belongs = |host: &HostId| match world.host(*host).role {
            Role::Data(me) => view.is_none_or(|view| view.roster.seat(me.node).is_some()),
            _ => false,
        };
        self.nodes.iter().copied().filter(|n| world.is_dead(*n)).filter(belongs).collect()
    }
}
