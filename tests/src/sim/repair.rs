//! What somebody does about processes that are gone: they are started again, and in the end
//! everybody is there who belongs to the cluster.

use lockstep_proto::orders::Order;

use super::host::{HostId, Role};
use super::run::{MS, Run, SECOND};

impl Run {
    /// Dead clients get successors at once, dead management servers after a while.
    pub(super) fn replace_dead(&mut self) {
        for client in self.cluster.clients.clone() {
            if self.world.is_dead(client) {
                let (world, notes) = (&mut self.world, &self.notes);
                self.cluster.start_client(world, client, notes, &mut self.rng);
                self.give_tasks(client);
            }
        }
        let servers = self.cluster.mgmts.iter().chain(&self.cluster.apis).copied();
        for server in servers.collect::<Vec<HostId>>() {
            if self.world.is_dead(server) && self.rng.one_in(8) {
                self.cluster.restart(&mut self.world, server, self.rng.one_in(3));
            }
        }
    }

    /// Dead data nodes come back, one in so many of them, while there is a cluster to come back to.
    pub(super) fn revive_dead(&mut self, one_in: u64) {
        for node in self.cluster.dead_nodes(&self.world) {
            if self.rng.one_in(one_in) && self.cluster.serves(&self.world) {
                let empty = self.script.is_none() && self.rng.one_in(3);
                self.cluster.revive(&mut self.world, node, empty);
            }
        }
    }

    /// Every node comes back, is in sync and leads what it should, however often it takes.
    pub(super) fn make_whole(&mut self) {
        let wanted = self.script.as_ref().map_or(!self.plan.is_calm(), |script| script.whole);
        if !wanted {
            return;
        }
        let limit = self.world.now + 30 * SECOND;
        while self.world.now < limit && !self.failed() && !self.cluster.is_whole(&self.world) {
            self.revive_dead(1);
            self.tidy_roster();
            self.advance(200 * MS);
        }
        if !self.failed() && !self.cluster.is_whole(&self.world) {
            let text = self.cluster.describe(&self.world);
            self.world.violation(format!("not all nodes are in sync again after 30 s: {text}"));
        }
    }

    /// Seats that nobody knows of are removed, and then newcomers whose process has died try again:
    /// while there is a seat for their address, only who knows of it is let in.
    pub(super) fn tidy_roster(&mut self) {
        if self.cluster.newcomer_asks(&self.world) {
            return;
        }
        let view = self.cluster.newest_view(&self.world);
        let seats = view.map(|view| self.cluster.seats_of_nobody(view)).unwrap_or_default();
        let lost = !seats.is_empty();
        let orders = seats.into_iter().map(|node| Order::Remove { node });
        self.notes.borrow_mut().orders = orders.collect();
        for host in self.cluster.fresh.clone() {
            let half = !self.world.host(host).files.is_empty();
            if half && !lost && self.world.host(host).role == Role::Fresh {
                self.cluster.come(&mut self.world, host, None, None);
            }
        }
    }
}
