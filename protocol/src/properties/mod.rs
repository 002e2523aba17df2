//! What holds for every message and for every sequence of bytes.

use std::collections::BTreeSet;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};
use crate::fuzzing;
use crate::samples;

mod arbitrary;
mod checks;
mod frames;
mod hostile;
mod messages;
mod views;
mod words;

/// Comes back from its own bytes; every shorter and every longer string of bytes is refused.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let mut bytes = codec::encode(message).unwrap();
    assert_eq!(&codec::decode::<T>(&bytes).unwrap(), message);
    let step = bytes.len() / 64 + 1;
    for cut in (0..bytes.len()).step_by(step) {
        assert!(codec::decode::<T>(&bytes[..cut]).is_err(), "cut after {cut} of {} bytes", bytes.len());
    }
    bytes.push(0);
    assert!(matches!(codec::decode::<T>(&bytes), Err(CodecError::Trailing(1))));
}

macro_rules! round_trips {
    ($($test:ident: $strategy:expr,)*) => {
        proptest! {
            #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(128) })]
            $(#[test] fn $test(message in $strategy) { comes_back(&message); })*
        }
    };
}

round_trips! {
    every_message_to_a_stranger_comes_back_whole_or_not_at_all: messages::to_stranger(),
    every_message_from_a_stranger_comes_back_whole_or_not_at_all: messages::from_stranger(),
    every_client_request_comes_back_whole_or_not_at_all: messages::client_request(),
    every_client_reply_comes_back_whole_or_not_at_all: messages::client_reply(),
    every_client_notice_comes_back_whole_or_not_at_all: messages::client_notice(),
    every_message_to_a_site_comes_back_whole_or_not_at_all: messages::to_site(),
    every_message_from_a_site_comes_back_whole_or_not_at_all: messages::from_site(),
    every_arrival_comes_back_whole_or_not_at_all: arbitrary::first(),
    every_node_request_comes_back_whole_or_not_at_all: messages::node_request(),
    every_node_reply_comes_back_whole_or_not_at_all: messages::node_reply(),
    every_node_notice_comes_back_whole_or_not_at_all: messages::node_notice(),
    every_invocation_comes_back_whole_or_not_at_all: arbitrary::invocation(),
    every_refusal_comes_back_whole_or_not_at_all: arbitrary::refusal(),
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(1000) })]

    #[test]
    fn no_bytes_whatever_break_a_reader(bytes in vec(any::<u8>(), 0..400)) {
        fuzzing::connection(&bytes);
    }

    /// Small numbers are what lengths and variants look like: they get further into a decoder.
    #[test]
    fn no_small_numbers_break_a_reader(bytes in vec(0u8..16, 0..400)) {
        fuzzing::message(&bytes);
    }
}

/// Variant numbers that a strategy makes; the wire form begins with them.
fn drawn<T: Serialize + Debug>(strategy: BoxedStrategy<T>) -> BTreeSet<u8> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..500).map(|_| codec::encode(&strategy.new_tree(&mut runner).unwrap().current()).unwrap()[0]).collect()
}

/// Samples are complete by compilation; strategies are complete by this.
#[test]
fn the_strategies_leave_no_variant_out() {
    let of = |samples: Vec<samples::Sample>, prefix: &str| -> BTreeSet<u8> {
        samples.iter().filter(|s| s.name.starts_with(prefix)).map(|s| s.bytes[0]).collect()
    };
    assert_eq!(drawn(messages::to_stranger()), of(samples::login(), "ToStranger."));
    assert_eq!(drawn(messages::from_stranger()), of(samples::login(), "FromStranger."));
    assert_eq!(drawn(messages::client_request()), of(samples::client(), "Request."));
    assert_eq!(drawn(messages::client_reply()), of(samples::client(), "Reply."));
    assert_eq!(drawn(messages::client_notice()), of(samples::client(), "Notice."));
    assert_eq!(drawn(arbitrary::refusal()), of(samples::client(), "Refusal."));
    assert_eq!(drawn(messages::to_site()), of(samples::site(), "ToSite."));
    assert_eq!(drawn(messages::from_site()), of(samples::site(), "FromSite."));
    assert_eq!(drawn(messages::node_request()), of(samples::node(), "Request."));
    assert_eq!(drawn(messages::node_reply()), of(samples::node(), "Reply."));
    assert_eq!(drawn(messages::node_notice()), of(samples::node(), "Notice."));
}
