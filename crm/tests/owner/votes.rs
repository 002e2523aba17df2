//! Hold, commit, release: what is voted for is kept, and what is stale changes nothing.

use std::time::Duration;

use crm::site::{ASK_INTERVAL, Event};
use protocol::ids::{ReservationId, Version};
use protocol::refusal::Refusal;
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::said::*;
use crate::world::{E, HOUR, R, V, World, commit, hold, hold_of, part, start};

const V2: Version = Version(2);

fn release(version: Version) -> Event {
    Event::Grc(ToSite::Release { reservation: R, version })
}

/// In an hour, for an hour.
const LATER: Remaining = Remaining { starts_in_ms: 3_600_000, ends_in_ms: 7_200_000 };

fn later(members: u32) -> Part {
    Part { window: LATER, ..part(members) }
}

/// Of another reservation, with addresses of its own.
fn other(members: u32, window: Remaining) -> Event {
    let addresses = vec![AddressBlock { first: [10, 71, 128, 100].into(), count: members }];
    hold_of(ReservationId(2), V, Part { window, addresses, ..part(members) })
}

fn is_refused(message: &FromSite) -> bool {
    matches!(message, FromSite::HoldRefused { .. })
}

#[test]
fn a_hold_is_never_dropped_by_a_timer_the_grc_is_asked() {
    let mut world = World::new(2);
    world.say(hold(later(2)));
    world.pass(ASK_INTERVAL * 10);
    assert_eq!(world.heard(is_asking), 10);
    // Away, nobody is asked; back, at once.
    world.say(Event::GrcLost);
    world.pass(Duration::from_secs(600));
    assert_eq!(world.heard(is_asking), 10);
    world.say(Event::GrcConnected);
    assert_eq!(world.heard(is_asking), 11);
    world.say(other(1, LATER));
    assert_eq!(world.heard(is_refused), 1, "it is still held");
    world.say(commit(V, HOUR));
    assert_eq!(world.heard(is_committed), 1);
    world.pass(ASK_INTERVAL * 2);
    assert_eq!(world.heard(is_asking), 11);
}

#[test]
fn a_hold_ends_with_its_window() {
    let mut world = World::new(2);
    world.say(hold(later(2)));
    world.pass(Duration::from_secs(7199));
    assert!(!world.site.is_idle());
    world.pass(Duration::from_secs(1));
    assert!(world.site.is_idle() && world.records.is_empty());
    world.say(commit(V, LATER));
    assert_eq!(world.heard(is_lost), 1);
}

#[test]
fn a_window_is_admitted_as_a_whole() {
    let mut world = World::new(2);
    world.say(hold(later(2)));
    // Free at its beginning and at its end.
    let around = Remaining { starts_in_ms: 0, ends_in_ms: 10_800_000 };
    world.say(other(1, around));
    assert!(matches!(refusal(&world), Refusal::NoRoom { have: 0, in_s, .. } if in_s == &[7200]));
}

#[test]
fn a_release_gives_back_exactly_its_hold() {
    let mut world = World::new(2);
    world.say(hold(later(2)));
    world.say(release(Version(0)));
    world.say(release(V2));
    assert!(!world.site.is_idle(), "another version was released");
    world.say(release(V));
    assert!(world.site.is_idle() && world.records.is_empty());
    world.say(other(2, LATER));
    assert_eq!(world.heard(is_held), 2);
    // A grant is not touched.
    let mut world = World::new(2);
    world.say(hold(later(2)));
    world.say(commit(V, LATER));
    world.say(release(V));
    world.say(other(1, LATER));
    assert!(matches!(refusal(&world), Refusal::NoRoom { have: 0, .. }));
}

#[test]
fn a_stale_hold_or_commit_changes_nothing() {
    let mut world = World::new(3);
    world.say(hold_of(R, V2, later(2)));
    for stale in [hold_of(R, V, later(3)), commit(V, LATER), release(V)] {
        world.say(stale);
    }
    let (_, held, grant) = world.site.bookings().next().unwrap();
    assert_eq!((held.unwrap().version, grant), (V2, None));
    world.say(commit(V2, LATER));
    for stale in [hold_of(R, V, later(3)), hold_of(R, V2, later(2)), commit(V, LATER), release(V2)] {
        world.say(stale);
    }
    let (_, held, grant) = world.site.bookings().next().unwrap();
    assert_eq!((held, grant.unwrap().version), (None, V2));
    // A hold that was released before it came does not come to life.
    world.say(Event::Grc(ToSite::Release { reservation: ReservationId(2), version: V }));
    world.say(other(1, LATER));
    assert_eq!(world.site.bookings().count(), 1);
}

#[test]
fn a_newer_attempt_replaces_the_one_before_it() {
    let mut world = World::new(3);
    world.say(hold(later(3)));
    world.say(hold_of(R, V2, later(2)));
    assert_eq!(world.heard(is_held), 2);
    world.say(other(1, LATER));
    assert_eq!(world.heard(is_held), 3, "the third node came back");
    world.say(commit(V, LATER));
    assert_eq!(world.heard(is_lost), 0, "stale, no more");
    // Refused, it still says that the older one was given up.
    world.say(hold_of(R, Version(3), later(4)));
    assert_eq!(world.site.bookings().count(), 1);
    assert_eq!(world.records.len(), 1);
}

#[test]
fn what_is_not_held_is_lost() {
    let mut world = World::new(1);
    world.say(commit(V, LATER));
    assert_eq!(world.told.last(), Some(&FromSite::Lost { reservation: R, version: V }));
    world.say(start(E));
    assert_eq!(world.told.last(), Some(&FromSite::Lost { reservation: R, version: Version(0) }));
    world.say(hold(later(1)));
    // Its Commit may be late.
    world.say(start(E));
    assert_eq!(world.told.last(), Some(&FromSite::Asks { reservation: R, version: V }));
    world.say(commit(V2, LATER));
    assert_eq!(world.told.last(), Some(&FromSite::Lost { reservation: R, version: V2 }));
}

/// From the first grant [1 h, 2 h) of two nodes: what a third party can have is the measure.
#[test]
fn a_change_holds_old_and_new_and_an_abort_gives_exactly_back() {
    let hour = |from: u64, to: u64| Remaining { starts_in_ms: from * 3_600_000, ends_in_ms: to * 3_600_000 };
    let mut tried = 0;
    let mut free = |world: &mut World, members, window| {
        tried += 1;
        let (before, version) = (world.heard(is_held), Version(tried));
        let Event::Hold { reservation, part, account, .. } = other(members, window) else { unreachable!() };
        world.say(Event::Hold { reservation, version, part, account });
        world.say(Event::Grc(ToSite::Release { reservation, version }));
        world.heard(is_held) > before
    };
    for committed in [false, true] {
        let mut world = World::new(3);
        world.say(hold(later(2)));
        world.say(commit(V, LATER));
        assert!(free(&mut world, 3, hour(2, 3)) && !free(&mut world, 2, hour(1, 2)));
        // One node more, for an hour more, and one hour later.
        let change = Part {
            window: hour(1, 3),
            members: 3,
            addresses: vec![AddressBlock { first: [10, 71, 128, 10].into(), count: 3 }],
            ..later(3)
        };
        world.say(hold_of(R, V2, change));
        assert_eq!(world.told.last(), Some(&FromSite::Held { reservation: R, version: V2 }));
        assert!(!free(&mut world, 1, hour(1, 2)), "the larger of both");
        assert!(!free(&mut world, 1, hour(2, 3)), "the new one");
        world.say(match committed {
            true => commit(V2, hour(1, 3)),
            false => release(V2),
        });
        assert_eq!(free(&mut world, 1, hour(1, 2)), !committed);
        assert_eq!(free(&mut world, 3, hour(2, 3)), !committed);
        // And down again: the smaller grant gives the rest back.
        world.say(hold_of(R, Version(3), later(1)));
        assert!(!free(&mut world, 2, hour(1, 2)), "the old one is in force");
        world.say(commit(Version(3), LATER));
        assert!(free(&mut world, 2, hour(1, 2)) && free(&mut world, 3, hour(2, 3)));
    }
}

#[test]
fn a_change_that_does_not_fit_leaves_the_grant_as_it_was() {
    let mut world = World::new(2);
    world.say(hold(later(1)));
    world.say(commit(V, LATER));
    world.say(other(1, LATER));
    let before = world.records.clone();
    let change =
        Part { addresses: vec![AddressBlock { first: [10, 71, 128, 10].into(), count: 2 }], ..later(2) };
    world.say(hold_of(R, V2, change));
    assert!(matches!(refusal(&world), Refusal::NoRoom { asked: 2, have: 1, .. }));
    assert_eq!(world.records, before);
    // With fewer nodes usable than granted, a change that needs no more of them is still possible.
    let longer = Remaining { ends_in_ms: LATER.ends_in_ms - 1000, ..LATER };
    world.say(hold_of(R, Version(3), Part { window: longer, ..later(1) }));
    assert_eq!(world.heard(is_held), 3);
}

#[test]
fn sandboxes_that_have_begun_keep_their_nodes_and_their_window_can_change() {
    let mut world = joined(1);
    world.say(hold_of(R, V2, Part { slots: 2, ..part(1) }));
    assert!(matches!(refusal(&world), Refusal::WrongState { .. }));
    let longer = Remaining { starts_in_ms: 0, ends_in_ms: 2 * HOUR.ends_in_ms };
    world.say(hold_of(R, V2, Part { window: longer, ..part(1) }));
    world.say(commit(V2, longer));
    world.pass(Duration::from_secs(7000));
    assert_eq!((world.heard(is_ended), world.submitted.len()), (0, 1));
    world.pass(Duration::from_secs(200));
    assert!(world.site.is_idle());
}

#[test]
fn losing_the_grc_ends_nothing_and_it_is_told_everything_when_it_is_back() {
    for phase in 0..4 {
        let mut world = World::new(2);
        world.say(hold(part(2)));
        if phase > 0 {
            world.say(commit(V, HOUR));
        }
        if phase > 1 {
            let join = join(&world).unwrap();
            world.say(join);
        }
        if phase > 2 {
            world.say(crate::world::exec(protocol::job::Target::All));
        }
        let (records, alive) = (world.records.clone(), world.alive.clone());
        world.say(Event::GrcLost);
        world.pass(Duration::from_secs(600));
        assert_eq!((&world.records, &world.alive), (&records, &alive), "phase {phase}");
        world.told.clear();
        world.say(Event::GrcConnected);
        assert!(matches!(world.told[0], FromSite::Publish { .. }));
        let expected = if phase == 0 { is_asking } else { is_committed };
        assert!(expected(&world.told[1]), "{:?}", world.told);
        let resent = world.passed.iter().filter(|(_, r)| matches!(r, protocol::node::Request::Resend { .. }));
        assert_eq!(resent.count(), if phase > 2 { 2 } else { 0 });
    }
}
