//! The arbitrator in a process of an API node: for clusters whose management servers may all be
//! gone.
//!
//! It has no disk. Its register dies with its process, so it answers only as the life that a view
//! names: a restarted one has another incarnation, offers itself under that, and says nothing to
//! anybody who asks for the one before. A view that names it is in its register before anyone acts
//! in it, so while this life is named, the register is there.
//!
//! A pure machine like the others; whoever hosts it owns the links.

use std::collections::BTreeSet;

use crate::canary::Canary;
use crate::ids::{ClusterId, Incarnation, MgmtId};
use crate::limits::NODES_MAX;
use crate::process::{Effect, Input, LinkId, Outputs, Peer, Process};
use crate::register::Register;
use crate::time::Instant;
use crate::view::{Arbitrator, View, ViewIdentity};
use crate::wire::control::{ControlMessage, Verdict};
use crate::wire::kind;

/// Links it keeps: one per data node, and those of earlier lives that are ending.
const LINKS_MAX: usize = 2 * NODES_MAX;

/// What it is started with.
#[derive(Clone, Debug)]
pub struct ApiArbitratorOptions {
    /// Its number in the configuration.
    pub id: MgmtId,
    /// The cluster it serves.
    pub cluster: ClusterId,
    /// Drawn at the start of the process: never that of an earlier life.
    pub incarnation: Incarnation,
    /// A bug to switch on, for the simulator.
    pub canary: Option<Canary>,
}

/// See the module text.
#[derive(Debug)]
pub struct ApiArbitrator {
    options: ApiArbitratorOptions,
    register: Option<Register>,
    links: BTreeSet<LinkId>,
}

impl ApiArbitrator {
    /// A life that no view names yet.
    #[must_use]
    pub fn new(options: ApiArbitratorOptions) -> Self {
        Self { options, register: None, links: BTreeSet::new() }
    }

    /// Which life it is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
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
                let registered = self.register(&view, &counted, out);
                let view = view.identity();
                send(link, &ControlMessage::RegisteredView { view, registered }, out);
            }
            _ => close(link, "a control message that is none of an arbitrator's", out),
        }
    }

    /// Whether the register holds the view. Of a view that names somebody else nothing is kept.
    fn register(&mut self, view: &View, counted: &[ViewIdentity], out: &mut Outputs) -> bool {
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
}

impl Process for ApiArbitrator {
    fn handle(&mut self, _now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer: Peer::Control(_) } if self.links.len() < LINKS_MAX => {
                self.links.insert(link);
                let incarnation = self.options.incarnation;
                send(link, &ControlMessage::ArbitratorReady { incarnation }, out);
            }
            Input::LinkUp { link, .. } => close(link, "not wanted by an arbitrator", out),
            Input::LinkDown { link, .. } => {
                self.links.remove(&link);
            }
            Input::Frame { link, bytes } => {
                let body = match bytes.split_first() {
                    Some((&kind::CONTROL, body)) if self.links.contains(&link) => body,
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
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
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
