//! The links of a shard core: who is there, and how far each stream of records has come.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockstep_proto::ids::{PartitionId, Seq, ShardAddr};
use lockstep_proto::process::{LinkId, Peer};
use lockstep_proto::time::Instant;

/// All links of one shard.
#[derive(Default)]
pub(super) struct Links {
    pub(super) control: Option<LinkId>,
    pub(super) shards: BTreeMap<ShardAddr, LinkId>,
    /// When to dial peers that are not connected; `None` while a dial is under way.
    pub(super) redial: BTreeMap<ShardAddr, Option<Instant>>,
    by_slot: Vec<Option<Link>>,
    acks: Vec<LinkId>,
    pub(super) clients: usize,
    /// When a stream to a peer last stalled.
    pub(super) stalls: BTreeMap<ShardAddr, Instant>,
}

/// One link.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) peer: Peer,
    /// A client that wants to hear of every view.
    pub(super) watches_view: bool,
    /// Records streamed and not acknowledged, oldest first.
    sent: VecDeque<(PartitionId, Seq)>,
    /// How many streamed records were acknowledged.
    acked: u64,
    /// How many streamed records were received.
    received: u64,
    ack_due: bool,
    /// Since when the peer owes progress: an acknowledgement, or its log ends.
    owes_since: Option<Instant>,
}

impl Links {
    pub(super) fn insert(&mut self, id: LinkId, peer: Peer) {
        let slot = id.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, || None);
        }
        self.by_slot[slot] = Some(Link {
            id,
            peer,
            watches_view: false,
            sent: VecDeque::new(),
            acked: 0,
            received: 0,
            ack_due: false,
            owes_since: None,
        });
    }

    pub(super) fn remove(&mut self, id: LinkId) -> Option<Link> {
        let entry = self.by_slot.get_mut(id.slot as usize)?;
        if entry.as_ref().is_some_and(|link| link.id == id) { entry.take() } else { None }
    }

    pub(super) fn find(&self, id: LinkId) -> Option<&Link> {
        self.by_slot.get(id.slot as usize)?.as_ref().filter(|link| link.id == id)
    }

    pub(super) fn find_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.by_slot.get_mut(id.slot as usize)?.as_mut().filter(|link| link.id == id)
    }

    /// All links, in order of slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_slot.iter().flatten()
    }

    /// A record was streamed.
    pub(super) fn sent(&mut self, id: LinkId, p: PartitionId, seq: Seq, now: Instant) {
        if let Some(link) = self.find_mut(id) {
            link.owes_since.get_or_insert(now);
            link.sent.push_back((p, seq));
        }
    }

    /// A record was received and is in the log.
    pub(super) fn received(&mut self, id: LinkId) {
        let Some(link) = self.find_mut(id) else { return };
        link.received += 1;
        if !link.ack_due {
            link.ack_due = true;
            self.acks.push(id);
        }
    }

    /// The oldest streamed record that the acknowledgement of the first `count` covers.
    pub(super) fn next_acked(&mut self, id: LinkId, count: u64) -> Option<(PartitionId, Seq)> {
        let link = self.find_mut(id)?;
        if link.acked >= count {
            return None;
        }
        let next = link.sent.pop_front()?;
        link.acked += 1;
        Some(next)
    }

    /// The peer made progress: it owes nothing, or the clock starts anew for the rest.
    pub(super) fn progressed(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.find_mut(id) {
            link.owes_since = (!link.sent.is_empty()).then_some(now);
        }
    }

    /// The peer has to say something on this link from now on.
    pub(super) fn expect(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.find_mut(id) {
            link.owes_since = Some(now);
        }
    }

    /// Links to peers that have owed progress for longer than `patience`.
    pub(super) fn stalled(&self, now: Instant, patience: Duration) -> Vec<(ShardAddr, LinkId)> {
        let is_stalled = |id: &LinkId| {
            let owes = self.find(*id).and_then(|link| link.owes_since);
            owes.is_some_and(|since| now.since(since) > patience)
        };
        let links = self.shards.iter().filter(|(_, id)| is_stalled(id));
        links.map(|(addr, id)| (*addr, *id)).collect()
    }

    /// The backup counts anew.
    pub(super) fn restart_stream(&mut self, id: LinkId) {
        if let Some(link) = self.find_mut(id) {
            link.sent.clear();
            link.acked = 0;
        }
    }

    /// This side counts anew.
    pub(super) fn restart_receiving(&mut self, id: LinkId) {
        if let Some(link) = self.find_mut(id) {
            link.received = 0;
            link.ack_due = false;
        }
    }

    /// Hands out the acknowledgements that are due.
    pub(super) fn acks_due(&mut self, mut send: impl FnMut(LinkId, u64)) {
        let mut due = std::mem::take(&mut self.acks);
        for id in due.drain(..) {
            if let Some(link) = self.find_mut(id)
                && link.ack_due
            {
                link.ack_due = false;
                send(id, link.received);
            }
        }
        self.acks = due;
    }
}
