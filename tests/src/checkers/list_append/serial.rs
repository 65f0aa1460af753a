//! Random histories of a correct store are accepted, whatever overlaps and gets lost; the same
//! histories with one small lie in them are not.

use std::collections::BTreeMap;

use super::{Anomaly, check_list_append};
use crate::checkers::history::{Event, EventKind, Micro};

/// A small generator of our own: tests say which seed they use and give the same answer always.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Open {
    process: u64,
    steps: Vec<Micro>,
    applied: bool,
    ends_in: u64,
}

/// A store that applies each transaction at one moment between its begin and end.
struct Store {
    random: Random,
    lists: BTreeMap<u64, Vec<u64>>,
    open: Vec<Open>,
    events: Vec<Event>,
    elements: u64,
    processes: u64,
    keys: u64,
}

impl Store {
    fn run(seed: u64, transactions: usize, keys: u64) -> Vec<Event> {
        let mut store = Self {
            random: Random(seed * 2 + 1),
            lists: BTreeMap::new(),
            open: Vec::new(),
            events: Vec::new(),
            elements: 0,
            processes: 0,
            keys,
        };
        let mut begun = 0;
        while begun < transactions || !store.open.is_empty() {
            if begun < transactions && store.open.len() < 16 && store.random.below(2) == 0 {
                store.begin();
                begun += 1;
            }
            store.step();
        }
        store.events
    }

    fn begin(&mut self) {
        let mut steps = Vec::new();
        for _ in 0..=self.random.below(4) {
            let key = self.random.below(self.keys);
            if self.random.below(2) == 0 {
                self.elements += 1;
                steps.push(Micro::Append { key, element: self.elements });
            } else {
                steps.push(Micro::Read { key, list: None });
            }
        }
        let (process, ends_in) = (self.processes, self.random.below(8));
        self.processes += 1;
        self.tell(process, EventKind::Invoke, steps.clone());
        self.open.push(Open { process, steps, applied: false, ends_in });
    }

    fn step(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.open.len() as u64)).unwrap();
        if self.open[index].ends_in > 0 {
            self.open[index].ends_in -= 1;
            if !self.open[index].applied && self.random.below(3) == 0 {
                self.apply(index);
            }
            return;
        }
        let lost = self.random.below(10);
        if lost == 0 {
            // The answer is lost; the transaction may have been applied or may never be.
            let open = self.open.swap_remove(index);
            self.tell(open.process, EventKind::Info, open.steps);
        } else if lost == 1 && !self.open[index].applied {
            let open = self.open.swap_remove(index);
            self.tell(open.process, EventKind::Fail, open.steps);
        } else {
            if !self.open[index].applied {
                self.apply(index);
            }
            let open = self.open.swap_remove(index);
            self.tell(open.process, EventKind::Ok, open.steps);
        }
    }

    fn apply(&mut self, index: usize) {
        for step in &mut self.open[index].steps {
            match step {
                Micro::Append { key, element } => {
                    self.lists.entry(*key).or_default().push(*element);
                }
                Micro::Read { key, list } => {
                    *list = Some(self.lists.get(key).cloned().unwrap_or_default());
                }
            }
        }
        self.open[index].applied = true;
    }

    fn tell(&mut self, process: u64, kind: EventKind, value: Vec<Micro>) {
        let time = self.events.len() as u64;
        self.events.push(Event { process, kind, time, value });
    }
}

#[test]
fn random_serial_histories_are_accepted() {
    for seed in 0..200 {
        let history = Store::run(seed, 150, 1 + seed % 7);
        if let Err(violation) = check_list_append(&history) {
            panic!("seed {seed}: a false alarm: {violation}");
        }
    }
}

#[test]
fn a_stale_read_in_a_random_history_is_found() {
    let mut tampered = 0;
    for seed in 0..200 {
        let mut history = Store::run(seed, 150, 3);
        // The last read of a list of at least three elements forgets two of them. The two may be
        // fresh enough for nobody to have been told yet, so look for one that is old.
        let known = history.len() / 2;
        let late = history.iter_mut().skip(known + 60).rev().find_map(|event| {
            let single = event.kind == EventKind::Ok && event.value.len() == 1;
            match event.value.first_mut() {
                Some(Micro::Read { list: Some(list), .. }) if single && list.len() > 60 => {
                    Some(list)
                }
                _ => None,
            }
        });
        let Some(list) = late else { continue };
        list.truncate(2);
        tampered += 1;
        let violation = check_list_append(&history).expect_err("a stale read");
        assert!(
            matches!(violation.anomaly, Anomaly::GSingleRealTime | Anomaly::IntermediateRead),
            "seed {seed}: {violation}"
        );
    }
    assert!(tampered > 20, "only {tampered} histories had a read to tamper with");
}

#[test]
fn swapped_elements_in_a_random_history_are_found() {
    let mut tampered = 0;
    for seed in 0..100 {
        let mut history = Store::run(seed, 100, 2);
        let lists = history.iter_mut().filter(|event| event.kind == EventKind::Ok);
        let mut lists = lists.flat_map(|event| &mut event.value).filter_map(|step| match step {
            Micro::Read { list: Some(list), .. } if list.len() > 10 => Some(list),
            Micro::Read { .. } | Micro::Append { .. } => None,
        });
        let Some(list) = lists.next() else { continue };
        list.swap(0, 1);
        tampered += 1;
        assert!(check_list_append(&history).is_err(), "seed {seed}: not found");
    }
    assert!(tampered > 50, "only {tampered} histories had a read to tamper with");
}

#[test]
fn twenty_thousand_transactions_are_no_burden() {
    let history = Store::run(1, 20_000, 2_000);
    let started = std::time::Instant::now();
    assert_eq!(check_list_append(&history), Ok(()));
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
}
