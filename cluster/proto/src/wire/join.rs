//! What a shard core that joins a partition and the partition's primary say to each other.
//!
//! The joiner speaks first, in every view and on every new link: [`JoinMessage::Here`] says what it
//! has. The primary either goes on from there ([`JoinMessage::Resume`]) or begins a copy
//! ([`JoinMessage::Begin`]); from that message on the log's records follow on the same link. The
//! pieces of a copy are numbered from 1 and acknowledged, so that neither side holds many of them.
//!
//! A frame is the kind byte, the sender's view as u64, then the message in the cold codec.

use ::bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PartitionId, Seq, TableId, ViewNumber};
use crate::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};
use crate::wire::bytes::Reader;
use crate::wire::codec::{decode, encode};
use crate::wire::progress::Share;
use crate::wire::{WireError, frame, kind};

/// In place of the length of a value: the row is deleted.
const DELETED: u32 = u32::MAX;

/// What a copied row takes beside its key and value.
const ROW_FIELDS_BYTES: usize = 18;

/// Where a joiner's log of one partition is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogPlace {
    /// Applied up to here; stable.
    pub applied: Seq,
    /// Received beyond that and not applied: for each view of its records, in order, the last
    /// position with it.
    pub runs: Vec<(ViewNumber, Seq)>,
}

impl LogPlace {
    /// Whether its positions go up, as those of any log do.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let runs = self.runs.iter().map(|(_, last)| last);
        std::iter::once(&self.applied).chain(runs).is_sorted_by(|one, next| one < next)
    }
}

/// What a joiner holds of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Holding {
    /// What its disk gave it, and nothing else it could go on from.
    Restored,
    /// A part of a copy.
    Copying {
        /// Which.
        copy: u64,
        /// How many pieces.
        pieces: u64,
        /// Its log.
        log: LogPlace,
    },
    /// Everything, up to a place in the log.
    Whole {
        /// Its log.
        log: LogPlace,
    },
}

/// One piece of a copy. All but the rows are as of the position where the copy begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Piece {
    /// The record of an undecided `Prepare`.
    Prepared(Vec<u8>),
    /// A piece of the outcome table.
    Outcomes(Vec<u8>),
    /// What came before is all of its kind: the records that follow can be applied.
    Complete,
    /// Rows, each in its newest stable version: for [`copied_rows`].
    Rows(Vec<u8>),
    /// All rows are there once the log is applied up to this position.
    End {
        /// The log's end when the last row was read.
        at: Seq,
    },
}

/// Messages between a joining shard core and a primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum JoinMessage {
    // --- joiner to primary ---
    /// First in every view and on every link.
    Here {
        /// Which partition.
        partition: PartitionId,
        /// Its own files have everything up to this epoch.
        recovered: Epoch,
        /// What it holds now.
        holding: Holding,
    },
    /// Cumulative: the pieces of a copy that have arrived.
    Took {
        /// Which partition.
        partition: PartitionId,
        /// Which copy.
        copy: u64,
        /// How many pieces.
        pieces: u64,
    },

    // --- primary to joiner ---
    /// The joiner cannot go on from what it holds: a copy will begin, after those of other
    /// partitions to the same shard.
    Queued {
        /// Which partition.
        partition: PartitionId,
        /// How many rows the primary has of it, definitions of tables not counted.
        rows: u64,
    },
    /// What the joiner holds is good up to `from`; what it has beyond is to be dropped.
    Resume {
        /// Which partition.
        partition: PartitionId,
        /// Records follow from the next position on.
        from: Seq,
        /// The log's end now.
        until: Seq,
    },
    /// A copy begins.
    Begin {
        /// Which partition.
        partition: PartitionId,
        /// Its number at this primary.
        copy: u64,
        /// Records follow from the next position on.
        at: Seq,
        /// The log's digest there.
        digest: u64,
        /// The primary's epoch: nothing before the beginning is of a later one.
        epoch: Epoch,
        /// Only what changed after this epoch follows; 0: everything, and what the joiner has is to
        /// be thrown away.
        after: Epoch,
    },
    /// The next piece.
    Piece {
        /// Which partition.
        partition: PartitionId,
        /// Which copy.
        copy: u64,
        /// The stable end when the piece was made; all records up to it were sent before.
        stable: Seq,
        /// How far the primary is with its rows, definitions of tables not counted.
        share: Share,
        /// The piece.
        piece: Piece,
    },
    /// The stream of this partition ends here: say again what you hold.
    Again {
        /// Which partition.
        partition: PartitionId,
    },
    /// An epoch is closed: all records of it or of earlier ones are in the logs up to here.
    Closed {
        /// The epoch.
        epoch: Epoch,
        /// Where the logs end that the joiner follows.
        ends: Vec<(PartitionId, Seq)>,
    },
}

impl JoinMessage {
    /// Appends the message as one frame.
    pub fn frame(&self, buffer: &mut BytesMut, view: ViewNumber) {
        frame(buffer, |body| {
            body.put_u8(kind::JOIN);
            body.put_u64_le(view.0);
            body.put_slice(&encode(self));
        });
    }

    /// Reads a frame without its kind byte and view.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not exactly one message.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        decode(body)
    }
}

/// A row in a piece; `value` is `None` if it is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiedRow<'a> {
    /// The table.
    pub table: TableId,
    /// When it was written or deleted.
    pub epoch: Epoch,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value.
    pub value: Option<&'a [u8]>,
}

impl CopiedRow<'_> {
    /// How many bytes [`CopiedRow::write`] appends.
    #[must_use]
    pub fn bytes(&self) -> usize {
        ROW_FIELDS_BYTES + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Appends the row: `table u32, epoch u64, key length u16, key, value length u32, value`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.table.0);
        out.put_u64_le(self.epoch.0);
        out.put_u16_le(u16::try_from(self.key.len()).unwrap_or(u16::MAX));
        out.put_slice(self.key);
        match self.value {
            None => out.put_u32_le(DELETED),
            Some(value) => {
                out.put_u32_le(u32::try_from(value.len()).unwrap_or(DELETED));
                out.put_slice(value);
            }
        }
    }
}

/// The rows of a piece, in order; ends after the first that is not one.
pub fn copied_rows(bytes: &[u8]) -> impl Iterator<Item = Result<CopiedRow<'_>, WireError>> {
    let mut rest = Reader::new(bytes);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || rest.rest().is_empty() {
            return None;
        }
        let row = read_row(&mut rest);
        failed = row.is_err();
        Some(row)
    })
}

fn read_row<'a>(r: &mut Reader<'a>) -> Result<CopiedRow<'a>, WireError> {
    let (table, epoch, length) = (r.table()?, r.epoch()?, usize::from(r.u16()?));
    if length > KEY_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    let key = r.bytes(length)?;
    let value = match r.u32()? {
        DELETED => None,
        length if length as usize > ROW_BYTES_MAX => return Err(WireError::TooLong),
        length => Some(r.bytes(length as usize)?),
    };
    Ok(CopiedRow { table, epoch, key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in_and_no_cut_is_taken_for_whole() {
        let rows = [
            CopiedRow { table: TableId(1), epoch: Epoch(7), key: b"k", value: Some(b"value") },
            CopiedRow { table: TableId(2), epoch: Epoch(8), key: b"gone", value: None },
        ];
        let mut bytes = Vec::new();
        rows.iter().for_each(|row| row.write(&mut bytes));
        assert_eq!(rows.iter().map(CopiedRow::bytes).sum::<usize>(), bytes.len());
        let read: Result<Vec<_>, _> = copied_rows(&bytes).collect();
        assert_eq!(read.unwrap(), rows);
        let mut first = Vec::new();
        rows[0].write(&mut first);
        for cut in (1..bytes.len()).filter(|cut| *cut != first.len()) {
            assert!(copied_rows(&bytes[..cut]).any(|row| row.is_err()), "cut at {cut}");
        }
    }

    #[test]
    fn a_message_survives_the_wire() {
        let log = LogPlace { applied: Seq(5), runs: vec![(ViewNumber(2), Seq(9))] };
        let holding = Holding::Copying { copy: 3, pieces: 4, log };
        let message = JoinMessage::Here { partition: PartitionId(1), recovered: Epoch(6), holding };
        let mut buffer = BytesMut::new();
        message.frame(&mut buffer, ViewNumber(12));
        assert_eq!(buffer[4], kind::JOIN);
        assert_eq!(buffer[5..13], 12_u64.to_le_bytes());
        assert_eq!(JoinMessage::parse(&buffer[13..]), Ok(message));
    }

    #[test]
    fn a_log_goes_up() {
        let place = |applied, runs: &[u64]| LogPlace {
            applied: Seq(applied),
            runs: runs.iter().map(|last| (ViewNumber(1), Seq(*last))).collect(),
        };
        assert!(place(u64::MAX, &[]).is_ordered());
        assert!(place(3, &[4, 9]).is_ordered());
        assert!(!place(3, &[3]).is_ordered());
        assert!(!place(0, &[9, 4]).is_ordered());
        assert!(!place(u64::MAX, &[u64::MAX]).is_ordered());
    }
}
