//! Connections of a node that looks for its cluster: to everybody it knows of.

use lockstep_proto::process::{Effect, LinkId, Outputs, Peer, Target};
use lockstep_proto::time::Instant;

use super::{Contact, RestartCore, SAY_EVERY};

impl RestartCore {
    pub(super) fn dial_due(&mut self, now: Instant, out: &mut Outputs) {
        let nodes = self.nodes.iter_mut().map(|(node, contact)| (Target::Node(*node), contact));
        let mgmts = self.mgmts.iter_mut().map(|(id, contact)| (Target::Mgmt(*id), contact));
        for (to, contact) in nodes.chain(mgmts) {
            let idle = contact.dialled.is_none() && !contact.dialling;
            if idle && contact.dial_at <= now && !contact.addr.is_empty() {
                contact.dialling = true;
                out.effect(Effect::Dial { to, addr: contact.addr.clone() });
            }
        }
    }

    pub(super) fn contact(&mut self, peer: Peer) -> Option<&mut Contact> {
        match peer {
            Peer::Control(life) if life.node != self.me.node => {
                let unknown = || Contact::new(String::new());
                Some(self.nodes.entry(life.node).or_insert_with(unknown))
            }
            Peer::Mgmt(id) => self.mgmts.get_mut(&id),
            _ => None,
        }
    }

    pub(super) fn on_link_up(&mut self, now: Instant, link: LinkId, peer: Peer, out: &mut Outputs) {
        let Some(contact) = self.contact(peer) else {
            out.effect(Effect::Close { link, why: "this node is still starting" });
            return;
        };
        contact.links.push(link);
        if std::mem::take(&mut contact.dialling) {
            contact.dialled = Some(link);
        }
        self.peers.insert(link, peer);
        self.say(now, out);
    }

    pub(super) fn on_link_down(&mut self, now: Instant, link: LinkId) {
        let Some(peer) = self.peers.remove(&link) else { return };
        if let Some(contact) = self.contact(peer) {
            contact.links.retain(|other| *other != link);
            if contact.dialled == Some(link) {
                contact.dialled = None;
                contact.dial_at = now + SAY_EVERY;
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, to: &Target) {
        let contact = match to {
            Target::Node(node) => self.nodes.get_mut(node),
            Target::Mgmt(id) => self.mgmts.get_mut(id),
            _ => None,
        };
        if let Some(contact) = contact {
            contact.dialling = false;
            contact.dial_at = now + SAY_EVERY;
        }
    }
}
