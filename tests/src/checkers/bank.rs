//! Transfers keep the total: whatever a consistent read of all accounts sees, the sum is the same.
//!
//! A ledger goes further: the accounts at the end must be what the acknowledged transfers made of
//! them, with any choice among those of unknown outcome.

use std::collections::BTreeMap;

use thiserror::Error;

use super::history::Fate;

/// One transfer as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The account that pays.
    pub from: u64,
    /// The account that gets.
    pub to: u64,
    /// How much.
    pub amount: i64,
    /// What the client was told.
    pub fate: Fate,
}

/// What is wrong with the books.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BankViolation {
    /// Money appeared or vanished.
    #[error("read {index}: the total is {found}, it should be {expected}")]
    Total {
        /// Which of the reads.
        index: usize,
        /// The sum it saw.
        found: i128,
        /// The sum there should be.
        expected: i128,
    },
    /// An account is below zero although no transfer may overdraw.
    #[error("read {index}: account {account} is at {balance}")]
    Overdrawn {
        /// Which of the reads.
        index: usize,
        /// Which account.
        account: u64,
        /// What it held.
        balance: i64,
    },
    /// An account is missing or of nobody.
    #[error("account {0} is in one of beginning and end only")]
    Accounts(u64),
    /// No choice among the unknown transfers explains an account.
    #[error("account {account} is at {found}; acknowledged transfers make it {expected}")]
    Ledger {
        /// Which account.
        account: u64,
        /// What it holds.
        found: i64,
        /// What acknowledged transfers make of it.
        expected: i64,
    },
}

/// Checks consistent reads of all accounts.
///
/// # Errors
/// The first read that is wrong.
pub fn check_totals(total: i128, reads: &[BTreeMap<u64, i64>]) -> Result<(), BankViolation> {
    for (index, read) in reads.iter().enumerate() {
        if let Some((&account, &balance)) = read.iter().find(|(_, balance)| **balance < 0) {
            return Err(BankViolation::Overdrawn { index, account, balance });
        }
        let found: i128 = read.values().map(|&balance| i128::from(balance)).sum();
        if found != total {
            return Err(BankViolation::Total { index, found, expected: total });
        }
    }
    Ok(())
}

/// Checks that the end follows from the beginning by all acknowledged transfers, no aborted one,
/// and any of the unknown ones. The search over the unknown ones is exact; it takes time when many
/// of them touch the same account.
///
/// # Errors
/// The first account that no choice explains.
pub fn check_ledger(
    beginning: &BTreeMap<u64, i64>,
    transfers: &[Transfer],
    end: &BTreeMap<u64, i64>,
) -> Result<(), BankViolation> {
    let strange = |account: &&u64| !beginning.contains_key(account) || !end.contains_key(account);
    if let Some(account) = beginning.keys().chain(end.keys()).find(strange) {
        return Err(BankViolation::Accounts(*account));
    }
    let mut off: BTreeMap<u64, i64> = end.iter().map(|(&k, &v)| (k, v - beginning[&k])).collect();
    let mut unknown: Vec<Transfer> = Vec::new();
    for transfer in transfers {
        match transfer.fate {
            Fate::Committed => settle(&mut off, *transfer)?,
            Fate::Aborted => {}
            Fate::Unknown => unknown.push(*transfer),
        }
    }
    if choose(&mut off, &unknown) {
        return Ok(());
    }
    let (&account, &rest) = off.iter().find(|(_, rest)| **rest != 0).expect("something is off");
    let found = end[&account];
    Err(BankViolation::Ledger { account, found, expected: found - rest })
}

fn settle(off: &mut BTreeMap<u64, i64>, transfer: Transfer) -> Result<(), BankViolation> {
    for (account, amount) in [(transfer.from, -transfer.amount), (transfer.to, transfer.amount)] {
        *off.get_mut(&account).ok_or(BankViolation::Accounts(account))? -= amount;
    }
    Ok(())
}

/// Searches a choice of unknown transfers that brings everything to zero. Leaves `off` as it was
/// if there is none.
fn choose(off: &mut BTreeMap<u64, i64>, unknown: &[Transfer]) -> bool {
    let Some((&account, _)) = off.iter().find(|(_, rest)| **rest != 0) else { return true };
    for (index, transfer) in unknown.iter().enumerate() {
        if transfer.from != account && transfer.to != account {
            continue;
        }
        let mut tried = off.clone();
        if settle(&mut tried, *transfer).is_err() {
            continue;
        }
        let rest: Vec<Transfer> = unknown
            .iter()
            .enumerate()
            .filter(|&(other, t)| other > index || (t.from != account && t.to != account))
            .map(|(_, t)| *t)
            .collect();
        if choose(&mut tried, &rest) {
            *off = tried;
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(balances: &[i64]) -> BTreeMap<u64, i64> {
        (0..).zip(balances.iter().copied()).collect()
    }

    fn transfer(from: u64, to: u64, amount: i64, fate: Fate) -> Transfer {
        Transfer { from, to, amount, fate }
    }

    #[test]
    fn totals() {
        assert_eq!(check_totals(30, &[accounts(&[10, 20]), accounts(&[0, 30])]), Ok(()));
        assert_eq!(
            check_totals(30, &[accounts(&[10, 20]), accounts(&[10, 21])]),
            Err(BankViolation::Total { index: 1, found: 31, expected: 30 })
        );
        assert_eq!(
            check_totals(30, &[accounts(&[-1, 31])]),
            Err(BankViolation::Overdrawn { index: 0, account: 0, balance: -1 })
        );
    }

    #[test]
    fn a_ledger_with_unknown_transfers() {
        let beginning = accounts(&[10, 10, 10]);
        let transfers = [
            transfer(0, 1, 5, Fate::Committed),
            transfer(1, 2, 3, Fate::Unknown),
            transfer(0, 2, 1, Fate::Unknown),
            transfer(2, 0, 7, Fate::Aborted),
        ];
        for end in [[5, 15, 10], [5, 12, 13], [4, 15, 11], [4, 12, 14]] {
            assert_eq!(check_ledger(&beginning, &transfers, &accounts(&end)), Ok(()), "{end:?}");
        }
        for end in [[10, 10, 10], [12, 15, 3], [5, 14, 11], [3, 15, 12]] {
            assert!(
                check_ledger(&beginning, &transfers, &accounts(&end)).is_err(),
                "{end:?} cannot be"
            );
        }
        assert_eq!(
            check_ledger(&beginning, &[], &accounts(&[10, 10])),
            Err(BankViolation::Accounts(2))
        );
    }
}
