//! The part of a log that a primary still has in memory, and where a joiner's log is in it.

use std::collections::VecDeque;

use lockstep_proto::ids::{Seq, ViewNumber};
use lockstep_proto::record;
use lockstep_proto::wire::join::LogPlace;

use super::partition::Partition;

/// Stable records that a joiner may ask for again.
#[derive(Default)]
pub(super) struct Kept {
    records: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Kept {
    /// Keeps the next record.
    pub(super) fn push(&mut self, record: Box<[u8]>) {
        self.bytes += record.len();
        self.records.push_back(record);
    }

    /// Whether they have more bytes than that, and not because the last one alone has.
    pub(super) fn is_over(&self, bytes_max: usize) -> bool {
        self.bytes > bytes_max && self.records.len() > 1
    }

    fn pop(&mut self) {
        self.bytes -= self.records.pop_front().map_or(0, |record| record.len());
    }
}

impl Partition {
    /// Whether stable records are kept for a joiner.
    pub(super) fn keeps(&self) -> bool {
        self.leads && self.backups.iter().any(|b| b.follows)
    }

    /// Drops kept records that every joiner has; all if there is none, for none is added then.
    pub(super) fn trim_kept(&mut self) {
        if !self.keeps() {
            self.kept = Kept::default();
            return;
        }
        let reached = self.backups.iter().filter(|b| b.follows);
        let least = reached.map(|b| b.acked).min().unwrap_or(self.end);
        // The last one it has stays, to be compared.
        while !self.kept.records.is_empty() && self.base().next() < least {
            self.kept.pop();
        }
    }

    /// The position before the first record in memory.
    fn base(&self) -> Seq {
        Seq(self.end.0 - (self.tail.len() + self.kept.records.len()) as u64)
    }

    pub(super) fn record(&self, seq: Seq) -> Option<&[u8]> {
        let at = usize::try_from(seq.0.checked_sub(self.base().0 + 1)?).ok()?;
        let kept = self.kept.records.len();
        let record = self.kept.records.get(at).or_else(|| self.tail.get(at.checked_sub(kept)?));
        record.map(|record| &**record)
    }

    fn view_of(&self, seq: Seq) -> Option<ViewNumber> {
        match self.record(seq) {
            Some(record) => record::view(record),
            None => (seq == self.stable).then_some(self.stable_view),
        }
    }

    /// Up to where a joiner's log is this one, if the records after that are in memory. Two records
    /// of one position and view are the same, and so is everything before them.
    pub(super) fn common(&self, log: &LogPlace) -> Option<Seq> {
        if !log.is_ordered() {
            return None;
        }
        let base = self.base();
        for (at, (view, last)) in log.runs.iter().enumerate().rev() {
            let before = at.checked_sub(1).and_then(|at| log.runs.get(at));
            let first = before.map_or(log.applied, |(_, seq)| *seq).next();
            let mut seq = (*last).min(self.end);
            while seq >= first && seq >= base {
                if self.view_of(seq) == Some(*view) {
                    return Some(seq);
                }
                seq = Seq(seq.0 - 1);
            }
        }
        (log.applied >= base && log.applied <= self.end).then_some(log.applied)
    }
}
