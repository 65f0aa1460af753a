//! What travels between processes: frames, the hot messages with hand-laid layouts, the cold ones
//! through one serde codec, and the handshake.
//!
//! A frame is `length: u32` (of what follows), `kind: u8`, body; all integers little-endian.
//! Decoders return a valid value or an error; they never panic and never allocate by claim.

pub mod backup;
pub mod bytes;
pub mod client;
pub mod codec;
pub mod control;
pub mod data;
pub mod hello;
pub mod join;
pub mod op;
pub mod progress;
pub mod shard_control;

use ::bytes::{BufMut, BytesMut};
use thiserror::Error;

/// Bytes that are not a message. The connection they came on is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// The body ends before the message does.
    #[error("the frame ends in the middle of a message")]
    Truncated,
    /// The body goes on after the message.
    #[error("the frame has bytes after its message")]
    Trailing,
    /// No message has this kind or tag.
    #[error("unknown message kind or tag {0}")]
    UnknownKind(u8),
    /// A count or length beyond its limit.
    #[error("a length in the frame is beyond its limit")]
    TooLong,
    /// A field with an impossible value.
    #[error("a field of the frame has an impossible value")]
    BadValue,
}

/// Appends one frame: `body` writes kind and body; the length is filled in afterwards.
pub fn frame(buffer: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_u32_le(0);
    body(buffer);
    let length = u32::try_from(buffer.len() - start - 4).expect("frames are bounded");
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Kind bytes. Hot messages are below 128; cold ones are one kind per language.
pub mod kind {
    /// [`super::client::ClientMessage`], either way between clients and any server.
    pub const CLIENT: u8 = 128;
    /// [`super::shard_control::ShardControl`], inside a data node.
    pub const SHARD_CONTROL: u8 = 129;
    /// [`super::control::ControlMessage`], between control cores and management servers.
    pub const CONTROL: u8 = 130;
    /// [`super::hello::Hello`] and its answer; the drivers' own.
    pub const HELLO: u8 = 131;
    /// [`super::join::JoinMessage`], between a joining shard and a primary, after the view.
    pub const JOIN: u8 = 132;
    /// [`super::backup::BackupMessage`], between a management server and shards, and operators.
    pub const BACKUP: u8 = 133;
}
