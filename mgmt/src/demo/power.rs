//! The second half of the proof: every process is killed at once, and what comes back is one moment
//! of the past, whole, with everything in it that was acknowledged as on disk.

use std::collections::HashSet;

use super::bank::{Books, Finding, Ledger, Told, audit};
use super::tellers::Report;

/// What came back after all processes were killed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// Transfers acknowledged as on disk that are not there: must be 0.
    pub durable_lost: u64,
    /// Transfers acknowledged as on disk.
    pub durable: u64,
    /// Transfers acknowledged in memory, newer than what came back.
    pub memory_lost: u64,
    /// Transfers that are there although one that the same task made earlier is not: must be 0.
    pub out_of_order: u64,
    /// What the audit of balances and transfers found, without those that are only too new.
    pub finding: Finding,
}

impl Cut {
    /// Whether it is one moment of the past with everything durable in it.
    #[must_use]
    pub fn is_clean(&self, accounts: u64) -> bool {
        self.durable_lost == 0 && self.out_of_order == 0 && self.finding.is_clean(accounts)
    }
}

/// Compares what came back with what tasks were told. The tasks before `first` were verified before
/// the power was cut.
#[must_use]
pub fn examine(
    ledger: &Ledger,
    reports: &[Report],
    first: u32,
    books: &Books,
    accounts: u64,
) -> Cut {
    let there: HashSet<(u32, u32)> =
        books.transfers.iter().map(|transfer| (transfer.task, transfer.number)).collect();
    let mut cut = Cut { finding: audit(ledger, books, accounts), ..Cut::default() };
    let mut excused = 0;
    for (task, report) in (first..).zip(reports) {
        let mut missing = false;
        for (number, told) in (0..).zip(&report.told) {
            match (told, there.contains(&(task, number))) {
                (Told::Committed, true) => {
                    cut.durable += u64::from(report.durable);
                    cut.out_of_order += u64::from(missing);
                }
                (Told::Committed, false) => {
                    missing = true;
                    excused += 1;
                    match report.durable {
                        true => {
                            cut.durable += 1;
                            cut.durable_lost += 1;
                        }
                        false => cut.memory_lost += 1,
                    }
                }
                (Told::Unknown, true) => cut.out_of_order += u64::from(missing),
                (Told::NotDone, _) | (Told::Unknown, false) => {}
            }
        }
    }
    cut.finding.lost -= excused;
    cut
}

#[cfg(test)]
mod tests {
    use super::super::bank::{BALANCE_AT_START, Transfer};
    use super::*;
    use crate::bench::gap::{Fault, Gap};
    use crate::bench::measure::Latencies;

    const ACCOUNTS: u64 = 10;

    fn report(told: Vec<Told>, durable: bool) -> Report {
        let gap = Gap::new(&Fault::default());
        Report { told, durable, latencies: Latencies::default(), gap, retries: 0 }
    }

    /// Two tasks of three acknowledged transfers, of which the books have these.
    fn examined(there: &[(u32, u32)], durable: bool) -> Cut {
        let mut books = Books {
            balances: (0..ACCOUNTS).map(|account| (account, BALANCE_AT_START)).collect(),
            transfers: Vec::new(),
        };
        for (task, number) in there {
            let transfer = Transfer::of(*task, *number, ACCOUNTS);
            *books.balances.get_mut(&transfer.payer).unwrap() -= transfer.amount;
            *books.balances.get_mut(&transfer.payee).unwrap() += transfer.amount;
            books.transfers.push(transfer);
        }
        let reports = [report(vec![Told::Committed; 3], durable), report(vec![], false)];
        let ledger = Ledger(vec![vec![], vec![Told::Committed; 3], vec![]]);
        examine(&ledger, &reports, 1, &books, ACCOUNTS)
    }

    #[test]
    fn what_is_missing_at_the_end_was_only_in_memory() {
        let cut = examined(&[(1, 0), (1, 1)], false);
        assert_eq!((cut.memory_lost, cut.durable_lost, cut.out_of_order), (1, 0, 0));
        assert!(cut.is_clean(ACCOUNTS), "{cut:?}");
    }

    #[test]
    fn what_was_on_disk_must_be_there() {
        let cut = examined(&[(1, 0)], true);
        assert_eq!((cut.durable, cut.durable_lost), (3, 2));
        assert!(!cut.is_clean(ACCOUNTS));
    }

    #[test]
    fn a_hole_is_not_a_moment_of_the_past() {
        let cut = examined(&[(1, 0), (1, 2)], false);
        assert_eq!(cut.out_of_order, 1);
        assert!(!cut.is_clean(ACCOUNTS));
    }
}
