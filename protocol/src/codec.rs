//! Values to bytes and back. The only file that knows the codec crate: bincode 2.0.1 through
//! serde, little-endian variable-length integers. bincode is no longer maintained; the golden
//! bytes of every message make another codec a drop-in if that is ever needed.
//!
//! Decoding never allocates more than [`DECODE_BYTES_MAX`] and refuses trailing bytes. What the
//! limit does not bound (recursion, collections of zero-sized elements) is not on the wire.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{DECODE_BYTES_MAX, FRAME_BYTES_MAX};

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODE_BYTES_MAX>,
>;

fn config() -> Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Why bytes are not a value, or a value does not become a frame.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the body cannot be read: {0}")]
    Decode(String),
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    #[error("the message is too large: {0} bytes, at most {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    #[error("the message cannot be written: {0}")]
    Encode(String),
}

/// The bytes of a value.
///
/// # Errors
/// `TooLarge` when no frame could carry them.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes =
        bincode::serde::encode_to_vec(value, config()).map_err(|e| CodecError::Encode(e.to_string()))?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The value that these bytes are, all of them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config()).map_err(|e| CodecError::Decode(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}
