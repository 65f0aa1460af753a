//! The table of one core's links, and which of them want something in the next turn.

use std::sync::Arc;

use lockstep_proto::process::{LinkEnd, LinkId, Outputs, Peer};
use lockstep_proto::wire::hello::Speaker;
use tokio::sync::OwnedSemaphorePermit;

use crate::link::{Link, Transport};
use crate::memory::MemoryEnd;
use crate::ready::{ReadyQueue, SlotWaker};

/// Links by slot.
pub(crate) struct Links {
    queue: Arc<ReadyQueue>,
    table: Vec<Option<Link>>,
    /// Slots to read again without waiting for the kernel.
    again: Vec<u32>,
    /// Slots whose output left while the core had more.
    refills: Vec<u32>,
    /// Links in memory the core has not been told about.
    ups: Vec<(LinkId, Peer)>,
    /// Ended links the core has not been told about.
    downs: Vec<(LinkId, LinkEnd)>,
}

impl Links {
    pub(crate) fn new(queue: Arc<ReadyQueue>) -> Self {
        Self {
            queue,
            table: Vec::new(),
            again: Vec::new(),
            refills: Vec::new(),
            ups: Vec::new(),
            downs: Vec::new(),
        }
    }

    /// Whether something is to be done although no waker was called.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.again.is_empty() || !self.refills.is_empty() || !self.downs.is_empty()
    }

    /// The link in a slot. A waker may be called late, so it may be another one than was woken.
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut Link> {
        self.table.get_mut(slot as usize)?.as_mut()
    }

    /// Exactly this link.
    pub(crate) fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.at(id.slot).filter(|link| link.id == id)
    }

    /// Adds a link that has just been established.
    pub(crate) fn open(
        &mut self,
        out: &mut Outputs,
        peer: Peer,
        transport: Transport,
        permit: Option<OwnedSemaphorePermit>,
    ) -> LinkId {
        let (id, waker) = self.reserve(out);
        self.put(Link::new(id, peer, transport, waker, permit));
        id
    }

    /// A name and a waker for a link that is still to be put in.
    pub(crate) fn reserve(&mut self, out: &mut Outputs) -> (LinkId, Arc<SlotWaker>) {
        let id = out.open_link();
        (id, SlotWaker::new(Arc::clone(&self.queue), id.slot))
    }

    /// Puts in both ends of a link in memory.
    pub(crate) fn join(
        &mut self,
        (mine, my_waker): (LinkId, Arc<SlotWaker>),
        peer: Peer,
        other: &mut Links,
        (theirs, their_waker): (LinkId, Arc<SlotWaker>),
        as_peer: Peer,
    ) {
        let (here, there) = MemoryEnd::pair(Arc::clone(&my_waker), Arc::clone(&their_waker));
        self.put(Link::new(mine, peer, Transport::Memory(here), my_waker, None));
        self.ups.push((mine, peer));
        other.put(Link::new(theirs, as_peer, Transport::Memory(there), their_waker, None));
        other.ups.push((theirs, as_peer));
    }

    fn put(&mut self, link: Link) {
        let slot = link.id.slot as usize;
        if self.table.len() <= slot {
            self.table.resize_with(slot + 1, || None);
        }
        // The first look leaves the waker with the kernel.
        self.again.push(link.id.slot);
        self.table[slot] = Some(link);
    }

    /// Takes a link out.
    pub(crate) fn remove(&mut self, id: LinkId) -> Option<Link> {
        self.get(id)?;
        self.table[id.slot as usize].take()
    }

    /// Ends a link by reset; the core hears of it next turn.
    pub(crate) fn end(&mut self, id: LinkId, end: LinkEnd) {
        if let Some(link) = self.remove(id) {
            link.reset();
            self.downs.push((id, end));
        }
    }

    /// Ends every link. By reset, because a live server does not end links in order; but a
    /// client's last words may arrive: how its links end is nobody's evidence.
    pub(crate) fn end_all(&mut self, own: Speaker) {
        for link in self.table.drain(..).flatten() {
            if own != Speaker::Client {
                link.reset();
            }
        }
    }

    pub(crate) fn look_again(&mut self, slot: u32) {
        self.again.push(slot);
    }

    pub(crate) fn refill(&mut self, slot: u32) {
        self.refills.push(slot);
    }

    /// Moves the slots to be read again to `slots`.
    pub(crate) fn add_again(&mut self, slots: &mut Vec<u32>) {
        slots.append(&mut self.again);
    }

    pub(crate) fn pop_refill(&mut self) -> Option<u32> {
        self.refills.pop()
    }

    pub(crate) fn take_ups(&mut self) -> Vec<(LinkId, Peer)> {
        std::mem::take(&mut self.ups)
    }

    pub(crate) fn take_downs(&mut self) -> Vec<(LinkId, LinkEnd)> {
        std::mem::take(&mut self.downs)
    }
}
