//! The CRM dies before any of its actions and is started anew from what was durable then.

use std::time::Duration;

use crm::record::Key;
use crm::site::{Asked, Event, Settings, Site};
use protocol::ids::{Epoch, ReservationId};
use protocol::job::Target;
use protocol::node::{Notice, Reply, Request, State};
use protocol::refusal::Refusal;
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, Remaining, ToSite};

use crate::grc::Grc;
use crate::said::*;
use crate::world::{Fault, HOUR, J, R, V, World, commit, exec, hold, hold_of, part, start};

/// A whole life with a GRC that repeats what is not answered; the CRM dies at `dies_at`.
fn life(dies_at: Option<usize>, fault: Option<(usize, Fault)>) -> (World, Grc) {
    let mut world = World::new(2);
    (world.performed, world.asked) = (0, 0);
    world.dies_at = dies_at;
    world.fault = fault;
    let mut grc = Grc::new(2);
    for _ in 0..60 {
        if grc.ended {
            break;
        }
        grc.round(&mut world);
        world.check();
        world.pass(Duration::from_secs(2));
        world.check();
    }
    (world, grc)
}

fn nothing_is_left(world: &mut World, what: &str) {
    world.pass(Duration::from_secs(100));
    assert!(world.site.is_idle(), "{what}");
    assert!(world.alive.is_empty(), "{what}: {:?}", world.alive);
    assert_eq!(world.records.len(), 0, "{what}: {:?}", world.records);
    assert_eq!(world.site.holdings(), (0, 0), "{what}");
    assert_eq!(world.offer().nodes_free, 2, "{what}");
}

/// That nothing is started twice, no address or node is given twice and no pilot is unknown, the
/// world itself sees to.
#[test]
fn a_death_before_any_action_loses_nothing_that_was_granted_and_forgets_no_pilot() {
    let (mut whole, _) = life(None, None);
    nothing_is_left(&mut whole, "without a death");
    for dies_at in 0..whole.performed {
        let what = format!("died before action {dies_at}");
        let (mut world, grc) = life(Some(dies_at), None);
        assert!(grc.ended, "{what}");
        assert_eq!(world.dies_at, None, "{what}");
        nothing_is_left(&mut world, &what);
        let joined = world.heard(is_joined);
        assert!(joined > 0, "{what}: the grant was kept, but never used");
    }
}

#[test]
fn a_death_on_top_of_any_failure_leaves_nothing_held_either() {
    let (whole, _) = life(None, None);
    for fault in [Fault::Silence, Fault::Refusal, Fault::Break, Fault::Death] {
        for at in 0..whole.asked {
            for dies_at in (0..whole.performed).step_by(3) {
                let what = format!("{fault:?} at {at}, died before action {dies_at}");
                let (mut world, grc) = life(Some(dies_at), Some((at, fault)));
                assert!(grc.ended, "{what}");
                nothing_is_left(&mut world, &what);
            }
        }
    }
}

#[test]
fn a_hold_survives_and_is_asked_about() {
    let mut world = World::new(2);
    world.say(hold(part(2)));
    world.restart();
    world.told.clear();
    world.say(Event::GrcConnected);
    assert_eq!(world.heard(is_asking), 1);
    world.say(commit(V, HOUR));
    assert_eq!((world.heard(is_committed), world.submitted.len()), (1, 2));
}

/// What is granted, and what is only held, stays charged: nobody else gets it.
#[test]
fn a_restart_gives_no_node_away() {
    for committed in [false, true] {
        let mut world = World::new(2);
        world.say(hold(part(2)));
        if committed {
            world.say(commit(V, HOUR));
        }
        world.restart();
        world.say(Event::GrcConnected);
        let addresses = vec![AddressBlock { first: [10, 71, 128, 100].into(), count: 1 }];
        world.say(hold_of(ReservationId(2), V, Part { addresses, ..part(1) }));
        assert!(matches!(refusal(&world), Refusal::NoRoom { have: 0, .. }), "{}", refusal(&world));
    }
}

#[test]
fn pilots_that_come_back_within_the_lease_go_on_as_if_nothing_had_been() {
    let mut world = joined(2);
    world.say(exec(Target::All));
    world.told.clear();
    world.restart();
    world.say(Event::GrcConnected);
    assert_eq!((world.site.holdings(), world.swept, world.alive.len()), ((2, 2), 0, 2));
    assert_eq!((world.heard(is_failed), world.submitted.len()), (0, 2));
    // The GRC asks how it stands, and is told as before.
    world.say(start(Epoch(1)));
    assert_eq!((world.heard(is_ready), world.heard(is_failed)), (1, 0));
    // A job that this CRM never heard of starts nothing, and what it has to say is asked for.
    world.say(exec(Target::All));
    assert_eq!((world.started.len(), world.heard(|m| matches!(m, FromSite::ExecFailed { .. }))), (2, 0));
    let resends = world.passed.iter().filter(|(_, request)| *request == Request::Resend { job: J });
    assert_eq!(resends.count(), 2);
    world.run_commands();
    assert_eq!(world.heard(|m| matches!(m, FromSite::Exited { .. })), 2);
}

#[test]
fn pilots_that_queue_arrive_at_the_next_crm() {
    let mut world = World::new(2);
    world.mute = true;
    world.say(hold(part(2)));
    world.say(commit(V, HOUR));
    assert_eq!((world.alive.len(), world.stand.len()), (2, 0));
    world.mute = false;
    world.restart();
    world.say(Event::GrcConnected);
    assert_eq!((world.submitted.len(), world.heard(is_failed)), (2, 0));
    world.return_all();
    world.say(start(Epoch(1)));
    assert!(world.heard(is_ready) > 0);
}

#[test]
fn a_crm_that_is_back_too_late_names_the_node_and_gives_everything_back_once_it_is_gone() {
    let mut world = joined(2);
    world.come_back = false;
    world.restart();
    world.say(Event::GrcConnected);
    world.told.clear();
    world.pass(Duration::from_secs(12));
    assert_eq!((world.heard(is_failed), world.site.holdings()), (0, (2, 2)));
    world.pass(Duration::from_secs(1));
    let failed = failure(&world);
    assert!(failed.cause.as_str().contains("restarted") && failed.node.is_some(), "{failed}");
    assert_eq!((world.site.holdings(), world.swept), ((0, 0), 2));
    world.say(start(Epoch(2)));
    assert_eq!(world.submitted.len(), 4);
}

#[test]
fn an_end_that_a_newer_epoch_asked_for_goes_on_over_a_restart() {
    let mut world = joined(2);
    world.mute = true;
    world.say(start(Epoch(2)));
    world.mute = false;
    world.restart();
    world.say(Event::GrcConnected);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.submitted.len(), 4, "the newer one begins when the older is gone");
    assert!(world.alive.iter().all(|pilot| pilot.round.0 == 2), "{:?}", world.alive);
}

#[test]
fn why_an_incarnation_failed_is_told_again_after_a_restart() {
    let mut world = joined(2);
    let state = Notice::StateChanged { state: State::TearingDown, cause: None };
    world.say(Event::Noticed { pilot: pilot(0), notice: state });
    let before = failure(&world).clone();
    world.restart();
    world.told.clear();
    world.say(Event::GrcConnected);
    assert_eq!(failure(&world), &before);
}

#[test]
fn a_pilot_that_does_not_go_keeps_node_and_address_over_restarts() {
    let mut world = joined(2);
    world.mute = true;
    world.say(Event::Grc(ToSite::End { reservation: R }));
    world.wait(|w| w.heard(is_ended) > 0);
    assert_eq!(world.records.keys().filter(|key| matches!(key, Key::Leftover(_))).count(), 2);
    world.restart();
    world.say(Event::GrcConnected);
    assert_eq!(world.site.holdings(), (2, 2));
    assert_eq!((world.offer().nodes_usable, world.offer().reserved.len()), (0, 2));
    world.mute = false;
    world.wait(|w| w.site.is_idle());
    nothing_is_left(&mut world, "after all");
}

#[test]
fn a_window_that_ended_meanwhile_is_over_at_once() {
    let mut world = joined(2);
    world.now += Duration::from_secs(3600);
    world.restart();
    nothing_is_left(&mut world, "too late");
}

/// As long as they would have without the restart: from when their window begins.
#[test]
fn pilots_that_were_submitted_long_before_their_window_wait_for_it_at_the_next_crm_too() {
    let mut world = World::new(1);
    let settings = Settings { lead: Duration::from_secs(3600), ..world.settings.clone() };
    world.settings = settings.clone();
    world.site = Site::new(settings, world.nodes.clone());
    world.say(Event::GrcConnected);
    world.mute = true;
    let window = Remaining { starts_in_ms: 1_800_000, ends_in_ms: 3_600_000 };
    world.say(hold(Part { window, ..part(1) }));
    world.say(commit(V, window));
    assert_eq!(world.submitted.len(), 1);
    world.come_back = false;
    world.restart();
    world.say(Event::GrcConnected);
    world.pass(Duration::from_secs(1800 + 59));
    assert_eq!(world.heard(is_failed), 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.heard(is_failed), 1);
}

/// An agent that dials again while its SETUP still waits for the journal is asked twice by one
/// connection, and refuses what it has done.
#[test]
fn a_setup_that_was_asked_twice_fails_nothing_once_the_sandbox_stands() {
    let asked_twice = Refusal::WrongState { what: "SETUP".into(), state: "ready".into() };
    for (refusal, fails) in [(asked_twice, 0), (Refusal::BadToken { why: "it is forged".into() }, 1)] {
        let mut world = World::new(1);
        world.say(hold(part(1)));
        world.say(commit(V, HOUR));
        assert_eq!(world.heard(is_ready), 1);
        let reply = Reply::Refused(refusal);
        world.say(Event::Answered { pilot: pilot(0), asked: Asked::Setup, reply });
        assert_eq!(world.heard(is_failed), fails);
    }
}

/// Which versions are over is not durable, but what is left of them is.
#[test]
fn a_reservation_that_is_held_again_takes_no_number_of_a_pilot_that_does_not_go() {
    let mut world = World::new(2);
    world.mute = true;
    world.say(hold(part(1)));
    world.say(commit(V, HOUR));
    world.say(Event::Grc(ToSite::End { reservation: R }));
    world.wait(|w| w.heard(is_ended) > 0);
    world.restart();
    world.say(Event::GrcConnected);
    world.say(hold(elsewhere(1)));
    world.say(commit(V, HOUR));
    assert_eq!(world.submitted, [pilot(0), of_round(2, 0)]);
    world.check();
}
