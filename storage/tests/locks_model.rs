//! Row locks against their rules, written down naively: random requests and releases, and after
//! every step all that can be seen must agree. Then whole runs of transactions under wound-wait:
//! all of them come to an end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::ids::{
    Epoch, Incarnation, NodeId, NodeInstance, SessionId, StartOrder, TableId, TxId,
};
use lockstep_proto::placement::key_hash;
use lockstep_storage::{Acquired, LockTable, Mode};
use proptest::collection::vec;
use proptest::prelude::*;

/// A row: table and key.
type Row = (u32, u8);

/// A naive lock table: who holds and who waits for every row, and nothing to find it faster.
#[derive(Default)]
struct Model {
    held: BTreeMap<(Row, TxId), Mode>,
    waits: BTreeMap<(Row, TxId), Mode>,
    /// `(row, older waiter, younger holder)`.
    wounded: BTreeSet<(Row, TxId, TxId)>,
}

fn tx(age: u64) -> TxId {
    let origin = NodeInstance { node: NodeId(1), incarnation: Incarnation(1) };
    // Ids in another order than ages, and two sessions.
    let session = SessionId { origin, counter: (age % 2) as u32 };
    TxId { session, sequence: 1000 - age, expiry: Epoch(9) }
}

/// Two transactions in a row started in the same millisecond, as retries of one do.
fn order(tx: TxId) -> StartOrder {
    let age = 1000 - tx.sequence;
    StartOrder { wall_ms: 1 + age / 2, ..StartOrder::default() }
}

fn age(tx: TxId) -> (StartOrder, TxId) {
    (order(tx), tx)
}

fn conflicts(a: Mode, b: Mode) -> bool {
    a == Mode::Exclusive || b == Mode::Exclusive
}

impl Model {
    fn of(map: &BTreeMap<(Row, TxId), Mode>, row: Row) -> Vec<(TxId, Mode)> {
        map.iter().filter(|((r, _), _)| *r == row).map(|((_, tx), mode)| (*tx, *mode)).collect()
    }

    fn allows(&self, row: Row, tx: TxId, mode: Mode) -> bool {
        let other = |(t, m): &(TxId, Mode)| *t != tx && conflicts(*m, mode);
        let older = |(t, _): &(TxId, Mode)| age(*t) < age(tx);
        !Self::of(&self.held, row).iter().any(other)
            && !Self::of(&self.waits, row).iter().any(|claim| other(claim) && older(claim))
    }

    fn grant(&mut self, row: Row, tx: TxId, mode: Mode) {
        self.held.insert((row, tx), mode);
        self.waits.remove(&(row, tx));
    }

    fn acquire(&mut self, row: Row, tx: TxId, mode: Mode) -> (Acquired, BTreeSet<TxId>) {
        if self.held.get(&(row, tx)).is_some_and(|held| *held >= mode) {
            return (Acquired::Granted, BTreeSet::new());
        }
        let mode = self.waits.remove(&(row, tx)).map_or(mode, |waited| waited.max(mode));
        if self.allows(row, tx, mode) {
            self.grant(row, tx, mode);
            return (Acquired::Granted, BTreeSet::new());
        }
        self.waits.insert((row, tx), mode);
        let holders = Self::of(&self.held, row).into_iter();
        let wounds = holders
            .filter(|(h, m)| *h != tx && conflicts(*m, mode) && age(tx) < age(*h))
            .map(|(h, _)| h)
            .collect::<BTreeSet<_>>();
        self.wounded.extend(wounds.iter().map(|younger| (row, tx, *younger)));
        (Acquired::Waiting, wounds)
    }

    fn end(&mut self, tx: TxId, also_held: bool) -> BTreeSet<TxId> {
        self.waits.retain(|(_, waiter), _| *waiter != tx);
        self.wounded.retain(|(_, older, _)| *older != tx);
        if also_held {
            self.held.retain(|(_, holder), _| *holder != tx);
            self.wounded.retain(|(_, _, younger)| *younger != tx);
        }
        let mut granted = BTreeSet::new();
        while let Some(((row, tx), mode)) = self.next_grantable() {
            self.grant(row, tx, mode);
            granted.insert(tx);
        }
        granted.retain(|tx| !self.waits.keys().any(|(_, waiter)| waiter == tx));
        granted
    }

    fn next_grantable(&self) -> Option<((Row, TxId), Mode)> {
        let mut waits = self.waits.iter();
        waits.find(|((row, tx), mode)| self.allows(*row, *tx, **mode)).map(|(k, m)| (*k, *m))
    }

    /// Younger holders that an older transaction waits for.
    fn wounds_due(&self) -> Vec<TxId> {
        let mut due = BTreeSet::new();
        for ((row, waiter), wanted) in &self.waits {
            let holders = Self::of(&self.held, *row).into_iter();
            let younger = holders.filter(|(h, mode)| {
                h != waiter && conflicts(*mode, *wanted) && age(*waiter) < age(*h)
            });
            due.extend(younger.map(|(holder, _)| holder));
        }
        due.into_iter().collect()
    }

    /// No two in conflict hold one lock; every wait for a holder is for an older one or for one
    /// that has been wounded for it.
    fn check_invariants(&self) {
        for ((row, holder), mode) in &self.held {
            for (other, other_mode) in Self::of(&self.held, *row) {
                assert!(other == *holder || !conflicts(*mode, other_mode));
            }
            for (waiter, wanted) in Self::of(&self.waits, *row) {
                let waits = waiter != *holder && conflicts(*mode, wanted);
                let excused =
                    age(*holder) < age(waiter) || self.wounded.contains(&(*row, waiter, *holder));
                assert!(!waits || excused, "{waiter} waits for the younger {holder} unwounded");
            }
        }
    }
}

fn key_of(row: Row) -> [u8; 1] {
    [row.1]
}

fn acquire(table: &mut LockTable, row: Row, tx: TxId, mode: Mode) -> (Acquired, BTreeSet<TxId>) {
    let key = key_of(row);
    let mut wounds = Vec::new();
    let acquired =
        table.acquire(tx, order(tx), TableId(row.0), key_hash(&key), &key, mode, &mut wounds);
    let count = wounds.len();
    let wounds: BTreeSet<TxId> = wounds.into_iter().collect();
    assert_eq!(wounds.len(), count, "nobody is wounded twice by one request");
    (acquired, wounds)
}

fn check_same(table: &LockTable, model: &Model, rows: &[Row], txs: &[TxId]) {
    assert_eq!(table.is_empty(), model.held.is_empty() && model.waits.is_empty());
    let mut due = Vec::new();
    table.wounds(&mut due);
    assert_eq!(due, model.wounds_due());
    let owners = table.owners();
    assert!(owners.is_sorted());
    for (row, mode) in rows.iter().flat_map(|row| [(row, Mode::Shared), (row, Mode::Exclusive)]) {
        let key = key_of(*row);
        let named = table.conflict(TableId(row.0), key_hash(&key), &key, mode, None);
        let claims = Model::of(&model.held, *row).into_iter().chain(Model::of(&model.waits, *row));
        assert_eq!(named.is_some(), claims.into_iter().any(|(_, other)| conflicts(other, mode)));
    }
    for tx in txs {
        let owner = owners.iter().find(|owner| owner.tx == *tx);
        let held = model.held.keys().filter(|(_, holder)| holder == tx).count();
        let waiting = model.waits.keys().filter(|(_, waiter)| waiter == tx).count();
        assert_eq!(owner.map_or((0, 0), |owner| (owner.held, owner.waiting)), (held, waiting));
        assert_eq!(table.is_waiting(*tx), waiting > 0);
        let mut listed: Vec<_> = table.held_by(*tx).map(|(t, k, m)| ((t.0, k[0]), m)).collect();
        listed.sort_unstable();
        let held = model.held.iter().filter(|((_, holder), _)| holder == tx);
        assert_eq!(listed, held.map(|((row, _), mode)| (*row, *mode)).collect::<Vec<_>>());
        for row in rows {
            for mode in [Mode::Shared, Mode::Exclusive] {
                let key = key_of(*row);
                let holds = table.holds(*tx, TableId(row.0), key_hash(&key), &key, mode);
                assert_eq!(holds, model.held.get(&(*row, *tx)).is_some_and(|h| *h >= mode));
                let named = table.conflict(TableId(row.0), key_hash(&key), &key, mode, Some(*tx));
                let opposes = |(t, m): &(TxId, Mode)| t != tx && conflicts(*m, mode);
                let held = Model::of(&model.held, *row);
                let waits = Model::of(&model.waits, *row);
                match held.iter().find(|claim| opposes(claim)) {
                    _ if holds => assert_eq!(named, None),
                    Some((holder, _)) => assert_eq!(named, Some(*holder)),
                    None => assert_eq!(named.is_some(), waits.iter().any(opposes)),
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire { age: u64, row: Row, mode: Mode },
    Release { age: u64 },
    Cancel { age: u64 },
}

const AGES: u64 = 7;

fn row() -> impl Strategy<Value = Row> {
    (1..3_u32, 0..2_u8)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Shared), Just(Mode::Exclusive)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..AGES, row(), mode()).prop_map(|(age, row, mode)| Step::Acquire { age, row, mode }),
        2 => (0..AGES).prop_map(|age| Step::Release { age }),
        1 => (0..AGES).prop_map(|age| Step::Cancel { age }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 1000 },
        ..<_>::default()
    })]

    #[test]
    fn locks_follow_their_rules(steps in vec(step(), 0..80)) {
        let mut table = LockTable::new();
        let mut model = Model::default();
        let rows = [(1, 0), (1, 1), (2, 0), (2, 1)];
        let txs: Vec<TxId> = (0..AGES).map(tx).collect();
        for step in steps {
            let mut granted = Vec::new();
            let expected = match step {
                Step::Acquire { age, row, mode } => {
                    let expected = model.acquire(row, tx(age), mode);
                    prop_assert_eq!(acquire(&mut table, row, tx(age), mode), expected);
                    BTreeSet::new()
                }
                Step::Release { age } => {
                    table.release_all(tx(age), &mut granted);
                    model.end(tx(age), true)
                }
                Step::Cancel { age } => {
                    table.cancel_wait(tx(age), &mut granted);
                    model.end(tx(age), false)
                }
            };
            let count = granted.len();
            let granted: BTreeSet<TxId> = granted.into_iter().collect();
            prop_assert_eq!(granted.len(), count, "nobody is named twice");
            prop_assert_eq!(granted, expected);
            model.check_invariants();
            check_same(&table, &model, &rows, &txs);
        }
    }

    /// Transactions that take their locks one after the other, some of them wounded and begun
    /// again with their old age, always all come to an end: there is no deadlock and no
    /// starvation. Whoever is chosen to go on next is random; a wounded one is aborted late.
    #[test]
    fn all_transactions_end(
        plans in vec(vec((row(), mode()), 1..6), 1..AGES as usize),
        choices in vec(any::<prop::sample::Index>(), 400),
    ) {
        let mut table = LockTable::new();
        let mut left: BTreeMap<TxId, usize> = (0..plans.len() as u64).map(|a| (tx(a), 0)).collect();
        let mut wounded = BTreeSet::new();
        let mut choices = choices.into_iter().cycle();
        let mut steps = 0;
        while !left.is_empty() {
            let ready: Vec<TxId> = left
                .keys()
                .copied()
                .filter(|tx| !table.is_waiting(*tx) || wounded.contains(tx))
                .collect();
            prop_assert!(!ready.is_empty(), "deadlock");
            let chosen = *choices.next().unwrap().get(&ready);
            steps += 1;
            prop_assert!(steps < 5000, "no progress");
            let plan = &plans[(1000 - chosen.sequence) as usize];
            let mut granted = Vec::new();
            if wounded.remove(&chosen) {
                table.release_all(chosen, &mut granted);
                left.insert(chosen, 0);
            } else if let Some((row, mode)) = plan.get(left[&chosen]) {
                let (_, wounds) = acquire(&mut table, *row, chosen, *mode);
                wounded.extend(wounds);
                *left.get_mut(&chosen).unwrap() += 1;
            } else {
                table.release_all(chosen, &mut granted);
                left.remove(&chosen);
            }
        }
        prop_assert!(table.is_empty());
    }
}

/// A new primary gives the locks of undecided prepares back before anybody asks for them.
#[test]
fn rebuilt_locks_are_held() {
    let mut table = LockTable::new();
    let (prepared, older) = (tx(5), tx(0));
    let key = key_of((1, 0));
    let hash = key_hash(&key);
    table.rebuild(prepared, order(prepared), TableId(1), hash, &key, Mode::Exclusive);
    assert!(table.holds(prepared, TableId(1), hash, &key, Mode::Exclusive));
    let wounded = BTreeSet::from([prepared]);
    assert_eq!(acquire(&mut table, (1, 0), older, Mode::Shared), (Acquired::Waiting, wounded));
    let mut granted = Vec::new();
    table.release_all(prepared, &mut granted);
    assert_eq!(granted, [older]);
    table.release_all(older, &mut granted);
    assert!(table.is_empty() && table.owners().is_empty());
}

/// Many locks at once go and come back, and leave nothing behind.
#[test]
fn a_busy_table_empties() {
    let mut table = LockTable::new();
    let mut granted = Vec::new();
    for round in 0..3 {
        for n in 0..5000_u32 {
            let key = n.to_be_bytes();
            let tx = tx(u64::from(n % 10) + round);
            let mut wounds = Vec::new();
            let mode = Mode::Exclusive;
            let got =
                table.acquire(tx, order(tx), TableId(1), key_hash(&key), &key, mode, &mut wounds);
            assert_eq!((got, wounds.len()), (Acquired::Granted, 0));
        }
        for owner in table.owners() {
            assert_eq!((owner.held, owner.waiting), (500, 0));
            assert!(table.held_by(owner.tx).is_sorted(), "in the order of the requests");
            table.release_all(owner.tx, &mut granted);
        }
        assert!(table.is_empty() && granted.is_empty());
    }
}
