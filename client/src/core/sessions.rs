//! Sessions, transaction ids and low marks.
//!
//! A transaction id is (session, sequence, expiry). Every request carries its session's *low mark*,
//! the lowest sequence that is still open: servers forget outcomes below it and refuse new work
//! below it. All autocommit transactions share one session; an interactive transaction has one of
//! its own while it is open, so that it does not hold back the others' mark.
//!
//! Invariant: a sequence is never used twice, and counts as open until the client knows what became
//! of it (or has told the application that it does not).

use std::collections::VecDeque;

use lockstep_proto::ids::{Epoch, SessionId, TxId};

use super::slab::{Key, Slab};

/// Session ids asked for at a time.
pub(super) const SESSIONS_PER_BLOCK: u32 = 64;

/// Blocks of session ids kept; answers beyond are not needed.
const BLOCKS_MAX: usize = 8;

/// Sessions in use; bounded by the transactions that may be open, and some being retired.
const SESSIONS_MAX: usize = super::TRANSACTIONS_MAX + 64;

/// Sequences between the lowest open one and the next; a shared session with one transaction stuck
/// for long is replaced by a fresh one then.
const WINDOW_MAX: usize = 1 << 18;

/// A transaction id in use and the session it counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OpenTx {
    /// The id that travels.
    pub(super) tx: TxId,
    /// Its session, here.
    pub(super) session: Key,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Sessions {
    blocks: Vec<Block>,
    sessions: Slab<Session>,
    /// Nobody's: for the next interactive transactions.
    idle: Vec<Key>,
    /// The one of all autocommit transactions.
    shared: Option<Key>,
    /// Formerly shared; somebody's until their last transaction is closed.
    worn: Vec<Key>,
    /// How many epochs an id lives.
    expiry: u64,
}

#[derive(Debug)]
struct Block {
    next: SessionId,
    left: u32,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The lowest open sequence, or the next one if none is open.
    low: u64,
    /// For each sequence from `low` on: whether it is closed.
    closed: VecDeque<bool>,
}

impl Sessions {
    pub(super) fn new(expiry: u64) -> Self {
        Self {
            blocks: Vec::new(),
            sessions: Slab::new(SESSIONS_MAX),
            idle: Vec::new(),
            shared: None,
            worn: Vec::new(),
            expiry,
        }
    }

    /// Whether more session ids should be asked for.
    pub(super) fn wants_more(&self) -> bool {
        self.blocks.is_empty() && self.idle.is_empty()
    }

    /// Takes in a block of fresh session ids.
    pub(super) fn on_opened(&mut self, first: SessionId, count: u32) {
        if count > 0 && self.blocks.len() < BLOCKS_MAX {
            self.blocks.push(Block { next: first, left: count });
        }
    }

    /// Opens a transaction in the shared session; `None` if there is no session yet.
    pub(super) fn open_shared(&mut self, epoch: Epoch) -> Option<OpenTx> {
        let session = self.shared()?;
        Some(self.open(session, epoch))
    }

    /// Takes a session for one interactive transaction; `None` if there is none yet.
    pub(super) fn acquire(&mut self) -> Option<Key> {
        if let Some(key) = self.idle.pop() {
            return Some(key);
        }
        let block = self.blocks.last_mut()?;
        let id = block.next;
        let session = Session { id, low: 1, closed: VecDeque::new() };
        let key = self.sessions.insert(session).ok()?;
        block.next.counter = block.next.counter.wrapping_add(1);
        block.left -= 1;
        if block.left == 0 {
            self.blocks.pop();
        }
        Some(key)
    }

    /// Gives an interactive transaction's session back.
    pub(super) fn release(&mut self, session: Key) {
        self.idle.push(session);
    }

    /// The next transaction id of a session.
    pub(super) fn open(&mut self, session: Key, epoch: Epoch) -> OpenTx {
        let entry = self.sessions.find_mut(session).expect("held by the caller");
        let sequence = entry.low + entry.closed.len() as u64;
        entry.closed.push_back(false);
        let expiry = Epoch(epoch.0 + self.expiry);
        OpenTx { tx: TxId { session: entry.id, sequence, expiry }, session }
    }

    /// The low mark to send with a request of this session.
    pub(super) fn low(&self, session: Key) -> u64 {
        self.sessions.find(session).expect("held by the caller").low
    }

    /// The client knows what became of the transaction, or will never ask again.
    pub(super) fn close(&mut self, open: OpenTx) {
        let entry = self.sessions.find_mut(open.session).expect("not empty while one is open");
        let index = usize::try_from(open.tx.sequence - entry.low).expect("bounded by WINDOW_MAX");
        assert!(!entry.closed[index], "a transaction is closed once");
        entry.closed[index] = true;
        while entry.closed.front() == Some(&true) {
            entry.closed.pop_front();
            entry.low += 1;
        }
        let is_empty = entry.closed.is_empty();
        if is_empty && let Some(index) = self.worn.iter().position(|key| *key == open.session) {
            self.worn.swap_remove(index);
            self.idle.push(open.session);
        }
    }

    /// The shared session, replaced by a fresh one if one of its transactions is stuck for long.
    fn shared(&mut self) -> Option<Key> {
        if let Some(key) = self.shared {
            let window = self.sessions.find(key).expect("kept until replaced").closed.len();
            if window < WINDOW_MAX {
                return Some(key);
            }
        }
        let fresh = self.acquire()?;
        if let Some(worn) = self.shared.replace(fresh) {
            self.worn.push(worn);
        }
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::limits::TX_EXPIRY_EPOCHS;

    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(TX_EXPIRY_EPOCHS);
        assert!(sessions.wants_more());
        sessions.on_opened(SessionId { counter: 7, ..SessionId::default() }, 2);
        sessions
    }

    #[test]
    fn the_low_mark_follows_the_lowest_open_sequence() {
        let mut sessions = sessions();
        let first = sessions.open_shared(Epoch(5)).unwrap();
        let second = sessions.open_shared(Epoch(5)).unwrap();
        assert_eq!((first.tx.sequence, second.tx.sequence), (1, 2));
        assert_eq!(first.tx.expiry, Epoch(5 + TX_EXPIRY_EPOCHS));
        sessions.close(second);
        assert_eq!(sessions.low(first.session), 1);
        sessions.close(first);
        assert_eq!(sessions.low(first.session), 3);
        assert_eq!(sessions.open_shared(Epoch(5)).unwrap().tx.sequence, 3);
    }

    #[test]
    fn sessions_run_out_and_come_back() {
        let mut sessions = sessions();
        let shared = sessions.open_shared(Epoch(1)).unwrap();
        let own = sessions.acquire().unwrap();
        assert_ne!(shared.session, own);
        assert!(sessions.wants_more());
        assert_eq!(sessions.acquire(), None);
        let open = sessions.open(own, Epoch(1));
        assert_eq!(open.tx.session.counter, 8);
        sessions.close(open);
        sessions.release(own);
        let again = sessions.acquire().unwrap();
        assert_eq!(sessions.open(again, Epoch(1)).tx.sequence, 2);
    }
}
