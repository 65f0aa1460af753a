//! Reading one segment: its groups, where they end, and why.
//!
//! Invariant: a group that is handed out is whole: header, lengths, every record, padding.

use lockstep_proto::ids::Epoch;
use lockstep_proto::record;

use super::format::{
    Frames, GROUP_ALIGN, GROUP_HEADER_BYTES, GroupHeader, HEADER_BYTES, SegmentHeader, add_frame,
};
use crate::disk::{FaultKind, FileFault, FileName, SegmentName};

/// What is wrong with a segment that has groups and no header.
pub(super) const HEADLESS: &str = "the header is not what was written";

/// A segment's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) name: SegmentName,
    pub(super) bytes: &'a [u8],
    /// `None`: it was never finished, or its beginning is damaged.
    pub(super) header: Option<SegmentHeader>,
    pub(super) salt: u32,
}

/// Where the readable part of a segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    /// Bytes that are whole.
    pub(super) bytes: usize,
    /// The number of the group that would be next.
    pub(super) group: u64,
    /// The last mark.
    pub(super) closed: Epoch,
    /// The highest epoch of a record.
    pub(super) epoch_max: Epoch,
    /// Why what follows is no group; `None` if nothing follows.
    pub(super) bad: Option<&'static str>,
}

impl<'a> Segment<'a> {
    pub(super) fn file(&self) -> FileName {
        FileName::Segment(self.name)
    }

    /// Its groups from the first on.
    pub(super) fn groups(&self) -> Groups<'a> {
        Groups { bytes: self.bytes, at: HEADER_BYTES, salt: self.salt }
    }

    /// Checks group after group, up to the first that is not whole or not the next.
    pub(super) fn check(&self, header: &SegmentHeader) -> End {
        let mut end = End {
            bytes: HEADER_BYTES,
            group: header.group_first,
            closed: header.closed_before,
            epoch_max: header.epoch_max_before,
            bad: None,
        };
        let mut groups = self.groups();
        while let Some((header, body)) = groups.next_in_place() {
            if header.number != end.group || header.closed < end.closed {
                end.bad = Some("a group that does not follow the one before it");
                return end;
            }
            end.bad = flaw(&header, body);
            if end.bad.is_some() {
                return end;
            }
            end.bytes = groups.at;
            end.group += 1;
            end.closed = header.closed;
            end.epoch_max = end.epoch_max.max(header.epoch_max);
        }
        if self.bytes[end.bytes..].iter().any(|byte| *byte != 0) {
            end.bad = Some("no whole group");
        }
        end
    }

    /// Whether any group in it tells that the group `number`, which cannot be read, was durable.
    pub(super) fn tells_durable(&self, from: usize, number: u64) -> bool {
        let first = from.next_multiple_of(GROUP_ALIGN);
        (first..self.bytes.len()).step_by(GROUP_ALIGN).any(|at| {
            GroupHeader::decode(&self.bytes[at..], self.salt)
                .is_some_and(|header| header.synced > number)
        })
    }

    /// Whether any group of this segment is to be found in it.
    pub(super) fn has_groups(&self) -> bool {
        let mut places = (HEADER_BYTES..self.bytes.len()).step_by(GROUP_ALIGN);
        places.any(|at| GroupHeader::decode(&self.bytes[at..], self.salt).is_some())
    }

    /// That bytes of this file are not what was written.
    pub(super) fn damaged(&self, offset: usize, what: &'static str) -> FileFault {
        FileFault::damaged(self.file(), offset, what)
    }

    /// A fault of the file as a whole.
    pub(super) fn fault(&self, kind: FaultKind) -> FileFault {
        FileFault::whole(self.file(), kind)
    }
}

/// Walks the groups of a segment by their headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    salt: u32,
}

impl<'a> Groups<'a> {
    /// The next group's header and records; `None` where no group of full length begins.
    pub(super) fn next_in_place(&mut self) -> Option<(GroupHeader, &'a [u8])> {
        let rest = self.bytes.get(self.at..)?;
        let header = GroupHeader::decode(rest, self.salt)?;
        let group = rest.get(..header.stride())?;
        self.at += group.len();
        Some((header, &group[GROUP_HEADER_BYTES..]))
    }
}

/// What is wrong with a group whose header is right. `body` is its records and its padding.
fn flaw(header: &GroupHeader, body: &[u8]) -> Option<&'static str> {
    let (records, padding) = body.split_at(header.bytes as usize);
    let (mut count, mut sum, mut epoch_max) = (0, 0, Epoch(0));
    let mut frames = Frames::new(records);
    for bytes in &mut frames {
        let checksum = record::checksum(bytes);
        if crc32c::crc32c(&bytes[4..]) != checksum {
            return Some("a record does not match its checksum");
        }
        count += 1;
        sum = add_frame(sum, bytes.len() as u32, checksum);
        epoch_max = epoch_max.max(record::epoch(bytes).unwrap_or_default());
    }
    let whole = frames.rest().is_empty() && count == header.records && sum == header.frames;
    if !whole || epoch_max != header.epoch_max {
        return Some("the records of a group are not those it was written with");
    }
    padding.iter().any(|byte| *byte != 0).then_some("something after the end of a group")
}
