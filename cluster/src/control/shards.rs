//! The control core and its own shards: fan-out, and the ping that finds a stuck thread.

use lockstep_proto::ids::{Epoch, ShardId, ViewNumber};
use lockstep_proto::process::{Exit, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::codec::frame_cold;
use lockstep_proto::wire::control::JoinStage;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::progress::JoinProgress;
use lockstep_proto::wire::shard_control::ShardControl;

use bytes::BytesMut;

use super::leave::Told;
use super::{ControlCore, exit_code};

/// What control knows of one shard.
#[derive(Debug, Default)]
pub(super) struct ShardState {
    /// The newest view it acts in.
    pub(super) entered: Option<ViewNumber>,
    /// An unanswered ping and when it was sent.
    ping: Option<(u64, Instant)>,
    /// Nothing is open any more after `Drain`.
    pub(super) drained: bool,
    /// How far its partitions have come in a view in which the node is not in sync.
    pub(super) joined: Option<(ViewNumber, JoinStage)>,
    /// The same in figures.
    pub(super) progress: Option<JoinProgress>,
    /// A backup needs its partitions to stay where they are.
    pub(super) backup_pinned: bool,
}

impl ControlCore {
    /// Sends the same bytes to every shard.
    pub(super) fn tell_shards(&self, message: &ShardControl, out: &mut Outputs) {
        let mut frame = BytesMut::new();
        frame_cold(&mut frame, kind::SHARD_CONTROL, message);
        for shard in self.shard_ids() {
            if let Some(buffer) = self.links.shard(shard).and_then(|link| out.buffer(link)) {
                buffer.extend_from_slice(&frame);
            }
        }
    }

    fn tell_shard(&self, shard: ShardId, message: &ShardControl, out: &mut Outputs) {
        if let Some(buffer) = self.links.shard(shard).and_then(|link| out.buffer(link)) {
            frame_cold(buffer, kind::SHARD_CONTROL, message);
        }
    }

    pub(super) fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let count = u16::try_from(self.shards.len()).expect("made from a u16");
        (0..count).map(ShardId)
    }

    pub(super) fn on_shard_up(&mut self, shard: ShardId, out: &mut Outputs) {
        let view = Box::new(self.view.clone());
        self.tell_shard(shard, &ShardControl::Enter { view }, out);
    }

    pub(super) fn on_shard_down(&mut self, shard: ShardId, out: &mut Outputs) {
        self.end(Exit { code: exit_code::STUCK, reason: format!("shard {shard} has ended") }, out);
    }

    pub(super) fn on_shard(
        &mut self,
        now: Instant,
        shard: ShardId,
        message: ShardControl,
        out: &mut Outputs,
    ) {
        match message {
            ShardControl::Fenced { proposal, ends } => {
                self.on_fenced(now, shard, proposal, ends, out);
            }
            ShardControl::Entered { view } => self.on_entered(now, shard, view, out),
            ShardControl::Finished { view, epoch } => self.on_finished(shard, view, epoch),
            ShardControl::Disk(report) => self.disks.report_of(usize::from(shard.0), report),
            ShardControl::Pong { number } => self.on_pong(shard, number),
            ShardControl::Suspect { node } => {
                out.mark("shard_suspects");
                self.suspicion.links_dead(node);
                self.reconsider(now, out);
            }
            ShardControl::Leave { again } => {
                let told = if again { Told::ToComeBack } else { Told::ToEnd };
                self.on_leave_order(now, told, out);
            }
            ShardControl::Order(order) => self.on_own_order(now, order, out),
            ShardControl::Joined { view, stage } => {
                self.on_shard_joined(now, shard, (view, stage), out);
            }
            ShardControl::Progress(progress) => {
                self.on_shard_progress(now, shard, *progress, out);
            }
            ShardControl::Configure { change } => self.on_configure(now, change, true, out),
            ShardControl::Drained => self.on_drained(now, shard, out),
            ShardControl::BackupPinned { pinned } => {
                if let Some(state) = self.shards.get_mut(usize::from(shard.0)) {
                    state.backup_pinned = pinned;
                }
            }
            ShardControl::Fence { .. }
            | ShardControl::Enter { .. }
            | ShardControl::Leases { .. }
            | ShardControl::Tick { .. }
            | ShardControl::Ping { .. }
            | ShardControl::Drain => out.mark("shard_message_misplaced"),
        }
    }

    fn on_finished(&mut self, shard: ShardId, view: ViewNumber, epoch: Epoch) {
        let void = view != self.view.number && !self.counts_old_reports();
        if !void {
            self.epochs.finished(usize::from(shard.0), epoch);
        }
    }

    fn on_pong(&mut self, shard: ShardId, number: u64) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.0))
            && state.ping.is_some_and(|(sent, _)| sent == number)
        {
            state.ping = None;
        }
    }

    /// Pings the shards; one that has not answered for the suspicion time is stuck, and a node with
    /// a stuck shard is worse than none.
    pub(super) fn ping_shards(&mut self, now: Instant, out: &mut Outputs) {
        let patience = self.view.config.suspicion();
        for shard in self.shard_ids() {
            let number = self.next_number();
            let Some(state) = self.shards.get_mut(usize::from(shard.0)) else { continue };
            match state.ping {
                Some((_, sent)) if now.since(sent) > patience => {
                    out.mark("shard_stuck");
                    let reason = format!("shard {shard} does not answer; the node ends itself");
                    return self.end(Exit { code: exit_code::STUCK, reason }, out);
                }
                Some(_) => {}
                None => {
                    state.ping = Some((number, now));
                    self.tell_shard(shard, &ShardControl::Ping { number }, out);
                }
            }
        }
    }

    /// This core was stalled itself: pongs may be waiting to be read.
    pub(super) fn forgive_shards(&mut self, now: Instant) {
        for shard in &mut self.shards {
            if let Some((_, sent)) = &mut shard.ping {
                *sent = now;
            }
        }
    }
}
