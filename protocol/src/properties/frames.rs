//! Frames and greetings: cut, foreign, damaged, newer.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::frame::{self, Frame, FrameError, Kind};
use crate::hello::{HELLO_BYTES_MAX, Hello, HelloError, Role};
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::refusal::Refusal;

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let kind = prop_oneof![Just(Kind::Hello), Just(Kind::Request), Just(Kind::Reply), Just(Kind::Notice)];
    let frame = (kind, any::<u64>(), vec(any::<u8>(), 0..200)).prop_map(|(kind, correlation, body)| Frame {
        kind,
        correlation,
        body: body.into(),
    });
    vec(frame, 1..4)
}

fn written(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame::put(frame, &mut bytes).unwrap());
    bytes
}

fn take_all(buffer: &mut BytesMut) -> Vec<Frame> {
    std::iter::from_fn(|| frame::take(buffer, FRAME_BYTES_MAX).unwrap()).collect()
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(128) })]

    #[test]
    fn a_stream_cut_at_any_byte_gives_the_same_frames(frames in frames()) {
        let stream = written(&frames);
        for cut in 0..=stream.len() {
            let mut buffer = BytesMut::from(&stream[..cut]);
            let mut taken = take_all(&mut buffer);
            buffer.extend_from_slice(&stream[cut..]);
            taken.extend(take_all(&mut buffer));
            prop_assert_eq!(&taken, &frames, "cut after {} bytes", cut);
            prop_assert!(buffer.is_empty());
        }
    }

    /// The best of what both speak, whoever asks; else both versions are named.
    #[test]
    fn two_greetings_agree_on_the_highest_common_version(a in (0u16..9, 0u16..9), b in (0u16..9, 0u16..9)) {
        let of = |(x, y): (u16, u16)| Hello {
            version_min: x.min(y),
            version_max: x.max(y),
            ..Hello::ours(Role::Crm)
        };
        let (ours, theirs) = (of(a), of(b));
        let speaks = |hello: &Hello, v| (hello.version_min..=hello.version_max).contains(&v);
        let best = (0..9).rev().find(|v| speaks(&ours, *v) && speaks(&theirs, *v));
        prop_assert_eq!(ours.agree(&theirs).ok(), best);
        prop_assert_eq!(theirs.agree(&ours).ok(), best);
        if let Err(refusal) = ours.agree(&theirs) {
            prop_assert_eq!(refusal, Refusal::Version {
                ours_min: ours.version_min,
                ours_max: ours.version_max,
                theirs_min: theirs.version_min,
                theirs_max: theirs.version_max,
            });
        }
    }
}

fn header(length: u32, kind: u8, flags: u8, reserved: u16) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&reserved.to_be_bytes());
    bytes.extend_from_slice(&7u64.to_be_bytes());
    bytes
}

#[test]
fn the_header_is_what_the_wire_page_says() {
    let frame = Frame { kind: Kind::Notice, correlation: 0x0102_0304_0506_0708, body: b"xyz"[..].into() };
    let expected = [0, 0, 0, 3, 3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, b'x', b'y', b'z'];
    assert_eq!(&written(&[frame])[..], expected);
}

/// Each is refused from its header alone: no body has arrived.
#[test]
fn a_bad_header_is_refused_before_its_body_arrives() {
    let refused = |mut bytes: BytesMut, max| frame::take(&mut bytes, max).unwrap_err();
    for length in [101, FRAME_BYTES_MAX as u32, u32::MAX] {
        let expected = FrameError::TooLarge { length: length as usize, max: 100 };
        assert_eq!(refused(header(length, 1, 0, 0), 100), expected);
    }
    let expected = FrameError::TooLarge { length: FRAME_BYTES_MAX + 1, max: FRAME_BYTES_MAX };
    assert_eq!(refused(header(FRAME_BYTES_MAX as u32 + 1, 1, 0, 0), usize::MAX), expected);
    for kind in 4..=255 {
        assert_eq!(refused(header(3, kind, 0, 0), 100), FrameError::UnknownKind(kind));
    }
    for bit in 0..8 {
        assert_eq!(refused(header(3, 1, 1 << bit, 0), 100), FrameError::Reserved);
    }
    for bit in 0..16 {
        assert_eq!(refused(header(3, 1, 0, 1 << bit), 100), FrameError::Reserved);
    }
}

#[test]
fn an_announced_body_costs_no_memory_before_it_arrives() {
    let mut bytes = header(FRAME_BYTES_MAX as u32, 1, 0, 0);
    assert_eq!(frame::take(&mut bytes, FRAME_BYTES_MAX), Ok(None));
    assert!(bytes.capacity() < 256 * 1024, "{} bytes are kept ready", bytes.capacity());
    assert_eq!(bytes.len(), HEADER_BYTES);
}

#[test]
fn a_body_past_the_limit_is_not_written() {
    let frame = Frame { kind: Kind::Reply, correlation: 0, body: vec![0; FRAME_BYTES_MAX + 1].into() };
    let mut buffer = BytesMut::new();
    assert!(matches!(frame::put(&frame, &mut buffer), Err(FrameError::TooLarge { .. })));
    assert!(buffer.is_empty());
}

#[test]
fn a_greeting_cut_at_any_byte_is_damaged_and_a_foreign_one_is_named() {
    let hello = Hello::ours(Role::Agent).encode();
    for cut in 0..hello.len() {
        let expected = if cut < 4 { HelloError::NotOurs } else { HelloError::Damaged };
        assert_eq!(Hello::decode(&hello[..cut]), Err(expected), "cut after {cut} bytes");
    }
    for foreign in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[0x16, 3, 1, 2, 0, 1], b""] {
        assert_eq!(Hello::decode(foreign), Err(HelloError::NotOurs));
    }
    let mut other = hello.to_vec();
    other[4] = 9;
    assert_eq!(Hello::decode(&other), Err(HelloError::UnknownRole(9)));
    let mut backwards = hello.to_vec();
    backwards[5..9].copy_from_slice(&[0, 2, 0, 1]);
    assert_eq!(Hello::decode(&backwards), Err(HelloError::Damaged));
}

/// What a later version appends to its greeting does not keep this one from understanding it.
#[test]
fn a_newer_greeting_is_understood_and_refused_by_version_only() {
    let newer = Hello { version_min: 4, version_max: 7, ..Hello::ours(Role::Grc) };
    let mut bytes = newer.encode().to_vec();
    bytes.resize(HELLO_BYTES_MAX, 0xee);
    let read = Hello::decode(&bytes).unwrap();
    assert_eq!(read, newer);
    let sentence = Hello::ours(Role::Crm).agree(&read).unwrap_err().to_string();
    assert!(sentence.contains("3..3") && sentence.contains("4..7"), "{sentence}");
}
