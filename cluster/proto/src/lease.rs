//! Read leases: promises "not to act without you", given and held.
//!
//! A node serves reads of a partition only while every other in-sync replica of it has promised
//! not to act in a view without the node. The holder counts a promise from *sending the
//! heartbeat* that asked for it; the giver counts the same length, stretched by the bound on clock
//! drift, from *getting that heartbeat*, whenever it tells. So the giver's end is always the later
//! one, whatever the network and the clocks do. A promise outlives view changes.
//!
//! Invariant: while a holder counts itself covered by a giver, [`Leases::remaining`] at that giver
//! is not zero.

use std::time::Duration;

use crate::ids::NodeInstance;
use crate::time::Instant;

/// What one node has promised to others, and others to it. Bounded by the members of the views
/// it has seen within one lease.
#[derive(Debug, Default)]
pub struct Leases {
    given: Vec<(NodeInstance, Instant)>,
    held: Vec<(NodeInstance, Instant)>,
}

/// Stretches a length by the bound on clock drift: at least as long on any other node's clock.
#[must_use]
pub fn stretched(length: Duration, drift_ppm: u32) -> Duration {
    let nanos = length.as_nanos();
    let stretched = nanos + (nanos * u128::from(drift_ppm)).div_ceil(1_000_000);
    Duration::from_nanos(u64::try_from(stretched).unwrap_or(u64::MAX))
}

/// Whether the answer to a heartbeat may wait for the giver's next one: the holder has a promise of
/// `length` that has `remaining` left, and heartbeats are frequent by that measure.
#[must_use]
pub fn answer_may_wait(remaining: Duration, length: Duration, heartbeat: Duration) -> bool {
    length >= heartbeat * 4 && remaining + heartbeat * 2 > length
}

/// Whether those who are told of promises at every other heartbeat must be told at once: the one
/// that is replaced has `remaining` left, and they may know an earlier one.
#[must_use]
pub fn must_tell_at_once(remaining: Duration, length: Duration, heartbeat: Duration) -> bool {
    remaining < (length * 5 / 8).max(heartbeat * 3)
}

impl Leases {
    /// Notes a promise of `length` to `holder`, whose heartbeat has come now.
    pub fn promise(
        &mut self,
        holder: NodeInstance,
        now: Instant,
        length: Duration,
        drift_ppm: u32,
    ) {
        let until = now + stretched(length, drift_ppm);
        match self.given.iter_mut().find(|(to, _)| *to == holder) {
            Some((_, end)) => *end = until.max(*end),
            None => {
                self.given.retain(|(_, end)| *end > now);
                self.given.push((holder, until));
            }
        }
    }

    /// For how long the promises to `holder` still run, by this node's clock.
    #[must_use]
    pub fn remaining(&self, holder: NodeInstance, now: Instant) -> Duration {
        let end = self.given.iter().find(|(to, _)| *to == holder).map(|(_, end)| *end);
        end.map_or(Duration::ZERO, |end| end.since(now))
    }

    /// Notes a promise of `length` by `giver`, answering a heartbeat sent at `sent`. Returns the
    /// deadline it replaces, if it is the later one.
    pub fn renew(
        &mut self,
        giver: NodeInstance,
        sent: Instant,
        length: Duration,
    ) -> Option<Instant> {
        let deadline = sent + length;
        match self.held.binary_search_by_key(&giver, |(by, _)| *by) {
            Ok(at) => {
                let before = self.held[at].1;
                self.held[at].1 = deadline.max(before);
                (deadline > before).then_some(before)
            }
            Err(at) => {
                self.held.insert(at, (giver, deadline));
                Some(Instant::default())
            }
        }
    }

    /// Whether `giver`'s promise still runs.
    #[must_use]
    pub fn holds(&self, giver: NodeInstance, now: Instant) -> bool {
        self.held.iter().any(|(by, deadline)| *by == giver && *deadline > now)
    }

    /// Forgets promises by nodes for which `keep` does not hold.
    pub fn retain_givers(&mut self, keep: impl Fn(NodeInstance) -> bool) {
        self.held.retain(|(by, _)| keep(*by));
    }

    /// Until when each peer has promised, in order of node.
    pub fn deadlines(&self) -> impl Iterator<Item = (NodeInstance, Instant)> {
        self.held.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    const LENGTH: Duration = Duration::from_millis(400);
    const DRIFT: u32 = 1000;

    fn node(id: u16) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn the_givers_end_is_never_before_the_holders() {
        // The heartbeat leaves at 10 and is answered at once; the answer takes as long as it likes.
        let (mut giver, mut holder) = (Leases::default(), Leases::default());
        giver.promise(node(1), at(10), LENGTH, DRIFT);
        assert!(holder.renew(node(2), at(10), LENGTH).is_some());
        let deadline = holder.deadlines().next().expect("one").1;
        assert_eq!(deadline, at(410));
        // A giver's clock that runs fast by the bound shows 410.4 when the holder's shows 410.
        let fast = Instant(deadline.0 + 400_000);
        assert!(giver.remaining(node(1), Instant(fast.0 - 1)) > Duration::ZERO);
        assert_eq!(giver.remaining(node(1), fast), Duration::ZERO);
    }

    #[test]
    fn a_late_answer_to_an_old_heartbeat_moves_nothing_back() {
        let mut holder = Leases::default();
        assert!(holder.renew(node(2), at(100), LENGTH).is_some());
        assert_eq!(holder.renew(node(2), at(50), LENGTH), None);
        assert_eq!(holder.deadlines().next(), Some((node(2), at(500))));
    }

    /// Two nodes whose heartbeats are `phase` microseconds apart: the least that is ever left of a
    /// promise, for the holder's control and for its shards.
    fn least_left(heartbeat: u64, length: u64, phase: u64) -> (u64, u64) {
        const DELAY: u64 = 300;
        const BEATS: u64 = 60;
        let micros = Duration::from_micros;
        // When something comes, and until when it promises; a beat promises nothing.
        let mut events: Vec<(u64, u64)> = (1..=BEATS).map(|beat| (beat * heartbeat, 0)).collect();
        let mut given = 0;
        for sent in (1..=BEATS).map(|beat| beat * heartbeat) {
            let got = sent + DELAY;
            let remaining = micros(given - got.min(given));
            let waits = answer_may_wait(remaining, micros(length), micros(heartbeat));
            given = got + length;
            let givers_beat = phase + (got - phase).div_ceil(heartbeat) * heartbeat;
            let told = if waits { givers_beat } else { got };
            events.push((told + DELAY, sent + length));
        }
        events.sort_unstable();
        let (mut held, mut told, mut least) = (0_u64, 0_u64, (u64::MAX, u64::MAX));
        for (now, until) in events {
            if (6 * heartbeat..BEATS * heartbeat).contains(&now) {
                least.0 = least.0.min(held.saturating_sub(now));
                least.1 = least.1.min(told.saturating_sub(now));
            }
            if until > held {
                let remaining = micros(held.saturating_sub(now));
                held = until;
                if must_tell_at_once(remaining, micros(length), micros(heartbeat)) {
                    told = held;
                }
            }
            if until == 0 && (now / heartbeat).is_multiple_of(2) {
                told = held;
            }
        }
        least
    }

    #[test]
    fn where_all_is_well_no_promise_runs_out_whatever_the_intervals() {
        for tenths in [20, 22, 26, 28, 30, 35, 39, 40, 41, 45, 53, 60, 80, 200] {
            let heartbeat = 50_000;
            let length = heartbeat * tenths / 10;
            for phase in (0..heartbeat).step_by(977) {
                let (held, told) = least_left(heartbeat, length, phase);
                let case = format!("{tenths} tenths of a heartbeat, {phase} µs apart");
                assert!(held > heartbeat / 2, "{case}: {held} µs are left");
                assert!(told > heartbeat / 2, "{case}: the shards have {told} µs left");
            }
        }
    }

    #[test]
    fn a_promise_outlives_its_holders_membership_and_then_goes() {
        let mut giver = Leases::default();
        giver.promise(node(1), at(0), LENGTH, DRIFT);
        giver.retain_givers(|_| false);
        assert!(giver.remaining(node(1), at(399)) > Duration::ZERO);
        giver.promise(node(2), at(1000), LENGTH, DRIFT);
        assert_eq!(giver.given.len(), 1);
    }
}
