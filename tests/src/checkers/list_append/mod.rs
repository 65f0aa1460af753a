//! Is a history of list-append transactions strictly serializable?
//!
//! Lists that only grow tell everything: a read shows which appends happened before it and in
//! which order, and what is missing from it happened later. From that follow edges "must come
//! before" between transactions; real time adds more. A cycle means that no order explains what
//! clients saw. The rules are those of Kingsbury and Alvaro's *Elle* (VLDB 2020).
//!
//! * [`versions`]: the order of every list's elements, and all mistakes visible without a cycle;
//! * [`graph`]: the edges, and the search for a cycle.
//!
//! Invariant: never a false alarm. Every edge follows from what clients were told alone; an
//! append of unknown outcome counts from the moment somebody read it, not before.

mod graph;
mod versions;

#[cfg(test)]
mod anomalies;
#[cfg(test)]
mod serial;

use std::fmt;

use crate::checkers::history::{Event, HistoryError, transactions};

/// What kind of mistake a history shows; the names are those of the literature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Anomaly {
    /// The history itself is wrong: the recorder is at fault.
    Malformed,
    /// An element is in a list twice: an append was applied twice.
    Duplicate,
    /// A list has an element that nobody appended.
    Phantom,
    /// A transaction does not see what it read or appended itself.
    Internal,
    /// G1a: an append of an aborted transaction was read.
    AbortedRead,
    /// G1b: a state from the middle of a transaction was read.
    IntermediateRead,
    /// Two reads disagree about the order of a list: no single version order explains both.
    IncompatibleOrder,
    /// A cycle of writes over writes.
    G0,
    /// A cycle of writes and reads of them.
    G1c,
    /// A cycle with exactly one read that missed a write: lost update, read skew.
    GSingle,
    /// A cycle with several reads that missed writes: write skew.
    G2,
    /// A cycle of writes over writes and real time.
    G0RealTime,
    /// A cycle of writes, reads of them and real time.
    G1cRealTime,
    /// One read that missed a write, against real time: a stale read or a lost write.
    GSingleRealTime,
    /// Several reads that missed writes, against real time.
    G2RealTime,
}

impl Anomaly {
    /// The short name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed-history",
            Self::Duplicate => "duplicate-element",
            Self::Phantom => "phantom-element",
            Self::Internal => "internal",
            Self::AbortedRead => "G1a",
            Self::IntermediateRead => "G1b",
            Self::IncompatibleOrder => "incompatible-order",
            Self::G0 => "G0",
            Self::G1c => "G1c",
            Self::GSingle => "G-single",
            Self::G2 => "G2",
            Self::G0RealTime => "G0-realtime",
            Self::G1cRealTime => "G1c-realtime",
            Self::GSingleRealTime => "G-single-realtime",
            Self::G2RealTime => "G2-realtime",
        }
    }
}

/// Why a history cannot be explained, with the transactions that show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which mistake.
    pub anomaly: Anomaly,
    /// The evidence, in lines for a person.
    pub witness: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly.name(), self.witness)
    }
}

impl std::error::Error for Violation {}

impl From<HistoryError> for Violation {
    fn from(error: HistoryError) -> Self {
        Self { anomaly: Anomaly::Malformed, witness: error.to_string() }
    }
}

/// Checks that some serial order explains all that clients were told, and that this order agrees
/// with real time.
///
/// # Errors
/// The first [`Violation`] found; mistakes that need no cycle come first.
pub fn check_list_append(history: &[Event]) -> Result<(), Violation> {
    let transactions = transactions(history)?;
    let versions = versions::infer(&transactions)?;
    graph::Graph::build(&transactions, &versions).check(&transactions)
}
