//! Interactive transactions: steps that hold locks between requests, then an end.
//!
//! ```text
//!   begun --step--> open --step--> open ... --finish--> gone
//!     |              |                         |
//!     +--------------+--- refused, lost -> ended (answers all with its code) --finish--> gone
//! ```
//!
//! The coordinator is the primary of the first key touched and stays it. The anchor is fixed at the
//! first write. A link lost before the commit was asked for means an abort, for nobody can commit
//! what was never prepared; a link lost after that is a question for the anchor, if anything was
//! written.

use lockstep_proto::ids::{StartOrder, TxId};
use lockstep_proto::wire::data::{Execute, Results};

use super::batch::{Scope, back_off_after};
use super::sessions::OpenTx;
use super::*;

/// Message parts of a step: the request is even, the question for the outcome is this.
pub(super) const ASK_PART: u32 = (1 << PART_BITS) - 1;

/// What is said about transactions that ended with their link.
const LINK_LOST: &str = "the link to its coordinator was lost";

/// An open interactive transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    session: Key,
    /// The current id; `None` once the client knows what became of it.
    open: Option<OpenTx>,
    order: StartOrder,
    /// The way to the coordinator, once something was sent.
    link: Option<LinkId>,
    touched: Option<PartitionId>,
    written: Option<PartitionId>,
    /// Requests answered so far.
    step: u32,
    /// The pending call of this transaction.
    busy: Option<Key>,
    /// Why it cannot go on.
    ended: Option<Box<CallError>>,
}

impl Transaction {
    pub(super) fn id(&self) -> Option<TxId> {
        self.open.map(|open| open.tx)
    }

    pub(super) fn anchor(&self) -> Option<PartitionId> {
        self.written
    }
}

/// One request of a transaction.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) tx: Key,
    ops: OpList,
    scope: Scope,
    pub(super) finish: Finish,
    attempts: u32,
    pub(super) phase: Phase,
}

impl Step {
    pub(super) fn operations(&self) -> usize {
        self.ops.as_ops().len()
    }

    /// Whether the caller waits for more than success.
    pub(super) fn wants_rows(&self) -> bool {
        self.scope.wants_rows
    }
}

impl ClientCore {
    /// Checks that a step may be taken now. An abort may also interrupt a step.
    pub(super) fn admit_step(
        &self,
        tx: TxHandle,
        ops: OpList,
        finish: Finish,
    ) -> Result<Step, CallError> {
        let Some(transaction) = self.transactions.find(tx.0) else {
            return Err(CallError::refused(Code::NoSuchTransaction, ""));
        };
        let busy = transaction.busy.and_then(|key| self.calls.find(key));
        if let Some(Pending { work: Work::Step(under_way), .. }) = busy
            && (under_way.finish != Finish::No || finish != Finish::Abort)
        {
            let text = "a step of this transaction is under way";
            return Err(CallError::refused(Code::Busy, text));
        }
        let ops = if finish == Finish::Abort { OpList::default() } else { ops };
        let scope = Scope::of(&ops);
        Ok(Step { tx: tx.0, ops, scope, finish, attempts: 0, phase: Phase::Waiting })
    }

    /// Opens a transaction, if there is a session for it.
    pub(super) fn begin(&mut self, key: Key, order: StartOrder, out: &mut Outputs) {
        let Some(session) = self.sessions.acquire() else { return self.refill_sessions(out) };
        let transaction = Transaction {
            session,
            open: Some(self.sessions.open(session, self.epoch)),
            order,
            link: None,
            touched: None,
            written: None,
            step: 0,
            busy: None,
            ended: None,
        };
        match self.transactions.insert(transaction) {
            Ok(tx) => self.complete(key, Ok(Reply::Begun(TxHandle(tx)))),
            Err(Transaction { open, .. }) => {
                open.into_iter().for_each(|open| self.sessions.close(open));
                self.sessions.release(session);
                let text = "too many transactions are open here";
                self.complete(key, Err(CallError::refused(Code::Busy, text)));
            }
        }
    }

    /// Sends a step, if it can leave and has to.
    pub(super) fn send_step(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        self.interrupt(key);
        let Some((step, transaction)) = self.step_mut(key) else { return };
        step.phase = Phase::Waiting;
        let (finish, touched) = (step.finish, step.scope.touched);
        if let Some(ended) = &transaction.ended {
            let refusal = (**ended).clone();
            return self.end_with(key, refusal);
        }
        let link = match (transaction.link, touched) {
            (Some(link), _) => link,
            (None, None) => return self.end_unsent(key),
            (None, Some(partition)) => match self.topology.primary(partition) {
                Ok(link) => link,
                Err(NoRoute::Wait) => return self.want(now, partition, out),
                Err(NoRoute::Never(error)) => return self.on_step_aborted(key, error),
            },
        };
        self.write_step(key, link, finish, out);
    }

    fn write_step(&mut self, key: Key, link: LinkId, finish: Finish, out: &mut Outputs) {
        let (epoch, sessions) = (self.epoch, &self.sessions);
        let Some((step, transaction)) = find_step(&mut self.calls, &mut self.transactions, key)
        else {
            return;
        };
        let Some(buffer) = out.buffer(link) else { return };
        let Some(open) = transaction.open else { return };
        transaction.link = Some(link);
        transaction.touched = transaction.touched.or(step.scope.touched);
        transaction.written = transaction.written.or(step.scope.written);
        let anchor = transaction.written.or(transaction.touched);
        Message::Execute(Execute {
            request: request_of(key, step.attempts * 2),
            tx: open.tx,
            low: sessions.low(open.session),
            order: transaction.order,
            epoch,
            anchor: anchor.expect("something was touched, or nothing would be sent"),
            step: transaction.step,
            finish,
            ops: step.ops.as_ops(),
        })
        .encode(buffer);
        step.phase = Phase::Sent(link);
    }

    pub(super) fn on_step_answer(
        &mut self,
        request: u64,
        order: StartOrder,
        results: Results<'_>,
    ) -> Result<(), WireError> {
        let key = key_of(request);
        let Some((step, transaction)) = self.step_mut(key) else { return Ok(()) };
        if !step.is_owed(key, request) {
            return Ok(());
        }
        let (finish, tx) = (step.finish, step.tx);
        let results = match finish {
            Finish::Abort => ResultList::default(),
            Finish::No | Finish::Commit | Finish::CommitToDisk => {
                ResultList::from_wire(results, step.operations())?
            }
        };
        transaction.step += 1;
        transaction.busy = None;
        if order.is_stamped() {
            transaction.order = order;
        }
        let tx = match finish {
            Finish::No => transaction.id(),
            Finish::Commit | Finish::CommitToDisk | Finish::Abort => self.remove_transaction(tx),
        };
        self.complete(key, Ok(Reply::Done { results, epoch: self.epoch, tx }));
        Ok(())
    }

    pub(super) fn on_step_refused(
        &mut self,
        now: Instant,
        request: u64,
        refusal: CallError,
        out: &mut Outputs,
    ) {
        let key = key_of(request);
        if request == request_of(key, ASK_PART) {
            return self.on_ask_refused(now, key, refusal.code, out);
        }
        let Some((step, transaction)) = self.step_mut(key) else { return };
        if !step.is_owed(key, request) {
            return;
        }
        let (attempts, is_asking) = (step.attempts, matches!(step.phase, Phase::Asking(_)));
        if transaction.step > 0 || is_asking || !is_about_routing(refusal.code) {
            return self.end_with(key, refusal);
        }
        self.reopen(key);
        let (base, max) = back_off_after(refusal.code);
        if let Some((step, _)) = self.step_mut(key) {
            step.phase = Phase::Resting;
        }
        let wait = self.timers.back_off(base, attempts, max);
        self.retry_at(now + wait, key);
        out.mark("client_first_step_sent_again");
    }

    /// The link that owed the answer is gone.
    pub(super) fn on_step_lost(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some((step, transaction)) = self.step_mut(key) else { return };
        match step.finish {
            Finish::Commit | Finish::CommitToDisk if transaction.written.is_some() => {
                step.phase = Phase::Asking(None);
                self.ask_outcome(now, key, out);
            }
            Finish::No if transaction.step == 0 => {
                self.reopen(key);
                out.mark("client_first_step_sent_again");
                self.send_step(now, key, out);
            }
            Finish::Commit | Finish::CommitToDisk | Finish::No | Finish::Abort => {
                out.mark("client_transaction_lost");
                self.end_with(key, CallError::refused(Code::AbortedByTakeover, LINK_LOST));
            }
        }
    }

    pub(super) fn on_step_late(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let grace = self.calls.find(key).is_some_and(|pending| pending.grace);
        let Some((step, transaction)) = self.step_mut(key) else { return };
        let asks = step.finish.commits() && transaction.written.is_some();
        match step.phase {
            Phase::Waiting | Phase::Resting => {
                let error = self.give_up(None);
                self.end_with(key, error);
            }
            Phase::Sent(_) | Phase::Asking(_) if !asks => {
                self.send_abort(key, out);
                self.end_with(key, CallError::refused(Code::DeadlineExceeded, ""));
            }
            Phase::Sent(_) | Phase::Asking(_) if !grace => {
                step.phase = Phase::Asking(None);
                if let Some(pending) = self.calls.find_mut(key) {
                    pending.grace = true;
                    pending.deadline = now + self.options.unreachable_after;
                }
                self.ask_outcome(now, key, out);
            }
            Phase::Sent(_) | Phase::Asking(_) => {
                out.mark("client_outcome_unknown");
                let tx = step.tx;
                let tx = self.remove_transaction(tx);
                self.complete(key, Err(self.outcome_unknown(tx)));
            }
        }
    }

    /// Nothing of the transaction was applied and nothing will be.
    pub(super) fn on_step_aborted(&mut self, key: Key, mut refusal: CallError) {
        let Some((step, transaction)) = self.step_mut(key) else { return };
        if !refusal.order.is_stamped() {
            refusal.order = transaction.order;
        }
        refusal.tx = refusal.tx.or(transaction.id());
        let (finish, tx) = (step.finish, step.tx);
        if finish == Finish::No {
            transaction.busy = None;
            self.end_transaction(tx, refusal.clone());
        } else {
            self.remove_transaction(tx);
        }
        self.complete(key, Err(refusal));
    }

    /// As [`Self::on_step_aborted`]; for one who wanted the abort it is a success.
    fn end_with(&mut self, key: Key, refusal: CallError) {
        let Some((step, _)) = self.step_mut(key) else { return };
        if step.finish == Finish::Abort {
            self.end_unsent(key)
        } else {
            self.on_step_aborted(key, refusal);
        }
    }

    /// There is nothing to be sent: a transaction that did nothing ends with success either way.
    fn end_unsent(&mut self, key: Key) {
        let Some((step, transaction)) = self.step_mut(key) else { return };
        let (finish, tx) = (step.finish, step.tx);
        transaction.busy = None;
        let tx = if finish == Finish::No { transaction.id() } else { self.remove_transaction(tx) };
        let results = ResultList::default();
        self.complete(key, Ok(Reply::Done { results, epoch: self.epoch, tx }));
    }

    /// A link is gone: transactions coordinated behind it, and idle now, are aborted there.
    pub(super) fn end_transactions_on(&mut self, link: LinkId) {
        let idle: Vec<Key> = self
            .transactions
            .iter()
            .filter(|(_, tx)| tx.link == Some(link) && tx.busy.is_none() && tx.ended.is_none())
            .map(|(key, _)| key)
            .collect();
        for key in idle {
            self.end_transaction(key, CallError::refused(Code::AbortedByTakeover, LINK_LOST));
        }
    }

    fn end_transaction(&mut self, tx: Key, mut refusal: CallError) {
        let Some(transaction) = self.transactions.find_mut(tx) else { return };
        if !refusal.order.is_stamped() {
            refusal.order = transaction.order;
        }
        transaction.ended = Some(Box::new(refusal));
        transaction.open.take().into_iter().for_each(|open| self.sessions.close(open));
    }

    /// Forgets a transaction; what became of it is known, or will not be asked again.
    pub(super) fn remove_transaction(&mut self, tx: Key) -> Option<TxId> {
        let Transaction { open, session, .. } = self.transactions.remove(tx)?;
        open.into_iter().for_each(|open| self.sessions.close(open));
        self.sessions.release(session);
        open.map(|open| open.tx)
    }

    /// Nothing of the transaction exists anywhere: it starts again under a new id.
    fn reopen(&mut self, key: Key) {
        let epoch = self.epoch;
        let Some((step, transaction)) = find_step(&mut self.calls, &mut self.transactions, key)
        else {
            return;
        };
        step.attempts += 1;
        transaction.open.take().into_iter().for_each(|open| self.sessions.close(open));
        transaction.open = Some(self.sessions.open(transaction.session, epoch));
        (transaction.link, transaction.touched, transaction.written) = (None, None, None);
    }

    /// Makes a call the one its transaction is busy with; an abort takes the place of a step.
    fn interrupt(&mut self, key: Key) {
        let Some((_, transaction)) = self.step_mut(key) else { return };
        let before = transaction.busy.replace(key);
        if let Some(before) = before.filter(|before| *before != key) {
            self.complete(before, Err(CallError::refused(Code::AbortedByClient, "")));
        }
    }

    /// Tells the coordinator to let go; nobody waits for the answer.
    fn send_abort(&mut self, key: Key, out: &mut Outputs) {
        let Some((step, transaction)) = self.step_mut(key) else { return };
        step.ops = OpList::default();
        step.attempts += 1;
        transaction.step += 1;
        if let Some(link) = transaction.link {
            self.write_step(key, link, Finish::Abort, out);
        }
    }

    fn step_mut(&mut self, key: Key) -> Option<(&mut Step, &mut Transaction)> {
        find_step(&mut self.calls, &mut self.transactions, key)
    }
}

impl Step {
    /// Whether this is the request whose answer is awaited.
    fn is_owed(&self, key: Key, request: u64) -> bool {
        matches!(self.phase, Phase::Sent(_) | Phase::Asking(_))
            && request == request_of(key, self.attempts * 2)
    }
}

fn find_step<'a>(
    calls: &'a mut Slab<Pending>,
    transactions: &'a mut Slab<Transaction>,
    key: Key,
) -> Option<(&'a mut Step, &'a mut Transaction)> {
    let Work::Step(step) = &mut calls.find_mut(key)?.work else { return None };
    let transaction = transactions.find_mut(step.tx)?;
    Some((step, transaction))
}

/// Refusals of a first step that only mean "ask somebody else".
fn is_about_routing(code: Code) -> bool {
    matches!(
        code,
        Code::NotPrimary
            | Code::NotReplica
            | Code::ViewChanged
            | Code::NotServing
            | Code::Leaving
            | Code::Busy
    )
}
