//! Arbitrary bytes of a peer, in arbitrary slices; what must hold stands in `protocol::fuzzing`.
//!
//! ```text
//! cd protocol && RUSTC_BOOTSTRAP=1 cargo fuzz run connection
//! ```
//! The corpus beside this is made from the encoder; what a run finds goes into it, cut down to
//! less than 1 KiB, so that the ordinary tests repeat it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| protocol::fuzzing::connection(input));
