//! Strategies for the enums that are messages.

use proptest::collection::vec;
use proptest::option::of as maybe;
use proptest::prelude::*;

use super::arbitrary::*;
use super::views::*;
use crate::client::{self, Selector};
use crate::login::{FromStranger, ToStranger};
use crate::node;
use crate::site::{self, FromSite, ToSite};

type Any<T> = BoxedStrategy<T>;

fn selector<T: Clone + std::fmt::Debug + 'static>(id: Any<T>) -> Any<Selector<T>> {
    prop_oneof![3 => id.prop_map(Selector::Id), 1 => Just(Selector::Last)].boxed()
}

pub fn to_stranger() -> Any<ToStranger> {
    use ToStranger::*;
    prop_oneof![any::<[u8; 32]>().prop_map(Challenge), Just(Welcome), refusal().prop_map(Refused)].boxed()
}

pub fn from_stranger() -> Any<FromStranger> {
    let piece = || vec(any::<u8>(), 0..200);
    (user(), piece(), piece())
        .prop_map(|(user, key, signature)| FromStranger::Login { user, key, signature })
        .boxed()
}

pub fn client_request() -> Any<client::Request> {
    use client::Request::*;
    prop_oneof![
        Just(Sites),
        Just(Reservations),
        Just(Jobs),
        (request_id(), ask()).prop_map(|(id, ask)| Reserve { id, ask }),
        (request_id(), ask(), new_job()).prop_map(|(id, ask, job)| Submit { id, ask, job }),
        (request_id(), reservation(), new_job()).prop_map(|(id, reservation, job)| SubmitIn {
            id,
            reservation,
            job
        }),
        (request_id(), reservation(), change()).prop_map(|(id, reservation, change)| Modify {
            id,
            reservation,
            change
        }),
        selector(reservation()).prop_map(Usage),
        (selector(job()), stream(), any::<u64>(), any::<bool>())
            .prop_map(|(job, stream, offset, follow)| Log { job, stream, offset, follow }),
        prop_oneof![
            selector(reservation()).prop_map(ShowReservation),
            selector(reservation()).prop_map(WaitReservation),
            selector(reservation()).prop_map(Release),
            selector(reservation()).prop_map(ExplainReservation),
            selector(job()).prop_map(ShowJob),
            selector(job()).prop_map(WaitJob),
            selector(job()).prop_map(Cancel),
            selector(job()).prop_map(ExplainJob),
        ],
    ]
    .boxed()
}

pub fn client_reply() -> Any<client::Reply> {
    use client::Reply::*;
    prop_oneof![
        prop_oneof![
            Just(Done),
            reservation().prop_map(Reserved),
            (job(), reservation()).prop_map(|(job, reservation)| Submitted { job, reservation }),
            any::<u64>().prop_map(|offset| LogEnd { offset }),
            refusal().prop_map(Refused),
            failure().prop_map(Failed),
        ],
        (reservation(), version()).prop_map(|(reservation, version)| Modified { reservation, version }),
        vec(usage_point(), 0..3).prop_map(Usage),
        vec(site_view(), 0..3).prop_map(Sites),
        vec(reservation_view(), 0..3).prop_map(Reservations),
        vec(job_view(), 0..3).prop_map(Jobs),
        reservation_view().prop_map(Reservation),
        job_view().prop_map(Job),
        explanation().prop_map(Explained),
    ]
    .boxed()
}

pub fn client_notice() -> Any<client::Notice> {
    use client::Notice::*;
    prop_oneof![
        (stream(), any::<u64>(), bytes()).prop_map(|(stream, offset, bytes)| Output {
            stream,
            offset,
            bytes
        }),
        job_view().prop_map(Job),
        reservation_view().prop_map(Reservation),
    ]
    .boxed()
}

pub fn to_site() -> Any<ToSite> {
    use ToSite::*;
    let of = || (reservation(), epoch());
    let held = || (reservation(), version());
    let held = prop_oneof![
        (held(), part()).prop_map(|((reservation, version), part)| Hold { reservation, version, part }),
        (held(), remaining()).prop_map(|((reservation, version), window)| Commit {
            reservation,
            version,
            window
        }),
        held().prop_map(|(reservation, version)| Release { reservation, version }),
    ];
    prop_oneof![
        3 => held,
        1 => Just(Welcome),
        1 => refusal().prop_map(Refused),
        1 => (of(), remaining()).prop_map(|((reservation, epoch), window)| Start { reservation, epoch, window }),
        1 => (of(), job(), any::<u32>()).prop_map(|((reservation, epoch), job, member)| ExitSaved {
            reservation,
            epoch,
            job,
            member
        }),
        1 => reservation().prop_map(|reservation| End { reservation }),
        1 => of().prop_map(|(reservation, epoch)| Hasten { reservation, epoch }),
        1 => (of(), ring()).prop_map(|((reservation, epoch), ring)| Join { reservation, epoch, ring }),
        1 => (of(), job(), target(), command()).prop_map(|((reservation, epoch), job, target, command)| Exec {
            reservation,
            epoch,
            job,
            target,
            command
        }),
        1 => (of(), job(), any::<u8>()).prop_map(|((reservation, epoch), job, signal)| Signal {
            reservation,
            epoch,
            job,
            signal
        }),
        1 => (of(), job(), stream(), any::<(u32, u64)>()).prop_map(
            |((reservation, epoch), job, stream, (member, upto))| OutputSaved {
                reservation,
                epoch,
                job,
                member,
                stream,
                upto
            }
        ),
    ]
    .boxed()
}

fn waits() -> Any<site::Waits> {
    (any::<u32>(), text(), any::<(Option<u32>, Option<u32>, Option<u32>)>())
        .prop_map(|(pilots, why, (expected_in_s, until_in_s, held_for_s))| site::Waits {
            pilots,
            why,
            expected_in_s,
            until_in_s,
            held_for_s,
        })
        .boxed()
}

pub fn from_site() -> Any<FromSite> {
    use FromSite::*;
    let of = || (reservation(), epoch());
    let running = || (reservation(), epoch(), job(), any::<u32>());
    let version = || (reservation(), version());
    let held = prop_oneof![
        version().prop_map(|(reservation, version)| Held { reservation, version }),
        version().prop_map(|(reservation, version)| Asks { reservation, version }),
        version().prop_map(|(reservation, version)| Committed { reservation, version }),
        version().prop_map(|(reservation, version)| Lost { reservation, version }),
        (version(), refusal()).prop_map(|((reservation, version), refusal)| HoldRefused {
            reservation,
            version,
            refusal
        }),
    ];
    prop_oneof![
        (site(), any::<[u8; 32]>()).prop_map(|(site, secret)| Register { site, secret }),
        (site(), offer()).prop_map(|(site, offer)| Publish { site, offer }),
        held,
        Just(Beat),
        of().prop_map(|(reservation, epoch)| Joined { reservation, epoch }),
        (of(), any::<u32>(), progress()).prop_map(|((reservation, epoch), round, progress)| Progress {
            reservation,
            epoch,
            round,
            progress
        }),
        (of(), any::<u32>(), vec(ready_member(), 0..4)).prop_map(|((reservation, epoch), round, members)| {
            SiteReady { reservation, epoch, round, members }
        }),
        (of(), maybe(waits())).prop_map(|((reservation, epoch), waits)| Waits { reservation, epoch, waits }),
        (of(), any::<(u32, u32)>(), text()).prop_map(|((reservation, epoch), (round, again_in_s), why)| {
            Withdrawn { reservation, epoch, round, why, again_in_s }
        }),
        running().prop_map(|(reservation, epoch, job, _)| NothingRuns { reservation, epoch, job }),
        (of(), failure()).prop_map(|((reservation, epoch), failure)| Failed { reservation, epoch, failure }),
        prop_oneof![
            (running(), stream(), any::<u64>(), bytes()).prop_map(
                |((reservation, epoch, job, member), stream, offset, bytes)| Output {
                    reservation,
                    epoch,
                    job,
                    member,
                    stream,
                    offset,
                    bytes
                }
            ),
            (running(), status(), hits()).prop_map(|((reservation, epoch, job, member), status, hits)| {
                Exited { reservation, epoch, job, member, status, hits }
            }),
            (running(), failure()).prop_map(|((reservation, epoch, job, member), failure)| ExecFailed {
                reservation,
                epoch,
                job,
                member,
                failure
            }),
            (reservation(), vec((node(), text()), 0..3))
                .prop_map(|(reservation, dirty)| Ended { reservation, dirty }),
            (of(), any::<u32>(), vec(flow(), 0..3)).prop_map(|((reservation, epoch), over_ms, flows)| Used {
                reservation,
                epoch,
                over_ms,
                flows
            }),
        ],
    ]
    .boxed()
}

pub fn node_request() -> Any<node::Request> {
    use node::Request::*;
    prop_oneof![
        Just(GetKeys),
        Just(Run),
        Just(Shutdown),
        Just(GetStatus),
        setup().prop_map(Setup),
        ring().prop_map(SetKeys),
        (job(), command()).prop_map(|(job, command)| Exec { job, command }),
        (job(), any::<u8>()).prop_map(|(job, signal)| Signal { job, signal }),
        (job(), stream(), any::<u64>()).prop_map(|(job, stream, upto)| OutputSaved { job, stream, upto }),
        signed_rates().prop_map(Shape),
        job().prop_map(|job| Resend { job }),
        job().prop_map(|job| ExitSaved { job }),
        prop_oneof![any::<u32>().prop_map(|grace_ms| End { grace_ms }), Just(Beat)],
    ]
    .boxed()
}

pub fn node_reply() -> Any<node::Reply> {
    use node::Reply::*;
    prop_oneof![
        Just(Done),
        keys().prop_map(Keys),
        (state(), any::<(u64, u32)>()).prop_map(|(state, (since_s, commands))| Status {
            state,
            since_s,
            commands
        }),
        refusal().prop_map(Refused),
        failure().prop_map(Failed),
    ]
    .boxed()
}

pub fn node_notice() -> Any<node::Notice> {
    use node::Notice::*;
    prop_oneof![
        (state(), maybe(failure())).prop_map(|(state, cause)| StateChanged { state, cause }),
        (job(), stream(), any::<u64>(), bytes()).prop_map(|(job, stream, offset, bytes)| Output {
            job,
            stream,
            offset,
            bytes
        }),
        (job(), status(), hits()).prop_map(|(job, status, hits)| Exited { job, status, hits }),
        (maybe(text()), maybe(failure())).prop_map(|(dirty, cause)| Gone { dirty, cause }),
        (any::<u64>(), class_uses()).prop_map(|(at_ms, classes)| Used { at_ms, classes }),
        Just(Beat),
    ]
    .boxed()
}
