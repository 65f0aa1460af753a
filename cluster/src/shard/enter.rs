//! What control tells its shards: fences, views, leases, ticks. Only control decides; a shard acts
//! at once.

use std::sync::Arc;

use lockstep_proto::canary::Canary;
use lockstep_proto::durability::Pulse;
use lockstep_proto::ids::{
    Epoch, NodeId, NodeInstance, PartitionId, Seq, ShardAddr, ShardId, TxId,
};
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::{Effect, LinkId, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::codec;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::{LockTable, Mode};

use super::ShardCore;
use super::join::Join;
use super::kept::Kept;
use super::partition::{Backup, Partition};

impl ShardCore {
    pub(super) fn on_control_frame(&mut self, bytes: &[u8], out: &mut Outputs) {
        let Ok(message) = codec::decode::<ShardControl>(&bytes[1..]) else {
            self.broken("control sent a frame that is not a message".to_owned(), out);
            return;
        };
        match message {
            ShardControl::Fence { proposal, failed, moving, handed } => {
                self.on_fence(proposal, failed, (&moving, handed), out);
            }
            ShardControl::Enter { view } => self.on_enter(*view, out),
            ShardControl::Leases { deadlines } => self.on_leases(&deadlines, out),
            ShardControl::Tick { epoch, closed, pulse } => {
                self.on_tick(epoch, closed, pulse, out);
            }
            ShardControl::Ping { number } => self.report(&ShardControl::Pong { number }, out),
            ShardControl::Drain => self.on_drain(out),
            ShardControl::Fenced { .. }
            | ShardControl::Entered { .. }
            | ShardControl::Finished { .. }
            | ShardControl::Disk(_)
            | ShardControl::Pong { .. }
            | ShardControl::Suspect { .. }
            | ShardControl::Leave { .. }
            | ShardControl::Configure { .. }
            | ShardControl::Order(_)
            | ShardControl::Joined { .. }
            | ShardControl::Progress(_)
            | ShardControl::BackupPinned { .. }
            | ShardControl::Drained => {
                self.broken("control sent a report".to_owned(), out);
            }
        }
    }

    pub(super) fn report(&mut self, message: &ShardControl, out: &mut Outputs) {
        if let Some(buffer) = self.links.control.and_then(|link| out.buffer(link)) {
            codec::frame_cold(buffer, kind::SHARD_CONTROL, message);
        }
    }

    fn on_leases(&mut self, deadlines: &[(NodeInstance, u64)], out: &mut Outputs) {
        for (instance, until) in deadlines {
            self.leases.insert(instance.node, (*instance, Instant(*until)));
        }
        self.retry_lease_waiting(out);
    }

    fn on_drain(&mut self, out: &mut Outputs) {
        self.draining = true;
        self.report_drained(out);
    }

    fn report_drained(&mut self, out: &mut Outputs) {
        let idle = self.coordinated.is_empty()
            && self.parts.iter().flatten().all(|part| part.owed.is_empty());
        if self.draining && idle && self.redo.is_idle() {
            self.report(&ShardControl::Drained, out);
        }
    }

    fn on_tick(&mut self, epoch: Epoch, closed: Epoch, pulse: Pulse, out: &mut Outputs) {
        self.raise_epoch(epoch);
        if closed > self.closed {
            self.closed = closed;
            self.drop_expired_prepares();
            self.mark_closed(out);
        }
        self.on_pulse(pulse, out);
        self.begin_checkpoint(out);
        self.wake_snapshots(out);
        self.send_stale_watermarks(out);
        self.report_finished(out);
        self.report_drained(out);
    }

    /// The canary that a real expiry must not be: an undecided prepare outlives its id.
    fn drop_expired_prepares(&mut self) {
        if self.canary != Some(Canary::DropPrepareAtExpiry) {
            return;
        }
        let closed = self.closed;
        for part in self.parts.iter_mut().flatten() {
            part.prepared.retain(|id, _| id.expiry > closed);
            let prepared = &part.prepared;
            part.prepared_rows.retain(|(_, id)| prepared.contains_key(id));
        }
    }

    /// Reports the highest epoch whose transactions are all stable as far as this shard goes: its
    /// own epoch is beyond, its logs' records are stable, its decisions are confirmed.
    pub(super) fn report_finished(&mut self, out: &mut Outputs) {
        if self.view.is_none() {
            return;
        }
        if self.has_orphans() && self.canary != Some(Canary::CloseEpochWithOrphan) {
            out.mark("report_waits_for_orphan");
            return;
        }
        let mut finished = self.epoch.before();
        if let Some((oldest, _)) = self.committing.first_key_value() {
            finished = finished.min(oldest.before());
        }
        for part in self.parts.iter().flatten().filter(|part| part.leads) {
            if let Some(oldest) = part.oldest_unstable_epoch() {
                finished = finished.min(oldest.before());
            }
        }
        if finished > self.reported {
            self.reported = finished;
            let view = self.view_number;
            self.report(&ShardControl::Finished { view, epoch: finished }, out);
        }
    }

    /// The end of a turn: reports what has been finished since the last tick, if somebody waits for
    /// it. Otherwise the next tick is early enough.
    #[inline]
    pub(super) fn finish_in_time(&mut self, out: &mut Outputs) {
        if self.reported < self.epoch.before() && self.redo.hurries(self.closed) {
            self.report_finished(out);
        }
    }

    /// Acts in a new view, at once. Nothing sent before needs to have arrived.
    fn on_enter(&mut self, view: View, out: &mut Outputs) {
        if view.number <= self.view_number {
            return;
        }
        if self.view_number.0 > 0 {
            out.mark("shard_entered_view");
        }
        self.view_number = view.number;
        self.data_memory = view.config.data_memory / u64::from(self.options.shards.max(1));
        let view = Arc::new(view);
        self.view = Some(Arc::clone(&view));
        self.fenced.clear();
        self.fence.enter();
        self.reported = Epoch(0);
        self.redo.enter(&view, self.me.instance.node);
        self.takeovers.clear();
        self.parts.resize_with(view.placements.len(), || None);
        for p in view.partitions() {
            self.take_role(p, &view, out);
        }
        self.enter_donor();
        self.mend_links(&view, out);
        let me = self.me;
        self.drop_open_of(|coordinator| coordinator != me, out);
        let peers: Vec<(ShardAddr, LinkId)> =
            self.links.shards.iter().map(|(addr, link)| (*addr, *link)).collect();
        for (addr, link) in peers {
            self.links.restart_stream(link);
            self.tell_log_ends(link, addr, out);
            self.expect_log_ends(addr, link);
        }
        for p in view.partitions().filter(|p| self.leads(*p)).collect::<Vec<_>>() {
            self.advance(p, out);
            self.wound_anew(p, out);
        }
        self.address_participants_anew();
        self.fence.forget_stopped();
        self.resume_coordination(|part| part.moved || part.at != me, out);
        self.resolve_orphans(|_| true, out);
        self.retry_lease_waiting(out);
        let number = self.view_number;
        self.report(&ShardControl::Entered { view: number }, out);
        self.report_joined(out);
        self.follow_progress(out);
        self.push_view(out);
        self.replay_held(out);
    }

    /// This shard's part in one partition under the view.
    fn take_role(&mut self, p: PartitionId, view: &View, out: &mut Outputs) {
        let node = self.me.instance.node;
        if view.shard_of(p, node) != Some(self.me) {
            self.let_go(p, out);
            return;
        }
        let Some(placement) = view.placement(p) else { return };
        let joins = placement.joining.contains(&node);
        let joined = self.parts[usize::from(p.0)].as_ref().is_some_and(|part| part.join.is_some());
        if joined && !joins {
            // Before it may lead, it has everything.
            self.finish_join(p, out);
        }
        let slot = &mut self.parts[usize::from(p.0)];
        let recovered = if slot.is_some() { self.recovered } else { Epoch(0) };
        let part = slot.get_or_insert_with(|| Box::new(Partition::new(p)));
        if joins && part.join.is_none() {
            part.join = Some(Join::new(recovered, part.digest));
            part.whole = false;
        }
        let counts = |n: &NodeId| view.counts_for(placement, *n);
        let all = placement.replicas.iter().chain(&placement.joining);
        let others = all.filter(|replica| **replica != node);
        let counting = others.clone().filter(|n| counts(n)).filter_map(|n| view.member(*n));
        part.peers = counting.map(|m| m.instance).collect();
        part.replicas = part.peers.len() + 1;
        let led = part.leads;
        part.leads = placement.primary == node;
        let before = std::mem::take(&mut part.backups);
        if part.leads {
            let backup = |n: &NodeId| {
                let addr = view.shard_of(p, *n)?;
                let joins = placement.joining.contains(n);
                let follows = joins && before.iter().any(|b| b.addr == addr && b.follows);
                let (acked, stream, counts) = (Seq(0), None, counts(n));
                Some(Backup { addr, acked, stream, counts, joins, follows })
            };
            part.backups.extend(others.filter_map(backup));
        }
        if !part.keeps() {
            part.kept = Kept::default();
        }
        if let Some(join) = &mut part.join {
            join.enter();
        }
        match (led, part.leads) {
            (false, true) => part.rebuild_locks(),
            (true, false) => {
                part.locks = LockTable::new();
                part.open.clear();
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Ends links to shards that are not in the view; dials those that are missing.
    fn mend_links(&mut self, view: &View, out: &mut Outputs) {
        let me = self.me;
        let gone: Vec<(ShardAddr, LinkId)> = self
            .links
            .shards
            .iter()
            .filter(|(addr, _)| !view.contains(addr.instance))
            .map(|(addr, link)| (*addr, *link))
            .collect();
        for (addr, link) in gone {
            self.links.shards.remove(&addr);
            self.links.remove(link);
            out.effect(Effect::Close { link, why: "" });
        }
        self.links.redial.retain(|addr, _| view.contains(addr.instance));
        for member in view.members.iter().filter(|m| m.instance != me.instance) {
            for shard in (0..member.shards).map(ShardId) {
                let addr = ShardAddr { instance: member.instance, shard };
                let known =
                    self.links.shards.contains_key(&addr) || self.links.redial.contains_key(&addr);
                if !known && self.me.instance.node < addr.instance.node {
                    self.dial(addr, out);
                }
            }
        }
    }

    /// Coordinated transactions speak to the participants' primaries of this view.
    fn address_participants_anew(&mut self) {
        let Some(view) = self.view.clone() else { return };
        for tx in self.coordinated.values_mut() {
            for part in &mut tx.parts {
                if let Some(at) = view.primary_of(part.partition) {
                    // A participant that moved here lost its locks: it must not look local.
                    // So has one whose messages this shard has dropped for a while.
                    part.moved |= at != part.at || self.fence.has_stopped(part.partition);
                    part.at = at;
                }
            }
        }
    }

    /// A peer shard is connected: what was lost on the way is said anew.
    pub(super) fn on_peer_shard_up(&mut self, link: LinkId, addr: ShardAddr, out: &mut Outputs) {
        let member = self.view.as_ref().is_some_and(|view| view.contains(addr.instance));
        if !member {
            return;
        }
        self.tell_log_ends(link, addr, out);
        self.expect_log_ends(addr, link);
        self.resume_coordination(|part| part.at == addr, out);
        self.resolve_orphans(|at| at == addr, out);
        self.ask_takeovers_anew(addr, out);
        for p in self.led_partitions() {
            self.wound_anew(p, out);
        }
    }

    fn led_partitions(&self) -> Vec<PartitionId> {
        self.parts.iter().flatten().filter(|part| part.leads).map(|part| part.id).collect()
    }

    /// Wounds that may have been lost with a link or a view.
    pub(super) fn wound_anew(&mut self, p: PartitionId, out: &mut Outputs) {
        if self.part(p).locks.is_empty() {
            return;
        }
        let mut wounds: Vec<TxId> = Vec::new();
        self.part(p).locks.wounds(&mut wounds);
        for wounded in wounds {
            self.wound(p, wounded, out);
        }
    }

    /// Frames that came before their view did.
    fn replay_held(&mut self, out: &mut Outputs) {
        for (link, bytes) in std::mem::take(&mut self.held) {
            self.on_frame(link, &bytes, out);
        }
    }

    /// Ends what has been idle for too long; forgets what nobody can ask for any more.
    pub(super) fn sweep(&mut self, out: &mut Outputs) {
        let Some(view) = self.view.clone() else { return };
        let (now, closed, idle) = (self.now, self.closed, view.config.transaction_idle());
        self.abort_open(
            |tx| !tx.asked && now.since(tx.last_active) > idle,
            lockstep_proto::error::Code::IdleAborted,
            out,
        );
        for part in self.parts.iter_mut().flatten() {
            part.outcomes.forget(closed);
        }
        self.free_versions(out);
        self.forget_changes();
        self.tidy_checkpoints();
    }

    /// A link can die silently while heartbeats pass: when a backup owes an acknowledgement (or its
    /// log ends) for longer than the suspicion time, the link is made anew; if that does not help,
    /// control suspects the peer.
    pub(super) fn watch_streams(&mut self, out: &mut Outputs) {
        let Some(view) = self.view.clone() else { return };
        let patience = view.config.suspicion();
        for (addr, link) in self.links.stalled(self.now, patience) {
            let again =
                self.links.stalls.get(&addr).is_some_and(|at| self.now.since(*at) < patience * 4);
            self.links.stalls.insert(addr, self.now);
            if again {
                out.mark("peer_suspected_by_stream");
                self.report(&ShardControl::Suspect { node: addr.instance }, out);
            } else {
                out.mark("stalled_stream_reset");
                out.effect(Effect::Close { link, why: "a stream of records has stalled" });
            }
        }
    }

    /// Starts the clock on backups that have to tell their log ends.
    fn expect_log_ends(&mut self, addr: ShardAddr, link: LinkId) {
        let backs = |part: &Partition| part.backups.iter().any(|b| b.addr == addr);
        if self.parts.iter().flatten().any(|part| backs(part)) {
            self.links.expect(link, self.now);
        }
    }
}

impl Partition {
    /// The epoch of the oldest-epoch record that is not stable.
    fn oldest_unstable_epoch(&self) -> Option<Epoch> {
        self.tail.iter().filter_map(|record| lockstep_proto::record::epoch(record)).min()
    }

    /// A new primary holds the locks of the undecided prepares it finds in its log, before it
    /// serves anybody.
    fn rebuild_locks(&mut self) {
        self.locks = LockTable::new();
        for (id, prepared) in &self.prepared {
            let body = prepared.body();
            for (table, key) in body.shared.iter() {
                let hash = key_hash(key);
                self.locks.rebuild(*id, prepared.order, table, hash, key, Mode::Shared);
            }
            for write in body.writes.iter() {
                let hash = key_hash(write.key);
                let mode = Mode::Exclusive;
                self.locks.rebuild(*id, prepared.order, write.table, hash, write.key, mode);
            }
        }
    }
}
