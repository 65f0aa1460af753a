//! The records of a log, to be applied again.
//!
//! Nothing is allocated and nothing is copied: a record is a slice of the file. Every record is
//! checked once more, because the bytes may have left memory since the log was checked.

use lockstep_proto::ids::Epoch;
use lockstep_proto::record::{self, Record};

use super::format::Frames;
use super::segment::{Groups, Segment};
use crate::disk::FileFault;

/// A record from the redo log.
#[derive(Clone, Copy, Debug)]
pub struct Redone<'a> {
    /// The record as it was in the partition log.
    pub bytes: &'a [u8],
    /// The same, read.
    pub record: Record<'a>,
}

/// See the module text. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    segments: &'a [Segment<'a>],
    ends: &'a [usize],
    groups: Option<Groups<'a>>,
    frames: Frames<'a>,
    after: Epoch,
    to: Epoch,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        segments: &'a [Segment<'a>],
        ends: &'a [usize],
        after: Epoch,
        to: Epoch,
    ) -> Self {
        Self { segments, ends, groups: None, frames: Frames::new(&[]), after, to }
    }

    /// Goes to the next group that has a wanted record; `None` at the end of the log.
    fn next_group(&mut self) -> Option<()> {
        loop {
            let end = *self.ends.first()?;
            let groups = self.groups.get_or_insert_with(|| self.segments[0].groups());
            let next = if groups.at < end { groups.next_in_place() } else { None };
            match next {
                Some((header, body)) if header.epoch_max > self.after => {
                    self.frames = Frames::new(&body[..header.bytes as usize]);
                    return Some(());
                }
                Some(_) => {}
                None => {
                    self.groups = None;
                    (self.segments, self.ends) = (&self.segments[1..], &self.ends[1..]);
                }
            }
        }
    }

    /// Something is wrong with the record that was read last, though it is what was written.
    ///
    /// # Panics
    /// If none was read.
    #[must_use]
    pub fn fault(&self, what: &'static str) -> FileFault {
        let at = self.groups.map_or(0, |groups| groups.at);
        self.segments[0].damaged(at, what)
    }

    /// Bytes changed between the check and now.
    fn damaged(&mut self) -> FileFault {
        let fault = self.fault("a record before this place changed while it was read");
        self.ends = &[];
        self.frames = Frames::new(&[]);
        fault
    }
}

impl<'a> Iterator for Replay<'a> {
    type Item = Result<Redone<'a>, FileFault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(bytes) = self.frames.next() else {
                if !self.frames.rest().is_empty() {
                    return Some(Err(self.damaged()));
                }
                self.next_group()?;
                continue;
            };
            let epoch = record::epoch(bytes).unwrap_or_default();
            if epoch <= self.after || epoch > self.to {
                continue;
            }
            return Some(match Record::decode(bytes) {
                Ok(record) => Ok(Redone { bytes, record }),
                Err(_) => Err(self.damaged()),
            });
        }
    }
}
