//! What an earlier life of a node said and what arrives only now: heartbeats on connections that
//! were made in that life. A ghost hears nothing, so nothing that it is told makes it stop.
//!
//! Every simulated node is in its second life, so that any of them can have a ghost.

use std::collections::BTreeSet;
use std::time::Duration;

use lockstep_proto::ids::{Epoch, Incarnation, NodeInstance, ViewNumber};
use lockstep_proto::process::{Effect, Input, LinkId, Outputs, Process, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::control::ControlMessage;

use super::cluster::{self, Cluster};
use super::core::Core;
use super::host::{HostId, Role};
use super::world::World;

/// Time between a ghost's heartbeats: the default of a cluster.
const BEAT: Duration = Duration::from_millis(50);

/// A process that only beats.
struct Ghost {
    /// Whom it dials when it first runs.
    peers: Vec<(NodeInstance, String)>,
    links: BTreeSet<LinkId>,
    due: Instant,
}

impl Process for Ghost {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, .. } => {
                self.links.insert(link);
                self.due = now;
            }
            Input::LinkDown { link, .. } => {
                self.links.remove(&link);
            }
            Input::Timeout => {
                self.due = now + BEAT;
                for (node, addr) in self.peers.drain(..) {
                    out.effect(Effect::Dial { to: Target::Control(node), addr });
                }
                let (view, epoch, unheard) = (ViewNumber(0), Epoch(0), Vec::new());
                let (sent, pinned) = (now.0, false);
                let beat = ControlMessage::Heartbeat { sent, view, epoch, unheard, pinned };
                for link in &self.links {
                    if let Some(buffer) = out.buffer(*link) {
                        beat.frame(buffer);
                    }
                }
            }
            Input::Frame { .. }
            | Input::DialFailed { .. }
            | Input::Stored { .. }
            | Input::Disk { .. }
            | Input::Measured { .. }
            | Input::Recovered { .. }
            | Input::Terminate => {}
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        Some(self.due)
    }
}

/// Raises the ghost of a data node's first life.
pub fn raise(world: &mut World, cluster: &Cluster, node: HostId) {
    let Role::Data(living) = world.host(node).role else { return };
    let first = NodeInstance { node: living.node, incarnation: Incarnation(1) };
    let (name, zone, clock) = (format!("{first}"), world.host(node).zone, world.host(node).clock);
    let host = cluster::host(name.clone(), Role::Data(first), zone, String::new(), clock);
    let ghost = world.add_host(host);
    for other in (0..ghost.0).map(HostId) {
        *world.net.path_mut(ghost, other) = *world.net.path(node, other);
        *world.net.path_mut(other, ghost) = *world.net.path(other, node);
    }
    let members = cluster.view.members.iter().filter(|member| member.instance != living);
    let core = Ghost {
        peers: members.map(|member| (member.instance, member.addr.clone())).collect(),
        links: BTreeSet::new(),
        due: Instant::default(),
    };
    let proc = world.add_proc(ghost, name, Core::Toy(Box::new(core)));
    world.plan_next_turn(proc);
}
