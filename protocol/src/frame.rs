//! The frame around every message: a fixed header outside the codec, so that a receiver can
//! bound, route and skip what it cannot read.
//!
//! ```text
//! 0        4      5       6          8                16
//! | length | kind | flags | reserved | correlation id | body ...
//! ```
//! All numbers are big-endian; flags and reserved are zero in version 1 and are checked.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES};

/// Room made at once for a body that is still arriving.
const RESERVE_BYTES: usize = 64 * 1024;

/// What a frame is, readable without the codec.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// First frame in each direction; its body is [`crate::hello`], never the codec's.
    Hello,
    /// Wants one `Reply` with the same correlation id.
    Request,
    Reply,
    /// Wants no answer; its correlation id is that of the request it belongs to, or 0.
    Notice,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Hello,
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Notice,
            _ => return None,
        })
    }

    fn byte(self) -> u8 {
        match self {
            Self::Hello => 0,
            Self::Request => 1,
            Self::Reply => 2,
            Self::Notice => 3,
        }
    }
}

/// One frame; the body is not yet a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub kind: Kind,
    pub correlation: u64,
    pub body: Bytes,
}

/// Why bytes are not a frame. The connection cannot go on: where the next frame begins is unknown.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes, at most {max} are accepted here")]
    TooLarge { length: usize, max: usize },
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    #[error("a reserved header field is not zero")]
    Reserved,
}

/// Takes the first whole frame off `buffer`; `None` when more bytes are needed. `body_bytes_max`
/// is at most [`FRAME_BYTES_MAX`]; before a peer is known it should be small.
pub fn take(buffer: &mut BytesMut, body_bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    if buffer.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut header = &buffer[..HEADER_BYTES];
    let length = header.get_u32() as usize;
    let kind = header.get_u8();
    let flags = header.get_u8();
    let reserved = header.get_u16();
    let correlation = header.get_u64();
    let max = body_bytes_max.min(FRAME_BYTES_MAX);
    if length > max {
        return Err(FrameError::TooLarge { length, max });
    }
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    if flags != 0 || reserved != 0 {
        return Err(FrameError::Reserved);
    }
    if buffer.len() < HEADER_BYTES + length {
        // Room for what is announced, but in steps: memory follows the bytes that have arrived.
        buffer.reserve((HEADER_BYTES + length - buffer.len()).min(RESERVE_BYTES));
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(Frame { kind, correlation, body: buffer.split_to(length).freeze() }))
}

/// Appends a frame to `buffer`.
pub fn put(frame: &Frame, buffer: &mut BytesMut) -> Result<(), FrameError> {
    let length = frame.body.len();
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { length, max: FRAME_BYTES_MAX });
    }
    buffer.reserve(HEADER_BYTES + length);
    buffer.put_u32(length as u32);
    buffer.put_u8(frame.kind.byte());
    buffer.put_u8(0);
    buffer.put_u16(0);
    buffer.put_u64(frame.correlation);
    buffer.put_slice(&frame.body);
    Ok(())
}
