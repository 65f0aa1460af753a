//! Conditions and assignments: the bodies of updates and deletes, evaluated where the row lives.
//!
//! An update's body is `count u16`, the conditions, `count u16`, the assignments. A delete's is
//! `count u16` and the conditions, or nothing at all if there are none. A condition is `column u16,
//! comparison u8` and, unless it asks for NULL, a value; an assignment is `column u16, action u8,
//! value`; a value is `tag u8` and the bytes of its kind, little-endian, strings and bytes with a
//! `length u32` in front.
//!
//! Invariant: reading borrows from the body, never panics and never allocates; nothing of an
//! operation is applied before its whole body has been read.

use std::cmp::Ordering;

use crate::error::Code;
use crate::limits::ROW_BYTES_MAX;
use crate::value::{Value, ValueRef};
use crate::wire::WireError;
use crate::wire::bytes::Reader;

/// How a condition compares a column with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Comparison {
    /// Equal.
    Eq = 0,
    /// Not equal. Does not hold for NULL, as none but the last two do.
    Ne = 1,
    /// Less.
    Lt = 2,
    /// Less or equal.
    Le = 3,
    /// Greater.
    Gt = 4,
    /// Greater or equal.
    Ge = 5,
    /// The column is NULL.
    IsNull = 6,
    /// The column is not NULL.
    IsNotNull = 7,
}

impl Comparison {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            0 => Self::Eq,
            1 => Self::Ne,
            2 => Self::Lt,
            3 => Self::Le,
            4 => Self::Gt,
            5 => Self::Ge,
            6 => Self::IsNull,
            7 => Self::IsNotNull,
            other => return Err(WireError::UnknownKind(other)),
        })
    }

    /// Whether it compares with a value.
    #[must_use]
    pub fn takes_value(self) -> bool {
        !matches!(self, Self::IsNull | Self::IsNotNull)
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
            Self::IsNull | Self::IsNotNull => false,
        }
    }
}

/// What must hold of a row for an update or delete to happen.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    /// The position of the column; it may be in the key.
    pub column: u16,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what; NULL where the comparison takes no value.
    pub value: Value,
}

/// A change of one column.
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment {
    /// The position of the column; it may not be in the key.
    pub column: u16,
    /// What happens to it.
    pub action: Action,
}

/// What an assignment does.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// The column gets this value.
    Set(Value),
    /// The number is added to the column's, which must not be NULL; microseconds to a timestamp.
    Add(Value),
}

/// A condition as it lies in a body.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ConditionRef<'a> {
    /// The position of the column.
    pub column: u16,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: ValueRef<'a>,
}

impl ConditionRef<'_> {
    /// Whether it holds for this value of its column. A comparison with NULL or NaN does not hold,
    /// but for [`Comparison::Ne`] with a NaN.
    ///
    /// # Errors
    /// [`Code::WrongType`] if the condition's value is NULL or of another kind than the column's.
    pub fn holds(&self, current: ValueRef<'_>) -> Result<bool, Code> {
        match self.comparison {
            Comparison::IsNull => return Ok(current.is_null()),
            Comparison::IsNotNull => return Ok(!current.is_null()),
            _ if self.value.is_null() => return Err(Code::WrongType),
            _ if current.is_null() => return Ok(false),
            _ => {}
        }
        Ok(match current.compare(self.value)? {
            Some(order) => self.comparison.holds(order),
            None => self.comparison == Comparison::Ne,
        })
    }
}

/// An assignment as it lies in a body.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AssignmentRef<'a> {
    /// The position of the column.
    pub column: u16,
    /// What happens to it.
    pub action: ActionRef<'a>,
}

/// What an assignment does, as it lies in a body.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ActionRef<'a> {
    /// The column gets this value.
    Set(ValueRef<'a>),
    /// The number is added.
    Add(ValueRef<'a>),
}

/// Encodes the body of an update.
///
/// # Errors
/// [`Code::BatchTooLarge`] if a list has more entries than its count can say,
/// [`Code::RowTooLarge`] if a value is longer than any row.
pub fn encode_update(
    conditions: &[Condition],
    assignments: &[Assignment],
) -> Result<Vec<u8>, Code> {
    let mut out = Vec::new();
    put_conditions(conditions, &mut out)?;
    put_count(assignments.len(), &mut out)?;
    for assignment in assignments {
        out.extend_from_slice(&assignment.column.to_le_bytes());
        let (action, value) = match &assignment.action {
            Action::Set(value) => (SET, value),
            Action::Add(value) => (ADD, value),
        };
        out.push(action);
        put_value(value.as_ref(), &mut out)?;
    }
    Ok(out)
}

/// Encodes the body of a delete.
///
/// # Errors
/// As [`encode_update`].
pub fn encode_delete(conditions: &[Condition]) -> Result<Vec<u8>, Code> {
    let mut out = Vec::new();
    if !conditions.is_empty() {
        put_conditions(conditions, &mut out)?;
    }
    Ok(out)
}

const SET: u8 = 0;
const ADD: u8 = 1;

fn put_count(count: usize, out: &mut Vec<u8>) -> Result<(), Code> {
    let count = u16::try_from(count).map_err(|_| Code::BatchTooLarge)?;
    out.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

fn put_conditions(conditions: &[Condition], out: &mut Vec<u8>) -> Result<(), Code> {
    put_count(conditions.len(), out)?;
    for condition in conditions {
        out.extend_from_slice(&condition.column.to_le_bytes());
        out.push(condition.comparison as u8);
        if condition.comparison.takes_value() {
            put_value(condition.value.as_ref(), out)?;
        }
    }
    Ok(())
}

/// Tags of values. Integers have two, as [`Value`] has.
mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const BOOL: u8 = 1;
    pub(super) const INT: u8 = 2;
    pub(super) const UINT: u8 = 3;
    pub(super) const F32: u8 = 4;
    pub(super) const F64: u8 = 5;
    pub(super) const STRING: u8 = 6;
    pub(super) const BYTES: u8 = 7;
    pub(super) const TIMESTAMP: u8 = 8;
}

fn put_value(value: ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
    let mut put = |tag: u8, bytes: &[u8]| {
        out.push(tag);
        out.extend_from_slice(bytes);
    };
    match value {
        ValueRef::Null => put(tag::NULL, &[]),
        ValueRef::Bool(v) => put(tag::BOOL, &[u8::from(v)]),
        ValueRef::Int(v) => put(tag::INT, &v.to_le_bytes()),
        ValueRef::UInt(v) => put(tag::UINT, &v.to_le_bytes()),
        ValueRef::F32(v) => put(tag::F32, &v.to_le_bytes()),
        ValueRef::F64(v) => put(tag::F64, &v.to_le_bytes()),
        ValueRef::Timestamp(v) => put(tag::TIMESTAMP, &v.to_le_bytes()),
        ValueRef::String(v) => return put_var(tag::STRING, v.as_bytes(), out),
        ValueRef::Bytes(v) => return put_var(tag::BYTES, v, out),
    }
    Ok(())
}

fn put_var(tag: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Code> {
    if bytes.len() > ROW_BYTES_MAX {
        return Err(Code::RowTooLarge);
    }
    let length = u32::try_from(bytes.len()).expect("checked above");
    out.push(tag);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads the body of an update or delete: first all conditions, then all assignments, then
/// [`ChangeReader::finish`].
#[derive(Clone, Debug)]
pub struct ChangeReader<'a> {
    reader: Reader<'a>,
    /// Entries left in the list being read.
    left: u16,
}

impl<'a> ChangeReader<'a> {
    /// Starts at the conditions.
    ///
    /// # Errors
    /// [`Code::Malformed`] if there is no list.
    #[inline]
    pub fn new(body: &'a [u8]) -> Result<Self, Code> {
        let mut reader = Reader::new(body);
        let left = reader.u16().map_err(malformed)?;
        Ok(Self { reader, left })
    }

    /// The next condition.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    #[inline]
    pub fn next_condition(&mut self) -> Result<Option<ConditionRef<'a>>, Code> {
        self.next(|reader| {
            let column = reader.u16()?;
            let comparison = Comparison::from_byte(reader.u8()?)?;
            let value = if comparison.takes_value() { read_value(reader)? } else { ValueRef::Null };
            Ok(ConditionRef { column, comparison, value })
        })
    }

    /// Goes on to the assignments, once there are no conditions left.
    ///
    /// # Errors
    /// [`Code::Malformed`] if there is no list.
    #[inline]
    pub fn start_assignments(&mut self) -> Result<(), Code> {
        debug_assert_eq!(self.left, 0, "conditions come first");
        self.left = self.reader.u16().map_err(malformed)?;
        Ok(())
    }

    /// The next assignment.
    ///
    /// # Errors
    /// [`Code::Malformed`].
    #[inline]
    pub fn next_assignment(&mut self) -> Result<Option<AssignmentRef<'a>>, Code> {
        self.next(|reader| {
            let column = reader.u16()?;
            let action = reader.u8()?;
            let value = read_value(reader)?;
            let action = match action {
                SET => ActionRef::Set(value),
                ADD => ActionRef::Add(value),
                other => return Err(WireError::UnknownKind(other)),
            };
            Ok(AssignmentRef { column, action })
        })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Code::Malformed`] if bytes are left.
    #[inline]
    pub fn finish(self) -> Result<(), Code> {
        self.reader.finish().map_err(malformed)
    }

    #[inline]
    fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<Option<T>, Code> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        read(&mut self.reader).map(Some).map_err(malformed)
    }
}

fn malformed(_: WireError) -> Code {
    Code::Malformed
}

#[inline]
fn read_value<'a>(reader: &mut Reader<'a>) -> Result<ValueRef<'a>, WireError> {
    Ok(match reader.u8()? {
        tag::NULL => ValueRef::Null,
        tag::BOOL => match reader.u8()? {
            0 => ValueRef::Bool(false),
            1 => ValueRef::Bool(true),
            _ => return Err(WireError::BadValue),
        },
        tag::INT => ValueRef::Int(reader.u64()? as i64),
        tag::UINT => ValueRef::UInt(reader.u64()?),
        tag::F32 => ValueRef::F32(f32::from_bits(reader.u32()?)),
        tag::F64 => ValueRef::F64(f64::from_bits(reader.u64()?)),
        tag::TIMESTAMP => ValueRef::Timestamp(reader.u64()? as i64),
        tag::STRING => {
            let text = std::str::from_utf8(read_var(reader)?).map_err(|_| WireError::BadValue)?;
            ValueRef::String(text)
        }
        tag::BYTES => ValueRef::Bytes(read_var(reader)?),
        other => return Err(WireError::UnknownKind(other)),
    })
}

fn read_var<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let length = reader.u32()? as usize;
    reader.bytes(length)
}
