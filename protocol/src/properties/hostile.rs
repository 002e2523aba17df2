//! What hostile lengths cost: the readers run under an address space that any large allocation
//! would break.

use std::process::Command;

use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::limits::FRAME_BYTES_MAX;
use crate::{client, fuzzing, login, node, samples, site};

/// Set in the process that has little memory.
const LIMITED: &str = "GRIDPILOT_LITTLE_MEMORY";
/// For the program, its stacks, one frame and what decoding one may take; a claimed length that
/// became memory does not fit.
const ADDRESS_SPACE_KIB: u64 = 64 * 1024;

#[test]
fn no_claimed_length_becomes_memory() {
    if std::env::var_os(LIMITED).is_some() {
        claims_in_every_place();
        return long_bodies_of_claims();
    }
    let tests = std::env::current_exe().unwrap();
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\"");
    let name = concat!(module_path!(), "::no_claimed_length_becomes_memory");
    let name = name.split_once("::").unwrap().1;
    let output = Command::new("/bin/sh")
        .args(["-c", &limited])
        .arg(tests)
        .args(["--exact", name, "--test-threads=1"])
        .env(LIMITED, "1")
        // One arena: glibc's others reserve address space that is not used.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

/// Each byte of each message in turn becomes a number that no list, text or variant has.
fn claims_in_every_place() {
    for sample in samples::all() {
        for at in 0..sample.bytes.len() {
            for claim in [1u64 << 20, 1 << 33, 1 << 40, u64::MAX] {
                let mut bytes = sample.bytes[..at].to_vec();
                bytes.push(253);
                bytes.extend_from_slice(&claim.to_le_bytes());
                bytes.extend_from_slice(&sample.bytes[at + 1..]);
                fuzzing::message(&bytes);
            }
        }
    }
}

/// As many elements as a frame can hold, each as small as the wire allows.
fn long_bodies_of_claims() {
    fn refused<T: DeserializeOwned>(before: &[u8], count: u64, element: &[u8]) {
        let mut bytes = before.to_vec();
        bytes.push(253);
        bytes.extend_from_slice(&count.to_le_bytes());
        let elements = (FRAME_BYTES_MAX - bytes.len()) / element.len();
        bytes.extend_from_slice(&element.repeat(elements));
        // Refused for its length, before an element was read: work is bounded as memory is.
        match codec::decode::<T>(&bytes).err() {
            Some(CodecError::Decode(why)) => assert!(why.contains("a list of at most"), "{why}"),
            other => panic!("{before:?} and {count} elements: {other:?}"),
        }
    }
    for count in [1025, 1 << 20, 8_000_000, u64::MAX] {
        // Key and signature of a stranger.
        refused::<login::FromStranger>(&[0, 1, b'u'], count.max(2048), &[0]);
        refused::<login::FromStranger>(&[0, 1, b'u', 0], count.max(2048), &[0]);
        // Sites of a request: also a quadratic search for one named twice, if it got that far.
        let reserve = [&[1][..], &[0; 16], &[0]].concat();
        refused::<client::Request>(&reserve, count, &[1, b'a', 1]);
        refused::<client::Reply>(&[1], count, &[1, b'a', 0, 0, 0, 0, 0, 0, 0, 0]);
        refused::<client::Reply>(&[4], count, &[0]);
        refused::<client::Reply>(&[5], count, &[0]);
    }
    for count in [70_000, 1 << 20, 8_000_000, u64::MAX] {
        // Arguments of a command, members of a ring, reasons of an offer.
        refused::<node::Request>(&[4, 1], count, &[0]);
        refused::<node::Request>(&[2, 1, b'u'], count, &[0]);
        refused::<site::FromSite>(&[1, 1, b'a', 0, 0, 0, 0, 0, 0, 0], count, &[1, b'n', 0]);
        refused::<site::FromSite>(&[14, 1], count, &[1, b'n', 0]);
    }
    let body = vec![0; FRAME_BYTES_MAX + 1];
    assert!(matches!(codec::decode::<client::Request>(&body), Err(CodecError::TooLarge(_))));
}
