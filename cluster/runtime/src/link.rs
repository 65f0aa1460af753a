//! One link of a core: a socket or a pipe to a sibling thread, with what is half read and half
//! written on it.
//!
//! Reads and writes never block and never probe: after a read that did not fill its buffer the
//! socket counts as empty until the kernel says otherwise, so a hop costs one read and one write.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use lockstep_proto::process::{LinkEnd, LinkId, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::frames::{self, Front};
use crate::limits::{BUFFER_KEPT_BYTES_MAX, READ_BYTES_MAX, TURN_BYTES_MAX};
use crate::memory::MemoryEnd;
use crate::ready::SlotWaker;

/// What carries a link's bytes.
pub(crate) enum Transport {
    /// A connection to another operating-system process.
    Socket(TcpStream),
    /// A pipe to another thread of this one.
    Memory(MemoryEnd),
}

/// One link, as the reactor keeps it.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: Peer,
    transport: Transport,
    slot_waker: Arc<SlotWaker>,
    waker: Waker,
    /// Bytes received but not yet cut into whole frames.
    pub(crate) received: BytesMut,
    /// Bytes on their way into the socket.
    pub(crate) sending: BytesMut,
    /// The core has written more since `sending` was taken.
    pub(crate) more_to_send: bool,
    /// Not read from until its answers are taken.
    pub(crate) paused: bool,
    /// The turn that looked at it last.
    turn_seen: u64,
    /// Counts an accepted connection.
    _permit: Option<OwnedSemaphorePermit>,
}

/// The memory that all sockets of one turn are read into.
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    used: usize,
}

/// Where the bytes of one read are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// In the arena.
    Arena(Range<usize>),
    /// In [`Link::received`].
    Own,
}

/// What one look at a link brought.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Bytes, if any came.
    pub(crate) source: Option<Source>,
    /// There may be more: look again next turn.
    pub(crate) again: bool,
    /// The link has ended.
    pub(crate) end: Option<LinkEnd>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; TURN_BYTES_MAX].into_boxed_slice(), used: 0 }
    }

    pub(crate) fn start_turn(&mut self) {
        self.used = 0;
    }

    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Whether the beginning of a frame and one more read fit.
    fn has_room(&self) -> bool {
        self.bytes.len() - self.used >= 2 * READ_BYTES_MAX
    }
}

impl Link {
    pub(crate) fn new(
        id: LinkId,
        peer: Peer,
        transport: Transport,
        slot_waker: Arc<SlotWaker>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let waker = Waker::from(Arc::clone(&slot_waker));
        Self {
            id,
            peer,
            transport,
            slot_waker,
            waker,
            received: BytesMut::new(),
            sending: BytesMut::new(),
            more_to_send: false,
            paused: false,
            turn_seen: 0,
            _permit: permit,
        }
    }

    /// Begins this turn's look at the link; false if the turn has had it already. To read twice
    /// in a turn would tear frames apart, to write twice would mix up what is taken next.
    pub(crate) fn look(&mut self, turn: u64) -> bool {
        self.slot_waker.taken();
        std::mem::replace(&mut self.turn_seen, turn) != turn
    }

    /// Reads once, at most [`READ_BYTES_MAX`] bytes or so.
    pub(crate) fn read(&mut self, arena: &mut Arena) -> Reading {
        if self.paused {
            return Reading::default();
        }
        if !self.is_memory() && !arena.has_room() {
            return Reading { again: true, ..Reading::default() };
        }
        let needed = match frames::front(&self.received) {
            Front::Partial { needed } => needed,
            Front::Whole { .. } | Front::Malformed => 0,
        };
        match &mut self.transport {
            Transport::Memory(end) => {
                end.receive(&mut self.received);
                let source = (!self.received.is_empty()).then_some(Source::Own);
                Reading { source, ..Reading::default() }
            }
            Transport::Socket(stream) if needed > READ_BYTES_MAX => {
                read_large(stream, &self.waker, &mut self.received, needed)
            }
            Transport::Socket(stream) => read_small(stream, &self.waker, &mut self.received, arena),
        }
    }

    /// Whether it joins two cores of this process.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.transport, Transport::Memory(_))
    }

    /// Writes what is in `sending`; returns whether all of it left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.transport {
            Transport::Memory(end) => end.send(&mut self.sending),
            Transport::Socket(stream) => {
                let mut cx = Context::from_waker(&self.waker);
                while !self.sending.is_empty() {
                    match Pin::new(&mut *stream).poll_write(&mut cx, &self.sending)? {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Poll::Ready(count) => consume(&mut self.sending, count),
                    }
                }
            }
        }
        Ok(true)
    }

    /// Ends the link the way a live process does: by reset.
    pub(crate) fn reset(self) {
        if let Transport::Socket(stream) = &self.transport {
            reset_on_drop(stream);
        }
    }
}

/// Makes the kernel send a reset when this socket is dropped. Never set earlier: a process that is
/// killed must leave its sockets to end in order.
pub(crate) fn reset_on_drop(stream: &TcpStream) {
    // An error means the connection is gone already, which is what is wanted.
    let _gone = stream.set_zero_linger();
}

/// Takes `count` bytes off the front; an emptied buffer keeps its memory unless it is large.
pub(crate) fn consume(buffer: &mut BytesMut, count: usize) {
    if count < buffer.len() {
        buffer.advance(count);
    } else if buffer.capacity() > BUFFER_KEPT_BYTES_MAX {
        *buffer = BytesMut::new();
    } else {
        buffer.clear();
    }
}

/// Reads into the arena, after the beginning of a frame that came earlier.
fn read_small(
    stream: &mut TcpStream,
    waker: &Waker,
    earlier: &mut BytesMut,
    arena: &mut Arena,
) -> Reading {
    let start = arena.used;
    let body = start + earlier.len();
    let mut buffer = ReadBuf::new(&mut arena.bytes[body..body + READ_BYTES_MAX]);
    let mut reading = poll_read(stream, waker, &mut buffer);
    let end = body + buffer.filled().len();
    if end > body {
        arena.bytes[start..body].copy_from_slice(earlier);
        // Most links are between frames most of the time: they keep no memory then.
        *earlier = BytesMut::new();
        arena.used = end;
        reading.source = Some(Source::Arena(start..end));
    }
    reading
}

/// Reads the rest of one large frame into memory of its own. Room is made as bytes come, not as
/// the frame's length claims.
fn read_large(
    stream: &mut TcpStream,
    waker: &Waker,
    received: &mut BytesMut,
    needed: usize,
) -> Reading {
    let room = (needed - received.len()).min(received.len().clamp(READ_BYTES_MAX, TURN_BYTES_MAX));
    let had = received.len();
    received.resize(had + room, 0);
    let mut buffer = ReadBuf::new(&mut received[had..]);
    let mut reading = poll_read(stream, waker, &mut buffer);
    let count = buffer.filled().len();
    received.truncate(had + count);
    if had + count == needed {
        reading.source = Some(Source::Own);
    }
    reading
}

fn poll_read(stream: &mut TcpStream, waker: &Waker, buffer: &mut ReadBuf<'_>) -> Reading {
    let mut cx = Context::from_waker(waker);
    let mut reading = Reading::default();
    match Pin::new(&mut *stream).poll_read(&mut cx, buffer) {
        Poll::Pending => {}
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => reading.end = Some(LinkEnd::Fin),
        Poll::Ready(Ok(())) if buffer.remaining() == 0 => reading.again = true,
        // The kernel had no more: this only leaves the waker, without a system call.
        Poll::Ready(Ok(())) => reading.again = stream.poll_read_ready(&mut cx).is_ready(),
        Poll::Ready(Err(_)) => reading.end = Some(LinkEnd::Reset),
    }
    reading
}
