//! Tables on the wire: keys, rows, definitions and changes against what they promise, for random
//! tables, random values and random bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Ordering;

use lockstep_proto::change::{
    Action, ActionRef, Assignment, ChangeReader, Comparison, Condition, encode_delete,
    encode_update,
};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{SchemaVersion, TableId};
use lockstep_proto::key::{decode_key, encode_key, key_column};
use lockstep_proto::placement::key_hash;
use lockstep_proto::row::{
    RowView, check_row, decode_columns, decode_row, encode_row, replace_vars, set_fixed,
};
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::value::{ColumnType, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Values that a column of this type gives back. Integers and letters lie close together, so that
/// equal and neighbouring values are common.
fn value_of(ty: ColumnType) -> BoxedStrategy<Value> {
    let bits = ty.width().unwrap_or(8) as u32 * 8;
    let number = prop_oneof![-2..3_i64, any::<i64>()];
    let letters = vec(prop_oneof![Just(0_u8), Just(1), Just(b'a'), any::<u8>()], 0..6);
    match ty {
        ColumnType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        _ if ty.is_signed() => number.prop_map(move |n| Value::Int(n >> (64 - bits))).boxed(),
        _ if ty.is_unsigned() => {
            number.prop_map(move |n| Value::UInt(n as u64 >> (64 - bits))).boxed()
        }
        ColumnType::F32 => any::<f32>().prop_map(Value::F32).boxed(),
        ColumnType::F64 => any::<f64>().prop_map(Value::F64).boxed(),
        ColumnType::Timestamp => number.prop_map(Value::Timestamp).boxed(),
        ColumnType::Bytes => letters.prop_map(Value::Bytes).boxed(),
        _ => letters
            .prop_map(|bytes| Value::String(bytes.into_iter().map(char::from).collect()))
            .boxed(),
    }
}

/// What a random table is made from: type, nullable, in the key, in the partition key, and a rank
/// that orders the key.
type ColumnSeed = (ColumnType, bool, bool, bool, u8);

/// Any valid table of up to eight columns.
fn table() -> impl Strategy<Value = TableDef> {
    let column: (_, _, _, _, _) =
        (select(ColumnType::ALL), any::<bool>(), any::<bool>(), any::<bool>(), any::<u8>());
    vec(column, 1..9).prop_map(|seeds| table_from(&seeds))
}

fn table_from(seeds: &[ColumnSeed]) -> TableDef {
    let in_key = |at: usize| seeds[at].2 || at == 0;
    let column = |(at, seed): (usize, &ColumnSeed)| {
        let ty = if in_key(at) && seed.0.is_float() { ColumnType::I16 } else { seed.0 };
        let column = ColumnDef::new(format!("c{at}"), ty);
        if seed.1 && !in_key(at) { column.nullable() } else { column }
    };
    let columns: Vec<ColumnDef> = seeds.iter().enumerate().map(column).collect();
    let mut key: Vec<usize> = (0..seeds.len()).filter(|at| in_key(*at)).collect();
    key.sort_by_key(|at| (seeds[*at].4, *at));
    let mut partition_key: Vec<usize> = key.iter().copied().filter(|at| seeds[*at].3).collect();
    if partition_key.is_empty() {
        partition_key.clone_from(&key);
    }
    let positions = |list: Vec<usize>| list.into_iter().map(|at| at as u16).collect();
    let (key, partition_key) = (positions(key), positions(partition_key));
    TableDef::new(TableId(9), SchemaVersion(7), "t", columns, key, partition_key).unwrap()
}

/// A value of every column.
fn row_of(def: &TableDef) -> BoxedStrategy<Vec<Value>> {
    let value = |column: &ColumnDef| match column.nullable {
        true => prop_oneof![1 => Just(Value::Null), 3 => value_of(column.ty)].boxed(),
        false => value_of(column.ty),
    };
    def.columns().iter().map(value).collect::<Vec<_>>().boxed()
}

fn table_and_rows() -> impl Strategy<Value = (TableDef, Vec<Value>, Vec<Value>)> {
    table().prop_flat_map(|def| (Just(def.clone()), row_of(&def), row_of(&def)))
}

/// Random bytes, and bytes of something valid with a few of them changed, dropped or added.
fn damaged(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4);
    let edited = edits.prop_map(move |edits| {
        let mut bytes = valid.clone();
        for (at, byte, what) in edits {
            let at = at.index(bytes.len() + 1);
            match what {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ if at < bytes.len() => bytes[at] = byte,
                _ => bytes.push(byte),
            }
        }
        bytes
    });
    prop_oneof![3 => edited, 1 => vec(any::<u8>(), 0..40)]
}

fn key_of(def: &TableDef, row: &[Value]) -> Vec<Value> {
    def.key().iter().map(|position| row[usize::from(*position)].clone()).collect()
}

fn compare(a: &[Value], b: &[Value]) -> Ordering {
    let order = |(a, b): (&Value, &Value)| a.as_ref().compare(b.as_ref()).unwrap().unwrap();
    a.iter().zip(b).map(order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

proptest! {
    #[test]
    fn text_comes_back_as_the_same_value(
        (ty, value) in select(ColumnType::ALL).prop_flat_map(|ty| (Just(ty), value_of(ty)))
    ) {
        prop_assert_eq!(Value::parse(&value.to_string(), ty), Ok(value.clone()));
        prop_assert_eq!(value.clone().fit(ty), Ok(value));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".{0,30}", ty in select(ColumnType::ALL)) {
        if let Ok(value) = Value::parse(&text, ty) {
            let again = Value::parse(&value.to_string(), ty).unwrap();
            prop_assert_eq!(again.to_string(), value.to_string());
        }
    }

    #[test]
    fn keys_come_back_and_sort_like_their_values((def, a, b) in table_and_rows()) {
        let (a, b) = (key_of(&def, &a), key_of(&def, &b));
        let (key_a, key_b) = (encode_key(&def, &a).unwrap(), encode_key(&def, &b).unwrap());
        prop_assert_eq!(key_a.cmp(&key_b), compare(&a, &b));
        prop_assert_eq!(def.check_key(&key_a), Ok(()));
        prop_assert_eq!(decode_key(&def, &key_a).unwrap(), a.clone());
        prop_assert_eq!(key_column(&def, &key_a, 0).unwrap(), a[0].clone());
        prop_assert!(!key_a.is_empty());
    }

    /// Equal partition keys, equal partitions: also in a table that has nothing else.
    #[test]
    fn rows_are_placed_by_their_partition_key((def, a, _) in table_and_rows()) {
        let key = encode_key(&def, &key_of(&def, &a)).unwrap();
        let positions = def.partition_key().iter().map(|p| usize::from(*p));
        let (columns, values): (Vec<ColumnDef>, Vec<Value>) =
            positions.map(|at| (def.columns()[at].clone(), a[at].clone())).unzip();
        let all: Vec<u16> = (0..columns.len() as u16).collect();
        let alone =
            TableDef::new(TableId(1), SchemaVersion(1), "p", columns, all.clone(), all).unwrap();
        let key_alone = encode_key(&alone, &values).unwrap();
        prop_assert_eq!(def.partition_hash(&key), Ok(key_hash(&key_alone)));
        prop_assert_eq!(alone.partition_hash(&key_alone), Ok(key_hash(&key_alone)));
    }

    #[test]
    fn rows_come_back((def, a, b) in table_and_rows()) {
        let row = encode_row(&def, &a).unwrap();
        prop_assert_eq!(check_row(&def, &row), Ok(()));
        let view = RowView::new(&def, &row).unwrap();
        let mut others = Vec::new();
        for (position, value) in (0..).zip(&a) {
            if def.key().contains(&position) {
                prop_assert_eq!(view.column(position), Err(Code::NoSuchColumn));
            } else {
                prop_assert_eq!(view.column(position).unwrap().to_value(), value.clone());
                others.push(value.clone());
            }
        }
        prop_assert_eq!(encode_row(&def, &others).unwrap(), row.clone());
        prop_assert_eq!(decode_row(&def, &row).unwrap(), others);
        let key = encode_key(&def, &key_of(&def, &a)).unwrap();
        prop_assert_eq!(decode_columns(&def, &key, &row).unwrap(), a);
        let other = encode_row(&def, &b).unwrap();
        prop_assert_eq!(rewritten(&def, &row, &b), other);
    }

    #[test]
    fn any_bytes_are_one_key_or_refused(
        (def, bytes) in table_and_rows().prop_flat_map(|(def, a, _)| {
            let key = encode_key(&def, &key_of(&def, &a)).unwrap();
            (Just(def), damaged(key))
        })
    ) {
        let checked = def.check_key(&bytes);
        let decoded = decode_key(&def, &bytes);
        prop_assert_eq!(checked, decoded.clone().map(drop));
        if let Ok(values) = decoded {
            prop_assert_eq!(encode_key(&def, &values).unwrap(), bytes.clone());
        }
        // May answer anything, but answers.
        let _ = def.partition_hash(&bytes);
    }

    #[test]
    fn any_bytes_are_one_row_or_refused(
        (def, mut bytes, values) in table_and_rows().prop_flat_map(|(def, a, b)| {
            let row = encode_row(&def, &a).unwrap();
            (Just(def), damaged(row), Just(b))
        })
    ) {
        match check_row(&def, &bytes) {
            Ok(()) => {
                let values = decode_row(&def, &bytes).unwrap();
                // NaNs have many forms, and all of them are kept.
                prop_assert_eq!(encode_row(&def, &values).unwrap(), bytes.clone());
            }
            Err(code) => prop_assert!(matches!(code, Code::Malformed | Code::WrongType)),
        }
        let unchecked = RowView::of_checked(&def, &bytes);
        for position in 0..=def.columns().len() as u16 {
            let _ = unchecked.column(position);
        }
        let vars: Vec<_> = values.iter().map(|value| Some(value.as_ref())).collect();
        let _ = replace_vars(&def, &bytes, &vars, &mut Vec::new());
        for (position, value) in (0..).zip(&values) {
            let _ = set_fixed(&def, &mut bytes, position, value.as_ref());
        }
    }

    #[test]
    fn definitions_come_back_and_damaged_ones_are_refused(
        (def, bytes) in table().prop_flat_map(|def| (Just(def.clone()), damaged(def.encode())))
    ) {
        prop_assert_eq!(TableDef::decode(&def.encode()), Ok(def));
        if let Ok(other) = TableDef::decode(&bytes) {
            prop_assert_eq!(TableDef::decode(&other.encode()), Ok(other));
        }
    }

    #[test]
    fn changes_come_back_and_damaged_ones_are_refused(
        (body, bytes) in (vec(condition(), 0..4), vec(assignment(), 0..4)).prop_flat_map(
            |(conditions, assignments)| {
                let body = encode_update(&conditions, &assignments).unwrap();
                (Just((conditions, assignments)), damaged(body))
            })
    ) {
        let encoded = encode_update(&body.0, &body.1).unwrap();
        prop_assert_eq!(read_update(&encoded), Ok(body));
        if let Ok((conditions, assignments)) = read_update(&bytes) {
            prop_assert_eq!(encode_update(&conditions, &assignments).unwrap().len(), bytes.len());
        }
    }
}

/// The row with every column set to another's, through the ways an update does it.
fn rewritten(def: &TableDef, row: &[u8], values: &[Value]) -> Vec<u8> {
    let mut fixed = row.to_vec();
    let mut vars = Vec::new();
    for (position, value) in (0..).zip(values) {
        let column = def.column(position).unwrap();
        if def.key().contains(&position) {
            assert_eq!(
                set_fixed(def, &mut fixed, position, value.as_ref()),
                Err(Code::NoSuchColumn)
            );
        } else if column.ty.width().is_some() {
            set_fixed(def, &mut fixed, position, value.as_ref()).unwrap();
        } else {
            vars.push(Some(value.as_ref()));
        }
    }
    let mut out = Vec::new();
    replace_vars(def, &fixed, &vars, &mut out).unwrap();
    out
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        8 => select(ColumnType::ALL).prop_flat_map(value_of),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    use Comparison::{Eq, Ge, Gt, IsNotNull, IsNull, Le, Lt, Ne};
    let comparison = select(vec![Eq, Ne, Lt, Le, Gt, Ge, IsNull, IsNotNull]);
    (any::<u16>(), comparison, any_value()).prop_map(|(column, comparison, value)| {
        let value = if comparison.takes_value() { value } else { Value::Null };
        Condition { column, comparison, value }
    })
}

fn assignment() -> impl Strategy<Value = Assignment> {
    (any::<u16>(), any::<bool>(), any_value()).prop_map(|(column, set, value)| {
        let action = if set { Action::Set(value) } else { Action::Add(value) };
        Assignment { column, action }
    })
}

fn read_update(body: &[u8]) -> Result<(Vec<Condition>, Vec<Assignment>), Code> {
    let mut reader = ChangeReader::new(body)?;
    let (mut conditions, mut assignments) = (Vec::new(), Vec::new());
    while let Some(condition) = reader.next_condition()? {
        let (column, comparison) = (condition.column, condition.comparison);
        conditions.push(Condition { column, comparison, value: condition.value.to_value() });
    }
    reader.start_assignments()?;
    while let Some(assignment) = reader.next_assignment()? {
        let action = match assignment.action {
            ActionRef::Set(value) => Action::Set(value.to_value()),
            ActionRef::Add(value) => Action::Add(value.to_value()),
        };
        assignments.push(Assignment { column: assignment.column, action });
    }
    reader.finish()?;
    Ok((conditions, assignments))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One table with every kind of column, for the bytes below.
fn golden_table() -> TableDef {
    let columns = vec![
        ColumnDef::new("id", ColumnType::U64),
        ColumnDef::new("town", ColumnType::String),
        ColumnDef::new("delta", ColumnType::I16),
        ColumnDef::new("ok", ColumnType::Bool),
        ColumnDef::new("height", ColumnType::F64).nullable(),
        ColumnDef::new("tag", ColumnType::String),
        ColumnDef::new("seen", ColumnType::Timestamp).nullable(),
        ColumnDef::new("raw", ColumnType::Bytes).nullable(),
        ColumnDef::new("level", ColumnType::I8).or_default(-1),
    ];
    TableDef::with_partition_key("golden", columns, &["town", "delta", "id"], &["town"]).unwrap()
}

#[test]
fn key_bytes_never_change() {
    let key = [Value::from("a\0b"), Value::from(-2_i16), Value::from(258_u64)];
    let bytes = encode_key(&golden_table(), &key).unwrap();
    assert_eq!(hex(&bytes), "6100ff620000".to_owned() + "7ffe" + "0000000000000102");
    assert_eq!(golden_table().partition_hash(&bytes), Ok(key_hash(b"a\0b")));

    let sole = |ty, value: Value| {
        let def = TableDef::with_key("sole", vec![ColumnDef::new("k", ty)], &["k"]).unwrap();
        hex(&encode_key(&def, &[value]).unwrap())
    };
    assert_eq!(sole(ColumnType::U64, 42_u64.into()), "000000000000002a");
    assert_eq!(sole(ColumnType::I64, (-1_i64).into()), "7fffffffffffffff");
    assert_eq!(sole(ColumnType::Timestamp, Value::Timestamp(1)), "8000000000000001");
    assert_eq!(sole(ColumnType::Bool, true.into()), "01");
    assert_eq!(sole(ColumnType::String, "abc".into()), "616263");
    assert_eq!(sole(ColumnType::String, "".into()), "00");
    assert_eq!(sole(ColumnType::Bytes, Value::Bytes(vec![0, 1])), "000001");
}

#[test]
fn row_bytes_never_change() {
    let def = golden_table();
    let values = [
        Value::from(true),
        Value::from(1.5),
        Value::from("xy"),
        Value::Null,
        Value::from(vec![1_u8, 2, 3]),
        Value::from(-1),
    ];
    let row = encode_row(&def, &values).unwrap();
    let fixed = "01".to_owned() + "000000000000f83f" + "0000000000000000" + "ff";
    assert_eq!(hex(&row), "02".to_owned() + &fixed + "020000" + "7879" + "010203");
    let plain = vec![ColumnDef::new("k", ColumnType::U64), ColumnDef::new("v", ColumnType::Bytes)];
    let plain = TableDef::with_key("plain", plain, &["k"]).unwrap();
    assert_eq!(encode_row(&plain, &[Value::from(vec![7_u8, 8])]).unwrap(), [7, 8]);
}

/// Bytes that would be read as a row that has another form are refused.
#[test]
fn floats_are_written_as_most_programs_write_them() {
    for text in ["147.22000122070312", "-69.09719848632812", "0.1", "-6.081689834590001"] {
        assert_eq!(Value::parse(text, ColumnType::F64).unwrap().to_string(), text);
    }
    let plain = |number: f64| Value::F64(number).to_string();
    assert_eq!([plain(147.220_001_220_703_13), plain(10.0)], ["147.22000122070312", "10"]);
    assert_eq!([plain(1e16), plain(1e300), plain(-0.0)], ["10000000000000000", "1e300", "-0"]);
    assert_eq!(Value::F32(0.1).to_string(), "0.1");
}

#[test]
fn a_row_has_one_form() {
    let def = golden_table();
    let values = [true.into(), Value::Null, "xy".into(), Value::Null, Value::Null, Value::from(1)];
    let row = encode_row(&def, &values).unwrap();
    assert_eq!(check_row(&def, &row), Ok(()));
    let with = |at: usize, byte| {
        let mut bytes = row.clone();
        bytes[at] = byte;
        check_row(&def, &bytes)
    };
    // Null bits 0, ok 1, height 2 to 9, seen 10 to 17, level 18, end of tag 19 to 21, tag.
    assert_eq!(with(0, 0b0000_1111), Err(Code::Malformed), "a null bit of no column");
    assert_eq!(with(0, 0b0000_0011), Ok(()), "bytes that are empty, not NULL");
    assert_eq!(with(1, 2), Err(Code::WrongType), "neither true nor false");
    assert_eq!(with(9, 1), Err(Code::Malformed), "NULL with a value");
    assert_eq!(with(17, 1), Err(Code::Malformed), "NULL with a value");
    assert_eq!(with(18, 0xFF), Ok(()), "any byte is a number");
    assert_eq!(with(19, 1), Err(Code::Malformed), "NULL with data");
    assert_eq!(with(19, 3), Err(Code::Malformed), "an end beyond the row");
    assert_eq!(with(22, 0xFF), Err(Code::WrongType), "not UTF-8");
}

#[test]
fn ends_of_variable_columns_go_up() {
    let columns = ["k", "a", "b", "c"].map(|name| ColumnDef::new(name, ColumnType::Bytes));
    let def = TableDef::with_key("t", columns.to_vec(), &["k"]).unwrap();
    let check = |a: u8, b: u8| check_row(&def, &[a, 0, 0, b, 0, 0, 7, 7]);
    assert_eq!(check(1, 2), Ok(()));
    assert_eq!(check(2, 2), Ok(()));
    assert_eq!(check(2, 1), Err(Code::Malformed));
    assert_eq!(check(2, 3), Err(Code::Malformed));
}

#[test]
fn change_bytes_never_change() {
    let below = Condition { column: 3, comparison: Comparison::Lt, value: Value::from(5) };
    let unset = Condition { column: 4, comparison: Comparison::IsNull, value: Value::Null };
    let raise = Assignment { column: 3, action: Action::Add(Value::from(1)) };
    let name = Assignment { column: 5, action: Action::Set(Value::from("no")) };
    let update = encode_update(&[below.clone(), unset], &[raise, name]).unwrap();
    let conditions = "0200".to_owned() + "0300" + "02" + "020500000000000000" + "0400" + "06";
    let assignments =
        "0200".to_owned() + "030001" + "020100000000000000" + "050000" + "06020000006e6f";
    assert_eq!(hex(&update), conditions + &assignments);
    assert_eq!(encode_delete(&[]).unwrap(), []);
    assert_eq!(hex(&encode_delete(&[below]).unwrap()), "0100030002020500000000000000");
}
