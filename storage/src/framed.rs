//! What files made of blocks have in common, those of checkpoints and of parts of backups:
//!
//! ```text
//!  header | block | block | … | index: place and entry of every block | trailer
//! ```
//! `docs/FORMAT.md` shows the bytes. What a header, an entry and a trailer say besides is up to the
//! kind of file.
//!
//! Invariant: every byte is vouched for by a checksum. Those of the trailer, the index and the
//! blocks start from the header's, those of blocks also from their place, so that no part of one
//! file can be taken for a part of another. The trailer's vouches for the index, and that for the
//! blocks: who knows it knows the file.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::BufMut;
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use crate::disk::{Broken, Completion, Directory, FaultKind, FileFault, FileName, Op, Request};

/// Bytes of every header, what is left of it zero.
const HEADER_BYTES: usize = 96;
/// Bytes of a header before what a kind of file says in it.
const HEAD_BYTES: usize = 12;
const PLACE_BYTES: usize = 16;
const TRAILER_BYTES: usize = 56;
/// Bytes of a trailer before what a kind of file says in it.
const ENDING_BYTES: usize = 24;

/// Blocks that are written and kept for the next ones.
const SPARES_MAX: usize = 8;

/// What tells one kind of file from another.
pub(crate) struct Kind {
    pub(crate) magic: &'static [u8; 4],
    pub(crate) trailer_magic: &'static [u8; 4],
    pub(crate) version: u16,
    /// No block is shorter.
    pub(crate) block_header_bytes: usize,
}

/// What the index says of a block besides its place.
pub(crate) trait Entry: Copy {
    /// Always as many.
    const BYTES: usize;
    fn put(&self, out: &mut Vec<u8>);
    fn read(r: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// What a trailer says besides: always 32 bytes, the length of the file among them.
pub(crate) trait Totals: Copy {
    fn put(&self, file_bytes: u64, out: &mut Vec<u8>);
    /// And how long the file is.
    fn read(r: &mut Reader<'_>) -> Result<(Self, u64), WireError>;
}

/// Where a block is, and what vouches for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    offset: u64,
    bytes: u32,
    checksum: u32,
}

impl Place {
    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { offset: r.u64()?, bytes: r.u32()?, checksum: r.u32()? })
    }
}

/// The checksum of a block that lies at `offset` in the file with this header checksum.
fn block_checksum(file: u32, offset: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(file, &offset.to_le_bytes()), block)
}

impl Kind {
    /// A header that says what `body` puts into it, and its checksum.
    pub(crate) fn header(&self, body: impl FnOnce(&mut Vec<u8>)) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_slice(self.magic);
        out.put_u16_le(self.version);
        out.put_u16_le(HEADER_BYTES as u16);
        out.put_u32_le(0);
        body(&mut out);
        debug_assert!(out.len() <= HEADER_BYTES);
        out.resize(HEADER_BYTES, 0);
        let sum = crc32c::crc32c(&out[HEAD_BYTES..]);
        out[8..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        (out, sum)
    }

    /// What the header at the start of a file says, and its checksum.
    pub(crate) fn read_header<T>(
        &self,
        file: &[u8],
        body: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
    ) -> Result<(T, u32), FaultKind> {
        let cut = FaultKind::Damaged("the header is cut off");
        if !file.starts_with(&self.magic[..file.len().min(self.magic.len())]) {
            return Err(FaultKind::NotOurs);
        }
        let head = file.get(..HEADER_BYTES).ok_or(cut)?;
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != self.version {
            return Err(FaultKind::Version { found: version, read: self.version });
        }
        let sum = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let length = u16::from_le_bytes([head[6], head[7]]);
        if sum != crc32c::crc32c(&head[HEAD_BYTES..]) || usize::from(length) != HEADER_BYTES {
            return Err(FaultKind::Damaged("the header is not what was written"));
        }
        let said = body(&mut Reader::new(&head[HEAD_BYTES..])).map_err(|_| cut)?;
        Ok((said, sum))
    }
}

/// Makes such a file: blocks in, requests to a disk out.
///
/// Invariant: the final name is given to a file only after all its bytes are synced.
pub(crate) struct Framer {
    kind: &'static Kind,
    /// The name under which it is written.
    file: FileName,
    /// The header's.
    checksum: u32,
    waiting: VecDeque<Op>,
    spares: Vec<Vec<u8>>,
    index: Vec<u8>,
    blocks: u32,
    end: u64,
    waits: bool,
}

/// What has become of a file by what a disk has done.
pub(crate) enum Progress {
    Going,
    /// It is there, under its final name.
    Whole,
    Broken(Broken),
}

impl Framer {
    /// Begins a file with this header, once `before` is done. One of the same name may be left from
    /// an attempt that failed.
    pub(crate) fn new(
        kind: &'static Kind,
        file: FileName,
        (header, checksum): (Vec<u8>, u32),
        before: Option<Op>,
    ) -> Self {
        let end = header.len() as u64;
        let write = Op::Write { file, offset: 0, bytes: header };
        let begin = [Op::Remove(file), Op::Create(file), write];
        Self {
            kind,
            file,
            checksum,
            waiting: before.into_iter().chain(begin).collect(),
            spares: Vec::new(),
            index: Vec::new(),
            blocks: 0,
            end,
            waits: false,
        }
    }

    /// Steps that wait for the disk, most of them blocks.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is out and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        !self.waits && self.waiting.is_empty()
    }

    /// A buffer for a block, with zeros for its header.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        let mut bytes = self.spares.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(self.kind.block_header_bytes, 0);
        bytes
    }

    /// Adds a block.
    pub(crate) fn block(&mut self, bytes: Vec<u8>, entry: &impl Entry) {
        let offset = self.end;
        self.index.put_u64_le(offset);
        self.index.put_u32_le(bytes.len() as u32);
        self.index.put_u32_le(block_checksum(self.checksum, offset, &bytes));
        entry.put(&mut self.index);
        self.blocks += 1;
        self.end += bytes.len() as u64;
        self.waiting.push_back(Op::Write { file: self.file, offset, bytes });
    }

    /// Ends the file and gives it its name; tells its length and the trailer's checksum.
    pub(crate) fn finish(
        &mut self,
        totals: &impl Totals,
        name: FileName,
        directory: Directory,
    ) -> (u64, u32) {
        let (index_offset, mut bytes) = (self.end, std::mem::take(&mut self.index));
        let index_sum = crc32c::crc32c_append(self.checksum, &bytes);
        let file_bytes = index_offset + (bytes.len() + TRAILER_BYTES) as u64;
        let start = bytes.len();
        bytes.put_slice(self.kind.trailer_magic);
        bytes.put_u32_le(0);
        bytes.put_u64_le(index_offset);
        bytes.put_u32_le(self.blocks);
        bytes.put_u32_le(index_sum);
        totals.put(file_bytes, &mut bytes);
        debug_assert_eq!(bytes.len(), start + TRAILER_BYTES);
        let sum = crc32c::crc32c_append(self.checksum, &bytes[start + 8..]);
        bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        let file = self.file;
        self.waiting.extend([
            Op::Write { file, offset: index_offset, bytes },
            Op::Sync(file),
            Op::Rename { from: file, to: name },
            Op::SyncDirectory(directory),
        ]);
        (file_bytes, sum)
    }

    /// Nothing of the file is wanted any more: it is removed, under all these names.
    pub(crate) fn remove(&mut self, names: impl IntoIterator<Item = FileName>) {
        self.waiting.clear();
        self.waiting.extend(names.into_iter().map(Op::Remove));
    }

    /// The next thing to do, unless something is being done or nothing is to be.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        if self.waits || self.waiting.is_empty() {
            return None;
        }
        self.waits = true;
        Some(Request { ops: self.waiting.drain(..).collect() })
    }

    /// A request was executed, or a part of it.
    pub(crate) fn on_done(&mut self, done: Completion) -> Progress {
        assert!(std::mem::take(&mut self.waits), "an answer to nothing");
        if let Some((at, error)) = done.failed {
            return Progress::Broken(Broken { file: done.ops[at].file(), error });
        }
        let whole = matches!(done.ops.last(), Some(Op::SyncDirectory(_)));
        for op in done.ops {
            if let Op::Write { bytes, .. } = op
                && self.spares.len() < SPARES_MAX
            {
                self.spares.push(bytes);
            }
        }
        if whole { Progress::Whole } else { Progress::Going }
    }
}

/// A complete file, read in place. Header, trailer and index are checked, the blocks are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a, E, T> {
    file: FileName,
    bytes: &'a [u8],
    index: &'a [u8],
    /// The header's.
    checksum: u32,
    /// The trailer's, which vouches for the file.
    pub(crate) sum: u32,
    pub(crate) totals: T,
    entries: PhantomData<E>,
}

/// A block, not checked yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawBlock<'a, E> {
    pub(crate) entry: E,
    pub(crate) bytes: &'a [u8],
    file: FileName,
    place: Place,
    checksum: u32,
}

impl<'a, E: Entry, T: Totals> Framed<'a, E, T> {
    /// Opens a file whose header has this checksum.
    pub(crate) fn open(
        kind: &Kind,
        file: FileName,
        bytes: &'a [u8],
        checksum: u32,
    ) -> Result<Self, FileFault> {
        let end = bytes.len().saturating_sub(TRAILER_BYTES);
        let Some((ending, sum)) = read_trailer::<T>(kind, bytes, checksum) else {
            return Err(FileFault::damaged(file, end, "no trailer for a file of this length"));
        };
        let index = usize::try_from(ending.index_offset).ok().and_then(|at| bytes.get(at..end));
        let Some(index) = index else {
            return Err(FileFault::damaged(file, end, "an index outside the file"));
        };
        let totals = ending.totals;
        let opened = Self { file, bytes, index, checksum, sum, totals, entries: PhantomData };
        let as_written = crc32c::crc32c_append(checksum, index) == ending.index_checksum;
        if as_written && opened.is_seamless(kind, ending.blocks) {
            return Ok(opened);
        }
        Err(opened.index_fault())
    }

    /// Its index is not to be believed.
    pub(crate) fn index_fault(&self) -> FileFault {
        let at = self.bytes.len() - TRAILER_BYTES - self.index.len();
        FileFault::damaged(self.file, at, "the index is not what was written")
    }

    fn index(&self) -> impl Iterator<Item = (Place, E)> + use<'a, E, T> {
        self.index.chunks_exact(PLACE_BYTES + E::BYTES).map_while(|bytes| {
            let mut r = Reader::new(bytes);
            Some((Place::read(&mut r).ok()?, E::read(&mut r).ok()?))
        })
    }

    /// What the index says of each block, and how long that is.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (E, u32)> + use<'a, E, T> {
        self.index().map(|(place, entry)| (entry, place.bytes))
    }

    /// Its blocks, in the order in which they were written.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = RawBlock<'a, E>> + use<'a, E, T> {
        let Self { file, bytes, checksum, .. } = *self;
        self.index().map(move |(place, entry)| {
            let start = place.offset as usize;
            let bytes = &bytes[start..start + place.bytes as usize];
            RawBlock { entry, bytes, file, place, checksum }
        })
    }

    /// Whether the blocks fill the file from the header to the index, without gap or overlap.
    fn is_seamless(&self, kind: &Kind, blocks: u32) -> bool {
        let index_at = self.bytes.len() - TRAILER_BYTES - self.index.len();
        let mut end = HEADER_BYTES as u64;
        let mut count = 0;
        for (place, _) in self.index() {
            if place.offset != end || (place.bytes as usize) < kind.block_header_bytes {
                return false;
            }
            end += u64::from(place.bytes);
            count += 1;
        }
        let whole = self.index.len() == count as usize * (PLACE_BYTES + E::BYTES);
        whole && end == index_at as u64 && count == blocks
    }
}

impl<E> RawBlock<'_, E> {
    /// Whether its bytes are those that were written.
    pub(crate) fn is_as_written(&self) -> bool {
        block_checksum(self.checksum, self.place.offset, self.bytes) == self.place.checksum
    }

    /// Something is wrong with it.
    pub(crate) fn fault(&self, what: &'static str) -> FileFault {
        FileFault::damaged(self.file, self.place.offset as usize, what)
    }
}

struct Ending<T> {
    index_offset: u64,
    blocks: u32,
    index_checksum: u32,
    totals: T,
}

/// The trailer at the end of a file with this header checksum, and its own checksum.
fn read_trailer<T: Totals>(kind: &Kind, bytes: &[u8], file: u32) -> Option<(Ending<T>, u32)> {
    let own = bytes.get(bytes.len().checked_sub(TRAILER_BYTES)?..)?;
    let sum = u32::from_le_bytes(*own[4..].first_chunk()?);
    if &own[..4] != kind.trailer_magic || sum != crc32c::crc32c_append(file, &own[8..]) {
        return None;
    }
    let (mut ends, mut said) = (Reader::new(&own[8..]), Reader::new(&own[ENDING_BYTES..]));
    let (totals, file_bytes) = T::read(&mut said).ok()?;
    let (index_offset, blocks) = (ends.u64().ok()?, ends.u32().ok()?);
    let index_checksum = ends.u32().ok()?;
    let ending = Ending { index_offset, blocks, index_checksum, totals };
    (file_bytes == bytes.len() as u64).then_some((ending, sum))
}
