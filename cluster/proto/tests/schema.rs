//! Definitions that are refused, the rows of the catalog, and values as text.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use lockstep_proto::error::Code;
use lockstep_proto::ids::{SchemaVersion, TableId};
use lockstep_proto::key::encode_key;
use lockstep_proto::limits::{COLUMNS_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, ROW_BYTES_MAX};
use lockstep_proto::row::{check_row, encode_row};
use lockstep_proto::schema::{
    CATALOG_COUNTER, ColumnDef, SchemaError, TABLE_UNNUMBERED, TableDef, catalog_def, catalog_row,
    check_catalog_row,
};
use lockstep_proto::value::{ColumnType, Value};

fn column(name: &str) -> ColumnDef {
    ColumnDef::new(name, ColumnType::U64)
}

#[test]
fn definitions_that_are_no_tables_are_refused() {
    let of = |columns: &[ColumnDef], key: &[&str]| {
        TableDef::with_key("t", columns.to_vec(), key).map(drop)
    };
    let named = |name: &str| TableDef::with_key(name, vec![column("a")], &["a"]).map(drop);
    for name in ["t", "_t", "a-b.c_1", "T".repeat(NAME_BYTES_MAX).as_str()] {
        assert_eq!(named(name), Ok(()));
    }
    for name in ["", "1a", "#next", "a b", "é", "a\0", "T".repeat(NAME_BYTES_MAX + 1).as_str()] {
        assert_eq!(named(name), Err(SchemaError::BadTableName(name.to_owned())));
    }
    for name in ["", " a", "a ", "a\n", "x".repeat(NAME_BYTES_MAX + 1).as_str()] {
        let refused = Err(SchemaError::BadColumnName(name.to_owned()));
        assert_eq!(of(&[column("a"), column(name)], &["a"]), refused);
    }
    let twice = SchemaError::DuplicateColumn("a".to_owned());
    assert_eq!(of(&[column("a"), column("b"), column("a")], &["b"]), Err(twice));
    assert_eq!(of(&[column("a")], &["b"]), Err(SchemaError::NoSuchColumn("b".to_owned())));
    assert_eq!(of(&[column("a")], &[]), Err(SchemaError::BadKeyLength));
    let repeated = SchemaError::RepeatedKeyColumn("a".to_owned());
    assert_eq!(of(&[column("a")], &["a", "a"]), Err(repeated));
    let nullable = SchemaError::NullableKey("a".to_owned());
    assert_eq!(of(&[column("a").nullable()], &["a"]), Err(nullable));
    let float = ColumnDef::new("a", ColumnType::F32);
    assert_eq!(of(&[float], &["a"]), Err(SchemaError::FloatKey("a".to_owned())));
    let many: Vec<ColumnDef> = (0..=COLUMNS_MAX).map(|n| column(&format!("c{n}"))).collect();
    assert_eq!(of(&many, &["c0"]), Err(SchemaError::TooManyColumns));
    assert_eq!(of(&many[1..], &["c1"]), Ok(()));
    let wide: Vec<ColumnDef> = many[..33].to_vec();
    let names: Vec<&str> = wide.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(of(&wide, &names), Err(SchemaError::BadKeyLength));
}

#[test]
fn partition_keys_lie_within_the_key() {
    let of = |key: &[u16], partition_key: &[u16]| {
        let columns = vec![column("a"), column("b"), column("c")];
        let (key, partition_key) = (key.to_vec(), partition_key.to_vec());
        TableDef::new(TableId(1), SchemaVersion(1), "t", columns, key, partition_key).map(drop)
    };
    assert_eq!(of(&[0, 1], &[1]), Ok(()));
    assert_eq!(of(&[0, 1], &[1, 0]), Ok(()));
    assert_eq!(of(&[0, 1], &[]), Err(SchemaError::BadPartitionKey));
    assert_eq!(of(&[0, 1], &[2]), Err(SchemaError::BadPartitionKey));
    let repeated = SchemaError::RepeatedKeyColumn("a".to_owned());
    assert_eq!(of(&[0, 1], &[0, 0]), Err(repeated));
    assert_eq!(of(&[0, 7], &[0]), Err(SchemaError::NoSuchColumn("position 7".to_owned())));
}

#[test]
fn defaults_fit_their_columns() {
    let of = |column: ColumnDef| {
        let columns = vec![ColumnDef::new("k", ColumnType::Bool), column];
        TableDef::with_key("t", columns, &["k"])
    };
    let small = ColumnDef::new("v", ColumnType::U8);
    let def = of(small.clone().or_default(255)).unwrap();
    assert_eq!(def.default_of(1), Ok(Value::UInt(255)));
    assert_eq!(of(small.clone()).unwrap().default_of(1), Err(Code::NullViolation));
    assert_eq!(of(small.clone().nullable()).unwrap().default_of(1), Ok(Value::Null));
    assert_eq!(def.default_of(2), Err(Code::NoSuchColumn));
    let refused = SchemaError::BadDefault("v".to_owned());
    assert_eq!(of(small.clone().or_default(256)), Err(refused.clone()));
    assert_eq!(of(small.or_default(Value::Null)), Err(refused));
}

#[test]
fn a_value_too_long_is_refused() {
    let columns =
        vec![ColumnDef::new("k", ColumnType::Bytes), ColumnDef::new("v", ColumnType::Bytes)];
    let def = TableDef::with_key("t", columns, &["k"]).unwrap();
    let key = |length| encode_key(&def, &[vec![1; length].into()]).map(drop);
    assert_eq!(key(KEY_BYTES_MAX), Ok(()));
    assert_eq!(key(KEY_BYTES_MAX + 1), Err(Code::KeyTooLong));
    assert_eq!(def.check_key(&vec![1; KEY_BYTES_MAX + 1]), Err(Code::KeyTooLong));
    let row = |length| encode_row(&def, &[vec![1; length].into()]).map(drop);
    assert_eq!(row(ROW_BYTES_MAX), Ok(()));
    assert_eq!(row(ROW_BYTES_MAX + 1), Err(Code::RowTooLarge));
    assert_eq!(check_row(&def, &vec![1; ROW_BYTES_MAX + 1]), Err(Code::RowTooLarge));
}

#[test]
fn the_catalog_holds_definitions_under_their_own_names() {
    let def = |id, name: &str| {
        let key = vec![0];
        TableDef::new(TableId(id), SchemaVersion(1), name, vec![column("a")], key.clone(), key)
            .unwrap()
    };
    let row = |id: u32, definition: &[u8]| {
        encode_row(catalog_def(), &[id.into(), definition.into()]).unwrap()
    };
    let seven = def(7, "seven").encode();
    assert!(catalog_def().is_catalog());
    assert_eq!(catalog_row(&row(7, &seven)), Ok((TableId(7), seven.as_slice())));
    let check =
        |key: &str, id, definition: &[u8]| check_catalog_row(key.as_bytes(), &row(id, definition));
    assert_eq!(check("seven", 7, &seven), Ok(()));
    assert_eq!(check("eight", 7, &seven), Err(Code::BadSchema));
    assert_eq!(check("seven", 8, &seven), Err(Code::BadSchema));
    assert_eq!(check("seven", 7, &seven[1..]), Err(Code::BadSchema));
    for id in [0, TABLE_UNNUMBERED.0] {
        assert_eq!(check("none", id, &def(id, "none").encode()), Err(Code::BadSchema));
    }
    assert_eq!(check(CATALOG_COUNTER, 7, b""), Ok(()));
    assert_eq!(check(CATALOG_COUNTER, 7, &seven), Err(Code::BadSchema));
    let key = encode_key(catalog_def(), &[CATALOG_COUNTER.into()]).unwrap();
    assert_eq!(key, CATALOG_COUNTER.as_bytes(), "a name is its own key");
}

#[test]
fn values_read_as_people_write_them() {
    let round = |text: &str, ty| Value::parse(text, ty).unwrap().to_string();
    assert_eq!(round("5282", ColumnType::U16), "5282");
    assert_eq!(round("-6.081689834590001", ColumnType::F64), "-6.081689834590001");
    assert_eq!(round("145.391998291", ColumnType::F64), "145.391998291");
    assert_eq!(round("1e300", ColumnType::F64), "1e300");
    assert_eq!(round("0x00ff", ColumnType::Bytes), "0x00ff");
    for (text, ty) in [
        ("256", ColumnType::U8),
        ("-1", ColumnType::U64),
        ("1.0", ColumnType::I64),
        ("", ColumnType::I64),
        ("yes", ColumnType::Bool),
        ("0x0", ColumnType::Bytes),
        ("00", ColumnType::Bytes),
        ("1e999x", ColumnType::F64),
    ] {
        assert_eq!(Value::parse(text, ty), Err(Code::WrongType), "{text:?} as {ty}");
    }
}

#[test]
fn timestamps_read_as_people_write_them() {
    let micros = |text: &str| Value::parse(text, ColumnType::Timestamp);
    for (text, expected) in [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2000-02-29 12:30", 951_827_400_000_000),
        ("2026-11-20T10:05:00.25Z", 1_795_169_100_250_000),
    ] {
        assert_eq!(micros(text), Ok(Value::Timestamp(expected)), "{text}");
    }
    for (number, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_827_400_000_000, "2000-02-29T12:30:00Z"),
        (1_795_169_100_250_000, "2026-11-20T10:05:00.25Z"),
        (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
    ] {
        assert_eq!(Value::Timestamp(number).to_string(), text);
        assert_eq!(micros(text), Ok(Value::Timestamp(number)));
    }
    for text in [
        "",
        "now",
        "2001-02-29",
        "2001-13-01",
        "2001-1-1",
        "2001-01-01T24:00",
        "2001-01-01T1:00",
        "2001-01-01T00:00:00.",
        "2001-01-01T00:00:00.1234567",
        "2001-01-01T00:00.5",
        "99999-01-01",
        "+294247-01-10T04:00:54.775808Z",
        "2001-01-01T00:00:00+01:00",
        "+-999-01-01",
    ] {
        assert_eq!(micros(text), Err(Code::WrongType), "{text:?}");
    }
}

#[test]
fn values_fit_columns_that_can_hold_them() {
    let fits = |value: Value, ty| value.fit(ty);
    assert_eq!(fits(Value::Int(255), ColumnType::U8), Ok(Value::UInt(255)));
    assert_eq!(fits(Value::UInt(127), ColumnType::I8), Ok(Value::Int(127)));
    assert_eq!(fits(Value::UInt(128), ColumnType::I8), Err(Code::WrongType));
    assert_eq!(fits(Value::Int(-1), ColumnType::U64), Err(Code::WrongType));
    assert_eq!(fits(Value::UInt(u64::MAX), ColumnType::U64), Ok(Value::UInt(u64::MAX)));
    assert_eq!(fits(Value::UInt(u64::MAX), ColumnType::I64), Err(Code::WrongType));
    assert_eq!(fits(Value::Int(i64::MIN), ColumnType::I64), Ok(Value::Int(i64::MIN)));
    assert_eq!(fits(Value::F64(0.5), ColumnType::F32), Ok(Value::F32(0.5)));
    assert_eq!(fits(Value::F64(0.1), ColumnType::F32), Err(Code::WrongType));
    assert_eq!(fits(Value::F32(0.5), ColumnType::F64), Ok(Value::F64(0.5)));
    assert_eq!(fits(Value::Int(1), ColumnType::F64), Err(Code::WrongType));
    assert_eq!(fits(Value::Int(1), ColumnType::Timestamp), Err(Code::WrongType));
    assert_eq!(fits(Value::from("1"), ColumnType::Bytes), Err(Code::WrongType));
    assert_eq!(fits(Value::Null, ColumnType::U8), Ok(Value::Null));
}
