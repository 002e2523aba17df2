//! What the fuzz target feeds, and what must hold whatever it feeds.
//!
//! Input: one byte that seeds the cutting, then the bytes of a connection. They go through the
//! frame reader at once and in slices; every body is then read as every message there is.

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{self, Frame, FrameError};
use crate::hello::Hello;
use crate::limits::FRAME_BYTES_MAX;
use crate::refusal::Refusal;
use crate::{client, codec, login, node, site};

/// Longest printed refusal: three lines of a terminal, with texts of the greatest length.
const SENTENCE_BYTES_MAX: usize = 4096;

/// Reads `input` as a peer's bytes would be read.
///
/// # Panics
/// When something that must hold does not.
pub fn connection(input: &[u8]) {
    let Some((seed, stream)) = input.split_first() else { return };
    let (frames, end) = read_whole(stream);
    let (sliced, sliced_end) = read_in_slices(*seed, stream);
    assert_eq!(frames, sliced, "cutting the stream changes its frames");
    assert_eq!(end, sliced_end, "cutting the stream changes how it ends");
    let mut copy = BytesMut::new();
    for frame in &frames {
        frame::put(frame, &mut copy).expect("what was read can be written");
        message(&frame.body);
    }
    assert!(stream.starts_with(&copy), "a frame has two encodings");
    // Bodies without a frame around them reach the decoders far more often.
    message(stream);
}

/// Reads one body as every message.
pub fn message(body: &[u8]) {
    if let Ok(hello) = Hello::decode(body) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello), "a greeting changes when it is passed on");
    }
    as_message::<login::FromStranger>(body);
    as_message::<login::ToStranger>(body);
    refused(as_message::<client::Request>(body).map(|m| m.check()));
    as_message::<client::Reply>(body);
    as_message::<client::Notice>(body);
    refused(as_message::<site::ToSite>(body).map(|m| m.check()));
    refused(as_message::<site::FromSite>(body).map(|m| m.check()));
    as_message::<node::First>(body);
    refused(as_message::<node::Request>(body).map(|m| m.check()));
    as_message::<node::Reply>(body);
    refused(as_message::<node::Notice>(body).map(|m| m.check()));
    as_message::<node::Invocation>(body);
}

/// What is accepted means the same after another passage over the wire.
fn as_message<T: Serialize + DeserializeOwned + PartialEq>(body: &[u8]) -> Option<T> {
    let message: T = codec::decode(body).ok()?;
    let again = codec::encode(&message).expect("what was read can be written");
    assert!(again.len() <= body.len(), "a message grows on its way");
    assert!(codec::decode::<T>(&again).is_ok_and(|m| m == message), "a message changes on its way");
    Some(message)
}

/// A refusal is one sentence that can be printed as it is.
fn refused(checked: Option<Result<(), Refusal>>) {
    if let Some(Err(refusal)) = checked {
        let sentence = refusal.to_string();
        assert!(sentence.len() <= SENTENCE_BYTES_MAX && !sentence.contains(char::is_control), "{sentence:?}");
    }
}

fn read_whole(stream: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    let end = drain(&mut BytesMut::from(stream), &mut frames);
    (frames, end)
}

/// Lengths of the slices follow from the seed: 0 is single bytes, others up to 3 times the seed.
fn read_in_slices(seed: u8, mut stream: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
    let (mut frames, mut buffer, mut state) = (Vec::new(), BytesMut::new(), u32::from(seed));
    while !stream.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = 3 * usize::from(seed) + 1;
        let (slice, rest) = stream.split_at(((state >> 16) as usize % most + 1).min(stream.len()));
        buffer.extend_from_slice(slice);
        stream = rest;
        if let Some(end) = drain(&mut buffer, &mut frames) {
            return (frames, Some(end));
        }
    }
    (frames, None)
}

fn drain(buffer: &mut BytesMut, frames: &mut Vec<Frame>) -> Option<FrameError> {
    loop {
        match frame::take(buffer, FRAME_BYTES_MAX) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return None,
            Err(end) => return Some(end),
        }
    }
}
