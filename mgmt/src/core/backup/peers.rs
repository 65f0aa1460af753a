//! The other management servers: each is asked now and then what it knows of backups, so that any
//! of them can tell of all, and take over what another one has left.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_proto::ids::MgmtId;
use lockstep_proto::process::{Effect, LinkId, Outputs, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, View};
use lockstep_proto::wire::backup::BackupMessage;

use super::shards::tell;

/// Between two questions to a server that answers, and between two tries to reach one.
const ASK_EVERY: Duration = Duration::from_secs(1);
const DIAL_EVERY: Duration = Duration::from_secs(3);

/// Who has said nothing for so long does not go on with what he has begun, as far as is known here.
const SILENCE: Duration = Duration::from_secs(3);

/// Servers that are followed; a cluster has two or three.
const PEERS_MAX: usize = 16;

struct Peer {
    addr: String,
    link: Option<LinkId>,
    heard: Option<Instant>,
    /// When it is to be asked or dialled.
    next: Instant,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self { addr: String::new(), link: None, heard: None, next: now }
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Peers(BTreeMap<MgmtId, Peer>);

impl Peers {
    /// Those the view names, but for this one. API nodes make no backups.
    pub(super) fn follow(&mut self, now: Instant, me: MgmtId, view: &View) {
        for arbitrator in &view.arbitrators_possible {
            let Arbitrator::Mgmt { id, addr } = arbitrator else { continue };
            if *id == me || id.is_api() {
                continue;
            }
            self.0.entry(*id).or_insert_with(|| Peer::new(now)).addr.clone_from(addr);
        }
    }

    /// Whether it has answered lately.
    pub(super) fn is_there(&self, now: Instant, id: MgmtId) -> bool {
        let heard = self.0.get(&id).and_then(|peer| peer.heard);
        heard.is_some_and(|heard| now.since(heard) < SILENCE)
    }

    /// A link to another server, or of one to this, that the view may not name: both ends may ask.
    pub(super) fn on_up(&mut self, now: Instant, id: MgmtId, link: LinkId) {
        if id.is_api() || (self.0.len() >= PEERS_MAX && !self.0.contains_key(&id)) {
            return;
        }
        let peer = self.0.entry(id).or_insert_with(|| Peer::new(now));
        if peer.link.is_none() {
            (peer.link, peer.next) = (Some(link), now);
        }
    }

    /// It cannot be reached.
    pub(super) fn on_failed(&mut self, now: Instant, id: MgmtId) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.next = now + DIAL_EVERY;
        }
    }

    /// A link has ended.
    pub(super) fn on_down(&mut self, now: Instant, link: LinkId) {
        if let Some(peer) = self.0.values_mut().find(|peer| peer.link == Some(link)) {
            (peer.link, peer.next) = (None, now + DIAL_EVERY);
        }
    }

    /// It has answered.
    pub(super) fn on_answer(&mut self, now: Instant, id: MgmtId) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.heard = Some(now);
        }
    }

    /// Asks and dials those whose time has come.
    pub(super) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        for (id, peer) in self.0.iter_mut().filter(|(_, peer)| peer.next <= now) {
            match peer.link {
                Some(link) => {
                    tell(Some(link), &BackupMessage::List, out);
                    peer.next = now + ASK_EVERY;
                }
                // It dials if it wants to.
                None if peer.addr.is_empty() => peer.next = now + DIAL_EVERY * 10,
                None => {
                    let to = Target::Mgmt(*id);
                    out.effect(Effect::Dial { to, addr: peer.addr.clone() });
                    // A dial ends by itself, one way or the other.
                    peer.next = now + DIAL_EVERY * 10;
                }
            }
        }
    }

    /// When the time comes.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.0.values().map(|peer| peer.next).min()
    }
}
