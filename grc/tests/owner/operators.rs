//! Operators see everybody's things and may end and change them; it is said in the log and shown to
//! those whose they are. They start nothing in another's name.

use grc::coordinator::{Action, Coordinator};
use protocol::client::{Reply, Request, Selector};
use protocol::job::{ExitStatus, JobState, Target};
use protocol::refusal::Refusal;
use protocol::reservation::{Change, ReservationState};

use crate::fake::Mute;
use crate::grid::*;
use crate::windows::now;

fn operated() -> Grid {
    let mut grid = Grid::disconnected(&[("a", 4, &["10.1.0.0/27"]), ("b", 4, &["10.1.0.0/27"])]);
    grid.settings.limits.operators.insert("op".parse().unwrap());
    grid.owner = Coordinator::new(grid.settings.clone());
    grid.connect("a");
    grid.connect("b");
    grid
}

/// What the administrator reads.
fn said(grid: &Grid, words: &str) -> bool {
    let said =
        |action: &Action| matches!(action, Action::Report { what, .. } if what.as_str().contains(words));
    grid.actions.iter().any(said)
}

fn longer() -> Change {
    Change { duration_s: Some(7200), ..Change::default() }
}

#[test]
fn an_operator_sees_all_and_others_see_what_they_saw() {
    let mut grid = operated();
    let (job, reservation) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    let (j, r) = (Selector::Id(job), Selector::Id(reservation));
    for request in [
        Request::ShowJob(j),
        Request::ExplainJob(j),
        Request::ShowReservation(r),
        Request::ExplainReservation(r),
        Request::Usage(r),
    ] {
        assert_eq!(grid.request("op", request.clone()), grid.request("u", request.clone()), "{request:?}");
        assert!(matches!(grid.request("v", request), Reply::Refused(refusal) if refusal.is_not_found()));
    }
    for request in [Request::Jobs, Request::Reservations] {
        assert_eq!(grid.request("op", request.clone()), grid.request("u", request));
    }
    assert_eq!(grid.request("v", Request::Jobs), Reply::Jobs(vec![]));
    assert_eq!(grid.request("op", Request::ShowJob(Selector::Last)), Reply::Refused(Refusal::NothingYet));
    let log = Request::Log { job: j, stream: protocol::job::Stream::Stdout, offset: 0, follow: false };
    grid.post("op", log);
    assert!(matches!(grid.actions.last(), Some(Action::ReadLog { job: one, .. }) if *one == job));
}

#[test]
fn what_an_operator_ends_is_shown_as_ended_by_him_also_after_a_restart() {
    let mut grid = operated();
    let (first, _) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    assert_eq!(grid.request("op", Request::Cancel(Selector::Id(first))), Reply::Done);
    assert_eq!(grid.job(first).state, JobState::Running, "it has time to end");
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    grid.exit("a", first, 0, ExitStatus::Signal(15));
    let JobState::Failed(failure) = grid.job(first).state else { panic!("{:?}", grid.job(first).state) };
    assert_eq!(failure.cause.as_str(), "ended by operator op");
    assert!(said(&grid, "job j1 of u: end: ended by operator op"));
    let second = grid.reserve(now(&[("a", 1)]));
    assert_eq!(grid.request("op", Request::Release(Selector::Id(second))), Reply::Done);
    let ReservationState::Failed(failure) = grid.reservation(second).state else { panic!() };
    assert_eq!(failure.cause.as_str(), "ended by operator op");
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!(grid.failure(second), failure);
    // Of his own things nothing is said.
    let id = grid.fresh_id();
    let Reply::Reserved(own) = grid.request("op", Request::Reserve { id, ask: now(&[("a", 1)]) }) else {
        panic!()
    };
    grid.request("op", Request::Release(Selector::Id(own)));
    let Reply::Reservation(view) = grid.request("op", Request::ShowReservation(Selector::Id(own))) else {
        panic!()
    };
    assert_eq!(view.state, ReservationState::Ended);
    grid.assert_nothing_left();
}

#[test]
fn an_operators_change_is_answered_to_him_and_stays_with_the_reservation() {
    let mut grid = operated();
    let id = grid.reserve(now(&[("a", 1)]));
    let request = grid.fresh_id();
    let modify = Request::Modify { id: request, reservation: id, change: longer() };
    let done = grid.request("op", modify.clone());
    assert!(matches!(done, Reply::Modified { .. }), "{done:?}");
    assert_eq!(grid.request("op", modify), done, "repeated, and not done twice");
    assert_eq!(grid.reservation(id).version.0, 2);
    assert!(said(&grid, "operator op changed it"));
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Id(id))) else {
        panic!()
    };
    assert!(why.reasons.iter().any(|reason| reason.as_str().contains("operator op changed it")), "{why:?}");
}

#[test]
fn an_operator_starts_nothing_in_anothers_name_and_touches_nothing_that_nobody_was_told_of() {
    let mut grid = operated();
    let id = grid.reserve(now(&[("a", 1)]));
    let request = Request::SubmitIn { id: grid.fresh_id(), reservation: id, job: job(Target::Head) };
    assert_eq!(grid.request("op", request), Reply::Refused(Refusal::UnknownReservation { id }));
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Hold);
    let asked = grid.fresh_id();
    let open = grid.post("u", Request::Reserve { id: asked, ask: now(&[("b", 1)]) });
    let next = protocol::ids::ReservationId(id.0 + 1);
    for request in [
        Request::ShowReservation(Selector::Id(next)),
        Request::Release(Selector::Id(next)),
        Request::Modify { id: grid.fresh_id(), reservation: next, change: longer() },
    ] {
        assert_eq!(grid.request("op", request), Reply::Refused(Refusal::UnknownReservation { id: next }));
    }
    assert!(!grid.answers.contains_key(&open));
}

/// Refused, repeated, or given up because a site refuses it: nothing was done, so nothing is said.
#[test]
fn of_an_operators_change_only_what_came_into_force_is_said_and_only_once() {
    let mut grid = operated();
    let id = grid.reserve(now(&[("a", 1), ("b", 1)]));
    let remarks = |grid: &mut Grid| {
        let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Id(id))) else {
            panic!()
        };
        why.reasons.iter().filter(|reason| reason.as_str().contains("operator")).count()
    };
    let over = Change { duration_s: Some(0), ..Change::default() };
    let request = grid.fresh_id();
    let refused = grid.request("op", Request::Modify { id: request, reservation: id, change: over });
    assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(Refusal::SiteDown { site: site("b") });
    let request = grid.fresh_id();
    let refused = grid.request("op", Request::Modify { id: request, reservation: id, change: longer() });
    assert!(matches!(refused, Reply::Refused(_) | Reply::Failed(_)), "{refused:?}");
    assert_eq!((remarks(&mut grid), said(&grid, "operator op")), (0, false));
    let modify = Request::Modify { id: grid.fresh_id(), reservation: id, change: longer() };
    let done = grid.request("op", modify.clone());
    assert!(matches!(done, Reply::Modified { .. }), "{done:?}");
    assert_eq!((grid.request("op", modify.clone()), grid.request("op", modify)), (done.clone(), done));
    assert_eq!(remarks(&mut grid), 1);
}
