//! The outcome table of one partition: which transactions are known to be committed or aborted, so
//! that none is applied twice and every outcome can be asked for.
//!
//! It is part of the replicated state: every replica feeds it from the same records. An entry goes
//! when its session has acknowledged it (the low mark passed, or the id expired) **and**, for a
//! commit, its epoch is closed. Invariant: a transaction id that could still arrive is either known
//! here, below its session's low mark, or expired; so it is refused.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Epoch, SessionId, TxId};

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
}
