//! Records of a partition log: the same bytes travel on the wire, lie in memory, and (later) on
//! disk. Encoded once by the primary, never re-encoded.
//!
//! Layout, little-endian:
//!
//! ```text
//!  0 crc32c of everything after it  u32
//!  4 kind                           u8      5 reserved u8
//!  6 partition                      u16
//!  8 view of the primary            u64
//! 16 seq                            u64
//! 24 epoch                          u64     Commit: the transaction's epoch
//! 32 transaction                    26 bytes
//! 58 session low mark               u64
//! 66 body
//! ```
//!
//! Body of `Write`: writes. Body of `Prepare`: coordinator (8 bytes), start order (26),
//! participants (`count u16`, u16 each, anchor first), shared locks (`count u16`, then `table u32,
//! key length u16, key`), writes. Bodies of `Commit`, `Abort` and `Copied` are empty. Writes are
//! `count u16`, then `table u32, key length u16, key, value length u32 (u32::MAX: delete), value`.

use bytes::BufMut;

use crate::ids::{Epoch, PartitionId, Seq, ShardAddr, StartOrder, TableId, TxId, ViewNumber};
use crate::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX, ROW_BYTES_MAX, TX_WRITES_MAX};
use crate::wire::WireError;
use crate::wire::bytes::{Reader, WriteWords};
use crate::wire::data::Partitions;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 66;

const DELETED: u32 = u32::MAX;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// A transaction on this partition alone: committed when stable.
    Write = 1,
    /// A yes vote: this partition's part of a transaction, undecided.
    Prepare = 2,
    /// The prepared transaction is committed.
    Commit = 3,
    /// The transaction is aborted, prepared or not; also a tombstone against a late `Prepare`.
    Abort = 4,
    /// In redo logs only: the partition was copied to this node, and is in a checkpoint as of this
    /// epoch or a later one; what the log had of it before does not lead up to what follows.
    Copied = 5,
}

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it says.
    pub kind: RecordKind,
    /// Whose log.
    pub partition: PartitionId,
    /// The primary's view when it was appended.
    pub view: ViewNumber,
    /// Position in the log.
    pub seq: Seq,
    /// The epoch; for a commit, the transaction's.
    pub epoch: Epoch,
    /// The transaction.
    pub tx: TxId,
    /// Everything of the session below is acknowledged.
    pub low: u64,
}

/// A record, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub header: Header,
    body: &'a [u8],
}

/// The body of a `Prepare`.
#[derive(Clone, Copy, Debug)]
pub struct PrepareBody<'a> {
    /// Who coordinates.
    pub coordinator: ShardAddr,
    /// Age, for wound-wait.
    pub order: StartOrder,
    /// All participants, anchor first.
    pub participants: Partitions<'a>,
    /// Rows locked shared.
    pub shared: Keys<'a>,
    /// What changes if it commits.
    pub writes: Writes<'a>,
}

/// One write: `value` is `None` for a delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowWrite<'a> {
    /// The table.
    pub table: TableId,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value.
    pub value: Option<&'a [u8]>,
}

/// A checked list of writes.
#[derive(Clone, Copy, Debug)]
pub struct Writes<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// A checked list of keys.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    count: u16,
    bytes: &'a [u8],
}

fn read_write<'a>(r: &mut Reader<'a>) -> Result<RowWrite<'a>, WireError> {
    let (table, key) = read_key(r)?;
    let length = r.u32()?;
    if length == DELETED {
        return Ok(RowWrite { table, key, value: None });
    }
    if length as usize > ROW_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok(RowWrite { table, key, value: Some(r.bytes(length as usize)?) })
}

fn read_key<'a>(r: &mut Reader<'a>) -> Result<(TableId, &'a [u8]), WireError> {
    let table = r.table()?;
    let length = usize::from(r.u16()?);
    if length > KEY_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok((table, r.bytes(length)?))
}

impl<'a> Writes<'a> {
    fn read_rest(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = r.u16()?;
        if usize::from(count) > TX_WRITES_MAX {
            return Err(WireError::TooLong);
        }
        let bytes = r.take_rest();
        let mut check = Reader::new(bytes);
        for _ in 0..count {
            read_write(&mut check)?;
        }
        check.finish()?;
        Ok(Self { count, bytes })
    }

    /// The writes in order.
    pub fn iter(&self) -> impl Iterator<Item = RowWrite<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| read_write(&mut reader).expect("checked when read"))
    }
}

impl<'a> Keys<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let count = r.u16()?;
        let start = r.rest();
        for _ in 0..count {
            read_key(r)?;
        }
        Ok(Self { count, bytes: &start[..start.len() - r.rest().len()] })
    }

    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = (TableId, &'a [u8])> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| read_key(&mut reader).expect("checked when read"))
    }
}

impl<'a> Record<'a> {
    /// Reads a record and checks its checksum.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not exactly one record.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        if r.u32()? != crc32c::crc32c(r.rest()) {
            return Err(WireError::BadValue);
        }
        Self::decode_sealed(bytes)
    }

    /// Reads a record this process has sealed or checked itself.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are not exactly one record.
    pub fn decode_sealed(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        r.u32()?;
        let kind = match r.u8()? {
            1 => RecordKind::Write,
            2 => RecordKind::Prepare,
            3 => RecordKind::Commit,
            4 => RecordKind::Abort,
            5 => RecordKind::Copied,
            other => return Err(WireError::UnknownKind(other)),
        };
        r.u8()?;
        let header = Header {
            kind,
            partition: r.partition()?,
            view: r.view()?,
            seq: r.seq()?,
            epoch: r.epoch()?,
            tx: r.tx()?,
            low: r.u64()?,
        };
        Ok(Self { header, body: r.take_rest() })
    }

    /// The writes of a `Write`.
    ///
    /// # Errors
    /// [`WireError`] if the body is not a list of writes.
    pub fn writes(&self) -> Result<Writes<'a>, WireError> {
        Writes::read_rest(&mut Reader::new(self.body))
    }

    /// The body of a `Prepare`.
    ///
    /// # Errors
    /// [`WireError`] if it is not one.
    pub fn prepare(&self) -> Result<PrepareBody<'a>, WireError> {
        let mut r = Reader::new(self.body);
        Ok(PrepareBody {
            coordinator: r.shard_addr()?,
            order: r.order()?,
            participants: Partitions::read(&mut r)?,
            shared: Keys::read(&mut r)?,
            writes: Writes::read_rest(&mut r)?,
        })
    }
}

/// The checksum a record carries: also feeds the digest of its log.
#[must_use]
pub fn checksum(record: &[u8]) -> u32 {
    record.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The epoch in a record's header, without looking at the rest.
#[must_use]
pub fn epoch(record: &[u8]) -> Option<Epoch> {
    let bytes = record.get(24..32)?.first_chunk::<8>()?;
    Some(Epoch(u64::from_le_bytes(*bytes)))
}

/// The view in a record's header, without looking at the rest.
#[must_use]
pub fn view(record: &[u8]) -> Option<ViewNumber> {
    let bytes = record.get(8..16)?.first_chunk::<8>()?;
    Some(ViewNumber(u64::from_le_bytes(*bytes)))
}

/// Builds one record in a buffer of its own, which becomes the log's.
pub struct RecordBuilder {
    bytes: Vec<u8>,
    writes_at: usize,
    writes: u16,
}

impl RecordBuilder {
    /// Starts a `Write`; `capacity` is the body's size: right, and nothing is copied at the end.
    #[must_use]
    pub fn write(header: &Header, capacity: usize) -> Self {
        let mut bytes = Self::start(header, capacity);
        bytes.put_u16_le(0);
        Self { bytes, writes_at: HEADER_BYTES, writes: 0 }
    }

    /// Starts a `Prepare`.
    #[must_use]
    pub fn prepare<'k>(
        header: &Header,
        coordinator: ShardAddr,
        order: StartOrder,
        participants: Partitions<'_>,
        shared: impl Iterator<Item = (TableId, &'k [u8])>,
    ) -> Self {
        let mut bytes = Self::start(header, 256);
        bytes.put_shard_addr(coordinator);
        bytes.put_order(order);
        bytes.put_u16_le(u16::try_from(participants.len()).expect("bounded by PARTITIONS_MAX"));
        bytes.put_slice(participants.as_bytes());
        let count_at = bytes.len();
        bytes.put_u16_le(0);
        let mut count: u16 = 0;
        for (table, key) in shared {
            put_key(&mut bytes, table, key);
            // Past the limit of bytes long before it would wrap: an entry has six or more.
            count = count.wrapping_add(1);
            if bytes.len() > RECORD_BYTES_MAX || count == 0 {
                bytes.resize(RECORD_BYTES_MAX + 1, 0);
                break;
            }
        }
        bytes[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
        let writes_at = bytes.len();
        bytes.put_u16_le(0);
        Self { bytes, writes_at, writes: 0 }
    }

    /// A whole `Commit` or `Abort`.
    #[must_use]
    pub fn decision(header: &Header) -> Box<[u8]> {
        let bytes = Self::start(header, 0);
        Self { bytes, writes_at: HEADER_BYTES, writes: 0 }.seal()
    }

    /// Appends one write.
    pub fn push(&mut self, write: &RowWrite<'_>) {
        put_key(&mut self.bytes, write.table, write.key);
        match write.value {
            None => self.bytes.put_u32_le(DELETED),
            Some(value) => {
                self.bytes.put_u32_le(u32::try_from(value.len()).expect("rows are bounded"));
                self.bytes.put_slice(value);
            }
        }
        self.writes = self.writes.saturating_add(1);
    }

    /// Whether the record is one that others can read. The owner of a transaction that is too large
    /// refuses it instead.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.bytes.len() <= RECORD_BYTES_MAX && usize::from(self.writes) <= TX_WRITES_MAX
    }

    /// How many writes there are.
    #[must_use]
    pub fn writes(&self) -> u16 {
        self.writes
    }

    /// Size so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Fills in count and checksum.
    #[must_use]
    pub fn finish(mut self) -> Box<[u8]> {
        let at = self.writes_at;
        self.bytes[at..at + 2].copy_from_slice(&self.writes.to_le_bytes());
        self.seal()
    }

    fn seal(mut self) -> Box<[u8]> {
        let crc = crc32c::crc32c(&self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.into_boxed_slice()
    }

    fn start(header: &Header, capacity: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity);
        bytes.put_u32_le(0);
        bytes.put_u8(header.kind as u8);
        bytes.put_u8(0);
        bytes.put_u16_le(header.partition.0);
        bytes.put_u64_le(header.view.0);
        bytes.put_u64_le(header.seq.0);
        bytes.put_u64_le(header.epoch.0);
        bytes.put_tx(header.tx);
        bytes.put_u64_le(header.low);
        bytes
    }
}

fn put_key(out: &mut Vec<u8>, table: TableId, key: &[u8]) {
    out.put_u32_le(table.0);
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded"));
    out.put_slice(key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::data::partitions_to_bytes;

    fn header(kind: RecordKind) -> Header {
        Header {
            kind,
            partition: PartitionId(7),
            view: ViewNumber(3),
            seq: Seq(11),
            epoch: Epoch(99),
            tx: TxId { sequence: 5, ..TxId::default() },
            low: 4,
        }
    }

    #[test]
    fn a_prepare_reads_back_as_written() {
        let participants = partitions_to_bytes(&[PartitionId(7), PartitionId(9)]);
        let participants = Partitions::from_bytes(&participants).unwrap();
        let shared = [(TableId(1), &b"seen"[..])];
        let mut builder = RecordBuilder::prepare(
            &header(RecordKind::Prepare),
            ShardAddr::default(),
            StartOrder::default(),
            participants,
            shared.into_iter(),
        );
        let put = RowWrite { table: TableId(2), key: b"k", value: Some(b"v") };
        let delete = RowWrite { table: TableId(2), key: b"gone", value: None };
        builder.push(&put);
        builder.push(&delete);
        let bytes = builder.finish();
        let record = Record::decode(&bytes).unwrap();
        assert_eq!(record.header, header(RecordKind::Prepare));
        let body = record.prepare().unwrap();
        assert_eq!(body.shared.iter().collect::<Vec<_>>(), shared);
        assert_eq!(body.writes.iter().collect::<Vec<_>>(), [put, delete]);
        assert_eq!(body.participants.iter().count(), 2);
    }

    #[test]
    fn what_a_builder_says_fits_can_be_read() {
        let header = header(RecordKind::Write);
        let mut builder = RecordBuilder::write(&header, 0);
        for id in 0..u32::try_from(TX_WRITES_MAX).unwrap() {
            let key = id.to_le_bytes();
            builder.push(&RowWrite { table: TableId(1), key: &key, value: Some(b"value") });
        }
        assert!(builder.fits());
        let bytes = builder.finish();
        let writes = Record::decode(&bytes).unwrap().writes().unwrap();
        assert_eq!(writes.iter().count(), TX_WRITES_MAX);
        let mut many = RecordBuilder::write(&header, 0);
        for _ in 0..=TX_WRITES_MAX {
            many.push(&RowWrite { table: TableId(1), key: b"k", value: None });
        }
        assert!(!many.fits(), "too many");
        let mut large = RecordBuilder::write(&header, 0);
        let row = vec![0; ROW_BYTES_MAX];
        for _ in 0..4 {
            large.push(&RowWrite { table: TableId(1), key: b"k", value: Some(&row) });
        }
        assert!(!large.fits(), "too large");
        let participants = Partitions::from_bytes(&[]).unwrap();
        let key = [0; 8];
        let locks = std::iter::repeat_n((TableId(1), &key[..]), 400_000);
        let (coordinator, order) = (ShardAddr::default(), StartOrder::default());
        let locked = RecordBuilder::prepare(&header, coordinator, order, participants, locks);
        assert!(!locked.fits(), "too many locks");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = RecordBuilder::decision(&header(RecordKind::Abort));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&bad).is_err());
        }
    }
}
