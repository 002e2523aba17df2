//! Strategies for every message and noun: arbitrary values, the ends of each range among them.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use ipnet::Ipv4Net;
use proptest::collection::vec;
use proptest::option::of as maybe;
use proptest::prelude::*;

use crate::client::NewJob;
use crate::ids::{Epoch, JobId, RequestId, ReservationId, Version};
use crate::job::{Command, ExitStatus, Hits, Stream, Target};
use crate::keys::{KeyRing, Member, MemberKeys, PublicKey};
use crate::limits::CLASSES_MAX;
use crate::names::{
    AbsolutePath, EnvironmentName, HostName, Label, NodeName, SiteName, Text, UserName, VariableName,
};
use crate::node::{Arrive, ClassUse, First, Invocation, Return, Setup, SignedRates, State, Token};
use crate::refusal::{Failure, Refusal, Resource, Step};
use crate::reservation::{
    AddressBlock, Ask, Bandwidth, Change, Limits, PairRate, Placement, Progress, Start,
};
use crate::site::{Flow, Offer, Part, Peer, ReadyMember, Remaining};

type Any<T> = BoxedStrategy<T>;

/// A name type from a pattern that describes what it accepts.
macro_rules! names {
    ($($function:ident: $name:ty = $pattern:literal,)*) => {$(
        pub fn $function() -> Any<$name> {
            $pattern.prop_map(|text| text.parse().expect("the pattern follows the rule")).boxed()
        }
    )*};
}

names! {
    site: SiteName = "[a-z][a-z0-9]{0,11}",
    user: UserName = "[a-z_][a-z0-9_-]{0,31}",
    node: NodeName = "[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}",
    label: Label = "\\PC{1,64}",
    environment: EnvironmentName = "[a-z0-9][a-z0-9._-]{0,79}",
    variable: VariableName = "[a-zA-Z_][a-zA-Z0-9_]{0,40}",
    path: AbsolutePath = "/[^\\x00]{0,60}",
}

pub fn text() -> Any<Text> {
    any::<String>().prop_map(Text::from).boxed()
}

pub fn host() -> Any<HostName> {
    (site(), any::<u32>()).prop_map(|(site, number)| HostName { site, number }).boxed()
}

pub fn bytes() -> Any<Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from).boxed()
}

pub fn reservation() -> Any<ReservationId> {
    any::<u64>().prop_map(ReservationId).boxed()
}

pub fn job() -> Any<JobId> {
    any::<u64>().prop_map(JobId).boxed()
}

pub fn epoch() -> Any<Epoch> {
    any::<u32>().prop_map(Epoch).boxed()
}

pub fn version() -> Any<Version> {
    any::<u32>().prop_map(Version).boxed()
}

pub fn request_id() -> Any<RequestId> {
    any::<[u8; 16]>().prop_map(RequestId).boxed()
}

pub fn stream() -> Any<Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)].boxed()
}

pub fn target() -> Any<Target> {
    prop_oneof![Just(Target::Head), Just(Target::All)].boxed()
}

pub fn status() -> Any<ExitStatus> {
    prop_oneof![any::<u8>().prop_map(ExitStatus::Code), any::<u8>().prop_map(ExitStatus::Signal)].boxed()
}

pub fn hits() -> Any<Hits> {
    let counts = any::<(u32, u32, bool, bool)>();
    (counts, any::<(u64, u32, u64, u64)>())
        .prop_map(|((out_of_memory, processes_refused, disk_full, files_full), sizes)| Hits {
            out_of_memory,
            processes_refused,
            disk_full,
            files_full,
            memory_bytes: sizes.0,
            pids: sizes.1,
            disk_bytes: sizes.2,
            files: sizes.3,
        })
        .boxed()
}

pub fn variables() -> Any<Vec<(VariableName, String)>> {
    vec((variable(), any::<String>()), 0..4).boxed()
}

pub fn command() -> Any<Command> {
    let argv = vec(vec(any::<u8>(), 0..20), 0..6);
    (argv, variables(), vec(path(), 0..4), any::<bool>())
        .prop_map(|(argv, variables, directories, directory_required)| Command {
            argv,
            variables,
            directories,
            directory_required,
        })
        .boxed()
}

pub fn new_job() -> Any<NewJob> {
    (command(), target(), maybe(label()), any::<Option<u16>>())
        .prop_map(|(command, target, label, grace_s)| NewJob { command, target, label, grace_s })
        .boxed()
}

pub fn limits() -> Any<Limits> {
    any::<(u32, u64, u64, u32)>()
        .prop_map(|(cpus_milli, memory_bytes, disk_bytes, pids)| Limits {
            cpus_milli,
            memory_bytes,
            disk_bytes,
            pids,
        })
        .boxed()
}

fn placement() -> Any<Placement> {
    prop_oneof![
        vec((site(), any::<u32>()), 0..4).prop_map(Placement::Sites),
        any::<u32>().prop_map(Placement::Anywhere),
    ]
    .boxed()
}

pub fn ask() -> Any<Ask> {
    let when = (start(), any::<u32>(), bandwidth());
    (placement(), any::<u32>(), limits(), when, environment(), maybe(label()))
        .prop_map(|(placement, slots, limits, (start, duration_s, bandwidth), environment, label)| Ask {
            placement,
            slots,
            limits,
            start,
            duration_s,
            bandwidth,
            environment,
            label,
        })
        .boxed()
}

pub fn keys() -> Any<MemberKeys> {
    any::<([u8; 32], [u8; 32])>()
        .prop_map(|(host, user)| MemberKeys { host: PublicKey(host), user: PublicKey(user) })
        .boxed()
}

pub fn ring() -> Any<KeyRing> {
    let member = (host(), any::<Ipv4Addr>(), any::<u32>(), keys())
        .prop_map(|(host, address, slots, keys)| Member { host, address, slots, keys });
    (user(), vec(member, 0..5)).prop_map(|(user, members)| KeyRing { user, members }).boxed()
}

pub fn block() -> Any<AddressBlock> {
    any::<(Ipv4Addr, u32)>().prop_map(|(first, count)| AddressBlock { first, count }).boxed()
}

pub fn progress() -> Any<Progress> {
    any::<(u32, u32, u32, u32, u32)>()
        .prop_map(|(wanted, submitted, arrived, built, joined)| Progress {
            wanted,
            submitted,
            arrived,
            built,
            joined,
        })
        .boxed()
}

pub fn step() -> Any<Step> {
    use Step::*;
    proptest::sample::select(vec![
        Plan, Hold, Commit, Pilots, Setup, GetKeys, SetKeys, Run, Exec, Running, End,
    ])
    .boxed()
}

pub fn failure() -> Any<Failure> {
    (step(), maybe(site()), maybe(node()), text(), text())
        .prop_map(|(step, site, node, cause, hint)| Failure { step, site, node, cause, hint })
        .boxed()
}

pub fn refusal() -> Any<Refusal> {
    use Refusal::*;
    let number = any::<u32>;
    let with_site = prop_oneof![
        site().prop_map(|site| UnknownSite { site }),
        site().prop_map(|site| SiteTwice { site }),
        site().prop_map(|site| SiteDown { site }),
        (site(), number(), number()).prop_map(|(site, asked, have)| MoreNodesThanExist { site, asked, have }),
        (site(), number(), number()).prop_map(|(site, asked, have)| NodesBusy { site, asked, have }),
        (site(), text()).prop_map(|(site, range)| RangeNotAllowed { site, range }),
        (site(), number()).prop_map(|(site, asked)| AddressesExhausted { site, asked }),
        (site(), environment()).prop_map(|(site, environment)| UnknownEnvironment { site, environment }),
        (site(), text()).prop_map(|(site, user)| UserNotMapped { site, user }),
        (site(), text()).prop_map(|(site, what)| AgainstPolicy { site, what }),
    ];
    let with_numbers = prop_oneof![
        Just(ZeroNodes),
        Just(EmptyCommand),
        Just(NulInCommand),
        Just(NothingYet),
        (number(), number()).prop_map(|(asked, have)| MoreNodesThanGrid { asked, have }),
        (number(), number()).prop_map(|(asked, max)| TooManyMembers { asked, max }),
        (number(), number()).prop_map(|(asked, max)| BadSlots { asked, max }),
        (number(), number()).prop_map(|(asked_s, max_s)| BadDuration { asked_s, max_s }),
        any::<(u16, u16, u16, u16)>().prop_map(|(ours_min, ours_max, theirs_min, theirs_max)| {
            Version { ours_min, ours_max, theirs_min, theirs_max }
        }),
    ];
    let with_text = prop_oneof![
        text().prop_map(|what| CommandTooLong { what }),
        (reservation(), text()).prop_map(|(id, state)| ReservationOver { id, state }),
        (text(), text()).prop_map(|(what, state)| WrongState { what, state }),
        text().prop_map(|why| BadToken { why }),
        text().prop_map(|why| BadTicket { why }),
        text().prop_map(|who| UnknownPeer { who }),
        text().prop_map(|why| Malformed { why }),
        (text(), number()).prop_map(|(what, count)| TooMany { what, count }),
        (reservation(), text()).prop_map(|(id, host)| UnknownMember { id, host }),
        reservation().prop_map(|id| UnknownReservation { id }),
    ];
    let others = prop_oneof![
        job().prop_map(|id| UnknownJob { id }),
        (text(), any::<u64>(), any::<u64>()).prop_map(|(what, count, max)| OverLimit { what, count, max }),
        text().prop_map(|what| Inconsistent { what }),
        (resource(), any::<(u64, u64)>(), vec(any::<u64>(), 0..=3))
            .prop_map(|(resource, (asked, have), in_s)| NoRoom { resource, asked, have, in_s }),
        text().prop_map(|why| BadWindow { why }),
        any::<(u32, u32, u32)>().prop_map(|(asked_kbit, min_kbit, max_kbit)| BadRate {
            asked_kbit,
            min_kbit,
            max_kbit
        }),
        (site(), site()).prop_map(|(a, b)| UnknownLink { a, b }),
        (site(), text()).prop_map(|(site, why)| QueuePaused { site, why }),
        (site(), text(), any::<(u64, u64)>()).prop_map(|(site, what, (asked, max))| OverQueueLimit {
            site,
            what,
            asked,
            max
        }),
    ];
    let of_users = prop_oneof![
        (text(), any::<u64>(), any::<u64>()).prop_map(|(what, asked, limit)| OverUserLimit {
            what,
            asked,
            limit
        }),
        (site(), user()).prop_map(|(site, user)| SiteNotForUser { site, user }),
        user().prop_map(|user| LoginRefused { user }),
    ];
    prop_oneof![3 => with_site, 3 => with_numbers, 3 => with_text, 2 => others, 1 => of_users].boxed()
}

fn resource() -> Any<Resource> {
    prop_oneof![
        site().prop_map(|site| Resource::Nodes { site }),
        site().prop_map(|site| Resource::Addresses { site }),
        (site(), site()).prop_map(|(a, b)| Resource::Link { a, b }),
        site().prop_map(|site| Resource::Uplink { site }),
    ]
    .boxed()
}

fn start() -> Any<Start> {
    prop_oneof![
        Just(Start::Open),
        any::<u32>().prop_map(|wait_s| Start::Within { wait_s }),
        any::<(u64, u64)>().prop_map(|(earliest_s, latest_s)| Start::Between { earliest_s, latest_s }),
    ]
    .boxed()
}

fn bandwidth() -> Any<Bandwidth> {
    let pair = (site(), site(), any::<u32>()).prop_map(|(a, b, rate_kbit)| PairRate { a, b, rate_kbit });
    prop_oneof![
        Just(Bandwidth::Unasked),
        any::<u32>().prop_map(Bandwidth::Between),
        vec(pair, 0..4).prop_map(Bandwidth::Pairs),
    ]
    .boxed()
}

pub fn change() -> Any<Change> {
    (any::<Option<u32>>(), maybe(bandwidth()), maybe(placement()))
        .prop_map(|(duration_s, bandwidth, placement)| Change { duration_s, bandwidth, placement })
        .boxed()
}

pub fn remaining() -> Any<Remaining> {
    any::<(u64, u64)>().prop_map(|(starts_in_ms, ends_in_ms)| Remaining { starts_in_ms, ends_in_ms }).boxed()
}

pub fn flow() -> Any<Flow> {
    (site(), any::<(u32, u64)>())
        .prop_map(|(to, (granted_kbit, sent_bytes))| Flow { to, granted_kbit, sent_bytes })
        .boxed()
}

pub fn offer() -> Any<Offer> {
    let range = (any::<Ipv4Addr>(), 0u8..=32)
        .prop_map(|(address, length)| Ipv4Net::new(address, length).expect("a prefix length"));
    let lists = (vec(range, 0..4), vec(any::<Ipv4Addr>(), 0..4), vec((node(), text()), 0..3));
    let layers = (vec(any::<u32>(), 0..4), any::<u32>());
    let queue = (text(), any::<(u32, Option<u32>, Option<u32>)>(), maybe(text()));
    (text(), lists, any::<(u32, u32)>(), vec(environment(), 0..3), layers, queue)
        .prop_map(|(batch_system, (ranges, reserved, unusable), nodes, environments, layers, queue)| Offer {
            batch_system,
            ranges,
            reserved,
            nodes_usable: nodes.0,
            nodes_free: nodes.1,
            layers: layers.0,
            lead_s: layers.1,
            unusable,
            environments,
            queue: queue.0,
            pilots_s: queue.1.0,
            nodes_max: queue.1.1,
            lasts_s_max: queue.1.2,
            paused: queue.2,
        })
        .boxed()
}

pub fn part() -> Any<Part> {
    let peer = (site(), any::<u32>(), vec(block(), 0..3)).prop_map(|(site, rate_kbit, addresses)| Peer {
        site,
        rate_kbit,
        addresses,
    });
    let where_to = (vec(block(), 0..4), vec(peer, 0..3));
    (user(), any::<(u32, u32, u32)>(), limits(), environment(), remaining(), where_to)
        .prop_map(|(user, (members, slots, layer), limits, environment, window, (addresses, peers))| Part {
            user,
            members,
            slots,
            limits,
            window,
            layer,
            environment,
            addresses,
            peers,
        })
        .boxed()
}

pub fn ready_member() -> Any<ReadyMember> {
    (any::<u32>(), node(), any::<Ipv4Addr>(), keys())
        .prop_map(|(number, node, address, keys)| ReadyMember { number, node, address, keys })
        .boxed()
}

pub fn setup() -> Any<Setup> {
    let signed = (vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..=64));
    let who = (host(), any::<Ipv4Addr>(), reservation(), epoch());
    (signed, who, environment(), variables(), maybe(signed_rates()))
        .prop_map(|(signed, (host, address, reservation, epoch), environment, variables, rates)| Setup {
            grant: signed.0,
            signature: signed.1,
            host,
            address,
            reservation,
            epoch,
            environment,
            variables,
            rates,
        })
        .boxed()
}

pub fn signed_rates() -> Any<SignedRates> {
    (vec(any::<u8>(), 0..400), vec(any::<u8>(), 0..=64))
        .prop_map(|(record, signature)| SignedRates { record, signature })
        .boxed()
}

pub fn class_uses() -> Any<Vec<ClassUse>> {
    let one = any::<(u8, u64, u64, u32)>().prop_map(|(class, sent_bytes, dropped, backlog_bytes)| ClassUse {
        class,
        sent_bytes,
        dropped,
        backlog_bytes,
    });
    vec(one, 0..=CLASSES_MAX).boxed()
}

pub fn state() -> Any<State> {
    use State::*;
    proptest::sample::select(vec![Idle, Building, Ready, Joined, Running, TearingDown, Gone]).boxed()
}

pub fn first() -> Any<First> {
    prop_oneof![arrive().prop_map(First::Arrive), returning().prop_map(First::Return)].boxed()
}

fn returning() -> Any<Return> {
    let bytes = any::<([u8; 16], [u8; 16])>();
    let stands = (state(), maybe(keys()), maybe(signed_rates()));
    (bytes, node(), any::<u32>(), stands, text())
        .prop_map(|((nonce, boot_id), node, uid, (state, keys, rates), version)| Return {
            nonce,
            node,
            uid,
            boot_id,
            state,
            keys,
            rates,
            version,
        })
        .boxed()
}

fn arrive() -> Any<Arrive> {
    let bytes = any::<([u8; 32], [u8; 16], [u8; 16])>();
    (bytes, node(), any::<u32>(), text())
        .prop_map(|((token, nonce, boot_id), node, uid, version)| Arrive {
            token: Token(token),
            nonce,
            node,
            uid,
            boot_id,
            version,
        })
        .boxed()
}

pub fn invocation() -> Any<Invocation> {
    // Flow and scope of an IPv6 address do not travel; nobody dials by them.
    any::<(std::net::IpAddr, u16, [u8; 32])>()
        .prop_map(|(ip, port, token)| Invocation { crm: SocketAddr::new(ip, port), token: Token(token) })
        .boxed()
}
