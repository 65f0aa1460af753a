//! Row blocks: a row in one allocation, immutable from the moment it is made.
//!
//! ```text
//! epoch u64 | key length 16 bits, value length 24 bits, schema version 24 bits | key | value
//! ```
//! A fragment holds one thin pointer per row; a fat one and a second allocation would cost more
//! than the header does. The upper 16 bits of the pointer, which no address uses, are a tag: part
//! of the key's hash, by which an index tells nearly all other rows apart without touching them.
//!
//! This is the only module of the crate with unsafe code, and it keeps one promise: the address in
//! a [`Block`] is an allocation of [`allocation`] that it alone owns, its header and the lengths in
//! it never change, and all bytes they speak of are initialised.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};

use lockstep_proto::ids::{Epoch, SchemaVersion};
use lockstep_proto::limits::{KEY_BYTES_MAX, ROW_BYTES_MAX};

/// What precedes key and value.
#[repr(C)]
struct Header {
    epoch: u64,
    packed: u64,
}

/// Bytes of a block besides key and value.
pub(crate) const HEADER_BYTES: usize = size_of::<Header>();

const KEY_BITS: u32 = 16;
const VALUE_BITS: u32 = 24;
const _: () = assert!(KEY_BYTES_MAX < 1 << KEY_BITS && ROW_BYTES_MAX < 1 << VALUE_BITS);

impl Header {
    fn new(epoch: Epoch, schema: SchemaVersion, key: usize, value: usize) -> Self {
        assert!(key <= KEY_BYTES_MAX && value <= ROW_BYTES_MAX, "rows are bounded at the door");
        debug_assert!(schema.0 < 1 << 24, "definitions bound their version");
        let packed = key as u64
            | (value as u64) << KEY_BITS
            | u64::from(schema.0) << (KEY_BITS + VALUE_BITS);
        Self { epoch: epoch.0, packed }
    }

    fn key_length(&self) -> usize {
        (self.packed & ((1 << KEY_BITS) - 1)) as usize
    }

    fn value_length(&self) -> usize {
        (self.packed >> KEY_BITS & ((1 << VALUE_BITS) - 1)) as usize
    }

    fn schema(&self) -> SchemaVersion {
        SchemaVersion((self.packed >> (KEY_BITS + VALUE_BITS)) as u32)
    }
}

/// The allocation of a block with this many bytes of key and value.
fn allocation(data: usize) -> Layout {
    Layout::from_size_align(HEADER_BYTES + data, align_of::<Header>())
        .expect("rows are bounded, so the size cannot overflow")
}

/// Bits of an address; the tag lies above them.
const ADDRESS_BITS: u32 = 48;
const _: () = assert!(usize::BITS == 64, "tags need the upper bits of 64-bit pointers");

/// A new allocation for a block with this many bytes of key and value.
fn allocate(data: usize) -> NonNull<Header> {
    let layout = allocation(data);
    // SAFETY: the layout is not empty: it has the header.
    let raw = unsafe { alloc(layout) };
    let Some(start) = NonNull::new(raw.cast::<Header>()) else { handle_alloc_error(layout) };
    // A system hands out higher addresses only when it is asked to, so this never fails by chance.
    assert!(start.addr().get() >> ADDRESS_BITS == 0, "an address beyond 48 bits");
    start
}

/// An owned row: the address of its header, with a tag.
pub(crate) struct Block(NonNull<Header>);

// SAFETY: a block owns its allocation and holds plain bytes, without interior mutability.
unsafe impl Send for Block {}
// SAFETY: as above; a shared block can only be read.
unsafe impl Sync for Block {}

impl Block {
    /// Makes a row, in the allocation of `spare` if that is of the right size: allocators take
    /// long when most of their memory is in use.
    pub(crate) fn new(
        spare: Option<Self>,
        tag: u16,
        (epoch, schema): (Epoch, SchemaVersion),
        key: &[u8],
        value: &[u8],
    ) -> Self {
        let header = Header::new(epoch, schema, key.len(), value.len());
        let start = match spare {
            Some(spare) if spare.data_bytes() == key.len() + value.len() => spare.into_start(),
            _ => allocate(key.len() + value.len()),
        };
        // SAFETY: the allocation is owned, aligned for a header, and as long as header, key and
        // value together; the sources are borrowed slices, so they cannot overlap it.
        unsafe {
            start.write(header);
            let data = start.as_ptr().cast::<u8>().add(HEADER_BYTES);
            ptr::copy_nonoverlapping(key.as_ptr(), data, key.len());
            ptr::copy_nonoverlapping(value.as_ptr(), data.add(key.len()), value.len());
        }
        Self(start.map_addr(|address| address | usize::from(tag) << ADDRESS_BITS))
    }

    /// Gives the allocation away.
    fn into_start(self) -> NonNull<Header> {
        let start = NonNull::new(self.start()).expect("allocations are not at address zero");
        std::mem::forget(self);
        start
    }

    /// The tag it was made with.
    #[inline]
    pub(crate) fn tag(&self) -> u16 {
        (self.0.addr().get() >> ADDRESS_BITS) as u16
    }

    /// The address without the tag.
    #[inline]
    fn start(&self) -> *mut Header {
        self.0.as_ptr().map_addr(|address| address & ((1 << ADDRESS_BITS) - 1))
    }

    /// The row in it.
    #[inline]
    pub(crate) fn row(&self) -> Row<'_> {
        // SAFETY: the promise of this module: header and data are initialised and live as long as
        // `self` is borrowed, and the lengths are those the allocation was made with.
        unsafe {
            let header = &*self.start();
            let data = self.start().cast::<u8>().cast_const().add(HEADER_BYTES);
            let key = header.key_length();
            Row {
                key: std::slice::from_raw_parts(data, key),
                value: std::slice::from_raw_parts(data.add(key), header.value_length()),
                epoch: Epoch(header.epoch),
                schema: header.schema(),
            }
        }
    }

    /// The key of the row in it.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.row().key
    }

    /// Bytes of key and value.
    #[inline]
    pub(crate) fn data_bytes(&self) -> usize {
        // SAFETY: as in `row`.
        let header = unsafe { &*self.start() };
        header.key_length() + header.value_length()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let layout = allocation(self.data_bytes());
        // SAFETY: allocated by `new` with the layout of the same lengths, and owned by `self`.
        unsafe { dealloc(self.start().cast(), layout) }
    }
}

/// A row, borrowed from its fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    key: &'a [u8],
    value: &'a [u8],
    epoch: Epoch,
    schema: SchemaVersion,
}

impl<'a> Row<'a> {
    /// The encoded primary key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The encoded columns that are not in the key.
    #[must_use]
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// When it was committed.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The version of the definition it is encoded by.
    #[must_use]
    #[inline]
    pub fn schema(&self) -> SchemaVersion {
        self.schema
    }
}
