//! Heartbeats and what rides on them: leases, who hears whom, who is behind.
//!
//! Also the three ways to be less than alive: a peer whose death-watch ended (proof is sought at
//! once), a node that was itself stalled (it suspects nobody until it has drained), and a stranger,
//! a life that is in no view of ours (it is told so).

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{NodeId, NodeInstance, ViewNumber};
use lockstep_proto::lease::{answer_may_wait, must_tell_at_once};
use lockstep_proto::process::{DialError, LinkEnd, LinkId, LogLevel, Outputs, Peer, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::shard_control::ShardControl;

use super::links::send_on;
use super::{ControlCore, LeaseNews};

impl ControlCore {
    /// A peer, or with the canary the member that an earlier life of its node passes for.
    pub(super) fn as_member(&self, peer: Peer) -> Peer {
        if self.canary != Some(Canary::AcceptOldIncarnation) {
            return peer;
        }
        let current = |node: NodeInstance| self.view.member(node.node).map_or(node, |m| m.instance);
        match peer {
            Peer::Control(node) => Peer::Control(current(node)),
            Peer::Watch(node) => Peer::Watch(current(node)),
            Peer::Shard(..) | Peer::Mgmt(_) | Peer::Newcomer | Peer::Client => peer,
        }
    }

    pub(super) fn on_control_up(
        &mut self,
        now: Instant,
        link: LinkId,
        node: NodeInstance,
        out: &mut Outputs,
    ) {
        if !self.view.contains(node) {
            return;
        }
        send_on(link, &self.heartbeat(now), out);
        if node == self.ticking_member() {
            self.epochs.report_again();
            self.disks.report_again();
        }
    }

    fn heartbeat(&self, now: Instant) -> ControlMessage {
        ControlMessage::Heartbeat {
            sent: now.0,
            view: self.view.number,
            epoch: self.epochs.current(),
            unheard: self.suspicion.unheard(now),
            pinned: self.shards.iter().any(|shard| shard.backup_pinned),
        }
    }

    /// With the promises that have waited for it, so that both cost their receiver one look.
    pub(super) fn send_heartbeats(&mut self, now: Instant, out: &mut Outputs) {
        let heartbeat = self.heartbeat(now);
        self.links.broadcast(&heartbeat, out);
        for (to, answer) in std::mem::take(&mut self.promises_untold) {
            if !self.suspicion.is_refused(to) || self.canary == Some(Canary::NoFencing) {
                self.links.send(to, &answer, out);
            }
        }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Instant,
        from: NodeInstance,
        (sent, view): (u64, ViewNumber),
        unheard: &[NodeId],
        out: &mut Outputs,
    ) {
        let (length, heartbeat) = (self.view.config.suspicion(), self.view.config.heartbeat());
        // One that enters a view may need what it has not needed before.
        let enters = self.note_stored(from, view) || view != self.view.number;
        let remaining = self.leases.remaining(from, now);
        let waits = !enters && answer_may_wait(remaining, length, heartbeat);
        self.leases.promise(from, now, length, self.view.config.drift_ppm);
        let promise = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let answer = ControlMessage::HeartbeatAnswer { sent, promise };
        if waits {
            // It has one that will do until the next beat, and this one counts from now anyway.
            self.promises_untold.retain(|(to, _)| *to != from);
            self.promises_untold.push((from, answer));
        } else {
            self.links.send(from, &answer, out);
        }
        if view < self.view.number && self.links.may_tell_view(from, now, length / 2) {
            let view = Box::new(self.view.clone());
            self.links.send(from, &ControlMessage::NewView { view }, out);
        }
        if view == self.view.number && self.suspicion.says_unheard(from, unheard, now) {
            self.reconsider(now, out);
        }
    }

    pub(super) fn on_heartbeat_answer(
        &mut self,
        now: Instant,
        from: NodeInstance,
        sent: u64,
        promise: u64,
    ) {
        let length = std::time::Duration::from_nanos(promise).min(self.view.config.suspicion());
        if let Some(before) = self.leases.renew(from, Instant(sent), length) {
            // The shards are told with the next ping, or at once if what they know may run out.
            let config = &self.view.config;
            let soon = must_tell_at_once(before.since(now), config.suspicion(), config.heartbeat());
            let news = if soon { LeaseNews::Urgent } else { LeaseNews::Moved };
            self.leases_news = self.leases_news.max(news);
        }
    }

    /// Tells the shards until when peers have promised.
    pub(super) fn tell_leases(&mut self, out: &mut Outputs) {
        self.leases_news = LeaseNews::Told;
        if self.retired {
            return;
        }
        let deadlines = self.leases.deadlines().map(|(node, until)| (node, until.0)).collect();
        self.tell_shards(&ShardControl::Leases { deadlines }, out);
    }

    /// A life that is in no view of ours says something: if it is behind, it is told who we are.
    pub(super) fn tell_stranger(
        &mut self,
        now: Instant,
        link: LinkId,
        message: &ControlMessage,
        out: &mut Outputs,
    ) {
        let behind = match message {
            ControlMessage::Heartbeat { view, .. } => *view <= self.view.number,
            ControlMessage::Propose { base, .. } => *base <= self.view.number,
            _ => false,
        };
        let pause = self.view.config.suspicion() / 2;
        let due = self.timers.stranger_told.is_none_or(|at| now.since(at) >= pause);
        if behind && due {
            self.timers.stranger_told = Some(now);
            out.mark("stranger_told_view");
            send_on(link, &ControlMessage::NewView { view: Box::new(self.view.clone()) }, out);
        }
    }

    /// The death-watch of a peer ended.
    pub(super) fn on_watch_down(&mut self, node: NodeInstance, end: LinkEnd, out: &mut Outputs) {
        match end {
            LinkEnd::Reset => {}
            LinkEnd::Fin => {
                self.suspicion.watch_ended(node);
                self.links.dial_watch(node, out);
            }
        }
    }

    pub(super) fn on_dial_failed(
        &mut self,
        now: Instant,
        to: Target,
        error: DialError,
        out: &mut Outputs,
    ) {
        self.links.dial_failed(&to, now);
        let Target::Watch(node) = to else { return };
        match error {
            DialError::Failed | DialError::WrongCluster | DialError::WrongVersion => {}
            DialError::Refused | DialError::LaterIncarnation => {
                if self.suspicion.dial_refused(node) {
                    out.mark("known_dead_by_fin");
                    self.note_death(now, node, out);
                } else if self.view.config.peer_death_by_fin {
                    self.suspicion.never_came(node, now);
                }
            }
        }
    }

    /// The process of a member is known to be dead, since just now.
    pub(super) fn note_death(&mut self, now: Instant, node: NodeInstance, out: &mut Outputs) {
        out.log(LogLevel::Info, format!("the process of {node} is known to be dead"));
        if self.leases.holds(node, now) {
            self.died_in_time.push(node);
        } else {
            out.mark("known_dead_too_late");
        }
        self.reconsider(now, out);
        self.advance(now, out);
    }

    /// Dials again where a death-watch ended and nothing is proven yet.
    pub(super) fn prove_deaths(&mut self, out: &mut Outputs) {
        let members: Vec<NodeInstance> = self.links.members().collect();
        for node in members.into_iter().filter(|node| self.suspicion.wants_proof(*node)) {
            self.links.dial_watch(node, out);
        }
    }

    /// Whether a peer's process is known to be dead, as far as that may be believed here.
    pub(super) fn is_proven_dead(&self, node: NodeInstance) -> bool {
        self.view.config.peer_death_by_fin && self.suspicion.is_known_dead(node)
    }

    /// Something is handled at least once per heartbeat interval; a longer gap means that this
    /// core was stalled, and what its peers sent meanwhile is still to be read.
    pub(super) fn note_stall(&mut self, now: Instant, out: &mut Outputs) {
        let gap = now.since(self.timers.handled);
        self.timers.handled = now;
        let heartbeat = self.view.config.heartbeat();
        if gap > heartbeat * 3 {
            out.mark("stalled_grace");
            self.suspicion.stalled(now + heartbeat * 2);
            self.forgive_shards(now);
        }
    }
}
