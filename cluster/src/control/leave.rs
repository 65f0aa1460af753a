//! Every way to end: a planned leave, an exclusion, a lost side, a stuck thread.
//!
//! A planned leave (SIGTERM): the shards drain, then every member is asked to make a view without
//! this node, because the president may be the one that leaves; the most senior member that stays
//! does it. No promise has to run out: from the moment it answers the proposal the leaving node
//! serves nobody. It ends when it learns of the view.

use std::time::Duration;

use lockstep_proto::ids::{NodeInstance, ShardId};
use lockstep_proto::process::{Effect, Exit, LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::view::Standing;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::shard_control::ShardControl;

use super::ControlCore;
use super::state::State;

/// How the operating-system process of a data node ends. 0 is an orderly end.
pub mod exit_code {
    /// The other members go on without this node.
    pub const EXCLUDED: i32 = 3;
    /// This side of a failure may not go on.
    pub const LOST: i32 = 4;
    /// A part of the process or its disk does not work.
    pub const STUCK: i32 = 5;
    /// Something happened that cannot happen.
    pub const BROKEN: i32 = 6;
    /// An orderly end, to begin the next life at once.
    pub const AGAIN: i32 = 7;
}

/// How long open transactions may take to end before the node asks to leave all the same.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a leaving node waits for a view without it.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// How long a stopping node stays, so that what it has to say leaves.
const STOP_AFTER: Duration = Duration::from_millis(50);

/// A planned leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// Not wanted.
    No,
    /// The shards are draining.
    Draining { since: Instant },
    /// The members have been asked.
    Asked { since: Instant },
}

/// Whether somebody has told this node to leave, beside what it may leave for by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Told {
    /// Nobody has.
    Nothing,
    /// To come back as a new life.
    ToComeBack,
    /// To end: by SIGTERM, or an order. It does not come back, whatever happens meanwhile.
    ToEnd,
}

/// The process ends in a moment.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) at: Instant,
    exit: Exit,
}

impl Leave {
    pub(super) fn has_begun(self) -> bool {
        self != Self::No
    }

    pub(super) fn has_asked(self) -> bool {
        matches!(self, Self::Asked { .. })
    }
}

impl ControlCore {
    /// The process is told to end: in good order, and at once when told again.
    pub(super) fn on_terminate(&mut self, now: Instant, out: &mut Outputs) {
        if self.told == Told::ToEnd {
            let reason = "asked to end a second time: ending at once".to_owned();
            return self.end(Exit { code: 0, reason }, out);
        }
        self.on_leave_order(now, Told::ToEnd, out);
    }

    /// Somebody tells it to leave. Told both to come back and to end, it ends.
    pub(super) fn on_leave_order(&mut self, now: Instant, told: Told, out: &mut Outputs) {
        self.told = self.told.max(told);
        if self.leave.has_begun() {
            return out.mark("told_while_leaving");
        }
        self.leave = Leave::Draining { since: now };
        out.mark("leave_begins");
        out.log(LogLevel::Info, "leaving: waiting for open transactions");
        self.tell_shards(&ShardControl::Drain, out);
    }

    pub(super) fn on_drained(&mut self, now: Instant, shard: ShardId, out: &mut Outputs) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.0)) {
            state.drained = true;
        }
        if let Leave::Draining { since } = self.leave
            && self.shards.iter().all(|s| s.drained)
        {
            self.ask_to_leave(now, since, out);
        }
    }

    pub(super) fn ask_to_leave(&mut self, now: Instant, since: Instant, out: &mut Outputs) {
        self.leave = Leave::Asked { since };
        // Whoever stays finishes what this node may have begun.
        self.proposing = None;
        self.timers.lease_end = None;
        self.go_on_leaving(now, out);
    }

    /// Asks again, and ends when nobody is left to ask.
    pub(super) fn go_on_leaving(&mut self, now: Instant, out: &mut Outputs) {
        match self.leave {
            Leave::No => {}
            Leave::Draining { since } => {
                if now.since(since) >= DRAIN_WITHIN {
                    self.ask_to_leave(now, since, out);
                }
            }
            Leave::Asked { since } => {
                let by_itself = self.told == Told::Nothing;
                if by_itself && self.is_last_of_group(now) {
                    // Whoever could have taken over is gone: better without a disk, or in a group
                    // it should not be in, than not at all.
                    if self.leaves_by_order {
                        out.mark("lost_seat_of_the_last");
                    } else {
                        out.mark("disk_lost_of_the_last");
                    }
                    self.leave = Leave::No;
                    (self.leaves_again, self.leaves_by_order) = (false, false);
                } else if self.is_last_of_group(now) {
                    out.mark("leave_last_of_group");
                    self.leave_without_view("the last node of its node group", out);
                } else if now.since(since) >= LEAVE_WITHIN {
                    self.leave_without_view("without an answer from the other members", out);
                } else {
                    self.links.broadcast(&ControlMessage::LeaveRequest, out);
                }
            }
        }
    }

    fn leave_without_view(&mut self, how: &str, out: &mut Outputs) {
        let group = self.view.member(self.me.node).map(|m| m.group).unwrap_or_default();
        let reason =
            format!("left {how}: if no other node of group {group} lives, the cluster loses it");
        self.end(Exit { code: 0, reason }, out);
    }

    /// Whether this node is in sync, and no other of its group that is stays.
    pub(super) fn is_last_of_group(&mut self, now: Instant) -> bool {
        let member = self.view.member(self.me.node);
        if member.is_some_and(|m| m.standing != Standing::InSync) {
            return false;
        }
        // Nobody misses a group that owns nothing.
        if member.is_some_and(|m| self.view.owned_by(m.group) == 0) {
            return false;
        }
        let gone = self.suspicion.gone(now);
        let group = member.map(|m| m.group);
        let mut mates = self.view.in_sync().filter(|m| Some(m.group) == group);
        !mates.any(|m| m.instance != self.me && !gone.iter().any(|(node, _)| *node == m.instance))
    }

    pub(super) fn on_leave_request(&mut self, now: Instant, from: NodeInstance, out: &mut Outputs) {
        self.suspicion.leaves(from);
        self.reconsider(now, out);
    }

    /// The shards stop serving: no lease, nobody to talk to.
    pub(super) fn retire(&mut self, out: &mut Outputs) {
        self.retired = true;
        let members = || self.view.members.iter().map(|m| m.instance);
        let deadlines = members().map(|node| (node, 0)).collect();
        self.tell_shards(&ShardControl::Leases { deadlines }, out);
    }

    /// This side may not go on: serve nobody from now on, and end.
    pub(super) fn stop_lost(&mut self, now: Instant, text: String, out: &mut Outputs) {
        self.retire(out);
        let failed = self.view.members.iter().map(|m| m.instance).collect();
        let proposal = self.book.highest();
        let (moving, handed) = (Vec::new(), None);
        self.tell_shards(&ShardControl::Fence { proposal, failed, moving, handed }, out);
        self.proposing = None;
        let exit = Exit { code: exit_code::LOST, reason: text };
        self.stopping = Some(Stopping { at: now + STOP_AFTER, exit });
    }

    pub(super) fn stop_if_due(&mut self, now: Instant, out: &mut Outputs) {
        if let Some(stopping) = self.stopping.take_if(|stopping| now >= stopping.at) {
            self.end(stopping.exit, out);
        }
    }

    /// Ends the process.
    pub(super) fn end(&mut self, mut exit: Exit, out: &mut Outputs) {
        if self.told == Told::ToEnd && [exit_code::EXCLUDED, exit_code::LOST].contains(&exit.code) {
            // It would come back, or be started again, although it was told to end.
            out.mark("leave_ends_left_out");
            let reason = "left, while the others were not heard or had gone on without it".into();
            exit = Exit { code: 0, reason };
        }
        let again = match self.told {
            Told::Nothing => self.leaves_again,
            Told::ToComeBack => true,
            Told::ToEnd => false,
        };
        if exit.code == 0 && again {
            exit.code = exit_code::AGAIN;
        }
        if exit.code == 0 && self.disk_lost && self.told != Told::ToEnd {
            exit.code = exit_code::STUCK;
            exit.reason.push_str(", because its disk has failed: see the log, and start it again");
        }
        if self.state != State::Ended {
            self.state.transition(State::Ended);
            out.effect(Effect::Exit(exit));
        }
    }
}
