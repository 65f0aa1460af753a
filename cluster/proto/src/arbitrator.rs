//! The arbitrator in a process of an API node: for clusters whose management servers may all be
//! gone.
//!
//! It offers itself: it dials the control cores of all data nodes and says which life it is. It has
//! no disk. Its register dies with its process, so it answers only as the life that a view names: a
//! restarted one has another incarnation, offers itself under that, and says nothing to anybody who
//! asks for the one before. A view that names it is in its register before anyone acts in it, so
//! while this life is named, the register is there.
//!
//! A pure machine like the others; whoever hosts it owns the links.

use std::time::Duration;

use crate::canary::Canary;
use crate::ids::{ClusterId, Incarnation, MgmtId, NodeId, ViewNumber};
use crate::limits::NODES_MAX;
use crate::process::{Effect, Input, LinkId, Outputs, Peer, Process, Target};
use crate::register::Register;
use crate::time::Instant;
use crate::view::{Arbitrator, View, ViewIdentity};
use crate::wire::control::{ControlMessage, Verdict};
use crate::wire::kind;

/// The pause before a data node is dialled again.
const DIAL_PAUSE: Duration = Duration::from_millis(300);

/// What it is started with.
#[derive(Clone, Debug)]
pub struct ApiArbitratorOptions {
    /// The number it has drawn; see [`MgmtId::is_api`].
    pub id: MgmtId,
    /// The cluster it serves.
    pub cluster: ClusterId,
    /// Drawn at the start of the process: never that of an earlier life.
    pub incarnation: Incarnation,
    /// What people call it.
    pub name: String,
    /// The data nodes it knows of at first, with their addresses.
    pub nodes: Vec<(NodeId, String)>,
    /// A bug to switch on, for the simulator.
    pub canary: Option<Canary>,
}

/// See the module text.
#[derive(Debug)]
pub struct ApiArbitrator {
    options: ApiArbitratorOptions,
    register: Option<Register>,
    /// The newest view it was told.
    view: ViewNumber,
    /// Whether that view names it.
    named: bool,
    seats: Vec<Seat>,
}

/// A data node.
#[derive(Debug)]
struct Seat {
    node: NodeId,
    addr: String,
    state: Way,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Up(LinkId),
    Dialing,
    Resting(Instant),
}

impl ApiArbitrator {
    /// A life that no view names yet.
    #[must_use]
    pub fn new(options: ApiArbitratorOptions) -> Self {
        let seat = |(node, addr): &(NodeId, String)| Seat {
            node: *node,
            addr: addr.clone(),
            state: Way::Resting(Instant::default()),
        };
        let seats = options.nodes.iter().take(NODES_MAX).map(seat).collect();
        Self { options, register: None, view: ViewNumber(0), named: false, seats }
    }

    /// Which life it is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
    }

    /// The number it has drawn.
    #[must_use]
    pub fn id(&self) -> MgmtId {
        self.options.id
    }

    /// What its register holds.
    #[must_use]
    pub fn register(&self) -> Option<&ViewIdentity> {
        self.register.as_ref().map(Register::view)
    }

    /// Whether the newest view it was told names it.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.named
    }

    fn is_me(&self, arbitrator: Option<&Arbitrator>) -> bool {
        let ApiArbitratorOptions { id, incarnation, .. } = &self.options;
        matches!(arbitrator, Some(Arbitrator::Api { id: named, incarnation: life, .. })
            if named == id && life == incarnation)
    }

    fn on_message(&mut self, link: LinkId, message: ControlMessage, out: &mut Outputs) {
        match message {
            ControlMessage::AskArbitrator { request, cluster, asked, counted, wanted } => {
                let own = cluster == self.options.cluster && self.is_me(Some(&asked));
                let Some(register) = self.register.as_mut().filter(|_| own) else {
                    return out.mark("api_arbitrator_silent");
                };
                let verdict = register.ask(&counted, &wanted, self.options.canary).verdict;
                match verdict {
                    Verdict::Granted => out.mark("api_arbitrator_granted"),
                    Verdict::Refused { .. } => out.mark("api_arbitrator_refused"),
                }
                send(link, &ControlMessage::ArbitratorVerdict { request, verdict }, out);
            }
            ControlMessage::RegisterView { view, counted } => {
                let registered = self.take_view(&view, &counted, out);
                let identity = view.identity();
                let lost = false;
                let answer = ControlMessage::RegisteredView { view: identity, registered, lost };
                send(link, &answer, out);
                self.follow(&view);
            }
            _ => close(link, "a control message that is none of an arbitrator's", out),
        }
    }

    /// Whether the register holds the view. Of a view that names somebody else nothing is kept.
    fn take_view(&mut self, view: &View, counted: &[ViewIdentity], out: &mut Outputs) -> bool {
        if view.cluster != self.options.cluster {
            return false;
        }
        if !self.is_me(view.arbitrator.as_ref()) {
            // For an earlier life it cannot speak; as a bystander it has nothing to keep.
            let id = self.options.id;
            return !matches!(&view.arbitrator, Some(Arbitrator::Api { id: of, .. }) if *of == id);
        }
        if let Some(register) = &mut self.register {
            let answer = register.ask(counted, &view.identity(), self.options.canary);
            return answer.verdict == Verdict::Granted;
        }
        out.mark("api_arbitrator_appointed");
        self.register = Some(Register::new(view.identity()));
        true
    }

    /// Data nodes come and go: whoever is a member is offered an arbitrator.
    fn follow(&mut self, view: &View) {
        if view.cluster != self.options.cluster || view.number <= self.view {
            return;
        }
        self.view = view.number;
        self.named = self.is_me(view.arbitrator.as_ref());
        for member in view.members.iter().take(NODES_MAX) {
            let (node, addr) = (member.instance.node, &member.addr);
            if let Some(seat) = self.seat(node) {
                seat.addr.clone_from(addr);
            } else if self.seats.len() < NODES_MAX {
                let state = Way::Resting(Instant::default());
                self.seats.push(Seat { node, addr: addr.clone(), state });
            }
        }
    }

    fn seat(&mut self, node: NodeId) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.node == node)
    }

    fn on_link_up(&mut self, link: LinkId, peer: Peer, out: &mut Outputs) {
        let Peer::Control(instance) = peer else {
            return close(link, "not wanted by an arbitrator", out);
        };
        let ApiArbitratorOptions { incarnation, name, .. } = self.options.clone();
        let Some(seat) = self.seat(instance.node) else {
            return close(link, "not wanted by an arbitrator", out);
        };
        if let Way::Up(older) = std::mem::replace(&mut seat.state, Way::Up(link)) {
            close(older, "", out);
        }
        send(link, &ControlMessage::ArbitratorReady { incarnation, name }, out);
    }

    fn dial_due(&mut self, now: Instant, out: &mut Outputs) {
        for seat in &mut self.seats {
            if matches!(seat.state, Way::Resting(until) if until <= now) {
                seat.state = Way::Dialing;
                let to = Target::Node(seat.node);
                out.effect(Effect::Dial { to, addr: seat.addr.clone() });
            }
        }
    }
}

impl Process for ApiArbitrator {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer } => self.on_link_up(link, peer, out),
            Input::LinkDown { link, .. } => {
                let down = |seat: &&mut Seat| seat.state == Way::Up(link);
                if let Some(seat) = self.seats.iter_mut().find(down) {
                    seat.state = Way::Resting(now + DIAL_PAUSE);
                }
            }
            Input::DialFailed { to: Target::Node(node), .. } => {
                if let Some(seat) = self.seat(node).filter(|seat| seat.state == Way::Dialing) {
                    seat.state = Way::Resting(now + DIAL_PAUSE);
                }
            }
            Input::Frame { link, bytes } => {
                let known = self.seats.iter().any(|seat| seat.state == Way::Up(link));
                let body = match bytes.split_first() {
                    Some((&kind::CONTROL, body)) if known => body,
                    _ => return close(link, "malformed frame", out),
                };
                match ControlMessage::parse(body) {
                    Ok(message) => self.on_message(link, message, out),
                    Err(_) => close(link, "malformed control message", out),
                }
            }
            Input::DialFailed { .. }
            | Input::Stored { .. }
            | Input::Disk { .. }
            | Input::Measured { .. }
            | Input::Recovered { .. }
            | Input::Timeout
            | Input::Terminate => {}
        }
        self.dial_due(now, out);
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        let due = |seat: &Seat| match seat.state {
            Way::Resting(until) => Some(until),
            Way::Up(_) | Way::Dialing => None,
        };
        self.seats.iter().filter_map(due).min()
    }
}

fn send(link: LinkId, message: &ControlMessage, out: &mut Outputs) {
    if let Some(buffer) = out.buffer(link) {
        message.frame(buffer);
    }
}

fn close(link: LinkId, why: &'static str, out: &mut Outputs) {
    out.effect(Effect::Close { link, why });
}
