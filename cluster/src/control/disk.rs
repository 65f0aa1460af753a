//! What is durable, and how fast the epochs go.
//!
//! Ticks come at an even pace. When somebody waits for an epoch to close or to become durable, the
//! ticking member ticks at every report that makes progress instead; when nothing has happened for
//! a while, it ticks slowly, and everybody knows that the first work has to be told at once.

use std::time::Duration;

use lockstep_proto::durability::{DiskOwner, DiskState};
use lockstep_proto::ids::Epoch;
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Member, Standing};

use super::ControlCore;

/// Without work for this long, ticks come slowly.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// The time between two ticks then.
const QUIET_TICK: Duration = Duration::from_millis(100);

/// Epochs raised in a hurry are this part of the usual tick apart: ids of transactions expire, and
/// old versions of rows go, by epochs.
const HURRIED_PER_TICK: u32 = 20;

/// An epoch is given this long for each commit that waits at the shard where most do, so that those
/// who have just been answered share the next one: an epoch costs all members some ten messages and
/// a sync, whoever is in it. About what a shard needs to carry out a commit on a shared core, so
/// that it matters only where the processors would have nothing left for epochs.
const EPOCH_PER_WAITER: Duration = Duration::from_micros(10);

impl ControlCore {
    /// A view begins: the disks of its members count if they are in sync, or as soon as they are
    /// whole.
    pub(super) fn enter_disks(&mut self, now: Instant) {
        let owner = |member: &Member| DiskOwner {
            member: member.instance,
            group: (member.standing >= Standing::Attached).then_some(member.group),
            in_sync: member.standing == Standing::InSync,
        };
        let members = self.view.members.iter().map(owner);
        self.disk_ticker.enter(members, self.disks.pulse().durable);
        self.disks.report_again();
        self.timers.worked = now;
    }

    /// A node whose disk has failed, or does not answer, asks to be left out, unless it is the last
    /// of its group: without a disk it still has what the others have lost.
    pub(super) fn heed_disk(&mut self, now: Instant, out: &mut Outputs) {
        let state = self.disks.report().state;
        if !state.is_lost() || self.leave.has_begun() || !self.state.acts() || self.is_over() {
            return;
        }
        if self.is_last_of_group(now) {
            return;
        }
        out.mark("leave_for_disk");
        let why = match state {
            DiskState::Stuck => "the disk does not answer",
            _ => "the disk has failed",
        };
        out.log(LogLevel::Warn, format!("{why}: asking to be left out of the view"));
        self.disk_lost = true;
        self.ask_to_leave(now, now, out);
    }

    /// Whether nothing has happened anywhere for a while.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        now.since(self.timers.worked) >= QUIET_AFTER
    }

    /// The time until the next tick, unless something happens.
    pub(super) fn tick_interval(&self, now: Instant) -> Duration {
        let interval = self.view.config.tick();
        if self.is_quiet(now) { interval.max(QUIET_TICK) } else { interval }
    }

    /// The ticking member: ticks at once if work has begun or somebody waits.
    pub(super) fn hurry(&mut self, now: Instant, out: &mut Outputs) {
        if self.timers.tick.is_none() || !self.state.acts() || self.state.is_frozen() {
            return;
        }
        let begins = self.disk_ticker.told().quiet;
        if self.disk_ticker.worked() > self.disk_ticker.told().worked {
            self.timers.worked = now;
            if begins {
                out.mark("quiet_ends");
                self.timers.tick = Some(now);
                self.tick(now, out);
            }
        }
        while self.hurries(now) {
            out.mark("tick_hurried");
            self.send_tick(now, out);
        }
    }

    /// Whether a tick now brings those forward who wait. Raises the epoch if they need that.
    fn hurries(&mut self, now: Instant) -> bool {
        let closed = self.ticker.closed();
        let (told, (awaited, needed)) = (self.disk_ticker.told(), self.disk_ticker.wanted());
        // Those who know that somebody waits hurry as it is.
        let news = !told.hurries(closed) && (awaited > told.awaited || needed > told.needed);
        if awaited <= told.durable && needed <= closed {
            return false;
        }
        self.timers.worked = now;
        let current = self.epochs.current();
        let progress = self.ticker.has_progress(current) || self.disk_ticker.has_progress(closed);
        if current > awaited.max(needed) {
            return news || progress;
        }
        if self.may_raise(current, awaited) {
            let interval = self.view.config.tick();
            let due = self.timers.raised + self.hurried_interval(interval);
            if now >= due {
                self.timers.tick = Some(now + interval);
                self.end_epoch(now);
                return true;
            }
            self.timers.tick = self.timers.tick.map(|at| at.min(due));
        }
        // While nobody waited, members were in no hurry to confirm the seal of the epoch before.
        progress || (news && closed.next() < current)
    }

    /// The least time between two epochs that somebody waits for.
    fn hurried_interval(&self, interval: Duration) -> Duration {
        let gather = EPOCH_PER_WAITER.saturating_mul(self.disk_ticker.waiters());
        gather.clamp(interval / HURRIED_PER_TICK, interval)
    }

    /// Ends the current epoch.
    pub(super) fn end_epoch(&mut self, now: Instant) {
        let current = self.epochs.current();
        let (awaited, _) = self.disk_ticker.wanted();
        if awaited >= current {
            self.awaited_last = current;
        }
        self.timers.raised = now;
        self.epochs.raise(current.next());
    }

    /// Whether the current epoch may end early for those who wait for it: when the one before it is
    /// closed, and the last one that somebody wanted on the disks is there. All that comes
    /// meanwhile shares the next. More of them at a time would bring nobody forward, and each costs
    /// messages between all members, and a sync at each of them.
    fn may_raise(&self, current: Epoch, awaited: Epoch) -> bool {
        let closed = self.ticker.closed_now();
        let written =
            awaited < current || self.disk_ticker.durable_now(closed) >= self.awaited_last;
        closed.next() >= current && written
    }
}
