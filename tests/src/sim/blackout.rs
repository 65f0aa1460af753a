//! The power fails everywhere at once, and comes back: a run's last act where it is drawn.
//!
//! The clients are gone with the rest, so that nothing they had under way is tried again. What was
//! told until then must have an explanation of its own; what the nodes restore from their disks
//! must be one moment of it (`check::cut`). In a sweep one more thing may go wrong while they come
//! back, up to all power failing once more.

use lockstep_proto::disk::Directory;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::Member;

use super::check::{self, Watchman, cut};
use super::disk::Rotting;
use super::host::{HostId, Life};
use super::run::Run;
use super::workload::Phase;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// How long the nodes wait for each other before a part of them may start.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

/// When a fault that lasts ends: a part of the nodes has started without its victim by then, and a
/// victim that was never heard is not excused any more.
const HEALED_AFTER: u64 = 7_000 * MS;

/// Until it has shown what it has cost.
const SETTLED_AFTER: u64 = 1_500 * MS;

/// How long it may take until all nodes are in sync again.
const BACK_WITHIN: u64 = 40 * SECOND;

impl Run {
    /// See the module text.
    pub(super) fn black_out(&mut self) {
        *self.world.tally.faults.entry("blackout").or_default() += 1;
        self.notes.borrow_mut().phase = Phase::Drain;
        for client in self.cluster.clients.clone() {
            self.world.power_off(client);
        }
        let found = check::history::check(&self.notes.borrow(), false);
        found.into_iter().for_each(|text| self.world.violation(text));
        check::durable::look_at_all(&mut self.world, &self.cluster);
        if self.failed() {
            return;
        }
        // Now, and of what was not synced this is left, if a crash point says so.
        self.world.fate = self.world.blackout.take();
        self.cut_power();
        if let Some(script) = self.script.clone() {
            script.dark.iter().for_each(|act| self.carry_out(act));
        } else if self.plan.blackout && self.rng.coin() {
            self.let_files_rot();
        }
        let told = self.notes.borrow().history.len();
        let dark = self.done_so_far();
        self.restore_power();
        self.wait_until_whole();
        self.restart = (dark, self.done_so_far());
        if self.failed() {
            return;
        }
        let client = self.cluster.clients[0];
        let (world, notes) = (&mut self.world, &self.notes);
        self.cluster.start_client(world, client, notes, &mut self.rng);
        self.notes.borrow_mut().open = 0;
        self.finale();
        if self.failed() {
            return;
        }
        check::durable::look_at_all(&mut self.world, &self.cluster);
        self.watchman.backups.look_at_all(&mut self.world, &self.cluster);
        let mut found = self.notes.borrow().complaints.clone();
        found.extend(cut::check(&self.notes.borrow(), told));
        found.extend(check::at_rest(self));
        found.into_iter().for_each(|text| self.world.violation(text));
    }

    /// Bits flip in the files of one node that is not the last in sync of its group.
    fn let_files_rot(&mut self) {
        let Some(view) = self.cluster.newest_view_on_disk(&self.world) else { return };
        // Who was replaced a moment ago may still count as in sync, and has nothing.
        let has_files = |other: &Member| {
            let disk = &self.world.host(self.cluster.node(other.instance.node)).disk;
            disk.files.files().any(|(name, _)| !matches!(name.directory(), Directory::Backup(_)))
        };
        let has_mate = |member: &&Member| {
            let mates = view.in_sync().filter(|other| other.group == member.group);
            mates.filter(|other| has_files(other)).count() > 1
        };
        let all: Vec<NodeId> = view.in_sync().filter(has_mate).map(|m| m.instance.node).collect();
        if all.is_empty() {
            return;
        }
        let host = self.cluster.node(*self.rng.pick(&all));
        let kind = if self.rng.coin() { Rotting::Redo } else { Rotting::Checkpoints };
        self.world.rot(host, kind);
    }

    /// Everything is dark, and what was not synced is as the disks happened to leave it.
    fn cut_power(&mut self) {
        self.world.ambush = None;
        self.world.watches.clear();
        for node in self.cluster.nodes.clone() {
            match self.world.is_dead(node) {
                // Its process was gone before, and the machine goes now.
                true => self.world.lose_unsynced(node),
                false => self.world.power_off(node),
            }
        }
        let servers = self.cluster.mgmts.iter().chain(&self.cluster.apis).copied();
        for server in servers.collect::<Vec<HostId>>() {
            if self.rng.coin() {
                self.world.power_off(server);
            }
        }
        self.world.heal();
        self.world.fate = None;
        // What was acted in before is over; what comes has nothing to follow but the disks.
        let backups = std::mem::take(&mut self.watchman.backups);
        self.watchman = Watchman::default();
        self.watchman.backups = backups;
        self.advance(200 * MS);
    }

    /// The machines come back, in any order.
    fn restore_power(&mut self) {
        self.cluster.patience = PATIENCE;
        let servers = self.cluster.mgmts.iter().chain(&self.cluster.apis).copied();
        for server in servers.collect::<Vec<HostId>>() {
            if self.world.is_dead(server) {
                self.cluster.restart(&mut self.world, server, false);
            }
        }
        let most = if self.script.is_some() { 50 * MS } else { 2_000 * MS };
        let mut nodes = self.cluster.nodes.clone();
        while !nodes.is_empty() && self.world.blackout.is_none() {
            let at = self.rng.index(nodes.len());
            let node = nodes.swap_remove(at);
            self.cluster.revive(&mut self.world, node, false);
            if self.rng.coin() {
                let pause = self.rng.below(most);
                self.advance(pause);
            }
        }
    }

    fn wait_until_whole(&mut self) {
        let mut limit = self.world.now + BACK_WITHIN;
        let healed = self.world.now + HEALED_AFTER;
        while self.world.now < limit && !self.failed() {
            if let Some(fate) = self.world.blackout.take() {
                self.world.fate = Some(fate);
                self.cut_power();
                self.restore_power();
                limit = self.world.now + BACK_WITHIN;
                continue;
            }
            if self.lasting && self.world.now >= healed {
                self.lasting = false;
                self.world.heal();
                self.advance(SETTLED_AFTER);
            }
            if !self.lasting && self.cluster.is_whole(&self.world) {
                break;
            }
            // Whoever has ended meanwhile is started again, as by a supervisor; a machine without
            // power comes back when everything is healed.
            for node in self.cluster.dead_nodes(&self.world) {
                if !self.lasting || self.world.host(node).life == Life::Killed {
                    self.cluster.revive(&mut self.world, node, false);
                }
            }
            self.advance(200 * MS);
        }
        if !self.failed() && !self.cluster.is_whole(&self.world) {
            let text = self.cluster.describe(&self.world);
            self.world.violation(format!("the cluster has not come back from its disks: {text}"));
        }
    }
}
