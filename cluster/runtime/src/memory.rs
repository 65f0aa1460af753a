//! Links between the cores of one operating-system process: a buffer per direction, handed over
//! whole. The same frames travel as on sockets; no system call unless the other thread sleeps.
//!
//! Not bounded here: what siblings owe each other is bounded by what they admit from clients, and
//! stopping them could stop a commit half way.

use std::sync::Arc;
use std::task::Wake;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::ready::SlotWaker;

/// One direction of a link.
#[derive(Debug)]
struct Pipe {
    bytes: Mutex<BytesMut>,
    reader: Arc<SlotWaker>,
}

/// One end of a link in memory.
#[derive(Debug)]
pub(crate) struct MemoryEnd {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl MemoryEnd {
    /// Makes a link; each end has the waker of its reader.
    pub(crate) fn pair(first: Arc<SlotWaker>, second: Arc<SlotWaker>) -> (Self, Self) {
        let pipe = |reader| Arc::new(Pipe { bytes: Mutex::new(BytesMut::new()), reader });
        let (to_first, to_second) = (pipe(first), pipe(second));
        let one = Self { incoming: Arc::clone(&to_first), outgoing: Arc::clone(&to_second) };
        (one, Self { incoming: to_second, outgoing: to_first })
    }

    /// Moves all of `bytes` to the other end; leaves an empty buffer behind.
    pub(crate) fn send(&self, bytes: &mut BytesMut) {
        if bytes.is_empty() {
            return;
        }
        let mut waiting = self.outgoing.bytes.lock();
        if waiting.is_empty() {
            std::mem::swap(&mut *waiting, bytes);
        } else {
            waiting.extend_from_slice(bytes);
            bytes.clear();
        }
        drop(waiting);
        self.outgoing.reader.wake_by_ref();
    }

    /// Swaps what has arrived with `empty`.
    pub(crate) fn receive(&self, empty: &mut BytesMut) {
        debug_assert!(empty.is_empty(), "received bytes would be sent back");
        std::mem::swap(&mut *self.incoming.bytes.lock(), empty);
    }
}
