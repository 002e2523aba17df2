//! Users files, public keys and signatures out of arbitrary bytes; what must hold stands in
//! `grc::login::fuzzing`. The messages of a login are among those of the target in `protocol/fuzz`.
//!
//! ```text
//! cd grc && RUSTC_BOOTSTRAP=1 cargo fuzz run login
//! ```
//! What a run finds goes into the corpus beside this, so that the ordinary tests repeat it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| grc::login::fuzzing::login(input));
