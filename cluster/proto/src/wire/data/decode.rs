//! Reading hot messages in place, without copying and without trusting a length.
//!
//! Invariant: any bytes give a message or a [`WireError`]; nothing here panics or allocates.

use crate::error::Code;
use crate::ids::{SchemaVersion, StartOrder};
use crate::limits::KEY_BYTES_MAX;
use crate::wire::WireError;
use crate::wire::bytes::Reader;
use crate::wire::data::{
    Execute, Finish, Forward, Message, OutcomeTold, Partitions, Positions, Results, Vote, hot,
};
use crate::wire::op::Ops;

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
            hot::READ_AT..=hot::SWEEP => Self::decode_past(kind, &mut r)?,
            hot::ANSWER..=hot::SWEPT => Self::decode_answer(kind, &mut r)?,
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
                    _ => Finish::CommitToDisk,
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
            _ => {
                let (tx, anchor) = (r.tx()?, r.partition()?);
                let to_disk = match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(WireError::BadValue),
                };
                Self::AskOutcome { request, tx, anchor, to_disk }
            }
        })
    }

    fn decode_past(kind: u8, r: &mut Reader<'a>) -> Result<Self, WireError> {
        let (request, at) = (r.u64()?, r.epoch()?);
        if kind == hot::READ_AT {
            return Ok(Self::ReadAt { request, at, ops: Ops::read_rest(r)? });
        }
        let (table, schema) = (r.table()?, SchemaVersion(r.u32()?));
        let (partition, rows_max) = (r.partition()?, r.u32()?);
        if kind == hot::SWEEP {
            let place = r.u64()?;
            return Ok(Self::Sweep { request, table, schema, partition, at, place, rows_max });
        }
        let after = r.take_rest();
        if after.len() > KEY_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        Ok(Self::ScanAt { request, table, schema, partition, at, rows_max, after })
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
            hot::SWEPT => {
                let more = r.u8()? != 0;
                let next = r.u64()?;
                if !more && next != 0 {
                    return Err(WireError::BadValue);
                }
                Self::Swept { request, next: more.then_some(next), rows: r.take_rest() }
            }
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
}

fn code(number: u16) -> Result<Code, WireError> {
    Code::from_number(number).ok_or(WireError::BadValue)
}

fn optional_code(number: u16) -> Result<Option<Code>, WireError> {
    if number == 0 { Ok(None) } else { code(number).map(Some) }
}
