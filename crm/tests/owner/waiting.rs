//! Waiting for pilots: queues that are slow, shut, lose answers or have limits, and sites that wait
//! for one another.

use std::time::Duration;

use crm::pilot::{PilotId, Round};
use crm::site::{Account, Event, News};
use crm::standing::{BatchError, Capabilities, Standing};
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining, ToSite, Waits};

use crate::said::pilot;
use crate::world::{E, Fault, HOUR, R, V, World, account, arrived, commit, hold, hold_of, part, start};

const HOLD: Duration = Duration::from_secs(600);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two pilots that wait in the queue.
fn queued() -> World {
    let mut world = World::new(3);
    world.mute = true;
    world.say(hold(part(2)));
    world.say(commit(V, HOUR));
    assert_eq!(world.submitted, [pilot(0), pilot(1)]);
    world
}

/// A part with other addresses.
fn elsewhere(members: u32) -> Part {
    let addresses = vec![AddressBlock { first: [10, 71, 128, 100].into(), count: members }];
    Part { addresses, ..part(members) }
}

fn arrives(world: &mut World, id: PilotId) {
    world.mute = false;
    world.say(arrived(id, [1; 16]));
}

fn of_round(round: u32, member: u32) -> PilotId {
    PilotId { reservation: R, round: Round(round), member }
}

fn capabilities(closed: Option<&str>) -> Capabilities {
    Capabilities {
        places_on_named_nodes: true,
        reserves_ahead: false,
        enforces_limits: false,
        lead: Duration::ZERO,
        nodes_max: None,
        walltime_max: None,
        closed: closed.map(Into::into),
    }
}

fn batch(world: &mut World, news: News) {
    world.say(Event::Batch(news));
}

/// The batch system did not take these.
fn not_taken(world: &mut World, pilots: &[PilotId], error: BatchError) {
    if !matches!(error, BatchError::Unknown(_)) {
        world.alive.retain(|id| !pilots.contains(id));
    }
    batch(world, News::NotSubmitted { pilots: pilots.to_vec(), error });
}

fn ready_in(world: &World) -> Vec<(Epoch, u32)> {
    let ready = world.told.iter().filter_map(|message| match message {
        FromSite::SiteReady { epoch, round, .. } => Some((*epoch, *round)),
        _ => None,
    });
    ready.collect()
}

fn withdrawn(world: &World) -> Vec<(u32, u32)> {
    let told = world.told.iter().filter_map(|message| match message {
        FromSite::Withdrawn { round, again_in_s, .. } => Some((*round, *again_in_s)),
        _ => None,
    });
    told.collect()
}

fn waits(world: &World) -> Option<Waits> {
    let told = world.told.iter().rev().find_map(|message| match message {
        FromSite::Waits { waits, .. } => Some(waits.clone()),
        _ => None,
    });
    told.flatten()
}

fn failed(world: &World) -> Option<Failure> {
    world.told.iter().rev().find_map(|message| match message {
        FromSite::Failed { failure, .. } => Some(failure.clone()),
        _ => None,
    })
}

fn refused(world: &World) -> Option<Refusal> {
    world.told.iter().rev().find_map(|message| match message {
        FromSite::HoldRefused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    })
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
fn a_submission_that_is_turned_back_pauses_the_queue_and_is_made_again_by_the_same_name() {
    let mut world = queued();
    not_taken(&mut world, &[pilot(0), pilot(1)], BatchError::unavailable("slurmctld does not answer"));
    world.pass(s(1));
    let paused = world.offer().paused.clone().unwrap();
    assert!(paused.as_str().starts_with("slurmctld does not answer; it is asked again"), "{paused}");
    let told = waits(&world).unwrap();
    assert!(told.pilots == 2 && told.why.as_str().contains("slurmctld does not answer"), "{told:?}");
    world.say(hold_of(ReservationId(2), V, part(1)));
    assert!(matches!(refused(&world), Some(Refusal::QueuePaused { .. })), "nothing new is held");
    world.pass(s(5));
    assert_eq!((world.probed, world.submitted.len()), (1, 2));
    world.mute = false;
    batch(&mut world, News::Capabilities(capabilities(None)));
    assert_eq!(world.submitted[2..], [pilot(0), pilot(1)], "the same round");
    assert_eq!(ready_in(&world), [(E, 1)]);
    world.pass(s(1));
    assert_eq!(world.offer().paused, None);
    world.say(hold_of(ReservationId(2), Version(2), elsewhere(1)));
    assert_eq!(world.heard(|m| matches!(m, FromSite::Held { reservation, .. } if reservation.0 == 2)), 1);
    world.check();
}

#[test]
fn a_submission_without_an_answer_is_found_by_its_name_or_made_again() {
    for is_there in [true, false] {
        let mut world = queued();
        not_taken(&mut world, &[pilot(0), pilot(1)], BatchError::unknown("no answer in 20 s"));
        assert_eq!(world.submitted.len(), 2, "it may be there");
        world.mute = false;
        for member in 0..2 {
            if is_there {
                let standing = Standing::Queued { why: None, expected: None };
                batch(&mut world, News::Stands { pilot: pilot(member), standing });
            } else {
                world.alive.remove(&pilot(member));
                let reason = "the batch system does not know it".into();
                world.say(Event::BatchGone { pilot: pilot(member), reason });
            }
        }
        assert_eq!(failed(&world), None);
        if is_there {
            (0..2).for_each(|member| arrives(&mut world, pilot(member)));
            assert_eq!(world.submitted.len(), 2);
        } else {
            world.pass(s(6));
            batch(&mut world, News::Capabilities(capabilities(None)));
            assert_eq!(world.submitted[2..], [pilot(0), pilot(1)]);
        }
        assert_eq!(ready_in(&world), [(E, 1)], "{is_there}");
        world.check();
    }
}

#[test]
fn what_is_granted_waits_for_a_shut_queue_and_begins_when_it_is_open() {
    let mut world = World::new(1);
    let window = Remaining { starts_in_ms: 100_000, ends_in_ms: 3_600_000 };
    world.say(hold(Part { window, ..part(1) }));
    world.say(commit(V, window));
    batch(&mut world, News::Capabilities(capabilities(Some("partition main is DOWN"))));
    world.pass(s(120));
    assert_eq!(world.submitted, []);
    let told = waits(&world).unwrap();
    assert!(told.pilots == 1 && told.why.as_str().contains("partition main is DOWN"), "{told:?}");
    assert!(world.probed >= 4, "it is asked again and again");
    batch(&mut world, News::Answers(Ok(())));
    assert_eq!(world.submitted, [], "that it answers does not open it");
    batch(&mut world, News::Capabilities(capabilities(None)));
    assert_eq!(ready_in(&world), [(E, 1)]);
}

#[test]
fn a_queue_that_stays_shut_fails_the_part_by_name_after_the_time_that_pilots_have() {
    let mut world = World::new(1);
    world.say(hold(part(1)));
    batch(&mut world, News::Capabilities(capabilities(Some("partition main is DOWN"))));
    world.say(commit(V, HOUR));
    world.pass(s(59));
    assert_eq!(failed(&world), None);
    world.pass(s(1));
    let failure = failed(&world).unwrap();
    assert_eq!(failure.step, Step::Pilots);
    assert!(failure.cause.as_str().contains("partition main is DOWN"), "{failure}");
}

#[test]
fn what_the_queues_limits_would_refuse_is_refused_at_the_hold_and_names_the_limit() {
    let mut world = World::new(3);
    let limits = Capabilities { nodes_max: Some(2), walltime_max: Some(s(3720)), ..capabilities(None) };
    batch(&mut world, News::Capabilities(limits));
    world.pass(s(1));
    assert_eq!(world.offer().nodes_max, Some(2));
    let lasts = world.offer().lasts_s_max.unwrap();
    world.say(hold(part(3)));
    let text = refused(&world).unwrap().to_string();
    assert!(text.contains("at most 2 nodes of one batch job, 3 were asked"), "{text}");
    let of = |seconds: u32| Remaining { starts_in_ms: 0, ends_in_ms: u64::from(seconds) * 1000 };
    world.say(hold_of(R, Version(2), Part { window: of(lasts + 61), ..part(2) }));
    let text = refused(&world).unwrap().to_string();
    assert!(text.contains("at most 62 minutes of one batch job") && text.contains("64 were asked"), "{text}");
    world.say(hold_of(R, Version(3), Part { window: of(lasts), ..part(2) }));
    assert_eq!(world.heard(|m| matches!(m, FromSite::Held { .. })), 1);
    assert_eq!(world.submitted, []);
}

#[test]
fn a_node_whose_pilots_always_fail_is_kept_away_by_name_and_tried_again_later() {
    let mut world = World::new(2);
    for n in 1..=3 {
        world.fault = Some((world.asked, Fault::Refusal));
        let reservation = ReservationId(n);
        world.say(hold_of(reservation, V, part(1)));
        world.say(Event::Grc(ToSite::Commit { reservation, version: V, window: HOUR }));
        world.fault = None;
        world.say(Event::Grc(ToSite::End { reservation }));
    }
    world.pass(s(1));
    let offer = world.offer().clone();
    assert_eq!(offer.nodes_usable, 1);
    let (node, why) = &offer.unusable[0];
    assert_eq!(node.as_str(), "a1");
    assert!(why.as_str().contains("its pilots fail one after another"), "{why}");
    world.say(hold_of(ReservationId(9), V, part(2)));
    assert!(matches!(refused(&world), Some(Refusal::MoreNodesThanExist { .. })));
    world.pass(s(31));
    assert_eq!((world.offer().nodes_usable, world.offer().unusable.len()), (2, 0));
}

#[test]
fn what_a_queue_refuses_to_one_account_keeps_only_that_account_away() {
    let mut world = World::new(2);
    for n in 1..=3 {
        world.mute = true;
        let reservation = ReservationId(n);
        world.say(hold_of(reservation, V, part(1)));
        world.say(Event::Grc(ToSite::Commit { reservation, version: V, window: HOUR }));
        world.mute = false;
        let id = PilotId { reservation, round: Round(1), member: 0 };
        not_taken(&mut world, &[id], BatchError::refused("invalid account"));
        let failure = failed(&world).unwrap();
        assert!(failure.cause.as_str().contains("it was refused: invalid account"), "{failure}");
        world.say(Event::Grc(ToSite::End { reservation }));
    }
    world.say(hold_of(ReservationId(8), V, part(1)));
    let text = refused(&world).unwrap().to_string();
    assert!(text.contains("for user alice") && text.contains("invalid account"), "{text}");
    let other = Account { name: "bob".parse().unwrap(), uid: 1002, ..account() };
    let part = Part { user: "bob".parse().unwrap(), ..part(1) };
    world.say(Event::Hold { reservation: ReservationId(9), version: V, part, account: Ok(other) });
    assert_eq!(world.heard(|m| matches!(m, FromSite::Held { reservation, .. } if reservation.0 == 9)), 1);
    world.pass(s(31));
    world.say(hold_of(ReservationId(8), Version(2), crate::world::part(1)));
    assert_eq!(world.heard(|m| matches!(m, FromSite::Held { reservation, .. } if reservation.0 == 8)), 1);
}
