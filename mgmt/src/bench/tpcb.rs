//! `bench tpcb`: the TPC-B transaction as one batch: add to an account, its teller and its branch,
//! and write a row of history; four rows on up to four partitions, all or none.

use std::rc::Rc;
use std::sync::Arc;

use lockstep_client::core::{Call, CallError};
use lockstep_client::{Client, TableBuilder};
use lockstep_proto::change::{Action, Assignment, encode_update};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::partition_of;
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::TableDef;
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList};

use super::dice::Dice;
use super::load::{self, Kind, Loaded, Work};
use super::rows::make_anew;
use crate::cli::error::CliResult;
use crate::cli::output::Voice;
use crate::table::loader::Loader;

const TELLERS_PER_BRANCH: u64 = 10;
const ACCOUNTS_PER_BRANCH: u64 = 10_000;
const FILLER_BYTES: usize = 80;
const BALANCE: u16 = 1;

/// The four tables.
#[derive(Clone)]
struct Bank {
    client: Client,
    account: Arc<TableDef>,
    teller: Arc<TableDef>,
    branch: Arc<TableDef>,
    history: Arc<TableDef>,
    branches: u64,
    partitions: u16,
}

/// Makes, fills, drives and removes the bank.
///
/// # Errors
/// Whatever the cluster refuses.
pub async fn run(
    client: &Client,
    voice: &Voice,
    plan: &load::Plan,
    branches: u32,
) -> CliResult<Loaded> {
    let bank = Bank::create(client, u64::from(branches)).await?;
    bank.fill(voice).await?;
    let shared = Rc::new(bank.clone());
    let worker = |number: u32| Worker {
        bank: Rc::clone(&shared),
        dice: Dice::new(u64::from(number) + 1),
        task: number,
        number: 0,
    };
    let result = load::run(client, voice, plan, worker).await;
    bank.remove().await?;
    result
}

impl Bank {
    async fn create(client: &Client, branches: u64) -> CliResult<Self> {
        let balances = TableBuilder::new("")
            .column("id", ColumnType::U64)
            .column("balance", ColumnType::I64)
            .column("filler", ColumnType::Bytes)
            .key(["id"]);
        let history = TableBuilder::new("")
            .column("task", ColumnType::U32)
            .column("number", ColumnType::U64)
            .column("account", ColumnType::U64)
            .column("delta", ColumnType::I64)
            .key(["task", "number"]);
        Ok(Self {
            account: make_anew(client, "lockstep_bench_account", &balances).await?,
            teller: make_anew(client, "lockstep_bench_teller", &balances).await?,
            branch: make_anew(client, "lockstep_bench_branch", &balances).await?,
            history: make_anew(client, "lockstep_bench_history", &history).await?,
            client: client.clone(),
            branches,
            partitions: u16::try_from(client.partitions().count()).expect("16 bits on the wire"),
        })
    }

    fn tellers(&self) -> u64 {
        self.branches * TELLERS_PER_BRANCH
    }

    fn accounts(&self) -> u64 {
        self.branches * ACCOUNTS_PER_BRANCH
    }

    async fn fill(&self, voice: &Voice) -> CliResult {
        let mut progress = voice.progress("loading", self.accounts(), "accounts");
        for (def, rows) in [
            (&self.branch, self.branches),
            (&self.teller, self.tellers()),
            (&self.account, self.accounts()),
        ] {
            let mut loader = Loader::new(&self.client, def, OpKind::Upsert);
            for id in 0..rows {
                let filler = Value::Bytes(vec![0x5a; FILLER_BYTES]);
                let row = [Value::UInt(id), Value::Int(0), filler];
                loader.add(&row, id).await.map_err(|failed| failed.error)?;
                progress.set(loader.loaded());
            }
            loader.flush().await.map_err(|failed| failed.error)?;
        }
        progress.finish();
        Ok(())
    }

    async fn remove(self) -> CliResult {
        for def in [&self.account, &self.teller, &self.branch, &self.history] {
            self.client.drop_table(def.name()).await?;
        }
        Ok(())
    }

    fn push(&self, ops: &mut OpList, kind: OpKind, (def, key): (&TableDef, &[Value]), body: &[u8]) {
        let key = encode_key(def, key).expect("a key of this table");
        let hash = def.partition_hash(&key).expect("just encoded");
        ops.push(&Op {
            kind,
            flags: OpFlags::default(),
            table: def.id,
            schema: def.version,
            partition: partition_of(hash, self.partitions),
            key: &key,
            body,
        });
    }
}

struct Worker {
    bank: Rc<Bank>,
    dice: Dice,
    task: u32,
    number: u64,
}

impl Work for Worker {
    async fn step(&mut self) -> Result<Kind, CallError> {
        let bank = &self.bank;
        let teller = self.dice.below(bank.tellers());
        let branch = teller / TELLERS_PER_BRANCH;
        // As the benchmark has it, 85 of 100 customers come to their own branch.
        let own = branch * ACCOUNTS_PER_BRANCH + self.dice.below(ACCOUNTS_PER_BRANCH);
        let account = if self.dice.percent(85) { own } else { self.dice.below(bank.accounts()) };
        let delta = i64::try_from(self.dice.below(2_000_000)).expect("small") - 1_000_000;
        self.number += 1;
        let add = Assignment { column: BALANCE, action: Action::Add(Value::Int(delta)) };
        let add = encode_update(&[], &[add]).expect("one short assignment");
        let mut ops = OpList::default();
        for (def, id) in [(&bank.account, account), (&bank.teller, teller), (&bank.branch, branch)]
        {
            bank.push(&mut ops, OpKind::Update, (def, &[Value::UInt(id)]), &add);
        }
        let key = [Value::from(self.task), Value::UInt(self.number)];
        let row = [key[0].clone(), key[1].clone(), Value::UInt(account), Value::Int(delta)];
        let row = encode_row(&bank.history, &row).expect("values of this table");
        bank.push(&mut ops, OpKind::Insert, (&bank.history, &key), &row);
        bank.client
            .call(Call::Batch { ops, durability: bank.client.durability() })
            .await
            .map(|_| Kind::Write)
    }
}
