//! Autocommit batches: a transaction in one request.
//!
//! ```text
//!            refused, retryable                link lost
//!   Resting <------------------- Sent --------------------------> Asking
//!      |                        ^  |  |                           |  |  |
//!      |   timer, new view      |  |  +-- answered --> completed <+  |  +-- nobody answers in:
//!      +------------------> Waiting|      refused for good   committed     time: `Unknown`
//!                               ^  +--------------------------------+
//!                               +------------------------- aborted -+   (always a new id)
//! ```
//!
//! Invariant: each `Execute` carries a transaction id that was never sent before.

use std::time::Duration;

use lockstep_proto::durability::Durability;
use lockstep_proto::error::ErrorClass;
use lockstep_proto::wire::data::{Execute, Results};
use lockstep_proto::wire::op::OpFlags;

use super::sessions::OpenTx;
use super::*;

/// First and longest wait of a transaction that lost a lock: the winner needs one round trip.
const LOCK_BACK_OFF: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// First and longest wait after any other refusal. A new view ends the wait at once.
const RETRY_BACK_OFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// An autocommit transaction.
#[derive(Debug)]
pub(super) struct Batch {
    ops: OpList,
    pub(super) durability: Durability,
    /// The first key touched: its primary coordinates.
    coordinator: PartitionId,
    /// The first key written: its primary knows the outcome. `None` if nothing is written.
    pub(super) anchor: Option<PartitionId>,
    /// Whether the caller waits for more than success.
    pub(super) wants_rows: bool,
    order: StartOrder,
    attempts: u32,
    refusal: Option<Box<CallError>>,
    /// The id of the current attempt, while it is open.
    pub(super) open: Option<OpenTx>,
    pub(super) phase: Phase,
}

impl Batch {
    pub(super) fn new(ops: OpList, durability: Durability) -> Result<Self, CallError> {
        let scope = Scope::of(&ops);
        let Some(coordinator) = scope.touched else {
            return Err(CallError::refused(Code::Malformed, "a batch without operations"));
        };
        Ok(Self {
            ops,
            durability,
            coordinator,
            anchor: scope.written,
            wants_rows: scope.wants_rows,
            order: StartOrder::default(),
            attempts: 0,
            refusal: None,
            open: None,
            phase: Phase::Waiting,
        })
    }

    pub(super) fn operations(&self) -> usize {
        self.ops.as_ops().len()
    }

    /// Message parts: two for each attempt, the request and the question for its outcome.
    fn part(&self) -> u32 {
        self.attempts * 2
    }

    pub(super) fn ask_part(&self) -> u32 {
        self.attempts * 2 + 1
    }
}

/// What a list of operations needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scope {
    /// The partition of the first key touched; `None` if there are no operations.
    pub(super) touched: Option<PartitionId>,
    /// The partition of the first key written.
    pub(super) written: Option<PartitionId>,
    /// Whether some operation returns a row.
    pub(super) wants_rows: bool,
}

impl Scope {
    pub(super) fn of(ops: &OpList) -> Self {
        let mut scope = Self { touched: None, written: None, wants_rows: false };
        for op in ops.as_ops().iter() {
            scope.touched = scope.touched.or(Some(op.partition));
            if op.kind.writes() {
                scope.written = scope.written.or(Some(op.partition));
                scope.wants_rows |= op.flags.has(OpFlags::RETURNING);
            } else {
                scope.wants_rows = true;
            }
        }
        scope
    }
}

impl ClientCore {
    /// Sends a new attempt of a batch, if it can leave.
    pub(super) fn send_batch(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(batch) = batch_mut(&mut self.calls, key) else { return };
        batch.phase = Phase::Waiting;
        let link = match self.topology.primary(batch.coordinator) {
            Ok(link) => link,
            Err(NoRoute::Wait) => {
                let partition = batch.coordinator;
                return self.want(now, partition, out);
            }
            Err(NoRoute::Never(error)) => return self.complete(key, Err(error)),
        };
        let Some(open) = self.sessions.open_shared(self.epoch) else {
            return self.refill_sessions(out);
        };
        let Some(buffer) = out.buffer(link) else { return self.sessions.close(open) };
        Message::Execute(Execute {
            request: request_of(key, batch.part()),
            tx: open.tx,
            low: self.sessions.low(open.session),
            order: batch.order,
            epoch: self.epoch,
            anchor: batch.anchor.unwrap_or(batch.coordinator),
            step: 0,
            finish: Finish::commit(batch.durability),
            ops: batch.ops.as_ops(),
        })
        .encode(buffer);
        batch.open = Some(open);
        batch.phase = Phase::Sent(link);
    }

    pub(super) fn on_batch_answer(
        &mut self,
        request: u64,
        results: Results<'_>,
    ) -> Result<(), WireError> {
        let key = key_of(request);
        let Some(batch) = current_batch(&mut self.calls, request) else { return Ok(()) };
        let results = ResultList::from_wire(results, batch.operations())?;
        let tx = self.close_batch(key);
        self.complete(key, Ok(Reply::Done { results, epoch: self.epoch, tx }));
        Ok(())
    }

    /// The transaction is aborted, or never was. (The question for an outcome has a part of its
    /// own; its refusals say nothing about the transaction.)
    pub(super) fn on_batch_refused(
        &mut self,
        now: Instant,
        request: u64,
        refusal: CallError,
        out: &mut Outputs,
    ) {
        let key = key_of(request);
        if current_batch(&mut self.calls, request).is_some() {
            self.on_batch_aborted(now, key, refusal, out);
        } else if let Some(batch) = batch_mut(&mut self.calls, key)
            && request == request_of(key, batch.ask_part())
        {
            self.on_ask_refused(now, key, refusal.code, out);
        }
    }

    /// What the current attempt was to do has not happened and never will.
    pub(super) fn on_batch_aborted(
        &mut self,
        now: Instant,
        key: Key,
        mut refusal: CallError,
        out: &mut Outputs,
    ) {
        refusal.tx = self.close_batch(key);
        let Some(pending) = self.calls.find_mut(key) else { return };
        let Work::Batch(batch) = &mut pending.work else { return };
        if refusal.order.is_stamped() {
            batch.order = refusal.order;
        }
        if pending.grace || !is_worth_a_retry(refusal.code) {
            return self.complete(key, Err(refusal));
        }
        let ((base, max), attempts) = (back_off_after(refusal.code), batch.attempts);
        batch.attempts += 1;
        batch.refusal = Some(Box::new(refusal));
        batch.phase = Phase::Resting;
        let wait = self.timers.back_off(base, attempts, max);
        self.retry_at(now + wait, key);
        out.mark("client_retry");
    }

    /// The link that owed the answer is gone.
    pub(super) fn on_batch_lost(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(batch) = batch_mut(&mut self.calls, key) else { return };
        if batch.anchor.is_none() {
            // Nothing was written, so nothing can have been applied.
            batch.attempts += 1;
            self.close_batch(key);
            out.mark("client_read_batch_sent_again");
            return self.send_batch(now, key, out);
        }
        batch.phase = Phase::Asking(None);
        self.ask_outcome(now, key, out);
    }

    pub(super) fn on_batch_late(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(pending) = self.calls.find_mut(key) else { return };
        let Work::Batch(batch) = &mut pending.work else { return };
        match batch.phase {
            Phase::Waiting | Phase::Resting => {
                let refusal = batch.refusal.take();
                let error = self.give_up(refusal.as_deref());
                self.complete(key, Err(error));
            }
            Phase::Sent(_) | Phase::Asking(_) if batch.anchor.is_none() => {
                let tx = self.close_batch(key);
                let error = CallError::refused(Code::DeadlineExceeded, "");
                self.complete(key, Err(CallError { tx, ..error }));
            }
            Phase::Sent(_) | Phase::Asking(_) if !pending.grace => {
                pending.grace = true;
                pending.deadline = now + self.options.unreachable_after;
                batch.phase = Phase::Asking(None);
                self.ask_outcome(now, key, out);
            }
            Phase::Sent(_) | Phase::Asking(_) => {
                out.mark("client_outcome_unknown");
                let tx = self.close_batch(key);
                self.complete(key, Err(self.outcome_unknown(tx)));
            }
        }
    }

    /// The client knows what became of the current attempt, or will not ask again.
    pub(super) fn close_batch(&mut self, key: Key) -> Option<lockstep_proto::ids::TxId> {
        let open = batch_mut(&mut self.calls, key)?.open.take()?;
        self.sessions.close(open);
        Some(open.tx)
    }
}

/// How long to wait after a refusal, the first time and at most.
pub(super) fn back_off_after(code: Code) -> (Duration, Duration) {
    match code {
        Code::Wounded | Code::LocksLost => LOCK_BACK_OFF,
        _ => RETRY_BACK_OFF,
    }
}

/// Whether the same bytes may succeed later. A changed schema needs other bytes: the caller's work.
pub(super) fn is_worth_a_retry(code: Code) -> bool {
    let certain = matches!(code, Code::WrongSchema | Code::SnapshotTooOld);
    code.class() == ErrorClass::Retry && !certain
}

fn batch_mut(calls: &mut Slab<Pending>, key: Key) -> Option<&mut Batch> {
    match &mut calls.find_mut(key)?.work {
        Work::Batch(batch) => Some(batch),
        _ => None,
    }
}

/// The batch whose current attempt `request` is, while its outcome is open.
fn current_batch(calls: &mut Slab<Pending>, request: u64) -> Option<&mut Batch> {
    let key = key_of(request);
    let batch = batch_mut(calls, key)?;
    (batch.open.is_some() && request == request_of(key, batch.part())).then_some(batch)
}
