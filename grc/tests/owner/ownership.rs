//! Whose things are whose, what is refused before anything changes, and requests that come twice.

use grc::coordinator::{Action, ConnectionId, Event, Record};
use grc::record::Value;
use protocol::client::{Reply, Request, Selector};
use protocol::ids::{JobId, RequestId, ReservationId};
use protocol::job::{Stream, Target};
use protocol::refusal::Refusal;
use protocol::reservation::{Ask, Placement};
use protocol::site::{FromSite, ToSite};

use crate::fake::*;
use crate::grid::*;

#[test]
fn another_users_things_do_not_exist() {
    let mut grid = Grid::new();
    let (job_id, reservation) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    let (j, r) = (Selector::Id(job_id), Selector::Id(reservation));
    let stream = Stream::Stdout;
    let requests = [
        Request::ShowJob(j),
        Request::WaitJob(j),
        Request::Cancel(j),
        Request::ExplainJob(j),
        Request::Log { job: j, stream, offset: 0, follow: false },
        Request::ShowReservation(r),
        Request::WaitReservation(r),
        Request::Release(r),
        Request::ExplainReservation(r),
        Request::SubmitIn { id: RequestId([9; 16]), reservation, job: job(Target::Head) },
    ];
    for request in requests {
        let Reply::Refused(refusal) = grid.request("mallory", request.clone()) else { panic!("{request:?}") };
        let unknown = [Refusal::UnknownJob { id: job_id }, Refusal::UnknownReservation { id: reservation }];
        assert!(unknown.contains(&refusal), "{request:?}: {refusal}");
        assert!(refusal.is_not_found());
    }
    let nobody = Request::ShowJob(Selector::Id(JobId(999)));
    assert_eq!(grid.request("u", nobody), Reply::Refused(Refusal::UnknownJob { id: JobId(999) }));
    assert_eq!(
        grid.request("mallory", Request::ShowJob(Selector::Last)),
        Reply::Refused(Refusal::NothingYet)
    );
    assert_eq!(grid.request("mallory", Request::Jobs), Reply::Jobs(vec![]));
    assert_eq!(grid.request("mallory", Request::Reservations), Reply::Reservations(vec![]));
    assert_eq!(grid.state(reservation), "ready", "nothing of it was touched");
}

#[test]
fn a_repeated_request_is_answered_and_not_repeated() {
    let mut grid = Grid::new();
    let id = RequestId([7; 16]);
    let submit = Request::Submit { id, ask: ask(&[("a", 1)]), job: job(Target::Head) };
    let first = grid.request("u", submit.clone());
    assert_eq!(grid.request("u", submit.clone()), first);
    assert_eq!(grid.sent("a", |message| matches!(message, ToSite::Exec { .. })), 1);
    let others = grid.request("v", submit);
    assert_ne!(others, first, "the same id of another user is another request");
    let refused = Request::Reserve { id: RequestId([8; 16]), ask: ask(&[("nowhere", 1)]) };
    assert_eq!(grid.request("u", refused.clone()), grid.request("u", refused));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let mut grid = Grid::disconnected(&[
        ("a", 4, &["10.1.0.0/27"]),
        ("down", 4, &["10.1.1.0/24"]),
        ("tiny", 4, &["10.1.2.0/30"]),
    ]);
    grid.connect("a");
    grid.connect("tiny");
    let mut empty = job(Target::Head);
    empty.command.argv.clear();
    let bad_slots = Ask { slots: 0, ..ask(&[("a", 1)]) };
    let no_time = Ask { duration_s: 0, ..ask(&[("a", 1)]) };
    let anywhere = Ask { placement: Placement::Anywhere(99), ..ask(&[]) };
    let cases: Vec<(Ask, Option<_>, &str)> = vec![
        (ask(&[("nowhere", 1)]), None, "no site is called nowhere"),
        (ask(&[("down", 1)]), None, "site down is not connected"),
        (ask(&[("a", 5)]), None, "site a has 4 usable nodes in all, 5 were asked"),
        (ask(&[("a", 0)]), None, "at least one node"),
        (ask(&[]), None, "at least one node"),
        (ask(&[("a", 1), ("a", 1)]), None, "named twice"),
        (ask(&[("tiny", 3)]), None, "no free address left"),
        (anywhere, None, "all sites together have 8"),
        (bad_slots, None, "slots"),
        (no_time, None, "seconds"),
        (ask(&[("a", 1)]), Some(empty), "the command is empty"),
    ];
    for (ask, command, sentence) in cases {
        let id = grid.fresh_id();
        let request = match command {
            Some(job) => Request::Submit { id, ask, job },
            None => Request::Reserve { id, ask },
        };
        let Reply::Refused(refusal) = grid.request("u", request) else { panic!("{sentence}") };
        assert!(refusal.to_string().contains(sentence), "{refusal}");
    }
    assert_eq!(grid.request("u", Request::Reservations), Reply::Reservations(vec![]));
    grid.assert_nothing_left();
}

#[test]
fn one_user_cannot_take_all_reservations() {
    let mut grid = Grid::new();
    let first = grid.reserve(ask(&[("a", 4), ("b", 4)]));
    for _ in 1..RESERVATIONS_PER_USER {
        grid.reserve(ask(&[("a", 1)]));
    }
    let id = grid.fresh_id();
    let over = grid.request("u", Request::Reserve { id, ask: ask(&[("a", 1)]) });
    assert!(matches!(over, Reply::Refused(Refusal::TooMany { .. })), "{over:?}");
    let id = RequestId([1; 16]);
    let other = grid.request("v", Request::Reserve { id, ask: ask(&[("a", 1)]) });
    assert!(matches!(other, Reply::Reserved(_)));
    grid.request("u", Request::Release(Selector::Id(first)));
    grid.reserve(ask(&[("a", 1)]));
}

#[test]
fn ids_are_made_durable_before_they_are_told() {
    let mut grid = Grid::new();
    let mut durable = 1;
    for _ in 0..600 {
        let id = grid.reserve(ask(&[("a", 1)]));
        grid.request("u", Request::Release(Selector::Id(id)));
    }
    for action in &grid.actions {
        match action {
            Action::Record(Record::Put(Value::Ids(ids))) => durable = ids.reservation,
            Action::Answer { reply: Reply::Reserved(ReservationId(id)), .. } => {
                assert!(*id < durable, "r{id} was told before it was durable");
            }
            _ => {}
        }
    }
    assert!(durable >= 600);
}

#[test]
fn a_site_that_publishes_what_it_may_not_is_refused_by_name_and_the_reason_is_kept() {
    let mut grid = Grid::disconnected(&[("a", 4, &["10.2.0.0/24"]), ("b", 4, &["10.1.0.0/24"])]);
    grid.connect("a");
    let range = "10.2.0.0/24".into();
    let refusal = Refusal::RangeNotAllowed { site: site("a"), range };
    assert_eq!(grid.sites[&site("a")].sent, [ToSite::Refused(refusal.clone())]);
    assert!(matches!(grid.actions.last(), Some(Action::Disconnect { connection: ConnectionId(0) })));
    let Reply::Sites(views) = grid.request("u", Request::Sites) else { panic!() };
    assert!(!views[0].connected);
    assert_eq!(views[0].problems, [refusal.to_string().into()]);
    grid.sites.get_mut(&site("a")).unwrap().ranges = vec!["10.1.0.0/24"];
    grid.connect("a");
    let Reply::Sites(views) = grid.request("u", Request::Sites) else { panic!() };
    assert!(views[0].connected && views[0].problems.is_empty());
    let offer = offer(&grid.sites[&site("a")]);
    let message = FromSite::Publish { site: site("b"), offer };
    grid.step(Event::FromSite { site: site("a"), connection: ConnectionId(9), message });
    let unknown = ToSite::Refused(Refusal::UnknownPeer { who: "site b".into() });
    assert!(
        grid.actions
            .iter()
            .any(|action| matches!(action, Action::Send { message, .. } if *message == unknown))
    );
}
