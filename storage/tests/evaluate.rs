//! What operations do to rows: every kind of operation, every reason to refuse one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use lockstep_proto::change::{
    Action, Assignment, Comparison, Condition, encode_delete, encode_update,
};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::key::encode_key;
use lockstep_proto::limits::ROW_BYTES_MAX;
use lockstep_proto::row::{check_row, decode_row, encode_row};
use lockstep_proto::schema::{CATALOG, CATALOG_COUNTER, ColumnDef, TableDef, catalog_def};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind};
use lockstep_storage::{Effect, evaluate};
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: u16 = 0;
const COUNT: u16 = 1;
const LEVEL: u16 = 2;
const NAME: u16 = 3;
const RATIO: u16 = 4;
const SEEN: u16 = 5;
const NOTE: u16 = 6;
const SMALL: u16 = 7;
const OK: u16 = 8;

fn table() -> TableDef {
    let columns = vec![
        ColumnDef::new("key", ColumnType::U64),
        ColumnDef::new("count", ColumnType::U64),
        ColumnDef::new("level", ColumnType::I8).nullable(),
        ColumnDef::new("name", ColumnType::String),
        ColumnDef::new("ratio", ColumnType::F64),
        ColumnDef::new("seen", ColumnType::Timestamp),
        ColumnDef::new("note", ColumnType::Bytes).nullable(),
        ColumnDef::new("small", ColumnType::F32),
        ColumnDef::new("ok", ColumnType::Bool),
    ];
    TableDef::with_key("t", columns, &["key"]).unwrap()
}

/// The row that the cases below start from, without its key, which is 7.
fn row() -> Vec<Value> {
    vec![
        Value::UInt(10),
        Value::Null,
        Value::from("ann"),
        Value::F64(0.5),
        Value::Timestamp(1000),
        Value::from(vec![1_u8, 2]),
        Value::F32(2.0),
        Value::Bool(true),
    ]
}

fn op<'a>(kind: OpKind, key: &'a [u8], body: &'a [u8]) -> Op<'a> {
    let (flags, table, partition) = (OpFlags::default(), TableId(1), PartitionId(0));
    Op { kind, flags, table, schema: SchemaVersion(1), partition, key, body }
}

/// What becomes of [`row`] or of no row: its values, `None` when it is deleted.
fn run(kind: OpKind, body: &[u8], there: bool) -> Result<Option<Vec<Value>>, Code> {
    let def = table();
    let key = encode_key(&def, &[7_u64.into()]).unwrap();
    let current = encode_row(&def, &row()).unwrap();
    let mut scratch = vec![0xEE; 3];
    let current = there.then_some(&current[..]);
    match evaluate(&def, &op(kind, &key, body), current, &mut scratch)? {
        Effect::Keep => Ok(current.map(|current| decode_row(&def, current).unwrap())),
        Effect::Put(bytes) => {
            check_row(&def, bytes).unwrap();
            Ok(Some(decode_row(&def, bytes).unwrap()))
        }
        Effect::Delete => Ok(None),
    }
}

fn update(conditions: &[Condition], assignments: &[Assignment]) -> Result<Vec<Value>, Code> {
    let body = encode_update(conditions, assignments).unwrap();
    run(OpKind::Update, &body, true).map(Option::unwrap)
}

fn when(column: u16, comparison: Comparison, value: impl Into<Value>) -> Condition {
    Condition { column, comparison, value: value.into() }
}

fn set(column: u16, value: impl Into<Value>) -> Assignment {
    Assignment { column, action: Action::Set(value.into()) }
}

fn add(column: u16, value: impl Into<Value>) -> Assignment {
    Assignment { column, action: Action::Add(value.into()) }
}

/// [`row`] with some columns changed, by position in the table.
fn row_with(changes: &[(u16, Value)]) -> Vec<Value> {
    let mut values = row();
    for (column, value) in changes {
        values[usize::from(*column) - 1] = value.clone();
    }
    values
}

#[test]
fn a_read_keeps_the_row() {
    assert_eq!(run(OpKind::Read, &[], true), Ok(Some(row())));
    assert_eq!(run(OpKind::Read, &[], false), Ok(None));
    assert_eq!(run(OpKind::Read, &[0], true), Err(Code::Malformed));
}

#[test]
fn an_insert_needs_a_free_key_and_an_upsert_does_not() {
    let new = row_with(&[(COUNT, 11_u64.into())]);
    let body = encode_row(&table(), &new).unwrap();
    assert_eq!(run(OpKind::Insert, &body, false), Ok(Some(new.clone())));
    assert_eq!(run(OpKind::Insert, &body, true), Err(Code::DuplicateKey));
    assert_eq!(run(OpKind::Upsert, &body, false), Ok(Some(new.clone())));
    assert_eq!(run(OpKind::Upsert, &body, true), Ok(Some(new)));
    for kind in [OpKind::Insert, OpKind::Upsert] {
        for there in [false, true] {
            assert_eq!(run(kind, &body[..20], there), Err(Code::Malformed));
            assert_eq!(run(kind, &vec![0; ROW_BYTES_MAX + 1], there), Err(Code::RowTooLarge));
        }
    }
}

#[test]
fn a_new_row_is_not_copied() {
    let def = table();
    let body = encode_row(&def, &row()).unwrap();
    let mut scratch = Vec::new();
    let effect = evaluate(&def, &op(OpKind::Upsert, b"12345678", &body), None, &mut scratch);
    let Ok(Effect::Put(bytes)) = effect else { panic!("{effect:?}") };
    assert!(std::ptr::eq(bytes, body.as_slice()));
}

#[test]
fn a_delete_needs_a_row_that_meets_its_conditions() {
    let delete = |conditions: &[Condition], there| {
        run(OpKind::Delete, &encode_delete(conditions).unwrap(), there)
    };
    assert_eq!(delete(&[], true), Ok(None));
    assert_eq!(delete(&[], false), Err(Code::NotFound));
    assert_eq!(delete(&[when(COUNT, Comparison::Eq, 10)], true), Ok(None));
    assert_eq!(delete(&[when(COUNT, Comparison::Eq, 11)], true), Err(Code::ConditionFailed));
    let trailing = encode_update(&[], &[]).unwrap();
    assert_eq!(run(OpKind::Delete, &trailing, true), Err(Code::Malformed));
}

#[test]
fn conditions_compare_columns_with_values() {
    use Comparison::{Eq, Ge, Gt, IsNotNull, IsNull, Le, Lt, Ne};
    let holds = |condition| match update(&[condition], &[]) {
        Ok(values) => {
            assert_eq!(values, row(), "an update without assignments changes nothing");
            true
        }
        Err(code) => {
            assert_eq!(code, Code::ConditionFailed);
            false
        }
    };
    for (comparison, below, equal, above) in [
        (Eq, false, true, false),
        (Ne, true, false, true),
        (Lt, false, false, true),
        (Le, false, true, true),
        (Gt, true, false, false),
        (Ge, true, true, false),
    ] {
        for (value, expected) in [(9, below), (10, equal), (11, above), (-1, below)] {
            assert_eq!(
                holds(when(COUNT, comparison, value)),
                expected,
                "10 {comparison:?} {value}"
            );
        }
        for (value, expected) in [("anm", below), ("ann", equal), ("anna", above)] {
            assert_eq!(holds(when(NAME, comparison, value)), expected);
        }
        for (value, expected) in [(6_u64, below), (7, equal), (8, above)] {
            assert_eq!(holds(when(KEY, comparison, value)), expected, "a key column");
        }
        for (value, expected) in [(0.25, below), (0.5, equal), (0.75, above)] {
            assert_eq!(holds(when(RATIO, comparison, value)), expected);
        }
        assert_eq!(holds(when(RATIO, comparison, f64::NAN)), comparison == Ne);
        assert!(!holds(when(LEVEL, comparison, 0)), "NULL {comparison:?} 0");
    }
    assert!(holds(when(LEVEL, IsNull, Value::Null)) && !holds(when(LEVEL, IsNotNull, Value::Null)));
    assert!(!holds(when(NOTE, IsNull, Value::Null)) && holds(when(NOTE, IsNotNull, Value::Null)));
    assert!(holds(when(OK, Eq, true)) && holds(when(SEEN, Lt, Value::Timestamp(1001))));
    assert!(holds(when(SMALL, Eq, 2.0)) && holds(when(NOTE, Eq, vec![1_u8, 2])));
}

#[test]
fn conditions_that_make_no_sense_are_refused() {
    let refused = |condition| update(&[condition], &[]).unwrap_err();
    assert_eq!(refused(when(9, Comparison::Eq, 1)), Code::NoSuchColumn);
    assert_eq!(refused(when(9, Comparison::IsNull, Value::Null)), Code::NoSuchColumn);
    assert_eq!(refused(when(COUNT, Comparison::Eq, "10")), Code::WrongType);
    assert_eq!(refused(when(RATIO, Comparison::Eq, 1)), Code::WrongType);
    assert_eq!(refused(when(LEVEL, Comparison::Eq, Value::Null)), Code::WrongType);
    let both = [when(COUNT, Comparison::Eq, 0), when(COUNT, Comparison::Eq, 10)];
    assert_eq!(update(&both, &[]), Err(Code::ConditionFailed), "all must hold");
}

#[test]
fn assignments_set_columns() {
    let update = |assignments: &[Assignment]| update(&[], assignments);
    let changed = |changes: &[(u16, Value)]| Ok(row_with(changes));
    assert_eq!(update(&[set(COUNT, 3)]), changed(&[(COUNT, Value::UInt(3))]));
    assert_eq!(update(&[set(LEVEL, -3)]), changed(&[(LEVEL, Value::Int(-3))]));
    assert_eq!(update(&[set(LEVEL, -3), set(LEVEL, Value::Null)]), changed(&[]));
    assert_eq!(update(&[set(OK, false)]), changed(&[(OK, Value::Bool(false))]));
    let long = "a longer name";
    assert_eq!(update(&[set(NAME, long)]), changed(&[(NAME, long.into())]));
    assert_eq!(update(&[set(NOTE, Value::Null)]), changed(&[(NOTE, Value::Null)]));
    let all = [set(NAME, "x"), set(NOTE, vec![9_u8; 9]), set(NAME, ""), set(COUNT, 1)];
    let expected = [(NAME, "".into()), (NOTE, vec![9_u8; 9].into()), (COUNT, Value::UInt(1))];
    assert_eq!(update(&all), changed(&expected), "the last one counts");

    assert_eq!(update(&[set(KEY, 8_u64)]), Err(Code::KeyImmutable));
    assert_eq!(update(&[set(9, 8)]), Err(Code::NoSuchColumn));
    assert_eq!(update(&[set(COUNT, -1)]), Err(Code::WrongType));
    assert_eq!(update(&[set(LEVEL, 128)]), Err(Code::WrongType));
    assert_eq!(update(&[set(NAME, vec![1_u8])]), Err(Code::WrongType));
    assert_eq!(update(&[set(COUNT, Value::Null)]), Err(Code::NullViolation));
    assert_eq!(update(&[set(NAME, Value::Null)]), Err(Code::NullViolation));
    let huge = vec![0_u8; ROW_BYTES_MAX];
    assert_eq!(update(&[set(NOTE, huge)]), Err(Code::RowTooLarge));
}

#[test]
fn assignments_add_numbers() {
    let update = |assignments: &[Assignment]| update(&[], assignments);
    let changed = |changes: &[(u16, Value)]| Ok(row_with(changes));
    assert_eq!(update(&[add(COUNT, 1)]), changed(&[(COUNT, Value::UInt(11))]));
    assert_eq!(update(&[add(COUNT, -10)]), changed(&[(COUNT, Value::UInt(0))]));
    assert_eq!(update(&[add(COUNT, -11)]), Err(Code::OutOfRange));
    assert_eq!(update(&[add(COUNT, u64::MAX - 10)]), changed(&[(COUNT, Value::UInt(u64::MAX))]));
    assert_eq!(update(&[add(COUNT, u64::MAX - 9)]), Err(Code::OutOfRange));
    let there_and_back = [add(COUNT, 5), add(COUNT, 5), add(COUNT, -20)];
    assert_eq!(update(&there_and_back), changed(&[(COUNT, Value::UInt(0))]), "one after another");
    assert_eq!(update(&[set(LEVEL, 127), add(LEVEL, 1)]), Err(Code::OutOfRange));
    assert_eq!(update(&[set(LEVEL, -128), add(LEVEL, -1)]), Err(Code::OutOfRange));
    assert_eq!(update(&[add(RATIO, 0.25)]), changed(&[(RATIO, Value::F64(0.75))]));
    assert_eq!(update(&[add(SMALL, 0.5)]), changed(&[(SMALL, Value::F32(2.5))]));
    assert_eq!(update(&[add(SEEN, -1)]), changed(&[(SEEN, Value::Timestamp(999))]));
    assert_eq!(update(&[add(SEEN, i64::MAX)]), Err(Code::OutOfRange));

    assert_eq!(update(&[add(LEVEL, 1)]), Err(Code::NullViolation), "a NULL has no sum");
    assert_eq!(update(&[add(COUNT, Value::Null)]), Err(Code::NullViolation));
    assert_eq!(update(&[add(KEY, 1)]), Err(Code::KeyImmutable));
    for (column, value) in [
        (COUNT, Value::F64(1.0)),
        (RATIO, Value::Int(1)),
        (NAME, Value::from("x")),
        (NOTE, Value::from(vec![1_u8])),
        (OK, Value::Bool(true)),
        (SEEN, Value::Timestamp(1)),
    ] {
        assert_eq!(update(&[add(column, value)]), Err(Code::WrongType));
    }
}

#[test]
fn an_update_needs_a_row_and_a_whole_body() {
    let body = encode_update(&[when(COUNT, Comparison::Eq, 0)], &[add(COUNT, 1)]).unwrap();
    assert_eq!(run(OpKind::Update, &body, false), Err(Code::NotFound));
    assert_eq!(run(OpKind::Update, &body, true), Err(Code::ConditionFailed));
    let body = encode_update(&[when(COUNT, Comparison::Eq, 10)], &[add(COUNT, 1)]).unwrap();
    for length in 0..body.len() {
        assert_eq!(run(OpKind::Update, &body[..length], true), Err(Code::Malformed));
    }
    let trailing = [body.as_slice(), &[0]].concat();
    assert_eq!(run(OpKind::Update, &trailing, true), Err(Code::Malformed));
}

#[test]
fn the_catalog_takes_definitions_only() {
    let catalog = catalog_def();
    let definition = TableDef::new(
        TableId(5),
        SchemaVersion(1),
        "five",
        table().columns().to_vec(),
        vec![KEY],
        vec![KEY],
    );
    let definition = definition.unwrap().encode();
    let put = |key: &str, id: u32, definition: &[u8]| {
        let row = encode_row(catalog, &[id.into(), definition.into()]).unwrap();
        let op = Op { table: CATALOG, ..op(OpKind::Insert, key.as_bytes(), &row) };
        evaluate(catalog, &op, None, &mut Vec::new()).map(drop)
    };
    assert_eq!(put("five", 5, &definition), Ok(()));
    assert_eq!(put("six", 5, &definition), Err(Code::BadSchema));
    assert_eq!(put("five", 5, b"?"), Err(Code::BadSchema));
    let counter = encode_row(catalog, &[4_u32.into(), b"".as_slice().into()]).unwrap();
    let body = encode_update(&[], &[add(1, 1)]).unwrap();
    let op = op(OpKind::Update, CATALOG_COUNTER.as_bytes(), &body);
    let mut scratch = Vec::new();
    let effect = evaluate(catalog, &op, Some(&counter), &mut scratch);
    assert_eq!(effect, Ok(Effect::Put(&[5, 0, 0, 0])));
}

proptest! {
    /// Whatever the body, the answer is a valid row or a refusal, and the same every time.
    #[test]
    fn any_body_is_evaluated_or_refused(
        kind in prop::sample::select(vec![
            OpKind::Read, OpKind::Insert, OpKind::Update, OpKind::Upsert, OpKind::Delete,
        ]),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        noise in vec(any::<u8>(), 0..60),
        valid in any::<bool>(),
        there in any::<bool>(),
    ) {
        let conditions = [when(LEVEL, Comparison::Ne, 3)];
        let assignments = [set(NAME, "bob"), add(COUNT, 4), set(NOTE, Value::Null)];
        let mut body = match kind {
            _ if !valid => noise,
            OpKind::Read => Vec::new(),
            OpKind::Insert | OpKind::Upsert => encode_row(&table(), &row()).unwrap(),
            OpKind::Update => encode_update(&conditions[1..], &assignments).unwrap(),
            OpKind::Delete => encode_delete(&conditions).unwrap(),
        };
        for (at, byte) in edits {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        // Compared as text: a damaged float may be a NaN.
        let results = [(); 2].map(|()| format!("{:?}", run(kind, &body, there)));
        prop_assert_eq!(&results[0], &results[1]);
    }
}
