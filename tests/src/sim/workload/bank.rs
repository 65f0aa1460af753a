//! A bank: transfers between accounts in one-shot batches that never overdraw, and audits that read
//! all accounts under locks. The total never changes.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply, TxHandle};
use lockstep_proto::change::{Comparison, Condition};
use lockstep_proto::durability::Durability;
use lockstep_proto::error::Code;
use lockstep_proto::ids::StartOrder;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpFlags, OpList, OpResult};

use crate::checkers::bank::Transfer;
use crate::checkers::history::Fate;

use super::{Next, Notebook, Phase, Scene, Task, fate};

/// Moves money from one account to another.
#[derive(Default)]
pub struct TransferTask {
    from: u64,
    to: u64,
    amount: i64,
    open: bool,
}

impl Task for TransferTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            self.open = false;
            scene.notes.end(&done, true);
            let (from, to, amount) = (self.from, self.to, self.amount);
            scene.notes.transfers.push(Transfer { from, to, amount, fate: fate(&done) });
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.from = scene.rng.below(scene.notes.accounts);
        self.to = (self.from + scene.rng.range(1, scene.notes.accounts - 1)) % scene.notes.accounts;
        // Amounts differ, so that the ledger tells which transfers happened.
        self.amount = i64::try_from(scene.rng.range(1, 20)).expect("small");
        let enough =
            Condition { column: 1, comparison: Comparison::Ge, value: Value::Int(self.amount) };
        let accounts = &scene.notes.tables.accounts;
        let mut ops = OpList::default();
        accounts.add(&mut ops, self.from, Value::Int(-self.amount), &[enough]);
        accounts.add(&mut ops, self.to, Value::Int(self.amount), &[]);
        scene.notes.begin();
        self.open = true;
        let durability = scene.some_durability();
        Next::Call(Call::Batch { ops, durability })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.open {
            notes.lose();
            let (from, to, amount, fate) = (self.from, self.to, self.amount, Fate::Unknown);
            notes.transfers.push(Transfer { from, to, amount, fate });
        }
    }
}

/// Reads all accounts in one transaction.
#[derive(Default)]
pub struct AuditTask {
    tx: Option<TxHandle>,
    seen: Option<BTreeMap<u64, i64>>,
    asked: bool,
    finishing: bool,
}

impl AuditTask {
    fn balances(
        results: &lockstep_client::core::ResultList,
        scene: &Scene<'_>,
    ) -> BTreeMap<u64, i64> {
        let mut seen = BTreeMap::new();
        for (account, result) in (0..).zip(results.iter()) {
            if let OpResult::Row(row) = result {
                let balance = scene.notes.tables.accounts.value(row).as_i64();
                seen.insert(account, balance.unwrap_or_default());
            }
        }
        seen
    }

    fn rest(&mut self, scene: &mut Scene<'_>) -> Next {
        *self = Self::default();
        Next::Sleep(Duration::from_micros(10 * scene.rng.below(scene.notes.pause_us) + 1))
    }

    fn resumed_with(&mut self, done: Completion, scene: &mut Scene<'_>) -> Next {
        if self.finishing {
            scene.notes.end(&done, false);
            if let (Some(seen), Ok(_)) = (self.seen.take(), &done) {
                scene.notes.audits.push(seen);
            }
            return self.rest(scene);
        }
        match done {
            Ok(Reply::Begun(tx)) => {
                self.tx = Some(tx);
                let mut ops = OpList::default();
                for account in 0..scene.notes.accounts {
                    scene.notes.tables.accounts.read(&mut ops, account, OpFlags::default());
                }
                Next::Call(Call::Step { tx, ops })
            }
            Ok(Reply::Done { results, .. }) => {
                self.seen = Some(Self::balances(&results, scene));
                self.finish(true)
            }
            _ if self.tx.is_some() => self.finish(false),
            _ => {
                scene.notes.end(&done, false);
                self.rest(scene)
            }
        }
    }

    fn finish(&mut self, commit: bool) -> Next {
        self.finishing = true;
        match self.tx.take() {
            Some(tx) => Next::Call(Call::Finish {
                tx,
                commit,
                ops: OpList::default(),
                durability: Durability::Memory,
            }),
            None => Next::Stop,
        }
    }
}

impl Task for AuditTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            return self.resumed_with(done, scene);
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.asked = true;
        scene.notes.begin();
        Next::Call(Call::Begin { order: StartOrder::default() })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.asked {
            notes.lose();
        }
    }
}

/// Whether a failed transfer failed as it should: for lack of money, or for the weather.
#[must_use]
pub fn is_expected(code: Code) -> bool {
    let weather = matches!(code, Code::ConditionFailed | Code::DiskFull | Code::NotDurable);
    weather || code.class() != lockstep_proto::error::ErrorClass::Permanent
}
