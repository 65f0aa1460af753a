//! A core inside somebody else's tokio runtime: the client library. The application's tasks work
//! on the core under a lock; one driving task owns its sockets.
//!
//! Invariant: the lock is never held across an await; a call only notes what is to be sent, and
//! the driving task sends what all calls of one scheduling round noted with one write per link.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_proto::ids::{ClusterId, NodeId};
use lockstep_proto::process::{Outputs, Process};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::hello::Speaker;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::clock;
use crate::counters::Counters;
use crate::dial::Dialler;
use crate::disk::Lanes;
use crate::reactor::{Core, Outside, Reactor, Shared};
use crate::ready::Notice;

/// How an embedded core meets the world.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedOptions {
    /// For the log; "client" if empty.
    pub name: String,
    /// The cluster, where it is known; otherwise it is learnt from the first server that answers,
    /// and servers of another one are not spoken to from then on.
    pub cluster: Option<ClusterId>,
    /// Addresses to use instead of those the view names.
    pub peer_addrs: BTreeMap<NodeId, String>,
    /// Counts of what went wrong at the edge.
    pub counters: Arc<Counters>,
}

/// A handle to a core that is driven by a task. Cheap to clone; when the last clone is dropped the
/// task sends what was noted, closes its sockets and ends.
pub struct Embedded<P> {
    handle: Arc<Owner<P>>,
}

struct Owner<P> {
    shared: Arc<Shared<P>>,
}

impl<P> Clone for Embedded<P> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<P> Drop for Owner<P> {
    fn drop(&mut self) {
        self.shared.queue.post(Notice::Stop);
    }
}

impl<P: Process + Send + 'static> Embedded<P> {
    /// Starts the driving task on the current tokio runtime, which needs its io and time drivers.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn spawn(process: P, options: EmbeddedOptions) -> Self {
        Self::spawn_as(process, options, Speaker::Client)
    }

    /// The same for a core that speaks as somebody else than a client.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn spawn_as(process: P, options: EmbeddedOptions, speaker: Speaker) -> Self {
        let name = if options.name.is_empty() { "client".into() } else { options.name };
        let dialler = Arc::new(Dialler {
            speaker,
            cluster: Mutex::new(options.cluster),
            peer_addrs: options.peer_addrs,
        });
        let lanes = Lanes::default();
        let outside = Outside {
            name,
            dialler,
            counters: options.counters,
            disk: None,
            lanes,
            recoverer: None,
        };
        let mut reactor = Reactor::new(process, outside);
        if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            reactor.gather();
        }
        let shared = Arc::clone(reactor.shared());
        tokio::spawn(tokio::task::coop::unconstrained(reactor));
        Self { handle: Arc::new(Owner { shared }) }
    }

    /// Runs `work` on the core. If it leaves bytes, effects or an earlier deadline behind, the
    /// driving task is woken (for nothing if it is awake already) and lets the core settle before
    /// it sends. Do not wait for anything inside, and do not call back into the same handle.
    pub fn with<R>(&self, work: impl FnOnce(Instant, &mut P, &mut Outputs) -> R) -> R {
        let shared = &self.handle.shared;
        let mut core = shared.core.lock();
        let Core { process, out, armed } = &mut *core;
        let result = work(clock::now(), process, out);
        let is_earlier = match (process.next_timeout(), *armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, None) => next.is_some(),
            (None, Some(_)) => false,
        };
        let wake = is_earlier || out.has_dirty() || out.has_effects();
        drop(core);
        if wake {
            shared.queue.wake();
        }
        result
    }

    /// Runs `work` on the core where it neither needs the time nor sends anything: to take an
    /// answer, or to leave a waker for one. Cheaper than [`Embedded::with`].
    pub fn look<R>(&self, work: impl FnOnce(&mut P) -> R) -> R {
        work(&mut self.handle.shared.core.lock().process)
    }

    /// Lets the driving task look at the core although nothing was written.
    pub fn wake(&self) {
        self.handle.shared.queue.wake();
    }
}
