//! Reading hand-laid layouts: a cursor that borrows and never trusts a length.

use crate::ids::{
    Epoch, Incarnation, NodeId, NodeInstance, PartitionId, Seq, SessionId, ShardAddr, ShardId,
    StartOrder, TableId, TxId, ViewNumber,
};
use crate::wire::WireError;

use ::bytes::BufMut;

/// A cursor over one frame's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! integers {
    ($($name:ident -> $int:ty;)*) => {
        $(#[doc = concat!("A little-endian `", stringify!($int), "`.")]
        /// # Errors
        /// [`WireError::Truncated`].
        #[inline]
        pub fn $name(&mut self) -> Result<$int, WireError> {
            let (head, rest) =
                self.rest.split_first_chunk::<{ size_of::<$int>() }>().ok_or(WireError::Truncated)?;
            self.rest = rest;
            Ok(<$int>::from_le_bytes(*head))
        })*
    };
}

macro_rules! ids {
    ($($name:ident -> $id:ident($int:ident);)*) => {
        $(#[doc = concat!("A [`", stringify!($id), "`].")]
        /// # Errors
        /// [`WireError::Truncated`].
        #[inline]
        pub fn $name(&mut self) -> Result<$id, WireError> {
            Ok($id(self.$int()?))
        })*
    };
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes all that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    integers! { u8 -> u8; u16 -> u16; u32 -> u32; u64 -> u64; }

    ids! {
        partition -> PartitionId(u16);
        seq -> Seq(u64);
        epoch -> Epoch(u64);
        view -> ViewNumber(u64);
        table -> TableId(u32);
        node -> NodeId(u16);
    }

    /// The next `length` bytes.
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A node's life.
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn instance(&mut self) -> Result<NodeInstance, WireError> {
        Ok(NodeInstance { node: self.node()?, incarnation: Incarnation(self.u32()?) })
    }

    /// A shard's address.
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn shard_addr(&mut self) -> Result<ShardAddr, WireError> {
        Ok(ShardAddr { instance: self.instance()?, shard: ShardId(self.u16()?) })
    }

    /// A transaction id.
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn tx(&mut self) -> Result<TxId, WireError> {
        let session = SessionId { origin: self.instance()?, counter: self.u32()? };
        Ok(TxId { session, sequence: self.u64()?, expiry: self.epoch()? })
    }

    /// A start order.
    /// # Errors
    /// [`WireError::Truncated`].
    #[inline]
    pub fn order(&mut self) -> Result<StartOrder, WireError> {
        let wall_ms = self.u64()?;
        let session = SessionId { origin: self.instance()?, counter: self.u32()? };
        Ok(StartOrder { wall_ms, session, sequence: self.u64()? })
    }

    /// Ends the reading.
    /// # Errors
    /// [`WireError::Trailing`] if bytes are left.
    pub fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// Writing the composite words of hand-laid layouts; the mirror of [`Reader`].
pub trait WriteWords {
    /// A node's life: node u16, incarnation u32.
    fn put_instance(&mut self, instance: NodeInstance);
    /// A shard's address: instance, shard u16.
    fn put_shard_addr(&mut self, addr: ShardAddr);
    /// A transaction id: session (instance, counter u32), sequence u64, expiry u64.
    fn put_tx(&mut self, tx: TxId);
    /// A start order: wall ms u64, session, sequence u64.
    fn put_order(&mut self, order: StartOrder);
}

/// Encoded size of a [`TxId`].
pub const TX_BYTES: usize = 2 + 4 + 4 + 8 + 8;

impl<B: BufMut> WriteWords for B {
    #[inline]
    fn put_instance(&mut self, instance: NodeInstance) {
        self.put_u16_le(instance.node.0);
        self.put_u32_le(instance.incarnation.0);
    }

    #[inline]
    fn put_shard_addr(&mut self, addr: ShardAddr) {
        self.put_instance(addr.instance);
        self.put_u16_le(addr.shard.0);
    }

    #[inline]
    fn put_tx(&mut self, tx: TxId) {
        self.put_instance(tx.session.origin);
        self.put_u32_le(tx.session.counter);
        self.put_u64_le(tx.sequence);
        self.put_u64_le(tx.expiry.0);
    }

    #[inline]
    fn put_order(&mut self, order: StartOrder) {
        self.put_u64_le(order.wall_ms);
        self.put_instance(order.session.origin);
        self.put_u32_le(order.session.counter);
        self.put_u64_le(order.sequence);
    }
}
