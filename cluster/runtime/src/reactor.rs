//! The task that drives one core: reads its ready links, hands it what came, writes what it wants.
//!
//! ```text
//!  wakers ──> ready queue ──> read sockets ──> clock ──> handle*, settle ──> write ──> effects
//! ```
//!
//! Invariants: the clock is read after the bytes; `settle` runs once per turn, after every input;
//! each link is written to once per turn; the core's lock is not held across a system call that
//! moves bytes.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use lockstep_proto::limits::CLIENT_UNSENT_BYTES_MAX;
use lockstep_proto::process::{
    Effect, Exit, Input, LinkEnd, LinkId, LogLevel, Outputs, Peer, Process,
};
use lockstep_proto::recovery::Recovery;
use lockstep_proto::time::Instant;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::clock;
use crate::counters::{Count, Counters};
use crate::dial::Dialler;
use crate::disk::Lanes;
use crate::files::Disk;
use crate::host::{AbortOnPanic, Recoverer};
use crate::limits::{CLIENT_UNSENT_PAUSE_BYTES, NODE_UNSENT_REPORT_BYTES};
use crate::link::{Link, Transport, reset_on_drop};
use crate::links::Links;
use crate::ready::{Notice, Ready, ReadyQueue};
use crate::timer::Timer;
use crate::turn::{Arrival, Turn, deliver_arrival};

/// A core and what it wants, behind one lock.
pub(crate) struct Core<P> {
    pub(crate) process: P,
    pub(crate) out: Outputs,
    /// When the reactor will look again by itself.
    pub(crate) armed: Option<Instant>,
}

/// What the reactor shares with the handles of an embedded core.
pub(crate) struct Shared<P> {
    pub(crate) core: Mutex<Core<P>>,
    pub(crate) queue: Arc<ReadyQueue>,
}

/// What a reactor needs from outside to carry out effects.
pub(crate) struct Outside {
    /// For the log: which core speaks.
    pub(crate) name: String,
    pub(crate) dialler: Arc<Dialler>,
    pub(crate) counters: Arc<Counters>,
    /// Absent for clients: they store nothing.
    pub(crate) disk: Option<Disk>,
    /// Where data files are written: for shard cores.
    pub(crate) lanes: Lanes,
    /// Present for a data node that was started again.
    pub(crate) recoverer: Option<Arc<dyn Recoverer>>,
}

/// How a reactor came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The core ended the process.
    Exit(Exit),
    /// Somebody else did, or the last handle is gone.
    Stopped,
}

/// Drives one core until it ends.
pub(crate) struct Reactor<P> {
    shared: Arc<Shared<P>>,
    outside: Outside,
    links: Links,
    turn: Turn,
    ready: Ready,
    timer: Timer,
    /// Links with output to write this turn.
    dirty: Vec<u32>,
    stopping: bool,
    gathering: Gathering,
}

/// Whether a turn that only sends what tasks have noted waits until those that are ready now have
/// run, too. Never waits for time or for anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gathering {
    /// No need: whoever wakes this task puts it behind those that are ready.
    Never,
    /// The scheduler runs a woken task next: step back once.
    Due,
    /// Has stepped back.
    Done,
}

impl<P: Process> Reactor<P> {
    pub(crate) fn new(process: P, outside: Outside) -> Self {
        let queue = Arc::new(ReadyQueue::default());
        let core = Core { process, out: Outputs::new(), armed: None };
        Self {
            links: Links::new(Arc::clone(&queue)),
            timer: Timer::new(Arc::clone(&queue)),
            shared: Arc::new(Shared { core: Mutex::new(core), queue }),
            outside,
            turn: Turn::new(),
            ready: Ready::default(),
            dirty: Vec::new(),
            stopping: false,
            gathering: Gathering::Never,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<P>> {
        &self.shared
    }

    /// For a runtime that runs a woken task before those that were ready earlier.
    pub(crate) fn gather(&mut self) {
        self.gathering = Gathering::Due;
    }

    pub(crate) fn queue(&self) -> Arc<ReadyQueue> {
        Arc::clone(&self.shared.queue)
    }

    /// Joins two cores of this process by a link in memory, before they are driven.
    pub(crate) fn join<Q: Process>(&mut self, peer: Peer, other: &mut Reactor<Q>, as_peer: Peer) {
        let mine = self.links.reserve(&mut self.shared.core.lock().out);
        let theirs = other.links.reserve(&mut other.shared.core.lock().out);
        self.links.join(mine, peer, &mut other.links, theirs, as_peer);
    }

    fn read_links(&mut self) {
        let Self { ready, links, turn, .. } = self;
        links.add_again(&mut ready.slots);
        for slot in ready.slots.drain(..) {
            let Some(link) = links.at(slot) else { continue };
            if !link.look(turn.number) {
                continue;
            }
            if !link.sending.is_empty() {
                // Also the way in which a blocked link hears that it may be written again.
                self.dirty.push(slot);
            }
            let reading = link.read(&mut turn.arena);
            let id = link.id;
            if let Some(source) = reading.source {
                turn.arrivals.push(Arrival { slot, source });
            }
            if let Some(end) = reading.end {
                turn.ends.push((id, end));
            }
            if reading.again {
                links.look_again(slot);
            }
        }
    }

    /// Hands everything to the core and takes what it wants. The clock is read here: after the
    /// sockets, once for all bytes of the turn.
    fn run_core(&mut self) -> (Vec<Effect>, Instant, Option<Instant>) {
        let shared = Arc::clone(&self.shared);
        let mut core = shared.core.lock();
        let Core { process, out, armed } = &mut *core;
        let now = clock::now();
        for (link, peer) in self.links.take_ups() {
            process.handle(now, Input::LinkUp { link, peer }, out);
        }
        for (link, end) in self.links.take_downs() {
            out.close_link(link);
            process.handle(now, Input::LinkDown { link, end }, out);
        }
        if !self.ready.notices.is_empty() {
            for notice in std::mem::take(&mut self.ready.notices) {
                self.on_notice(now, notice, process, out);
            }
        }
        self.deliver_arrivals(now, process, out);
        for (link, end) in self.turn.ends.drain(..) {
            if let Some(ended) = self.links.remove(link) {
                ended.reset();
                out.close_link(link);
                process.handle(now, Input::LinkDown { link, end }, out);
            }
        }
        if process.next_timeout().is_some_and(|at| at <= now) {
            process.handle(now, Input::Timeout, out);
        }
        process.settle(now, out);
        self.take_output(out);
        let effects = if out.has_effects() { out.take_effects() } else { Vec::new() };
        let next = process.next_timeout();
        *armed = next;
        (effects, now, next)
    }

    fn deliver_arrivals(&mut self, now: Instant, process: &mut P, out: &mut Outputs) {
        let Self { turn, links, outside, .. } = self;
        for Arrival { slot, source } in turn.arrivals.drain(..) {
            let Some(link) = links.at(slot) else { continue };
            let is_watch = matches!(link.peer, Peer::Watch(_));
            if is_watch || !deliver_arrival(process, out, now, link, &turn.arena, source) {
                let peer = link.peer;
                outside.counters.add(Count::FrameMalformed, || {
                    format!("closed a link to {peer:?}: its bytes are not frames")
                });
                turn.ends.push((link.id, LinkEnd::Reset));
            }
        }
    }

    fn on_notice(&mut self, now: Instant, notice: Notice, process: &mut P, out: &mut Outputs) {
        match notice {
            Notice::Accepted { stream, peer, permit } => match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let link = self.links.open(out, peer, Transport::Socket(stream), Some(permit));
                    process.handle(now, Input::LinkUp { link, peer }, out);
                }
                Err(error) => tracing::warn!("cannot watch an accepted socket: {error}"),
            },
            Notice::Dialled { result: Ok((stream, peer)), .. } => {
                let link = self.links.open(out, peer, Transport::Socket(stream), None);
                process.handle(now, Input::LinkUp { link, peer }, out);
            }
            Notice::Dialled { to, addr, result: Err(error) } => {
                process.handle(now, Input::DialFailed { to, addr, error }, out);
            }
            Notice::Stored { token, ok } => {
                process.handle(now, Input::Stored { token, ok }, out);
            }
            Notice::Disk { lane, done } => process.handle(now, Input::Disk { lane, done }, out),
            Notice::Recovered { token, result } => {
                process.handle(now, Input::Recovered { token, result }, out);
            }
            Notice::Measured { token, cpu_us, rss_bytes } => {
                process.handle(now, Input::Measured { token, cpu_us, rss_bytes }, out);
            }
            Notice::Ask { answer } => {
                // Who asked may have lost patience.
                let _unwanted = answer.send(process.report(now));
            }
            Notice::Terminate => process.handle(now, Input::Terminate, out),
            Notice::Stop => self.stopping = true,
        }
    }

    /// Moves the core's bytes to the links that can take them.
    fn take_output(&mut self, out: &mut Outputs) {
        // Links whose earlier output left meanwhile come first: they have waited.
        while let Some(slot) = self.links.pop_refill() {
            let Some(link) = self.links.at(slot) else { continue };
            assert!(link.sending.is_empty(), "a link is refilled once, when it has sent all");
            link.more_to_send = false;
            if let Some(unsent) = out.unsent(link.id) {
                std::mem::swap(&mut link.sending, unsent);
                self.dirty.push(slot);
            }
        }
        while let Some(id) = out.pop_dirty() {
            let Some(link) = self.links.get(id) else { continue };
            if !link.sending.is_empty() {
                link.more_to_send = true;
                let unsent = link.sending.len() + out.pending(id);
                bound_unsent(link, unsent, &self.outside.counters, &mut self.turn.ends);
            } else if let Some(unsent) = out.unsent(id) {
                std::mem::swap(&mut link.sending, unsent);
                self.dirty.push(id.slot);
            }
        }
    }

    fn flush_links(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.flush(slot);
        }
        self.dirty = dirty;
        for (link, end) in self.turn.ends.drain(..) {
            self.links.end(link, end);
        }
    }

    fn flush(&mut self, slot: u32) {
        let Some(link) = self.links.at(slot) else { return };
        match link.flush() {
            Ok(true) if link.more_to_send => self.links.refill(slot),
            Ok(true) if link.paused => {
                link.paused = false;
                self.links.look_again(slot);
            }
            Ok(_) => {}
            Err(_) => {
                let id = link.id;
                self.links.end(id, LinkEnd::Reset);
            }
        }
    }

    fn execute(&mut self, effects: Vec<Effect>) -> Option<Exit> {
        let mut exit = None;
        for effect in effects {
            match effect {
                Effect::Dial { to, addr } => {
                    let (dialler, queue) = (Arc::clone(&self.outside.dialler), self.queue());
                    tokio::spawn(async move {
                        let result = dialler.dial(&to, &addr).await;
                        queue.post(Notice::Dialled { to, addr, result });
                    });
                }
                Effect::Close { link, why } => self.on_close(link, why),
                Effect::Store { token, file, bytes } => match &self.outside.disk {
                    Some(disk) => disk.store(token, file, bytes, self.queue()),
                    None => self.shared.queue.post(Notice::Stored { token, ok: false }),
                },
                Effect::Disk { lane, request } => {
                    self.outside.lanes.execute(lane, request, self.queue());
                }
                Effect::Recover(wish) => self.recover(wish),
                Effect::Measure { token } => self.shared.queue.post(measure(token)),
                Effect::Exit(wish) => exit = exit.or(Some(wish)),
                Effect::Log { level, text } => log(&self.outside.name, level, &text),
            }
        }
        exit
    }

    /// Looks at the node's files on a thread of its own.
    fn recover(&self, wish: Recovery) {
        let (token, queue) = (wish.token, self.queue());
        let Some(recoverer) = self.outside.recoverer.clone() else {
            let result = Err("this process has no files to recover from".to_owned());
            return queue.post(Notice::Recovered { token, result });
        };
        let work = move || {
            let _abort = AbortOnPanic;
            let result = recoverer.recover(&wish);
            queue.post(Notice::Recovered { token, result });
        };
        let started = std::thread::Builder::new().name("recovery".into()).spawn(work);
        if let Err(error) = started {
            let result = Err(format!("cannot start a thread: {error}"));
            self.shared.queue.post(Notice::Recovered { token, result });
        }
    }

    /// Whether this turn is to wait for the tasks that are ready; see [`Gathering`].
    fn steps_back(&mut self) -> bool {
        match self.gathering {
            Gathering::Never => false,
            Gathering::Due => {
                let wait = self.ready.is_empty() && !self.links.wants_turn();
                if wait {
                    self.gathering = Gathering::Done;
                }
                wait
            }
            Gathering::Done => {
                self.gathering = Gathering::Due;
                false
            }
        }
    }

    /// Ends all links, also those the core has not heard of yet.
    fn end_links(&mut self, cx: &mut Context<'_>) {
        self.links.end_all(self.outside.dialler.speaker);
        self.shared.queue.take(&mut self.ready, cx.waker());
        for notice in self.ready.notices.drain(..) {
            match notice {
                Notice::Accepted { stream, .. } => {
                    TcpStream::from_std(stream).iter().for_each(reset_on_drop);
                }
                Notice::Dialled { result: Ok((stream, _)), .. } => reset_on_drop(&stream),
                _ => {}
            }
        }
    }

    fn on_close(&mut self, link: LinkId, why: &'static str) {
        let Some(entry) = self.links.get(link) else { return };
        assert!(!entry.is_memory(), "links between the cores of a process last as long as it");
        if !why.is_empty() {
            tracing::info!(core = self.outside.name, peer = ?entry.peer, "closing a link: {why}");
        }
        self.links.end(link, LinkEnd::Reset);
    }
}

impl<P: Process> Future for Reactor<P> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        this.shared.queue.take(&mut this.ready, cx.waker());
        if this.steps_back() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.ready.timer {
            this.timer.fired();
        }
        this.turn.start();
        this.read_links();
        let (effects, now, next) = this.run_core();
        this.flush_links();
        if let Some(exit) = this.execute(effects) {
            this.end_links(cx);
            return Poll::Ready(End::Exit(exit));
        }
        if this.stopping {
            this.end_links(cx);
            return Poll::Ready(End::Stopped);
        }
        this.timer.arm(now, next);
        if this.links.wants_turn() {
            // Come back after the runtime has looked at the other sockets: a link that always has
            // more must not hide them.
            let _pending = pin!(tokio::task::yield_now()).poll(cx);
        }
        Poll::Pending
    }
}

/// A client that does not read must not cost memory without end: first it is not read from, then
/// it is cut off. Nodes owe each other what they owe; a lot of it is worth a line.
fn bound_unsent(
    link: &mut Link,
    unsent: usize,
    counters: &Counters,
    ends: &mut Vec<(LinkId, LinkEnd)>,
) {
    if link.peer != Peer::Client {
        if unsent > NODE_UNSENT_REPORT_BYTES {
            let peer = link.peer;
            counters.add(Count::NodeLinkFull, || format!("{unsent} unsent bytes to {peer:?}"));
        }
    } else if unsent > CLIENT_UNSENT_BYTES_MAX {
        let count = Count::ClientNotReading;
        counters.add(count, || format!("cut off a client that left {unsent} bytes unread"));
        ends.push((link.id, LinkEnd::Reset));
    } else if unsent > CLIENT_UNSENT_PAUSE_BYTES && !link.paused {
        link.paused = true;
        let count = Count::ClientPaused;
        counters.add(count, || format!("a client has {unsent} answers' bytes to read first"));
    }
}

fn measure(token: u64) -> Notice {
    let cpu_us = u64::try_from(clock::cpu_time().as_micros()).unwrap_or(u64::MAX);
    Notice::Measured { token, cpu_us, rss_bytes: clock::resident_bytes() }
}

fn log(core: &str, level: LogLevel, text: &str) {
    match level {
        LogLevel::Debug => tracing::debug!(core, "{text}"),
        LogLevel::Info => tracing::info!(core, "{text}"),
        LogLevel::Warn => tracing::warn!(core, "{text}"),
        LogLevel::Error => tracing::error!(core, "{text}"),
    }
}
