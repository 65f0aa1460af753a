//! What one turn of a reactor brings to its core, between reading and writing.

use lockstep_proto::process::{Input, LinkEnd, LinkId, Outputs, Process};
use lockstep_proto::time::Instant;

use crate::frames::{self, Front, PREFIX_BYTES};
use crate::link::{Arena, Link, Source, consume};

/// Bytes that were read from one link.
pub(crate) struct Arrival {
    pub(crate) slot: u32,
    pub(crate) source: Source,
}

/// Everything read before the clock was, in order.
pub(crate) struct Turn {
    pub(crate) number: u64,
    pub(crate) arena: Arena,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) ends: Vec<(LinkId, LinkEnd)>,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { number: 0, arena: Arena::new(), arrivals: Vec::new(), ends: Vec::new() }
    }

    pub(crate) fn start(&mut self) {
        self.number += 1;
        self.arena.start_turn();
    }
}

/// Hands every whole frame of `bytes` to the core and returns how many bytes those were; `None` if
/// the bytes are not frames.
pub(crate) fn deliver<P: Process>(
    process: &mut P,
    out: &mut Outputs,
    now: Instant,
    link: LinkId,
    bytes: &[u8],
) -> Option<usize> {
    let mut position = 0;
    loop {
        let rest = &bytes[position..];
        match frames::front(rest) {
            Front::Partial { .. } => return Some(position),
            Front::Malformed => return None,
            Front::Whole { end } => {
                let frame = Input::Frame { link, bytes: &rest[PREFIX_BYTES..end] };
                process.handle(now, frame, out);
                position += end;
            }
        }
    }
}

/// Delivers one arrival and keeps the beginning of the next frame with the link; false if the
/// bytes are not frames.
pub(crate) fn deliver_arrival<P: Process>(
    process: &mut P,
    out: &mut Outputs,
    now: Instant,
    link: &mut Link,
    arena: &Arena,
    source: Source,
) -> bool {
    match source {
        Source::Arena(range) => {
            let bytes = arena.bytes(range);
            let Some(used) = deliver(process, out, now, link.id, bytes) else { return false };
            link.received.extend_from_slice(&bytes[used..]);
            true
        }
        Source::Own => {
            let Some(used) = deliver(process, out, now, link.id, &link.received) else {
                return false;
            };
            consume(&mut link.received, used);
            true
        }
    }
}
