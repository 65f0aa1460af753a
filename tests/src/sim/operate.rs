//! What an operator does in a run: drawn like faults, and never so that together with a fault it
//! could cost the cluster more than it is made to survive.

use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::orders::Order;
use lockstep_proto::view::View;

use super::cluster::Cluster;
use super::host::HostId;
use super::plan::{Operation, Plan};
use super::rng::Rng;
use super::world::World;

const MS: u64 = 1_000_000;

/// Time in which an order is obeyed or given up; no grave fault falls into it if it takes replicas
/// away.
const OBEYED_NS: u64 = 4_000 * MS;

/// Time in which a node group is there once it was wanted; no grave fault falls into it, since
/// nobody knows yet that its nodes are needed.
const SEATED_NS: u64 = 1_000 * MS;

impl Plan {
    /// Draws what somebody wants of the cluster, if anything, at the time of a fault.
    pub fn draw_operation(&mut self, world: &World, cluster: &Cluster) -> Option<Operation> {
        let now = world.now;
        if self.operates.is_none_or(|after| now < after) || !self.rng.percent(40) {
            return None;
        }
        self.operates = Some(now + self.rng.range(300, 1_500) * MS);
        let view = cluster.newest_view(world)?;
        if self.rng.coin() {
            let free = |host: &HostId| world.is_dead(*host);
            let free: Vec<HostId> = cluster.fresh.iter().copied().filter(free).collect();
            if !free.is_empty() {
                return Some(Operation::Come(*self.rng.pick(&free)));
            }
        }
        let nodes: Vec<NodeId> = view.roster.seats.iter().map(|seat| seat.node).collect();
        let node = *self.rng.pick(&nodes);
        let order = match self.rng.below(11) {
            0..=1 => Order::Drain { node, drained: self.rng.coin() },
            2 => {
                let groups = view.owners();
                Order::Join { node, group: *self.rng.pick(&groups) }
            }
            3 => Order::PrimaryZone { zone: zone(&mut self.rng) },
            4 => Order::Replicas { count: self.rng.range(1, 3).try_into().unwrap_or(1) },
            5..=6 => Order::Spare { node },
            7..=8 => Order::CreateGroup { nodes: self.some_spares(view) },
            9 => {
                let groups = view.node_groups();
                Order::DropGroup { group: *self.rng.pick(&groups) }
            }
            _ => Order::Remove { node },
        };
        let takes =
            matches!(order, Order::Replicas { .. } | Order::Spare { .. } | Order::Remove { .. });
        if takes && (self.is_grave(now) || now < self.grave_after) {
            return None;
        }
        if let Order::CreateGroup { nodes } = &order
            && nodes.iter().all(|node| self.is_doomed(now, cluster.node(*node)))
        {
            return None;
        }
        if view.refusal(&order).is_some() {
            return None;
        }
        let obeyed = match order {
            Order::CreateGroup { .. } => SEATED_NS,
            _ if takes => OBEYED_NS,
            _ => 0,
        };
        self.grave_after = self.grave_after.max(now + obeyed);
        Some(Operation::Order(order))
    }

    /// Some of the spares that are there.
    fn some_spares(&mut self, view: &View) -> Vec<NodeId> {
        let spares = view.members.iter().filter(|m| m.group == GroupId::NONE);
        let spares: Vec<NodeId> = spares.map(|m| m.instance.node).collect();
        let count = usize::from(view.config.replicas).min(spares.len());
        let first = self.rng.index(spares.len() - count + 1);
        spares[first..first + count].to_vec()
    }
}

fn zone(rng: &mut Rng) -> String {
    match rng.below(3) {
        0 => String::new(),
        zone => format!("z{}", zone - 1),
    }
}
