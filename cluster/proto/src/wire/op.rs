//! Operations on rows as they travel: laid out by hand, read in place.
//!
//! One operation is `kind u8, flags u8, table u32, schema u32, partition u16, key length u16, key,
//! body length u32, body`. The key is the encoded primary key. The body depends on the kind:
//! * `Read`, no body;
//! * `Insert`, `Upsert`: the encoded row value ([`crate::row`]);
//! * `Update`: conditions, then assignments ([`crate::change`]);
//! * `Delete`: conditions.
//!
//! One result is `tag u8` and, for a row, `length u32, bytes`; for a failure, `code u16`.

use ::bytes::{BufMut, BytesMut};

use crate::error::Code;
use crate::ids::{PartitionId, SchemaVersion, TableId};
use crate::limits::{BATCH_OPS_MAX, KEY_BYTES_MAX};
use crate::wire::WireError;
use crate::wire::bytes::Reader;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OpKind {
    /// Returns the row.
    Read = 1,
    /// Puts a row; fails if one is there.
    Insert = 2,
    /// Changes columns of a row; fails if it is not there or a condition does not hold. Increment
    /// and compare-and-set are updates.
    Update = 3,
    /// Puts a row whether or not one is there.
    Upsert = 4,
    /// Removes a row; fails if it is not there or a condition does not hold.
    Delete = 5,
}

impl OpKind {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Read,
            2 => Self::Insert,
            3 => Self::Update,
            4 => Self::Upsert,
            5 => Self::Delete,
            other => return Err(WireError::UnknownKind(other)),
        })
    }

    /// Whether more may be stored after it than before.
    #[must_use]
    pub fn grows(self) -> bool {
        matches!(self, Self::Insert | Self::Upsert | Self::Update)
    }

    /// Whether it changes the row.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// Modifiers of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpFlags(pub u8);

impl OpFlags {
    /// Return the row as it is after the operation (before it, for a delete).
    pub const RETURNING: Self = Self(1);
    /// A read that takes an exclusive lock; other reads in a transaction take a shared one.
    pub const FOR_UPDATE: Self = Self(2);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One operation, borrowed from its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op<'a> {
    /// What it does.
    pub kind: OpKind,
    /// Modifiers.
    pub flags: OpFlags,
    /// On which table.
    pub table: TableId,
    /// The schema version the client encoded with.
    pub schema: SchemaVersion,
    /// Where the row lives; the node checks it against the key.
    pub partition: PartitionId,
    /// The encoded primary key.
    pub key: &'a [u8],
    /// By kind; see the module text.
    pub body: &'a [u8],
}

impl<'a> Op<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let kind = OpKind::from_byte(reader.u8()?)?;
        let flags = OpFlags(reader.u8()?);
        let table = reader.table()?;
        let schema = SchemaVersion(reader.u32()?);
        let partition = reader.partition()?;
        let key_length = usize::from(reader.u16()?);
        if key_length > KEY_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        let key = reader.bytes(key_length)?;
        let body_length = reader.u32()? as usize;
        let body = reader.bytes(body_length)?;
        Ok(Self { kind, flags, table, schema, partition, key, body })
    }

    /// Appends the operation.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u8(self.kind as u8);
        out.put_u8(self.flags.0);
        out.put_u32_le(self.table.0);
        out.put_u32_le(self.schema.0);
        out.put_u16_le(self.partition.0);
        out.put_u16_le(u16::try_from(self.key.len()).expect("keys are bounded"));
        out.put_slice(self.key);
        out.put_u32_le(u32::try_from(self.body.len()).expect("rows are bounded"));
        out.put_slice(self.body);
    }
}

/// A list of operations in a frame: `count u16`, then the operations. Checked as a whole when it
/// is read, so that iterating cannot fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ops<'a> {
    count: u16,
    bytes: &'a [u8],
}

impl<'a> Ops<'a> {
    /// No operations.
    pub const EMPTY: Ops<'static> = Ops { count: 0, bytes: &[] };

    /// Reads and checks a list that fills the rest of the reader.
    ///
    /// # Errors
    /// [`WireError`] if it is not one, or longer than [`BATCH_OPS_MAX`].
    pub fn read_rest(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = reader.u16()?;
        if usize::from(count) > BATCH_OPS_MAX {
            return Err(WireError::TooLong);
        }
        let bytes = reader.take_rest();
        let mut check = Reader::new(bytes);
        for _ in 0..count {
            Op::read(&mut check)?;
        }
        check.finish()?;
        Ok(Self { count, bytes })
    }

    /// Appends the list.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u16_le(self.count);
        out.put_slice(self.bytes);
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes the operations take in a frame.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The operations in order.
    pub fn iter(&self) -> impl Iterator<Item = Op<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| Op::read(&mut reader).expect("checked when read"))
    }

    /// An owned copy, for work that must wait.
    #[must_use]
    pub fn to_list(&self) -> OpList {
        OpList { count: self.count, bytes: BytesMut::from(self.bytes) }
    }
}

/// An owned list of operations, being built or waiting.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpList {
    count: u16,
    bytes: BytesMut,
}

impl OpList {
    /// Appends one operation.
    pub fn push(&mut self, op: &Op<'_>) {
        op.write(&mut self.bytes);
        self.count += 1;
    }

    /// Forgets all operations, keeping the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }

    /// The list as it travels.
    #[must_use]
    pub fn as_ops(&self) -> Ops<'_> {
        Ops { count: self.count, bytes: &self.bytes }
    }
}

/// What became of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpResult<'a> {
    /// Done; no row was asked for.
    Done,
    /// The encoded row value.
    Row(&'a [u8]),
    /// A read that found no row.
    Absent,
    /// Not done; nothing of this operation is applied.
    Failed(Code),
}

impl<'a> OpResult<'a> {
    /// Appends the result.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Done => out.put_u8(0),
            Self::Row(bytes) => {
                out.put_u8(1);
                out.put_u32_le(u32::try_from(bytes.len()).expect("rows are bounded"));
                out.put_slice(bytes);
            }
            Self::Absent => out.put_u8(2),
            Self::Failed(code) => {
                out.put_u8(3);
                out.put_u16_le(*code as u16);
            }
        }
    }

    /// Reads one result.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not one.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            0 => Self::Done,
            1 => {
                let length = reader.u32()? as usize;
                Self::Row(reader.bytes(length)?)
            }
            2 => Self::Absent,
            3 => Self::Failed(Code::from_number(reader.u16()?).ok_or(WireError::BadValue)?),
            other => return Err(WireError::UnknownKind(other)),
        })
    }
}
