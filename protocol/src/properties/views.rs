//! Strategies for what users are shown.

use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::option::of as maybe;
use proptest::prelude::*;

use super::arbitrary::*;
use crate::client::{Explanation, SiteView};
use crate::job::{JobState, JobView};
use crate::reservation::{
    BlockProof, MemberView, PairView, PartView, QueueView, ReservationState, ReservationView, UsagePoint,
};

type Any<T> = BoxedStrategy<T>;

pub fn member_view() -> Any<MemberView> {
    (host(), any::<Ipv4Addr>(), node())
        .prop_map(|(host, address, node)| MemberView { host, address, node })
        .boxed()
}

fn queue_view() -> Any<QueueView> {
    let times = any::<(Option<u64>, Option<u64>, Option<u64>, Option<u64>)>();
    (any::<u32>(), text(), text(), times)
        .prop_map(|(pilots, queue, why, (expected_s, until_s, held_until_s, again_s))| QueueView {
            pilots,
            queue,
            why,
            expected_s,
            until_s,
            held_until_s,
            again_s,
        })
        .boxed()
}

pub fn reservation_view() -> Any<ReservationView> {
    use ReservationState::*;
    let still = vec![Waiting, Holding, Starting, Joining, Ready, Ending, Ended, Booked];
    let state = prop_oneof![7 => proptest::sample::select(still), 1 => failure().prop_map(Failed)];
    let proof = (block(), any::<(Option<Ipv4Addr>, Option<Ipv4Addr>)>())
        .prop_map(|(block, (below, above))| BlockProof { block, below, above });
    let lists = (vec(block(), 0..3), vec(member_view(), 0..3), vec(proof, 0..3));
    let part = (site(), any::<u32>(), progress(), lists, maybe(queue_view())).prop_map(
        |(site, nodes, progress, (addresses, members, proof), queue)| PartView {
            site,
            nodes,
            addresses,
            progress,
            members,
            proof,
            queue,
        },
    );
    let pair = (site(), site(), any::<(u32, Option<u32>, Option<u32>)>()).prop_map(
        |(a, b, (granted_kbit, a_to_b_kbit, b_to_a_kbit))| PairView {
            a,
            b,
            granted_kbit,
            a_to_b_kbit,
            b_to_a_kbit,
        },
    );
    let what = (reservation(), maybe(label()), text(), state, any::<u32>(), environment());
    let times = any::<(u64, u64, u64, Option<u64>)>();
    (what, vec(part, 0..3), vec(pair, 0..3), times, (version(), epoch()))
        .prop_map(|(what, parts, pairs, (made_s, starts_s, ends_s, deadline_s), (version, epoch))| {
            let (id, label, user, state, slots, environment) = what;
            ReservationView {
                id,
                label,
                user,
                state,
                slots,
                environment,
                parts,
                made_s,
                version,
                epoch,
                starts_s,
                ends_s,
                pairs,
                deadline_s,
            }
        })
        .boxed()
}

pub fn job_view() -> Any<JobView> {
    let state = prop_oneof![
        Just(JobState::Waiting),
        Just(JobState::Running),
        Just(JobState::Cancelled),
        status().prop_map(JobState::Done),
        failure().prop_map(JobState::Failed),
    ];
    let what = (job(), reservation(), maybe(label()), text(), text(), target(), state);
    let times = any::<(u64, Option<u64>, Option<u64>)>();
    (what, times, maybe(host()), any::<(u64, u64)>(), hits())
        .prop_map(|(what, (submitted_s, started_s, ended_s), head, (stdout_bytes, stderr_bytes), hits)| {
            let (id, reservation, label, user, command, target, state) = what;
            JobView {
                id,
                reservation,
                label,
                user,
                command,
                target,
                state,
                submitted_s,
                started_s,
                ended_s,
                head,
                stdout_bytes,
                stderr_bytes,
                hits,
            }
        })
        .boxed()
}

pub fn site_view() -> Any<SiteView> {
    let what = (site(), any::<(bool, Option<u64>, u32, u32)>(), text());
    (what, vec(text(), 0..3), vec(environment(), 0..3), vec(text(), 0..3))
        .prop_map(|((name, numbers, batch_system), ranges, environments, problems)| {
            let (connected, last_seen_s, nodes_usable, nodes_free) = numbers;
            SiteView {
                name,
                connected,
                last_seen_s,
                batch_system,
                nodes_usable,
                nodes_free,
                ranges,
                environments,
                problems,
            }
        })
        .boxed()
}

pub fn explanation() -> Any<Explanation> {
    (text(), vec(text(), 0..3), any::<Option<u64>>(), vec(text(), 0..3))
        .prop_map(|(summary, reasons, deadline_s, hints)| Explanation { summary, reasons, deadline_s, hints })
        .boxed()
}

pub fn usage_point() -> Any<UsagePoint> {
    (any::<u64>(), site(), site(), any::<(u32, u32)>())
        .prop_map(|(at_s, from, to, (granted_kbit, used_kbit))| UsagePoint {
            at_s,
            from,
            to,
            granted_kbit,
            used_kbit,
        })
        .boxed()
}
