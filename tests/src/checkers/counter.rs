//! Is what clients saw of one counter linearizable? The counter starts at 0, every increment adds
//! one and returns the new value.
//!
//! The values put all operations in a line: the increment to `v`, then the reads of `v`, then the
//! increment to `v + 1`. That line must agree with real time, and every value up to the highest
//! one seen must have an increment: one that was acknowledged, or one of unknown outcome that
//! began early enough.

use thiserror::Error;

/// What an operation did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterStep {
    /// Added one; the value afterwards, `None` if its client was not told what became of it.
    Increment(Option<u64>),
    /// Saw a value.
    Read(u64),
}

/// One operation on the counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterOp {
    /// When its client began it, in any unit that orders events.
    pub begin: u64,
    /// When it was told the result; not looked at for an increment of unknown outcome.
    pub end: u64,
    /// What it did.
    pub step: CounterStep,
}

/// Why no order of the operations explains what clients saw.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CounterViolation {
    /// Two increments returned the same value: one was lost.
    #[error("two increments returned {0}")]
    ReturnedTwice(u64),
    /// An increment returned what no increment can.
    #[error("an increment returned 0")]
    ReturnedZero,
    /// Nobody can have made this value.
    #[error("the value {0} was reached, but no increment can have led to it")]
    Phantom(u64),
    /// The values go back in time.
    #[error("an operation that ended with {before} comes before one that ended with {after}")]
    GoesBack {
        /// The value seen by the operation that was over already.
        before: u64,
        /// The value seen by the one that began after.
        after: u64,
    },
}

/// Checks one counter.
///
/// # Errors
/// The first violation, in order of value.
pub fn check_counter(history: &[CounterOp]) -> Result<(), CounterViolation> {
    let mut line: Vec<(u64, CounterOp)> = Vec::new();
    let mut unknown: Vec<u64> = Vec::new();
    for &op in history {
        match op.step {
            CounterStep::Increment(Some(0)) => return Err(CounterViolation::ReturnedZero),
            CounterStep::Increment(Some(value)) => line.push((2 * value, op)),
            CounterStep::Increment(None) => unknown.push(op.begin),
            CounterStep::Read(value) => line.push((2 * value + 1, op)),
        }
    }
    line.sort_unstable_by_key(|&(position, op)| (position, op.begin));
    check_real_time(&line)?;
    unknown.sort_unstable();
    check_complete(&line, &unknown)
}

/// Nobody may end before somebody earlier in the line begins; increments are alone in their place.
fn check_real_time(line: &[(u64, CounterOp)]) -> Result<(), CounterViolation> {
    // From the end: the earliest end of everything that comes later in the line.
    let mut earliest: Option<(u64, u64)> = None;
    for (index, &(position, op)) in line.iter().enumerate().rev() {
        let value = position / 2;
        let next = line.get(index + 1).map(|&(next, _)| next);
        if next == Some(position) && position % 2 == 0 {
            return Err(CounterViolation::ReturnedTwice(value));
        }
        if let Some((end, before)) = earliest
            && end < op.begin
            && before != value
        {
            return Err(CounterViolation::GoesBack { before, after: value });
        }
        let read_before_increment =
            earliest.is_some_and(|(end, _)| position % 2 == 0 && end < op.begin);
        if read_before_increment {
            return Err(CounterViolation::Phantom(value));
        }
        if earliest.is_none_or(|(end, _)| op.end < end) {
            earliest = Some((op.end, value));
        }
    }
    Ok(())
}

/// Every value that has no acknowledged increment needs one of unknown outcome that began before
/// anybody was told of the value or a higher one.
fn check_complete(line: &[(u64, CounterOp)], unknown: &[u64]) -> Result<(), CounterViolation> {
    let highest = line.last().map_or(0, |&(position, _)| position / 2);
    let mut deadlines = vec![u64::MAX; line.len() + 1];
    for (index, (_, op)) in line.iter().enumerate().rev() {
        deadlines[index] = deadlines[index + 1].min(op.end);
    }
    let mut unused = unknown.iter();
    let mut index = 0;
    for value in 1..=highest {
        while line[index].0 < 2 * value {
            index += 1;
        }
        if line[index].0 == 2 * value {
            continue;
        }
        if unused.next().is_none_or(|&begin| begin > deadlines[index]) {
            return Err(CounterViolation::Phantom(value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(begin: u64, end: u64, value: u64) -> CounterOp {
        CounterOp { begin, end, step: CounterStep::Increment(Some(value)) }
    }

    fn lost(begin: u64) -> CounterOp {
        CounterOp { begin, end: 0, step: CounterStep::Increment(None) }
    }

    fn read(begin: u64, end: u64, value: u64) -> CounterOp {
        CounterOp { begin, end, step: CounterStep::Read(value) }
    }

    #[test]
    fn linearizable_histories_are_accepted() {
        let cases: [&[CounterOp]; 6] = [
            &[],
            &[read(1, 2, 0), increment(3, 4, 1), read(5, 6, 1)],
            &[increment(1, 9, 2), increment(1, 9, 1), read(2, 3, 0), read(4, 5, 1)],
            &[lost(1), read(2, 3, 0), read(4, 5, 1), increment(6, 7, 2)],
            &[lost(1), lost(1), increment(2, 3, 3)],
            &[increment(1, 9, 1), read(2, 3, 1), read(4, 5, 1)],
        ];
        for case in cases {
            assert_eq!(check_counter(case), Ok(()), "{case:?}");
        }
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let cases: [(&[CounterOp], CounterViolation); 8] = [
            (&[increment(1, 2, 1), increment(3, 4, 1)], CounterViolation::ReturnedTwice(1)),
            (&[increment(1, 2, 0)], CounterViolation::ReturnedZero),
            (&[increment(1, 2, 2)], CounterViolation::Phantom(1)),
            (&[read(1, 2, 1), lost(3)], CounterViolation::Phantom(1)),
            (&[lost(1), increment(2, 3, 3)], CounterViolation::Phantom(2)),
            (&[read(1, 2, 1), increment(3, 4, 1)], CounterViolation::Phantom(1)),
            (
                &[increment(1, 2, 1), read(3, 4, 0)],
                CounterViolation::GoesBack { before: 1, after: 0 },
            ),
            (
                &[increment(1, 2, 1), increment(1, 2, 2), read(3, 4, 1)],
                CounterViolation::GoesBack { before: 2, after: 1 },
            ),
        ];
        for (case, expected) in cases {
            assert_eq!(check_counter(case), Err(expected), "{case:?}");
        }
    }
}
