//! The one timer of a core. Deadlines move with nearly every message; the kernel's timer does not:
//! it is set anew only for an *earlier* deadline, and a timer that fires too early costs one turn.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};

use lockstep_proto::time::Instant;
use tokio::time::Sleep;

use crate::ready::{ReadyQueue, TimerWaker};

/// See the module text.
pub(crate) struct Timer {
    waker: Waker,
    /// Made in the runtime that drives it, so not before the first deadline.
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(queue: Arc<ReadyQueue>) -> Self {
        Self { waker: Waker::from(Arc::new(TimerWaker(queue))), sleep: None, armed: None }
    }

    /// The timer has fired; the next [`Timer::arm`] sets it anew.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Has the core looked at again once the runtime has asked the kernel for news.
    fn take_another_turn(&self) {
        let mut turn = pin!(tokio::task::yield_now());
        if turn.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
            self.waker.wake_by_ref();
        }
    }

    /// Makes sure that the core is looked at when `next` has come.
    pub(crate) fn arm(&mut self, now: Instant, next: Option<Instant>) {
        let Some(next) = next else { return };
        if next <= now {
            // The core has more to do and gives others a turn: the sockets are looked at first. The
            // timer would take a millisecond, whatever it is asked for.
            return self.take_another_turn();
        }
        if self.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        self.armed = Some(next);
        let deadline = tokio::time::Instant::now() + next.since(now);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => self.sleep.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        if sleep.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
            self.waker.wake_by_ref();
        }
    }
}
