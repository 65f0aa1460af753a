//! Who is gone? Silence, proof of death, refusal, and loss in one direction only.
//!
//! A peer is gone when it was silent for the suspicion time, at once when its process is known to
//! be dead, when it asked to leave, or when this node has answered a proposal that drops it. A
//! broken link between two nodes that everybody else hears is nobody's death: every heartbeat
//! names the members its sender does not hear, and the node with the most broken pairs is dropped,
//! the younger one of equals, until all that are left hear each other. Nodes that see the same
//! heartbeats drop the same ones, and the one that should go waits for the others to say so (not
//! for ever: they may be gone themselves).
//!
//! The last replica of a node group is waited for longer, if it is merely silent and those that are
//! here hold all of another group: neither side can go on without the other, so there is nothing to
//! be won by being fast. A process that its machine did not run for a second must not cost the
//! whole cluster a restart.
//!
//! Known dead means: the death-watch link ended with FIN, which only the kernel of a dead process
//! sends, *and* a new dial was refused or met a later incarnation; or a later life of the node has
//! said that it is back.
//!
//! Invariant: suspicion is opinion; nothing here makes anybody act without the agreement. Only
//! [`Suspicion::is_known_dead`] is fact.

use std::time::Duration;

use crate::ids::{GroupId, NodeId, NodeInstance};
use crate::limits::{DIAL_PAUSE_MAX, LAST_REPLICA_WAIT};
use crate::time::Instant;
use crate::view::{Standing, View};

/// Those who come back one after the other are waited for as long as for so many.
const CALM_MAX: u32 = 3;

/// How sure we are that a peer's process is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Evidence {
    /// No sign.
    None,
    /// The death-watch ended with FIN.
    WatchEnded,
    /// And nobody, or a later life, listens there.
    Dead,
}

/// What one node knows about another.
#[derive(Debug)]
struct PeerState {
    instance: NodeInstance,
    seniority: u64,
    group: GroupId,
    in_sync: bool,
    heard: Instant,
    evidence: Evidence,
    /// Its shard links are dead although heartbeats may pass.
    links_dead: bool,
    refused: bool,
    leaving: bool,
    stuck: bool,
    /// Members it says it does not hear, in this view.
    unheard: Vec<NodeId>,
    /// When it began to say so.
    unheard_since: Instant,
}

pub use crate::view::Reason;

/// Who is gone, in order of node. May name this node itself (asymmetric loss): then others lead.
pub type Gone = Vec<(NodeInstance, Reason)>;

/// One node's opinion of all the others. See the module text.
#[derive(Debug)]
pub struct Suspicion {
    me: NodeInstance,
    my_seniority: u64,
    my_group: GroupId,
    in_sync: bool,
    silence: Duration,
    peers: Vec<PeerState>,
    /// Nobody is silent before this: the node itself was stalled.
    grace_until: Instant,
    /// Who does not hear whom says nothing before this: somebody has just come back from silence.
    calm_until: Instant,
    /// When somebody last did.
    returned: Option<Instant>,
    /// Whoever comes back after that, one after the other, calms nobody any more.
    calm_at_most: Instant,
    dropped_since: Option<Instant>,
}

impl Suspicion {
    /// For a node that starts in `view` at `now`: peers get `grace` to be heard first.
    #[must_use]
    pub fn new(me: NodeInstance, view: &View, now: Instant, grace: Duration) -> Self {
        let mut suspicion = Self {
            me,
            my_seniority: 0,
            my_group: GroupId::default(),
            in_sync: false,
            silence: view.config.suspicion(),
            peers: Vec::new(),
            grace_until: now,
            calm_until: Instant::default(),
            returned: None,
            calm_at_most: Instant::default(),
            dropped_since: None,
        };
        suspicion.enter(view, now + grace);
        suspicion
    }

    /// Starts in a view: new members count as heard at `heard`; what was said and decided in the
    /// view before is forgotten, evidence about processes is not.
    pub fn enter(&mut self, view: &View, heard: Instant) {
        let mut before = std::mem::take(&mut self.peers);
        for member in &view.members {
            if member.instance == self.me {
                self.my_seniority = member.seniority;
                self.my_group = member.group;
                self.in_sync = member.standing == Standing::InSync;
                continue;
            }
            let known = before.iter().position(|p| p.instance == member.instance);
            let (heard, evidence, leaving) = known.map_or((heard, Evidence::None, false), |at| {
                let peer = before.swap_remove(at);
                (peer.heard, peer.evidence, peer.leaving)
            });
            self.peers.push(PeerState {
                instance: member.instance,
                seniority: member.seniority,
                group: member.group,
                in_sync: member.standing == Standing::InSync,
                heard,
                evidence,
                links_dead: false,
                refused: false,
                leaving,
                stuck: false,
                unheard: Vec::new(),
                unheard_since: Instant::default(),
            });
        }
        self.silence = view.config.suspicion();
        self.dropped_since = None;
    }

    /// This node was stalled: silence before now says nothing.
    pub fn stalled(&mut self, until: Instant) {
        self.grace_until = self.grace_until.max(until);
    }

    /// Something came from `peer`.
    pub fn heard(&mut self, peer: NodeInstance, now: Instant) {
        let gap = self.silence / 2;
        if let Some(peer) = self.peer_mut(peer) {
            let returns = now.since(peer.heard) > gap;
            // May be earlier than the start-up grace, which ends with the first word.
            peer.heard = now;
            if returns {
                self.calm_down(now);
            }
        }
    }

    /// Somebody is heard after a silence, perhaps because this node was cut off. Links come up one
    /// by one after that, each when its sender tries again, which may be as long after the cut as
    /// that was: so half of the silence that counts is enough to make others count as silent whose
    /// links are merely later. Where links come and go without an end it is not waited for that.
    fn calm_down(&mut self, now: Instant) {
        let calm = self.calm();
        if self.returned.is_none_or(|before| now.since(before) > calm) {
            self.calm_at_most = now + calm * CALM_MAX;
        }
        self.returned = Some(now);
        self.calm_until = (now + calm).min(self.calm_at_most);
    }

    /// For how long links may come up after somebody was heard again.
    fn calm(&self) -> Duration {
        self.silence + DIAL_PAUSE_MAX
    }

    /// `peer` says whom it does not hear in this view; returns whether that is news.
    pub fn says_unheard(&mut self, peer: NodeInstance, unheard: &[NodeId], now: Instant) -> bool {
        let Some(peer) = self.peer_mut(peer) else { return false };
        if peer.unheard == unheard {
            return false;
        }
        let before = std::mem::replace(&mut peer.unheard, unheard.to_vec());
        peer.unheard_since = now;
        if before.iter().any(|node| !unheard.contains(node)) {
            // It hears somebody again: this node's links to those may be the ones that are later.
            self.calm_down(now);
        }
        true
    }

    /// The death-watch of `peer` ended with FIN.
    pub fn watch_ended(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer).filter(|p| p.evidence == Evidence::None) {
            peer.evidence = Evidence::WatchEnded;
        }
    }

    /// A death-watch to `peer` is up: it lives.
    pub fn watch_up(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.evidence = Evidence::None;
        }
    }

    /// Nobody, or a later life, listens where `peer` did; returns whether it is now known dead.
    pub fn dial_refused(&mut self, peer: NodeInstance) -> bool {
        let ended = self.peer_mut(peer).filter(|p| p.evidence == Evidence::WatchEnded);
        ended.map(|peer| peer.evidence = Evidence::Dead).is_some()
    }

    /// Nobody listens where `peer` did when the cluster was made: there is nothing that the
    /// start-up grace could wait for. It is silent from now on, like one that was heard; that is
    /// no proof of death.
    pub fn never_came(&mut self, peer: NodeInstance, now: Instant) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.heard = peer.heard.min(now);
        }
    }

    /// Whether the death-watch of `peer` ended and its death is still to be made sure of.
    #[must_use]
    pub fn wants_proof(&self, peer: NodeInstance) -> bool {
        self.peer(peer).is_some_and(|p| p.evidence == Evidence::WatchEnded)
    }

    /// A later life of the node `peer` has come: this one is dead. Returns whether that is news.
    pub fn succeeded(&mut self, peer: NodeInstance) -> bool {
        let news = self.peer_mut(peer).filter(|p| p.evidence != Evidence::Dead);
        news.map(|peer| peer.evidence = Evidence::Dead).is_some()
    }

    /// A shard says that its links to `peer` stay dead.
    pub fn links_dead(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.links_dead = true;
        }
    }

    /// `peer` asked to leave.
    pub fn leaves(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.leaving = true;
        }
    }

    /// A proposal that drops `peer` was answered: it stays gone until the next view.
    pub fn refuse(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.refused = true;
        }
    }

    /// `peer` lives but does not answer: it stays gone until the next view.
    pub fn stuck(&mut self, peer: NodeInstance) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.stuck = true;
        }
    }

    /// Whether everything from `peer` is refused.
    #[must_use]
    pub fn is_refused(&self, peer: NodeInstance) -> bool {
        self.peer(peer).is_some_and(|p| p.refused)
    }

    /// Whether `peer` asked to leave.
    #[must_use]
    pub fn is_leaving(&self, peer: NodeInstance) -> bool {
        self.peer(peer).is_some_and(|p| p.leaving)
    }

    /// Whether `peer`'s process is known to be dead. A fact only where peers connect directly.
    #[must_use]
    pub fn is_known_dead(&self, peer: NodeInstance) -> bool {
        self.peer(peer).is_some_and(|p| p.evidence == Evidence::Dead)
    }

    /// The members this node does not hear, for its heartbeats.
    #[must_use]
    pub fn unheard(&self, now: Instant) -> Vec<NodeId> {
        self.peers.iter().filter(|p| !self.hears(p, now)).map(|p| p.instance.node).collect()
    }

    /// When the next peer falls silent if nothing more is heard.
    #[must_use]
    pub fn next_silence(&self, now: Instant) -> Option<Instant> {
        let waits = [self.silence, self.silence.max(LAST_REPLICA_WAIT)];
        let due = self.peers.iter().flat_map(|p| waits.map(|wait| p.heard + wait));
        due.map(|at| at.max(self.grace_until)).filter(|at| *at >= now).min()
    }

    /// Who is gone.
    pub fn gone(&mut self, now: Instant) -> Gone {
        if self.all_is_well(now) {
            self.dropped_since = None;
            return Vec::new();
        }
        let mut gone: Gone = Vec::new();
        let mut there: Vec<&PeerState> = Vec::new();
        for peer in &self.peers {
            match self.gone_for_sure(peer, now) {
                // Neither gone nor there: what is not heard from it is nobody's broken pair.
                Some(Reason::Silent) if self.is_waited_for(peer, now) => {}
                Some(reason) => gone.push((peer.instance, reason)),
                None => there.push(peer),
            }
        }
        let dropped = self.most_broken(&there, now);
        let me_dropped = dropped.contains(&self.me);
        if me_dropped && self.waited_for_others(now) {
            let unheard = there.iter().filter(|p| !self.hears(p, now));
            gone.extend(unheard.map(|p| (p.instance, Reason::Silent)));
        } else {
            gone.extend(dropped.into_iter().map(|node| (node, Reason::Asymmetric)));
        }
        if me_dropped {
            self.dropped_since.get_or_insert(now);
        } else {
            self.dropped_since = None;
        }
        gone.sort_unstable_by_key(|(node, _)| *node);
        gone
    }

    fn all_is_well(&self, now: Instant) -> bool {
        self.peers.iter().all(|p| self.gone_but_for_silence(p).is_none() && self.hears(p, now))
            && self.peers.iter().all(|p| p.unheard.is_empty())
    }

    fn waited_for_others(&self, now: Instant) -> bool {
        // They may have to be calm for that long first.
        let wait = self.silence + self.calm() * CALM_MAX;
        self.dropped_since.is_some_and(|since| now.since(since) > wait)
    }

    /// Gone by what this node alone knows, or because nobody it hears has heard the peer.
    fn gone_for_sure(&self, peer: &PeerState, now: Instant) -> Option<Reason> {
        let silent = || {
            let node = peer.instance.node;
            let vouched = self.peers.iter().any(|p| {
                p.instance.node != node
                    && self.hears(p, now)
                    && self.gone_but_for_silence(p).is_none()
                    && !p.unheard.contains(&node)
            });
            (self.is_silent(peer, now) && !vouched).then_some(Reason::Silent)
        };
        match self.gone_but_for_silence(peer) {
            // It is not asked any more whether it may go.
            Some(Reason::Leaving) => silent().or(Some(Reason::Leaving)),
            other => other.or_else(silent),
        }
    }

    /// Whether a silent peer is in sync, nobody else of its group is left, nobody can go on without
    /// those that are here, and it has not been silent for long.
    fn is_waited_for(&self, peer: &PeerState, now: Instant) -> bool {
        let mate = |p: &&PeerState| p.in_sync && p.group == peer.group;
        let mine = self.in_sync && self.my_group == peer.group;
        peer.in_sync
            && !mine
            && now.since(peer.heard) <= self.silence.max(LAST_REPLICA_WAIT)
            && self.peers.iter().filter(mate).all(|p| self.gone_for_sure(p, now).is_some())
            && self.is_a_group_here(now)
    }

    /// Whether all of some group that live are here: nobody else can have a view without them.
    fn is_a_group_here(&self, now: Instant) -> bool {
        let is_here = |p: &PeerState| self.hears(p, now) && self.gone_but_for_silence(p).is_none();
        let whole = |group: GroupId| {
            let members = self.peers.iter().filter(|p| p.in_sync && p.group == group);
            members.into_iter().all(|p| p.evidence == Evidence::Dead || is_here(p))
        };
        let mut others = self.peers.iter().filter(|p| p.in_sync && is_here(p));
        self.in_sync && whole(self.my_group) || others.any(|p| whole(p.group))
    }

    fn gone_but_for_silence(&self, peer: &PeerState) -> Option<Reason> {
        match peer {
            PeerState { evidence: Evidence::Dead, .. } => Some(Reason::Dead),
            PeerState { refused: true, .. } => Some(Reason::Refused),
            PeerState { leaving: true, .. } => Some(Reason::Leaving),
            PeerState { stuck: true, .. } => Some(Reason::Stuck),
            _ => None,
        }
    }

    fn is_silent(&self, peer: &PeerState, now: Instant) -> bool {
        now.since(peer.heard) > self.silence && now >= self.grace_until
    }

    fn hears(&self, peer: &PeerState, now: Instant) -> bool {
        !self.is_silent(peer, now) && !peer.links_dead && !peer.refused
    }

    /// Drops the node with the most broken pairs until nobody left has one; of equals the younger.
    /// The last node of its group goes only if nobody else can: without it all would end.
    fn most_broken(&self, there: &[&PeerState], now: Instant) -> Vec<NodeInstance> {
        if now < self.grace_until.max(self.calm_until) {
            // What peers said while this node was stalled is about the past: that they do not hear
            // it, above all. They have the grace to hear it again and say so. The same where
            // somebody is heard again: links come up one by one, and who has none yet, or says so,
            // is on its way.
            return Vec::new();
        }
        let mut left: Vec<Option<&PeerState>> = vec![None];
        left.extend(there.iter().copied().map(Some));
        let mut dropped = Vec::new();
        loop {
            let broken = |node: &Option<&PeerState>| {
                left.iter().filter(|other| self.is_pair_broken(*node, **other, now)).count()
            };
            let age = |node: &Option<&PeerState>| node.map_or(self.my_seniority, |p| p.seniority);
            let group = |node: &Option<&PeerState>| node.map_or(self.my_group, |p| p.group);
            let in_sync = |node: &Option<&PeerState>| node.map_or(self.in_sync, |p| p.in_sync);
            let is_last = |node: &Option<&PeerState>| {
                let mates = left.iter().filter(|other| group(other) == group(node));
                in_sync(node) && mates.filter(|other| in_sync(other)).count() == 1
            };
            let worst = (0..left.len()).max_by_key(|at| {
                let (node, pairs) = (&left[*at], broken(&left[*at]));
                (pairs > 0 && !is_last(node), pairs, age(node))
            });
            let Some(at) = worst.filter(|at| broken(&left[*at]) > 0) else { return dropped };
            dropped.push(left.remove(at).map_or(self.me, |p| p.instance));
        }
    }

    /// Whether one of the two (`None` is this node) does not hear the other. A node that this one
    /// does not hear says nothing. What it says about a third counts only once the third is known
    /// to live on: otherwise it may simply have fallen silent, and blaming the one who noticed
    /// first would cost a healthy node.
    fn is_pair_broken(&self, a: Option<&PeerState>, b: Option<&PeerState>, now: Instant) -> bool {
        let lost = |by: &PeerState, of: NodeId| self.hears(by, now) && by.unheard.contains(&of);
        match (a, b) {
            (None, None) => false,
            (None, Some(peer)) | (Some(peer), None) => {
                !self.hears(peer, now)
                    || lost(peer, self.me.node)
                    || self.never_heard_but_missed(peer, now)
            }
            (Some(a), Some(b)) => {
                let misses = |a: &PeerState, b: &PeerState| {
                    lost(a, b.instance.node) && self.lives_on(b, a.unheard_since, now)
                };
                misses(a, b) || misses(b, a)
            }
        }
    }

    /// Whether this node has heard `peer` after `since`, or, where it does not hear it either,
    /// somebody it hears still does. Not at once: everybody may notice a silence a little later
    /// than this node, and after a short cut some links carry nothing for longer than others.
    fn lives_on(&self, peer: &PeerState, since: Instant, now: Instant) -> bool {
        let noticed = peer.heard + self.silence * 3 / 2;
        let vouches = |p: &PeerState| {
            p.instance != peer.instance
                && p.heard > noticed
                && self.hears(p, now)
                && self.gone_but_for_silence(p).is_none()
                && !p.unheard.contains(&peer.instance.node)
        };
        peer.heard > since || !self.hears(peer, now) && self.peers.iter().any(vouches)
    }

    /// Whether the start-up grace excuses a silence that others know to be one: a node that died
    /// before this one heard its first word must not look healthier than the one that misses it.
    fn never_heard_but_missed(&self, peer: &PeerState, now: Instant) -> bool {
        let missed = |p: &PeerState| self.hears(p, now) && p.unheard.contains(&peer.instance.node);
        now < peer.heard && self.peers.iter().any(missed)
    }

    fn peer(&self, instance: NodeInstance) -> Option<&PeerState> {
        let at = self.peers.binary_search_by_key(&instance.node, |p| p.instance.node).ok()?;
        self.peers.get(at).filter(|p| p.instance == instance)
    }

    fn peer_mut(&mut self, instance: NodeInstance) -> Option<&mut PeerState> {
        let at = self.peers.binary_search_by_key(&instance.node, |p| p.instance.node).ok()?;
        self.peers.get_mut(at).filter(|p| p.instance == instance)
    }
}

#[cfg(test)]
mod tests;
