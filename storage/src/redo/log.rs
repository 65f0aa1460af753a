//! The log of one shard in one life of the node: its segments, in order.
//!
//! Invariant: a fault is something that was durable and is not there any more. What was never
//! durable ends the log without one.

use lockstep_proto::ids::{Epoch, ShardId};

use super::files::Torn;
use super::format::SegmentHeader;
use super::replay::Replay;
use super::segment::{End, HEADLESS, Segment};
use crate::disk::{FaultKind, FileFault, FileName, SegmentName};

/// See the module text.
#[derive(Clone, Debug)]
pub struct Log<'a> {
    pub(super) shard: ShardId,
    /// In order of number, without those that checkpoints make superfluous.
    pub(super) segments: Vec<Segment<'a>>,
    /// Those that they do.
    pub(super) superfluous: Vec<SegmentName>,
    /// What checkpoints hold.
    pub(super) covered: Epoch,
    /// The base of the life.
    pub(super) base: Epoch,
    /// What later lives and restart generations left of this one.
    pub(super) limit: Epoch,
}

/// What a log holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Extent {
    /// Everything up to this epoch is whole.
    pub(super) reached: Epoch,
    /// Where each segment's whole part ends.
    pub(super) ends: Vec<usize>,
    /// The highest epoch of a record up to the end of each segment.
    pub(super) epochs: Vec<Epoch>,
    pub(super) torn: Option<Torn>,
    pub(super) fault: Option<FileFault>,
}

impl<'a> Log<'a> {
    /// Takes the segments of one shard and life, in order of number.
    pub(super) fn new(shard: ShardId, mut segments: Vec<Segment<'a>>, covered: Epoch) -> Self {
        let is_start = |segment: &Segment<'_>| {
            segment.header.is_some_and(|header| header.epoch_max_before <= covered)
        };
        let start = segments.iter().rposition(is_start).unwrap_or(0);
        let superfluous = segments.drain(..start).map(|segment| segment.name).collect();
        let (base, limit) = (Epoch(0), Epoch(u64::MAX));
        Self { shard, segments, superfluous, covered, base, limit }
    }

    /// Which shard wrote it.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Its files.
    pub(super) fn names(&self) -> impl Iterator<Item = SegmentName> {
        let needed = self.segments.iter().map(|segment| segment.name);
        self.superfluous.iter().copied().chain(needed)
    }

    /// Reads and checks everything in it that is needed. Logs can be checked in parallel.
    #[must_use]
    pub fn check(&self) -> Extent {
        let mut extent = Extent { reached: self.base, ..Extent::default() };
        let mut before: Option<End> = None;
        for (at, segment) in self.segments.iter().enumerate() {
            match self.check_segment(at, segment, before) {
                Ok(end) => {
                    extent.reached = end.closed;
                    extent.ends.push(end.bytes);
                    extent.epochs.push(end.epoch_max);
                    if let Some(what) = end.bad {
                        self.judge(at, end, what, &mut extent);
                        break;
                    }
                    before = Some(end);
                }
                Err(stop) => {
                    match *stop {
                        Stop::Torn(torn) => extent.torn = Some(torn),
                        Stop::Fault(fault) => extent.fault = Some(fault),
                    }
                    break;
                }
            }
        }
        // What lies behind the last epoch that counts need not be whole.
        if extent.reached >= self.limit {
            extent.fault = None;
        }
        extent
    }

    /// The records with epochs in `after < epoch <= to`, in the order in which they were pushed;
    /// `extent` is what `check` found.
    #[must_use]
    pub fn replay<'l>(&'l self, extent: &'l Extent, after: Epoch, to: Epoch) -> Replay<'l> {
        Replay::new(&self.segments, &extent.ends, after, to.min(self.limit))
    }

    fn check_segment(
        &self,
        at: usize,
        segment: &Segment<'_>,
        before: Option<End>,
    ) -> Result<End, Box<Stop>> {
        if let Some(fault) = self.gap(at) {
            return Err(Box::new(Stop::Fault(fault)));
        }
        let Some(header) = segment.header else {
            return Err(Box::new(self.judge_headless(at, segment)));
        };
        if let Some(fault) = follows(segment, &header, before) {
            return Err(Box::new(Stop::Fault(fault)));
        }
        Ok(segment.check(&header))
    }

    /// A segment that should come before this one.
    fn gap(&self, at: usize) -> Option<FileFault> {
        let name = self.segments[at].name;
        let expected = match at.checked_sub(1) {
            Some(before) => self.segments[before].name.segment + 1,
            None if self.starts_covered() => name.segment,
            None => 1,
        };
        (name.segment != expected).then(|| {
            let missing = SegmentName { segment: expected, ..name };
            FileFault::whole(FileName::Segment(missing), FaultKind::Missing)
        })
    }

    fn starts_covered(&self) -> bool {
        let first = self.segments.first().and_then(|segment| segment.header);
        first.is_some_and(|header| header.epoch_max_before <= self.covered)
    }

    /// A segment without a header: of a switch that was not finished, or damaged.
    fn judge_headless(&self, at: usize, segment: &Segment<'_>) -> Stop {
        // The header is durable before anything is written behind it, and before the next file.
        if at + 1 < self.segments.len() || segment.has_groups() {
            return Stop::Fault(segment.damaged(0, HEADLESS));
        }
        Stop::Torn(Torn { file: segment.file(), offset: 0, bytes: segment.bytes.len() as u64 })
    }

    /// What follows the whole part of a segment is no group: torn, or damaged?
    fn judge(&self, at: usize, end: End, what: &'static str, extent: &mut Extent) {
        let segment = &self.segments[at];
        // The next file is made only when all of this one is durable.
        let last = at + 1 == self.segments.len();
        if !last || segment.tells_durable(end.bytes, end.group) {
            extent.fault = Some(segment.damaged(end.bytes, what));
        } else {
            let bytes = (segment.bytes.len() - end.bytes) as u64;
            extent.torn = Some(Torn { file: segment.file(), offset: end.bytes as u64, bytes });
        }
    }
}

/// Why the reading of a log stops at a segment.
enum Stop {
    Torn(Torn),
    Fault(FileFault),
}

/// Whether a segment goes on where the one before it ended.
fn follows(
    segment: &Segment<'_>,
    header: &SegmentHeader,
    before: Option<End>,
) -> Option<FileFault> {
    let before = before?;
    if header.group_first != before.group || header.closed_before != before.closed {
        let mut lost = segment.name;
        lost.segment -= 1;
        let what = "its last groups are gone, though the next segment was begun";
        return Some(FileFault::damaged(FileName::Segment(lost), before.bytes, what));
    }
    None
}
