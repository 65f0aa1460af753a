//! Primary keys as bytes that sort like the values: comparing two encoded keys of a table byte by
//! byte orders them as their columns do, one after the other.
//!
//! * bool: one byte, 0 or 1;
//! * integers and timestamps: big-endian in the width of the column, the sign bit flipped if the
//!   type has one, so a `u64` key is eight bytes;
//! * strings and bytes: each byte as it is but 0x00 as `00 FF`, then `00 00` as the end, which
//!   sorts before everything that could follow;
//! * the last column of a key, if it is a string or bytes, goes as it is, without an end: nothing
//!   follows it. If it is also the only one and is empty or begins with 0x00, a 0x00 is put in
//!   front, so that no encoded key is empty: an empty one can mean "from the start" in a scan.
//!
//! Invariant: a list of values has exactly one encoding, and the checks refuse all others; else one
//! row could live under two keys.

use crate::error::Code;
use crate::limits::KEY_BYTES_MAX;
use crate::placement::key_hash;
use crate::schema::TableDef;
use crate::value::{ColumnType, Value, ValueRef};

/// What stands for a 0x00 inside a string or bytes.
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];

/// What ends a string or bytes that is not the last column.
const END: [u8; 2] = [0x00, 0x00];

/// Encodes a key from its values, in the order of the key's columns.
///
/// # Errors
/// [`Code::WrongType`], [`Code::NullViolation`], [`Code::KeyTooLong`], or [`Code::Malformed`] if
/// the number of values is not that of the key's columns.
pub fn encode_key(def: &TableDef, values: &[Value]) -> Result<Vec<u8>, Code> {
    let mut out = Vec::new();
    encode_key_into(def, values, &mut out)?;
    Ok(out)
}

/// Appends an encoded key to `out`; see [`encode_key`].
///
/// # Errors
/// Those of [`encode_key`]; `out` may then hold a part of the key.
pub fn encode_key_into(def: &TableDef, values: &[Value], out: &mut Vec<u8>) -> Result<(), Code> {
    let start = out.len();
    let count = def.key().len();
    if values.len() != count {
        return Err(Code::Malformed);
    }
    for (at, (position, value)) in def.key().iter().zip(values).enumerate() {
        let ty = def.column(*position)?.ty;
        put_component(ty, value.as_ref(), Place::of(at, count), out)?;
    }
    if out.len() - start <= KEY_BYTES_MAX { Ok(()) } else { Err(Code::KeyTooLong) }
}

/// Decodes a key into its values, in the order of the key's columns.
///
/// # Errors
/// [`Code::Malformed`] if the bytes are not exactly one key of the table, or [`Code::KeyTooLong`].
pub fn decode_key(def: &TableDef, key: &[u8]) -> Result<Vec<Value>, Code> {
    let mut values = Vec::with_capacity(def.key().len());
    walk(def, key, |ty, component| {
        values.push(component.value(ty)?);
        Ok(())
    })?;
    Ok(values)
}

/// One column of a key; `component` counts the columns of the key.
///
/// # Errors
/// [`Code::Malformed`] if the bytes are not a key, [`Code::NoSuchColumn`] if it has no such column.
pub fn key_column(def: &TableDef, key: &[u8], component: u16) -> Result<Value, Code> {
    let mut values = decode_key(def, key)?;
    let component = usize::from(component);
    if component < values.len() {
        Ok(values.swap_remove(component))
    } else {
        Err(Code::NoSuchColumn)
    }
}

impl TableDef {
    /// Checks that the bytes are exactly one key of this table.
    ///
    /// # Errors
    /// [`Code::Malformed`] or [`Code::KeyTooLong`].
    #[inline]
    pub fn check_key(&self, key: &[u8]) -> Result<(), Code> {
        match self.layout().plain_key_bytes() {
            Some(length) if key.len() == length => Ok(()),
            Some(_) => Err(Code::Malformed),
            None => walk(self, key, |ty, component| component.check(ty)),
        }
    }

    /// The hash that places a row, from its encoded key: of the partition key's columns, encoded
    /// as a key of their own. Rows of different tables with equal partition keys thus share a
    /// partition. Without a partition key of its own it is the hash of the whole key.
    ///
    /// # Errors
    /// [`Code::Malformed`] or [`Code::KeyTooLong`] if the key is not one of this table.
    #[inline]
    pub fn partition_hash(&self, key: &[u8]) -> Result<u64, Code> {
        if self.partition_key() == self.key() {
            return Ok(key_hash(key));
        }
        if let Some(prefix) = self.layout().plain_partition_prefix_bytes() {
            return key.get(..prefix).map(key_hash).ok_or(Code::Malformed);
        }
        self.partition_hash_extracted(key)
    }

    fn partition_hash_extracted(&self, key: &[u8]) -> Result<u64, Code> {
        let values = decode_key(self, key)?;
        let mut partition_key = Vec::with_capacity(key.len());
        let count = self.partition_key().len();
        for (at, position) in self.partition_key().iter().enumerate() {
            let component = self.key().iter().position(|p| p == position);
            let value = &values[component.expect("a partition key lies within the key")];
            let ty = self.column(*position)?.ty;
            put_component(ty, value.as_ref(), Place::of(at, count), &mut partition_key)?;
        }
        Ok(key_hash(&partition_key))
    }
}

/// Where a column stands in its key, as far as its encoding depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Sole,
    Last,
    Inner,
}

impl Place {
    fn of(at: usize, count: usize) -> Self {
        match (at + 1 == count, count) {
            (true, 1) => Self::Sole,
            (true, _) => Self::Last,
            (false, _) => Self::Inner,
        }
    }
}

fn put_component(
    ty: ColumnType,
    value: ValueRef<'_>,
    place: Place,
    out: &mut Vec<u8>,
) -> Result<(), Code> {
    let fitted = value.fit(ty)?;
    match fitted {
        ValueRef::Null => return Err(Code::NullViolation),
        ValueRef::Bool(v) => out.push(u8::from(v)),
        ValueRef::Int(v) => put_number(v as u64, ty, out),
        ValueRef::UInt(v) => put_number(v, ty, out),
        ValueRef::Timestamp(v) => put_number(v as u64, ty, out),
        ValueRef::F32(_) | ValueRef::F64(_) => return Err(Code::WrongType),
        ValueRef::String(v) => put_var(v.as_bytes(), place, out)?,
        ValueRef::Bytes(v) => put_var(v, place, out)?,
    }
    Ok(())
}

/// Appends the low bytes of a number in two's complement, as many as its column is wide.
fn put_number(number: u64, ty: ColumnType, out: &mut Vec<u8>) {
    let width = ty.width().expect("numbers have a width");
    let start = out.len();
    out.extend_from_slice(&number.to_be_bytes()[8 - width..]);
    out[start] ^= sign_mask(ty);
}

fn sign_mask(ty: ColumnType) -> u8 {
    if ty.is_signed() || ty == ColumnType::Timestamp { 0x80 } else { 0 }
}

fn put_var(bytes: &[u8], place: Place, out: &mut Vec<u8>) -> Result<(), Code> {
    if bytes.len() > KEY_BYTES_MAX {
        return Err(Code::KeyTooLong);
    }
    match place {
        Place::Sole | Place::Last => {
            if place == Place::Sole && matches!(bytes, [] | [0, ..]) {
                out.push(0);
            }
            out.extend_from_slice(bytes);
        }
        Place::Inner => {
            for byte in bytes {
                match byte {
                    0 => out.extend_from_slice(&ESCAPED_ZERO),
                    _ => out.push(*byte),
                }
            }
            out.extend_from_slice(&END);
        }
    }
    Ok(())
}

/// The bytes of one column in a key, its end removed, and whether zeros are escaped in them.
struct Component<'a> {
    bytes: &'a [u8],
    escaped: bool,
}

impl Component<'_> {
    fn check(&self, ty: ColumnType) -> Result<(), Code> {
        match ty {
            ColumnType::Bool if self.bytes[0] > 1 => Err(Code::Malformed),
            // An escaped zero is not UTF-8, a plain one is.
            ColumnType::String if self.escaped => self.value(ty).map(drop),
            ColumnType::String => {
                std::str::from_utf8(self.bytes).map(drop).map_err(|_| Code::Malformed)
            }
            _ => Ok(()),
        }
    }

    fn value(&self, ty: ColumnType) -> Result<Value, Code> {
        Ok(match ty {
            ColumnType::Bool => match self.bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return Err(Code::Malformed),
            },
            ColumnType::U8 | ColumnType::U16 | ColumnType::U32 | ColumnType::U64 => {
                Value::UInt(self.unsigned())
            }
            ColumnType::I8 | ColumnType::I16 | ColumnType::I32 | ColumnType::I64 => {
                Value::Int(self.signed())
            }
            ColumnType::Timestamp => Value::Timestamp(self.signed()),
            ColumnType::String => {
                Value::String(String::from_utf8(self.unescaped()).map_err(|_| Code::Malformed)?)
            }
            ColumnType::Bytes => Value::Bytes(self.unescaped()),
            ColumnType::F32 | ColumnType::F64 => return Err(Code::Malformed),
        })
    }

    fn unsigned(&self) -> u64 {
        self.bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Flips the sign bit back and extends it.
    fn signed(&self) -> i64 {
        let unused_bits = 64 - 8 * self.bytes.len();
        let flipped = (self.unsigned() << unused_bits) ^ (1 << 63);
        (flipped as i64) >> unused_bits
    }

    fn unescaped(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes.iter();
        while let Some(byte) = rest.next() {
            out.push(*byte);
            if self.escaped && *byte == 0 {
                rest.next();
            }
        }
        out
    }
}

/// Calls `visit` with each column of the key.
fn walk<'a>(
    def: &TableDef,
    key: &'a [u8],
    mut visit: impl FnMut(ColumnType, Component<'a>) -> Result<(), Code>,
) -> Result<(), Code> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Code::KeyTooLong);
    }
    let count = def.key().len();
    let mut rest = key;
    for (at, position) in def.key().iter().enumerate() {
        let ty = def.column(*position)?.ty;
        let component = match ty.width() {
            Some(width) => {
                let (bytes, after) = rest.split_at_checked(width).ok_or(Code::Malformed)?;
                rest = after;
                Component { bytes, escaped: false }
            }
            None => take_var(&mut rest, Place::of(at, count))?,
        };
        visit(ty, component)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(Code::Malformed) }
}

/// Takes a string or bytes off the front of `rest`.
fn take_var<'a>(rest: &mut &'a [u8], place: Place) -> Result<Component<'a>, Code> {
    match place {
        Place::Last => Ok(Component { bytes: std::mem::take(rest), escaped: false }),
        Place::Sole => match std::mem::take(rest) {
            [] => Err(Code::Malformed),
            [0, bytes @ ..] if matches!(bytes, [] | [0, ..]) => {
                Ok(Component { bytes, escaped: false })
            }
            [0, ..] => Err(Code::Malformed),
            bytes => Ok(Component { bytes, escaped: false }),
        },
        Place::Inner => take_escaped(rest),
    }
}

fn take_escaped<'a>(rest: &mut &'a [u8]) -> Result<Component<'a>, Code> {
    let all = *rest;
    let mut from = 0;
    let mut escaped = false;
    loop {
        let zero = all[from..].iter().position(|byte| *byte == 0).ok_or(Code::Malformed)? + from;
        match all.get(zero + 1) {
            Some(0xFF) => {
                escaped = true;
                from = zero + 2;
            }
            Some(0x00) => {
                *rest = &all[zero + 2..];
                return Ok(Component { bytes: &all[..zero], escaped });
            }
            _ => return Err(Code::Malformed),
        }
    }
}
