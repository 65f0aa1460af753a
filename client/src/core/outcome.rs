//! Asking what became of a transaction whose answer was lost.
//!
//! The question goes to the primary of the anchor, the partition of the first key written, wherever
//! views move it, until it is answered or the call's time is over. The servers make sure that
//! "aborted" is told only when it can no longer be contradicted.

use lockstep_proto::durability::Durability;
use lockstep_proto::ids::TxId;
use lockstep_proto::wire::data::OutcomeTold;

use super::*;

/// An unanswered question is asked again after this long; asking twice does no harm.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The wait after a refused question.
const ASK_AGAIN_REFUSED: Duration = Duration::from_millis(4);

/// What to ask, and whom.
struct Question {
    tx: TxId,
    anchor: PartitionId,
    request: u64,
    to_disk: bool,
}

impl ClientCore {
    /// Asks what became of a call's transaction, or waits until the anchor's primary is linked.
    pub(super) fn ask_outcome(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(Question { tx, anchor, request, to_disk }) = self.question(key) else { return };
        let link = self.topology.primary(anchor).ok();
        if let Some(buffer) = link.and_then(|link| out.buffer(link)) {
            Message::AskOutcome { request, tx, anchor, to_disk }.encode(buffer);
            out.mark("client_asked_outcome");
        } else {
            self.want(now, anchor, out);
        }
        self.set_phase(key, Phase::Asking(link));
        self.retry_at(now + ASK_AGAIN_AFTER, key);
    }

    /// Whether `link` is still where a call's question belongs.
    pub(super) fn asks_on(&self, key: Key, link: LinkId) -> bool {
        let Some(Question { anchor, .. }) = self.question(key) else { return true };
        self.topology.primary(anchor).is_ok_and(|primary| primary == link)
    }

    /// The question was refused, which says nothing about the transaction. A name that has expired
    /// is forgotten everywhere: nobody can say any more, however long one asks.
    pub(super) fn on_ask_refused(&mut self, now: Instant, key: Key, code: Code, out: &mut Outputs) {
        if code == Code::DurabilityLost {
            // Of all refusals this one tells the outcome, too.
            let tx = self.close_transaction_of(key);
            let error = CallError::refused(code, "");
            return self.complete(key, Err(CallError { tx, ..error }));
        }
        if code != Code::TransactionExpired {
            self.set_phase(key, Phase::Asking(None));
            return self.retry_at(now + ASK_AGAIN_REFUSED, key);
        }
        out.mark("client_outcome_forgotten");
        let Some(pending) = self.calls.find_mut(key) else { return };
        pending.grace = true;
        match pending.work {
            Work::Batch(_) => self.on_batch_late(now, key, out),
            _ => self.on_step_late(now, key, out),
        }
    }

    pub(super) fn on_outcome(
        &mut self,
        now: Instant,
        request: u64,
        outcome: OutcomeTold,
        out: &mut Outputs,
    ) {
        let key = key_of(request);
        if self.question(key).is_none_or(|question| question.request != request) {
            return;
        }
        match outcome {
            OutcomeTold::Committed(epoch) => {
                out.mark("client_outcome_committed");
                self.see_epoch(epoch);
                self.on_told_committed(key);
            }
            OutcomeTold::Aborted => {
                out.mark("client_outcome_aborted");
                self.on_told_aborted(now, key, out);
            }
        }
    }

    fn on_told_committed(&mut self, key: Key) {
        let (count, wants_rows) = match self.calls.find(key).map(|pending| &pending.work) {
            Some(Work::Batch(batch)) => (batch.operations(), batch.wants_rows),
            Some(Work::Step(step)) => (step.operations(), step.wants_rows()),
            _ => return,
        };
        let tx = self.close_transaction_of(key);
        let completion = if wants_rows {
            let error = CallError::refused(Code::ResultsLost, "");
            Err(CallError { tx, ..error })
        } else {
            let count = u16::try_from(count).expect("bounded by BATCH_OPS_MAX");
            Ok(Reply::Done { results: ResultList::all_done(count), epoch: self.epoch, tx })
        };
        self.complete(key, completion);
    }

    fn on_told_aborted(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(pending) = self.calls.find(key) else { return };
        let code = match pending.grace {
            true => Code::DeadlineExceeded,
            false => Code::AbortedByTakeover,
        };
        let refusal = CallError::refused(code, "");
        match &pending.work {
            Work::Batch(_) => self.on_batch_aborted(now, key, refusal, out),
            _ => self.on_step_aborted(key, refusal),
        }
    }

    /// The error of a call whose outcome could not be learned in time.
    pub(super) fn outcome_unknown(&self, tx: Option<TxId>) -> CallError {
        let error = CallError::refused(Code::DeadlineExceeded, self.topology.trouble());
        CallError { outcome: Outcome::Unknown, tx, ..error }
    }

    fn question(&self, key: Key) -> Option<Question> {
        let (tx, anchor, part, to_disk) = match &self.calls.find(key)?.work {
            Work::Batch(batch) => {
                let to_disk = batch.durability == Durability::Disk;
                (batch.open?.tx, batch.anchor?, batch.ask_part(), to_disk)
            }
            Work::Step(step) => {
                let transaction = self.transactions.find(step.tx)?;
                let to_disk = step.finish == Finish::CommitToDisk;
                (transaction.id()?, transaction.anchor()?, transaction::ASK_PART, to_disk)
            }
            _ => return None,
        };
        Some(Question { tx, anchor, request: request_of(key, part), to_disk })
    }

    fn close_transaction_of(&mut self, key: Key) -> Option<TxId> {
        match self.calls.find(key)?.work {
            Work::Batch(_) => self.close_batch(key),
            Work::Step(Step { tx, .. }) => self.remove_transaction(tx),
            _ => None,
        }
    }

    fn set_phase(&mut self, key: Key, phase: Phase) {
        match self.calls.find_mut(key).map(|pending| &mut pending.work) {
            Some(Work::Batch(batch)) => batch.phase = phase,
            Some(Work::Step(step)) => step.phase = phase,
            _ => {}
        }
    }
}
