//! What a core's task has to look at next: the slots of ready links and notices from elsewhere.
//!
//! Every link owns a waker that puts its slot here, once, and wakes the task, once: an idle link
//! costs a turn nothing, and a task that is already awake is not woken again. Invariant: after
//! [`ReadyQueue::take`] any later push wakes the task again.

use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use lockstep_proto::disk::{Completion, Lane};
use lockstep_proto::ids::Epoch;
use lockstep_proto::process::{DialError, Peer, Target};
use lockstep_proto::report::Report;
use parking_lot::Mutex;
use tokio::net::TcpStream;

/// A reason to look that is not a link: comes from other tasks and threads.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A connection was accepted for this core.
    Accepted {
        /// Taken out of the listening runtime.
        stream: StdStream,
        /// Who the hello said is there.
        peer: Peer,
        /// Counts the connection until it is dropped.
        permit: tokio::sync::OwnedSemaphorePermit,
    },
    /// A dial came to an end.
    Dialled {
        /// What was asked for.
        to: Target,
        /// Where.
        addr: String,
        /// The connection and who is there, or why not.
        result: Result<(TcpStream, Peer), DialError>,
    },
    /// A small file is on stable storage, or failed.
    Stored {
        /// Comes from the effect.
        token: u64,
        /// Whether it is durable.
        ok: bool,
    },
    /// Steps on data files were executed.
    Disk {
        /// Comes from the effect.
        lane: Lane,
        /// What became of them.
        done: Completion,
    },
    /// The node's own files were looked at, or restored from.
    Recovered {
        /// Comes from the effect.
        token: u64,
        /// What came of it.
        result: Result<Epoch, String>,
    },
    /// Use of the machine was measured.
    Measured {
        /// Comes from the effect.
        token: u64,
        /// CPU time of the operating-system process, in microseconds.
        cpu_us: u64,
        /// Its resident memory.
        rss_bytes: u64,
    },
    /// Somebody wants to know how the core is.
    Ask {
        /// Takes what it says.
        answer: tokio::sync::oneshot::Sender<Option<Report>>,
    },
    /// The operator asks for an orderly end.
    Terminate,
    /// End the task: another thread ended the node, or the last handle is gone.
    Stop,
}

/// Slots and notices for one task.
#[derive(Default, Debug)]
pub(crate) struct ReadyQueue {
    state: Mutex<State>,
}

#[derive(Default, Debug)]
struct State {
    slots: Vec<u32>,
    notices: Vec<Notice>,
    timer: bool,
    /// The task's waker; absent while the task is awake or about to be.
    waker: Option<Waker>,
}

/// What [`ReadyQueue::take`] fills; kept by the task so that its memory is used again.
#[derive(Default, Debug)]
pub(crate) struct Ready {
    pub(crate) slots: Vec<u32>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) timer: bool,
}

impl Ready {
    /// Nothing but a bare wake.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.notices.is_empty() && !self.timer
    }
}

impl ReadyQueue {
    /// Takes everything there is and leaves the waker for what comes next.
    pub(crate) fn take(&self, into: &mut Ready, waker: &Waker) {
        into.slots.clear();
        into.notices.clear();
        let mut state = self.state.lock();
        std::mem::swap(&mut state.slots, &mut into.slots);
        std::mem::swap(&mut state.notices, &mut into.notices);
        into.timer = std::mem::take(&mut state.timer);
        if state.waker.is_none() {
            state.waker = Some(waker.clone());
        }
    }

    /// Adds a notice.
    pub(crate) fn post(&self, notice: Notice) {
        self.push(|state| state.notices.push(notice));
    }

    /// Wakes the task, which will look at its core even if no link is ready.
    pub(crate) fn wake(&self) {
        self.push(|_| ());
    }

    fn push(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The waker of one link.
#[derive(Debug)]
pub(crate) struct SlotWaker {
    queue: Arc<ReadyQueue>,
    slot: u32,
    queued: AtomicBool,
}

impl SlotWaker {
    /// A waker that puts `slot` on `queue`.
    pub(crate) fn new(queue: Arc<ReadyQueue>, slot: u32) -> Arc<Self> {
        Arc::new(Self { queue, slot, queued: AtomicBool::new(false) })
    }

    /// Says that the slot was taken and may be queued again. Call before looking at the link.
    pub(crate) fn taken(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.queue.push(|state| state.slots.push(self.slot));
        }
    }
}

/// The waker of a task's timer, so that the timer needs no look unless it fired.
#[derive(Debug)]
pub(crate) struct TimerWaker(pub(crate) Arc<ReadyQueue>);

impl Wake for TimerWaker {
    fn wake(self: Arc<Self>) {
        self.0.push(|state| state.timer = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct CountingWaker(std::sync::atomic::AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_is_woken_once_and_a_slot_is_queued_once() {
        let queue = Arc::new(ReadyQueue::default());
        let count = Arc::new(CountingWaker::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut ready = Ready::default();
        queue.take(&mut ready, &waker);
        let link = SlotWaker::new(Arc::clone(&queue), 7);
        link.wake_by_ref();
        link.wake_by_ref();
        queue.post(Notice::Terminate);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        queue.take(&mut ready, &waker);
        assert_eq!((ready.slots.as_slice(), ready.notices.len()), ([7].as_slice(), 1));
        link.taken();
        link.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }
}
