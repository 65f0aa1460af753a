//! The histories of a run: what clients were told must have an explanation.

use std::collections::BTreeMap;

use crate::checkers::bank::{check_ledger, check_totals};
use crate::checkers::check_list_append;
use crate::checkers::counter::check_counter;
use crate::checkers::register::check_register;
use crate::sim::workload::Notebook;

/// Transfers of unknown outcome up to which the ledger is searched exactly.
const UNKNOWN_MAX: usize = 12;

/// Every violation found in the notebook; `complete` says whether everything was read at the end.
#[must_use]
pub fn check(notes: &Notebook, complete: bool) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(violation) = check_list_append(&notes.history) {
        found.push(format!("lists: {:?}\n{}", violation.anomaly, violation.witness));
    }
    for (key, history) in &notes.counters {
        if let Err(violation) = check_counter(history) {
            found.push(format!("counter {key}: {violation}"));
        }
    }
    for (key, history) in &notes.registers {
        if let Err(violation) = check_register(history) {
            found.push(format!("register {key}: {violation}"));
        }
    }
    found.extend(bank(notes));
    if complete && notes.committed < 5 {
        found.push(format!("only {} commits: the run proves nothing", notes.committed));
    }
    found
}

fn bank(notes: &Notebook) -> Vec<String> {
    let mut found = Vec::new();
    let total = i128::from(notes.balance) * i128::from(notes.accounts);
    if let Err(violation) = check_totals(total, &notes.audits) {
        found.push(format!("bank: {violation}"));
    }
    let Some(end) = &notes.balances else { return found };
    if let Err(violation) = check_totals(total, std::slice::from_ref(end)) {
        found.push(format!("bank at the end: {violation}"));
    }
    use crate::checkers::history::Fate;
    let unknown = notes.transfers.iter().filter(|t| t.fate == Fate::Unknown).count();
    if unknown <= UNKNOWN_MAX {
        let beginning: BTreeMap<u64, i64> =
            (0..notes.accounts).map(|account| (account, notes.balance)).collect();
        if let Err(violation) = check_ledger(&beginning, &notes.transfers, end) {
            found.push(format!("bank at the end: {violation}"));
        }
    }
    found
}
