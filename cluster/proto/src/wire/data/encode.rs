//! Writing hot messages straight into a link's send buffer; the mirror of `decode`.

use ::bytes::{BufMut, BytesMut};

use crate::ids::{PartitionId, Seq, TxId, ViewNumber};
use crate::wire::bytes::WriteWords;
use crate::wire::data::{Message, OutcomeTold, POSITION_BYTES, Vote, hot};
use crate::wire::frame;

impl Message<'_> {
    /// Appends the message as one frame.
    pub fn encode(&self, out: &mut BytesMut) {
        frame(out, |out| match self {
            Self::Execute(_) | Self::Read { .. } | Self::Scan { .. } | Self::AskOutcome { .. } => {
                self.encode_request(out);
            }
            Self::ReadAt { .. } | Self::ScanAt { .. } | Self::Sweep { .. } => {
                self.encode_past(out);
            }
            Self::Answer { .. }
            | Self::Refused { .. }
            | Self::Page { .. }
            | Self::Swept { .. }
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
            Self::AskOutcome { request, tx, anchor, to_disk } => {
                out.put_u8(hot::ASK_OUTCOME);
                out.put_u64_le(*request);
                out.put_tx(*tx);
                out.put_u16_le(anchor.0);
                out.put_u8(u8::from(*to_disk));
            }
            _ => unreachable!("not a request"),
        }
    }

    /// Requests for rows as of a closed epoch.
    fn encode_past(&self, out: &mut BytesMut) {
        match self {
            Self::ReadAt { request, at, ops } => {
                out.put_u8(hot::READ_AT);
                out.put_u64_le(*request);
                out.put_u64_le(at.0);
                ops.write(out);
            }
            Self::ScanAt { request, table, schema, partition, at, rows_max, after } => {
                out.put_u8(hot::SCAN_AT);
                out.put_u64_le(*request);
                out.put_u64_le(at.0);
                out.put_u32_le(table.0);
                out.put_u32_le(schema.0);
                out.put_u16_le(partition.0);
                out.put_u32_le(*rows_max);
                out.put_slice(after);
            }
            Self::Sweep { request, table, schema, partition, at, place, rows_max } => {
                out.put_u8(hot::SWEEP);
                out.put_u64_le(*request);
                out.put_u64_le(at.0);
                out.put_u32_le(table.0);
                out.put_u32_le(schema.0);
                out.put_u16_le(partition.0);
                out.put_u32_le(*rows_max);
                out.put_u64_le(*place);
            }
            _ => unreachable!("not a request for the past"),
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
            Self::Swept { request, next, rows } => {
                out.put_u8(hot::SWEPT);
                out.put_u64_le(*request);
                out.put_u8(u8::from(next.is_some()));
                out.put_u64_le(next.unwrap_or(0));
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
                put_vote(out, vote);
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

fn put_vote(out: &mut BytesMut, vote: Vote) {
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
