//! Committed reads, from any in-sync replica, without a lock, linearizable row by row.
//!
//! A reader captures the version it meets and answers when *that* version is known to be stable,
//! under the read lease; later writes do not prolong the wait. On a prepared row it waits for the
//! outcome: the older version is never returned instead.

use std::collections::BTreeMap;

use bytes::BytesMut;
use lockstep_proto::canary::Canary;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, Seq, StartOrder, TxId};
use lockstep_proto::limits::{ANSWERS_OWED_MAX, RESULTS_BYTES_MAX};
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::wire::data::{Message, Results};
use lockstep_proto::wire::op::{Op, OpKind, OpList, OpResult, Ops};

use super::ShardCore;
use super::answers::{Owed, Question};
use super::evaluate::table_of;
use super::partition::{Partition, row_tag};
use super::scan::ScanRequest;

/// A read that waits for something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ReadId(u64);

/// Who waits for the end of a prepared transaction.
pub(super) enum Blocked {
    /// One operation of a read.
    Read { read: ReadId, op: usize },
    /// A page of a scan.
    Scan(Box<ScanRequest>),
    /// An outcome question.
    Outcome(Question),
}

/// The reads that wait.
#[derive(Default)]
pub(super) struct Reads {
    next: u64,
    waiting: BTreeMap<ReadId, WaitingRead>,
    without_lease: Vec<ReadId>,
}

impl Reads {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

struct WaitingRead {
    link: LinkId,
    request: u64,
    ops: OpList,
    /// Captured results, encoded; `None` while a prepared transaction is in the way.
    captured: Vec<Option<Box<[u8]>>>,
    /// Bytes of what is captured.
    bytes: usize,
    /// Captures and stable positions still missing.
    missing: usize,
}

/// What a reader meets.
enum Met<'p> {
    /// A result, and the position that must be stable before it is told.
    Captured(OpResult<'p>, Seq),
    /// An undecided transaction.
    Prepared(TxId),
}

/// A row that would make the answer larger than a frame is refused instead.
pub(super) fn bounded(result: OpResult<'_>, held: usize) -> OpResult<'_> {
    match result {
        OpResult::Row(row) if held + row.len() > RESULTS_BYTES_MAX => {
            OpResult::Failed(Code::AnswerTooLarge)
        }
        result => result,
    }
}

impl Partition {
    fn meet(&self, partitions: u16, op: &Op<'_>, unstable_too: bool) -> Met<'_> {
        let (table, hash) = match table_of(self, partitions, op) {
            Ok(found) => found,
            Err(code) => return Met::Captured(OpResult::Failed(code), Seq(0)),
        };
        let tag = row_tag(op.table, hash);
        if let Some(tx) = self.preparer_of(tag) {
            return Met::Prepared(tx);
        }
        // With one backup in the view, what the backup has, both replicas have.
        let settled = unstable_too || (!self.leads && self.replicas == 2);
        let after = if settled { Seq(0) } else { self.unstable_at(tag) };
        let row = table.rows.get(hash, op.key);
        Met::Captured(row.map_or(OpResult::Absent, |row| OpResult::Row(row.value())), after)
    }
}

impl ShardCore {
    pub(super) fn on_read(&mut self, link: LinkId, request: u64, ops: Ops<'_>, out: &mut Outputs) {
        if let Err(code) = self.admit_read(ops) {
            self.refuse_request(link, request, code, out);
            return;
        }
        if !self.read_now(link, request, ops, out) {
            self.read_later(link, request, ops, out);
        }
    }

    fn admit_read(&self, ops: Ops<'_>) -> Result<(), Code> {
        if self.view.is_none() {
            return Err(Code::NotServing);
        }
        if self.reads.len() >= ANSWERS_OWED_MAX {
            return Err(Code::Busy);
        }
        for op in ops.iter() {
            if op.kind != OpKind::Read {
                return Err(Code::Malformed);
            }
            if !self.serves(op.partition) {
                return Err(Code::NotReplica);
            }
        }
        Ok(())
    }

    /// The usual case: every row is stable, nothing is prepared, the leases hold. One pass, no
    /// allocation.
    fn read_now(&mut self, link: LinkId, request: u64, ops: Ops<'_>, out: &mut Outputs) -> bool {
        let (partitions, epoch) = (self.partitions(), self.epoch);
        let careless = self.canary == Some(Canary::ReadUnstable);
        self.results.clear();
        let count = u16::try_from(ops.len()).expect("bounded by BATCH_OPS_MAX");
        self.results.extend_from_slice(&count.to_le_bytes());
        let mut leased: Option<PartitionId> = None;
        for op in ops.iter() {
            let p = op.partition;
            if leased != Some(p) {
                if !self.has_lease(p) {
                    return false;
                }
                leased = Some(p);
            }
            let part = self.parts[usize::from(p.0)].as_ref().expect("checked by admit_read");
            match part.meet(partitions, &op, careless) {
                Met::Captured(result, after) if after <= part.stable => {
                    bounded(result, self.results.len()).write(&mut self.results);
                }
                Met::Captured(..) | Met::Prepared(_) => return false,
            }
        }
        self.stats.reads += u64::from(count);
        if let Some(buffer) = out.buffer(link) {
            let order = StartOrder::default();
            Message::Answer { request, epoch, order, results: Results(&self.results) }
                .encode(buffer);
        }
        true
    }

    fn read_later(&mut self, link: LinkId, request: u64, ops: Ops<'_>, out: &mut Outputs) {
        out.mark("read_waits");
        self.reads.next += 1;
        let id = ReadId(self.reads.next);
        // One more is missing until all operations were looked at, so that it cannot end early.
        let read = WaitingRead {
            link,
            request,
            ops: ops.to_list(),
            captured: vec![None; ops.len()],
            bytes: 0,
            missing: ops.len() + 1,
        };
        self.reads.waiting.insert(id, read);
        for (index, op) in ops.iter().enumerate() {
            self.capture(id, index, &op, out);
        }
        self.on_read_stable(id, out);
    }

    /// Captures the row of one operation, or waits for the transaction that is in its way.
    fn capture(&mut self, id: ReadId, index: usize, op: &Op<'_>, out: &mut Outputs) {
        let partitions = self.partitions();
        let careless = self.canary == Some(Canary::ReadUnstable);
        let p = op.partition;
        let part = self.parts[usize::from(p.0)].as_mut().expect("checked by admit_read");
        let (bytes, after) = match part.meet(partitions, op, careless) {
            Met::Prepared(tx) => {
                out.mark("read_waits_for_prepared");
                let blocked = Blocked::Read { read: id, op: index };
                part.blocked.entry(tx).or_default().push(blocked);
                return;
            }
            Met::Captured(result, after) => {
                let held = self.reads.waiting.get(&id).map_or(0, |read| read.bytes);
                let mut bytes = BytesMut::new();
                bounded(result, held).write(&mut bytes);
                (Vec::from(bytes).into_boxed_slice(), after)
            }
        };
        let Some(read) = self.reads.waiting.get_mut(&id) else { return };
        read.bytes += bytes.len();
        read.captured[index] = Some(bytes);
        self.owe(p, after, Owed::Read { read: id }, out);
    }

    /// One of the things a read waits for is there.
    pub(super) fn on_read_stable(&mut self, id: ReadId, out: &mut Outputs) {
        let Some(read) = self.reads.waiting.get_mut(&id) else { return };
        read.missing -= 1;
        if read.missing == 0 {
            self.finish_read(id, out);
        }
    }

    fn finish_read(&mut self, id: ReadId, out: &mut Outputs) {
        let Some(read) = self.reads.waiting.get(&id) else { return };
        if !read.ops.as_ops().iter().all(|op| self.has_lease(op.partition)) {
            out.mark("read_waits_for_lease");
            self.reads.without_lease.push(id);
            return;
        }
        let Some(read) = self.reads.waiting.remove(&id) else { return };
        self.stats.reads += read.captured.len() as u64;
        let Some(buffer) = out.buffer(read.link) else { return };
        let count = u16::try_from(read.captured.len()).expect("bounded by BATCH_OPS_MAX");
        let mut results = count.to_le_bytes().to_vec();
        for bytes in read.captured.iter().flatten() {
            results.extend_from_slice(bytes);
        }
        let (request, epoch, order) = (read.request, self.epoch, StartOrder::default());
        Message::Answer { request, epoch, order, results: Results(&results) }.encode(buffer);
    }

    /// A partition is held elsewhere from now on, and so is what waits for its rows.
    pub(super) fn refuse_reads_of(&mut self, p: PartitionId, out: &mut Outputs) {
        let touches = |_: &ReadId, read: &mut WaitingRead| {
            read.ops.as_ops().iter().any(|op| op.partition == p)
        };
        let gone: Vec<WaitingRead> =
            self.reads.waiting.extract_if(.., touches).map(|(_, read)| read).collect();
        for WaitingRead { link, request, .. } in gone {
            self.refuse_request(link, request, Code::NotReplica, out);
        }
    }

    /// Leases have moved.
    pub(super) fn retry_reads_waiting_for_lease(&mut self, out: &mut Outputs) {
        for id in std::mem::take(&mut self.reads.without_lease) {
            self.finish_read(id, out);
        }
    }

    /// A prepared transaction has ended: whoever waited for it looks again.
    pub(super) fn unblock(&mut self, p: PartitionId, tx: TxId, out: &mut Outputs) {
        let Some(blocked) = self.part_mut(p).blocked.remove(&tx) else { return };
        for waiter in blocked {
            match waiter {
                Blocked::Read { read, op } => {
                    let Some(waiting) = self.reads.waiting.get(&read) else { continue };
                    let ops = waiting.ops.clone();
                    let Some(again) = ops.as_ops().iter().nth(op) else { continue };
                    self.capture(read, op, &again, out);
                }
                Blocked::Scan(scan) => self.run_scan(*scan, out),
                Blocked::Outcome(question) => self.on_ask_outcome(question, tx, p, out),
            }
        }
    }
}
