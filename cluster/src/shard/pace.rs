//! How fast a shard does what nobody waits for: checkpoints and backups. Some rows a turn, and in a
//! turn to which nothing has come, if there is one soon: the answers of a turn leave when it is
//! over.

use std::time::Duration;

use lockstep_proto::time::Instant;

/// Rows that one turn is for at most: what a commit may have to wait for.
pub(super) const ROWS_PER_TURN: usize = 128;

/// Rows that are worth a turn's while.
const ROWS_PER_TURN_MIN: usize = 32;

/// For how long a turn without commits is waited for, if the pace can be kept all the same.
const PATIENCE: Duration = Duration::from_millis(1);

/// See the module text.
pub(super) struct Pace {
    /// How long a row's turn is.
    of_row: Duration,
    /// So many times faster while there are no commits.
    alone: u32,
    /// When there were rows last.
    given: Instant,
    /// There were commits since.
    in_company: bool,
}

impl Pace {
    /// So long for a row; if that is no time at all, somebody waits for it.
    pub(super) fn new(of_row: Duration, now: Instant) -> Self {
        Self { of_row, alone: 1, given: now, in_company: false }
    }

    /// So many times faster while there are no commits.
    pub(super) fn faster_alone(self, alone: u32) -> Self {
        Self { alone, ..self }
    }

    /// When more rows are given.
    pub(super) fn due(&self) -> Instant {
        self.given + self.of_row * ROWS_PER_TURN_MIN as u32
    }

    /// How many are, in this turn; `busy` if it is one with commits.
    pub(super) fn take(&mut self, now: Instant, busy: bool) -> Option<usize> {
        self.in_company |= busy;
        let patience = PATIENCE.min(self.of_row * (ROWS_PER_TURN - ROWS_PER_TURN_MIN) as u32);
        if now < self.due() + if busy { patience } else { Duration::ZERO } {
            return None;
        }
        // Alone it may take longer turns, too: the timer that wakes it comes once in a millisecond.
        let alone = if self.in_company { 1 } else { self.alone };
        let (of_row, most) = (self.of_row / alone, ROWS_PER_TURN * alone as usize);
        let rows = now.since(self.given).as_nanos().checked_div(of_row.as_nanos());
        (self.given, self.in_company) = (now, false);
        let rows = rows.map_or(most, |rows| usize::try_from(rows).unwrap_or(most));
        Some(rows.clamp(ROWS_PER_TURN_MIN, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Duration = Duration::from_micros(16);

    fn at(micros: u64) -> Instant {
        Instant(micros * 1000)
    }

    #[test]
    fn rows_are_given_for_the_time_that_has_passed_and_never_too_many() {
        let mut pace = Pace::new(ROW, at(0));
        assert_eq!(pace.due(), at(512));
        assert_eq!(pace.take(at(511), false), None);
        assert_eq!(pace.take(at(800), false), Some(50));
        assert_eq!(pace.take(at(801), false), None);
        assert_eq!(pace.take(at(900_000), false), Some(ROWS_PER_TURN));
    }

    #[test]
    fn a_turn_with_commits_is_passed_over_unless_there_is_no_other() {
        let mut pace = Pace::new(ROW, at(0));
        assert_eq!(pace.take(at(600), true), None);
        assert_eq!(pace.take(at(610), false), Some(38), "nothing is lost by it");
        assert_eq!(pace.take(at(1_200), true), None);
        assert_eq!(pace.take(at(610 + 512 + 1_000), true), Some(94));
        let mut quick = Pace::new(ROW, at(0)).faster_alone(2);
        assert_eq!(quick.take(at(600), false), Some(75));
        assert_eq!(quick.take(at(700), true), None);
        assert_eq!(quick.take(at(1_400), false), Some(50), "there was something in between");
        assert_eq!(quick.take(at(900_000), false), Some(2 * ROWS_PER_TURN));
        let mut fast = Pace::new(Duration::from_micros(2), at(0));
        assert_eq!(fast.take(at(256), true), Some(ROWS_PER_TURN), "or it would fall behind");
        let mut urgent = Pace::new(Duration::ZERO, at(0));
        assert_eq!(urgent.take(at(0), true), Some(ROWS_PER_TURN));
    }
}
