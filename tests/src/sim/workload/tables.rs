//! The tables of a run, and how operations on them are encoded. Every table has one u64 key column;
//! the clients know the definitions beforehand, as an application does.

use lockstep_proto::change::{Action, Assignment, Condition, encode_update};
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::partition_of;
use lockstep_proto::row::{decode_row, encode_row};
use lockstep_proto::schema::{ColumnDef, TableDef, catalog_def};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList};

/// One table with what is needed to speak about it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its definition, with its id.
    pub def: TableDef,
    partitions: u16,
}

/// The tables every run has.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Lists of elements, for transactions.
    pub lists: Table,
    /// Account balances.
    pub accounts: Table,
    /// Counters.
    pub counters: Table,
    /// Single values, written and read one by one.
    pub registers: Table,
    /// Partitions of the cluster.
    pub partitions: u16,
}

impl Tables {
    /// The definitions for a cluster of so many partitions; ids are handed out in this order.
    #[must_use]
    pub fn new(partitions: u16) -> Self {
        Self {
            lists: Table::new(1, "lists", ColumnType::Bytes, partitions),
            accounts: Table::new(2, "accounts", ColumnType::I64, partitions),
            counters: Table::new(3, "counters", ColumnType::U64, partitions),
            registers: Table::new(4, "registers", ColumnType::U64, partitions),
            partitions,
        }
    }

    /// All of them, in order of id.
    #[must_use]
    pub fn all(&self) -> [&Table; 4] {
        [&self.lists, &self.accounts, &self.counters, &self.registers]
    }
}

impl Table {
    /// A table with a u64 key and one value column of this type.
    #[must_use]
    pub fn new(id: u32, name: &str, ty: ColumnType, partitions: u16) -> Self {
        let columns = vec![ColumnDef::new("key", ColumnType::U64), ColumnDef::new("value", ty)];
        let version = SchemaVersion(1);
        let def = TableDef::new(TableId(id), version, name, columns, vec![0], vec![0])
            .expect("a plain definition");
        Self { def, partitions }
    }

    /// The encoded key.
    #[must_use]
    pub fn key(&self, key: u64) -> Vec<u8> {
        encode_key(&self.def, &[Value::UInt(key)]).expect("a u64 key")
    }

    /// Where a key lives.
    #[must_use]
    pub fn partition(&self, key: u64) -> PartitionId {
        let hash = self.def.partition_hash(&self.key(key)).expect("a u64 key");
        partition_of(hash, self.partitions)
    }

    fn push(&self, list: &mut OpList, key: u64, kind: OpKind, flags: OpFlags, body: &[u8]) {
        list.push(&Op {
            kind,
            flags,
            table: self.def.id,
            schema: self.def.version,
            partition: self.partition(key),
            key: &self.key(key),
            body,
        });
    }

    /// Reads a row.
    pub fn read(&self, list: &mut OpList, key: u64, flags: OpFlags) {
        self.push(list, key, OpKind::Read, flags, &[]);
    }

    /// Puts a row.
    pub fn upsert(&self, list: &mut OpList, key: u64, value: Value) {
        let body = encode_row(&self.def, &[value]).expect("a value of the column's type");
        self.push(list, key, OpKind::Upsert, OpFlags::default(), &body);
    }

    /// Puts a row that must not be there.
    pub fn insert(&self, list: &mut OpList, key: u64, value: Value) {
        let body = encode_row(&self.def, &[value]).expect("a value of the column's type");
        self.push(list, key, OpKind::Insert, OpFlags::default(), &body);
    }

    /// Removes a row.
    pub fn delete(&self, list: &mut OpList, key: u64) {
        self.push(list, key, OpKind::Delete, OpFlags::default(), &[]);
    }

    /// Adds to the value, if the conditions hold; returns the row afterwards.
    pub fn add(&self, list: &mut OpList, key: u64, amount: Value, conditions: &[Condition]) {
        let assignment = Assignment { column: 1, action: Action::Add(amount) };
        let body = encode_update(conditions, &[assignment]).expect("a plain update");
        self.push(list, key, OpKind::Update, OpFlags::RETURNING, &body);
    }

    /// The value column of a row.
    #[must_use]
    pub fn value(&self, row: &[u8]) -> Value {
        let mut values = decode_row(&self.def, row).expect("a server sends rows of the table");
        values.pop().expect("one value column")
    }
}

/// Writes a catalog row in one partition: a definition, or the counter.
pub fn catalog_upsert(list: &mut OpList, partition: PartitionId, name: &str, id: u32, def: &[u8]) {
    let values =
        [Value::String(name.into()), Value::UInt(u64::from(id)), Value::Bytes(def.to_vec())];
    let body = encode_row(catalog_def(), &values).expect("a catalog row");
    catalog_op(list, partition, name, OpKind::Upsert, OpFlags::default(), &body);
}

/// Any operation on a catalog row of one partition.
pub fn catalog_op(
    list: &mut OpList,
    partition: PartitionId,
    name: &str,
    kind: OpKind,
    flags: OpFlags,
    body: &[u8],
) {
    let def = catalog_def();
    let key = encode_key(def, &[Value::String(name.into())]).expect("a table name");
    let (table, schema) = (def.id, def.version);
    list.push(&Op { kind, flags, table, schema, partition, key: &key, body });
}
