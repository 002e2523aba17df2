//! Waiting for pilots: rounds that are taken over, held for others, released, and too late.

use std::time::Duration;

use crm::site::{Event, News};
use crm::standing::Standing;
use protocol::ids::Epoch;
use protocol::refusal::Step;
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::said::*;
use crate::world::{E, HOUR, R, V, World, commit, hold, part, start};

const HOLD: Duration = Duration::from_secs(600);

fn withdrawn(world: &World) -> Vec<(u32, u32)> {
    let told = world.told.iter().filter_map(|message| match message {
        FromSite::Withdrawn { round, again_in_s, .. } => Some((*round, *again_in_s)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_newer_epoch_takes_over_pilots_that_all_wait_in_the_queue() {
    let mut world = queued();
    let cancelled = world.asked;
    world.say(start(Epoch(2)));
    world.say(start(Epoch(2)));
    assert_eq!((world.submitted.len(), world.asked), (2, cancelled), "they keep their place");
    arrives(&mut world, pilot(0));
    arrives(&mut world, pilot(1));
    assert_eq!(ready_in(&world), [(Epoch(2), 1)]);
    world.check();
    // One that has come is of the older epoch, and fenced.
    world.say(start(Epoch(3)));
    assert_eq!(world.submitted[2..], [of_round(2, 0), of_round(2, 1)]);
    assert_eq!(ready_in(&world).last(), Some(&(Epoch(3), 2)));
    world.check();
}

#[test]
fn a_round_that_was_taken_over_waits_as_long_as_one_that_is_begun_then() {
    let mut world = queued();
    world.pass(s(50));
    world.say(start(Epoch(2)));
    world.pass(s(59));
    assert_eq!(failed(&world), None);
    world.pass(s(1));
    let failure = failed(&world).unwrap();
    assert_eq!((failure.step, failure.site.unwrap().as_str()), (Step::Pilots, "a"));
    assert!(failure.cause.as_str().contains("2 of 2 pilots did not dial in within 60 s: a-0, a-1"));
}

#[test]
fn pilots_that_came_are_held_up_to_the_limit_then_released_and_begun_again_later_and_later() {
    let mut world = World::new(2);
    world.say(hold(part(2)));
    world.say(commit(V, HOUR));
    assert_eq!(ready_in(&world), [(E, 1)]);
    world.pass(s(1));
    assert_eq!(waits(&world).unwrap().held_for_s, Some(599), "it is said until when");
    let mut pauses = Vec::new();
    for round in 1..4 {
        world.pass(HOLD - s(2));
        assert_eq!(withdrawn(&world).len() as u32, round - 1);
        world.pass(s(2));
        let (told, again_in_s) = withdrawn(&world).pop().unwrap();
        assert_eq!(told, round);
        assert!(world.alive.is_empty() && world.site.holdings() == (0, 0), "its nodes are free meanwhile");
        world.pass(s(u64::from(again_in_s)));
        assert_eq!(ready_in(&world).last(), Some(&(E, round + 1)), "the same epoch, another round");
        pauses.push(again_in_s);
    }
    assert_eq!(pauses, [30, 60, 120]);
    assert_eq!(failed(&world), None, "nothing has failed");
    world.check();
}

#[test]
fn who_was_released_begins_at_once_when_all_others_are_ready() {
    let mut world = World::new(1);
    world.say(hold(part(1)));
    world.say(commit(V, HOUR));
    world.pass(HOLD + s(1));
    assert_eq!(withdrawn(&world).len(), 1);
    world.say(Event::Grc(ToSite::Hasten { reservation: R, epoch: Epoch(7) }));
    assert_eq!(world.submitted.len(), 1, "of another epoch");
    world.say(Event::Grc(ToSite::Hasten { reservation: R, epoch: E }));
    world.say(Event::Grc(ToSite::Hasten { reservation: R, epoch: E }));
    assert_eq!(world.submitted.len(), 2);
    assert_eq!(ready_in(&world), [(E, 1), (E, 2)]);
}

#[test]
fn early_pilots_of_a_window_are_held_until_it_begins_and_the_limit_is_over() {
    let mut world = World::new(1);
    let window = Remaining { starts_in_ms: 5_000, ends_in_ms: 3_600_000 };
    world.say(hold(Part { window, ..part(1) }));
    world.say(commit(V, window));
    assert_eq!(ready_in(&world), [(E, 1)], "the lead is 10 s");
    world.pass(HOLD + s(4));
    assert_eq!(withdrawn(&world), []);
    world.pass(s(2));
    assert_eq!(withdrawn(&world).len(), 1);
}

/// k of n, and all of them: whoever is missing is named, with what the queue says.
#[test]
fn at_the_deadline_the_missing_members_are_named_with_what_the_queue_says() {
    for came in 0..2 {
        let mut world = queued();
        (0..came).for_each(|member| arrives(&mut world, pilot(member)));
        world.mute = true;
        let standing = Standing::Queued { why: Some("Priority".into()), expected: Some(s(3000)) };
        batch(&mut world, News::Stands { pilot: pilot(1), standing });
        world.pass(s(1));
        let told = waits(&world).unwrap();
        assert_eq!((told.pilots, told.why.as_str()), (2 - came, "Priority"));
        assert_eq!(
            (told.expected_in_s, told.until_in_s),
            (Some(2999), Some(59)),
            "whole seconds, told a little later"
        );
        world.pass(s(59));
        let failure = failed(&world).unwrap();
        let named = if came == 0 {
            "2 of 2 pilots did not dial in within 60 s: a-0, a-1"
        } else {
            "1 of 2 pilots did not dial in within 60 s: a-1"
        };
        assert!(failure.cause.as_str().starts_with(named), "{failure}");
        assert!(failure.cause.as_str().ends_with("Priority"), "{failure}");
    }
}

/// A requeued pilot, or a second one of the same batch job: its token is not good twice.
#[test]
fn a_second_pilot_for_the_same_member_and_one_that_comes_too_late_change_nothing() {
    let mut world = queued();
    arrives(&mut world, pilot(0));
    assert!(world.site.expects(pilot(0), 1001).is_err());
    world.mute = true;
    world.pass(s(61));
    world.say(Event::Grc(ToSite::End { reservation: R }));
    assert!(world.site.expects(pilot(1), 1001).is_err(), "it comes when nobody waits for it");
    let standing = Standing::Running { node: None };
    let asked = world.asked;
    world.alive.clear();
    world.mute = false;
    world.wait(|world| world.site.is_idle());
    batch(&mut world, News::Stands { pilot: pilot(1), standing });
    assert!(world.asked > asked, "who turns up of what nobody knows is taken away");
}

#[test]
fn who_was_released_and_joined_later_is_not_released_for_longer_the_next_time() {
    let mut world = World::new(1);
    world.say(hold(part(1)));
    world.say(commit(V, HOUR));
    world.pass(HOLD + s(1));
    world.pass(s(30));
    let ring = join(&world).unwrap();
    world.say(ring);
    assert_eq!(world.heard(is_joined), 1);
    world.say(start(Epoch(2)));
    world.pass(HOLD + s(1));
    assert_eq!(withdrawn(&world), [(1, 30), (3, 30)]);
}

#[test]
fn who_was_released_begins_again_although_the_crm_is_restarted_meanwhile() {
    let mut world = World::new(1);
    world.say(hold(part(1)));
    world.say(commit(V, HOUR));
    world.pass(HOLD + s(1));
    world.restart();
    world.say(Event::GrcConnected);
    world.say(start(E));
    world.pass(s(29));
    assert_eq!(ready_in(&world), [(E, 1)]);
    world.pass(s(1));
    assert_eq!((ready_in(&world).last(), failed(&world)), (Some(&(E, 2)), None));
}
