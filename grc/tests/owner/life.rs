//! The way of a reservation when everything goes well, and waiting for busy nodes.

use std::time::Duration;

use protocol::client::{Notice, Reply, Request, Selector};
use protocol::job::{ExitStatus, JobState, Target};
use protocol::refusal::Refusal;
use protocol::reservation::{Placement, ReservationState};
use protocol::site::ToSite;

use crate::fake::*;
use crate::grid::*;

#[test]
fn a_job_runs_over_two_sites_and_everything_is_given_back() {
    let mut grid = Grid::new();
    let (id, reservation) = grid.submit(ask(&[("b", 2), ("a", 1)]), job(Target::Head));
    assert_eq!(grid.state(reservation), "ready");
    let view = grid.reservation(reservation);
    assert_eq!(view.parts.iter().map(|part| part.members.len()).collect::<Vec<_>>(), [2, 1]);
    let view = grid.job(id);
    assert_eq!(view.state, JobState::Running);
    assert_eq!(view.head.unwrap().to_string(), "b-0", "the first site has the head");
    let rings: Vec<_> = ["a", "b"]
        .iter()
        .flat_map(|name| grid.sites[&site(name)].sent.iter())
        .filter_map(|message| if let ToSite::Join { ring, .. } = message { Some(ring) } else { None })
        .collect();
    assert_eq!(rings.len(), 2);
    assert_eq!(rings[0], rings[1], "every site gets the same ring");
    let hosts: Vec<String> = rings[0].members.iter().map(|member| member.host.to_string()).collect();
    assert_eq!(hosts, ["b-0", "b-1", "a-0"]);
    grid.exit("b", id, 0, ExitStatus::Code(42));
    assert_eq!(grid.job(id).state, JobState::Done(ExitStatus::Code(42)));
    assert_eq!(grid.state(reservation), "ended", "its own reservation ends with the job");
    grid.assert_nothing_left();
}

#[test]
fn the_number_of_messages_to_a_site_does_not_depend_on_the_number_of_nodes() {
    let mut counts = Vec::new();
    for nodes in [1, 4] {
        let mut grid = Grid::new();
        let (id, _) = grid.submit(ask(&[("a", nodes), ("b", nodes)]), job(Target::All));
        for member in 0..nodes {
            grid.exit("a", id, member, ExitStatus::Code(0));
            grid.exit("b", id, member, ExitStatus::Code(0));
        }
        assert!(grid.job(id).state.is_final());
        // Welcomes answer the site's own offers, and each exit is acknowledged.
        let answers = |message: &ToSite| matches!(message, ToSite::Welcome | ToSite::ExitSaved { .. });
        counts.push(grid.sent("a", |message| !answers(message)));
    }
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn a_reservation_runs_jobs_beside_each_other_until_it_is_released() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let jobs = [(); 3].map(|()| grid.submit_in(reservation, job(Target::Head)));
    grid.exit("a", jobs[1], 0, ExitStatus::Code(0));
    assert_eq!(grid.state(reservation), "ready", "a standing reservation outlives its jobs");
    assert_eq!(grid.job(jobs[0]).state, JobState::Running);
    assert_eq!(grid.request("u", Request::Release(Selector::Last)), Reply::Done);
    assert_eq!(grid.job(jobs[0]).state, JobState::Cancelled);
    assert_eq!(grid.job(jobs[1]).state, JobState::Done(ExitStatus::Code(0)));
    assert_eq!(grid.state(reservation), "ended");
    grid.assert_nothing_left();
    let again = Request::Release(Selector::Id(reservation));
    assert_eq!(grid.request("u", again), Reply::Done, "repeatable");
    let id = grid.fresh_id();
    let late = grid.request("u", Request::SubmitIn { id, reservation, job: job(Target::Head) });
    assert!(matches!(late, Reply::Refused(Refusal::ReservationOver { .. })), "{late:?}");
}

#[test]
fn who_finds_nodes_busy_waits_and_goes_on_when_they_are_free() {
    let mut grid = Grid::new();
    let first = grid.reserve(ask(&[("a", 4)]));
    let second = grid.reserve(ask(&[("a", 2), ("b", 1)]));
    let third = grid.reserve(ask(&[("b", 1)]));
    assert_eq!(grid.state(second), "waiting");
    assert_eq!(grid.state(third), "ready", "a later one that fits passes");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Id(second))) else {
        panic!()
    };
    assert!(why.reasons[0].as_str().contains("site a has 0 free nodes"), "{why:?}");
    assert!(why.deadline_s.is_some(), "no wait without a shown deadline");
    grid.request("u", Request::Release(Selector::Id(first)));
    assert_eq!(grid.state(second), "ready");
    for id in [second, third] {
        grid.request("u", Request::Release(Selector::Id(id)));
    }
    grid.assert_nothing_left();
}

#[test]
fn a_site_that_is_busy_though_its_offer_said_otherwise_is_asked_again_later() {
    let mut grid = Grid::new();
    let busy = Refusal::NodesBusy { site: site("b"), asked: 1, have: 0 };
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(busy);
    let id = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    assert_eq!(grid.state(id), "waiting");
    grid.assert_nothing_left();
    grid.pass(Duration::from_secs(1));
    assert_eq!(grid.state(id), "ready");
    let versions: Vec<_> = grid.sites[&site("b")]
        .sent
        .iter()
        .filter_map(|m| if let ToSite::Hold { version, .. } = m { Some(*version) } else { None })
        .collect();
    assert!(versions[0] < versions[1], "late news of the first attempt cannot be taken for the second's");
}

#[test]
fn anywhere_prefers_one_site() {
    let mut grid = Grid::new();
    let mut wanted = ask(&[]);
    wanted.placement = Placement::Anywhere(3);
    let one = grid.reserve(wanted.clone());
    assert_eq!(grid.reservation(one).parts.len(), 1);
    let two = grid.reserve(wanted);
    assert_eq!(grid.reservation(two).parts.len(), 1);
    let mut rest = ask(&[]);
    rest.placement = Placement::Anywhere(2);
    let split = grid.reserve(rest);
    assert_eq!(grid.reservation(split).parts.len(), 2);
}

#[test]
fn who_waits_hears_of_every_change_and_is_answered_once() {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Start);
    let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    let for_job = grid.post("u", Request::WaitJob(Selector::Last));
    let for_ready = grid.post("u", Request::WaitReservation(Selector::Id(reservation)));
    let fake = &grid.sites[&site("b")];
    let epoch = protocol::ids::Epoch::FIRST;
    let members = ready(&site("b"), reservation, epoch, fake.part(reservation));
    grid.say("b", protocol::site::FromSite::SiteReady { reservation, epoch, round: 1, members });
    assert!(matches!(grid.answers.get(&for_ready), Some(Reply::Reservation(view))
        if view.state == ReservationState::Ready && view.parts[0].members.len() == 1));
    let mut states: Vec<String> = grid
        .notices
        .iter()
        .filter(|(correlation, _)| *correlation == for_ready)
        .map(|(_, notice)| match notice {
            Notice::Reservation(view) => view.state.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    states.dedup();
    assert_eq!(states, ["starting", "joining"]);
    assert!(!grid.answers.contains_key(&for_job));
    grid.exit("a", id, 0, ExitStatus::Signal(9));
    let Some(Reply::Job(view)) = grid.answers.get(&for_job) else { panic!() };
    assert_eq!(view.state, JobState::Done(ExitStatus::Signal(9)));
    let late = grid.request("u", Request::WaitJob(Selector::Id(id)));
    assert!(matches!(late, Reply::Job(_)), "what is over already is answered at once");
}

#[test]
fn the_end_of_the_time_ends_a_reservation_and_fails_what_runs() {
    let mut grid = Grid::new();
    let mut short = ask(&[("a", 1)]);
    short.duration_s = 60;
    let (id, reservation) = grid.submit(short, job(Target::Head));
    grid.pass(Duration::from_secs(59));
    assert_eq!(grid.state(reservation), "ready");
    grid.pass(Duration::from_secs(2));
    assert_eq!(grid.state(reservation), "ended");
    let JobState::Failed(failure) = grid.job(id).state else { panic!() };
    assert!(failure.to_string().contains("its time of 60 s is over"), "{failure}");
    grid.assert_nothing_left();
}
