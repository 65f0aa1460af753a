//! A machine's boot clock as it differs from the simulator's true time: it started at another
//! moment and runs a little fast or slow, within the drift the cluster is configured for.
//!
//! Invariant: a local reading never goes back, and [`HostClock::when`] is never too early.

use lockstep_proto::time::Instant;

/// One machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock {
    /// What the clock showed at true time zero.
    pub offset_ns: u64,
    /// How much faster than true time it runs, parts per million; negative for slower.
    pub drift_ppm: i64,
}

impl HostClock {
    /// What the clock shows at a true time.
    #[inline]
    #[must_use]
    pub fn read(self, true_ns: u64) -> Instant {
        Instant(self.offset_ns + true_ns.saturating_add_signed(scaled(true_ns, self.drift_ppm)))
    }

    /// The earliest true time at which the clock shows at least `local`.
    #[inline]
    #[must_use]
    pub fn when(self, local: Instant) -> u64 {
        let since = local.0.saturating_sub(self.offset_ns);
        let mut guess = since.saturating_add_signed(-scaled(since, self.drift_ppm));
        // The inverse is off by the drift of the drift: under one part in a million.
        while self.read(guess) >= local && guess > 0 {
            guess = guess.saturating_sub(1 + guess / 4_000_000);
        }
        while self.read(guess) < local {
            let behind = local.0 - self.read(guess).0;
            guess += 1 + behind / 2;
        }
        guess
    }
}

/// `ns` × ppm / 1,000,000.
fn scaled(ns: u64, ppm: i64) -> i64 {
    let product = i128::from(ns) * i128::from(ppm) / 1_000_000;
    i64::try_from(product).expect("a simulated run is shorter than a century")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_fires_early_and_hardly_late() {
        for drift_ppm in [-1000, -37, 0, 1, 999] {
            let clock = HostClock { offset_ns: 5_000_000_123, drift_ppm };
            for true_ns in [0, 1, 999, 1_000_000, 77_123_456_789] {
                let local = clock.read(true_ns);
                let when = clock.when(local);
                assert!(clock.read(when) >= local);
                assert!(when.abs_diff(true_ns) < 1000 + true_ns / 100_000, "{true_ns} {when}");
            }
        }
    }
}
