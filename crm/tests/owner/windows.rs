//! Windows: their pilots begin in time, and they begin and end by the site's own timeline.

use std::time::Duration;

use crm::nodes::Node;
use crm::pilot::Round;
use crm::site::Event;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::refusal::Step;
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::said::*;
use crate::world::{Fault, HOUR, R, V, World, commit, hold_of, part, start};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn window(from_s: u64, to_s: u64) -> Remaining {
    Remaining { starts_in_ms: from_s * 1000, ends_in_ms: to_s * 1000 }
}

/// The `n`-th reservation, with addresses of its own.
fn booked(world: &mut World, n: u64, members: u32, window: Remaining) {
    let reservation = ReservationId(n);
    let first = [10, 71, 128, 10 * n as u8].into();
    let addresses = vec![AddressBlock { first, count: members }];
    world.say(hold_of(reservation, V, Part { window, addresses, ..part(members) }));
    let version = V;
    world.say(Event::Grc(ToSite::Commit { reservation, version, window }));
    assert!(world.told.contains(&FromSite::Committed { reservation, version }));
}

#[test]
fn pilots_begin_by_the_lead_before_the_window_and_end_exactly_with_it() {
    let mut world = World::new(2);
    booked(&mut world, 1, 2, window(100, 200));
    world.pass(s(89));
    assert_eq!(world.submitted.len(), 0);
    world.pass(s(1));
    assert_eq!((world.submitted.len(), world.heard(is_ready)), (2, 1));
    world.pass(s(109));
    assert_eq!(world.heard(is_ended), 0);
    world.say(Event::GrcLost);
    world.pass(s(1));
    assert!(world.site.is_idle() && world.alive.is_empty() && world.records.is_empty());
}

#[test]
fn who_comes_early_takes_no_node_from_those_whose_window_it_is() {
    let mut world = World::new(2);
    booked(&mut world, 1, 1, window(0, 95));
    booked(&mut world, 2, 2, window(100, 200));
    world.pass(s(94));
    assert_eq!(world.submitted.len(), 1);
    // As soon as the other is gone, not only at its start.
    world.pass(s(2));
    assert_eq!(world.submitted.len(), 3);

    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(0, 100));
    booked(&mut world, 2, 1, window(100, 200));
    world.pass(s(99));
    assert_eq!(world.submitted.len(), 1);
    world.pass(s(1));
    assert_eq!(world.submitted.len(), 2);
    world.check();
}

#[test]
fn a_part_waits_at_its_start_for_those_before_it_to_leave() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(0, 100));
    booked(&mut world, 2, 1, window(100, 300));
    world.pass(s(99));
    // SHUTDOWN stays without an answer; the batch system takes the pilot away later.
    world.fault = Some((world.asked, Fault::Silence));
    world.pass(s(1));
    assert_eq!(world.submitted.len(), 1);
    world.pass(s(16));
    assert_eq!(world.submitted.len(), 2);
    world.check();
}

#[test]
fn a_part_whose_nodes_do_not_come_free_fails_by_name_and_may_be_begun_anew() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(0, 100));
    booked(&mut world, 2, 1, window(100, 1000));
    world.pass(s(99));
    world.mute = true;
    world.pass(s(62));
    let told = failure(&world);
    assert_eq!(told.step, Step::Pilots);
    assert!(told.to_string().contains("a1"), "{told}");
    assert_eq!(world.submitted.len(), 1);
    world.mute = false;
    world.wait(|w| w.alive.is_empty());
    let reservation = ReservationId(2);
    let order = ToSite::Start { reservation, epoch: Epoch(2), window: window(0, 500) };
    world.say(Event::Grc(order));
    world.wait(|w| w.submitted.len() == 2);
    assert_eq!(world.submitted[1].round, Round(1));
    world.check();
}

#[test]
fn words_that_come_late_do_not_make_a_window_longer() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(0, 100));
    world.pass(s(50));
    // Sent at the beginning, they arrive now.
    world.say(commit(V, window(0, 100)));
    world.say(Event::Grc(ToSite::Start { reservation: R, epoch: Epoch(1), window: window(0, 100) }));
    world.pass(s(50));
    assert!(world.site.is_idle());
    // After a restart the first word is taken as it is.
    booked(&mut world, 2, 1, window(10, 100));
    world.restart();
    world.say(Event::GrcConnected);
    let reservation = ReservationId(2);
    world.say(Event::Grc(ToSite::Commit { reservation, version: V, window: window(10, 300) }));
    world.pass(s(200));
    assert!(!world.site.is_idle());
    world.pass(s(100));
    assert!(world.site.is_idle());
}

#[test]
fn windows_that_follow_each_other_to_the_millisecond_are_both_held() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, Remaining { starts_in_ms: 0, ends_in_ms: 10_250 });
    world.pass(Duration::from_millis(2));
    booked(&mut world, 2, 1, Remaining { starts_in_ms: 10_246, ends_in_ms: 20_000 });
    world.pass(s(11));
    assert_eq!(world.submitted.len(), 2);
    world.check();
}

#[test]
fn members_of_a_layer_find_distinct_nodes_whatever_stands_in_the_others() {
    let node = |n: u32, members| Node::new(format!("a{n}").parse().unwrap(), 0, members);
    let mut world = World::with_nodes(vec![node(1, 1), node(2, 2), node(3, 2)]);
    assert_eq!(world.offer().layers, [3, 2]);
    booked(&mut world, 1, 3, HOUR);
    let above = Part {
        layer: 1,
        addresses: vec![AddressBlock { first: [10, 71, 128, 50].into(), count: 2 }],
        ..part(2)
    };
    world.say(hold_of(ReservationId(2), V, above));
    let second = ReservationId(2);
    world.say(Event::Grc(ToSite::Commit { reservation: second, version: V, window: HOUR }));
    assert_eq!(world.submitted.len(), 5);
    let addresses = vec![AddressBlock { first: [10, 71, 128, 90].into(), count: 1 }];
    world.say(hold_of(ReservationId(3), V, Part { layer: 2, addresses, ..part(1) }));
    assert!(refusal(&world).to_string().contains("0 usable"), "{}", refusal(&world));
    let nodes: Vec<_> =
        world.site.pilots().filter(|p| p.id.reservation == second).map(|p| p.node.as_str()).collect();
    assert_eq!(nodes, ["a2", "a3"]);
}

#[test]
fn the_first_epoch_begins_by_itself_and_an_ordered_one_with_its_order() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(100, 200));
    world.say(Event::Grc(ToSite::Start { reservation: R, epoch: Epoch(3), window: window(100, 200) }));
    world.say(Event::GrcLost);
    world.pass(s(90));
    assert_eq!(world.submitted.iter().map(|pilot| pilot.round).collect::<Vec<_>>(), [Round(1)]);
    world.say(Event::GrcConnected);
    world.say(start(Epoch(1)));
    world.say(start(Epoch(2)));
    assert_eq!(world.submitted.len(), 1);
}

#[test]
fn a_late_start_does_not_undo_a_change_of_the_window() {
    let mut world = World::new(1);
    booked(&mut world, 1, 1, window(0, 100));
    let addresses = vec![AddressBlock { first: [10, 71, 128, 10].into(), count: 1 }];
    world.say(hold_of(R, Version(2), Part { window: window(0, 500), addresses, ..part(1) }));
    world.say(commit(Version(2), window(0, 500)));
    world.say(Event::Grc(ToSite::Start { reservation: R, epoch: Epoch(1), window: window(0, 100) }));
    world.pass(s(499));
    assert!(!world.alive.is_empty());
    world.pass(s(1));
    assert!(world.site.is_idle());
}

/// The site has voted for a longer window: no timer of its own takes that back.
#[test]
fn a_change_that_is_held_outlives_the_window_of_the_grant() {
    let longer = window(0, 500);
    for (begun, committed, restarted) in [true, false].into_iter().flat_map(|begun| {
        [true, false].into_iter().flat_map(move |c| [true, false].map(move |r| (begun, c, r)))
    }) {
        let what = format!("begun {begun}, committed {committed}, restarted {restarted}");
        let mut world = World::new(1);
        world.mute = !begun;
        booked(&mut world, 1, 1, window(0, 100));
        world.pass(s(50));
        let addresses = vec![AddressBlock { first: [10, 71, 128, 10].into(), count: 1 }];
        world.say(hold_of(R, Version(2), Part { window: longer, addresses, ..part(1) }));
        assert_eq!(
            world.told.last(),
            Some(&FromSite::Held { reservation: R, version: Version(2) }),
            "{what}"
        );
        world.mute = false;
        world.pass(s(51));
        assert!(world.alive.is_empty() && !world.site.is_idle(), "{what}: the window of the grant was kept");
        assert!(world.told.contains(&FromSite::Asks { reservation: R, version: Version(2) }), "{what}");
        if restarted {
            world.restart();
            world.say(Event::GrcConnected);
        }
        if committed {
            world.say(commit(Version(2), window(0, 399)));
            world.say(Event::Grc(ToSite::Start { reservation: R, epoch: Epoch(2), window: window(0, 399) }));
            assert_eq!(world.submitted.last().unwrap().round, Round(2), "{what}");
            world.pass(s(398));
            assert!(!world.site.is_idle(), "{what}");
            world.pass(s(20));
        } else {
            world.say(Event::Grc(ToSite::Release { reservation: R, version: Version(2) }));
        }
        world.pass(s(1));
        assert!(world.site.is_idle() && world.records.is_empty() && world.alive.is_empty(), "{what}");
    }
}
