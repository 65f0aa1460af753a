//! How operations of a transaction become requests: what is queued in one turn of polling goes out
//! together, and one request is under way at a time.
//!
//! An operation queues itself when it is first polled and asks to be polled again; by then all
//! others of the same turn have queued themselves, and it sends what there is. Those that come
//! while a request is under way wait for its answer and go out with the next one.
//!
//! Invariant: our lock is never held while the connection is entered.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lockstep_proto::durability::Durability;
use lockstep_proto::error::Code;
use lockstep_proto::limits::{BATCH_OPS_MAX, FRAME_BYTES_MAX};
use lockstep_proto::wire::op::{OpList, OpResult};
use parking_lot::Mutex;

use crate::attend::Listener;
use crate::catalog::results_of;
use crate::client::Shared;
use crate::core::{Call, Completion, ResultList, TxHandle};
use crate::error::{Error, Result};

/// Operations of one transaction that may wait; more are refused as busy.
const WAITING_MAX: usize = 1 << 16;

/// See the module text.
pub(super) struct Steps {
    shared: Arc<Shared>,
    handle: TxHandle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In order of number.
    waiting: Vec<Entry>,
    /// The next number.
    next: u64,
    is_under_way: bool,
    /// Why the transaction cannot go on.
    failure: Option<Error>,
    /// Whether its end has been asked for.
    is_finished: bool,
    /// Who waits for the request under way before the commit.
    settler: Option<Waker>,
}

/// Operations of one application future.
struct Entry {
    number: u64,
    ops: OpList,
    stage: Stage,
    waker: Option<Waker>,
    /// Whether its future is gone.
    is_left: bool,
}

enum Stage {
    Queued,
    Sent,
    Done(Result<ResultList>),
}

impl Steps {
    pub(super) fn new(shared: Arc<Shared>, handle: TxHandle) -> Self {
        Self { shared, handle, state: Mutex::default() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failure.clone()
    }

    /// Carries out operations, together with whatever else is queued now.
    pub(super) async fn run(self: &Arc<Self>, ops: OpList) -> Result<ResultList> {
        let writes = ops.as_ops().iter().any(|op| op.kind.writes());
        let number = self.state.lock().enqueue(ops)?;
        let mut place = Queued { steps: self, number, writes, was_nudged: false };
        poll_fn(|cx| place.poll(cx)).await
    }

    /// Waits until nothing is under way; an error if the transaction cannot be committed.
    pub(super) async fn settle(&self) -> Result<()> {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.is_under_way {
                state.settler = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if let Some(failure) = &state.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            if state.waiting.iter().any(|entry| matches!(entry.stage, Stage::Queued)) {
                let text = "operations of the transaction are still waiting to be polled";
                return Poll::Ready(Err(Error::new(Code::AbortedByClient, text)));
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Takes the right to finish the transaction; there is one.
    pub(super) fn finish(&self) -> Option<TxHandle> {
        let mut state = self.state.lock();
        (!std::mem::replace(&mut state.is_finished, true)).then_some(self.handle)
    }

    /// Aborts the transaction unless its end has been asked for. Does not wait.
    pub(super) fn abort(&self) {
        if let Some(tx) = self.finish() {
            let (ops, durability) = (OpList::default(), Durability::Memory);
            let call = Call::Finish { tx, commit: false, ops, durability };
            self.shared.connection.call_and_forget(call);
        }
    }

    /// Sends what is queued, unless something is under way.
    fn flush(self: &Arc<Self>) {
        let Some(ops) = self.state.lock().take_queued() else { return };
        let listener: Arc<dyn Listener> = Arc::<Self>::clone(self);
        self.shared.connection.call_with(Call::Step { tx: self.handle, ops }, listener);
    }
}

impl Listener for Steps {
    fn on_completed(&self, completion: Completion) {
        self.state.lock().on_completed(results_of(completion).map_err(Error::from));
    }
}

/// An operation's place in the queue, as long as somebody waits for it.
struct Queued<'a> {
    steps: &'a Arc<Steps>,
    number: u64,
    writes: bool,
    was_nudged: bool,
}

impl Queued<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResultList>> {
        let mut state = self.steps.state.lock();
        if let Some(result) = state.take_done(self.number) {
            return Poll::Ready(result);
        }
        let is_under_way = state.is_under_way;
        let Some(entry) = state.entry(self.number) else {
            panic!("an operation was polled after it was done");
        };
        entry.waker = Some(cx.waker().clone());
        if is_under_way || matches!(entry.stage, Stage::Sent) {
            return Poll::Pending;
        }
        drop(state);
        if std::mem::replace(&mut self.was_nudged, true) {
            self.steps.flush();
            // It may have been refused at once.
            return match self.steps.state.lock().take_done(self.number) {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            };
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.steps.state.lock().leave(self.number, self.writes);
    }
}

impl State {
    fn enqueue(&mut self, ops: OpList) -> Result<u64> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.is_finished {
            return Err(Error::new(Code::NoSuchTransaction, "it was finished before"));
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Error::new(Code::Busy, "too many operations wait in the transaction"));
        }
        let number = self.next;
        self.next += 1;
        let stage = Stage::Queued;
        self.waiting.push(Entry { number, ops, stage, waker: None, is_left: false });
        Ok(number)
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let index = self.waiting.binary_search_by_key(&number, |entry| entry.number).ok()?;
        self.waiting.get_mut(index)
    }

    fn take_done(&mut self, number: u64) -> Option<Result<ResultList>> {
        let index = self.waiting.binary_search_by_key(&number, |entry| entry.number).ok()?;
        if !matches!(self.waiting[index].stage, Stage::Done(_)) {
            return None;
        }
        match self.waiting.remove(index).stage {
            Stage::Done(result) => Some(result),
            Stage::Queued | Stage::Sent => None,
        }
    }

    /// Marks what is queued as sent, as far as it fits one request, and gives its operations.
    fn take_queued(&mut self) -> Option<OpList> {
        if self.is_under_way {
            return None;
        }
        let mut ops = OpList::default();
        for entry in &mut self.waiting {
            if !matches!(entry.stage, Stage::Queued) {
                continue;
            }
            let (count, bytes) = (entry.ops.as_ops().len(), entry.ops.as_ops().byte_len());
            let fits = ops.as_ops().len() + count <= BATCH_OPS_MAX
                && ops.as_ops().byte_len() + bytes <= FRAME_BYTES_MAX / 2;
            if !fits && !ops.as_ops().is_empty() {
                break;
            }
            entry.ops.as_ops().iter().for_each(|op| ops.push(&op));
            entry.stage = Stage::Sent;
        }
        self.is_under_way = !ops.as_ops().is_empty();
        self.is_under_way.then_some(ops)
    }

    fn on_completed(&mut self, completion: Result<ResultList>) {
        self.is_under_way = false;
        match completion {
            Ok(results) => self.hand_out(&results),
            Err(error) => self.fail(&error),
        }
        self.waiting.retain(|entry| !(entry.is_left && matches!(entry.stage, Stage::Done(_))));
        for entry in &mut self.waiting {
            entry.waker.take().into_iter().for_each(Waker::wake);
        }
        self.settler.take().into_iter().for_each(Waker::wake);
    }

    fn hand_out(&mut self, results: &ResultList) {
        let mut all = results.iter();
        for entry in &mut self.waiting {
            if matches!(entry.stage, Stage::Sent) {
                let own: Vec<OpResult<'_>> = all.by_ref().take(entry.ops.as_ops().len()).collect();
                entry.stage = Stage::Done(Ok(ResultList::of(&own)));
            }
        }
    }

    fn fail(&mut self, error: &Error) {
        for entry in &mut self.waiting {
            if !matches!(entry.stage, Stage::Done(_)) {
                entry.stage = Stage::Done(Err(error.clone()));
            }
        }
        self.failure.get_or_insert_with(|| error.clone());
    }

    /// An operation's future is dropped. Harmless, unless it is a write that is not done.
    fn leave(&mut self, number: u64, writes: bool) {
        let Some(entry) = self.entry(number) else { return };
        entry.is_left = true;
        match entry.stage {
            Stage::Sent => {}
            Stage::Queued | Stage::Done(_) => {
                self.waiting.retain(|entry| entry.number != number);
            }
        }
        if writes {
            let text = "a write was dropped before it was done";
            self.failure.get_or_insert_with(|| Error::new(Code::AbortedByClient, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
    use lockstep_proto::wire::op::{Op, OpFlags, OpKind};

    fn read(key: &[u8]) -> OpList {
        let mut ops = OpList::default();
        let (table, schema, partition) = (TableId(1), SchemaVersion(1), PartitionId(0));
        let (kind, flags, body) = (OpKind::Read, OpFlags::default(), &[][..]);
        ops.push(&Op { kind, flags, table, schema, partition, key, body });
        ops
    }

    fn row(result: Option<Result<ResultList>>) -> Vec<u8> {
        let results = result.unwrap().unwrap();
        match results.first() {
            Some(OpResult::Row(row)) => row.to_vec(),
            other => panic!("not a row: {other:?}"),
        }
    }

    #[test]
    fn what_is_queued_together_goes_out_together_and_each_gets_its_own() {
        let mut state = State::default();
        let (a, b) = (state.enqueue(read(b"a")).unwrap(), state.enqueue(read(b"b")).unwrap());
        let sent = state.take_queued().unwrap();
        let keys: Vec<&[u8]> = sent.as_ops().iter().map(|op| op.key).collect();
        assert_eq!(keys, [b"a", b"b"]);
        let c = state.enqueue(read(b"c")).unwrap();
        assert!(state.take_queued().is_none(), "one request at a time");
        state.on_completed(Ok(ResultList::of(&[OpResult::Row(b"A"), OpResult::Row(b"B")])));
        assert_eq!(row(state.take_done(b)), b"B");
        assert_eq!(row(state.take_done(a)), b"A");
        assert!(state.take_done(c).is_none());
        assert_eq!(state.take_queued().unwrap().as_ops().len(), 1);
    }

    #[test]
    fn a_failure_reaches_everybody_who_waits_and_all_who_come_later() {
        let mut state = State::default();
        let sent = state.enqueue(read(b"a")).unwrap();
        state.take_queued().unwrap();
        let queued = state.enqueue(read(b"b")).unwrap();
        state.on_completed(Err(Code::Wounded.into()));
        for number in [sent, queued] {
            let error = state.take_done(number).unwrap().unwrap_err();
            assert_eq!(error.error_code(), Code::Wounded);
        }
        assert_eq!(state.enqueue(read(b"c")).unwrap_err().error_code(), Code::Wounded);
        assert!(state.waiting.is_empty());
    }

    #[test]
    fn a_dropped_read_is_forgotten_and_a_dropped_write_is_not() {
        let mut state = State::default();
        let left = state.enqueue(read(b"a")).unwrap();
        let kept = state.enqueue(read(b"b")).unwrap();
        state.take_queued().unwrap();
        state.leave(left, false);
        state.on_completed(Ok(ResultList::of(&[OpResult::Absent, OpResult::Row(b"B")])));
        assert_eq!(row(state.take_done(kept)), b"B");
        assert!(state.waiting.is_empty() && state.failure.is_none());
        let write = state.enqueue(read(b"c")).unwrap();
        state.leave(write, true);
        assert_eq!(state.failure.unwrap().error_code(), Code::AbortedByClient);
    }
}
