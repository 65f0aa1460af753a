//! The power fails everywhere at once, and comes back: a run's last act where it is drawn.
//!
//! The clients are gone with the rest, so that nothing they had under way is tried again. What was
//! told until then must have an explanation of its own; what the nodes restore from their disks
//! must be one moment of it (`check::cut`).

use super::check::{self, Watchman, cut};
use super::host::HostId;
use super::run::Run;
use super::workload::Phase;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// How long the nodes wait for each other before a part of them may start.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

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
        self.cut_power();
        let told = self.notes.borrow().history.len();
        self.restore_power();
        self.wait_until_whole();
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
        let mut found = self.notes.borrow().complaints.clone();
        found.extend(cut::check(&self.notes.borrow(), told));
        found.extend(check::at_rest(self));
        found.into_iter().for_each(|text| self.world.violation(text));
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
        // What was acted in before is over; what comes has nothing to follow but the disks.
        self.watchman = Watchman::default();
        self.advance(200 * MS);
    }

    /// The machines come back, in any order.
    fn restore_power(&mut self) {
        self.cluster.patience = PATIENCE;
        let servers = self.cluster.mgmts.iter().chain(&self.cluster.apis).copied();
        for server in servers.collect::<Vec<HostId>>() {
            if self.world.is_dead(server) {
                self.cluster.restart(&mut self.world, server);
            }
        }
        let mut nodes = self.cluster.nodes.clone();
        while !nodes.is_empty() {
            let at = self.rng.index(nodes.len());
            let node = nodes.swap_remove(at);
            self.cluster.revive(&mut self.world, node, false);
            if self.rng.coin() {
                let pause = self.rng.below(2_000 * MS);
                self.advance(pause);
            }
        }
    }

    fn wait_until_whole(&mut self) {
        let limit = self.world.now + BACK_WITHIN;
        while self.world.now < limit && !self.failed() && !self.cluster.is_whole(&self.world) {
            // Whoever has ended meanwhile is started again, as by a supervisor.
            for node in self.cluster.dead_nodes(&self.world) {
                self.cluster.revive(&mut self.world, node, false);
            }
            self.advance(200 * MS);
        }
        if !self.failed() && !self.cluster.is_whole(&self.world) {
            let text = self.cluster.describe(&self.world);
            self.world.violation(format!("the cluster has not come back from its disks: {text}"));
        }
    }
}
