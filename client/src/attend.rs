//! The core together with those who wait for its calls: the bridge to tasks and wakers.
//!
//! Each call somebody waits for has a *seat* in a plain table: it holds a waker, a listener or the
//! completion, until that is fetched. No allocation, channel or hash per call. A call's slot in the
//! core is free for another one as soon as it is completed, its seat only when it is left, so slots
//! lead to seats and are not the same.
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
    seats: Vec<Guest>,
    /// Seats that nobody has.
    free: Vec<u32>,
    /// By the slot of the call: which call it is, and its seat.
    slots: Vec<Option<(CallId, u32)>>,
}

/// Who has a seat.
#[derive(Default)]
enum Guest {
    /// Nobody.
    #[default]
    Nobody,
    /// A task that wants to be woken.
    Task(Waker),
    /// Somebody who wants to be told.
    Listener(Arc<dyn Listener>),
    /// A task that has been woken and may fetch this.
    Done(Completion),
    /// A task that has left before the call was completed.
    Left,
}

impl Connection {
    /// Starts driving a core on the current tokio runtime.
    pub(crate) fn spawn(core: ClientCore, options: EmbeddedOptions) -> Self {
        Self { embedded: Embedded::spawn(Attended::new(core), options) }
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
            attended.submit(now, call, out, Guest::Left);
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
    Seated(u32),
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
            Stage::Seated(seat) => {
                let seat = *seat;
                this.connection.embedded.with(|_, attended, _| attended.fetch(seat, cx.waker()))
            }
            Stage::Over => panic!("polled after completion"),
        };
        match entered {
            Entered::Done(completion) => {
                this.stage = Stage::Over;
                Poll::Ready(completion)
            }
            Entered::Seated(seat) => {
                this.stage = Stage::Seated(seat);
                Poll::Pending
            }
        }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Stage::Seated(seat) = self.stage {
            self.connection.embedded.with(|_, attended, _| attended.leave(seat));
        }
    }
}

/// What became of handing in a call, or of asking for its completion.
enum Entered {
    Done(Completion),
    Seated(u32),
}

impl Attended {
    fn new(core: ClientCore) -> Self {
        Self { core, seats: Vec::new(), free: Vec::new(), slots: Vec::new() }
    }

    fn submit(&mut self, now: Instant, call: Call, out: &mut Outputs, guest: Guest) -> Entered {
        let id = self.core.submit(now, call, out);
        let mut own = None;
        for (done, completion) in self.core.completions() {
            if done == id {
                own = Some(completion);
            } else {
                deliver(&mut self.slots, &mut self.seats, &mut self.free, done, completion);
            }
        }
        match own {
            Some(completion) => Entered::Done(completion),
            None => Entered::Seated(self.seat(id, guest)),
        }
    }

    fn seat(&mut self, id: CallId, guest: Guest) -> u32 {
        let slot = id.slot().expect("a call without a slot is completed at once");
        let seat = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Guest::Nobody);
            u32::try_from(self.seats.len() - 1).expect("as many as there are tasks")
        });
        self.seats[seat as usize] = guest;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some((id, seat));
        seat
    }

    /// The completion, if it is there; else the waker takes the seat.
    fn fetch(&mut self, seat: u32, waker: &Waker) -> Entered {
        let guest = &mut self.seats[seat as usize];
        match guest {
            Guest::Done(_) => {
                let Guest::Done(completion) = std::mem::take(guest) else { unreachable!() };
                self.free.push(seat);
                Entered::Done(completion)
            }
            Guest::Task(known) => {
                known.clone_from(waker);
                Entered::Seated(seat)
            }
            Guest::Nobody | Guest::Listener(_) | Guest::Left => {
                unreachable!("a task keeps its seat until it has fetched its completion")
            }
        }
    }

    /// A task goes away before it has fetched its completion.
    fn leave(&mut self, seat: u32) {
        let guest = &mut self.seats[seat as usize];
        if matches!(guest, Guest::Done(_)) {
            *guest = Guest::Nobody;
            self.free.push(seat);
        } else {
            *guest = Guest::Left;
        }
    }

    fn deliver_all(&mut self) {
        for (id, completion) in self.core.completions() {
            deliver(&mut self.slots, &mut self.seats, &mut self.free, id, completion);
        }
    }
}

fn deliver(
    slots: &mut [Option<(CallId, u32)>],
    seats: &mut [Guest],
    free: &mut Vec<u32>,
    id: CallId,
    completion: Completion,
) {
    let entry = id.slot().and_then(|slot| slots.get_mut(slot));
    let Some(entry) = entry.filter(|entry| entry.is_some_and(|(call, _)| call == id)) else {
        return;
    };
    let Some((_, seat)) = entry.take() else { return };
    let guest = &mut seats[seat as usize];
    match std::mem::take(guest) {
        Guest::Task(waker) => {
            *guest = Guest::Done(completion);
            waker.wake();
            return;
        }
        Guest::Listener(listener) => listener.on_completed(completion),
        Guest::Nobody | Guest::Left | Guest::Done(_) => {}
    }
    free.push(seat);
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
