//! Incarnations: a standing reservation is begun anew when its sandboxes are lost, its grant is not.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{Epoch, ReservationId};
use protocol::job::{JobState, Target};
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, ToSite};

use crate::fake::*;
use crate::grid::*;

fn lost(grid: &mut Grid, reservation: ReservationId, epoch: u32) {
    let failure = Failure::new(Step::Running, "a pilot was lost", "").at_node(&"b1".parse().unwrap());
    grid.say("b", FromSite::Failed { reservation, epoch: Epoch(epoch), failure });
}

fn epoch(grid: &mut Grid, id: ReservationId) -> u32 {
    grid.reservation(id).epoch.0
}

#[test]
fn a_standing_reservation_is_begun_anew_and_keeps_everything_but_what_ran() {
    let mut grid = Grid::new();
    let id = grid.reserve(ask(&[("a", 2), ("b", 2)]));
    let running = grid.submit_in(id, job(Target::All));
    let before = grid.reservation(id);
    lost(&mut grid, id, 1);
    assert_eq!(grid.state(id), "starting");
    let JobState::Failed(failure) = grid.job(running).state else { panic!() };
    assert_eq!(failure.to_string(), "running, site b, node b1: a pilot was lost");
    let waiting = grid.submit_in(id, job(Target::Head));
    assert_eq!(grid.sent("a", |m| matches!(m, ToSite::Start { .. })), 0, "not before the pause is over");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Last)) else {
        panic!()
    };
    assert!(why.reasons.iter().any(|reason| reason.as_str().contains("a pilot was lost")), "{why:?}");
    assert!(why.deadline_s.is_some());
    grid.pass(Duration::from_secs(1));
    assert_eq!((grid.state(id).as_str(), epoch(&mut grid, id)), ("ready", 2));
    assert_eq!(grid.job(waiting).state, JobState::Running);
    let after = grid.reservation(id);
    assert_eq!((after.version, after.ends_s), (before.version, before.ends_s));
    for name in ["a", "b"] {
        let second = |m: &ToSite| matches!(m, ToSite::Start { epoch: Epoch(2), .. });
        assert_eq!(grid.sent(name, second), 1, "every site begins anew");
    }
    lost(&mut grid, id, 1);
    assert_eq!(grid.state(id), "ready", "news of an older incarnation are old");
    grid.request("u", Request::Release(Selector::Last));
    grid.assert_nothing_left();
}

#[test]
fn the_next_epoch_is_durable_before_any_site_hears_of_it() {
    let mut grid = Grid::new();
    let id = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    lost(&mut grid, id, 1);
    grid.pass(Duration::from_secs(1));
    let mut durable = Epoch::FIRST;
    for action in &grid.actions {
        use grc::coordinator::{Action, Record};
        match action {
            Action::Record(Record::Put(grc::record::Value::Reservation(saved))) => durable = saved.epoch,
            Action::Send { message: ToSite::Start { epoch, .. }, .. } => assert!(*epoch <= durable),
            _ => {}
        }
    }
    assert_eq!(durable, Epoch(2));
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!((grid.state(id).as_str(), epoch(&mut grid, id)), ("ready", 2));
}

#[test]
fn pauses_between_incarnations_double_up_to_a_minute() {
    let mut grid = Grid::new();
    let mut long = ask(&[("a", 1), ("b", 1)]);
    long.duration_s = 100_000;
    let id = grid.reserve(long);
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Start);
    let mut pauses = Vec::new();
    for epoch in 1..10 {
        lost(&mut grid, id, epoch);
        let begun = grid.now;
        while self::epoch(&mut grid, id) == epoch {
            grid.pass(Duration::from_secs(1));
        }
        pauses.push((grid.now - begun).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

/// For what stands, the deadline of an incarnation is the end of that incarnation only.
#[test]
fn an_incarnation_that_is_not_ready_in_time_is_begun_anew_and_the_grant_stands() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Join);
    let id = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    assert_eq!(grid.state(id), "joining");
    grid.pass(Duration::from_secs(60));
    assert_eq!(grid.state(id), "starting");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Last)) else {
        panic!()
    };
    assert!(why.reasons.iter().any(|r| r.as_str().contains("site b: in time 0 of 1 members")), "{why:?}");
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    grid.pass(Duration::from_secs(2));
    assert_eq!((grid.state(id).as_str(), epoch(&mut grid, id)), ("ready", 2));
}

#[test]
fn the_window_ends_whatever_incarnation_is_on() {
    let mut grid = Grid::new();
    let mut short = ask(&[("a", 1), ("b", 1)]);
    short.duration_s = 60;
    let id = grid.reserve(short);
    grid.pass(Duration::from_secs(58));
    for epoch in 1..3 {
        lost(&mut grid, id, epoch);
        grid.pass(Duration::from_secs(1));
    }
    assert_eq!(grid.state(id), "ended");
    grid.pass(Duration::from_secs(5));
    grid.assert_nothing_left();
}
