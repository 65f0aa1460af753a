//! The cluster as the client sees it: the newest view, the links to its shards, and which link each
//! partition's requests take.
//!
//! First contacts are dialled until some shard is reached; each says its view and pushes later
//! ones, so the client needs no management server once it knows a data node. In clusters of at most
//! [`NODES_ALL_LINKED`] nodes all shards are linked, so that a view change is learned at once.
//!
//! Invariant: routes lead over links that are up, to replicas that the newest view names.

mod links;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::error::Code;
use lockstep_proto::ids::{NodeId, PartitionId, ShardAddr, ShardId};
use lockstep_proto::process::{DialError, Effect, LinkId, LogLevel, Outputs, Peer, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Member, View};
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec::frame_cold;
use lockstep_proto::wire::kind;

use super::call::{CallError, ReadFrom};
use super::options::ClientOptions;
use super::timers::{Timer, Timers};

/// Up to this many data nodes, the client keeps links to all their shards.
const NODES_ALL_LINKED: usize = 16;

/// In larger clusters, at least this many shards are linked: one tells of the other's end.
const LINKS_MIN: usize = 2;

/// First and longest wait before a dial is tried again.
const DIAL_BACK_OFF: (Duration, Duration) = (Duration::from_millis(4), Duration::from_secs(1));

/// A link that lived this long was a good one: the next dial is a first one again.
const LINK_LIFE_GOOD: Duration = Duration::from_secs(1);

/// Why a request cannot leave now.
#[derive(Debug)]
pub(super) enum NoRoute {
    /// A view, or a link that is being dialled, is missing.
    Wait,
    /// It never will.
    Never(CallError),
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Topology {
    addresses: Vec<String>,
    zone: String,
    host: String,
    seed: u64,
    view: Option<Arc<View>>,
    contacts: BTreeMap<ShardAddr, Contact>,
    /// By slot.
    links: Vec<Option<Link>>,
    /// By partition.
    routes: Vec<Route>,
    /// When first contacts may be dialled again, and how often that came to nothing.
    bootstrap_again: Instant,
    bootstrap_failures: u32,
    /// The last thing that went wrong while connecting, for people.
    trouble: String,
}

/// A shard of the view.
#[derive(Debug)]
struct Contact {
    addr: String,
    wanted: bool,
    state: ContactState,
    /// Dials that failed and links that soon ended, in a row.
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ContactState {
    Down { again: Instant },
    Dialing,
    Up(LinkId),
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    peer: Peer,
    up: Instant,
    heard: Instant,
    probed: Option<Instant>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Route {
    primary: Option<LinkId>,
    nearest: Option<LinkId>,
}

impl Topology {
    pub(super) fn new(options: &ClientOptions) -> Self {
        Self {
            addresses: options.addresses.clone(),
            zone: options.zone.clone(),
            host: options.host.clone(),
            seed: options.seed,
            view: None,
            contacts: BTreeMap::new(),
            links: Vec::new(),
            routes: Vec::new(),
            bootstrap_again: Instant::default(),
            bootstrap_failures: 0,
            trouble: String::new(),
        }
    }

    /// The newest view.
    pub(super) fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// What to add to an error of a call that found no way.
    pub(super) fn trouble(&self) -> &str {
        &self.trouble
    }

    /// The way to a partition's primary: where transactions go.
    #[inline]
    pub(super) fn primary(&self, partition: PartitionId) -> Result<LinkId, NoRoute> {
        match self.routes.get(usize::from(partition.0)) {
            Some(Route { primary: Some(link), .. }) => Ok(*link),
            _ => Err(self.no_route(partition)),
        }
    }

    /// The way of a committed read, not to the nodes in `avoid`.
    #[inline]
    pub(super) fn read(
        &self,
        partition: PartitionId,
        from: ReadFrom,
        avoid: &[NodeId],
    ) -> Result<LinkId, NoRoute> {
        match from {
            ReadFrom::Primary => self.primary(partition),
            ReadFrom::Nearest if avoid.is_empty() => {
                match self.routes.get(usize::from(partition.0)) {
                    Some(Route { nearest: Some(link), .. }) => Ok(*link),
                    _ => Err(self.no_route(partition)),
                }
            }
            ReadFrom::Nearest => {
                self.nearest(partition, avoid).ok_or_else(|| self.no_route(partition))
            }
            ReadFrom::Node(node) => self.on_node(partition, node),
        }
    }

    /// The way to a shard by name.
    pub(super) fn shard(&self, node: NodeId, shard: ShardId) -> Result<LinkId, NoRoute> {
        let Some(view) = &self.view else { return Err(NoRoute::Wait) };
        let never = |text: String| NoRoute::Never(CallError::refused(Code::NotServing, text));
        let Some(member) = view.member(node) else {
            return Err(never(format!("{node} is not in {}", view.number)));
        };
        if shard.0 >= member.shards {
            return Err(never(format!("{node} has {} shards", member.shards)));
        }
        self.link_to(ShardAddr { instance: member.instance, shard }).ok_or(NoRoute::Wait)
    }

    /// Any shard that is linked: where sessions come from.
    pub(super) fn any_shard(&self) -> Option<LinkId> {
        self.contacts.values().find_map(Contact::link)
    }

    /// The data node at the other end.
    pub(super) fn node_of(&self, link: LinkId) -> Option<NodeId> {
        match self.find(link)?.peer {
            Peer::Shard(instance, _) => Some(instance.node),
            _ => None,
        }
    }

    fn no_route(&self, partition: PartitionId) -> NoRoute {
        let Some(view) = &self.view else { return NoRoute::Wait };
        if view.placement(partition).is_some() {
            return NoRoute::Wait;
        }
        let text = format!("{partition} of {} partitions", view.placements.len());
        NoRoute::Never(CallError::refused(Code::Malformed, text))
    }

    fn on_node(&self, partition: PartitionId, node: NodeId) -> Result<LinkId, NoRoute> {
        let Some(view) = &self.view else { return Err(NoRoute::Wait) };
        let Some(addr) = view.shard_of(partition, node) else {
            let text = format!("{node} holds no replica of {partition} in {}", view.number);
            return Err(NoRoute::Never(CallError::refused(Code::NotReplica, text)));
        };
        self.link_to(addr).ok_or(NoRoute::Wait)
    }

    fn link_to(&self, addr: ShardAddr) -> Option<LinkId> {
        self.contacts.get(&addr)?.link()
    }

    /// Same host, then same zone, then any; among equals by a hash that spreads the partitions.
    fn nearest(&self, partition: PartitionId, avoid: &[NodeId]) -> Option<LinkId> {
        let view = self.view.as_ref()?;
        let placement = view.placement(partition)?;
        let candidates = placement.replicas.iter().filter(|node| !avoid.contains(node));
        candidates
            .filter_map(|node| {
                let link = self.link_to(view.shard_of(partition, *node)?)?;
                let distance = self.distance(view.member(*node)?);
                Some(((distance, spread(self.seed, partition, *node)), link))
            })
            .min_by_key(|(order, _)| *order)
            .map(|(_, link)| link)
    }

    fn distance(&self, member: &Member) -> u8 {
        let host = member.addr.rsplit_once(':').map_or("", |(host, _)| host);
        match () {
            () if !self.host.is_empty() && host == self.host => 0,
            () if !self.zone.is_empty() && member.zone == self.zone => 1,
            () => 2,
        }
    }

    fn find(&self, link: LinkId) -> Option<&Link> {
        self.links.get(link.slot as usize)?.as_ref().filter(|entry| entry.id == link)
    }

    fn reroute(&mut self) {
        let Some(view) = self.view.clone() else { return };
        self.routes = view
            .partitions()
            .map(|partition| Route {
                primary: view.primary_of(partition).and_then(|addr| self.link_to(addr)),
                nearest: self.nearest(partition, &[]),
            })
            .collect();
    }
}

impl Contact {
    fn link(&self) -> Option<LinkId> {
        match self.state {
            ContactState::Up(link) => Some(link),
            ContactState::Down { .. } | ContactState::Dialing => None,
        }
    }
}

/// A stable number for (client, partition, node): which of several equals is preferred.
fn spread(seed: u64, partition: PartitionId, node: NodeId) -> u64 {
    let mixed = seed ^ u64::from(partition.0) << 32 ^ u64::from(node.0) << 48;
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 27
}
