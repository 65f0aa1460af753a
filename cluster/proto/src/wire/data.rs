//! The hot messages: clients to shards, coordinators to participants, primaries to backups. Each
//! has a layout of its own, is encoded straight into the link's send buffer and read in place.
//!
//! This file says what there is; `encode` and `decode` hold the layouts.

mod decode;
mod encode;

pub use encode::{put_log_ends, put_stable};

use ::bytes::{BufMut, BytesMut};

use crate::durability::Durability;
use crate::error::Code;
use crate::ids::{Epoch, PartitionId, SchemaVersion, Seq, StartOrder, TableId, TxId, ViewNumber};
use crate::limits::PARTITIONS_MAX;
use crate::wire::WireError;
use crate::wire::bytes::Reader;
use crate::wire::op::Ops;

/// What an [`Message::Execute`] does with its transaction after the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Finish {
    /// Leave it open: an interactive transaction goes on.
    No = 0,
    /// Commit it. Any failed operation aborts it as a whole.
    Commit = 1,
    /// Abort it.
    Abort = 2,
    /// As `Commit`; the answer waits until the commit is on the disks of all in-sync replicas.
    CommitToDisk = 3,
}

impl Finish {
    /// The commit that is acknowledged so.
    #[must_use]
    pub fn commit(durability: Durability) -> Self {
        match durability {
            Durability::Memory => Self::Commit,
            Durability::Disk => Self::CommitToDisk,
        }
    }

    /// Whether it asks for the commit.
    #[must_use]
    pub fn commits(self) -> bool {
        matches!(self, Self::Commit | Self::CommitToDisk)
    }
}

/// What a participant says about a transaction. Prepared, refused and committed are told only when
/// the record behind them is stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    /// The `Prepare` is stable; the epoch is the participant's vote.
    Prepared(Epoch),
    /// It will never be prepared here.
    Refused(Code),
    /// It is committed in this epoch.
    Committed(Epoch),
}

/// What became of a transaction, as told by its anchor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutcomeTold {
    /// Committed in this epoch.
    Committed(Epoch),
    /// Aborted, for ever.
    Aborted,
}

/// A list of partitions in a frame: `count u16`, then one u16 each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partitions<'a>(&'a [u8]);

impl<'a> Partitions<'a> {
    /// No partitions.
    pub const EMPTY: Partitions<'static> = Partitions(&[]);

    /// The partitions in order.
    pub fn iter(&self) -> impl Iterator<Item = PartitionId> + use<'a> {
        self.0.chunks_exact(2).map(|pair| PartitionId(u16::from_le_bytes([pair[0], pair[1]])))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / 2
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wraps encoded partitions (two bytes each).
    ///
    /// # Errors
    /// [`WireError::BadValue`] for an odd number of bytes.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len().is_multiple_of(2) { Ok(Self(bytes)) } else { Err(WireError::BadValue) }
    }

    /// The encoded partitions.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = usize::from(reader.u16()?);
        if count > PARTITIONS_MAX {
            return Err(WireError::TooLong);
        }
        Ok(Self(reader.bytes(count * 2)?))
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_u16_le(u16::try_from(self.len()).expect("bounded by PARTITIONS_MAX"));
        out.put_slice(self.0);
    }
}

/// Encodes partitions for [`Partitions::from_bytes`].
#[must_use]
pub fn partitions_to_bytes(list: &[PartitionId]) -> Vec<u8> {
    list.iter().flat_map(|p| p.0.to_le_bytes()).collect()
}

/// Log positions in a frame: `count u16`, then `partition u16, seq u64` each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Positions<'a>(&'a [u8]);

/// Encoded size of one log position.
const POSITION_BYTES: usize = 10;

impl<'a> Positions<'a> {
    /// The positions in order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Seq)> + use<'a> {
        self.0.chunks_exact(POSITION_BYTES).map(|bytes| {
            let mut reader = Reader::new(bytes);
            let partition = reader.partition().expect("ten bytes");
            (partition, reader.seq().expect("ten bytes"))
        })
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = usize::from(reader.u16()?);
        if count > PARTITIONS_MAX {
            return Err(WireError::TooLong);
        }
        Ok(Self(reader.bytes(count * POSITION_BYTES)?))
    }
}

/// A client's transaction request to its coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Execute<'a> {
    /// Comes back with the answer; unique per link.
    pub request: u64,
    /// The transaction.
    pub tx: TxId,
    /// The session's lowest open sequence: everything below is acknowledged.
    pub low: u64,
    /// Age; not stamped on the first request of a first attempt.
    pub order: StartOrder,
    /// The highest epoch the client has seen.
    pub epoch: Epoch,
    /// The partition of the first key written, or of the first key touched if none is.
    pub anchor: PartitionId,
    /// Number of earlier requests of this transaction: 0 opens it.
    pub step: u32,
    /// What happens after the operations.
    pub finish: Finish,
    /// The operations.
    pub ops: Ops<'a>,
}

/// A participant's part of a transaction, from its coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward<'a> {
    /// The coordinator's view.
    pub view: ViewNumber,
    /// The transaction.
    pub tx: TxId,
    /// The session's lowest open sequence.
    pub low: u64,
    /// Age.
    pub order: StartOrder,
    /// The coordinator's epoch.
    pub epoch: Epoch,
    /// The participant.
    pub partition: PartitionId,
    /// How many `Forward`s this participant has had before for this transaction.
    pub step: u32,
    /// Empty: leave it open. Else: execute and prepare in one go; all participants, anchor first.
    pub participants: Partitions<'a>,
    /// The operations.
    pub ops: Ops<'a>,
}

/// A hot message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Client to coordinator.
    Execute(Execute<'a>),
    /// Client to any in-sync replica: committed reads, no transaction. All keys of one shard.
    Read {
        /// Comes back with the answer.
        request: u64,
        /// The highest epoch the client has seen.
        epoch: Epoch,
        /// Read operations only.
        ops: Ops<'a>,
    },
    /// Client to an in-sync replica: one page of a partition's rows in key order.
    Scan {
        /// Comes back with the page.
        request: u64,
        /// The table.
        table: TableId,
        /// The schema version the client decodes with.
        schema: SchemaVersion,
        /// The partition.
        partition: PartitionId,
        /// Most rows wanted; the page may be shorter.
        rows_max: u32,
        /// Rows with keys above this one; empty for the beginning.
        after: &'a [u8],
    },
    /// Client to an in-sync replica: rows as of a closed epoch.
    ReadAt {
        /// Comes back with the answer.
        request: u64,
        /// As of when.
        at: Epoch,
        /// Read operations only.
        ops: Ops<'a>,
    },
    /// Client to an in-sync replica: as `Scan`, as of a closed epoch.
    ScanAt {
        /// Comes back with the page.
        request: u64,
        /// The table.
        table: TableId,
        /// The schema version the client decodes with.
        schema: SchemaVersion,
        /// The partition.
        partition: PartitionId,
        /// As of when.
        at: Epoch,
        /// Most rows wanted; the page may be shorter.
        rows_max: u32,
        /// Rows with keys above this one; empty for the beginning.
        after: &'a [u8],
    },
    /// Client to an in-sync replica: some rows of a partition as of a closed epoch, in an order
    /// that costs the server little and is the same on all replicas.
    Sweep {
        /// Comes back with the rows.
        request: u64,
        /// The table.
        table: TableId,
        /// The schema version the client decodes with.
        schema: SchemaVersion,
        /// The partition.
        partition: PartitionId,
        /// As of when.
        at: Epoch,
        /// Where to go on; 0 for the beginning.
        place: u64,
        /// Rows after which the server is to stop, roughly.
        rows_max: u32,
    },
    /// Client to the anchor's primary: what became of my transaction?
    AskOutcome {
        /// Comes back with the answer.
        request: u64,
        /// The transaction.
        tx: TxId,
        /// Its anchor.
        anchor: PartitionId,
        /// Whether "committed" is wanted only once it is on disk.
        to_disk: bool,
    },
    /// The answer to `Execute` and `Read`.
    Answer {
        /// The question's number.
        request: u64,
        /// The server's epoch; for a commit, at least its epoch.
        epoch: Epoch,
        /// The transaction's age, for a retry; not stamped in answers to reads.
        order: StartOrder,
        /// The results in order of the operations: `count u16`, then each.
        results: Results<'a>,
    },
    /// The request failed as a whole: the transaction is aborted, or never was.
    Refused {
        /// The question's number.
        request: u64,
        /// Why.
        code: Code,
        /// Which operation failed, if one did; `u16::MAX` if none.
        op: u16,
        /// The server's epoch.
        epoch: Epoch,
        /// The transaction's age, for a retry.
        order: StartOrder,
        /// For people: which table, key, other transaction. UTF-8.
        detail: &'a [u8],
    },
    /// A page of a scan.
    Page {
        /// The question's number.
        request: u64,
        /// Whether more rows follow.
        more: bool,
        /// `key length u16, key, value length u32, value`, each row.
        rows: &'a [u8],
    },
    /// The answer to `Sweep`.
    Swept {
        /// The question's number.
        request: u64,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
        /// As in `Page`.
        rows: &'a [u8],
    },
    /// The answer to `AskOutcome`.
    OutcomeIs {
        /// The question's number.
        request: u64,
        /// The outcome.
        outcome: OutcomeTold,
    },

    /// Coordinator to a participant's primary.
    Forward(Forward<'a>),
    /// The answer to a `Forward` without participants.
    Forwarded {
        /// The participant's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
        /// The forward's step.
        step: u32,
        /// The participant's epoch.
        epoch: Epoch,
        /// `Some` if nothing was executed and the transaction cannot go on.
        refused: Option<Code>,
        /// The results, in order of the operations.
        results: Results<'a>,
    },
    /// Coordinator to a participant's primary: the final question.
    Prepare {
        /// The coordinator's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The session's lowest open sequence.
        low: u64,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The participant.
        partition: PartitionId,
        /// How many `Forward`s it must have had; a participant that has not, refuses.
        steps: u32,
        /// All participants, anchor first; empty for a transaction of reads only, which leaves no
        /// record but is checked under the read lease.
        participants: Partitions<'a>,
    },
    /// A participant to the coordinator, or to the anchor during take-over.
    Voted {
        /// The participant's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
        /// Its vote.
        vote: Vote,
        /// Results of operations that came with the question.
        results: Results<'a>,
    },
    /// The decision, to a participant's primary. Repeated until it is confirmed.
    Decide {
        /// The sender's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
        /// Committed in this epoch; `None` for abort.
        commit: Option<Epoch>,
    },
    /// The decision is stable at the participant.
    Confirmed {
        /// The participant's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
    },
    /// Coordinator to participant: an unprepared transaction ends; drop locks and staged writes.
    Release {
        /// The coordinator's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
    },
    /// Coordinator after a view change, or anchor in take-over: what is your stable state? A
    /// participant that has none makes an abort stable first.
    Inquire {
        /// The sender's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// The participant.
        partition: PartitionId,
    },
    /// A participant with an undecided `Prepare` of a dead coordinator, to the anchor's primary.
    Resolve {
        /// The sender's view.
        view: ViewNumber,
        /// The transaction.
        tx: TxId,
        /// Its participants, anchor first.
        participants: Partitions<'a>,
    },
    /// A participant to the coordinator: an older transaction needs a lock.
    Wound {
        /// The participant's view.
        view: ViewNumber,
        /// The younger transaction.
        tx: TxId,
    },

    /// Primary to backup: the next record of a partition log.
    Append {
        /// The primary's view.
        view: ViewNumber,
        /// Everything of this partition up to here is stable.
        stable: Seq,
        /// The record's bytes ([`crate::record`]).
        record: &'a [u8],
    },
    /// Backup to primary: this many `Append`s of this link and view are in the log.
    Ack {
        /// The backup's view.
        view: ViewNumber,
        /// Cumulative, from the last `LogEnds` on this link.
        count: u64,
    },
    /// Backup to primary, on entering a view and after every reconnect: my log ends of the
    /// partitions you lead. Counting of `Append`s starts anew.
    LogEnds {
        /// The backup's view.
        view: ViewNumber,
        /// The ends.
        ends: Positions<'a>,
    },
    /// Primary to backup: stable positions, when no record is there to carry them.
    Stable {
        /// The primary's view.
        view: ViewNumber,
        /// The positions.
        ends: Positions<'a>,
    },
}

/// Results of a batch: `count u16`, then each ([`crate::wire::op::OpResult`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Results<'a>(pub &'a [u8]);

impl Results<'_> {
    /// No results: the encoding of a count of zero may be left out.
    pub const EMPTY: Results<'static> = Results(&[]);
}

macro_rules! kinds {
    ($($name:ident = $byte:literal,)*) => {
        mod hot { $(pub(super) const $name: u8 = $byte;)* }
    };
}

kinds! {
    EXECUTE = 1, READ = 2, SCAN = 3, ASK_OUTCOME = 4,
    ANSWER = 5, REFUSED = 6, PAGE = 7, OUTCOME_IS = 8, SWEPT = 9,
    READ_AT = 10, SCAN_AT = 11, SWEEP = 12,
    FORWARD = 16, FORWARDED = 17, PREPARE = 18, VOTED = 19, DECIDE = 20, CONFIRMED = 21,
    RELEASE = 22, INQUIRE = 23, RESOLVE = 24, WOUND = 25,
    APPEND = 32, ACK = 33, LOG_ENDS = 34, STABLE = 35,
}
