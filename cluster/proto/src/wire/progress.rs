//! How far a node is that comes back: counted by its shards, added up by whoever shows it.

use serde::{Deserialize, Serialize};

use crate::figures::{bytes, span, thousands};
use crate::ids::Epoch;

/// How much of its rows of a partition a primary has looked through for a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Share {
    /// About this many.
    pub done: u64,
    /// Of this many, now.
    pub of: u64,
}

/// How far the partitions of a shard, or of a node, are on their way to being in sync.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JoinProgress {
    /// They are in sync: the rest is how it went.
    pub finished: bool,
    /// How many join.
    pub partitions: u32,
    /// How many of them have all rows.
    pub partitions_copied: u32,
    /// How many of these are in a checkpoint, too; where there is no disk, all.
    pub partitions_kept: u32,
    /// Copies begun of all rows of a partition.
    pub copies_full: u32,
    /// Copies begun of what has changed since `restored`.
    pub copies_delta: u32,
    /// Up to this epoch the node's own files had everything.
    pub restored: Epoch,
    /// Rows received in copies, deleted ones as well; also those of copies that had to begin anew.
    /// Definitions of tables are not counted.
    pub rows: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// How many rows it will have been; `None` while that cannot be said.
    pub rows_expected: Option<u64>,
    /// Records of the primaries' logs received beside the copies.
    pub records: u64,
    /// Records that the primaries' logs had at the last change of view or copy begun, and that are
    /// not applied here yet.
    pub records_behind: u64,
    /// Time since it began, milliseconds; if finished, the time it took.
    pub elapsed_ms: u64,
    /// Time until all rows are here and in checkpoints, milliseconds, at the speed so far; `None`
    /// while that cannot be said.
    pub left_ms: Option<u64>,
}

impl JoinProgress {
    /// Both as one: two shards of a node work at the same time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>, f: fn(u64, u64) -> u64| Some(f(a?, b?));
        Self {
            finished: self.finished && other.finished,
            partitions: self.partitions.saturating_add(other.partitions),
            partitions_copied: self.partitions_copied.saturating_add(other.partitions_copied),
            partitions_kept: self.partitions_kept.saturating_add(other.partitions_kept),
            copies_full: self.copies_full.saturating_add(other.copies_full),
            copies_delta: self.copies_delta.saturating_add(other.copies_delta),
            restored: self.restored.min(other.restored),
            rows: self.rows.saturating_add(other.rows),
            bytes: self.bytes.saturating_add(other.bytes),
            rows_expected: both(self.rows_expected, other.rows_expected, u64::saturating_add),
            records: self.records.saturating_add(other.records),
            records_behind: self.records_behind.saturating_add(other.records_behind),
            elapsed_ms: self.elapsed_ms.max(other.elapsed_ms),
            left_ms: both(self.left_ms, other.left_ms, u64::max),
        }
    }

    /// What is copied: `full`, `delta` or `mixed`; `None` before the first copy begins.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        match (self.copies_full, self.copies_delta) {
            (0, 0) => None,
            (_, 0) => Some("full"),
            (0, _) => Some("delta"),
            _ => Some("mixed"),
        }
    }

    /// The state in words, for a page or a log.
    #[must_use]
    pub fn describe(&self) -> String {
        let (all, copied) = (self.partitions, self.partitions_copied);
        let size = format!("{} rows, {}", thousands(self.rows), bytes(self.bytes));
        let kind = self.describe_kind();
        if self.finished {
            return format!("took {all} partitions in {}: {size}{kind}", span(self.elapsed_ms));
        }
        if copied < all {
            if self.kind().is_none() {
                return format!("waiting for the primaries of {all} partitions");
            }
            let expected = self.rows_expected.filter(|expected| *expected > self.rows);
            let expected = expected.map(|rows| format!(" of about {}", thousands(rows)));
            return format!(
                "copying {copied} of {all} partitions, {}{} rows, {}{}{kind}",
                thousands(self.rows),
                expected.unwrap_or_default(),
                bytes(self.bytes),
                self.describe_left(),
            );
        }
        let then = match (self.partitions_kept, self.records_behind) {
            (kept, _) if kept < all => {
                format!("{kept} of {all} are in checkpoints{}", self.describe_left())
            }
            (_, 0) => "waiting to be counted in".to_owned(),
            (_, behind) => format!("{} records of the logs behind", thousands(behind)),
        };
        format!("copied {all} partitions, {size}{kind}; {then}")
    }

    fn describe_left(&self) -> String {
        let left = self.left_ms.map(|ms| match ms.div_ceil(1_000) {
            seconds @ 0..60 => format!(", about {seconds} s left"),
            _ => format!(", about {} left", span(ms)),
        });
        left.unwrap_or_default()
    }

    fn describe_kind(&self) -> String {
        let since = format!("changes since epoch {}", self.restored.0);
        match (self.copies_full, self.copies_delta) {
            (0, 0) => String::new(),
            (_, 0) => " (everything)".to_owned(),
            (0, _) => format!(" ({since})"),
            (full, delta) => format!(" (everything of {full}, {since} of {delta})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> JoinProgress {
        JoinProgress {
            partitions: 32,
            partitions_copied: 12,
            partitions_kept: 10,
            copies_delta: 13,
            restored: Epoch(812),
            rows: 41_000,
            bytes: 4_300_000,
            rows_expected: Some(110_000),
            elapsed_ms: 1_700,
            left_ms: Some(2_100),
            ..JoinProgress::default()
        }
    }

    #[test]
    fn every_stage_has_its_words() {
        let now = progress();
        assert_eq!(
            now.describe(),
            "copying 12 of 32 partitions, 41 000 of about 110 000 rows, 4.1 MiB, about 3 s left \
             (changes since epoch 812)"
        );
        let unknown = JoinProgress { rows_expected: None, left_ms: None, ..now.clone() };
        assert_eq!(
            unknown.describe(),
            "copying 12 of 32 partitions, 41 000 rows, 4.1 MiB (changes since epoch 812)"
        );
        let begun = JoinProgress { partitions: 32, ..JoinProgress::default() };
        assert_eq!(begun.describe(), "waiting for the primaries of 32 partitions");
        let copied = JoinProgress { partitions_copied: 32, records_behind: 1_234, ..now };
        let size = "copied 32 partitions, 41 000 rows, 4.1 MiB (changes since epoch 812)";
        assert_eq!(
            copied.describe(),
            format!("{size}; 10 of 32 are in checkpoints, about 3 s left")
        );
        let kept = JoinProgress { partitions_kept: 32, ..copied };
        assert_eq!(kept.describe(), format!("{size}; 1 234 records of the logs behind"));
        let there = JoinProgress { records_behind: 0, ..kept };
        assert_eq!(there.describe(), format!("{size}; waiting to be counted in"));
        let finished = JoinProgress { finished: true, copies_full: 2, ..there };
        assert_eq!(
            finished.describe(),
            "took 32 partitions in 1.7 s: 41 000 rows, 4.1 MiB (everything of 2, changes since \
             epoch 812 of 13)"
        );
    }

    #[test]
    fn two_shards_are_as_far_as_the_slower_one() {
        let (one, other) = (progress(), JoinProgress { left_ms: Some(9_000), ..progress() });
        let both = one.clone().and(other);
        assert_eq!((both.partitions, both.rows), (64, 82_000));
        assert_eq!((both.rows_expected, both.left_ms), (Some(220_000), Some(9_000)));
        assert_eq!((both.elapsed_ms, both.restored), (1_700, Epoch(812)));
        let silent = JoinProgress { rows_expected: None, left_ms: None, ..progress() };
        let both = one.and(silent);
        assert_eq!((both.rows_expected, both.left_ms), (None, None));
    }
}
