//! Which faults a run has and when: drawn from the seed by profile, and never more than the cluster
//! is made to survive, except in the few seeds that mean to bring it down.
//!
//! Nodes that are gone come back after a while; a fault that may cost a node is only drawn if those
//! who are in sync at that moment may go on without it by the five rules.

use std::collections::BTreeMap;

use lockstep_proto::view::View;

use lockstep_proto::orders::Order;

use super::cluster::Cluster;
use super::faults::{AMBUSH_NS, Fault};
use super::host::{HostId, Life, Role};
use super::net::Cut;
use super::rng::Rng;
use super::trap::Blow;
use super::world::World;

/// Kinds of weather.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// No faults.
    Calm,
    /// Paths and connections.
    Network,
    /// Processes and machines.
    Crash,
    /// All of these together.
    Mixed,
    /// Disks, and now and then a process or a machine.
    Disk,
    /// Everything, and at the end all power fails.
    Hell,
}

impl Profile {
    /// The profile of this name.
    ///
    /// # Errors
    /// In words, if there is none.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "calm" => Ok(Self::Calm),
            "network" => Ok(Self::Network),
            "crash" => Ok(Self::Crash),
            "mixed" => Ok(Self::Mixed),
            "disk" => Ok(Self::Disk),
            "hell" => Ok(Self::Hell),
            _ => Err(format!("no profile {name:?}: calm, network, crash, mixed, disk or hell")),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Network => "network",
            Self::Crash => "crash",
            Self::Mixed => "mixed",
            Self::Disk => "disk",
            Self::Hell => "hell",
        }
    }
}

const MS: u64 = 1_000_000;

/// Silence that no heartbeat misses: far below the suspicion time, with room for two together.
const HARMLESS_NS: u64 = 120 * MS;

/// Time after the end of a fault in which it is settled who is still a member.
const SETTLED_NS: u64 = 3_000 * MS;

/// Steps of a recovery at which another node is struck: by chance alone a second failure hardly
/// ever falls into the milliseconds in which the first is dealt with.
const AMBUSHED: &[&str] = &[
    "view_change_failure",
    "view_announced",
    "view_announced",
    "president_takeover",
    "arbitrator_asked",
    "arbitrator_granted",
    "lease_wait",
    "view_entered",
    "shard_entered_view",
    "takeover_begun",
    "takeover_commits",
    "takeover_aborts",
    "orphan_resolved_by_anchor",
    "coordinator_asks_anew",
    "inquiry_makes_tombstone",
    "locks_end_with_coordinator",
    "outcome_makes_tombstone",
];

/// The plan of one run.
pub struct Plan {
    profile: Profile,
    pub(super) rng: Rng,
    /// Mean time between faults.
    gap_ns: u64,
    /// Whether the cluster may be brought down.
    pub reckless: bool,
    /// Whether all power fails at the end.
    pub blackout: bool,
    /// Nodes a fault may have cost, until it is known whether it has.
    doomed: BTreeMap<HostId, u64>,
    /// Those whose links a fault has cut: another life of theirs is as cut off.
    cut_off: BTreeMap<HostId, u64>,
    /// No second grave fault before this time, so that the first is settled.
    pub(super) grave_after: u64,
    /// Hosts that are silent until then.
    silent: Vec<(HostId, u64)>,
    /// Whether somebody operates the cluster, and not again before when.
    pub(super) operates: Option<u64>,
    /// What is done together with the fault that was drawn.
    second: Option<Fault>,
    /// What was done, for the report.
    pub done: Vec<(u64, Fault)>,
}

/// What an operator does to the cluster while it serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Starts a data node on this machine.
    Come(HostId),
    /// Wants this of the roster.
    Order(Order),
}

impl Plan {
    /// A plan for a run.
    #[must_use]
    pub fn new(profile: Profile, rng: &mut Rng) -> Self {
        let mut rng = rng.fork();
        let gap_ns = *rng.pick(&[100 * MS, 250 * MS, 500 * MS, 1500 * MS]);
        let reckless = profile != Profile::Calm && rng.one_in(12);
        let blackout = match profile {
            Profile::Hell => true,
            Profile::Disk => rng.coin(),
            Profile::Calm | Profile::Network | Profile::Crash | Profile::Mixed => false,
        };
        let operates = rng.coin().then_some(0);
        Self {
            profile,
            rng,
            gap_ns,
            reckless,
            blackout,
            doomed: BTreeMap::new(),
            cut_off: BTreeMap::new(),
            grave_after: 0,
            silent: Vec::new(),
            operates,
            second: None,
            done: Vec::new(),
        }
    }

    /// Whether a fault under way may cost somebody.
    pub(super) fn is_grave(&self, now: u64) -> bool {
        self.doomed.values().any(|until| *until > now)
    }

    /// Whether a fault under way may cost this one.
    pub(super) fn is_doomed(&self, now: u64, host: HostId) -> bool {
        self.doomed.get(&host).is_some_and(|until| *until > now)
    }

    /// Whether nothing ever goes wrong.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.profile == Profile::Calm
    }

    /// Time until the next fault; `None` for no faults at all.
    pub fn gap(&mut self) -> Option<u64> {
        (self.profile != Profile::Calm).then(|| self.rng.range(self.gap_ns / 10, 2 * self.gap_ns))
    }

    /// Draws the next fault and does it.
    pub fn strike(&mut self, world: &mut World, cluster: &Cluster) {
        let now = world.now;
        self.silent.retain(|(_, until)| *until > now);
        let grave = now >= self.grave_after && self.rng.percent(35);
        let fault = if grave {
            self.draw_grave(world, cluster)
        } else {
            self.draw_harmless(world, cluster)
        };
        for fault in fault.into_iter().chain(self.second.take()) {
            self.note(now, &fault);
            world.strike(&fault);
        }
    }

    fn note(&mut self, now: u64, fault: &Fault) {
        self.done.push((now, fault.clone()));
    }

    fn draw_harmless(&mut self, world: &World, cluster: &Cluster) -> Option<Fault> {
        let all: Vec<HostId> = cluster
            .nodes
            .iter()
            .chain(&cluster.mgmts)
            .chain(&cluster.apis)
            .chain(&cluster.clients)
            .copied()
            .filter(|host| !world.is_dead(*host))
            .collect();
        let a = *self.rng.pick(&all);
        let b = *self.rng.pick(&all);
        let disk = match self.profile {
            Profile::Disk => 70,
            Profile::Hell => 30,
            Profile::Calm | Profile::Network | Profile::Crash | Profile::Mixed => 0,
        };
        if disk > 0 && self.rng.percent(disk) {
            let nodes: Vec<HostId> =
                all.into_iter().filter(|host| cluster.nodes.contains(host)).collect();
            return self.draw_disk_trouble(&nodes);
        }
        let network = match self.profile {
            Profile::Network => true,
            Profile::Disk | Profile::Crash => self.rng.percent(20),
            Profile::Mixed | Profile::Calm | Profile::Hell => self.rng.coin(),
        };
        if !network {
            return self.draw_burden(world, a);
        }
        if a == b {
            return None;
        }
        match self.rng.below(6) {
            0 => Some(Fault::BreakOne(a, b, self.rng.next())),
            1 => Some(Fault::Break(a, b)),
            2 => {
                let extra = self.rng.range(MS / 10, 15 * MS);
                Some(Fault::Slow(a, b, extra, self.rng.range(50 * MS, 2_000 * MS)))
            }
            3 => self.quiet(world, &[a, b]).map(|length| Fault::Clog(a, b, length)),
            4 => self.quiet(world, &[a, b]).map(|length| Fault::Split {
                side: vec![a],
                rest: vec![b],
                cut: if self.rng.one_in(4) { Cut::Reject } else { Cut::Silent },
                one_way: self.rng.coin(),
                length,
            }),
            _ => {
                let length = self.quiet(world, &[a, b])? / 4 + 1;
                Some(Fault::Flap(a, b, 3, length))
            }
        }
    }

    /// A disk that nobody has to be left out for.
    fn draw_disk_trouble(&mut self, nodes: &[HostId]) -> Option<Fault> {
        if nodes.is_empty() {
            return None;
        }
        let host = *self.rng.pick(nodes);
        let length = self.rng.range(50 * MS, 3_000 * MS);
        Some(match self.rng.below(4) {
            0 => Fault::DataStall(host, length),
            1 | 2 => Fault::DiskFull(host, self.rng.index(20_000), length),
            _ => Fault::DiskSlow(host, self.rng.range(5, 200), length),
        })
    }

    fn draw_burden(&mut self, world: &World, host: HostId) -> Option<Fault> {
        match self.rng.below(3) {
            0 => {
                Some(Fault::Burden(host, self.rng.range(2, 40), self.rng.range(50 * MS, 1500 * MS)))
            }
            _ => {
                let length = self.quiet(world, &[host])?;
                Some(Fault::Pause(host, length, self.rng.coin()))
            }
        }
    }

    /// A silence that costs nobody a node, unless one of the hosts is silent already.
    fn quiet(&mut self, world: &World, hosts: &[HostId]) -> Option<u64> {
        if hosts.iter().any(|host| self.silent.iter().any(|(other, _)| other == host)) {
            return None;
        }
        // Nor on top of a grave fault, in which it may tip the balance.
        if !self.reckless && hosts.iter().any(|host| self.is_doomed(world.now, *host)) {
            return None;
        }
        let length = self.rng.range(MS, HARMLESS_NS);
        // The back-off after a cut doubles it; the next one must not follow at once.
        let until = world.now + 4 * length + 200 * MS;
        self.silent.extend(hosts.iter().map(|host| (*host, until)));
        Some(length)
    }

    fn draw_grave(&mut self, world: &World, cluster: &Cluster) -> Option<Fault> {
        let view = cluster.newest_view(world)?;
        let members: Vec<HostId> =
            view.members.iter().map(|member| cluster.node(member.instance.node)).collect();
        let up = |host: &HostId| world.host(*host).life == Life::Running;
        let now = world.now;
        self.cut_off.retain(|_, until| *until > now);
        self.doomed.retain(|host, until| {
            let there =
                view.members.iter().find(|member| cluster.node(member.instance.node) == *host);
            // Another life of it is a member: the one that was doomed is over.
            *until > now
                && (self.cut_off.contains_key(host)
                    || there.is_some_and(|m| world.host(*host).role == Role::Data(m.instance)))
        });
        let targets: Vec<HostId> = members
            .iter()
            .copied()
            .filter(|host| up(host) && !self.doomed.contains_key(host))
            .collect();
        if targets.is_empty() {
            return None;
        }
        let network = match self.profile {
            Profile::Network => true,
            Profile::Crash | Profile::Disk => false,
            Profile::Mixed | Profile::Calm | Profile::Hell => self.rng.coin(),
        };
        let fault = if self.rng.percent(40) {
            self.draw_ambush(world, cluster, view, &targets, network)
        } else if network {
            self.draw_cut(world, cluster, view, &targets)
        } else {
            self.draw_death(world, cluster, view, &targets)
        }?;
        // Mostly the cluster settles before the next grave fault; sometimes it is hit midway.
        let wait = if self.rng.percent(30) { self.rng.range(1, 700) } else { 2_500 };
        self.grave_after = self.grave_after.max(world.now + wait * MS);
        Some(fault)
    }

    fn draw_death(
        &mut self,
        world: &World,
        cluster: &Cluster,
        view: &View,
        targets: &[HostId],
    ) -> Option<Fault> {
        if self.rng.percent(20) {
            return self.draw_bystander(world, cluster);
        }
        let victim = *self.rng.pick(targets);
        if !self.may_lose(world, cluster, view, &[victim]) {
            return None;
        }
        let disk = match self.profile {
            Profile::Disk => 60,
            Profile::Hell => 25,
            Profile::Calm | Profile::Network | Profile::Crash | Profile::Mixed => 0,
        };
        if disk > 0 && self.rng.percent(disk) {
            let stalls = self.rng.one_in(4);
            let length = self.rng.range(5_500 * MS, 8_000 * MS);
            self.doomed.insert(victim, world.now + length + SETTLED_NS);
            return Some(match stalls {
                true => Fault::DiskStall(victim, length),
                false => Fault::DiskFails(victim, self.rng.below(6)),
            });
        }
        let fault = match self.rng.below(10) {
            0..=4 => Fault::Kill(victim),
            5 => Fault::PowerOff(victim),
            6 => Fault::Terminate(victim),
            _ => Fault::Pause(victim, self.rng.range(300 * MS, 4_000 * MS), self.rng.coin()),
        };
        let until = match fault {
            Fault::Pause(_, length, _) => world.now + length + SETTLED_NS,
            _ => u64::MAX,
        };
        self.doomed.insert(victim, until);
        Some(fault)
    }

    /// One node is lost, and another at some step of the recovery from that, if it takes it.
    fn draw_ambush(
        &mut self,
        world: &World,
        cluster: &Cluster,
        view: &View,
        targets: &[HostId],
        network: bool,
    ) -> Option<Fault> {
        // Half of the time the one who leads the recovery, as far as one can tell beforehand.
        let eldest = view.members.iter().min_by_key(|member| member.seniority);
        let eldest = eldest.map(|member| cluster.node(member.instance.node));
        let mut pair = || {
            let second = eldest.filter(|node| targets.contains(node) && self.rng.coin());
            (*self.rng.pick(targets), second.unwrap_or_else(|| *self.rng.pick(targets)))
        };
        let pairs: Vec<_> = (0..6).map(|_| pair()).filter(|(a, b)| a != b).collect();
        let fits = |(a, b): &(HostId, HostId)| self.may_lose(world, cluster, view, &[*a, *b]);
        let (first, second) = pairs.into_iter().find(fits)?;
        let length = self.rng.range(500 * MS, 5_000 * MS);
        let (blow, fault) = if network {
            let count = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
            let rest = (0..count).map(HostId).filter(|host| *host != first).collect();
            let side = vec![first];
            let split = Fault::Split { side, rest, cut: Cut::Silent, one_way: false, length };
            (Blow::CutOff, split)
        } else {
            let blow = match self.rng.below(6) {
                0 => Blow::OutputsLost,
                1 => Blow::OnlyClients,
                2 => Blow::Pause(self.rng.range(300 * MS, 2_000 * MS)),
                _ => Blow::Prefix(usize::try_from(self.rng.range(1, 6)).expect("small")),
            };
            let silent = self.rng.one_in(4);
            (blow, if silent { Fault::PowerOff(first) } else { Fault::Kill(first) })
        };
        let until = world.now + AMBUSH_NS + length + SETTLED_NS;
        match network {
            true => self.doom_links([first, second], until),
            false => self.doomed.extend([(first, until), (second, until)]),
        }
        self.second = Some(fault);
        Some(Fault::Ambush(second, self.rng.pick::<&str>(AMBUSHED), blow))
    }

    /// A management server or a client dies; the run starts another in its place.
    fn draw_bystander(&mut self, world: &World, cluster: &Cluster) -> Option<Fault> {
        let hosts: Vec<HostId> = cluster
            .mgmts
            .iter()
            .chain(&cluster.apis)
            .chain(&cluster.clients)
            .copied()
            .filter(|host| !world.is_dead(*host))
            .collect();
        if hosts.is_empty() {
            return None;
        }
        Some(Fault::Kill(*self.rng.pick(&hosts)))
    }

    fn draw_cut(
        &mut self,
        world: &World,
        cluster: &Cluster,
        view: &View,
        targets: &[HostId],
    ) -> Option<Fault> {
        let length = self.rng.range(300 * MS, 5_000 * MS);
        let cut = if self.rng.one_in(4) { Cut::Reject } else { Cut::Silent };
        let (side, one_way) = match self.rng.below(4) {
            0 => return self.draw_pair(world, cluster, view, targets, length),
            1 => {
                let zone = u16::try_from(self.rng.below(u64::from(cluster.shape.zones))).ok()?;
                let count = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
                let zone_hosts: Vec<HostId> =
                    (0..count).map(HostId).filter(|h| world.host(*h).zone == zone).collect();
                (zone_hosts, false)
            }
            2 => (vec![*self.rng.pick(targets)], self.rng.coin()),
            _ => {
                let side = targets.iter().copied().filter(|_| self.rng.coin()).collect();
                (side, self.rng.one_in(4))
            }
        };
        let count = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
        let mut rest: Vec<HostId> =
            (0..count).map(HostId).filter(|host| !side.contains(host)).collect();
        // Sometimes the arbitrator is reached by both sides, sometimes by one.
        if self.rng.coin() {
            rest.retain(|host| !matches!(world.host(*host).role, Role::Mgmt(_)));
        }
        let here: Vec<HostId> =
            targets.iter().copied().filter(|host| side.contains(host)).collect();
        let there: Vec<HostId> =
            targets.iter().copied().filter(|host| !side.contains(host)).collect();
        if here.is_empty() || there.is_empty() {
            return None;
        }
        let without_side = self.may_lose(world, cluster, view, &side);
        let without_rest = self.may_lose(world, cluster, view, &rest);
        // A one-way cut does not say which side it costs, nor does one in which a side may win with
        // a node that something is about to happen to.
        let doomed = self.doomed.keys().any(|host| world.host(*host).life == Life::Running);
        let either = one_way || doomed;
        if !(without_side && without_rest) && (either || !(without_side || without_rest)) {
            return None;
        }
        let until = world.now + length + SETTLED_NS;
        self.doom_links(here.into_iter().chain(there), until);
        self.grave_after = until;
        Some(Fault::Split { side, rest, cut, one_way, length })
    }

    /// Two nodes cannot hear each other; everybody else hears both.
    fn draw_pair(
        &mut self,
        world: &World,
        cluster: &Cluster,
        view: &View,
        targets: &[HostId],
        length: u64,
    ) -> Option<Fault> {
        let (a, b) = (*self.rng.pick(targets), *self.rng.pick(targets));
        if a == b
            || !self.may_lose(world, cluster, view, &[a])
            || !self.may_lose(world, cluster, view, &[b])
        {
            return None;
        }
        let until = world.now + length + SETTLED_NS;
        self.doom_links([a, b], until);
        let one_way = self.rng.coin();
        Some(match self.rng.below(6) {
            0 => Fault::Stall(a, b, length),
            1 => Fault::Mute(a, b, length),
            _ => Fault::Split { side: vec![a], rest: vec![b], cut: Cut::Silent, one_way, length },
        })
    }

    fn doom_links(&mut self, hosts: impl IntoIterator<Item = HostId>, until: u64) {
        for host in hosts {
            self.doomed.insert(host, until);
            self.cut_off.insert(host, until);
        }
    }

    /// Whether the cluster goes on without `lost` and everything doomed before.
    fn may_lose(&self, world: &World, cluster: &Cluster, view: &View, lost: &[HostId]) -> bool {
        if self.reckless {
            return true;
        }
        let stays = |member: &lockstep_proto::view::Member| {
            let host = cluster.node(member.instance.node);
            !lost.contains(&host)
                && !self.doomed.contains_key(&host)
                && cluster.is_up(world, member.instance)
        };
        let here = view.in_sync().filter(|member| stays(member)).count();
        let all = view.in_sync().count();
        let mut whole = false;
        for group in view.groups() {
            let mut members = view.in_sync().filter(|member| member.group == group);
            let left = view.in_sync().filter(|m| m.group == group && stays(m)).count();
            if left == 0 {
                return false;
            }
            whole |= members.all(&stays);
        }
        if whole || here * 2 > all {
            return true;
        }
        here * 2 == all && self.arbitrator_answers(world, cluster, view, lost)
    }

    /// Whether the view's arbitrator is up and will stay within reach of those who are not lost.
    fn arbitrator_answers(
        &self,
        world: &World,
        cluster: &Cluster,
        view: &View,
        lost: &[HostId],
    ) -> bool {
        let Some(host) = cluster.arbitrator(world, view) else { return false };
        world.runs(host)
            && cluster.has_register(world, host)
            && !lost.contains(&host)
            && cluster.nodes.iter().all(|node| {
                lost.contains(node)
                    || (world.net.path(*node, host).cut == Cut::Open
                        && world.net.path(host, *node).cut == Cut::Open)
            })
    }
}
