//! The order of every list's elements, inferred from reads, and the mistakes that show without
//! looking for cycles.
//!
//! Invariant: after [`infer`] every committed read is a prefix of its list's order, and every
//! element of an order was appended by a transaction that did not abort.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Anomaly, Violation};
use crate::checkers::history::{Fate, Micro, Transaction};

/// An index into the transactions of the history.
pub(super) type Tx = usize;

/// What is known of one list.
#[derive(Default, Debug)]
pub(super) struct Versions {
    /// The longest list anybody read.
    pub(super) order: Vec<u64>,
    /// Who read it.
    reader: Tx,
    /// Appends that took effect but are in no read: they come after `order`, nobody knows how.
    pub(super) unobserved: Vec<(u64, Tx)>,
}

/// The version orders of a history.
pub(super) struct VersionOrders {
    /// By key.
    pub(super) lists: BTreeMap<u64, Versions>,
    writers: HashMap<(u64, u64), Tx>,
    /// By transaction: whether it took effect, by what its client was told or others read.
    pub(super) effective: Vec<bool>,
}

impl VersionOrders {
    /// Who appended an element that [`infer`] accepted.
    pub(super) fn writer(&self, key: u64, element: u64) -> Tx {
        *self.writers.get(&(key, element)).expect("infer checked every element of an order")
    }
}

/// Infers the order of every list.
pub(super) fn infer(txs: &[Transaction]) -> Result<VersionOrders, Violation> {
    let writers = writers(txs)?;
    for tx in txs {
        check_internal(tx)?;
    }
    let mut lists = longest_reads(txs);
    for (&key, versions) in &lists {
        check_elements(txs, &writers, key, &versions.order, versions.reader)?;
    }
    for (reader, key, list) in committed_reads(txs) {
        let versions = &lists[&key];
        if !versions.order.starts_with(list) {
            check_elements(txs, &writers, key, list, reader)?;
            return Err(incompatible(txs, key, reader, versions.reader));
        }
        check_intermediate(txs, &writers, key, list, reader)?;
    }
    let effective = effective(txs, &lists, &writers);
    collect_unobserved(txs, &effective, &mut lists);
    Ok(VersionOrders { lists, writers, effective })
}

/// All lists that committed transactions read, in order of the history.
pub(super) fn committed_reads(
    txs: &[Transaction],
) -> impl Iterator<Item = (Tx, u64, &[u64])> + Clone {
    let committed = txs.iter().enumerate().filter(|(_, tx)| tx.fate == Fate::Committed);
    committed.flat_map(|(index, tx)| {
        tx.steps.iter().filter_map(move |step| match step {
            Micro::Read { key, list: Some(list) } => Some((index, *key, list.as_slice())),
            Micro::Read { list: None, .. } | Micro::Append { .. } => None,
        })
    })
}

/// The elements a transaction appends to a list, in order.
fn appends_to(tx: &Transaction, wanted: u64) -> impl DoubleEndedIterator<Item = u64> + Clone {
    tx.steps.iter().filter_map(move |step| match step {
        Micro::Append { key, element } if *key == wanted => Some(*element),
        Micro::Append { .. } | Micro::Read { .. } => None,
    })
}

fn writers(txs: &[Transaction]) -> Result<HashMap<(u64, u64), Tx>, Violation> {
    let mut writers = HashMap::new();
    for (index, tx) in txs.iter().enumerate() {
        for step in &tx.steps {
            let Micro::Append { key, element } = step else { continue };
            if let Some(other) = writers.insert((*key, *element), index) {
                let witness = format!(
                    "element {element} of key {key} has two invocations\n  {}\n  {tx}",
                    txs[other]
                );
                return Err(Violation { anomaly: Anomaly::Malformed, witness });
            }
        }
    }
    Ok(writers)
}

/// A transaction must see what it appended and read before.
fn check_internal(tx: &Transaction) -> Result<(), Violation> {
    if tx.fate != Fate::Committed {
        return Ok(());
    }
    let mut appended: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
    for step in &tx.steps {
        match step {
            Micro::Append { key, element } => {
                appended.entry(*key).or_default().push(*element);
                if let Some(list) = seen.get_mut(key) {
                    list.push(*element);
                }
            }
            Micro::Read { key, list } => {
                let list = list.as_deref().unwrap_or_default();
                let own = appended.get(key).map(Vec::as_slice).unwrap_or_default();
                let before = seen.get(key).is_none_or(|expected| expected == list);
                let early = appends_to(tx, *key).skip(own.len()).any(|e| list.contains(&e));
                if !before || !list.ends_with(own) || early {
                    let witness = format!("{tx} does not see its own steps on key {key}");
                    return Err(Violation { anomaly: Anomaly::Internal, witness });
                }
                seen.insert(*key, list.to_vec());
            }
        }
    }
    Ok(())
}

fn longest_reads(txs: &[Transaction]) -> BTreeMap<u64, Versions> {
    let mut lists: BTreeMap<u64, Versions> = BTreeMap::new();
    for (reader, key, list) in committed_reads(txs) {
        let versions = lists.entry(key).or_default();
        if versions.order.len() < list.len() {
            versions.order = list.to_vec();
            versions.reader = reader;
        }
    }
    lists
}

/// Every element once, each appended by somebody who did not abort.
fn check_elements(
    txs: &[Transaction],
    writers: &HashMap<(u64, u64), Tx>,
    key: u64,
    list: &[u64],
    reader: Tx,
) -> Result<(), Violation> {
    let reader = &txs[reader];
    let mut seen = HashSet::new();
    for &element in list {
        if !seen.insert(element) {
            let witness = format!("element {element} is twice in key {key}\n  {reader}");
            return Err(Violation { anomaly: Anomaly::Duplicate, witness });
        }
        let Some(&writer) = writers.get(&(key, element)) else {
            let witness = format!("nobody appended {element} to key {key}\n  {reader}");
            return Err(Violation { anomaly: Anomaly::Phantom, witness });
        };
        if txs[writer].fate == Fate::Aborted {
            let witness = format!(
                "element {element} of key {key} was read although its writer aborted\n  {}\n  \
                 {reader}",
                txs[writer]
            );
            return Err(Violation { anomaly: Anomaly::AbortedRead, witness });
        }
    }
    Ok(())
}

/// A list must not end between two appends of one other transaction.
fn check_intermediate(
    txs: &[Transaction],
    writers: &HashMap<(u64, u64), Tx>,
    key: u64,
    list: &[u64],
    reader: Tx,
) -> Result<(), Violation> {
    let Some(&last) = list.last() else { return Ok(()) };
    let writer = writers[&(key, last)];
    if writer == reader || appends_to(&txs[writer], key).next_back() == Some(last) {
        return Ok(());
    }
    let witness = format!(
        "key {key} was read between two appends of one transaction\n  {}\n  {}",
        txs[writer], txs[reader]
    );
    Err(Violation { anomaly: Anomaly::IntermediateRead, witness })
}

fn incompatible(txs: &[Transaction], key: u64, one: Tx, other: Tx) -> Violation {
    let witness = format!(
        "two reads of key {key} disagree about its order\n  {}\n  {}",
        txs[one], txs[other]
    );
    Violation { anomaly: Anomaly::IncompatibleOrder, witness }
}

fn effective(
    txs: &[Transaction],
    lists: &BTreeMap<u64, Versions>,
    writers: &HashMap<(u64, u64), Tx>,
) -> Vec<bool> {
    let mut effective: Vec<bool> = txs.iter().map(|tx| tx.fate == Fate::Committed).collect();
    for (&key, versions) in lists {
        for &element in &versions.order {
            effective[writers[&(key, element)]] = true;
        }
    }
    effective
}

fn collect_unobserved(
    txs: &[Transaction],
    effective: &[bool],
    lists: &mut BTreeMap<u64, Versions>,
) {
    let observed: HashSet<(u64, u64)> =
        lists.iter().flat_map(|(&key, v)| v.order.iter().map(move |&e| (key, e))).collect();
    for (index, tx) in txs.iter().enumerate().filter(|(index, _)| effective[*index]) {
        for step in &tx.steps {
            let Micro::Append { key, element } = step else { continue };
            if !observed.contains(&(*key, *element)) {
                lists.entry(*key).or_default().unobserved.push((*element, index));
            }
        }
    }
}
