//! Row values as bytes: all columns that are not in the key, laid out by the table's definition.
//!
//! ```text
//! null bits | fixed-width columns | ends of variable columns | data of variable columns
//! ```
//! * null bits: one per nullable column, lowest bit first, set for NULL; absent if no column is;
//! * fixed-width columns: little-endian, in the order of their positions, at the same place in
//!   every row; zeros for NULL;
//! * ends: for every variable column but the last the end of its data, counted from the start of
//!   the data, three bytes each; so any column is found without decoding others;
//! * data: strings and bytes one after the other, the last up to the end of the row; none for NULL.
//!
//! A table with a single `bytes` column has rows that are just those bytes.
//!
//! Invariant: equal values have equal bytes, and [`check_row`] refuses all others; replicas can be
//! compared by bytes.

use crate::error::Code;
use crate::limits::ROW_BYTES_MAX;
use crate::schema::{ColumnDef, TableDef};
use crate::value::{ColumnType, Value, ValueRef};

/// Bytes of the end of a variable column; enough for [`ROW_BYTES_MAX`].
const END_BYTES: usize = 3;

/// Where a column lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// In the key, as its column number so-and-so.
    Key(u16),
    /// In the row, at this byte, as wide as its type.
    Fixed(u32),
    /// In the row, as its variable column number so-and-so.
    Var(u16),
}

/// Where everything lies in the keys and rows of a table; derived from its definition.
#[derive(Clone, PartialEq, Debug)]
pub struct RowLayout {
    slots: Vec<Slot>,
    /// The number of the null bit of every nullable column.
    null_bits: Vec<Option<u16>>,
    null_bytes: usize,
    /// Null bits and fixed columns together.
    fixed_end: usize,
    var_count: usize,
    /// Columns of the row whose bytes may be wrong: all but plain numbers and bytes.
    checked: Vec<u16>,
    /// Columns of the row, in order.
    value_columns: Vec<u16>,
    plain_key_bytes: Option<usize>,
    plain_partition_prefix_bytes: Option<usize>,
}

impl RowLayout {
    pub(crate) fn new(columns: &[ColumnDef], key: &[u16], partition_key: &[u16]) -> Self {
        let mut layout = Self {
            slots: Vec::with_capacity(columns.len()),
            null_bits: Vec::with_capacity(columns.len()),
            null_bytes: 0,
            fixed_end: 0,
            var_count: 0,
            checked: Vec::new(),
            value_columns: Vec::new(),
            plain_key_bytes: plain_bytes(columns, key),
            plain_partition_prefix_bytes: plain_bytes(columns, partition_key)
                .filter(|_| key.starts_with(partition_key)),
        };
        let nullable = columns.iter().filter(|column| column.nullable).count();
        layout.null_bytes = nullable.div_ceil(8);
        layout.fixed_end = layout.null_bytes;
        let mut null_bit = 0;
        for (position, column) in (0_u16..).zip(columns) {
            if let Some(component) = key.iter().position(|p| *p == position) {
                layout.slots.push(Slot::Key(component as u16));
                layout.null_bits.push(None);
                continue;
            }
            layout.push_value_column(position, column);
            layout.null_bits.push(column.nullable.then_some(null_bit));
            null_bit += u16::from(column.nullable);
        }
        layout
    }

    fn push_value_column(&mut self, position: u16, column: &ColumnDef) {
        let slot = match column.ty.width() {
            Some(width) => {
                let at = self.fixed_end as u32;
                self.fixed_end += width;
                Slot::Fixed(at)
            }
            None => {
                self.var_count += 1;
                Slot::Var(self.var_count as u16 - 1)
            }
        };
        self.slots.push(slot);
        self.value_columns.push(position);
        if column.nullable || matches!(column.ty, ColumnType::Bool | ColumnType::String) {
            self.checked.push(position);
        }
    }

    /// Where a column lies.
    ///
    /// # Errors
    /// [`Code::NoSuchColumn`].
    #[inline]
    pub fn slot(&self, position: u16) -> Result<Slot, Code> {
        self.slots.get(usize::from(position)).copied().ok_or(Code::NoSuchColumn)
    }

    /// Positions of the columns in the row, in order.
    #[must_use]
    pub fn value_columns(&self) -> &[u16] {
        &self.value_columns
    }

    /// How many variable columns a row has.
    #[must_use]
    pub fn var_count(&self) -> usize {
        self.var_count
    }

    /// The length of every key, if all keys of this length are valid.
    #[inline]
    pub(crate) fn plain_key_bytes(&self) -> Option<usize> {
        self.plain_key_bytes
    }

    /// The length of the partition key, if it is the front of every key and of plain numbers.
    #[inline]
    pub(crate) fn plain_partition_prefix_bytes(&self) -> Option<usize> {
        self.plain_partition_prefix_bytes
    }

    /// Where the data of variable columns starts.
    #[inline]
    fn data_start(&self) -> usize {
        self.fixed_end + END_BYTES * self.var_count.saturating_sub(1)
    }

    /// Where the data of a variable column lies in the row.
    #[inline]
    fn var_range(&self, row: &[u8], index: usize) -> Result<std::ops::Range<usize>, Code> {
        let data = self.data_start();
        let start = if index == 0 { 0 } else { self.var_end(row, index - 1)? };
        let end = match index + 1 == self.var_count {
            true => row.len(),
            false => data + self.var_end(row, index)?,
        };
        Ok(data + start..end)
    }

    /// The end of a variable column that is not the last.
    #[inline]
    fn var_end(&self, row: &[u8], index: usize) -> Result<usize, Code> {
        let at = self.fixed_end + END_BYTES * index;
        match row.get(at..at + END_BYTES) {
            Some(&[a, b, c]) => Ok(u32::from_le_bytes([a, b, c, 0]) as usize),
            _ => Err(Code::Malformed),
        }
    }

    #[inline]
    fn is_null(&self, row: &[u8], position: u16) -> bool {
        self.null_bits[usize::from(position)]
            .is_some_and(|bit| row[usize::from(bit / 8)] & (1 << (bit % 8)) != 0)
    }

    fn set_null(&self, row: &mut [u8], position: u16, null: bool) -> Result<(), Code> {
        match self.null_bits[usize::from(position)] {
            Some(bit) => {
                let (byte, mask) = (&mut row[usize::from(bit / 8)], 1 << (bit % 8));
                *byte = if null { *byte | mask } else { *byte & !mask };
                Ok(())
            }
            None if null => Err(Code::NullViolation),
            None => Ok(()),
        }
    }
}

/// The length of keys that are all numbers, so that any bytes of this length are one.
fn plain_bytes(columns: &[ColumnDef], key: &[u16]) -> Option<usize> {
    key.iter().try_fold(0, |sum, position| match columns[usize::from(*position)].ty {
        ColumnType::Bool => None,
        ty => Some(sum + ty.width()?),
    })
}

/// Encodes a row from the values of all columns, or of all that are not in the key; in the order
/// of their positions either way.
///
/// # Errors
/// [`Code::WrongType`], [`Code::NullViolation`], [`Code::RowTooLarge`], or [`Code::Malformed`] if
/// the number of values is neither of the two.
pub fn encode_row(def: &TableDef, values: &[Value]) -> Result<Vec<u8>, Code> {
    let mut out = Vec::new();
    encode_row_into(def, values, &mut out)?;
    Ok(out)
}

/// Appends an encoded row to `out`; see [`encode_row`].
///
/// # Errors
/// Those of [`encode_row`]; `out` may then hold a part of the row.
pub fn encode_row_into(def: &TableDef, values: &[Value], out: &mut Vec<u8>) -> Result<(), Code> {
    let layout = def.layout();
    let whole = values.len() == def.columns().len();
    if !whole && values.len() != layout.value_columns.len() {
        return Err(Code::Malformed);
    }
    let value_of = |nth: usize, position: u16| {
        values[if whole { usize::from(position) } else { nth }].as_ref()
    };
    let start = out.len();
    out.resize(start + layout.data_start(), 0);
    for (nth, position) in layout.value_columns.iter().enumerate() {
        let value = value_of(nth, *position).fit(def.column(*position)?.ty)?;
        let row = &mut out[start..];
        layout.set_null(row, *position, value.is_null())?;
        match layout.slot(*position)? {
            Slot::Key(_) => unreachable!("value columns are not in the key"),
            Slot::Fixed(at) => put_fixed(def.column(*position)?.ty, value, row, at as usize),
            Slot::Var(index) => {
                out.extend_from_slice(value.var_bytes().unwrap_or(&[]));
                let end = out.len() - start - layout.data_start();
                put_var_end(layout, &mut out[start..], usize::from(index), end)?;
            }
        }
    }
    if out.len() - start <= ROW_BYTES_MAX { Ok(()) } else { Err(Code::RowTooLarge) }
}

/// Notes the end of a variable column; that of the last is the end of the row.
fn put_var_end(layout: &RowLayout, row: &mut [u8], index: usize, end: usize) -> Result<(), Code> {
    if end > ROW_BYTES_MAX {
        return Err(Code::RowTooLarge);
    }
    if index + 1 < layout.var_count {
        let at = layout.fixed_end + END_BYTES * index;
        let end = u32::try_from(end).expect("checked above").to_le_bytes();
        row[at..at + END_BYTES].copy_from_slice(&end[..END_BYTES]);
    }
    Ok(())
}

/// Writes a fitting value; zeros for NULL.
fn put_fixed(ty: ColumnType, value: ValueRef<'_>, row: &mut [u8], at: usize) {
    let bits = match value {
        ValueRef::Bool(v) => u64::from(v),
        ValueRef::Int(v) | ValueRef::Timestamp(v) => v as u64,
        ValueRef::UInt(v) => v,
        ValueRef::F32(v) => u64::from(v.to_bits()),
        ValueRef::F64(v) => v.to_bits(),
        ValueRef::Null | ValueRef::String(_) | ValueRef::Bytes(_) => 0,
    };
    let width = ty.width().unwrap_or(0);
    row[at..at + width].copy_from_slice(&bits.to_le_bytes()[..width]);
}

#[inline]
fn take_fixed<'a>(ty: ColumnType, row: &[u8], at: usize) -> Result<ValueRef<'a>, Code> {
    let width = ty.width().unwrap_or(0);
    let mut eight = [0; 8];
    eight[..width].copy_from_slice(row.get(at..at + width).ok_or(Code::Malformed)?);
    let bits = u64::from_le_bytes(eight);
    let unused_bits = 64 - 8 * width;
    let signed = ((bits << unused_bits) as i64) >> unused_bits;
    Ok(match ty {
        ColumnType::Bool => match bits {
            0 => ValueRef::Bool(false),
            1 => ValueRef::Bool(true),
            _ => return Err(Code::WrongType),
        },
        ColumnType::I8 | ColumnType::I16 | ColumnType::I32 | ColumnType::I64 => {
            ValueRef::Int(signed)
        }
        ColumnType::U8 | ColumnType::U16 | ColumnType::U32 | ColumnType::U64 => {
            ValueRef::UInt(bits)
        }
        ColumnType::F32 => ValueRef::F32(f32::from_bits(bits as u32)),
        ColumnType::F64 => ValueRef::F64(f64::from_bits(bits)),
        ColumnType::Timestamp => ValueRef::Timestamp(signed),
        ColumnType::String | ColumnType::Bytes => return Err(Code::Malformed),
    })
}

/// Decodes a row into the values of the columns that are not in the key, in order.
///
/// # Errors
/// As [`check_row`].
pub fn decode_row(def: &TableDef, row: &[u8]) -> Result<Vec<Value>, Code> {
    let view = RowView::new(def, row)?;
    let columns = def.layout().value_columns.iter();
    columns.map(|position| Ok(view.column(*position)?.to_value())).collect()
}

/// Decodes a key and its row into the values of all columns, in order.
///
/// # Errors
/// As [`check_row`] and [`crate::key::decode_key`].
pub fn decode_columns(def: &TableDef, key: &[u8], row: &[u8]) -> Result<Vec<Value>, Code> {
    let mut from_key = crate::key::decode_key(def, key)?;
    let view = RowView::new(def, row)?;
    let positions = 0..def.columns().len() as u16;
    let column = |position| match def.layout().slot(position)? {
        Slot::Key(component) => Ok(std::mem::take(&mut from_key[usize::from(component)])),
        Slot::Fixed(_) | Slot::Var(_) => Ok(view.column(position)?.to_value()),
    };
    positions.map(column).collect()
}

/// Checks that the bytes are a row of the table: what a server does with every row it is sent.
///
/// # Errors
/// [`Code::RowTooLarge`], [`Code::Malformed`] if the layout is wrong, [`Code::WrongType`] if the
/// bytes of a column are no value of its type.
#[inline]
pub fn check_row(def: &TableDef, row: &[u8]) -> Result<(), Code> {
    let layout = def.layout();
    if row.len() > ROW_BYTES_MAX {
        return Err(Code::RowTooLarge);
    }
    let data = layout.data_start();
    if row.len() < data || (layout.var_count == 0 && row.len() > data) {
        return Err(Code::Malformed);
    }
    if layout.var_count > 1 {
        check_ends(layout, row)?;
    }
    if layout.checked.is_empty() { Ok(()) } else { check_columns(def, row) }
}

fn check_ends(layout: &RowLayout, row: &[u8]) -> Result<(), Code> {
    let mut start = 0;
    for index in 0..layout.var_count - 1 {
        let end = layout.var_end(row, index)?;
        if end < start {
            return Err(Code::Malformed);
        }
        start = end;
    }
    if layout.data_start() + start <= row.len() { Ok(()) } else { Err(Code::Malformed) }
}

fn check_columns(def: &TableDef, row: &[u8]) -> Result<(), Code> {
    let layout = def.layout();
    let mut null_bits = 0;
    for position in &layout.checked {
        let ty = def.column(*position)?.ty;
        null_bits += usize::from(layout.null_bits[usize::from(*position)].is_some());
        let null = layout.is_null(row, *position);
        match layout.slot(*position)? {
            Slot::Key(_) => unreachable!("checked columns are not in the key"),
            Slot::Fixed(at) if null => {
                let at = at as usize;
                if row[at..at + ty.width().unwrap_or(0)].iter().any(|byte| *byte != 0) {
                    return Err(Code::Malformed);
                }
            }
            Slot::Fixed(at) => {
                take_fixed(ty, row, at as usize)?;
            }
            Slot::Var(index) => {
                let range = layout.var_range(row, usize::from(index))?;
                let bytes = row.get(range).ok_or(Code::Malformed)?;
                if null && !bytes.is_empty() {
                    return Err(Code::Malformed);
                }
                if ty == ColumnType::String && std::str::from_utf8(bytes).is_err() {
                    return Err(Code::WrongType);
                }
            }
        }
    }
    check_unused_null_bits(layout, row, null_bits)
}

/// Bits beyond those of the nullable columns are zero.
fn check_unused_null_bits(layout: &RowLayout, row: &[u8], used: usize) -> Result<(), Code> {
    match (used % 8, layout.null_bytes.checked_sub(1)) {
        (bits @ 1.., Some(last)) if row[last] >> bits != 0 => Err(Code::Malformed),
        _ => Ok(()),
    }
}

/// A row's bytes, column by column, decoding only what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    def: &'a TableDef,
    row: &'a [u8],
}

impl<'a> RowView<'a> {
    /// Looks at bytes from somewhere.
    ///
    /// # Errors
    /// As [`check_row`].
    pub fn new(def: &'a TableDef, row: &'a [u8]) -> Result<Self, Code> {
        check_row(def, row)?;
        Ok(Self { def, row })
    }

    /// Looks at bytes that have been checked before. Others give errors or nonsense.
    #[must_use]
    #[inline]
    pub fn of_checked(def: &'a TableDef, row: &'a [u8]) -> Self {
        Self { def, row }
    }

    /// The value of a column of the row.
    ///
    /// # Errors
    /// [`Code::NoSuchColumn`] if there is none at this position, or it is in the key.
    #[inline]
    pub fn column(&self, position: u16) -> Result<ValueRef<'a>, Code> {
        let layout = self.def.layout();
        let slot = layout.slot(position)?;
        if self.row.len() < layout.data_start() {
            return Err(Code::Malformed);
        }
        if layout.is_null(self.row, position) {
            return Ok(ValueRef::Null);
        }
        let ty = self.def.column(position)?.ty;
        match slot {
            Slot::Key(_) => Err(Code::NoSuchColumn),
            Slot::Fixed(at) => take_fixed(ty, self.row, at as usize),
            Slot::Var(index) => {
                let range = layout.var_range(self.row, usize::from(index))?;
                let bytes = self.row.get(range).ok_or(Code::Malformed)?;
                if ty == ColumnType::Bytes {
                    return Ok(ValueRef::Bytes(bytes));
                }
                std::str::from_utf8(bytes).map(ValueRef::String).map_err(|_| Code::WrongType)
            }
        }
    }
}

/// Changes a fixed-width column in place.
///
/// # Errors
/// [`Code::WrongType`], [`Code::NullViolation`], [`Code::NoSuchColumn`] if it is not a column of
/// fixed width in the row, [`Code::Malformed`] if the bytes are no row.
#[inline]
pub fn set_fixed(
    def: &TableDef,
    row: &mut [u8],
    position: u16,
    value: ValueRef<'_>,
) -> Result<(), Code> {
    let layout = def.layout();
    let Slot::Fixed(at) = layout.slot(position)? else { return Err(Code::NoSuchColumn) };
    let ty = def.column(position)?.ty;
    let value = value.fit(ty)?;
    if row.len() < layout.data_start() {
        return Err(Code::Malformed);
    }
    layout.set_null(row, position, value.is_null())?;
    put_fixed(ty, value, row, at as usize);
    Ok(())
}

/// Rewrites the variable columns of a row: `new` has one entry per variable column, `None` for
/// those that stay. The fixed part is taken from `row` as it is but for the null bits of the
/// changed columns.
///
/// # Errors
/// [`Code::WrongType`], [`Code::NullViolation`], [`Code::RowTooLarge`]; [`Code::Malformed`] if the
/// bytes are no row.
pub fn replace_vars(
    def: &TableDef,
    row: &[u8],
    new: &[Option<ValueRef<'_>>],
    out: &mut Vec<u8>,
) -> Result<(), Code> {
    let layout = def.layout();
    out.clear();
    out.extend_from_slice(row.get(..layout.data_start()).ok_or(Code::Malformed)?);
    for position in &layout.value_columns {
        let Slot::Var(index) = layout.slot(*position)? else { continue };
        let index = usize::from(index);
        match new.get(index).copied().flatten() {
            Some(value) => {
                let value = value.fit(def.column(*position)?.ty)?;
                layout.set_null(out, *position, value.is_null())?;
                out.extend_from_slice(value.var_bytes().unwrap_or(&[]));
            }
            None => {
                let range = layout.var_range(row, index)?;
                out.extend_from_slice(row.get(range).ok_or(Code::Malformed)?);
            }
        }
        let end = out.len() - layout.data_start();
        put_var_end(layout, out, index, end)?;
    }
    if out.len() <= ROW_BYTES_MAX { Ok(()) } else { Err(Code::RowTooLarge) }
}
