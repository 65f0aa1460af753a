//! The core together with those who wait for its calls: the bridge to tasks and wakers.
//!
//! Each pending call has a *seat* in a plain table, indexed by the small number in its id; a seat
//! holds a waker, a listener or the completion. No allocation, channel or hash per call.
//!
//! Invariant: lock order is core, then whatever a listener locks; nothing of ours is locked while
//! the core is entered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lockstep_proto::process::{Input, Outputs, Process};
use lockstep_proto::time::Instant;
use lockstep_runtime::{Embedded, EmbeddedOptions};

use crate::core::{Call, CallId, ClientCore, Completion};

/// Hears of a completion without being polled.
pub(crate) trait Listener: Send + Sync {
    /// Called once, while the core is entered: must not call into the connection.
    fn on_completed(&self, completion: Completion);
}

/// A running core.
#[derive(Clone)]
pub(crate) struct Connection {
    embedded: Embedded<Attended>,
}

/// See the module text.
struct Attended {
    core: ClientCore,
    /// By the slot of the call.
    seats: Vec<Seat>,
}

/// Who waits for the call in a slot.
#[derive(Default)]
struct Seat {
    call: Option<CallId>,
    guest: Guest,
}

#[derive(Default)]
enum Guest {
    /// Nobody, or somebody who has left.
    #[default]
    Nobody,
    Task(Waker),
    Listener(Arc<dyn Listener>),
    /// The completion came first.
    Done(Completion),
}

impl Connection {
    /// Starts driving a core on the current tokio runtime.
    pub(crate) fn spawn(core: ClientCore, options: EmbeddedOptions) -> Self {
        Self { embedded: Embedded::spawn(Attended { core, seats: Vec::new() }, options) }
    }

    /// Hands in a call when first polled. Dropping the future forgets the call: what was sent may
    /// still take effect.
    pub(crate) fn call(&self, call: Call) -> Calling<'_> {
        Calling { connection: self, stage: Stage::New(Some(call)) }
    }

    /// Hands in a call whose completion somebody listens for.
    pub(crate) fn call_with(&self, call: Call, listener: Arc<dyn Listener>) {
        let done = self.embedded.with(|now, attended, out| {
            attended.submit(now, call, out, Guest::Listener(Arc::clone(&listener)))
        });
        if let Entered::Done(completion) = done {
            listener.on_completed(completion);
        }
    }

    /// Hands in a call that nobody waits for.
    pub(crate) fn call_and_forget(&self, call: Call) {
        self.embedded.with(|now, attended, out| {
            attended.submit(now, call, out, Guest::Nobody);
        });
    }
}

/// A call, as a future.
pub(crate) struct Calling<'a> {
    connection: &'a Connection,
    stage: Stage,
}

enum Stage {
    New(Option<Call>),
    Seated(CallId),
    Over,
}

impl Future for Calling<'_> {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let this = &mut *self;
        let entered = match &mut this.stage {
            Stage::New(call) => {
                let call = call.take().expect("taken once, when the stage changes");
                let guest = Guest::Task(cx.waker().clone());
                let enter = |now, attended: &mut Attended, out: &mut Outputs| {
                    attended.submit(now, call, out, guest)
                };
                this.connection.embedded.with(enter)
            }
            Stage::Seated(id) => {
                let id = *id;
                this.connection.embedded.with(|_, attended, _| attended.take(id, cx.waker()))
            }
            Stage::Over => panic!("polled after completion"),
        };
        match entered {
            Entered::Done(completion) => {
                this.stage = Stage::Over;
                Poll::Ready(completion)
            }
            Entered::Seated(id) => {
                this.stage = Stage::Seated(id);
                Poll::Pending
            }
        }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Stage::Seated(id) = self.stage {
            self.connection.embedded.with(|_, attended, _| attended.leave(id));
        }
    }
}

/// What became of handing in a call, or of asking for its completion.
enum Entered {
    Done(Completion),
    Seated(CallId),
}

impl Attended {
    fn submit(&mut self, now: Instant, call: Call, out: &mut Outputs, guest: Guest) -> Entered {
        let id = self.core.submit(now, call, out);
        if let Some(slot) = id.slot() {
            if self.seats.len() <= slot {
                self.seats.resize_with(slot + 1, Seat::default);
            }
            self.seats[slot] = Seat { call: Some(id), guest };
        }
        let mut own = None;
        for (done, completion) in self.core.completions() {
            if done == id {
                own = Some(completion);
            } else {
                deliver(&mut self.seats, done, completion);
            }
        }
        match own {
            Some(completion) => {
                self.leave(id);
                Entered::Done(completion)
            }
            None => Entered::Seated(id),
        }
    }

    /// The completion, if it is there; else the waker takes the seat.
    fn take(&mut self, id: CallId, waker: &Waker) -> Entered {
        let Some(seat) = seat(&mut self.seats, id) else { return Entered::Seated(id) };
        match std::mem::take(&mut seat.guest) {
            Guest::Done(completion) => {
                seat.call = None;
                Entered::Done(completion)
            }
            Guest::Task(known) if known.will_wake(waker) => {
                seat.guest = Guest::Task(known);
                Entered::Seated(id)
            }
            Guest::Task(_) | Guest::Nobody | Guest::Listener(_) => {
                seat.guest = Guest::Task(waker.clone());
                Entered::Seated(id)
            }
        }
    }

    fn leave(&mut self, id: CallId) {
        if let Some(seat) = seat(&mut self.seats, id) {
            *seat = Seat::default();
        }
    }

    fn deliver_all(&mut self) {
        for (id, completion) in self.core.completions() {
            deliver(&mut self.seats, id, completion);
        }
    }
}

fn seat(seats: &mut [Seat], id: CallId) -> Option<&mut Seat> {
    seats.get_mut(id.slot()?).filter(|seat| seat.call == Some(id))
}

fn deliver(seats: &mut [Seat], id: CallId, completion: Completion) {
    let Some(seat) = seat(seats, id) else { return };
    match std::mem::take(&mut seat.guest) {
        Guest::Task(waker) => {
            seat.guest = Guest::Done(completion);
            waker.wake();
        }
        Guest::Listener(listener) => {
            seat.call = None;
            listener.on_completed(completion);
        }
        Guest::Nobody | Guest::Done(_) => seat.call = None,
    }
}

impl Process for Attended {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        self.core.handle(now, input, out);
    }

    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        self.core.settle(now, out);
        self.deliver_all();
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.core.next_timeout()
    }
}
