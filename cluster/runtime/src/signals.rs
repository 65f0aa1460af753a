//! SIGTERM and SIGINT: heard by one operating-system process for all that it runs, one after the
//! other.
//!
//! Invariant: that the process was told to end is never forgotten: who runs when a signal comes is
//! told, or who runs next, and [`EndSignals::told_to_end`] stays true.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use crate::ready::{Notice, ReadyQueue};

/// What shells report for a process ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// See the module text.
#[derive(Debug, Default)]
pub struct EndSignals {
    told: AtomicBool,
    /// Kept while nobody listens: what comes meanwhile is heard later.
    heard: Mutex<Option<[Signal; 2]>>,
}

impl EndSignals {
    /// Whether a signal has come.
    #[must_use]
    pub fn told_to_end(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Posts the first signal to this queue, and ends the process at the second one.
    pub(crate) async fn pass_on(self: Arc<Self>, queue: Arc<ReadyQueue>) {
        let mut heard = self.heard.lock().await;
        let [terminate, interrupt] = match &mut *heard {
            Some(signals) => signals,
            none => match listen() {
                Ok(signals) => none.insert(signals),
                Err(error) => return tracing::warn!("signals end it at once: {error}"),
            },
        };
        if self.told_to_end() {
            queue.post(Notice::Terminate);
        }
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if self.told.swap(true, Ordering::AcqRel) {
                tracing::warn!("asked to end for the second time: ending without leave");
                std::process::exit(INTERRUPTED);
            }
            queue.post(Notice::Terminate);
        }
    }
}

fn listen() -> io::Result<[Signal; 2]> {
    Ok([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?])
}
