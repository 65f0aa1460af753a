//! Is what clients saw of one register linearizable? Writes carry values that are written once.
//!
//! With unique values the question is easy (Gibbons and Korach, 1997): a write and the reads of
//! its value form a cluster that must stand in one piece. A cluster is *forward* if something of
//! it ended before something else of it began: then the register certainly held the value all the
//! time between. Two forward clusters must not overlap, and no other cluster may lie wholly within
//! a forward one.
//!
//! Invariant: a write of unknown outcome that nobody read is left out; one that was read has a
//! begin and no end.

use std::collections::BTreeMap;

use thiserror::Error;

/// What an operation did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterStep {
    /// Wrote a value that nobody else writes; 0 is what the register held before everything.
    Write(u64),
    /// Saw a value.
    Read(u64),
}

/// One operation on the register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterOp {
    /// When its client began it, in any unit that orders events.
    pub begin: u64,
    /// When it was told the result; `None` for a write of unknown outcome.
    pub end: Option<u64>,
    /// What it did.
    pub step: RegisterStep,
}

/// Why no order of the operations explains what clients saw.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RegisterViolation {
    /// Two operations write the same value: the recorder is at fault.
    #[error("the value {0} is written twice")]
    WrittenTwice(u64),
    /// A value that nobody wrote was read.
    #[error("the value {0} was read, but nobody wrote it")]
    Phantom(u64),
    /// A read ended before the write of its value began.
    #[error("the value {0} was read before it was written")]
    FromTheFuture(u64),
    /// A value was seen, another one, and the first again.
    #[error("the values {one} and {other} were both certainly there at the same time")]
    Overlap {
        /// One of the values.
        one: u64,
        /// The other.
        other: u64,
    },
}

#[derive(Clone, Copy)]
struct Cluster {
    write: (u64, u64),
    first_end: u64,
    last_begin: u64,
}

/// Checks one register. Times of different operations that are equal count as concurrent.
///
/// # Errors
/// The first violation, in order of value or time.
pub fn check_register(history: &[RegisterOp]) -> Result<(), RegisterViolation> {
    let clusters = clusters(history)?;
    let mut forward: Vec<(u64, u64, u64)> = Vec::new();
    let mut backward: Vec<(u64, u64, u64)> = Vec::new();
    for (&value, cluster) in &clusters {
        if cluster.first_end < cluster.last_begin {
            forward.push((cluster.first_end, cluster.last_begin, value));
        } else {
            backward.push((cluster.last_begin, cluster.first_end, value));
        }
    }
    forward.sort_unstable();
    for pair in forward.windows(2) {
        let ((_, end, one), (begin, _, other)) = (pair[0], pair[1]);
        if begin < end {
            return Err(RegisterViolation::Overlap { one, other });
        }
    }
    for (begin, end, value) in backward {
        // Forward clusters are disjoint: only the last that starts before can hold this one.
        let after = forward.partition_point(|&(start, _, _)| start < begin);
        if let Some(&(_, stop, other)) = after.checked_sub(1).map(|index| &forward[index])
            && end < stop
        {
            return Err(RegisterViolation::Overlap { one: other, other: value });
        }
    }
    Ok(())
}

fn clusters(history: &[RegisterOp]) -> Result<BTreeMap<u64, Cluster>, RegisterViolation> {
    let origin = Cluster { write: (0, 0), first_end: 0, last_begin: 0 };
    let mut clusters = BTreeMap::from([(0, origin)]);
    for op in history {
        let RegisterStep::Write(value) = op.step else { continue };
        let end = op.end.unwrap_or(u64::MAX);
        let cluster = Cluster { write: (op.begin, end), first_end: end, last_begin: op.begin };
        if clusters.insert(value, cluster).is_some() {
            return Err(RegisterViolation::WrittenTwice(value));
        }
    }
    for op in history {
        let (RegisterStep::Read(value), Some(end)) = (op.step, op.end) else { continue };
        let cluster = clusters.get_mut(&value).ok_or(RegisterViolation::Phantom(value))?;
        if end < cluster.write.0 {
            return Err(RegisterViolation::FromTheFuture(value));
        }
        cluster.first_end = cluster.first_end.min(end);
        cluster.last_begin = cluster.last_begin.max(op.begin);
    }
    clusters.retain(|_, cluster| cluster.first_end != u64::MAX);
    Ok(clusters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begin: u64, end: u64, value: u64) -> RegisterOp {
        RegisterOp { begin, end: Some(end), step: RegisterStep::Write(value) }
    }

    fn lost(begin: u64, value: u64) -> RegisterOp {
        RegisterOp { begin, end: None, step: RegisterStep::Write(value) }
    }

    fn read(begin: u64, end: u64, value: u64) -> RegisterOp {
        RegisterOp { begin, end: Some(end), step: RegisterStep::Read(value) }
    }

    #[test]
    fn linearizable_histories_are_accepted() {
        let cases: [&[RegisterOp]; 6] = [
            &[],
            &[read(1, 2, 0), write(3, 4, 7), read(5, 6, 7)],
            &[write(1, 9, 7), read(2, 3, 7), read(4, 5, 7)],
            &[write(1, 9, 7), read(2, 3, 0), read(4, 5, 7)],
            &[lost(1, 7), read(2, 3, 0), read(4, 5, 7), write(6, 7, 8), read(8, 9, 8)],
            &[lost(1, 7), read(2, 3, 0)],
        ];
        for case in cases {
            assert_eq!(check_register(case), Ok(()), "{case:?}");
        }
    }

    #[test]
    fn what_no_order_explains_is_found() {
        let stale = [write(1, 2, 7), read(3, 4, 0)];
        assert_eq!(
            check_register(&stale),
            Err(RegisterViolation::Overlap { one: 0, other: 7 }),
            "a stale read"
        );
        let back = [write(1, 9, 7), read(2, 3, 7), read(4, 5, 0)];
        assert!(check_register(&back).is_err(), "reads go back");
        let back = [lost(1, 7), write(1, 2, 8), read(3, 4, 8), read(5, 6, 7), read(7, 8, 8)];
        assert!(check_register(&back).is_err(), "a value comes back");
        let early = [read(1, 2, 7), write(3, 4, 7)];
        assert_eq!(check_register(&early), Err(RegisterViolation::FromTheFuture(7)));
        assert_eq!(check_register(&[read(1, 2, 7)]), Err(RegisterViolation::Phantom(7)));
        let twice = [write(1, 2, 7), write(3, 4, 7)];
        assert_eq!(check_register(&twice), Err(RegisterViolation::WrittenTwice(7)));
    }
}
