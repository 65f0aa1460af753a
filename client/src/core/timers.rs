//! Everything the core does later: retries and dials after a back-off, and the sweep that looks for
//! passed deadlines and silent links while calls are pending.
//!
//! Invariant: what is due when is decided by `now` and the seed alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use lockstep_proto::time::Instant;

/// What is to be done when its time comes. Handlers check that it still makes sense.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// Try to go on with a call; carries the number of its key.
    Retry(u64),
    /// Try to reach whoever can be reached.
    Dial,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Timers {
    /// Ordered by time, then by order of setting.
    due: BinaryHeap<Reverse<(Instant, u64, Timer)>>,
    set: u64,
    random: u64,
}

impl Timers {
    pub(super) fn new(seed: u64) -> Self {
        // The odd constant keeps seed 0 from being the generator's fixed point.
        Self { due: BinaryHeap::new(), set: 0, random: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.set += 1;
        self.due.push(Reverse((at, self.set, timer)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let Reverse((at, _, timer)) = *self.due.peek()?;
        if at > now {
            return None;
        }
        self.due.pop();
        Some(timer)
    }

    /// `base` doubled for each attempt up to `max`, then shortened by up to a half at random, so
    /// that those who failed together do not come back together.
    pub(super) fn back_off(&mut self, base: Duration, attempts: u32, max: Duration) -> Duration {
        let whole = base.saturating_mul(1 << attempts.min(16)).min(max);
        let nanos = u64::try_from(whole.as_nanos()).expect("back-offs are short");
        Duration::from_nanos(nanos / 2 + self.random() % (nanos / 2 + 1))
    }

    /// xorshift64*: enough to spread retries.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_order_and_back_off_stays_in_its_range() {
        let mut timers = Timers::new(0);
        timers.set(Instant(20), Timer::Dial);
        timers.set(Instant(10), Timer::Retry(1));
        assert_eq!(timers.next(), Some(Instant(10)));
        assert_eq!(timers.pop_due(Instant(9)), None);
        assert_eq!(timers.pop_due(Instant(30)), Some(Timer::Retry(1)));
        assert_eq!(timers.pop_due(Instant(30)), Some(Timer::Dial));
        let (base, max) = (Duration::from_millis(1), Duration::from_millis(10));
        for attempts in 0..100 {
            let wait = timers.back_off(base, attempts, max);
            let whole = base.saturating_mul(1 << attempts.min(4)).min(max);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
    }
}
