//! The bench's own table: made, filled, and taken away again; and its operations, encoded.

use std::sync::Arc;

use lockstep_client::core::{Call, CallError, ReadFrom, Reply};
use lockstep_client::{Client, Durability, TableBuilder};
use lockstep_proto::change::{Action, Assignment, encode_update};
use lockstep_proto::error::Code;
use lockstep_proto::ids::PartitionId;
use lockstep_proto::key::encode_key_into;
use lockstep_proto::placement::partition_of;
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::TableDef;
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, OpResult};

use super::dice::Dice;
use crate::cli::error::{CliError, CliResult};
use crate::cli::output::Voice;
use crate::table::loader::Loader;

/// Bytes of a row beside its key and the eight of its balance.
const FILLER_BYTES: usize = 92;

/// Bytes of a key.
pub const KEY_BYTES: usize = 8;

/// Bytes of a row beside its key.
pub const ROW_BYTES: usize = 100;

/// The position of the balance.
const BALANCE: u16 = 1;

/// A table of the bench: `id`, `balance`, `filler`; 100 bytes a row beside the key.
#[derive(Clone)]
pub struct BenchTable {
    client: Client,
    def: Arc<TableDef>,
    partitions: u16,
    /// The bytes of a row, the same for all but their key.
    row: Arc<[u8]>,
    /// The body of "add one" and of "add minus one".
    plus: Arc<[u8]>,
    minus: Arc<[u8]>,
}

impl BenchTable {
    /// Makes the table anew under `name`, without rows.
    ///
    /// # Errors
    /// Whatever the cluster refuses.
    pub async fn create(client: &Client, name: &str) -> CliResult<Self> {
        let table = TableBuilder::new(name)
            .column("id", ColumnType::U64)
            .column("balance", ColumnType::I64)
            .column("filler", ColumnType::Bytes)
            .key(["id"]);
        let def = make_anew(client, name, &table).await?;
        let row = encode_row(&def, &row_of(0)).map_err(constant)?;
        let add = |amount: i64| {
            let add = Assignment { column: BALANCE, action: Action::Add(Value::Int(amount)) };
            encode_update(&[], &[add]).map_err(constant)
        };
        let (plus, minus) = (add(1)?.into(), add(-1)?.into());
        let partitions = u16::try_from(client.partitions().count()).expect("16 bits on the wire");
        Ok(Self { client: client.clone(), def, partitions, row: row.into(), plus, minus })
    }

    /// Fills rows 0 to `keys`.
    ///
    /// # Errors
    /// Whatever the cluster refuses.
    pub async fn fill(&self, voice: &Voice, keys: u64) -> CliResult {
        self.fill_with(voice, keys, row_of).await
    }

    /// The same with rows half of which is noise, for those who pack them: rows that are all the
    /// same cost next to nothing to pack.
    ///
    /// # Errors
    /// Whatever the cluster refuses.
    pub async fn fill_varied(&self, voice: &Voice, keys: u64) -> CliResult {
        self.fill_with(voice, keys, varied_row_of).await
    }

    async fn fill_with(&self, voice: &Voice, keys: u64, row: fn(u64) -> [Value; 3]) -> CliResult {
        let mut loader = Loader::new(&self.client, &self.def, OpKind::Upsert);
        let mut progress = voice.progress("loading", keys, "rows");
        for id in 0..keys {
            loader.add(&row(id), id).await.map_err(|failed| failed.error)?;
            progress.set(loader.loaded());
        }
        loader.flush().await.map_err(|failed| failed.error)?;
        progress.finish();
        Ok(())
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// Whatever the cluster refuses.
    pub async fn remove(self) -> CliResult {
        Ok(self.client.drop_table(self.def.name()).await?)
    }

    /// Where a row lives.
    #[must_use]
    pub fn partition(&self, id: u64) -> PartitionId {
        let mut key = Vec::with_capacity(KEY_BYTES);
        self.encode_key(id, &mut key)
    }

    /// The same table, whose commits are acknowledged when they are in memory or on disk.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        Self { client: self.client.with_durability(durability), ..self.clone() }
    }

    /// Adds an operation that puts a whole row.
    pub fn push_upsert(&self, ops: &mut OpList, id: u64) {
        self.push(ops, OpKind::Upsert, id, &self.row);
    }

    /// Adds a read.
    pub fn push_read(&self, ops: &mut OpList, id: u64) {
        self.push(ops, OpKind::Read, id, &[]);
    }

    /// Adds an operation that adds one to a balance, or takes one away.
    pub fn push_add(&self, ops: &mut OpList, id: u64, plus: bool) {
        self.push(ops, OpKind::Update, id, if plus { &self.plus } else { &self.minus });
    }

    /// Commits a batch of its own.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn commit(&self, ops: OpList) -> Result<(), CallError> {
        let durability = self.client.durability();
        check(self.client.call(Call::Batch { ops, durability }).await?)
    }

    /// Committed reads from the replicas chosen.
    ///
    /// # Errors
    /// As [`Client::call`]; a row that is not there is [`Code::NotFound`].
    pub async fn read(&self, ops: OpList, from: ReadFrom) -> Result<(), CallError> {
        check(self.client.call(Call::Read { ops, from, at: None }).await?)
    }

    /// Two rows of different partitions; of different rows if there is only one partition.
    pub fn two_rows(&self, dice: &mut Dice, keys: u64) -> (u64, u64) {
        let first = dice.below(keys);
        let home = self.partition(first);
        // Few tries: all but one in `partitions` rows live elsewhere.
        let other = (0..64).map(|_| dice.below(keys)).find(|id| self.partition(*id) != home);
        (first, other.unwrap_or((first + 1) % keys.max(2)))
    }

    fn encode_key(&self, id: u64, key: &mut Vec<u8>) -> PartitionId {
        let encoded = encode_key_into(&self.def, &[Value::UInt(id)], key);
        let hash = encoded.and_then(|()| self.def.partition_hash(key));
        partition_of(hash.expect("a u64 is a key of this table"), self.partitions)
    }

    fn push(&self, ops: &mut OpList, kind: OpKind, id: u64, body: &[u8]) {
        let mut key = Vec::with_capacity(KEY_BYTES);
        let partition = self.encode_key(id, &mut key);
        ops.push(&Op {
            kind,
            flags: OpFlags::default(),
            table: self.def.id,
            schema: self.def.version,
            partition,
            key: &key,
            body,
        });
    }
}

/// Makes a table under `name`, in place of one that an earlier run left behind.
///
/// # Errors
/// Whatever the cluster refuses.
pub async fn make_anew(
    client: &Client,
    name: &str,
    table: &TableBuilder,
) -> CliResult<Arc<TableDef>> {
    match client.drop_table(name).await {
        Ok(()) => {}
        Err(error) if error.error_code() == Code::NoSuchTable => {}
        Err(error) => return Err(error.into()),
    }
    Ok(client.create_table(table.clone().named(name)).await?)
}

fn row_of(id: u64) -> [Value; 3] {
    [Value::UInt(id), Value::Int(0), Value::Bytes(vec![0x5a; FILLER_BYTES])]
}

fn varied_row_of(id: u64) -> [Value; 3] {
    let mut filler = vec![0x5a; FILLER_BYTES];
    Dice::new(id).fill(&mut filler[..FILLER_BYTES / 2]);
    [Value::UInt(id), Value::Int(0), Value::Bytes(filler)]
}

/// Every operation must have done what it was for.
fn check(reply: Reply) -> Result<(), CallError> {
    let Reply::Done { results, .. } = reply else { return Ok(()) };
    for result in results.iter() {
        let code = match result {
            OpResult::Done | OpResult::Row(_) => continue,
            OpResult::Absent => Code::NotFound,
            OpResult::Failed(code) => code,
        };
        return Err(CallError {
            code,
            outcome: lockstep_client::core::Outcome::NotApplied,
            op: None,
            order: lockstep_proto::ids::StartOrder::default(),
            tx: None,
            detail: "an operation of the batch".into(),
        });
    }
    Ok(())
}

fn constant(code: Code) -> CliError {
    CliError::from_code(code, "the bench's own row is not valid")
}
