//! Column types and the values of columns, as applications see them.
//!
//! [`Value`] owns its data and is what client users write and read; [`ValueRef`] borrows it from a
//! row, a key or a request and is what servers compute with. Both have one variant per *kind* of
//! column: the width of an integer belongs to the column, not to the value, so that `Value::Int(5)`
//! fits every integer column that can hold a five.
//!
//! Invariant: text made by `Display` from a value of a column is parsed back to the same value by
//! [`Value::parse`] with the type of that column (a NaN to some NaN).

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::timestamp;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ColumnType {
    /// `true` or `false`.
    Bool,
    /// A signed integer of 8 bits.
    I8,
    /// A signed integer of 16 bits.
    I16,
    /// A signed integer of 32 bits.
    I32,
    /// A signed integer of 64 bits.
    I64,
    /// An unsigned integer of 8 bits.
    U8,
    /// An unsigned integer of 16 bits.
    U16,
    /// An unsigned integer of 32 bits.
    U32,
    /// An unsigned integer of 64 bits.
    U64,
    /// A floating point number of 32 bits.
    F32,
    /// A floating point number of 64 bits.
    F64,
    /// Text in UTF-8.
    String,
    /// Any bytes.
    Bytes,
    /// A moment: microseconds since the start of 1970 in UTC.
    Timestamp,
}

impl ColumnType {
    /// Every type.
    pub const ALL: &'static [Self] = &[
        Self::Bool,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::F32,
        Self::F64,
        Self::String,
        Self::Bytes,
        Self::Timestamp,
    ];

    /// The name in definitions and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
        }
    }

    /// The type with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|ty| ty.name() == name)
    }

    /// Encoded bytes of every value; `None` if they vary.
    #[must_use]
    pub fn width(self) -> Option<usize> {
        match self {
            Self::Bool | Self::I8 | Self::U8 => Some(1),
            Self::I16 | Self::U16 => Some(2),
            Self::I32 | Self::U32 | Self::F32 => Some(4),
            Self::I64 | Self::U64 | Self::F64 | Self::Timestamp => Some(8),
            Self::String | Self::Bytes => None,
        }
    }

    /// Whether it is an integer of any width.
    #[must_use]
    pub fn is_integer(self) -> bool {
        self.is_signed() || self.is_unsigned()
    }

    /// Whether it is a signed integer.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64)
    }

    /// Whether it is an unsigned integer.
    #[must_use]
    pub fn is_unsigned(self) -> bool {
        matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    /// Whether it is a floating point number. Those are not allowed in keys: 0.0 and -0.0 are
    /// equal but differ in bytes, and a NaN equals nothing.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Whether an integer column of this type can hold `number`.
    #[must_use]
    pub fn holds(self, number: i128) -> bool {
        let Some(bits) = self.width().map(|bytes| bytes * 8) else { return false };
        if self.is_signed() {
            (-(1 << (bits - 1))..1 << (bits - 1)).contains(&number)
        } else {
            self.is_unsigned() && (0..1 << bits).contains(&number)
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of a column, owned.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub enum Value {
    /// No value.
    #[default]
    Null,
    /// Of a `bool` column.
    Bool(bool),
    /// An integer; what signed columns give back.
    Int(i64),
    /// An integer; what unsigned columns give back.
    UInt(u64),
    /// Of an `f32` column.
    F32(f32),
    /// Of an `f64` column.
    F64(f64),
    /// Of a `string` column.
    String(String),
    /// Of a `bytes` column.
    Bytes(Vec<u8>),
    /// Of a `timestamp` column: microseconds since the start of 1970 in UTC.
    Timestamp(i64),
}

/// A value of a column, borrowed from wherever it lies.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueRef<'a> {
    /// No value.
    Null,
    /// Of a `bool` column.
    Bool(bool),
    /// An integer; what signed columns give.
    Int(i64),
    /// An integer; what unsigned columns give.
    UInt(u64),
    /// Of an `f32` column.
    F32(f32),
    /// Of an `f64` column.
    F64(f64),
    /// Of a `string` column.
    String(&'a str),
    /// Of a `bytes` column.
    Bytes(&'a [u8]),
    /// Of a `timestamp` column.
    Timestamp(i64),
}

impl Value {
    /// The value, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Bool(v) => ValueRef::Bool(*v),
            Self::Int(v) => ValueRef::Int(*v),
            Self::UInt(v) => ValueRef::UInt(*v),
            Self::F32(v) => ValueRef::F32(*v),
            Self::F64(v) => ValueRef::F64(*v),
            Self::String(v) => ValueRef::String(v),
            Self::Bytes(v) => ValueRef::Bytes(v),
            Self::Timestamp(v) => ValueRef::Timestamp(*v),
        }
    }

    /// The value as a column of type `ty` gives it back: integers in the variant of the column's
    /// sign, floats in its width. NULL stays NULL.
    ///
    /// # Errors
    /// [`Code::WrongType`] if the column cannot hold it without change.
    pub fn fit(self, ty: ColumnType) -> Result<Self, Code> {
        match (self, ty) {
            (Self::String(text), ColumnType::String) => Ok(Self::String(text)),
            (Self::Bytes(bytes), ColumnType::Bytes) => Ok(Self::Bytes(bytes)),
            (other, _) => other.as_ref().fit(ty).map(ValueRef::to_value),
        }
    }

    /// Reads the text form of a value, as `Display` writes it: `true`, `-17`, `2.5`, text as it
    /// is, bytes as `0x` and hexadecimal digits, `2026-11-20T10:05:00.25Z`. A timestamp may lack
    /// the time, its fraction or the `Z`, and may have a blank for the `T`.
    ///
    /// # Errors
    /// [`Code::WrongType`] if the text is not a value of the type.
    pub fn parse(text: &str, ty: ColumnType) -> Result<Self, Code> {
        let value = match ty {
            ColumnType::Bool => text.parse().ok().map(Self::Bool),
            ColumnType::I8 | ColumnType::I16 | ColumnType::I32 | ColumnType::I64 => {
                text.parse().ok().map(Self::Int)
            }
            ColumnType::U8 | ColumnType::U16 | ColumnType::U32 | ColumnType::U64 => {
                text.parse().ok().map(Self::UInt)
            }
            ColumnType::F32 => text.parse().ok().map(Self::F32),
            ColumnType::F64 => text.parse().ok().map(Self::F64),
            ColumnType::String => Some(Self::String(text.to_owned())),
            ColumnType::Bytes => parse_hex(text).map(Self::Bytes),
            ColumnType::Timestamp => timestamp::parse(text).map(Self::Timestamp),
        };
        value.ok_or(Code::WrongType)?.fit(ty)
    }

    /// Whether it is NULL.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The bool in it.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(v) = self { Some(*v) } else { None }
    }

    /// The integer in it, if it fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_ref().integer().and_then(|n| i64::try_from(n).ok())
    }

    /// The integer in it, if it fits.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.as_ref().integer().and_then(|n| u64::try_from(n).ok())
    }

    /// The float in it.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.as_ref().float()
    }

    /// The text in it.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(v) = self { Some(v) } else { None }
    }

    /// The bytes in it.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(v) = self { Some(v) } else { None }
    }

    /// The microseconds since 1970 in it.
    #[must_use]
    pub fn as_timestamp(&self) -> Option<i64> {
        if let Self::Timestamp(v) = self { Some(*v) } else { None }
    }
}

impl<'a> ValueRef<'a> {
    /// An owned copy.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(v) => Value::Bool(v),
            Self::Int(v) => Value::Int(v),
            Self::UInt(v) => Value::UInt(v),
            Self::F32(v) => Value::F32(v),
            Self::F64(v) => Value::F64(v),
            Self::String(v) => Value::String(v.to_owned()),
            Self::Bytes(v) => Value::Bytes(v.to_vec()),
            Self::Timestamp(v) => Value::Timestamp(v),
        }
    }

    /// Whether it is NULL.
    #[must_use]
    pub fn is_null(self) -> bool {
        matches!(self, Self::Null)
    }

    /// The integer in it.
    #[must_use]
    pub fn integer(self) -> Option<i128> {
        match self {
            Self::Int(v) => Some(i128::from(v)),
            Self::UInt(v) => Some(i128::from(v)),
            _ => None,
        }
    }

    /// The float in it.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        match self {
            Self::F32(v) => Some(f64::from(v)),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Its bytes, of a string or of bytes.
    #[must_use]
    pub fn var_bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::String(v) => Some(v.as_bytes()),
            Self::Bytes(v) => Some(v),
            _ => None,
        }
    }

    /// See [`Value::fit`].
    ///
    /// # Errors
    /// [`Code::WrongType`] if a column of this type cannot hold it without change.
    pub fn fit(self, ty: ColumnType) -> Result<Self, Code> {
        let fitted = match (self, ty) {
            (Self::Null, _) => Some(self),
            (Self::Int(_) | Self::UInt(_), _) => self.fit_integer(ty),
            (Self::F32(v), ColumnType::F64) => Some(Self::F64(f64::from(v))),
            (Self::F64(v), ColumnType::F32) => narrow(v).map(Self::F32),
            (Self::Bool(_), ColumnType::Bool)
            | (Self::F32(_), ColumnType::F32)
            | (Self::F64(_), ColumnType::F64)
            | (Self::String(_), ColumnType::String)
            | (Self::Bytes(_), ColumnType::Bytes)
            | (Self::Timestamp(_), ColumnType::Timestamp) => Some(self),
            _ => None,
        };
        fitted.ok_or(Code::WrongType)
    }

    fn fit_integer(self, ty: ColumnType) -> Option<Self> {
        let number = self.integer().filter(|n| ty.holds(*n))?;
        if ty.is_signed() {
            i64::try_from(number).ok().map(Self::Int)
        } else {
            u64::try_from(number).ok().map(Self::UInt)
        }
    }

    /// The order of two values: integers by number whatever their variant, floats by number
    /// whatever their width, text and bytes by byte. `Ok(None)` when there is no order, because a
    /// NULL or a NaN is among them.
    ///
    /// # Errors
    /// [`Code::WrongType`] if they are of different kinds.
    pub fn compare(self, other: ValueRef<'_>) -> Result<Option<Ordering>, Code> {
        match (self, other) {
            (Self::Null, _) | (_, ValueRef::Null) => Ok(None),
            (Self::Bool(a), ValueRef::Bool(b)) => Ok(Some(a.cmp(&b))),
            (Self::String(a), ValueRef::String(b)) => Ok(Some(a.cmp(b))),
            (Self::Bytes(a), ValueRef::Bytes(b)) => Ok(Some(a.cmp(b))),
            (Self::Timestamp(a), ValueRef::Timestamp(b)) => Ok(Some(a.cmp(&b))),
            _ => {
                if let (Some(a), Some(b)) = (self.integer(), other.integer()) {
                    return Ok(Some(a.cmp(&b)));
                }
                let (Some(a), Some(b)) = (self.float(), other.float()) else {
                    return Err(Code::WrongType);
                };
                Ok(a.partial_cmp(&b))
            }
        }
    }
}

/// The `f32` that is the same number, if there is one.
fn narrow(wide: f64) -> Option<f32> {
    let narrow = wide as f32;
    (f64::from(narrow) == wide || wide.is_nan()).then_some(narrow)
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_ref(), f)
    }
}

impl fmt::Display for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Null => f.write_str("NULL"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::UInt(v) => write!(f, "{v}"),
            Self::F32(v) if plain(f64::from(v)) => write_plain(f, v),
            Self::F32(v) => write!(f, "{v:e}"),
            Self::F64(v) if plain(v) => write_plain(f, v),
            Self::F64(v) => write!(f, "{v:e}"),
            Self::String(v) => f.write_str(v),
            Self::Bytes(v) => {
                f.write_str("0x")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Timestamp(v) => timestamp::write(f, v),
        }
    }
}

/// Writes a float in as few digits as give it back. Where two such texts are equally near to it
/// the even digit is taken, as most programs do that write floats into files: what they wrote
/// comes back as it was. The standard library takes the odd one.
fn write_plain<T>(f: &mut fmt::Formatter<'_>, number: T) -> fmt::Result
where
    T: fmt::Display + std::str::FromStr + PartialEq,
{
    let shortest = number.to_string();
    let Some((_, fraction)) = shortest.split_once('.') else { return f.write_str(&shortest) };
    let nearest = format!("{number:.*}", fraction.len());
    let same = nearest.parse().is_ok_and(|parsed: T| parsed == number);
    f.write_str(if same { &nearest } else { &shortest })
}

/// Whether a float is better read without an exponent.
fn plain(number: f64) -> bool {
    number == 0.0 || !number.is_finite() || (1e-5..1e17).contains(&number.abs())
}

macro_rules! conversions {
    ($($from:ty => |$v:ident| $value:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($v: $from) -> Self {
                $value
            }
        })*
    };
}

conversions! {
    bool => |v| Self::Bool(v);
    i8 => |v| Self::Int(i64::from(v));
    i16 => |v| Self::Int(i64::from(v));
    i32 => |v| Self::Int(i64::from(v));
    i64 => |v| Self::Int(v);
    u8 => |v| Self::UInt(u64::from(v));
    u16 => |v| Self::UInt(u64::from(v));
    u32 => |v| Self::UInt(u64::from(v));
    u64 => |v| Self::UInt(v);
    f32 => |v| Self::F32(v);
    f64 => |v| Self::F64(v);
    &str => |v| Self::String(v.to_owned());
    String => |v| Self::String(v);
    &[u8] => |v| Self::Bytes(v.to_vec());
    Vec<u8> => |v| Self::Bytes(v);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
