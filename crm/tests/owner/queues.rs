//! The batch queue: slow, shut, without an answer, with limits, and with nodes and accounts whose
//! pilots fail.

use crm::pilot::{PilotId, Round};
use crm::site::{Event, News, Settings, Site};
use crm::standing::{BatchError, Capabilities, Standing};
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::refusal::{Refusal, Step};
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::said::*;
use crate::world::{E, Fault, HOUR, R, V, World, arrived, commit, hold, hold_of, part, settings, start};

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

/// The site of a queue, or one that knows its nodes by name.
fn queued_at(anonymous: bool) -> World {
    let mut world = World::new(3);
    let settings = Settings { anonymous, ..settings() };
    world.settings = settings.clone();
    world.site = Site::new(settings, world.nodes.clone());
    world.say(Event::GrcConnected);
    world.mute = true;
    world.say(hold(part(2)));
    world.say(commit(V, HOUR));
    world
}

fn gone(pilot: PilotId) -> Event {
    Event::BatchGone { pilot, reason: "it was cancelled".into() }
}

fn not_there(world: &mut World, pilots: &[PilotId]) {
    world.alive.retain(|id| !pilots.contains(id));
    batch(world, News::NotThere { pilots: pilots.to_vec() });
}

#[test]
fn a_submission_without_an_answer_is_found_by_its_name_or_made_again() {
    for is_there in [true, false] {
        let mut world = queued();
        not_taken(&mut world, &[pilot(0), pilot(1)], BatchError::unknown("no answer in 20 s"));
        world.pass(s(1));
        assert_eq!(world.submitted.len(), 2, "it may be there");
        assert_eq!(waits(&world).unwrap().why.as_str(), "no answer in 20 s");
        world.mute = false;
        if is_there {
            for member in 0..2 {
                let standing = Standing::Queued { why: None, expected: None };
                batch(&mut world, News::Stands { pilot: pilot(member), standing });
                arrives(&mut world, pilot(member));
            }
            assert_eq!(world.submitted.len(), 2);
        } else {
            not_there(&mut world, &[pilot(0), pilot(1)]);
            assert_eq!(world.submitted[2..], [pilot(0), pilot(1)]);
        }
        assert_eq!((ready_in(&world), failed(&world)), (vec![(E, 1)], None), "{is_there}");
        world.check();
    }
}

/// What was turned back, or still to be handed over, when the CRM died is handed over by the next.
#[test]
fn a_round_that_never_came_to_the_batch_system_is_handed_over_by_the_next_crm() {
    for anonymous in [false, true] {
        let mut world = queued_at(anonymous);
        let is_full = BatchError::unavailable("slurmctld does not answer");
        not_taken(&mut world, &[pilot(0), pilot(1)], is_full);
        world.come_back = false;
        world.restart();
        world.say(Event::GrcConnected);
        assert_eq!(world.submitted.len(), 2, "it may be there");
        world.mute = false;
        not_there(&mut world, &[pilot(0), pilot(1)]);
        assert_eq!(world.submitted[2..], [pilot(0), pilot(1)]);
        assert_eq!((ready_in(&world), failed(&world)), (vec![(E, 1)], None));
        world.check();
    }
}

#[test]
fn what_was_there_and_ended_is_not_handed_over_again() {
    for (anonymous, is_said) in [(false, true), (true, true), (true, false)] {
        let mut world = queued_at(anonymous);
        world.come_back = false;
        world.restart();
        world.say(Event::GrcConnected);
        world.alive.remove(&pilot(1));
        if is_said {
            // While nothing else was heard of it.
            world.say(Event::BatchGone { pilot: pilot(1), reason: "its time limit was reached".into() });
        } else {
            // A queue has all of a batch job or nothing of it.
            let standing = Standing::Running { node: None };
            batch(&mut world, News::Stands { pilot: pilot(0), standing });
            not_there(&mut world, &[pilot(1)]);
        }
        assert_eq!(world.submitted.len(), 2);
        let cause = failed(&world).unwrap().cause;
        let word = if is_said { "its time limit was reached" } else { "the batch system does not know it" };
        assert!(cause.as_str().ends_with(word), "{cause}");
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
    world.say(hold_of_bob(ReservationId(9)));
    assert!(is_held_for(&world, ReservationId(9)));
    world.pass(s(31));
    world.say(hold_of(ReservationId(8), Version(2), crate::world::part(1)));
    assert_eq!(world.heard(|m| matches!(m, FromSite::Held { reservation, .. } if reservation.0 == 8)), 1);
}

#[test]
fn an_account_that_has_as_many_jobs_as_it_may_waits_alone_and_is_tried_again() {
    let mut world = queued();
    let full = || BatchError::account_full("only 2 jobs are allowed per user");
    not_taken(&mut world, &[pilot(0), pilot(1)], full());
    world.pass(s(1));
    assert_eq!((world.offer().paused.clone(), world.probed), (None, 0), "the site is open");
    let told = waits(&world).unwrap();
    assert!(told.pilots == 2 && told.why.as_str().starts_with("for user alice: only 2 jobs"), "{told:?}");
    world.say(hold_of(ReservationId(2), V, elsewhere(1)));
    let text = refused(&world).unwrap().to_string();
    assert!(text.contains("only 2 jobs") && !text.contains("fail"), "{text}");
    world.say(hold_of_bob(ReservationId(9)));
    let reservation = ReservationId(9);
    world.say(Event::Grc(ToSite::Commit { reservation, version: V, window: HOUR }));
    assert_eq!(world.submitted[2..], [PilotId { reservation, round: Round(1), member: 0 }]);
    batch(&mut world, News::Capabilities(capabilities(None)));
    assert_eq!(world.submitted.len(), 3, "that the queue is open does not help the account");
    world.pass(s(29));
    assert_eq!(world.submitted[3..], [pilot(0), pilot(1)], "the same round");
    not_taken(&mut world, &[pilot(0), pilot(1)], full());
    world.pass(s(29));
    assert_eq!((world.submitted.len(), failed(&world)), (5, None));
    world.pass(s(1));
    let failure = failed(&world).unwrap();
    assert!(failure.cause.as_str().contains("only 2 jobs are allowed per user"), "{failure}");
}

/// A queue ends a batch job by force at the time that it was given at its submission.
#[test]
fn a_window_is_made_no_longer_than_its_batch_job_lasts() {
    let of = |seconds: u64| Remaining { starts_in_ms: 0, ends_in_ms: seconds * 1000 };
    let held = |world: &mut World, version: u32, seconds: u64| {
        let before = world.heard(is_held);
        world.say(hold_of(R, Version(version), Part { window: of(seconds), ..part(2) }));
        world.heard(is_held) > before
    };
    for (anonymous, restarts) in [(false, false), (true, false), (true, true)] {
        let mut world = queued_at(anonymous);
        if restarts {
            world.come_back = false;
            world.restart();
            world.say(Event::GrcConnected);
        }
        (0..2).for_each(|member| arrives(&mut world, pilot(member)));
        assert!(held(&mut world, 2, 3600), "the same window, or only other rates");
        assert!(held(&mut world, 3, 3600 + 30), "a word that came late");
        assert_eq!(held(&mut world, 4, 3600 + 120), !anonymous);
        if anonymous {
            let text = refused(&world).unwrap().to_string();
            assert!(text.contains("batch job"), "{text}");
            // What it is given at its next submission is another matter.
            world.say(Event::Grc(ToSite::Release { reservation: R, version: Version(3) }));
            world.say(start(Epoch(2)));
            assert!(world.submitted.contains(&of_round(2, 0)));
            assert!(!held(&mut world, 5, 3600 + 120), "that batch job is not longer either");
        }
    }
}

#[test]
fn a_round_that_is_submitted_again_lasts_as_long_as_it_is_given_then() {
    let mut world = queued_at(true);
    not_taken(&mut world, &[pilot(0), pilot(1)], BatchError::unavailable("it is down"));
    let window = Remaining { starts_in_ms: 0, ends_in_ms: 7_200_000 };
    world.say(hold_of(R, Version(2), Part { window, ..part(2) }));
    world.say(commit(Version(2), window));
    batch(&mut world, News::Capabilities(capabilities(None)));
    assert_eq!(world.submitted.len(), 4);
    world.say(hold_of(R, Version(3), Part { window, ..part(2) }));
    assert_eq!(world.heard(is_held), 3);
    world.come_back = false;
    world.restart();
    world.say(Event::GrcConnected);
    world.say(hold_of(R, Version(4), Part { window, ..part(2) }));
    assert_eq!(world.heard(is_held), 4, "that is durable");
}

/// Grants this reservation one pilot of a queue, which comes to a machine: the batch system says to
/// which, or does not.
fn comes(world: &mut World, reservation: ReservationId, node: Option<&str>) -> PilotId {
    let addresses = vec![AddressBlock { first: [10, 71, 128, 50 + reservation.0 as u8].into(), count: 1 }];
    world.mute = true;
    world.say(hold_of(reservation, V, Part { addresses, ..part(1) }));
    world.say(Event::Grc(ToSite::Commit { reservation, version: V, window: HOUR }));
    let pilot = PilotId { reservation, round: Round(1), member: 0 };
    let node = node.map(|node| node.parse().unwrap());
    batch(world, News::Stands { pilot, standing: Standing::Running { node } });
    pilot
}

/// What a pilot calls its machine its user may have made up, and the place of a queue is no machine:
/// a batch system that is to avoid either refuses everybody's submissions.
#[test]
fn only_machines_that_the_batch_system_named_are_kept_away_from_and_dirt_says_its_place() {
    for (named, dials_in) in [(None, false), (None, true), (Some("n7"), true)] {
        let wanted: Vec<&str> = named.into_iter().collect();
        // It does not go.
        let mut world = queued_at(true);
        let id = comes(&mut world, ReservationId(2), named);
        if dials_in {
            world.say(arrived(id, [1; 16]));
        }
        world.say(Event::Grc(ToSite::End { reservation: ReservationId(2) }));
        world.pass(s(45));
        assert_eq!(world.offer().nodes_usable, 2, "its place is not clean");
        let shown = named.unwrap_or(if dials_in { "a1" } else { "a3" });
        assert_eq!(world.offer().unusable[0].0.as_str(), shown);
        // It survives a restart.
        world.come_back = false;
        world.restart();
        world.say(Event::Grc(ToSite::End { reservation: R }));
        world.alive.clear();
        (0..2).for_each(|member| world.say(gone(pilot(member))));
        comes(&mut world, ReservationId(3), None);
        assert_eq!(world.excluded, wanted, "{named:?} {dials_in}");
    }
    for named in [None, Some("n7")] {
        // Its pilots fail.
        let mut world = queued_at(true);
        world.say(Event::Grc(ToSite::End { reservation: R }));
        world.alive.clear();
        (0..2).for_each(|member| world.say(gone(pilot(member))));
        for n in 2..=4 {
            let id = comes(&mut world, ReservationId(n), named);
            world.mute = false;
            world.fault = Some((world.asked, Fault::Refusal));
            world.say(arrived(id, [1; 16]));
            assert!(failed(&world).unwrap().cause.as_str().contains("no memory"));
            world.say(Event::Grc(ToSite::End { reservation: ReservationId(n) }));
        }
        comes(&mut world, ReservationId(5), named);
        assert_eq!(world.excluded, named.into_iter().collect::<Vec<_>>());
    }
}
