//! How far the partitions that join here are, in figures, for people: on the page of `status` and
//! in the log. Nothing is decided by them.
//!
//! What is counted goes up only; rows of a copy that had to begin anew stay counted. How much is
//! still to come follows from what the primaries say of their rows and of the part of them that
//! they have looked through. Nothing is said of it before every primary has spoken.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_proto::ids::{Epoch, PartitionId};
use lockstep_proto::process::Outputs;
use lockstep_proto::time::Instant;
use lockstep_proto::view::Standing;
use lockstep_proto::wire::progress::{JoinProgress, Share};
use lockstep_proto::wire::shard_control::ShardControl;

use super::ShardCore;

/// How often control hears how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long a copy must have gone on before its speed says something.
const SPEED_AFTER: Duration = Duration::from_millis(500);

/// What part of all rows must have been looked through before that says something: one in so many.
const SPEED_FROM: u64 = 50;

/// The same of checkpoints, which come one partition after the other.
const KEPT_FROM: u32 = 8;

/// Looks back at how far it was, at most; of more, every other one is kept.
const TRAIL_MAX: usize = 32;

/// How far it was.
#[derive(Clone, Copy)]
struct Step {
    at: Instant,
    done: u64,
    kept: u32,
}

/// The newest copy of one partition.
#[derive(Default)]
pub(super) struct Copied {
    /// Rows received.
    rows: u64,
    /// How far its primary is; `None` until it has said how many rows it has.
    pub(super) share: Option<Share>,
}

/// All that joins here.
pub(super) struct Progress {
    began: Instant,
    /// When the first copy began.
    copying: Option<Instant>,
    partitions: u32,
    full: u32,
    delta: u32,
    rows: u64,
    bytes: u64,
    records: u64,
    /// How far it was now and then, since the first copy began.
    trail: VecDeque<Step>,
    /// The least time between two of these.
    apart: Duration,
    /// When control was told last.
    told: Instant,
    /// The last word, once everything is in sync.
    last: Option<JoinProgress>,
}

impl Progress {
    fn new(began: Instant) -> Self {
        Self {
            began,
            copying: None,
            partitions: 0,
            full: 0,
            delta: 0,
            rows: 0,
            bytes: 0,
            records: 0,
            trail: VecDeque::new(),
            apart: TELL_EVERY,
            told: Instant::default(),
            last: None,
        }
    }

    /// Remembers how far it is.
    fn note(&mut self, step: Step) {
        if self.trail.back().is_some_and(|last| step.at.since(last.at) < self.apart) {
            return;
        }
        if self.trail.len() >= TRAIL_MAX {
            self.apart *= 2;
            let mut even = false;
            self.trail.retain(|_| {
                even = !even;
                even
            });
        }
        self.trail.push_back(step);
    }

    /// How far it was half of the time ago. What came before tells little of the speed by now:
    /// checkpoints begin later than copies, and go faster when these are done.
    fn halfway(&self, began: Instant, now: Instant) -> Step {
        let half = began + now.since(began) / 2;
        let before = self.trail.iter().rev().find(|step| step.at <= half);
        before.copied().unwrap_or(Step { at: began, done: 0, kept: 0 })
    }
}

/// How long the rest takes when this much took so long.
fn at_speed(past: Duration, done: u64, rest: u64) -> Option<u64> {
    let ms = past.as_millis().saturating_mul(u128::from(rest)).checked_div(u128::from(done))?;
    Some(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// What the copies under way add up to.
#[derive(Default)]
struct Sums {
    copied: u32,
    kept: u32,
    behind: u64,
    /// Rows of the copies that count, and what was looked through for them.
    rows: u64,
    done: u64,
    of: u64,
    /// A primary has not said yet how many rows it has.
    unknown: bool,
}

impl ShardCore {
    /// A copy is to come, of a partition of so many rows.
    pub(super) fn note_queued(&mut self, p: PartitionId, rows: u64) {
        if let Some(join) = &mut self.part_mut(p).join {
            join.copied = Copied { rows: 0, share: Some(Share { done: 0, of: rows }) };
        }
    }

    /// A copy begins; of everything if `after` is 0.
    pub(super) fn note_copy(&mut self, p: PartitionId, after: Epoch) {
        if let Some(join) = &mut self.part_mut(p).join {
            join.copied.rows = 0;
        }
        let Some(progress) = &mut self.progress else { return };
        progress.copying.get_or_insert(self.now);
        let copies = if after == Epoch(0) { &mut progress.full } else { &mut progress.delta };
        *copies = copies.saturating_add(1);
    }

    /// Rows of a copy have come.
    pub(super) fn note_rows(&mut self, p: PartitionId, rows: u64, bytes: u64) {
        if let Some(join) = &mut self.part_mut(p).join {
            join.copied.rows += rows;
        }
        if let Some(progress) = &mut self.progress {
            progress.rows += rows;
            progress.bytes += bytes;
        }
    }

    /// A record of the log has come for a partition that joins.
    pub(super) fn note_record(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.records += 1;
        }
    }

    /// How far this shard is, or how it went; `None` if it was in sync from the beginning.
    pub(super) fn join_progress(&self) -> Option<JoinProgress> {
        let progress = self.progress.as_ref()?;
        if let Some(last) = &progress.last {
            return Some(last.clone());
        }
        let sums = self.sum_up();
        let whole = sums.copied == progress.partitions;
        let to_do = sums.of - sums.done;
        let expected = || match (progress.delta, sums.done) {
            _ if sums.unknown => None,
            (0, _) => Some(progress.rows.saturating_add(to_do)),
            (_, 0) => None,
            (_, done) => {
                let more = u128::from(sums.rows) * u128::from(to_do) / u128::from(done);
                Some(progress.rows.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)))
            }
        };
        // The copies, and the checkpoints that are made of them meanwhile: the later of both.
        let left = || {
            let past = self.now.since(progress.copying?);
            let seen = sums.done >= sums.of / SPEED_FROM
                && sums.kept >= progress.partitions / KEPT_FROM
                && !sums.unknown;
            let tells = past >= SPEED_AFTER && seen;
            let from = progress.halfway(progress.copying?, self.now);
            let lately = self.now.since(from.at);
            let speed = |lately_done: u64, done: u64, rest| match lately_done {
                0 => at_speed(past, done, rest),
                some => at_speed(lately, some, rest),
            };
            let (done, kept) =
                (sums.done.saturating_sub(from.done), sums.kept.saturating_sub(from.kept));
            let rows = if whole { Some(0) } else { speed(done, sums.done, to_do) };
            let rest = u64::from(progress.partitions - sums.kept.min(progress.partitions));
            let kept = speed(kept.into(), sums.kept.into(), rest).unwrap_or_default();
            rows.filter(|_| tells).map(|rows| rows.max(kept))
        };
        let kept = sums.kept == progress.partitions;
        Some(JoinProgress {
            finished: false,
            partitions: progress.partitions,
            partitions_copied: sums.copied,
            partitions_kept: sums.kept,
            copies_full: progress.full,
            copies_delta: progress.delta,
            restored: self.recovered,
            rows: progress.rows,
            bytes: progress.bytes,
            rows_expected: if whole { Some(progress.rows) } else { expected() },
            records: progress.records,
            records_behind: sums.behind,
            elapsed_ms: self.elapsed_ms(progress),
            left_ms: if kept { Some(0) } else { left() },
        })
    }

    fn elapsed_ms(&self, progress: &Progress) -> u64 {
        u64::try_from(self.now.since(progress.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn sum_up(&self) -> Sums {
        let mut sums = Sums::default();
        for part in self.parts.iter().flatten() {
            let Some(join) = &part.join else { continue };
            if join.is_whole() {
                sums.copied += 1;
                sums.kept += u32::from(self.options.redo.is_none() || self.is_on_disk(part));
            }
            let behind = join.until().map_or(0, |until| until.0.saturating_sub(part.stable.0));
            sums.behind = sums.behind.saturating_add(behind);
            let Some(share) = join.copied.share else {
                sums.unknown |= !join.is_whole();
                continue;
            };
            let done = if join.is_whole() { share.of } else { share.done.min(share.of) };
            sums.rows = sums.rows.saturating_add(join.copied.rows);
            sums.of = sums.of.saturating_add(share.of);
            sums.done = sums.done.saturating_add(done);
        }
        sums
    }

    /// Begins to count when this node joins, ends when it is in sync, and tells control of it: at
    /// once then, and else not too often.
    pub(super) fn follow_progress(&mut self, out: &mut Outputs) {
        let Some(view) = &self.view else { return };
        let Some(member) = view.member(self.me.instance.node) else { return };
        let joins = member.standing != Standing::InSync;
        let counting = self.progress.as_ref().is_some_and(|progress| progress.last.is_none());
        if !joins && !counting {
            return;
        }
        if joins {
            let joining = self.parts.iter().flatten().filter(|part| part.join.is_some()).count();
            let now = self.now;
            if !counting {
                self.progress = Some(Progress::new(now));
            }
            let sums = self.sum_up();
            let Some(progress) = &mut self.progress else { return };
            progress.partitions = u32::try_from(joining).unwrap_or(u32::MAX);
            if counting && now.since(progress.told) < TELL_EVERY {
                return;
            }
            progress.told = now;
            if progress.copying.is_some() {
                progress.note(Step { at: now, done: sums.done, kept: sums.kept });
            }
        } else {
            let Some(mut last) = self.join_progress() else { return };
            last.finished = true;
            (last.partitions_copied, last.partitions_kept) = (last.partitions, last.partitions);
            (last.records_behind, last.left_ms) = (0, Some(0));
            last.rows_expected = Some(last.rows);
            if let Some(progress) = &mut self.progress {
                progress.last = Some(last);
            }
        }
        if let Some(progress) = self.join_progress() {
            self.report(&ShardControl::Progress(Box::new(progress)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_of_a_speed_before_anything_is_done() {
        let past = Duration::from_secs(3);
        assert_eq!(at_speed(past, 0, 100), None);
        assert_eq!(at_speed(past, 25, 75), Some(9_000));
        assert_eq!(at_speed(past, 100, 0), Some(0));
        assert_eq!(at_speed(Duration::MAX, 1, u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn the_speed_is_that_of_the_latter_half() {
        let at = |second: u64| Instant::default() + Duration::from_secs(second);
        let mut progress = Progress::new(at(0));
        assert_eq!(progress.halfway(at(0), at(4)).at, at(0), "nothing else is known");
        // Slow for a minute, and then ten times as fast.
        let done = |second: u64| second.min(60) + second.saturating_sub(60) * 10;
        for second in 1..=200 {
            progress.note(Step { at: at(second), done: done(second), kept: 0 });
        }
        assert!(progress.trail.len() <= TRAIL_MAX);
        let from = progress.halfway(at(0), at(200));
        assert!((80..=100).contains(&from.at.since(at(0)).as_secs()), "half of it, or little more");
        let lately = at(200).since(from.at);
        assert_eq!(at_speed(lately, done(200) - from.done, 100), Some(10_000));
    }
}
