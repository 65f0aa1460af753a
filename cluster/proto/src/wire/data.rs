//! The hot messages: clients to shards, coordinators to participants, primaries to backups. Each
//! has a layout of its own, is encoded straight into the link's send buffer and read in place.

use ::bytes::{BufMut, BytesMut};

use crate::error::Code;
use crate::ids::{Epoch, PartitionId, SchemaVersion, Seq, StartOrder, TableId, TxId, ViewNumber};
use crate::limits::{KEY_BYTES_MAX, PARTITIONS_MAX};
use crate::wire::bytes::{Reader, WriteWords};
use crate::wire::op::Ops;
use crate::wire::{WireError, frame};

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
        if bytes.len() % 2 == 0 { Ok(Self(bytes)) } else { Err(WireError::BadValue) }
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
    /// Client to the anchor's primary: what became of my transaction?
    AskOutcome {
        /// Comes back with the answer.
        request: u64,
        /// The transaction.
        tx: TxId,
        /// Its anchor.
        anchor: PartitionId,
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
    ANSWER = 5, REFUSED = 6, PAGE = 7, OUTCOME_IS = 8,
    FORWARD = 16, FORWARDED = 17, PREPARE = 18, VOTED = 19, DECIDE = 20, CONFIRMED = 21,
    RELEASE = 22, INQUIRE = 23, RESOLVE = 24, WOUND = 25,
    APPEND = 32, ACK = 33, LOG_ENDS = 34, STABLE = 35,
}

fn code(number: u16) -> Result<Code, WireError> {
    Code::from_number(number).ok_or(WireError::BadValue)
}

fn optional_code(number: u16) -> Result<Option<Code>, WireError> {
    if number == 0 { Ok(None) } else { code(number).map(Some) }
}

/// Appends positions; counts are bounded by the number of partitions.
fn put_positions(out: &mut BytesMut, ends: &[(PartitionId, Seq)]) {
    out.put_u16_le(u16::try_from(ends.len()).expect("bounded by PARTITIONS_MAX"));
    for (partition, seq) in ends {
        out.put_u16_le(partition.0);
        out.put_u64_le(seq.0);
    }
}

/// Appends a [`Message::LogEnds`] frame.
pub fn put_log_ends(out: &mut BytesMut, view: ViewNumber, ends: &[(PartitionId, Seq)]) {
    frame(out, |out| {
        out.put_u8(hot::LOG_ENDS);
        out.put_u64_le(view.0);
        put_positions(out, ends);
    });
}

/// Appends a [`Message::Stable`] frame.
pub fn put_stable(out: &mut BytesMut, view: ViewNumber, ends: &[(PartitionId, Seq)]) {
    frame(out, |out| {
        out.put_u8(hot::STABLE);
        out.put_u64_le(view.0);
        put_positions(out, ends);
    });
}

impl<'a> Message<'a> {
    /// Reads one frame (kind byte and body).
    ///
    /// # Errors
    /// [`WireError`] if it is not exactly one message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let message = match kind {
            hot::EXECUTE..=hot::ASK_OUTCOME => Self::decode_request(kind, &mut r)?,
            hot::ANSWER..=hot::OUTCOME_IS => Self::decode_answer(kind, &mut r)?,
            hot::FORWARD..=hot::WOUND => Self::decode_coordination(kind, &mut r)?,
            hot::APPEND..=hot::STABLE => Self::decode_replication(kind, &mut r)?,
            other => return Err(WireError::UnknownKind(other)),
        };
        r.finish()?;
        Ok(message)
    }

    fn decode_request(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let request = r.u64()?;
        Ok(match kind {
            hot::EXECUTE => {
                let tx = r.tx()?;
                let low = r.u64()?;
                let epoch = r.epoch()?;
                let anchor = r.partition()?;
                let step = r.u32()?;
                let flags = r.u8()?;
                let finish = match flags & 3 {
                    0 => Finish::No,
                    1 => Finish::Commit,
                    2 => Finish::Abort,
                    _ => return Err(WireError::BadValue),
                };
                let order = if flags & 4 == 0 { StartOrder::default() } else { r.order()? };
                let ops = Ops::read_rest(r)?;
                Self::Execute(Execute { request, tx, low, order, epoch, anchor, step, finish, ops })
            }
            hot::READ => Self::Read { request, epoch: r.epoch()?, ops: Ops::read_rest(r)? },
            hot::SCAN => {
                let table = r.table()?;
                let schema = SchemaVersion(r.u32()?);
                let partition = r.partition()?;
                let rows_max = r.u32()?;
                let after = r.take_rest();
                if after.len() > KEY_BYTES_MAX {
                    return Err(WireError::TooLong);
                }
                Self::Scan { request, table, schema, partition, rows_max, after }
            }
            _ => Self::AskOutcome { request, tx: r.tx()?, anchor: r.partition()? },
        })
    }

    fn decode_answer(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let request = r.u64()?;
        Ok(match kind {
            hot::ANSWER => {
                let epoch = r.epoch()?;
                let order = if r.u8()? == 0 { StartOrder::default() } else { r.order()? };
                Self::Answer { request, epoch, order, results: Results(r.take_rest()) }
            }
            hot::REFUSED => Self::Refused {
                request,
                code: code(r.u16()?)?,
                op: r.u16()?,
                epoch: r.epoch()?,
                order: r.order()?,
                detail: r.take_rest(),
            },
            hot::PAGE => Self::Page { request, more: r.u8()? != 0, rows: r.take_rest() },
            _ => {
                let outcome = match r.u8()? {
                    0 => OutcomeTold::Aborted,
                    _ => OutcomeTold::Committed(r.epoch()?),
                };
                Self::OutcomeIs { request, outcome }
            }
        })
    }

    fn decode_coordination(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let view = r.view()?;
        let tx = r.tx()?;
        if kind == hot::WOUND {
            return Ok(Self::Wound { view, tx });
        }
        if kind == hot::RESOLVE {
            return Ok(Self::Resolve { view, tx, participants: Partitions::read(r)? });
        }
        let partition = r.partition()?;
        Ok(match kind {
            hot::FORWARD => Self::Forward(Forward {
                view,
                tx,
                partition,
                low: r.u64()?,
                order: r.order()?,
                epoch: r.epoch()?,
                step: r.u32()?,
                participants: Partitions::read(r)?,
                ops: Ops::read_rest(r)?,
            }),
            hot::FORWARDED => Self::Forwarded {
                view,
                tx,
                partition,
                step: r.u32()?,
                epoch: r.epoch()?,
                refused: optional_code(r.u16()?)?,
                results: Results(r.take_rest()),
            },
            hot::PREPARE => Self::Prepare {
                view,
                tx,
                partition,
                low: r.u64()?,
                epoch: r.epoch()?,
                steps: r.u32()?,
                participants: Partitions::read(r)?,
            },
            hot::VOTED => {
                let vote = match r.u8()? {
                    0 => Vote::Prepared(r.epoch()?),
                    1 => Vote::Refused(code(r.u16()?)?),
                    2 => Vote::Committed(r.epoch()?),
                    other => return Err(WireError::UnknownKind(other)),
                };
                Self::Voted { view, tx, partition, vote, results: Results(r.take_rest()) }
            }
            hot::DECIDE => {
                let commit = if r.u8()? == 0 { None } else { Some(r.epoch()?) };
                Self::Decide { view, tx, partition, commit }
            }
            hot::CONFIRMED => Self::Confirmed { view, tx, partition },
            hot::RELEASE => Self::Release { view, tx, partition },
            _ => Self::Inquire { view, tx, partition },
        })
    }

    fn decode_replication(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let view = r.view()?;
        Ok(match kind {
            hot::APPEND => Self::Append { view, stable: r.seq()?, record: r.take_rest() },
            hot::ACK => Self::Ack { view, count: r.u64()? },
            hot::LOG_ENDS => Self::LogEnds { view, ends: Positions::read(r)? },
            _ => Self::Stable { view, ends: Positions::read(r)? },
        })
    }

    /// Appends the message as one frame.
    pub fn encode(&self, out: &mut BytesMut) {
        frame(out, |out| match self {
            Self::Execute(_) | Self::Read { .. } | Self::Scan { .. } | Self::AskOutcome { .. } => {
                self.encode_request(out);
            }
            Self::Answer { .. }
            | Self::Refused { .. }
            | Self::Page { .. }
            | Self::OutcomeIs { .. } => self.encode_answer(out),
            Self::Append { .. } | Self::Ack { .. } | Self::LogEnds { .. } | Self::Stable { .. } => {
                self.encode_replication(out)
            }
            _ => self.encode_coordination(out),
        });
    }

    fn encode_request(&self, out: &mut BytesMut) {
        match self {
            Self::Execute(e) => {
                out.put_u8(hot::EXECUTE);
                out.put_u64_le(e.request);
                out.put_tx(e.tx);
                out.put_u64_le(e.low);
                out.put_u64_le(e.epoch.0);
                out.put_u16_le(e.anchor.0);
                out.put_u32_le(e.step);
                out.put_u8(e.finish as u8 | u8::from(e.order.is_stamped()) << 2);
                if e.order.is_stamped() {
                    out.put_order(e.order);
                }
                e.ops.write(out);
            }
            Self::Read { request, epoch, ops } => {
                out.put_u8(hot::READ);
                out.put_u64_le(*request);
                out.put_u64_le(epoch.0);
                ops.write(out);
            }
            Self::Scan { request, table, schema, partition, rows_max, after } => {
                out.put_u8(hot::SCAN);
                out.put_u64_le(*request);
                out.put_u32_le(table.0);
                out.put_u32_le(schema.0);
                out.put_u16_le(partition.0);
                out.put_u32_le(*rows_max);
                out.put_slice(after);
            }
            Self::AskOutcome { request, tx, anchor } => {
                out.put_u8(hot::ASK_OUTCOME);
                out.put_u64_le(*request);
                out.put_tx(*tx);
                out.put_u16_le(anchor.0);
            }
            _ => unreachable!("not a request"),
        }
    }

    fn encode_answer(&self, out: &mut BytesMut) {
        match self {
            Self::Answer { request, epoch, order, results } => {
                out.put_u8(hot::ANSWER);
                out.put_u64_le(*request);
                out.put_u64_le(epoch.0);
                out.put_u8(u8::from(order.is_stamped()));
                if order.is_stamped() {
                    out.put_order(*order);
                }
                out.put_slice(results.0);
            }
            Self::Refused { request, code, op, epoch, order, detail } => {
                out.put_u8(hot::REFUSED);
                out.put_u64_le(*request);
                out.put_u16_le(*code as u16);
                out.put_u16_le(*op);
                out.put_u64_le(epoch.0);
                out.put_order(*order);
                out.put_slice(detail);
            }
            Self::Page { request, more, rows } => {
                out.put_u8(hot::PAGE);
                out.put_u64_le(*request);
                out.put_u8(u8::from(*more));
                out.put_slice(rows);
            }
            Self::OutcomeIs { request, outcome } => {
                out.put_u8(hot::OUTCOME_IS);
                out.put_u64_le(*request);
                match outcome {
                    OutcomeTold::Aborted => out.put_u8(0),
                    OutcomeTold::Committed(epoch) => {
                        out.put_u8(1);
                        out.put_u64_le(epoch.0);
                    }
                }
            }
            _ => unreachable!("not an answer"),
        }
    }

    fn encode_coordination(&self, out: &mut BytesMut) {
        let head = |out: &mut BytesMut, kind: u8, view: ViewNumber, tx: TxId, p: PartitionId| {
            out.put_u8(kind);
            out.put_u64_le(view.0);
            out.put_tx(tx);
            out.put_u16_le(p.0);
        };
        match *self {
            Self::Forward(ref f) => {
                head(out, hot::FORWARD, f.view, f.tx, f.partition);
                out.put_u64_le(f.low);
                out.put_order(f.order);
                out.put_u64_le(f.epoch.0);
                out.put_u32_le(f.step);
                f.participants.write(out);
                f.ops.write(out);
            }
            Self::Forwarded { view, tx, partition, step, epoch, refused, results } => {
                head(out, hot::FORWARDED, view, tx, partition);
                out.put_u32_le(step);
                out.put_u64_le(epoch.0);
                out.put_u16_le(refused.map_or(0, |c| c as u16));
                out.put_slice(results.0);
            }
            Self::Prepare { view, tx, low, epoch, partition, steps, participants } => {
                head(out, hot::PREPARE, view, tx, partition);
                out.put_u64_le(low);
                out.put_u64_le(epoch.0);
                out.put_u32_le(steps);
                participants.write(out);
            }
            Self::Voted { view, tx, partition, vote, results } => {
                head(out, hot::VOTED, view, tx, partition);
                match vote {
                    Vote::Prepared(epoch) => {
                        out.put_u8(0);
                        out.put_u64_le(epoch.0);
                    }
                    Vote::Refused(code) => {
                        out.put_u8(1);
                        out.put_u16_le(code as u16);
                    }
                    Vote::Committed(epoch) => {
                        out.put_u8(2);
                        out.put_u64_le(epoch.0);
                    }
                }
                out.put_slice(results.0);
            }
            Self::Decide { view, tx, partition, commit } => {
                head(out, hot::DECIDE, view, tx, partition);
                out.put_u8(u8::from(commit.is_some()));
                if let Some(epoch) = commit {
                    out.put_u64_le(epoch.0);
                }
            }
            Self::Confirmed { view, tx, partition } => {
                head(out, hot::CONFIRMED, view, tx, partition);
            }
            Self::Release { view, tx, partition } => head(out, hot::RELEASE, view, tx, partition),
            Self::Inquire { view, tx, partition } => head(out, hot::INQUIRE, view, tx, partition),
            Self::Resolve { view, tx, participants } => {
                out.put_u8(hot::RESOLVE);
                out.put_u64_le(view.0);
                out.put_tx(tx);
                participants.write(out);
            }
            Self::Wound { view, tx } => {
                out.put_u8(hot::WOUND);
                out.put_u64_le(view.0);
                out.put_tx(tx);
            }
            _ => unreachable!("not between coordinator and participant"),
        }
    }

    fn encode_replication(&self, out: &mut BytesMut) {
        match *self {
            Self::Append { view, stable, record } => {
                out.put_u8(hot::APPEND);
                out.put_u64_le(view.0);
                out.put_u64_le(stable.0);
                out.put_slice(record);
            }
            Self::Ack { view, count } => {
                out.put_u8(hot::ACK);
                out.put_u64_le(view.0);
                out.put_u64_le(count);
            }
            Self::LogEnds { view, ends } | Self::Stable { view, ends } => {
                let is_ends = matches!(self, Self::LogEnds { .. });
                out.put_u8(if is_ends { hot::LOG_ENDS } else { hot::STABLE });
                out.put_u64_le(view.0);
                let count = ends.0.len() / POSITION_BYTES;
                out.put_u16_le(u16::try_from(count).expect("bounded by PARTITIONS_MAX"));
                out.put_slice(ends.0);
            }
            _ => unreachable!("not replication"),
        }
    }
}
