//! What an encoding can say and a receiver must not believe; and that the limits are large enough
//! for what is legal.

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::arbitrary;
use crate::client::Reply;
use crate::codec;
use crate::ids::Version;
use crate::job::{Command, ExitStatus, Hits, JobState, JobView};
use crate::keys::{KeyRing, Member, MemberKeys, PublicKey};
use crate::limits::*;
use crate::names::HostName;
use crate::node::{self, Notice};
use crate::refusal::{Failure, Refusal, Step};
use crate::reservation::{AddressBlock, Ask, Bandwidth, Change, PairRate, Start};
use crate::samples;
use crate::site::{FromSite, Offer, Part, Peer, Remaining, ToSite};

fn inconsistent<T: std::fmt::Debug>(checked: Result<T, Refusal>) -> bool {
    matches!(checked, Err(Refusal::Inconsistent { .. }))
}

fn sample_part() -> Part {
    samples::part()
}

#[test]
fn the_samples_pass_their_own_checks() {
    samples::part().check().unwrap();
    samples::offer().check().unwrap();
    samples::ring().check().unwrap();
    samples::setup().check().unwrap();
    samples::command().check().unwrap();
    samples::ask().check().unwrap();
}

#[test]
fn a_part_needs_an_address_for_every_member_and_none_twice() {
    let block = |first: [u8; 4], count| AddressBlock { first: first.into(), count };
    let with = |members, addresses: &[AddressBlock]| Part {
        members,
        addresses: addresses.to_vec(),
        ..sample_part()
    };
    assert!(with(3, &[block([10, 0, 0, 9], 1), block([10, 0, 0, 1], 2)]).check().is_ok());
    assert!(with(1, &[block([255, 255, 255, 255], 1)]).check().is_ok());
    assert!(inconsistent(with(4, &[block([10, 0, 0, 1], 3)]).check()));
    assert!(inconsistent(with(2, &[block([10, 0, 0, 1], 2), block([10, 0, 0, 2], 2)]).check()));
    assert!(inconsistent(with(1, &[block([10, 0, 0, 1], 1), block([10, 0, 0, 1], 1)]).check()));
    assert!(inconsistent(with(1, &[block([10, 0, 0, 1], 1), block([10, 0, 0, 3], 0)]).check()));
    assert!(inconsistent(with(1, &[block([255, 255, 255, 255], 2)]).check()));
    assert!(inconsistent(with(1, &[]).check()));
    assert_eq!(with(0, &[]).check(), Err(Refusal::ZeroNodes));
    let asked = MEMBERS_MAX as u32 + 1;
    assert!(matches!(with(asked, &[]).check(), Err(Refusal::TooManyMembers { .. })));
    assert!(matches!(Part { slots: 0, ..sample_part() }.check(), Err(Refusal::BadSlots { .. })));
    let peers = vec![Peer { rate_kbit: 0, ..sample_part().peers[0].clone() }];
    assert!(inconsistent(Part { peers, ..sample_part() }.check()));
    let long = u64::from(DURATION_S_MAX) * 1000 + 1;
    for (starts_in_ms, ends_in_ms) in [(2, 1), (0, long), (u64::MAX, u64::MAX)] {
        let window = Remaining { starts_in_ms, ends_in_ms };
        let refused = Part { window, ..sample_part() }.check();
        assert!(matches!(refused, Err(Refusal::BadWindow { .. })), "{refused:?}");
        let (reservation, version) = (samples::RESERVATION, Version(1));
        assert_eq!(ToSite::Commit { reservation, version, window }.check(), refused);
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(300) })]

    /// Against the set of all addresses, counted one by one.
    #[test]
    fn a_part_is_accepted_exactly_when_its_addresses_are_distinct(
        blocks in proptest::collection::vec((0u8..20, 0u32..6), 0..5),
        members in 1u32..12,
    ) {
        let addresses: Vec<_> = blocks
            .iter()
            .map(|(first, count)| AddressBlock { first: [10, 0, 0, *first].into(), count: *count })
            .collect();
        let all: Vec<_> = addresses.iter().flat_map(|block| block.addresses()).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        let fits = blocks.iter().all(|(_, count)| *count > 0)
            && distinct.len() == all.len()
            && all.len() >= members as usize;
        prop_assert_eq!(Part { members, addresses, ..sample_part() }.check().is_ok(), fits);
    }

    #[test]
    fn no_check_breaks_on_any_value(
        part in arbitrary::part(),
        offer in arbitrary::offer(),
        ring in arbitrary::ring(),
        setup in arbitrary::setup(),
        command in arbitrary::command(),
        ask in arbitrary::ask(),
    ) {
        let _ = (part.check(), offer.check(), ring.check(), setup.check(), command.check(), ask.check());
    }
}

#[test]
fn nobody_is_twice_in_a_key_ring() {
    let ring = samples::ring();
    let change = |change: fn(&mut Member, &Member)| {
        let mut ring = ring.clone();
        let first = ring.members[0].clone();
        change(&mut ring.members[1], &first);
        ring.check()
    };
    assert!(change(|_, _| ()).is_ok());
    assert!(inconsistent(change(|b, a| b.host = a.host.clone())));
    assert!(inconsistent(change(|b, a| b.address = a.address)));
    assert!(inconsistent(change(|b, a| b.keys.host = a.keys.host)));
    assert!(inconsistent(change(|b, a| b.keys.user = a.keys.user)));
    assert!(inconsistent(change(|b, a| b.keys.user = a.keys.host)));
    assert!(matches!(change(|b, _| b.slots = 0), Err(Refusal::BadSlots { .. })));
    assert!(inconsistent(KeyRing { members: Vec::new(), ..ring.clone() }.check()));
}

#[test]
fn an_ask_for_what_cannot_be_is_refused() {
    let ask = samples::ask();
    assert_eq!(ask.check(), Ok(()));
    let start = Start::Between { earliest_s: 2, latest_s: 1 };
    assert!(matches!(Ask { start, ..ask.clone() }.check(), Err(Refusal::BadWindow { .. })));
    let rated = |bandwidth| Ask { bandwidth, ..ask.clone() }.check();
    for rate in [0, RATE_KBIT_MIN - 1, RATE_KBIT_MAX + 1, u32::MAX] {
        assert!(matches!(rated(Bandwidth::Between(rate)), Err(Refusal::BadRate { .. })));
    }
    let pair =
        |a: &str, b: &str, rate_kbit| PairRate { a: a.parse().unwrap(), b: b.parse().unwrap(), rate_kbit };
    assert_eq!(rated(Bandwidth::Pairs(vec![pair("a", "b", 64), pair("a", "c", 64)])), Ok(()));
    assert!(inconsistent(rated(Bandwidth::Pairs(vec![pair("a", "a", 64)]))));
    assert!(inconsistent(rated(Bandwidth::Pairs(vec![pair("a", "b", 64), pair("b", "a", 65)]))));
    assert!(inconsistent(Change::default().check()));
    let change = Change { duration_s: Some(0), ..Change::default() };
    assert!(matches!(change.check(), Err(Refusal::BadDuration { .. })));
}

#[test]
fn an_offer_has_no_more_free_nodes_than_usable_ones() {
    let offer = samples::offer();
    assert!(inconsistent(Offer { nodes_usable: 1, nodes_free: 2, ..offer.clone() }.check()));
    let layers = vec![4, 1, 2];
    assert!(inconsistent(Offer { layers, ..offer.clone() }.check()), "a layer above is no larger");
    assert!(inconsistent(Offer { layers: vec![3], ..offer.clone() }.check()));
    let nodes_usable = NODES_PER_SITE_MAX as u32 + 1;
    let refused = Offer { nodes_usable, ..offer.clone() }.check();
    assert!(matches!(refused, Err(Refusal::OverLimit { .. })), "{refused:?}");
}

#[test]
fn a_setup_carries_a_signature_and_variables_that_a_program_can_be_given() {
    let setup = samples::setup();
    let refused = node::Setup { signature: vec![0; 63], ..setup.clone() }.check();
    assert!(inconsistent(refused));
    assert!(inconsistent(node::Setup { grant: Vec::new(), ..setup.clone() }.check()));
    let nul = vec![("A".parse().unwrap(), "a\0b".to_owned())];
    assert_eq!(node::Setup { variables: nul, ..setup.clone() }.check(), Err(Refusal::NulInCommand));
    let long = vec![("A".parse().unwrap(), "a".repeat(COMMAND_BYTES_MAX))];
    let refused = node::Setup { variables: long, ..setup.clone() }.check();
    assert!(matches!(refused, Err(Refusal::OverLimit { .. })), "{refused:?}");
    let rates = setup.rates.clone().unwrap();
    for rates in [
        node::SignedRates { record: Vec::new(), ..rates.clone() },
        node::SignedRates { signature: vec![0; 63], ..rates },
    ] {
        assert!(inconsistent(node::Request::Shape(rates.clone()).check()));
        assert!(inconsistent(node::Setup { rates: Some(rates), ..setup.clone() }.check()));
    }
}

#[test]
fn used_classes_are_told_once_in_their_order_and_exist() {
    let used = |classes: &[u8]| {
        let one = |&class: &u8| node::ClassUse { class, sent_bytes: 1, dropped: 0, backlog_bytes: 0 };
        node::Notice::Used { at_ms: 1, classes: classes.iter().map(one).collect() }.check()
    };
    assert!(used(&[]).is_ok() && used(&[0, 3, 7]).is_ok());
    assert!(inconsistent(used(&[8])));
    assert!(inconsistent(used(&[1, 1])));
    assert!(inconsistent(used(&[2, 1])));
}

#[test]
fn a_command_that_no_program_could_be_given_is_refused() {
    let command = samples::command();
    let argv = |argv: Vec<Vec<u8>>| Command { argv, ..command.clone() }.check();
    assert_eq!(argv(Vec::new()), Err(Refusal::EmptyCommand));
    assert_eq!(argv(vec![Vec::new()]), Err(Refusal::EmptyCommand));
    assert_eq!(argv(vec![b"a".to_vec(), b"b\0".to_vec()]), Err(Refusal::NulInCommand));
    let too_long = |checked| matches!(checked, Err(Refusal::CommandTooLong { .. }));
    assert!(too_long(argv(vec![b"a".to_vec(); ARGUMENTS_MAX + 1])));
    assert!(too_long(argv(vec![vec![b'a'; COMMAND_BYTES_MAX]])));
    // One who sends somewhat too many is told so: the message itself can be read.
    let many = Command { argv: vec![b"a".to_vec(); ARGUMENTS_MAX + 1], ..command.clone() };
    let many: Command = codec::decode(&codec::encode(&many).unwrap()).unwrap();
    assert!(too_long(many.check()));
}

#[test]
fn output_and_signals_out_of_range_are_refused() {
    let job = samples::JOB;
    let stream = crate::job::Stream::Stdout;
    let output =
        |offset, length: usize| Notice::Output { job, stream, offset, bytes: vec![0; length].into() }.check();
    assert!(output(7, OUTPUT_CHUNK_BYTES_MAX).is_ok());
    assert!(matches!(output(7, OUTPUT_CHUNK_BYTES_MAX + 1), Err(Refusal::OverLimit { .. })));
    assert!(inconsistent(output(u64::MAX, 1)));
    let (reservation, epoch) = (samples::RESERVATION, samples::EPOCH);
    for (signal, fits) in [(0, false), (1, true), (31, true), (32, false), (64, false), (255, false)] {
        let checked = node::Request::Signal { job, signal }.check();
        assert_eq!(checked.is_ok(), fits);
        assert!(
            fits || checked.unwrap_err().to_string().contains(&format!("signal {signal} cannot be sent"))
        );
        assert_eq!(ToSite::Signal { reservation, epoch, job, signal }.check().is_ok(), fits);
    }
    let bytes = vec![0; OUTPUT_CHUNK_BYTES_MAX + 1].into();
    let notice = FromSite::Output { reservation, epoch, job, member: 0, stream, offset: 0, bytes };
    assert!(matches!(notice.check(), Err(Refusal::OverLimit { .. })));
}

/// The relations in `limits` hold for real encodings of the largest legal values.
#[test]
fn the_largest_legal_messages_fit_their_frames() {
    let long = |length: usize| "x".repeat(length);
    let member = |number: u32| {
        let mut host = [0xff; 32];
        host[..4].copy_from_slice(&number.to_be_bytes());
        let mut user = host;
        user[31] = 0;
        Member {
            host: HostName { site: long(12).parse().unwrap(), number: u32::MAX - number },
            address: number.into(),
            slots: SLOTS_MAX,
            keys: MemberKeys { host: PublicKey(host), user: PublicKey(user) },
        }
    };
    assert!(codec::encode(&member(0)).unwrap().len() <= MEMBER_BYTES_MAX);
    let members: Vec<_> = (0..MEMBERS_MAX as u32).map(member).collect();
    let ring = KeyRing { user: long(32).parse().unwrap(), members };
    ring.check().unwrap();
    let bytes = codec::encode(&ring).unwrap();
    assert_eq!(codec::decode::<KeyRing>(&bytes).unwrap(), ring);

    let failure = Failure::new(Step::Setup, long(TEXT_BYTES_MAX), long(TEXT_BYTES_MAX))
        .at_site(&long(12).parse().unwrap())
        .at_node(&long(64).parse().unwrap());
    let job = JobView {
        label: Some("\u{10ffff}".repeat(64).parse().unwrap()),
        user: long(TEXT_BYTES_MAX).into(),
        command: long(TEXT_BYTES_MAX).into(),
        state: JobState::Failed(failure),
        started_s: Some(u64::MAX),
        ended_s: Some(u64::MAX),
        stdout_bytes: u64::MAX,
        hits: Hits {
            out_of_memory: u32::MAX,
            processes_refused: u32::MAX,
            memory_bytes: u64::MAX,
            pids: u32::MAX,
            disk_bytes: u64::MAX,
            files: u64::MAX,
            ..samples::job_view().hits
        },
        ..samples::job_view()
    };
    assert!(codec::encode(&job).unwrap().len() <= LISTED_BYTES_MAX);
    let jobs = Reply::Jobs(vec![job; LISTING_MAX]);
    assert_eq!(codec::decode::<Reply>(&codec::encode(&jobs).unwrap()).unwrap(), jobs);

    let node = |n: usize| (format!("{n:064}").parse().unwrap(), long(150).into());
    let offer = Offer { unusable: (0..NODES_PER_SITE_MAX).map(node).collect(), ..samples::offer() };
    let bytes = codec::encode(&offer).unwrap();
    assert_eq!(codec::decode::<Offer>(&bytes).unwrap(), offer);

    let argument = vec![b'a'; COMMAND_BYTES_MAX / ARGUMENTS_MAX - 1];
    let command =
        Command { argv: vec![argument; ARGUMENTS_MAX], variables: Vec::new(), ..samples::command() };
    command.check().unwrap();
    assert_eq!(codec::decode::<Command>(&codec::encode(&command).unwrap()).unwrap(), command);
}

#[test]
fn an_exit_status_is_what_a_shell_would_say() {
    assert_eq!(ExitStatus::Code(42).code(), 42);
    assert_eq!(ExitStatus::Signal(9).code(), 137);
    assert_eq!(ExitStatus::Signal(255).code(), 255);
}
