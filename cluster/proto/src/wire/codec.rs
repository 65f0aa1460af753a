//! The one place that uses bincode: cold structured messages, small files and manifests.
//!
//! Always with a limit (without one, a few hostile bytes can claim any allocation) and never with
//! trailing bytes. Hot frames and log records have layouts of their own.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::FRAME_BYTES_MAX;
use crate::wire::WireError;

/// Encodes a cold value.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("plain data always encodes")
}

/// Decodes a cold value.
///
/// # Errors
/// [`WireError::BadValue`] if the bytes are not exactly one value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|_| WireError::BadValue)?;
    if used == bytes.len() { Ok(value) } else { Err(WireError::Trailing) }
}

/// Decodes a cold value at the front of some bytes: what comes first in a message whose further
/// layout depends on it.
///
/// # Errors
/// [`WireError::BadValue`] if the bytes do not begin with such a value.
pub fn decode_front<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, _used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|_| WireError::BadValue)?;
    Ok(value)
}

/// Appends a cold message as one frame of the given kind.
pub fn frame_cold<T: Serialize>(buffer: &mut ::bytes::BytesMut, kind: u8, value: &T) {
    crate::wire::frame(buffer, |body| {
        body.extend_from_slice(&[kind]);
        body.extend_from_slice(&encode(value));
    });
}
