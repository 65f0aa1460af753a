//! How the topology changes: links come and go, views follow one another, silent links are probed.
//!
//! Invariant: after each change the routes are made anew, and every link that ended is reported to
//! the caller exactly once, so that the calls on it can be taken elsewhere.

use super::*;

impl Topology {
    /// Dials whatever is wanted, is down and has waited long enough.
    pub(in crate::core) fn dial(&mut self, now: Instant, out: &mut Outputs, timers: &mut Timers) {
        for (addr, contact) in &mut self.contacts {
            let ContactState::Down { again } = contact.state else { continue };
            if contact.wanted && again <= now {
                contact.state = ContactState::Dialing;
                let to = Target::Shard(addr.instance, addr.shard);
                out.effect(Effect::Dial { to, addr: contact.addr.clone() });
            }
        }
        if self.wants_bootstrap() && self.bootstrap_again <= now {
            for addr in &self.addresses {
                out.effect(Effect::Dial { to: Target::Any, addr: addr.clone() });
            }
            let (base, max) = DIAL_BACK_OFF;
            self.bootstrap_failures += 1;
            self.bootstrap_again = now + timers.back_off(base * 4, self.bootstrap_failures, max);
            timers.set(self.bootstrap_again, Timer::Dial);
        }
    }

    /// Makes sure that the shards a partition's requests could go to are being dialled.
    pub(in crate::core) fn want(&mut self, partition: PartitionId) {
        let Some(view) = &self.view else { return };
        let Some(placement) = view.placement(partition) else { return };
        for node in &placement.replicas {
            if let Some(addr) = view.shard_of(partition, *node)
                && let Some(contact) = self.contacts.get_mut(&addr)
            {
                contact.wanted = true;
            }
        }
    }

    /// A link is up. Asks for the view, or ends the link if nobody needs it.
    pub(in crate::core) fn on_link_up(
        &mut self,
        now: Instant,
        link: LinkId,
        peer: Peer,
        out: &mut Outputs,
    ) {
        if let Err(why) = self.admit(link, peer) {
            out.effect(Effect::Close { link, why });
            return;
        }
        let slot = link.slot as usize;
        if self.links.len() <= slot {
            self.links.resize_with(slot + 1, || None);
        }
        if let (None, Peer::Mgmt(id)) = (&self.view, peer) {
            self.trouble = format!("{id} is there, but waits for the data nodes of its cluster");
        }
        self.links[slot] = Some(Link { id: link, peer, up: now, heard: now, probed: None });
        watch_view(link, out);
        self.reroute();
    }

    fn admit(&mut self, link: LinkId, peer: Peer) -> Result<(), &'static str> {
        let (instance, shard) = match peer {
            Peer::Shard(instance, shard) => (instance, shard),
            Peer::Mgmt(_) if self.is_linked(peer) => return Err(""),
            Peer::Mgmt(_) => return Ok(()),
            Peer::Control(_) | Peer::Watch(_) | Peer::Newcomer | Peer::Client => {
                return Err("only data nodes and management servers serve clients");
            }
        };
        if self.view.is_none() {
            return if self.is_linked(peer) { Err("") } else { Ok(()) };
        }
        match self.contacts.get_mut(&ShardAddr { instance, shard }) {
            Some(contact) if contact.link().is_some() => Err(""),
            Some(contact) => {
                contact.state = ContactState::Up(link);
                Ok(())
            }
            None => Err("the node is not in the view"),
        }
    }

    /// A link has ended. Returns whether it was one of ours.
    pub(in crate::core) fn on_link_down(
        &mut self,
        now: Instant,
        link: LinkId,
        timers: &mut Timers,
    ) -> bool {
        let Some(entry) = self.find(link) else { return false };
        let was_good = now.since(entry.up) >= LINK_LIFE_GOOD;
        self.links[link.slot as usize] = None;
        let ended = self.contacts.values_mut().find(|contact| contact.link() == Some(link));
        if let Some(contact) = ended {
            contact.failures = if was_good { 0 } else { contact.failures };
            contact.rest(now, timers);
        } else {
            timers.set(self.bootstrap_again, Timer::Dial);
        }
        self.reroute();
        true
    }

    /// A dial came to nothing.
    pub(in crate::core) fn on_dial_failed(
        &mut self,
        now: Instant,
        (to, addr, error): (&Target, &str, DialError),
        timers: &mut Timers,
    ) {
        let why = match error {
            DialError::Refused => "nobody listens there",
            DialError::LaterIncarnation => "the node has been restarted",
            DialError::WrongCluster => "another cluster listens there",
            DialError::WrongVersion => "another version of the wire language is spoken there",
            DialError::Failed => "no answer",
        };
        self.trouble = format!("{addr}: {why}");
        let Target::Shard(instance, shard) = *to else { return };
        if let Some(contact) = self.contacts.get_mut(&ShardAddr { instance, shard })
            && contact.state == ContactState::Dialing
        {
            contact.rest(now, timers);
        }
    }

    /// Anything has come on a link. Returns whether it is one of ours.
    #[inline]
    pub(in crate::core) fn on_heard(&mut self, now: Instant, link: LinkId) -> bool {
        match self.links.get_mut(link.slot as usize) {
            Some(Some(entry)) if entry.id == link => {
                entry.heard = now;
                entry.probed = None;
                true
            }
            _ => false,
        }
    }

    /// A view came on `link`. Returns `None` if it is not news, else the links that it ends.
    pub(in crate::core) fn on_view(
        &mut self,
        now: Instant,
        link: LinkId,
        view: Box<View>,
        out: &mut Outputs,
    ) -> Option<Vec<LinkId>> {
        if let Some(known) = &self.view {
            if known.cluster != view.cluster {
                self.on_other_cluster(link, &view, out);
                return None;
            }
            if known.number >= view.number {
                return None;
            }
        }
        self.view = Some(Arc::from(view));
        self.bootstrap_failures = 0;
        self.rebuild_contacts(now);
        let lost = self.drop_strangers();
        for link in &lost {
            self.links[link.slot as usize] = None;
            out.effect(Effect::Close { link: *link, why: "the node has left the view" });
        }
        self.reroute();
        Some(lost)
    }

    /// Ends a link whose peer says what it should not.
    pub(in crate::core) fn cut(
        &mut self,
        now: Instant,
        link: LinkId,
        why: &'static str,
        out: &mut Outputs,
        timers: &mut Timers,
    ) -> bool {
        if !self.on_link_down(now, link, timers) {
            return false;
        }
        out.effect(Effect::Close { link, why });
        true
    }

    /// Probes those of the owing links that have been silent for half of `limit` and returns those
    /// that have not answered a probe either.
    pub(in crate::core) fn find_silent(
        &mut self,
        now: Instant,
        owing: &[LinkId],
        limit: Duration,
        out: &mut Outputs,
    ) -> Vec<LinkId> {
        let mut silent = Vec::new();
        for link in owing {
            let Some(Some(entry)) = self.links.get_mut(link.slot as usize) else { continue };
            if entry.id != *link || now.since(entry.heard) < limit / 2 {
                continue;
            }
            match entry.probed {
                None => {
                    entry.probed = Some(now);
                    watch_view(*link, out);
                    out.mark("client_link_probed");
                }
                Some(probed) if now.since(probed) >= limit / 2 => silent.push(*link),
                Some(_) => {}
            }
        }
        silent
    }

    fn wants_bootstrap(&self) -> bool {
        let linked = self.links.iter().flatten().count();
        self.any_shard().is_none() && linked < self.addresses.len()
    }

    fn is_linked(&self, peer: Peer) -> bool {
        self.links.iter().flatten().any(|entry| entry.peer == peer)
    }

    fn on_other_cluster(&mut self, link: LinkId, view: &View, out: &mut Outputs) {
        let known = self.view.as_ref().map_or_else(String::new, |v| v.cluster.to_string());
        self.trouble =
            format!("a server belongs to cluster {}, not to {known} as the others", view.cluster);
        out.log(LogLevel::Error, self.trouble.clone());
        out.effect(Effect::Close { link, why: "another cluster" });
    }

    /// One contact for each shard of the view; those that stay keep their links.
    fn rebuild_contacts(&mut self, now: Instant) {
        let Some(view) = self.view.clone() else { return };
        let all = view.members.len() <= NODES_ALL_LINKED;
        let mut known = std::mem::take(&mut self.contacts);
        for member in &view.members {
            let near = self.distance(member) < 2;
            for shard in (0..member.shards).map(ShardId) {
                let addr = ShardAddr { instance: member.instance, shard };
                let mut contact = known.remove(&addr).unwrap_or_else(|| Contact {
                    addr: member.addr.clone(),
                    wanted: self.contacts.len() < LINKS_MIN,
                    state: ContactState::Down { again: now },
                    failures: 0,
                });
                contact.wanted |= all || near;
                if contact.state != ContactState::Dialing && contact.link().is_none() {
                    contact.adopt(&self.links, addr);
                }
                self.contacts.insert(addr, contact);
            }
        }
    }

    /// The links to shards that are not contacts.
    fn drop_strangers(&self) -> Vec<LinkId> {
        let is_stranger = |entry: &&Link| match entry.peer {
            Peer::Shard(instance, shard) => {
                self.link_to(ShardAddr { instance, shard }) != Some(entry.id)
            }
            _ => false,
        };
        self.links.iter().flatten().filter(is_stranger).map(|entry| entry.id).collect()
    }
}

impl Contact {
    /// A link or a dial came to nothing: try again after a while.
    fn rest(&mut self, now: Instant, timers: &mut Timers) {
        let (base, max) = DIAL_BACK_OFF;
        let again = now + timers.back_off(base, self.failures, max);
        self.failures += 1;
        self.state = ContactState::Down { again };
        timers.set(again, Timer::Dial);
    }

    /// Takes a link that was made before the view was known.
    fn adopt(&mut self, links: &[Option<Link>], addr: ShardAddr) {
        let peer = Peer::Shard(addr.instance, addr.shard);
        if let Some(link) = links.iter().flatten().find(|entry| entry.peer == peer) {
            self.state = ContactState::Up(link.id);
        }
    }
}

/// Asks for the view and every later one; also the probe of a silent link.
fn watch_view(link: LinkId, out: &mut Outputs) {
    if let Some(buffer) = out.buffer(link) {
        frame_cold(buffer, kind::CLIENT, &ClientMessage::WatchView);
    }
}
