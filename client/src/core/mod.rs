//! The client's protocol as a deterministic state machine: routing, sessions, retries, outcomes.
//!
//! Inputs are a [`Call`] handed to [`ClientCore::submit`] and whatever the driver reports
//! ([`Process::handle`]); outputs are frames, effects and the finished calls that
//! [`ClientCore::completions`] drains. Time and randomness are handed in.
//!
//! What it promises, proven in the simulator with these very bytes:
//! * a transaction id is sent once. After a lost answer the core asks the anchor what became of it
//!   and goes on from there; only `Aborted` leads to another attempt, under a new id;
//! * a call ends with success, with an error that left nothing behind, with `Applied` when only the
//!   results are missing, or with `Unknown` when nobody could be asked in time. Never silently;
//! * a committed read is sent to another in-sync replica as soon as the first one is gone.
//!
//! One file per concern: `topology` knows the cluster, `sessions` names transactions, `batch`,
//! `lookup` and `transaction` each carry one kind of call, `outcome` asks after lost answers.

mod batch;
mod call;
mod inbox;
mod lookup;
mod options;
mod outcome;
mod results;
mod sessions;
mod slab;
mod timers;
mod topology;
mod transaction;

#[cfg(test)]
mod tests;

use std::time::Duration;

use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId, StartOrder};
use lockstep_proto::limits::{BATCH_OPS_MAX, FRAME_BYTES_MAX};
use lockstep_proto::process::{Input, LinkId, Outputs, Process};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec::frame_cold;
use lockstep_proto::wire::data::{Finish, Message};
use lockstep_proto::wire::kind;
use lockstep_proto::wire::op::OpList;

pub use call::{
    AtLeast, Call, CallError, CallId, Completion, Moment, Outcome, ReadFrom, Reply, TxHandle,
};
pub use options::ClientOptions;
pub use results::ResultList;

use batch::Batch;
use lookup::{Gathering, Lookup};
use sessions::Sessions;
use slab::{Key, Slab};
use timers::{Timer, Timers};
use topology::{NoRoute, Topology};
use transaction::{Step, Transaction};

/// Calls that may be pending; more are refused as busy. Each costs a few hundred bytes.
pub const CALLS_MAX: usize = 1 << 17;

/// Interactive transactions that may be open; more are refused as busy.
pub const TRANSACTIONS_MAX: usize = 1 << 14;

/// Bytes of operations that may be pending; more are refused as busy.
pub const CALL_BYTES_MAX: usize = 256 << 20;

/// How often deadlines and silent links are looked for while calls are pending: the grain of
/// deadlines, and cheap enough to walk all pending calls.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// Room in a frame for what stands around the operations.
const FRAME_HEAD_BYTES: usize = 256;

/// Low bits of a request number: which message of the call it is.
const PART_BITS: u32 = 12;

/// See the module text.
pub struct ClientCore {
    options: ClientOptions,
    topology: Topology,
    sessions: Sessions,
    /// The shard that owes an answer to `OpenSessions`.
    sessions_asked: Option<LinkId>,
    calls: Slab<Pending>,
    transactions: Slab<Transaction>,
    /// Bytes of operations in `calls`.
    call_bytes: usize,
    done: Vec<(CallId, Completion)>,
    timers: Timers,
    /// When deadlines are looked at next; `None` while nothing is pending.
    sweep_at: Option<Instant>,
    /// The highest epoch any answer carried.
    epoch: Epoch,
    started: bool,
    /// Calls that were refused without a slot, for their ids.
    overflown: u64,
}

/// A call that is not completed.
#[derive(Debug)]
struct Pending {
    deadline: Instant,
    /// Whether `deadline` has been passed once, with the outcome open.
    grace: bool,
    /// When its timer counts; earlier ones are left over from earlier phases.
    retry_at: Instant,
    /// Bytes of operations; 0 for a part of another call.
    bytes: usize,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Batch(Batch),
    Lookup(Lookup),
    Gathering(Gathering),
    Begin(StartOrder),
    Step(Step),
    View,
}

/// Where a call stands with its current attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It cannot be sent yet: a view, link or session is missing.
    Waiting,
    /// It was refused and waits for its timer, or a new view.
    Resting,
    /// The answer is owed on this link.
    Sent(LinkId),
    /// The answer was lost; the outcome is asked for, on this link.
    Asking(Option<LinkId>),
}

impl Phase {
    fn link(self) -> Option<LinkId> {
        match self {
            Self::Sent(link) => Some(link),
            Self::Asking(link) => link,
            Self::Waiting | Self::Resting => None,
        }
    }
}

impl ClientCore {
    /// A client that has not said anything yet; it starts with its first input or call.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self {
            topology: Topology::new(&options),
            sessions: Sessions::new(options.expiry_epochs),
            sessions_asked: None,
            calls: Slab::new(CALLS_MAX),
            transactions: Slab::new(TRANSACTIONS_MAX),
            call_bytes: 0,
            done: Vec::new(),
            timers: Timers::new(options.seed),
            sweep_at: None,
            epoch: Epoch::default(),
            started: false,
            overflown: 0,
            options,
        }
    }

    /// Hands in a call; its completion comes later, or is there at once if it is refused.
    pub fn submit(&mut self, now: Instant, call: Call, out: &mut Outputs) -> CallId {
        self.start(now, out);
        let deadline = now + self.options.deadline;
        let bytes = call.bytes();
        let admitted = self.admit(call).and_then(|work| {
            let full = || CallError::refused(Code::Busy, "too many calls are pending here");
            if self.call_bytes + bytes > CALL_BYTES_MAX {
                return Err(full());
            }
            let pending = Pending { deadline, grace: false, retry_at: now, bytes, work };
            self.calls.insert(pending).map_err(|_| full())
        });
        match admitted {
            Ok(key) => {
                self.call_bytes += bytes;
                self.sweep_at.get_or_insert(now + SWEEP_EVERY);
                self.advance(now, key, out);
                CallId(key.to_number())
            }
            Err(error) => {
                self.overflown += 1;
                let id = CallId(self.overflown | CallId::OVERFLOW);
                self.done.push((id, Err(error)));
                id
            }
        }
    }

    /// Takes the calls completed since the last time, in order of completion.
    pub fn completions(&mut self) -> impl Iterator<Item = (CallId, Completion)> + '_ {
        self.done.drain(..)
    }

    /// The number of the newest view, partitions and members included, if one is known.
    #[must_use]
    pub fn view(&self) -> Option<&std::sync::Arc<lockstep_proto::view::View>> {
        self.topology.view()
    }

    /// How many calls are pending.
    #[must_use]
    pub fn calls_pending(&self) -> usize {
        self.calls.len()
    }

    fn start(&mut self, now: Instant, out: &mut Outputs) {
        if !self.started {
            self.started = true;
            self.topology.dial(now, out, &mut self.timers);
        }
    }

    fn admit(&mut self, call: Call) -> Result<Work, CallError> {
        Ok(match call {
            Call::Batch { ops, durability } => {
                check_size(&ops)?;
                Work::Batch(Batch::new(ops, durability)?)
            }
            Call::Read { ops, from, at } => {
                check_size(&ops)?;
                Work::Lookup(Lookup::rows(ops, from, at)?)
            }
            Call::OpenSnapshot { partition, from, at_least } => {
                Work::Lookup(Lookup::snapshot(partition, from, at_least))
            }
            Call::Sweep { table, schema, partition, from, at, place, rows_max } => {
                let sweep = lookup::Sweep { table, schema, partition, at, place, rows_max };
                Work::Lookup(Lookup::sweep(sweep, from))
            }
            Call::Begin { order } => Work::Begin(order),
            Call::Step { tx, ops } => {
                check_size(&ops)?;
                Work::Step(self.admit_step(tx, ops, Finish::No)?)
            }
            Call::Finish { tx, commit, ops, durability } => {
                let finish = if commit { Finish::commit(durability) } else { Finish::Abort };
                check_size(&ops)?;
                Work::Step(self.admit_step(tx, ops, finish)?)
            }
            Call::Scan { table, schema, partition, from, after, rows_max, at } => {
                let page = lookup::Page { table, schema, partition, after, rows_max, at };
                Work::Lookup(Lookup::page(page, from))
            }
            Call::Leave { node, again } => Work::Lookup(Lookup::leave(node, again)),
            Call::Configure { node, change } => Work::Lookup(Lookup::configure(node, change)),
            Call::Order { node, order } => Work::Lookup(Lookup::order(node, order)),
            Call::Status { node, shard } => Work::Lookup(Lookup::status(node, shard)),
            Call::View => Work::View,
        })
    }

    /// Does for a call what can be done now.
    fn advance(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(pending) = self.calls.find(key) else { return };
        match &pending.work {
            Work::Batch(batch) if matches!(batch.phase, Phase::Asking(_)) => {
                self.ask_outcome(now, key, out);
            }
            Work::Batch(_) => self.send_batch(now, key, out),
            Work::Lookup(_) => self.send_lookup(now, key, out),
            Work::Gathering(_) => {}
            Work::Begin(order) => self.begin(key, *order, out),
            Work::Step(step) if matches!(step.phase, Phase::Asking(_)) => {
                self.ask_outcome(now, key, out);
            }
            Work::Step(_) => self.send_step(now, key, out),
            Work::View => {
                if let Some(view) = self.topology.view() {
                    let view = view.clone();
                    self.complete(key, Ok(Reply::View(view)));
                }
            }
        }
    }

    /// Something that calls wait for has come: goes on with all that can use it.
    fn kick(&mut self, now: Instant, what: Kick, out: &mut Outputs) {
        self.refill_sessions(out);
        let stirred: Vec<Key> = self
            .calls
            .iter()
            .filter(|(key, pending)| match pending.work.phase() {
                Some(Phase::Waiting | Phase::Asking(None)) | None => true,
                Some(Phase::Resting) => what == Kick::View,
                Some(Phase::Asking(Some(link))) => !self.asks_on(*key, link),
                Some(Phase::Sent(_)) => false,
            })
            .map(|(key, _)| key)
            .collect();
        for key in stirred {
            self.advance(now, key, out);
        }
    }

    /// Asks a shard for sessions if none are left.
    fn refill_sessions(&mut self, out: &mut Outputs) {
        if self.sessions_asked.is_some() || !self.sessions.wants_more() {
            return;
        }
        let Some(link) = self.topology.any_shard() else { return };
        let Some(buffer) = out.buffer(link) else { return };
        let count = sessions::SESSIONS_PER_BLOCK;
        frame_cold(buffer, kind::CLIENT, &ClientMessage::OpenSessions { request: 0, count });
        self.sessions_asked = Some(link);
    }

    /// A partition's shard cannot be reached yet: dials it if nobody has.
    fn want(&mut self, now: Instant, partition: PartitionId, out: &mut Outputs) {
        self.topology.want(partition);
        self.topology.dial(now, out, &mut self.timers);
    }

    fn complete(&mut self, key: Key, completion: Completion) {
        let Some(pending) = self.calls.remove(key) else { return };
        self.call_bytes -= pending.bytes;
        if let Work::Lookup(Lookup { parent: Some(parent), .. }) = pending.work {
            self.on_part_done(parent, completion);
        } else {
            self.done.push((CallId(key.to_number()), completion));
        }
    }

    fn see_epoch(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    fn on_link_down(&mut self, now: Instant, link: LinkId, out: &mut Outputs) {
        if self.topology.on_link_down(now, link, &mut self.timers) {
            self.on_link_lost(now, link, out);
        }
    }

    /// Nothing more will come on a link: takes its calls elsewhere.
    fn on_link_lost(&mut self, now: Instant, link: LinkId, out: &mut Outputs) {
        if self.sessions_asked == Some(link) {
            self.sessions_asked = None;
        }
        self.end_transactions_on(link);
        let touched: Vec<Key> = self
            .calls
            .iter()
            .filter(|(_, pending)| pending.work.phase().and_then(Phase::link) == Some(link))
            .map(|(key, _)| key)
            .collect();
        for key in touched {
            match self.calls.find(key).map(|pending| &pending.work) {
                Some(Work::Batch(_)) => self.on_batch_lost(now, key, out),
                Some(Work::Lookup(_)) => self.on_lookup_lost(now, key, out),
                Some(Work::Step(_)) => self.on_step_lost(now, key, out),
                Some(Work::Gathering(_) | Work::Begin(_) | Work::View) | None => {}
            }
        }
        self.refill_sessions(out);
        self.topology.dial(now, out, &mut self.timers);
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Retry(number) => self.on_retry(now, Key::from_number(number), out),
                Timer::Dial => self.topology.dial(now, out, &mut self.timers),
            }
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep(now, out);
        }
    }

    fn on_retry(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(pending) = self.calls.find(key) else { return };
        let rests = matches!(pending.work.phase(), Some(Phase::Resting | Phase::Asking(_)));
        if rests && pending.retry_at <= now {
            self.advance(now, key, out);
        }
    }

    /// Goes on with a call at `at`, unless something happens before.
    fn retry_at(&mut self, at: Instant, key: Key) {
        if let Some(pending) = self.calls.find_mut(key) {
            pending.retry_at = at;
            self.timers.set(at, Timer::Retry(key.to_number()));
        }
    }

    /// Looks for deadlines that have passed and links that owe an answer for too long.
    fn sweep(&mut self, now: Instant, out: &mut Outputs) {
        let mut late = Vec::new();
        let mut owing: Vec<LinkId> = Vec::new();
        for (key, pending) in self.calls.iter() {
            if pending.deadline <= now {
                late.push(key);
            }
            if let Some(link) = pending.work.phase().and_then(Phase::link)
                && !owing.contains(&link)
            {
                owing.push(link);
            }
        }
        for key in late {
            self.on_deadline(now, key, out);
        }
        let limit = self.options.unreachable_after;
        for link in self.topology.find_silent(now, &owing, limit, out) {
            out.mark("client_link_silent");
            if self.topology.cut(now, link, "silent", out, &mut self.timers) {
                self.on_link_lost(now, link, out);
            }
        }
        self.sweep_at = (self.calls.len() > 0).then(|| now + SWEEP_EVERY);
    }

    fn on_deadline(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let Some(pending) = self.calls.find(key) else { return };
        match &pending.work {
            Work::Batch(_) => self.on_batch_late(now, key, out),
            Work::Lookup(lookup) => {
                let error = self.give_up(lookup.refusal.as_deref());
                self.complete(key, Err(error));
            }
            Work::Step(_) => self.on_step_late(now, key, out),
            // Its parts have the same deadline and end it.
            Work::Gathering(_) => {}
            Work::Begin(_) | Work::View => {
                let error = self.give_up(None);
                self.complete(key, Err(error));
            }
        }
    }

    /// The error of a call that has run out of time with nothing left behind: the last refusal, or
    /// that nobody could be reached.
    fn give_up(&self, refusal: Option<&CallError>) -> CallError {
        match refusal {
            Some(refusal) => refusal.clone(),
            None => CallError::refused(Code::Unreachable, self.topology.trouble()),
        }
    }
}

/// What calls were waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kick {
    View,
    Link,
    Sessions,
}

impl Work {
    /// Where a call stands; `None` for those that wait for nothing in particular.
    fn phase(&self) -> Option<Phase> {
        match self {
            Self::Batch(batch) => Some(batch.phase),
            Self::Lookup(lookup) => Some(lookup.phase),
            Self::Step(step) => Some(step.phase),
            Self::Gathering(_) | Self::Begin(_) | Self::View => None,
        }
    }
}

impl Process for ClientCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        self.start(now, out);
        match input {
            Input::Frame { link, bytes } => self.on_frame(now, link, bytes, out),
            Input::LinkUp { link, peer } => {
                self.topology.on_link_up(now, link, peer, out);
                self.kick(now, Kick::Link, out);
            }
            Input::LinkDown { link, .. } => self.on_link_down(now, link, out),
            Input::DialFailed { to, addr, error } => {
                self.topology.on_dial_failed(now, (&to, &addr, error), &mut self.timers);
            }
            Input::Timeout => self.on_timeout(now, out),
            // A client stores and measures nothing, and is ended by dropping it.
            Input::Stored { .. }
            | Input::Disk { .. }
            | Input::Measured { .. }
            | Input::Recovered { .. }
            | Input::Terminate => {}
        }
    }

    fn settle(&mut self, _now: Instant, out: &mut Outputs) {
        self.refill_sessions(out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        if !self.started {
            return Some(Instant::default());
        }
        self.timers.next().into_iter().chain(self.sweep_at).min()
    }
}

/// The number a request travels under: the call's key and which of its messages it is.
fn request_of(key: Key, part: u32) -> u64 {
    key.to_number() << PART_BITS | u64::from(part) & ((1 << PART_BITS) - 1)
}

fn key_of(request: u64) -> Key {
    Key::from_number(request >> PART_BITS)
}

fn check_size(ops: &OpList) -> Result<(), CallError> {
    let (count, bytes) = (ops.as_ops().len(), ops.as_ops().byte_len());
    if count > BATCH_OPS_MAX || bytes > FRAME_BYTES_MAX - FRAME_HEAD_BYTES {
        let text = format!("{count} operations of {bytes} bytes");
        return Err(CallError::refused(Code::BatchTooLarge, text));
    }
    Ok(())
}
