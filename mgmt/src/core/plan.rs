//! From newcomers to the first view: who gets which node id, which group, which partitions.
//!
//! A pure function of the plan and the newcomers, so that the layout of a cluster can be read off
//! its configuration: node ids as wished, replicas of a group in different zones, partitions in
//! contiguous runs, primarieship spread over shards and replicas.

use std::collections::BTreeMap;

use lockstep_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, NodeId, NodeInstance, RestartGeneration, ViewNumber,
};
use lockstep_proto::roster::{Newcomer, Roster};
use lockstep_proto::view::{Arbitrator, ClusterConfig, Member, Placement, Standing, View};

/// What the operator wants the cluster to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterPlan {
    /// Node groups.
    pub groups: u16,
    /// Availability zones the nodes may report; empty means: whatever they report.
    pub zones: Vec<String>,
    /// Cluster-wide settings, replicas and partitions among them.
    pub config: ClusterConfig,
}

impl ClusterPlan {
    /// How many data nodes make the cluster.
    #[must_use]
    pub fn nodes(&self) -> usize {
        usize::from(self.groups) * usize::from(self.config.replicas)
    }

    /// How many data nodes one configured zone can take, so that the replicas of every group can
    /// be spread over the zones.
    #[must_use]
    pub fn nodes_per_zone_max(&self) -> usize {
        let zones = self.zones.len().max(1);
        usize::from(self.config.replicas).div_ceil(zones) * usize::from(self.groups)
    }

    /// The first view of a cluster of these newcomers, with the newcomer behind each member, in
    /// order of node id.
    ///
    /// # Panics
    /// If there are not as many newcomers as the plan has nodes, or two wish the same node id.
    #[must_use]
    pub fn first_view(
        &self,
        cluster: ClusterId,
        newcomers: Vec<Newcomer>,
        arbitrators: Vec<Arbitrator>,
    ) -> (View, Vec<Newcomer>) {
        assert_eq!(newcomers.len(), self.nodes(), "creation waits until all have reported");
        let mut seated = number(seat(self, newcomers));
        seated.sort_by_key(|(node, ..)| *node);
        let members: Vec<Member> = (0..).zip(&seated).map(member).collect();
        let placements = (1..=self.groups)
            .flat_map(|group| place(GroupId(group), self.run_of(group), &members))
            .collect();
        let mut roster = Roster::of(&members);
        for (node, .., newcomer) in &seated {
            // Whoever has not heard that it was admitted asks again, perhaps another server.
            if let Some(seat) = roster.seat_mut(*node) {
                seat.process = newcomer.process;
            }
        }
        let view = View {
            cluster,
            number: ViewNumber(1),
            config: self.config.clone(),
            roster,
            members,
            placements,
            arbitrator: arbitrators.first().cloned(),
            arbitrators_possible: arbitrators,
            configured: lockstep_proto::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: Epoch(0),
            restart_generation: RestartGeneration(0),
            cuts: Vec::new(),
        };
        (view, seated.into_iter().map(|(.., newcomer)| newcomer).collect())
    }

    /// How many partitions group number `group` (from 1) owns: runs differ by at most one.
    fn run_of(&self, group: u16) -> u16 {
        let end = |group: u16| {
            let end = u32::from(self.config.partitions) * u32::from(group) / u32::from(self.groups);
            u16::try_from(end).expect("at most the number of partitions")
        };
        end(group) - end(group - 1)
    }
}

/// Gives every newcomer a seat in a group. Each seat goes to the zone that has the fewest seats in
/// the group and, among those, the most newcomers left: this finds replicas in different zones
/// whenever that is possible.
fn seat(plan: &ClusterPlan, mut newcomers: Vec<Newcomer>) -> Vec<(GroupId, Newcomer)> {
    let rank = |zone: &str| plan.zones.iter().position(|z| z == zone).unwrap_or(usize::MAX);
    newcomers.sort_by(|a, b| {
        let key = |n: &Newcomer| (n.wanted.map_or(u16::MAX, |node| node.0), n.addr.clone());
        key(b).cmp(&key(a))
    });
    let mut waiting: BTreeMap<(usize, String), Vec<Newcomer>> = BTreeMap::new();
    for newcomer in newcomers {
        waiting.entry((rank(&newcomer.zone), newcomer.zone.clone())).or_default().push(newcomer);
    }
    let mut seated = Vec::new();
    for group in 1..=plan.groups {
        let mut used: BTreeMap<(usize, String), usize> = BTreeMap::new();
        for _ in 0..plan.config.replicas {
            let zone = waiting
                .iter()
                .filter(|(_, left)| !left.is_empty())
                .min_by_key(|(zone, left)| {
                    (used.get(*zone).copied().unwrap_or(0), usize::MAX - left.len())
                })
                .map(|(zone, _)| zone.clone())
                .expect("as many newcomers as seats");
            let newcomer = waiting.get_mut(&zone).and_then(Vec::pop).expect("not empty");
            *used.entry(zone).or_default() += 1;
            seated.push((GroupId(group), newcomer));
        }
    }
    seated
}

/// Gives every seat its node id: the one wished, or the lowest that nobody wishes.
fn number(seated: Vec<(GroupId, Newcomer)>) -> Vec<(NodeId, GroupId, Newcomer)> {
    let wanted: Vec<NodeId> = seated.iter().filter_map(|(_, n)| n.wanted).collect();
    let mut free = (1..).map(NodeId).filter(|node| !wanted.contains(node));
    let id = |newcomer: &Newcomer| newcomer.wanted.or_else(|| free.next());
    let mut id = id;
    seated
        .into_iter()
        .map(|(group, newcomer)| (id(&newcomer).expect("endless"), group, newcomer))
        .collect()
}

fn member((seniority, seat): (u64, &(NodeId, GroupId, Newcomer))) -> Member {
    let (node, group, newcomer) = seat;
    Member {
        instance: NodeInstance { node: *node, incarnation: Incarnation(1) },
        group: *group,
        zone: newcomer.zone.clone(),
        addr: newcomer.addr.clone(),
        shards: newcomer.shards,
        seniority,
        standing: Standing::InSync,
    }
}

/// A group's run of partitions. At local index i replica `(i / S) mod R` leads: the first S
/// partitions keep all shards of the first replica busy, the next S those of the second. The other
/// replicas follow in turn, so that the work of a dead node is spread as well.
fn place(group: GroupId, count: u16, members: &[Member]) -> Vec<Placement> {
    let own: Vec<&Member> = members.iter().filter(|m| m.group == group).collect();
    let shards = own.iter().map(|m| m.shards).max().expect("a group has replicas");
    let placement = |local_index: u16| {
        let first = usize::from(local_index / shards) % own.len();
        let replica = |step: usize| own[(first + step) % own.len()].instance.node;
        let replicas: Vec<NodeId> = (0..own.len()).map(replica).collect();
        Placement { group, local_index, primary: replicas[0], replicas, joining: vec![], to: None }
    };
    (0..count).map(placement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(groups: u16, replicas: u16, zones: &[&str]) -> ClusterPlan {
        let config = ClusterConfig { replicas, partitions: 16, ..ClusterConfig::default() };
        ClusterPlan { groups, zones: zones.iter().map(|z| (*z).to_owned()).collect(), config }
    }

    fn newcomer(port: u16, zone: &str, wanted: Option<u16>) -> Newcomer {
        Newcomer {
            addr: format!("127.0.0.1:{port}"),
            zone: zone.to_owned(),
            shards: 2,
            process: u64::from(port),
            group: None,
            wanted: wanted.map(NodeId),
        }
    }

    fn first_view(plan: &ClusterPlan, newcomers: &[Newcomer]) -> (View, Vec<Newcomer>) {
        plan.first_view(ClusterId(1), newcomers.to_vec(), Vec::new())
    }

    fn seats(view: &View) -> Vec<(u16, u16, &str)> {
        view.members.iter().map(|m| (m.instance.node.0, m.group.0, m.zone.as_str())).collect()
    }

    #[test]
    fn replicas_of_a_group_are_in_different_zones() {
        let all = [(1, "b"), (2, "a"), (3, "b"), (4, "a")].map(|(p, z)| newcomer(p, z, None));
        let (view, _) = first_view(&plan(2, 2, &["a", "b"]), &all);
        assert_eq!(seats(&view), [(1, 1, "a"), (2, 1, "b"), (3, 2, "a"), (4, 2, "b")]);
    }

    #[test]
    fn uneven_zones_are_spread_wherever_it_is_possible() {
        let zones = ["a", "a", "b", "c", "c", "b"];
        let all: Vec<Newcomer> =
            (1..).zip(zones).map(|(port, zone)| newcomer(port, zone, None)).collect();
        let (view, _) = first_view(&plan(3, 2, &[]), &all);
        for group in view.groups() {
            let zones: Vec<&str> =
                view.members.iter().filter(|m| m.group == group).map(|m| m.zone.as_str()).collect();
            assert_ne!(zones[0], zones[1], "{group}");
        }
    }

    #[test]
    fn wishes_are_kept_and_the_rest_is_numbered_around_them() {
        let all = [newcomer(1, "", None), newcomer(2, "", Some(1)), newcomer(3, "", None)];
        let (view, newcomers) = first_view(&plan(3, 1, &[]), &all);
        assert_eq!(view.member(NodeId(1)).expect("wished").addr, "127.0.0.1:2");
        let ports: Vec<u64> = newcomers.iter().map(|n| n.process).collect();
        assert_eq!(ports, [2, 1, 3]);
    }

    #[test]
    fn groups_own_contiguous_runs_and_share_the_work() {
        let all: Vec<Newcomer> = (1..=6).map(|port| newcomer(port, "", Some(port))).collect();
        let (view, _) = first_view(&plan(3, 2, &[]), &all);
        let groups: Vec<u16> = view.placements.iter().map(|p| p.group.0).collect();
        assert_eq!(groups, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]);
        // Two shards, two replicas: local indexes 0 and 1 are led by the first, 2 and 3 by the
        // second, and on each by both of its shards.
        let primaries: Vec<(u16, u16)> = view
            .partitions()
            .take(5)
            .map(|p| view.primary_of(p).expect("placed"))
            .map(|addr| (addr.instance.node.0, addr.shard.0))
            .collect();
        assert_eq!(primaries, [(1, 0), (1, 1), (2, 0), (2, 1), (1, 0)]);
        assert!(
            view.placements.iter().all(|p| p.replicas.len() == 2 && p.replicas[0] == p.primary)
        );
    }

    #[test]
    fn a_zone_takes_no_more_than_can_be_spread() {
        assert_eq!(plan(2, 2, &["a", "b"]).nodes_per_zone_max(), 2);
        assert_eq!(plan(2, 3, &["a", "b"]).nodes_per_zone_max(), 4);
        assert_eq!(plan(2, 2, &["a", "b", "c"]).nodes_per_zone_max(), 2);
    }
}
