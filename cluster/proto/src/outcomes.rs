//! The outcome table of one partition: which transactions are known to be committed or aborted, so
//! that none is applied twice and every outcome can be asked for.
//!
//! It is part of the replicated state: every replica feeds it from the same records. An entry goes
//! when its session has acknowledged it (the low mark passed, or the id expired) **and**, for a
//! commit, its epoch is closed. Invariant: a transaction id that could still arrive is either known
//! here, below its session's low mark, or expired; so it is refused.

use std::collections::{BTreeMap, VecDeque};

use bytes::BufMut;

use crate::ids::{Epoch, SessionId, TxId};
use crate::wire::WireError;
use crate::wire::bytes::{Reader, WriteWords};

/// Outcomes in one piece of a saved table.
const PIECE_ENTRIES: usize = 1024;

/// Bytes of a piece before its outcomes.
const PIECE_HEADER_BYTES: usize = 10 + 8 + 8 + 4;

/// In place of the epoch of a commit.
const ABORTED: u64 = u64::MAX;

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Committed in this epoch.
    Committed(Epoch),
    /// Aborted, for ever.
    Aborted,
}

/// Why a transaction id may not begin, prepare or write here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// It has an outcome already.
    Known(Outcome),
    /// Its session acknowledged it, or its expiry epoch is closed.
    Expired,
}

/// See the module text.
#[derive(Default, Debug)]
pub struct Outcomes {
    sessions: BTreeMap<SessionId, Session>,
    entries: usize,
}

#[derive(Default, Debug)]
struct Session {
    low: u64,
    /// Once closed, nothing of this session can arrive any more.
    expiry: Epoch,
    /// In order of sequence.
    entries: VecDeque<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence: u64,
    expiry: Epoch,
    outcome: Outcome,
}

impl Session {
    fn position(&self, sequence: u64) -> Result<usize, usize> {
        // Sequences arrive nearly in order: look at the end first.
        match self.entries.back() {
            None => Err(0),
            Some(last) if last.sequence < sequence => Err(self.entries.len()),
            Some(_) => self.entries.binary_search_by_key(&sequence, |e| e.sequence),
        }
    }

    fn forget_front(&mut self, closed: Epoch) -> usize {
        let before = self.entries.len();
        while self.entries.front().is_some_and(|e| Self::is_done(e, self.low, closed)) {
            self.entries.pop_front();
        }
        before - self.entries.len()
    }

    fn forget_all(&mut self, closed: Epoch) -> usize {
        let before = self.entries.len();
        let low = self.low;
        self.entries.retain(|e| !Self::is_done(e, low, closed));
        before - self.entries.len()
    }

    fn is_done(entry: &Entry, low: u64, closed: Epoch) -> bool {
        let acknowledged = entry.sequence < low || entry.expiry <= closed;
        acknowledged
            && match entry.outcome {
                Outcome::Aborted => true,
                Outcome::Committed(epoch) => epoch <= closed,
            }
    }
}

impl Outcomes {
    /// Whether a transaction may begin, prepare or write here.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check(&self, tx: TxId, closed: Epoch) -> Result<(), Unusable> {
        if let Some(session) = self.sessions.get(&tx.session) {
            if let Ok(at) = session.position(tx.sequence) {
                return Err(Unusable::Known(session.entries[at].outcome));
            }
            if tx.sequence < session.low {
                return Err(Unusable::Expired);
            }
        }
        if tx.expiry <= closed { Err(Unusable::Expired) } else { Ok(()) }
    }

    /// The outcome of a transaction, if it is known here.
    #[must_use]
    pub fn known(&self, tx: TxId) -> Option<Outcome> {
        let session = self.sessions.get(&tx.session)?;
        session.position(tx.sequence).ok().map(|at| session.entries[at].outcome)
    }

    /// Takes the outcome and low mark of a record. A transaction keeps its first outcome; returns
    /// whether this one agrees with it.
    pub fn record(&mut self, tx: TxId, outcome: Outcome, low: u64, closed: Epoch) -> bool {
        let session = self.sessions.entry(tx.session).or_default();
        session.low = session.low.max(low);
        session.expiry = session.expiry.max(tx.expiry);
        let agrees = match session.position(tx.sequence) {
            Ok(at) => session.entries[at].outcome == outcome,
            Err(at) => {
                let entry = Entry { sequence: tx.sequence, expiry: tx.expiry, outcome };
                session.entries.insert(at, entry);
                self.entries += 1;
                true
            }
        };
        self.entries -= session.forget_front(closed);
        agrees
    }

    /// Takes the low mark of a record without an outcome.
    pub fn raise_low(&mut self, tx: TxId, low: u64) {
        let session = self.sessions.entry(tx.session).or_default();
        session.low = session.low.max(low);
        session.expiry = session.expiry.max(tx.expiry);
    }

    /// Drops what may be dropped now that `closed` is closed. Visits every session: for the tick
    /// of seconds, not of epochs.
    pub fn forget(&mut self, closed: Epoch) {
        let entries = &mut self.entries;
        self.sessions.retain(|_, session| {
            *entries -= session.forget_all(closed);
            !session.entries.is_empty() || session.expiry > closed
        });
    }

    /// The table as of a closed epoch, for a checkpoint: calls `take` with one piece after the
    /// other, each of bounded size and to be given to [`Outcomes::load`]. Commits of later epochs
    /// are left out, because a restore to this epoch undoes them; aborts and low marks stay true.
    ///
    /// A piece is the session (10 bytes), its low mark u64, its expiry u64, `count u32`, then
    /// `sequence u64, expiry u64, epoch u64` (`u64::MAX`: aborted) in order of sequence.
    pub fn save(&self, as_of: Epoch, mut take: impl FnMut(&[u8])) {
        let mut piece = Vec::new();
        for (id, session) in &self.sessions {
            let kept = |entry: &&Entry| match entry.outcome {
                Outcome::Aborted => true,
                Outcome::Committed(epoch) => epoch <= as_of,
            };
            let mut entries = session.entries.iter().filter(kept).peekable();
            loop {
                piece.clear();
                piece.put_instance(id.origin);
                piece.put_u32_le(id.counter);
                piece.put_u64_le(session.low);
                piece.put_u64_le(session.expiry.0);
                piece.put_u32_le(0);
                let mut count = 0_u32;
                for entry in entries.by_ref().take(PIECE_ENTRIES) {
                    piece.put_u64_le(entry.sequence);
                    piece.put_u64_le(entry.expiry.0);
                    piece.put_u64_le(match entry.outcome {
                        Outcome::Committed(epoch) => epoch.0,
                        Outcome::Aborted => ABORTED,
                    });
                    count += 1;
                }
                piece[PIECE_HEADER_BYTES - 4..PIECE_HEADER_BYTES]
                    .copy_from_slice(&count.to_le_bytes());
                take(&piece);
                if entries.peek().is_none() {
                    break;
                }
            }
        }
    }

    /// Takes a piece that `save` made.
    ///
    /// # Errors
    /// [`WireError`] if it is not one; the table may have taken a part of it.
    pub fn load(&mut self, piece: &[u8]) -> Result<(), WireError> {
        let mut r = Reader::new(piece);
        let session = SessionId { origin: r.instance()?, counter: r.u32()? };
        let (low, expiry, count) = (r.u64()?, r.epoch()?, r.u32()?);
        let known = self.sessions.entry(session).or_default();
        known.low = known.low.max(low);
        known.expiry = known.expiry.max(expiry);
        for _ in 0..count {
            let (sequence, expiry, epoch) = (r.u64()?, r.epoch()?, r.u64()?);
            let aborted = epoch == ABORTED;
            let outcome = if aborted { Outcome::Aborted } else { Outcome::Committed(Epoch(epoch)) };
            let Err(at) = known.position(sequence) else { return Err(WireError::BadValue) };
            known.entries.insert(at, Entry { sequence, expiry, outcome });
            self.entries += 1;
        }
        r.finish()
    }

    /// How many outcomes are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tx(sequence: u64) -> TxId {
        TxId { sequence, expiry: Epoch(100), ..TxId::default() }
    }

    #[test]
    fn an_outcome_stays_until_acknowledged_and_closed() {
        let mut table = Outcomes::default();
        assert!(table.record(tx(1), Outcome::Committed(Epoch(5)), 1, Epoch(0)));
        assert_eq!(
            table.check(tx(1), Epoch(0)),
            Err(Unusable::Known(Outcome::Committed(Epoch(5))))
        );
        table.raise_low(tx(2), 2);
        table.forget(Epoch(4));
        assert_eq!(table.known(tx(1)), Some(Outcome::Committed(Epoch(5))));
        table.forget(Epoch(5));
        assert_eq!(table.known(tx(1)), None);
        assert_eq!(table.check(tx(1), Epoch(5)), Err(Unusable::Expired));
        assert_eq!(table.check(tx(2), Epoch(5)), Ok(()));
    }

    #[test]
    fn an_expired_id_is_refused_and_its_session_forgotten() {
        let mut table = Outcomes::default();
        table.record(tx(1), Outcome::Aborted, 1, Epoch(0));
        table.forget(Epoch(100));
        assert!(table.sessions.is_empty());
        assert_eq!(table.check(tx(1), Epoch(100)), Err(Unusable::Expired));
    }

    #[test]
    fn a_second_outcome_is_told_apart_from_the_first() {
        let mut table = Outcomes::default();
        assert!(table.record(tx(3), Outcome::Aborted, 1, Epoch(0)));
        assert!(!table.record(tx(3), Outcome::Committed(Epoch(1)), 1, Epoch(0)));
        assert_eq!(table.known(tx(3)), Some(Outcome::Aborted));
    }

    #[test]
    fn a_saved_table_is_as_of_its_epoch() {
        let mut table = Outcomes::default();
        for sequence in 1..=3000 {
            let outcome = match sequence % 3 {
                0 => Outcome::Aborted,
                _ => Outcome::Committed(Epoch(sequence)),
            };
            table.record(tx(sequence), outcome, 1, Epoch(0));
        }
        let other = SessionId { counter: 7, ..SessionId::default() };
        table.raise_low(TxId { session: other, ..tx(1) }, 50);
        let mut pieces = Vec::new();
        table.save(Epoch(2000), |piece| pieces.push(piece.to_vec()));
        assert!(pieces.len() > 3);
        let mut loaded = Outcomes::default();
        pieces.iter().for_each(|piece| loaded.load(piece).unwrap());
        for sequence in 1..=3000 {
            let known = table.known(tx(sequence));
            let later = matches!(known, Some(Outcome::Committed(epoch)) if epoch > Epoch(2000));
            assert_eq!(loaded.known(tx(sequence)), known.filter(|_| !later));
        }
        assert_eq!(loaded.len(), 2000 - 2000 / 3 + 1000);
        let below = TxId { session: other, ..tx(49) };
        assert_eq!(loaded.check(below, Epoch(0)), Err(Unusable::Expired));
        for cut in 0..pieces[0].len() {
            assert!(Outcomes::default().load(&pieces[0][..cut]).is_err());
        }
        assert!(loaded.load(&pieces[0]).is_err(), "no outcome is known twice");
    }
}
