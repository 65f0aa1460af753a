//! The demo's bank: accounts, transfers that can be worked out again from their number, and the
//! audit that compares what clients were told with what every replica has.

use std::collections::HashMap;

use crate::bench::dice::Dice;

/// What every account starts with.
pub const BALANCE_AT_START: i64 = 1_000;

/// The largest amount of one transfer.
pub const AMOUNT_MAX: u64 = 100;

lockstep_client::record! {
    /// Somebody's money.
    #[derive(Clone, PartialEq, Debug)]
    pub struct Account in "account" {
        /// Its number.
        #[key] pub id: u64,
        /// Never below zero.
        pub balance: i64,
    }
}

lockstep_client::record! {
    /// One transfer of money. It lives on the partition of the account that pays, so a transfer
    /// concerns two partitions, not three.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Transfer in "transfer" {
        /// The account that pays.
        #[key(partition)] pub payer: u64,
        /// Who makes it.
        #[key] pub task: u32,
        /// The task's own count, from 0.
        #[key] pub number: u32,
        /// The account that gets.
        pub payee: u64,
        /// How much, at least 1.
        pub amount: i64,
    }
}

impl Transfer {
    /// The transfer a task makes at a number: always the same.
    #[must_use]
    pub fn of(task: u32, number: u32, accounts: u64) -> Self {
        let mut dice = Dice::new(u64::from(task) << 32 | u64::from(number));
        let payer = dice.below(accounts);
        let payee = (payer + 1 + dice.below(accounts - 1)) % accounts;
        let amount = i64::try_from(1 + dice.below(AMOUNT_MAX)).expect("small");
        Self { task, number, payer, payee, amount }
    }
}

/// What a task was told about a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Committed.
    Committed,
    /// Not done, for example because the payer has too little.
    NotDone,
    /// Nobody could say.
    Unknown,
}

/// What every task was told, by task and number.
#[derive(Clone, Debug, Default)]
pub struct Ledger(pub Vec<Vec<Told>>);

impl Ledger {
    /// How many transfers were told to have gone like this.
    #[must_use]
    pub fn count(&self, told: Told) -> u64 {
        self.0.iter().flatten().filter(|t| **t == told).count() as u64
    }
}

/// What one set of replicas holds: of each partition one replica's rows.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Balance by account.
    pub balances: HashMap<u64, i64>,
    /// Every transfer on record.
    pub transfers: Vec<Transfer>,
}

/// What the audit found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finding {
    /// Transfers told committed that are not on record.
    pub lost: u64,
    /// Transfers on record that were told not done.
    pub invented: u64,
    /// Transfers on record that are not what their task asked for, or are there twice.
    pub mangled: u64,
    /// Accounts missing, or whose balance is not what the record of transfers makes it.
    pub wrong_balances: u64,
    /// The sum of all balances.
    pub total: i64,
}

impl Finding {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_clean(&self, accounts: u64) -> bool {
        let total = i64::try_from(accounts).unwrap_or(i64::MAX).saturating_mul(BALANCE_AT_START);
        let Self { lost, invented, mangled, wrong_balances, .. } = self;
        self.total == total && lost + invented + mangled + wrong_balances == 0
    }
}

/// Compares the books with what the tasks were told.
#[must_use]
pub fn audit(ledger: &Ledger, books: &Books, accounts: u64) -> Finding {
    let mut finding = Finding { total: books.balances.values().sum(), ..Finding::default() };
    let mut on_record: Vec<Vec<bool>> =
        ledger.0.iter().map(|told| vec![false; told.len()]).collect();
    let mut expected: HashMap<u64, i64> =
        (0..accounts).map(|account| (account, BALANCE_AT_START)).collect();
    for transfer in &books.transfers {
        *expected.entry(transfer.payer).or_default() -= transfer.amount;
        *expected.entry(transfer.payee).or_default() += transfer.amount;
        let (task, number) = (transfer.task as usize, transfer.number as usize);
        let seen = on_record.get_mut(task).and_then(|numbers| numbers.get_mut(number));
        let asked = Transfer::of(transfer.task, transfer.number, accounts);
        match seen {
            Some(seen) if !*seen && *transfer == asked => *seen = true,
            _ => finding.mangled += 1,
        }
    }
    let told = ledger.0.iter().flatten().zip(on_record.iter().flatten());
    for (told, on_record) in told {
        match (told, on_record) {
            (Told::Committed, false) => finding.lost += 1,
            (Told::NotDone, true) => finding.invented += 1,
            (Told::Committed, true) | (Told::NotDone, false) | (Told::Unknown, _) => {}
        }
    }
    let wrong = |(account, balance): &(&u64, &i64)| books.balances.get(account) != Some(balance);
    finding.wrong_balances = expected.iter().filter(wrong).count() as u64;
    finding.wrong_balances +=
        books.balances.keys().filter(|account| !expected.contains_key(account)).count() as u64;
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: u64 = 10;

    /// Two tasks of three transfers each, all committed, and the books after them.
    fn example() -> (Ledger, Books) {
        let mut books = Books {
            balances: (0..ACCOUNTS).map(|account| (account, BALANCE_AT_START)).collect(),
            transfers: Vec::new(),
        };
        for transfer in (0..6).map(|n| Transfer::of(n / 3, n % 3, ACCOUNTS)) {
            *books.balances.get_mut(&transfer.payer).unwrap() -= transfer.amount;
            *books.balances.get_mut(&transfer.payee).unwrap() += transfer.amount;
            books.transfers.push(transfer);
        }
        (Ledger(vec![vec![Told::Committed; 3]; 2]), books)
    }

    #[test]
    fn clean_books_are_clean() {
        let (ledger, books) = example();
        let finding = audit(&ledger, &books, ACCOUNTS);
        assert!(finding.is_clean(ACCOUNTS), "{finding:?}");
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let (ledger, books) = example();
        let mut lost = books.clone();
        let gone = lost.transfers.pop().unwrap();
        *lost.balances.get_mut(&gone.payer).unwrap() += gone.amount;
        *lost.balances.get_mut(&gone.payee).unwrap() -= gone.amount;
        assert_eq!(audit(&ledger, &lost, ACCOUNTS).lost, 1);

        let mut half = books.clone();
        *half.balances.get_mut(&3).unwrap() += 1;
        assert_eq!(audit(&ledger, &half, ACCOUNTS).wrong_balances, 1);
        assert!(!audit(&ledger, &half, ACCOUNTS).is_clean(ACCOUNTS));

        let mut missing = books.clone();
        missing.balances.remove(&3);
        assert_eq!(audit(&ledger, &missing, ACCOUNTS).wrong_balances, 1);

        let mut twice = books.clone();
        twice.transfers.push(twice.transfers[0]);
        assert_eq!(audit(&ledger, &twice, ACCOUNTS).mangled, 1);

        let mut denied = ledger.clone();
        denied.0[1][2] = Told::NotDone;
        assert_eq!(audit(&denied, &books, ACCOUNTS).invented, 1);
    }

    #[test]
    fn an_unknown_transfer_may_be_there_or_not() {
        let (mut ledger, books) = example();
        ledger.0[0][0] = Told::Unknown;
        ledger.0[0].push(Told::Unknown);
        assert!(audit(&ledger, &books, ACCOUNTS).is_clean(ACCOUNTS));
        assert_eq!(ledger.count(Told::Unknown), 2);
    }

    #[test]
    fn nobody_pays_themselves() {
        for number in 0..1000 {
            let transfer = Transfer::of(1, number, 2);
            assert_ne!(transfer.payer, transfer.payee);
            assert!((1..=100).contains(&transfer.amount));
        }
    }
}
