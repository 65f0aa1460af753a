//! Row locks of one partition, at its primary: shared and exclusive, strict two-phase, deadlock
//! prevented by wound-wait. A side table: a row nobody locks is not in it and pays nothing.
//!
//! Transactions have an age, their start order (ties broken by id). The rules:
//! * a lock is granted if no other holder is in conflict with it and no **older** waiter is;
//! * else the transaction waits, in a queue by age, and every younger holder in conflict is named
//!   to be wounded. A waiter that is younger is simply overtaken;
//! * whenever a holder or a waiter goes away, the queue is gone through from the oldest on and all
//!   that can be granted by the first rule are.
//!
//! Invariant, *every wait is by a younger transaction for an older one, or for one that the older
//! has wounded*: take a waiter W and a holder H in conflict. If H held when W began to wait, W
//! wounded H unless H is older. If H was granted later, H is older by the first rule. So a cycle of
//! waits always contains a wounded transaction; it is aborted or, if it is too late for that,
//! waits for nothing any more and ends by itself. In particular a grant never makes a new wound
//! necessary. [`LockTable::rebuild`] grants by force and therefore comes before any waiting.
//!
//! Second invariant: waiters are not starved, since nothing younger is granted past them.
//!
//! Third invariant: everything handed out is in an order that follows from the calls alone.

use std::collections::VecDeque;

use hashbrown::HashTable;
use lockstep_proto::ids::{StartOrder, TableId, TxId};

/// What a lock allows others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// Others may hold it shared.
    Shared,
    /// Nobody else holds it.
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

/// Whether a lock could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Acquired {
    /// The transaction holds it.
    Granted,
    /// It waits; a release will name it.
    Waiting,
}

/// A transaction in the table, and what it has there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner {
    /// The transaction.
    pub tx: TxId,
    /// Locks it holds.
    pub held: usize,
    /// Locks it waits for.
    pub waiting: usize,
}

/// Buffers kept for coming locks and transactions; beyond that they go back to the allocator.
const SPARE_MAX: usize = 1024;

/// A transaction's hold on a lock, or its wait for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Claim {
    tx: TxId,
    order: StartOrder,
    mode: Mode,
}

impl Claim {
    fn is_older(&self, other: &Self) -> bool {
        (self.order, self.tx) < (other.order, other.tx)
    }
}

/// The lock of one row.
#[derive(Default)]
struct Lock {
    table: TableId,
    hash: u64,
    key: Vec<u8>,
    /// By transaction id. If one is exclusive it is alone, unless forced by a rebuild.
    holders: Vec<Claim>,
    /// By age, oldest first. A holder may wait for more than it has.
    waiters: VecDeque<Claim>,
}

impl Lock {
    fn holder(&self, tx: TxId) -> Result<usize, usize> {
        self.holders.binary_search_by(|claim| claim.tx.cmp(&tx))
    }

    fn is_unused(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }

    /// Holders in conflict, other than the transaction itself.
    fn opponents(&self, tx: Option<TxId>, mode: Mode) -> impl Iterator<Item = &Claim> {
        // A lone shared holder stands for all: nobody holds it exclusive beside others.
        let scanned = match (mode, self.holders.first()) {
            (Mode::Shared, Some(first)) if first.mode == Mode::Shared => 0,
            _ => self.holders.len(),
        };
        let claims = self.holders[..scanned].iter();
        claims.filter(move |claim| Some(claim.tx) != tx && claim.mode.conflicts(mode))
    }

    /// Whether the first rule allows it.
    fn allows(&self, claim: &Claim) -> bool {
        let mut older = self.waiters.iter().take_while(|waiter| waiter.is_older(claim));
        self.opponents(Some(claim.tx), claim.mode).next().is_none()
            && !older.any(|waiter| waiter.mode.conflicts(claim.mode))
    }

    /// Makes it a holder, or a stronger one; tells whether it is new.
    fn grant(&mut self, claim: Claim) -> bool {
        match self.holder(claim.tx) {
            Ok(at) => {
                self.holders[at].mode = self.holders[at].mode.max(claim.mode);
                false
            }
            Err(at) => {
                self.holders.insert(at, claim);
                true
            }
        }
    }

    fn enqueue(&mut self, claim: Claim) {
        let at = self.waiters.partition_point(|waiter| waiter.is_older(&claim));
        self.waiters.insert(at, claim);
    }

    fn remove_waiter(&mut self, tx: TxId, order: StartOrder) -> Option<Claim> {
        let at = self.waiters.partition_point(|waiter| (waiter.order, waiter.tx) < (order, tx));
        let found = self.waiters.get(at).is_some_and(|waiter| waiter.tx == tx);
        if found { self.waiters.remove(at) } else { None }
    }

    /// The oldest waiter, taken off the queue, if it can be granted. If it cannot, none can: one
    /// that waits exclusive is in conflict with all that are younger, and one that waits shared
    /// waits for an exclusive holder, for whom they all wait.
    fn take_grantable(&mut self) -> Option<Claim> {
        let oldest = self.waiters.front()?;
        let blocked = self.opponents(Some(oldest.tx), oldest.mode).next().is_some();
        if blocked { None } else { self.waiters.pop_front() }
    }
}

/// A transaction in the table: numbers of locks, in the order of its requests.
struct Member {
    tx: TxId,
    order: StartOrder,
    held: Vec<u32>,
    waits: Vec<u32>,
}

/// The row locks of one partition.
#[derive(Default)]
pub struct LockTable {
    locks: Vec<Lock>,
    unused: Vec<u32>,
    by_row: HashTable<u32>,
    members: HashTable<Member>,
    spare: Vec<Member>,
}

fn row_hash(table: TableId, hash: u64) -> u64 {
    hash ^ u64::from(table.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn tx_hash(tx: TxId) -> u64 {
    let origin = u64::from(tx.session.origin.node.0) << 32 | u64::from(tx.session.counter);
    let mixed = (tx.sequence ^ origin.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 29
}

impl LockTable {
    /// A table without locks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nobody holds a lock or waits for one.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_row.is_empty()
    }

    /// Who is in the way of a transaction that would have this lock only for a moment: a holder
    /// in conflict, else a waiter in conflict (whose turn it is first). The transaction's own
    /// locks are not in its way. Of several, always the same one is named.
    #[must_use]
    #[inline]
    pub fn conflict(
        &self,
        table: TableId,
        hash: u64,
        key: &[u8],
        mode: Mode,
        asking: Option<TxId>,
    ) -> Option<TxId> {
        if self.is_empty() {
            return None;
        }
        let lock = &self.locks[self.find(table, hash, key)?];
        if let Some(tx) = asking
            && let Ok(at) = lock.holder(tx)
            && lock.holders[at].mode >= mode
        {
            return None;
        }
        let waiters = lock.waiters.iter().filter(|waiter| waiter.mode.conflicts(mode));
        let mut others = lock.opponents(asking, mode).chain(waiters);
        others.find(|claim| Some(claim.tx) != asking).map(|claim| claim.tx)
    }

    /// Takes a lock or waits for it. A lock held already is granted again; one held shared can be
    /// made exclusive. A transaction has the same order in all its calls. While the answer is to
    /// wait, `wounds` gets the transactions to be wounded.
    pub fn acquire(
        &mut self,
        tx: TxId,
        order: StartOrder,
        table: TableId,
        hash: u64,
        key: &[u8],
        mode: Mode,
        wounds: &mut Vec<TxId>,
    ) -> Acquired {
        let number = self.find_or_insert(table, hash, key);
        let lock = &mut self.locks[number as usize];
        let mut claim = Claim { tx, order, mode };
        if lock.holder(tx).is_ok_and(|at| lock.holders[at].mode >= mode) {
            return Acquired::Granted;
        }
        let waited = lock.remove_waiter(tx, order);
        claim.mode = waited.map_or(mode, |waited| waited.mode.max(mode));
        if lock.allows(&claim) {
            self.grant(number, claim);
            return Acquired::Granted;
        }
        let younger = lock.opponents(Some(tx), claim.mode).filter(|holder| claim.is_older(holder));
        wounds.extend(younger.map(|holder| holder.tx));
        lock.enqueue(claim);
        if waited.is_none() {
            self.member(tx, order).waits.push(number);
        }
        Acquired::Waiting
    }

    /// Gives a transaction a lock whoever else has it: an undecided prepare that a new primary
    /// finds in its log held it at the old one. Only before anybody waits.
    pub fn rebuild(
        &mut self,
        tx: TxId,
        order: StartOrder,
        table: TableId,
        hash: u64,
        key: &[u8],
        mode: Mode,
    ) {
        let number = self.find_or_insert(table, hash, key);
        debug_assert!(self.locks[number as usize].waiters.is_empty(), "rebuilt before any wait");
        self.grant(number, Claim { tx, order, mode });
    }

    /// Ends everything the transaction has here. `granted` gets those that waited and now hold all
    /// they waited for.
    pub fn release_all(&mut self, tx: TxId, granted: &mut Vec<TxId>) {
        let Some(mut member) = self.take_member(tx) else { return };
        for number in &member.waits {
            self.locks[*number as usize].remove_waiter(tx, member.order);
        }
        for number in &member.held {
            let lock = &mut self.locks[*number as usize];
            let at = lock.holder(tx).expect("a member holds what it lists");
            lock.holders.remove(at);
        }
        for number in &member.held {
            self.promote(*number, granted);
        }
        for number in &member.waits {
            if !member.held.contains(number) {
                self.promote(*number, granted);
            }
        }
        member.held.clear();
        member.waits.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(member);
        }
    }

    /// Ends the transaction's waits; it keeps what it holds. `granted` as in
    /// [`LockTable::release_all`]: others may have waited behind it.
    pub fn cancel_wait(&mut self, tx: TxId, granted: &mut Vec<TxId>) {
        let member = self.members.find_mut(tx_hash(tx), |member| member.tx == tx);
        let Some(member) = member else { return };
        let order = member.order;
        let waits = std::mem::take(&mut member.waits);
        for number in waits {
            self.locks[number as usize].remove_waiter(tx, order);
            self.promote(number, granted);
        }
        if self.find_member(tx).is_some_and(|member| member.held.is_empty()) {
            self.take_member(tx);
        }
    }

    /// Names every younger holder that an older waiter waits for: the wounds that are due, in case
    /// earlier ones were lost on the way.
    pub fn wounds(&self, wounds: &mut Vec<TxId>) {
        for lock in &self.locks {
            for waiter in &lock.waiters {
                let younger = lock.opponents(Some(waiter.tx), waiter.mode);
                wounds.extend(younger.filter(|h| waiter.is_older(h)).map(|holder| holder.tx));
            }
        }
        wounds.sort_unstable();
        wounds.dedup();
    }

    /// Whether the transaction holds this lock, in this mode or a stronger one.
    #[must_use]
    pub fn holds(&self, tx: TxId, table: TableId, hash: u64, key: &[u8], mode: Mode) -> bool {
        self.find(table, hash, key).is_some_and(|number| {
            let lock = &self.locks[number];
            lock.holder(tx).is_ok_and(|at| lock.holders[at].mode >= mode)
        })
    }

    /// Whether the transaction waits for a lock.
    #[must_use]
    pub fn is_waiting(&self, tx: TxId) -> bool {
        self.find_member(tx).is_some_and(|member| !member.waits.is_empty())
    }

    /// The locks the transaction holds, in the order it first got them.
    pub fn held_by(&self, tx: TxId) -> impl Iterator<Item = (TableId, &[u8], Mode)> {
        let held = self.find_member(tx).map_or(&[][..], |member| &member.held);
        held.iter().map(move |number| {
            let lock = &self.locks[*number as usize];
            let at = lock.holder(tx).expect("a member holds what it lists");
            (lock.table, lock.key.as_slice(), lock.holders[at].mode)
        })
    }

    /// Every transaction that holds a lock or waits for one, by id.
    #[must_use]
    pub fn owners(&self) -> Vec<Owner> {
        let owner = |m: &Member| Owner { tx: m.tx, held: m.held.len(), waiting: m.waits.len() };
        let mut owners: Vec<Owner> = self.members.iter().map(owner).collect();
        owners.sort_unstable();
        owners
    }

    fn find(&self, table: TableId, hash: u64, key: &[u8]) -> Option<usize> {
        let found = self.by_row.find(row_hash(table, hash), |number| {
            let lock = &self.locks[*number as usize];
            lock.table == table && lock.hash == hash && lock.key == key
        });
        found.map(|number| *number as usize)
    }

    fn find_or_insert(&mut self, table: TableId, hash: u64, key: &[u8]) -> u32 {
        if let Some(number) = self.find(table, hash, key) {
            return number as u32;
        }
        let number = self.unused.pop().unwrap_or_else(|| {
            self.locks.push(Lock::default());
            u32::try_from(self.locks.len() - 1).expect("open transactions and batches are bounded")
        });
        let lock = &mut self.locks[number as usize];
        (lock.table, lock.hash) = (table, hash);
        lock.key.extend_from_slice(key);
        let locks = &self.locks;
        self.by_row.insert_unique(row_hash(table, hash), number, |number| {
            let lock = &locks[*number as usize];
            row_hash(lock.table, lock.hash)
        });
        number
    }

    fn find_member(&self, tx: TxId) -> Option<&Member> {
        self.members.find(tx_hash(tx), |member| member.tx == tx)
    }

    /// The transaction's entry, made if it has none.
    fn member(&mut self, tx: TxId, order: StartOrder) -> &mut Member {
        let spare = &mut self.spare;
        let entry =
            self.members.entry(tx_hash(tx), |member| member.tx == tx, |member| tx_hash(member.tx));
        let made = entry.or_insert_with(|| {
            let spare = spare.pop();
            let unused = || Member { tx, order, held: Vec::new(), waits: Vec::new() };
            Member { tx, order, ..spare.unwrap_or_else(unused) }
        });
        made.into_mut()
    }

    fn take_member(&mut self, tx: TxId) -> Option<Member> {
        let entry = self.members.find_entry(tx_hash(tx), |member| member.tx == tx).ok()?;
        Some(entry.remove().0)
    }

    /// Makes the transaction a holder, and no longer a waiter, of this lock.
    fn grant(&mut self, number: u32, claim: Claim) -> bool {
        let new = self.locks[number as usize].grant(claim);
        let member = self.member(claim.tx, claim.order);
        if new {
            member.held.push(number);
        }
        if let Some(at) = member.waits.iter().position(|wait| *wait == number) {
            member.waits.remove(at);
        }
        member.waits.is_empty()
    }

    /// Grants what can be granted after a change, and forgets the lock if nobody is left.
    fn promote(&mut self, number: u32, granted: &mut Vec<TxId>) {
        while let Some(claim) = self.locks[number as usize].take_grantable() {
            if self.grant(number, claim) {
                granted.push(claim.tx);
            }
        }
        if self.locks[number as usize].is_unused() {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        let lock = &mut self.locks[number as usize];
        let hash = row_hash(lock.table, lock.hash);
        let entry = self.by_row.find_entry(hash, |entry| *entry == number);
        entry.expect("a lock in use is found by its row").remove();
        lock.key.clear();
        if self.unused.len() >= SPARE_MAX {
            *lock = Lock::default();
        }
        self.unused.push(number);
        if self.by_row.is_empty() && self.locks.len() > SPARE_MAX {
            *self = Self::default();
        }
    }
}
