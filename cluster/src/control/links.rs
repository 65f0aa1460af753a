//! Connections of the control core: to the control cores and death-watches of all members, to the
//! management servers, and inside the process to its own shards.
//!
//! Between two nodes the one with the lower node id dials; the other waits. A lost link is dialled
//! again at once and then with growing pauses. Nothing sent on a lost link needs to arrive: every
//! message here is repeated or carries the whole of what it says.
//!
//! Invariant: at most one link of a kind per peer is in use; an older one is closed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;

use lockstep_proto::ids::{Incarnation, MgmtId, NodeInstance, ShardId, ViewNumber};
use lockstep_proto::limits::{ADDR_BYTES_MAX, API_ARBITRATORS_MAX, DIAL_PAUSE_MAX, NODES_MAX};
use lockstep_proto::process::{Effect, LinkId, Outputs, Peer, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, View};
use lockstep_proto::wire::control::ControlMessage;

/// The first pause between two dials; doubles up to [`DIAL_PAUSE_MAX`].
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Most links: two per member, strangers of earlier views as many again, shards, servers.
const LINKS_MAX: usize = 8 * NODES_MAX;
/// How long a management server or other arbitrator may take to answer before it counts as away.
const SERVER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// All links. See the module text.
#[derive(Debug)]
pub(super) struct Links {
    me: NodeInstance,
    by_link: BTreeMap<LinkId, Peer>,
    /// Links to those who are no members, in the order they came in.
    strangers: Vec<(LinkId, Peer)>,
    shards: BTreeMap<ShardId, LinkId>,
    peers: Vec<PeerLinks>,
    mgmt: Vec<MgmtLink>,
}

#[derive(Debug)]
struct PeerLinks {
    instance: NodeInstance,
    addr: String,
    control: Route,
    watch: Route,
    /// When it was last sent this node's view because it was behind.
    told_view: Option<Instant>,
}

/// The link to one management server or other arbitrator.
#[derive(Debug)]
pub(super) struct MgmtLink {
    id: MgmtId,
    addr: String,
    route: Route,
    /// Since when it is away, or back.
    since: Instant,
    /// The newest view it has confirmed, and when it was last sent one.
    pub(super) registered: ViewNumber,
    pub(super) sent: Option<(Instant, ViewNumber)>,
    /// Since when it owes an answer to that.
    owes: Option<Instant>,
    /// An API node's process has said which life of it this is.
    life: Option<Incarnation>,
    /// The server has said that it should have the register and has not.
    lost: bool,
}

impl MgmtLink {
    fn new(id: MgmtId, addr: String, route: Route, now: Instant) -> Self {
        let registered = ViewNumber(0);
        let (sent, owes, life) = (None, None, None);
        Self { id, addr, route, since: now, registered, sent, owes, life, lost: false }
    }

    /// It is sent a view, and has to answer.
    pub(super) fn ask(&mut self, now: Instant, view: ViewNumber) {
        self.sent = Some((now, view));
        self.owes.get_or_insert(now);
    }

    /// It has answered; one that was silent is back from now on.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.owes.take().is_some_and(|since| now.since(since) > SERVER_ANSWERS_WITHIN) {
            self.since = now;
        }
    }

    /// Whether it has answered whatever it was sent.
    pub(super) fn owes_nothing(&self) -> bool {
        self.owes.is_none()
    }

    /// For how long it has been here (true) or away (false). A process that hangs keeps its
    /// connections: whoever is linked and does not answer is away, too.
    fn presence(&self, now: Instant) -> (bool, Duration) {
        let here = self.route.link().is_some();
        match self.owes.filter(|since| here && now.since(*since) > SERVER_ANSWERS_WITHIN) {
            Some(since) => (false, now.since(since)),
            None => (here, now.since(self.since)),
        }
    }

    /// Notes whether the server has lost its register; it counts as away from then on.
    pub(super) fn note_register(&mut self, lost: bool, now: Instant) {
        if std::mem::replace(&mut self.lost, lost) != lost {
            self.since = now;
        }
    }
}

/// One wanted link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    Up(LinkId),
    Dialing {
        pause: Duration,
    },
    Down {
        retry: Instant,
        pause: Duration,
    },
    /// The other side dials.
    Awaited,
}

impl Route {
    fn link(self) -> Option<LinkId> {
        match self {
            Self::Up(link) => Some(link),
            Self::Dialing { .. } | Self::Down { .. } | Self::Awaited => None,
        }
    }

    /// Takes a new link; returns the one it replaces.
    fn came_up(&mut self, link: LinkId) -> Option<LinkId> {
        std::mem::replace(self, Self::Up(link)).link()
    }

    fn down(now: Instant) -> Self {
        Self::Down { retry: now, pause: DIAL_PAUSE_MIN }
    }

    /// Whether it is time to dial; if so it counts as dialling from now on.
    fn take_due(&mut self, now: Instant) -> bool {
        match *self {
            Self::Down { retry, pause } if now >= retry => {
                *self = Self::Dialing { pause };
                true
            }
            _ => false,
        }
    }

    fn failed(&mut self, now: Instant) {
        if let Self::Dialing { pause } = *self {
            *self = Self::Down { retry: now + pause, pause: (pause * 2).min(DIAL_PAUSE_MAX) };
        }
    }
}

impl Links {
    /// The links a member of `view` wants.
    pub(super) fn new(me: NodeInstance, view: &View, mgmt: Vec<(MgmtId, String)>) -> Self {
        let mut links = Self {
            me,
            by_link: BTreeMap::new(),
            strangers: Vec::new(),
            shards: BTreeMap::new(),
            peers: Vec::new(),
            mgmt: Vec::new(),
        };
        for (id, addr) in mgmt {
            links.want_mgmt(id, addr, Instant::default());
        }
        links.enter(view, Instant::default());
        links
    }

    /// The clock starts.
    pub(super) fn start(&mut self, now: Instant) {
        for mgmt in &mut self.mgmt {
            mgmt.since = now;
        }
    }

    /// Wants links to the members and arbitrators of a view, and no longer to others.
    pub(super) fn enter(&mut self, view: &View, now: Instant) {
        let mut before = std::mem::take(&mut self.peers);
        for member in view.members.iter().filter(|m| m.instance != self.me) {
            let known = before.iter().position(|p| p.instance == member.instance);
            let peer = known.map(|at| before.swap_remove(at)).unwrap_or_else(|| {
                let dials = self.me.node < member.instance.node;
                let route = if dials { Route::down(now) } else { Route::Awaited };
                // A member that comes back may know of its view first, and dial.
                let here = |peer| {
                    let link = self.strangers.iter().rfind(|(_, stranger)| *stranger == peer);
                    link.map_or(route, |(link, _)| Route::Up(*link))
                };
                PeerLinks {
                    instance: member.instance,
                    addr: member.addr.clone(),
                    control: here(Peer::Control(member.instance)),
                    watch: here(Peer::Watch(member.instance)),
                    told_view: None,
                }
            });
            self.peers.push(PeerLinks { told_view: None, ..peer });
        }
        let is_member = |peer: &Peer| match peer {
            Peer::Control(node) | Peer::Watch(node) => view.contains(*node),
            _ => true,
        };
        self.strangers.retain(|(_, peer)| !is_member(peer));
        for arbitrator in view.arbitrator.iter().chain(&view.arbitrators_possible) {
            if let Arbitrator::Mgmt { id, addr } = arbitrator {
                self.want_mgmt(*id, addr.clone(), now);
            }
        }
    }

    fn want_mgmt(&mut self, id: MgmtId, addr: String, now: Instant) {
        if self.mgmt.iter().any(|m| m.id == id) {
            return;
        }
        self.mgmt.push(MgmtLink::new(id, addr, Route::down(now), now));
        self.mgmt.sort_unstable_by_key(|m| m.id);
    }

    /// An API node offers itself: it dials, and is known while it is here.
    fn welcome_api(&mut self, id: MgmtId, now: Instant) -> bool {
        if !id.is_api() || self.mgmt.iter().any(|m| m.id == id) {
            return true;
        }
        if self.mgmt.iter().filter(|m| m.id.is_api()).count() >= API_ARBITRATORS_MAX {
            // Those that went away are remembered only while there is room.
            let away = self.mgmt.iter().filter(|m| m.id.is_api() && m.route == Route::Awaited);
            let Some(oldest) = away.min_by_key(|m| m.since).map(|m| m.id) else { return false };
            self.mgmt.retain(|m| m.id != oldest);
        }
        self.mgmt.push(MgmtLink::new(id, String::new(), Route::Awaited, now));
        true
    }

    /// Takes a new link into use; returns false if nobody wants it.
    pub(super) fn up(&mut self, link: LinkId, peer: Peer, now: Instant, out: &mut Outputs) -> bool {
        let wanted = match peer {
            Peer::Control(_) | Peer::Watch(_) => true,
            Peer::Mgmt(id) => self.welcome_api(id, now),
            Peer::Shard(node, _) => node == self.me,
            Peer::Newcomer | Peer::Client => false,
        };
        if !wanted || self.by_link.len() >= LINKS_MAX {
            out.effect(Effect::Close { link, why: "not wanted by a control core" });
            return false;
        }
        if let Peer::Control(node) | Peer::Watch(node) = peer
            && self.peer_mut(node).is_none()
        {
            self.strangers.push((link, peer));
        }
        let older = match peer {
            Peer::Shard(_, shard) => self.shards.insert(shard, link),
            Peer::Control(node) => self.peer_mut(node).and_then(|p| p.control.came_up(link)),
            Peer::Watch(node) => self.peer_mut(node).and_then(|p| p.watch.came_up(link)),
            Peer::Mgmt(id) => self.mgmt_mut(id).and_then(|mgmt| {
                (mgmt.since, mgmt.sent, mgmt.owes) = (now, None, None);
                (mgmt.life, mgmt.lost) = (None, false);
                // It may have been started anew, with less than it had, or with nothing.
                mgmt.registered = ViewNumber(0);
                mgmt.route.came_up(link)
            }),
            Peer::Newcomer | Peer::Client => None,
        };
        if let Some(older) = older {
            out.effect(Effect::Close { link: older, why: "" });
        }
        self.by_link.insert(link, peer);
        true
    }

    /// Forgets a link; returns whose it was, if it was the one in use or a stranger's.
    pub(super) fn down(&mut self, link: LinkId, now: Instant) -> Option<Peer> {
        let peer = self.by_link.remove(&link)?;
        self.strangers.retain(|(stranger, _)| *stranger != link);
        let me = self.me;
        let lost = |route: &mut Route, dials: bool| {
            let used = route.link() == Some(link);
            if used {
                *route = if dials { Route::down(now) } else { Route::Awaited };
            }
            used
        };
        let used = match peer {
            Peer::Control(node) => {
                self.peer_mut(node).is_some_and(|p| lost(&mut p.control, me.node < node.node))
            }
            Peer::Watch(node) => {
                self.peer_mut(node).is_some_and(|p| lost(&mut p.watch, me.node < node.node))
            }
            Peer::Mgmt(id) => self.mgmt_mut(id).is_some_and(|m| {
                (m.since, m.owes) = (now, None);
                lost(&mut m.route, !id.is_api())
            }),
            Peer::Shard(_, shard) => self.shards.get(&shard) == Some(&link),
            Peer::Newcomer | Peer::Client => false,
        };
        used.then_some(peer)
    }

    /// Ends a link; `LinkDown` follows.
    pub(super) fn close(&mut self, link: LinkId, why: &'static str, out: &mut Outputs) {
        out.effect(Effect::Close { link, why });
    }

    /// A dial came to nothing.
    pub(super) fn dial_failed(&mut self, to: &Target, now: Instant) {
        let me = self.me;
        match to {
            Target::Control(node) => {
                if let Some(peer) = self.peer_mut(*node) {
                    peer.control.failed(now);
                }
            }
            Target::Watch(node) => {
                if let Some(peer) = self.peer_mut(*node) {
                    match peer.watch {
                        Route::Dialing { .. } if me.node > node.node => {
                            peer.watch = Route::Awaited;
                        }
                        _ => peer.watch.failed(now),
                    }
                }
            }
            Target::Mgmt(id) => {
                if let Some(mgmt) = self.mgmt_mut(*id) {
                    mgmt.route.failed(now);
                }
            }
            Target::Shard(..) | Target::Node(_) | Target::Any => {}
        }
    }

    /// Dials whatever it is time to dial.
    pub(super) fn dial_due(&mut self, now: Instant, out: &mut Outputs) {
        for peer in &mut self.peers {
            if peer.control.take_due(now) {
                let to = Target::Control(peer.instance);
                out.effect(Effect::Dial { to, addr: peer.addr.clone() });
            }
            if peer.watch.take_due(now) {
                let to = Target::Watch(peer.instance);
                out.effect(Effect::Dial { to, addr: peer.addr.clone() });
            }
        }
        for mgmt in &mut self.mgmt {
            if mgmt.route.take_due(now) {
                out.effect(Effect::Dial { to: Target::Mgmt(mgmt.id), addr: mgmt.addr.clone() });
            }
        }
    }

    /// Dials a peer's death-watch now, whoever's turn it is: to prove that nobody is there.
    pub(super) fn dial_watch(&mut self, node: NodeInstance, out: &mut Outputs) {
        let Some(peer) = self.peer_mut(node) else { return };
        if matches!(peer.watch, Route::Down { .. } | Route::Awaited) {
            peer.watch = Route::Dialing { pause: DIAL_PAUSE_MIN };
            let addr = peer.addr.clone();
            out.effect(Effect::Dial { to: Target::Watch(node), addr });
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self, link: LinkId) -> Option<Peer> {
        self.by_link.get(&link).copied()
    }

    /// Sends to one member, if it is connected.
    pub(super) fn send(&self, to: NodeInstance, message: &ControlMessage, out: &mut Outputs) {
        if let Some(link) = self.control_link(to) {
            send_on(link, message, out);
        }
    }

    /// Sends the same bytes to every connected member.
    pub(super) fn broadcast(&self, message: &ControlMessage, out: &mut Outputs) {
        let mut frame = BytesMut::new();
        message.frame(&mut frame);
        for link in self.peers.iter().filter_map(|p| p.control.link()) {
            if let Some(buffer) = out.buffer(link) {
                buffer.extend_from_slice(&frame);
            }
        }
    }

    /// Every control link there is to this life of a node, member or not.
    pub(super) fn links_to(&self, node: NodeInstance) -> impl Iterator<Item = LinkId> {
        let of = move |peer: &Peer| *peer == Peer::Control(node);
        self.by_link.iter().filter(move |(_, peer)| of(peer)).map(|(link, _)| *link)
    }

    /// The control link to a member.
    pub(super) fn control_link(&self, node: NodeInstance) -> Option<LinkId> {
        self.peers.iter().find(|p| p.instance == node)?.control.link()
    }

    /// The members other than this node, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = NodeInstance> {
        self.peers.iter().map(|p| p.instance)
    }

    /// Whether `node` should be sent the view again: not more often than once per `pause`.
    pub(super) fn may_tell_view(
        &mut self,
        node: NodeInstance,
        now: Instant,
        pause: Duration,
    ) -> bool {
        let Some(peer) = self.peer_mut(node) else { return false };
        let due = peer.told_view.is_none_or(|at| now.since(at) >= pause);
        if due {
            peer.told_view = Some(now);
        }
        due
    }

    /// The link to a shard of this node.
    pub(super) fn shard(&self, shard: ShardId) -> Option<LinkId> {
        self.shards.get(&shard).copied()
    }

    /// Connected management servers.
    pub(super) fn mgmt_up(&mut self) -> impl Iterator<Item = (MgmtId, LinkId, &mut MgmtLink)> {
        self.mgmt.iter_mut().filter_map(|m| m.route.link().map(|link| (m.id, link, m)))
    }

    /// The state of one management server.
    pub(super) fn mgmt_mut(&mut self, id: MgmtId) -> Option<&mut MgmtLink> {
        self.mgmt.iter_mut().find(|m| m.id == id)
    }

    /// An API node's process says which life of it answers.
    pub(super) fn arbitrator_ready(
        &mut self,
        id: MgmtId,
        incarnation: Incarnation,
        mut name: String,
    ) {
        name.truncate(name.floor_char_boundary(ADDR_BYTES_MAX));
        if let Some(mgmt) = self.mgmt_mut(id).filter(|mgmt| mgmt.id.is_api()) {
            (mgmt.life, mgmt.addr) = (Some(incarnation), name);
        }
    }

    /// The management servers of the configuration and of the view, best first.
    pub(super) fn servers(&self) -> impl Iterator<Item = Arbitrator> {
        let servers = self.mgmt.iter().filter(|m| !m.id.is_api());
        servers.map(|m| Arbitrator::Mgmt { id: m.id, addr: m.addr.clone() })
    }

    /// The API nodes that offer themselves, as a view would have to name them: who has been here
    /// for longest first.
    pub(super) fn api_arbitrators(&self) -> Vec<Arbitrator> {
        let mut all: Vec<&MgmtLink> = self.mgmt.iter().filter(|m| m.id.is_api()).collect();
        all.sort_by_key(|m| (m.since, m.id));
        let named = |m: &&MgmtLink| {
            let (id, name) = (m.id, m.addr.clone());
            m.life.map(|incarnation| Arbitrator::Api { id, incarnation, name })
        };
        all.iter().filter_map(named).collect()
    }

    /// Whether an arbitrator has lost its register, and for how long that is known.
    pub(super) fn register_lost(&self, arbitrator: &Arbitrator, now: Instant) -> Option<Duration> {
        let id = id_of(arbitrator);
        let mgmt = self.mgmt.iter().find(|m| m.id == id)?;
        mgmt.lost.then(|| now.since(mgmt.since))
    }

    /// The link to an arbitrator, if it is up.
    pub(super) fn arbitrator(&self, arbitrator: &Arbitrator) -> Option<LinkId> {
        let id = id_of(arbitrator);
        self.mgmt.iter().find(|m| m.id == id)?.route.link()
    }

    /// For how long an arbitrator has been here (true) or away (false). Another life of an API
    /// node's process is not it.
    pub(super) fn arbitrator_for(&self, arbitrator: &Arbitrator, now: Instant) -> (bool, Duration) {
        let id = id_of(arbitrator);
        let Some(mgmt) = self.mgmt.iter().find(|m| m.id == id) else {
            // A life that was never here will not come.
            return (false, if id.is_api() { Duration::MAX } else { Duration::ZERO });
        };
        let same = match arbitrator {
            Arbitrator::Mgmt { .. } => !mgmt.lost,
            Arbitrator::Api { incarnation, .. } => mgmt.life == Some(*incarnation),
        };
        let (here, since) = mgmt.presence(now);
        (same && here, since)
    }

    fn peer_mut(&mut self, node: NodeInstance) -> Option<&mut PeerLinks> {
        self.peers.iter_mut().find(|p| p.instance == node)
    }
}

/// Appends a message to one link.
pub(super) fn send_on(link: LinkId, message: &ControlMessage, out: &mut Outputs) {
    if let Some(buffer) = out.buffer(link) {
        message.frame(buffer);
    }
}

/// The number of an arbitrator.
pub(super) fn id_of(arbitrator: &Arbitrator) -> MgmtId {
    match arbitrator {
        Arbitrator::Mgmt { id, .. } | Arbitrator::Api { id, .. } => *id,
    }
}
