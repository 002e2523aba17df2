//! Values to bytes and back. The only file that knows the codec crate: bincode 2.0.1 through
//! serde, little-endian variable-length integers. bincode is no longer maintained; the golden
//! bytes of every message make another codec a drop-in if that is ever needed.
//!
//! Decoding is charged against [`DECODE_BYTES_MAX`], for a small body against
//! [`SMALL_DECODE_BYTES_MAX`], before it allocates; a list is refused at the first element past
//! its own maximum ([`at_most`]); trailing bytes are refused. What none of this bounds (recursion,
//! collections of zero-sized elements) is not on the wire.

use std::fmt;
use std::marker::PhantomData;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serialize;

use crate::limits::{DECODE_BYTES_MAX, FRAME_BYTES_MAX, SMALL_BODY_BYTES, SMALL_DECODE_BYTES_MAX};

type Config<const LIMIT: usize> = Configuration<LittleEndian, Varint, Limit<LIMIT>>;

fn config<const LIMIT: usize>() -> Config<LIMIT> {
    bincode::config::standard().with_limit::<LIMIT>()
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
    let bytes = bincode::serde::encode_to_vec(value, config::<DECODE_BYTES_MAX>())
        .map_err(|e| CodecError::Encode(e.to_string()))?;
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
    // A few bytes must not be able to claim what only a large body could hold.
    let (value, used) = if bytes.len() <= SMALL_BODY_BYTES {
        bincode::serde::borrow_decode_from_slice(bytes, config::<SMALL_DECODE_BYTES_MAX>())
    } else {
        bincode::serde::borrow_decode_from_slice(bytes, config::<DECODE_BYTES_MAX>())
    }
    .map_err(|e| CodecError::Decode(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}

/// For `#[serde(deserialize_with)]`: a list of at most `MAX` elements. A longer one is refused
/// before its elements are read, so a claimed length never becomes memory or work.
pub(crate) fn at_most<'de, const MAX: usize, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AtMost<const MAX: usize, T>(PhantomData<T>);

    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let claimed = elements.size_hint().unwrap_or(0);
            if claimed > MAX {
                return Err(A::Error::invalid_length(claimed, &self));
            }
            // Claimed is not yet there: the rest is allocated as elements arrive.
            let mut list = Vec::with_capacity(claimed.min(64));
            while let Some(element) = elements.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(AtMost::<MAX, T>(PhantomData))
}
