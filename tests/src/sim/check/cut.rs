//! What came back after all power had failed must be one moment of the past: of every transaction
//! all or nothing, of every client's transactions the first ones, and whatever was acknowledged as
//! on disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::bank::check_totals;
use crate::checkers::counter::CounterStep;
use crate::checkers::history::{Event, EventKind, Micro};
use crate::sim::workload::Notebook;

/// Every violation found; the history up to `told` is from before the power failed, what follows
/// are the last reads.
#[must_use]
pub fn check(notes: &Notebook, told: usize) -> Vec<String> {
    let mut found = Vec::new();
    let (before, after) = notes.history.split_at(told);
    let lists = last_lists(after, &mut found);
    let there: BTreeSet<(u64, u64)> = elements(&lists).collect();
    if there.len() != elements(&lists).count() {
        found.push("an element is in a list twice".to_owned());
    }
    for (key, element) in notes.on_disk.elements.iter().filter(|e| !there.contains(e)) {
        found.push(format!("element {element} of list {key} was on disk and is gone"));
    }
    transactions(before, &there, &mut found);
    prefixes(before, &lists, &mut found);
    counters(notes, &mut found);
    if let Some(end) = &notes.balances {
        let total = i128::from(notes.balance) * i128::from(notes.accounts);
        if let Err(violation) = check_totals(total, std::slice::from_ref(end)) {
            found.push(format!("bank after the power failed: {violation}"));
        }
    }
    found
}

fn elements(lists: &BTreeMap<u64, Vec<u64>>) -> impl Iterator<Item = (u64, u64)> {
    lists.iter().flat_map(|(key, list)| list.iter().map(|element| (*key, *element)))
}

/// The lists as every replica told them.
fn last_lists(after: &[Event], found: &mut Vec<String>) -> BTreeMap<u64, Vec<u64>> {
    let mut lists: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let told = after.iter().filter(|event| event.kind == EventKind::Ok);
    for step in told.flat_map(|event| &event.value) {
        let Micro::Read { key, list: Some(list) } = step else { continue };
        match lists.get(key) {
            Some(known) if known != list => {
                found.push(format!("list {key} is {known:?} here and {list:?} there"));
            }
            Some(_) => {}
            None => {
                lists.insert(*key, list.clone());
            }
        }
    }
    lists
}

fn appends(event: &Event) -> Vec<(u64, u64)> {
    let steps = event.value.iter();
    steps
        .filter_map(|step| match step {
            Micro::Append { key, element } => Some((*key, *element)),
            Micro::Read { .. } => None,
        })
        .collect()
}

/// All or nothing of each, nothing of those that were told not to have happened, and no gap in what
/// one process did.
fn transactions(before: &[Event], there: &BTreeSet<(u64, u64)>, found: &mut Vec<String>) {
    let mut open: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut gap: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for event in before {
        if event.kind == EventKind::Invoke {
            open.insert(event.process, appends(event));
            continue;
        }
        let Some(written) = open.remove(&event.process) else { continue };
        judge(event.process, event.kind, &written, there, &mut gap, found);
    }
    // Whoever was not told anything in time.
    for (process, written) in open {
        judge(process, EventKind::Info, &written, there, &mut gap, found);
    }
}

fn judge(
    process: u64,
    kind: EventKind,
    written: &[(u64, u64)],
    there: &BTreeSet<(u64, u64)>,
    gap: &mut BTreeMap<u64, (u64, u64)>,
    found: &mut Vec<String>,
) {
    let Some(first) = written.first() else { return };
    let kept = written.iter().filter(|element| there.contains(element)).count();
    if kept > 0 && kept < written.len() {
        found.push(format!("a part of {written:?} came back"));
    }
    if kept > 0 && kind == EventKind::Fail {
        found.push(format!("{written:?} came back, and was told not to have happened"));
    }
    match gap.get(&process) {
        Some(missing) if kept > 0 => {
            found.push(format!("{first:?} came back, and {missing:?} before it did not"));
        }
        None if kept == 0 && kind == EventKind::Ok => {
            gap.insert(process, *first);
        }
        Some(_) | None => {}
    }
}

/// What was read before is the beginning of what is there, or the other way round.
fn prefixes(before: &[Event], lists: &BTreeMap<u64, Vec<u64>>, found: &mut Vec<String>) {
    let told = before.iter().filter(|event| event.kind == EventKind::Ok);
    for step in told.flat_map(|event| &event.value) {
        let Micro::Read { key, list: Some(seen) } = step else { continue };
        let now = lists.get(key).map_or(&[][..], Vec::as_slice);
        if !now.starts_with(seen) && !seen.starts_with(now) {
            found.push(format!("list {key} was {seen:?} and came back as {now:?}"));
            return;
        }
    }
}

/// A counter has at least what was on disk, and at most what was ever added.
fn counters(notes: &Notebook, found: &mut Vec<String>) {
    for (key, history) in &notes.counters {
        let added = history.iter().filter(|op| matches!(op.step, CounterStep::Increment(_)));
        let (added, last) = (added.count() as u64, history.last());
        let Some(CounterStep::Read(value)) = last.map(|op| &op.step) else { continue };
        let least = notes.on_disk.counters.get(key).copied().unwrap_or_default();
        if *value < least || *value > added {
            found
                .push(format!("counter {key} is {value}, {least} was on disk, {added} were added"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::workload::Tables;

    fn event(process: u64, kind: EventKind, value: Vec<Micro>) -> Event {
        Event { process, kind, time: 0, value }
    }

    fn append(key: u64, element: u64) -> Micro {
        Micro::Append { key, element }
    }

    /// One process: transaction 1 on lists 1 and 2, then transaction 2 on list 1, both
    /// acknowledged; then these lists come back.
    fn found(one: &[u64], two: &[u64], on_disk: &[(u64, u64)]) -> Vec<String> {
        let mut notes = Notebook::new(Tables::new(8));
        let first = vec![append(1, 10), append(2, 20)];
        let second = vec![append(1, 11)];
        for steps in [first, second] {
            notes.history.push(event(1, EventKind::Invoke, steps.clone()));
            notes.history.push(event(1, EventKind::Ok, steps));
        }
        let told = notes.history.len();
        for (key, list) in [(1, one), (2, two)] {
            let list = Some(list.to_vec());
            notes.history.push(event(9, EventKind::Ok, vec![Micro::Read { key, list }]));
        }
        notes.on_disk.elements = on_disk.to_vec();
        check(&notes, told)
    }

    #[test]
    fn the_past_may_end_between_two_transactions() {
        assert_eq!(found(&[10, 11], &[20], &[(1, 11)]), [] as [&str; 0]);
        assert_eq!(found(&[10], &[20], &[(1, 10)]), [] as [&str; 0]);
        assert_eq!(found(&[], &[], &[]), [] as [&str; 0]);
    }

    #[test]
    fn a_part_a_gap_and_a_loss_are_found() {
        assert!(found(&[10], &[], &[])[0].contains("a part of"));
        assert!(found(&[11], &[], &[])[0].contains("before it did not"));
        assert!(found(&[10], &[20], &[(1, 11)])[0].contains("was on disk and is gone"));
    }
}
