//! The epoch clock's messages. The most senior member in sync ticks, whatever anybody suspects:
//! within one view only one node can seal.

use lockstep_proto::canary::Canary;
use lockstep_proto::durability::{DiskReport, Pulse};
use lockstep_proto::epochs::TickNews;
use lockstep_proto::ids::{Epoch, NodeInstance, ViewNumber};
use lockstep_proto::process::Outputs;
use lockstep_proto::time::Instant;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::shard_control::ShardControl;

use super::ControlCore;
use super::state::State;

impl ControlCore {
    /// Who sends the ticks of this view.
    pub(super) fn ticking_member(&self) -> NodeInstance {
        let eldest = self.view.in_sync().min_by_key(|m| m.seniority);
        eldest.map_or(self.me, |member| member.instance)
    }

    /// With the canary, reports count in the next view too.
    pub(super) fn counts_old_reports(&self) -> bool {
        self.canary == Some(Canary::CloseEpochWithOrphan)
    }

    /// A view begins: reports start anew, and this node ticks or does not.
    pub(super) fn enter_epochs(&mut self, now: Instant) {
        self.enter_disks(now);
        let (seal, closed) = (self.view.seal, self.epochs.closed());
        let members = self.view.members.iter().map(|m| m.instance);
        if self.counts_old_reports() {
            self.ticker.enter_with_old_reports(members, seal, closed);
            self.epochs.enter_with_old_reports(seal);
        } else {
            self.ticker.enter(members, seal, closed);
            self.epochs.enter(seal);
        }
        let ticks = self.ticking_member() == self.me;
        self.timers.tick = ticks.then(|| self.timers.tick.unwrap_or(now));
    }

    pub(super) fn tick(&mut self, now: Instant, out: &mut Outputs) {
        let interval = self.tick_interval(now);
        let due = self.timers.tick.map_or(now, |at| at + interval);
        let due = if due > now { due } else { now + interval };
        // A slow tick goes with a heartbeat: its receivers wake up once for both.
        let heartbeat = self.view.config.heartbeat();
        let beats = interval.as_nanos().checked_div(heartbeat.as_nanos()).unwrap_or_default();
        let beats = u32::try_from(beats).unwrap_or(u32::MAX);
        self.timers.tick = Some(match beats.checked_sub(1).filter(|_| self.is_quiet(now)) {
            Some(more) => (self.timers.beat + heartbeat * more).min(now + interval),
            None => due,
        });
        if self.state.acts() {
            self.end_epoch(now);
            self.send_tick(now, out);
        }
    }

    /// Tells everybody the epoch, and what is sealed, closed and durable.
    pub(super) fn send_tick(&mut self, now: Instant, out: &mut Outputs) {
        let epoch = self.epochs.current();
        let (news, closes) = if self.state.is_frozen() {
            (self.ticker.frozen(epoch), false)
        } else {
            self.ticker.tick(epoch)
        };
        if closes {
            out.mark("epoch_closed");
        }
        let TickNews { epoch, sealed, closed } = news;
        let quiet = self.is_quiet(now);
        let pulse = self.disk_ticker.tick(closed, quiet);
        let view = self.view.number;
        let tick = ControlMessage::Tick { view, epoch, sealed, closed, pulse: pulse.clone() };
        self.links.broadcast(&tick, out);
        self.take_tick(news, pulse, out);
    }

    pub(super) fn on_tick(
        &mut self,
        from: NodeInstance,
        view: ViewNumber,
        (news, pulse): (TickNews, Pulse),
        out: &mut Outputs,
    ) {
        self.epochs.raise(news.epoch);
        if view == self.view.number && from == self.ticking_member() {
            self.take_tick(news, pulse, out);
        }
    }

    fn take_tick(&mut self, news: TickNews, pulse: Pulse, out: &mut Outputs) {
        if !self.state.is_frozen() {
            self.epochs.learn(news);
        }
        self.disks.learn(pulse);
        let (epoch, closed) = (self.epochs.current(), self.epochs.closed());
        let pulse = Pulse { floor: self.disks.floor(), ..self.disks.pulse().clone() };
        self.tell_shards(&ShardControl::Tick { epoch, closed, pulse }, out);
        self.report_epochs(true, out);
    }

    /// Reports this node's progress, if it is worth a message.
    pub(super) fn report_epochs(&mut self, at_tick: bool, out: &mut Outputs) {
        if self.state != State::Acting {
            return;
        }
        let hurry = self.disks.pulse().hurries(self.epochs.closed());
        let (finished, confirmed) = match self.epochs.report_due(at_tick, hurry) {
            Some(due) => due,
            None if self.disks.is_urgent() => self.epochs.report_now(),
            None => return,
        };
        let disk = self.disks.take_report();
        let ticking = self.ticking_member();
        if ticking == self.me {
            self.disk_ticker.report(self.me, disk);
            return self.ticker.report(self.me, finished, confirmed);
        }
        let (view, epoch) = (self.view.number, self.epochs.current());
        let report = ControlMessage::EpochReport { view, epoch, finished, confirmed, disk };
        self.links.send(ticking, &report, out);
    }

    pub(super) fn on_epoch_report(
        &mut self,
        from: NodeInstance,
        view: ViewNumber,
        epoch: Epoch,
        (finished, confirmed, disk): (Epoch, Epoch, DiskReport),
    ) {
        self.epochs.raise(epoch);
        self.disk_ticker.report(from, disk);
        if view == self.view.number || self.counts_old_reports() {
            self.ticker.report(from, finished, confirmed);
        }
    }
}
