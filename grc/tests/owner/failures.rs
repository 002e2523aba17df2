//! Deadlines, sites that are away and sites that lie, at every state.

use std::time::Duration;

use protocol::client::{Reply, Request, Selector};
use protocol::ids::{Epoch, Version};
use protocol::job::{JobState, Target};
use protocol::keys::PublicKey;
use protocol::names::SiteName;
use protocol::refusal::{Failure, Refusal, Step};
use protocol::reservation::{Ask, Start};
use protocol::site::{FromSite, ToSite};

use crate::fake::*;
use crate::grid::*;

fn muted(mute: Mute) -> Grid {
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().mute.insert(mute);
    grid
}

/// Site b does not answer one step: the failure names that step and site b, the job fails with
/// it, and site a has nothing left.
#[test]
fn every_deadline_ends_the_wait_and_names_step_and_site() {
    let cases = [
        (Mute::Commit, "starting", 90, Step::Commit),
        // As long as pilots may wait in the queue, and what is needed to build.
        (Mute::Start, "starting", 90 + 60, Step::Pilots),
        (Mute::Join, "joining", 60, Step::SetKeys),
    ];
    for (mute, state, seconds, step) in cases {
        let mut grid = muted(mute);
        let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
        assert_eq!(grid.state(reservation), state);
        assert_eq!(grid.reservation(reservation).deadline_s, Some(1_000_000 + seconds));
        grid.pass(Duration::from_secs(seconds - 1));
        assert_eq!(grid.state(reservation), state);
        grid.pass(Duration::from_secs(2));
        let failure = grid.failure(reservation);
        assert_eq!((failure.step, failure.site.as_ref()), (step, Some(&site("b"))), "{failure}");
        assert_eq!(grid.job(id).state, JobState::Failed(failure));
        grid.assert_nothing_left();
    }
}

#[test]
fn a_site_that_does_not_answer_a_hold_is_named_within_five_seconds_and_the_other_is_free() {
    let mut grid = muted(Mute::Hold);
    let now = Ask { start: Start::Within { wait_s: 0 }, ..ask(&[("a", 4), ("b", 1)]) };
    let id = grid.fresh_id();
    let request = Request::Reserve { id, ask: now };
    let correlation = grid.post("u", request.clone());
    assert!(!grid.answers.contains_key(&correlation));
    assert_eq!(grid.sites[&site("a")].kept.len(), 1);
    let again = grid.post("u", request.clone());
    grid.pass(Duration::from_secs(5));
    let Some(Reply::Failed(failure)) = grid.answers.get(&correlation).cloned() else { panic!() };
    assert_eq!((failure.step, failure.site.as_ref()), (Step::Hold, Some(&site("b"))), "{failure}");
    assert_eq!(failure.to_string().lines().count(), 2, "{failure}");
    assert_eq!(grid.answers.get(&again), Some(&Reply::Failed(failure.clone())), "who asked again too");
    assert_eq!(grid.request("u", request), Reply::Failed(failure));
    assert_eq!(grid.request("u", Request::Reservations), Reply::Reservations(vec![]), "nothing remains");
    grid.assert_nothing_left();
    let held = grid.sent("b", |message| matches!(message, ToSite::Hold { .. }));
    assert!(held >= 3, "it was asked {held} times");
}

#[test]
fn what_may_wait_is_tried_again_when_a_site_did_not_answer() {
    let mut grid = muted(Mute::Hold);
    let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    grid.pass(Duration::from_secs(6));
    assert_eq!(grid.state(reservation), "waiting");
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Last)) else {
        panic!()
    };
    assert!(why.reasons.iter().any(|r| r.as_str().contains("hold, site b: no answer in 5 s")), "{why:?}");
    grid.assert_nothing_left();
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    grid.pass(Duration::from_secs(60));
    assert_eq!(grid.state(reservation), "ready");
    assert_eq!(grid.job(id).state, JobState::Running);
}

#[test]
fn a_site_that_does_not_confirm_the_end_keeps_what_it_has_until_it_does() {
    let mut grid = muted(Mute::End);
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 4)]));
    grid.request("u", Request::Release(Selector::Last));
    assert_eq!(grid.state(reservation), "ending");
    grid.pass(Duration::from_secs(31));
    let failure = grid.failure(reservation);
    assert_eq!((failure.step, failure.site), (Step::End, Some(site("b"))));
    assert_eq!((grid.taken().count(), grid.owner.owed()), (4, 1));
    let second = grid.reserve(ask(&[("b", 1)]));
    assert_eq!(grid.state(second), "waiting", "its nodes are not free either");
    grid.restart();
    grid.connect("a");
    grid.connect("b");
    assert_eq!((grid.taken().count(), grid.owner.owed()), (4, 1));
    assert_eq!(grid.state(second), "waiting");
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    grid.pass(Duration::from_secs(30));
    assert_eq!(
        (grid.state(second).as_str(), grid.owner.owed()),
        ("ready", 0),
        "it was asked again and confirmed"
    );
    grid.request("u", Request::Release(Selector::Last));
    grid.assert_nothing_left();
}

#[test]
fn what_was_never_confirmed_comes_back_when_the_site_must_have_ended_it_by_itself() {
    let mut grid = muted(Mute::End);
    let mut short = ask(&[("a", 1), ("b", 2)]);
    short.duration_s = 600;
    grid.reserve(short);
    grid.request("u", Request::Release(Selector::Last));
    grid.pass(Duration::from_secs(600 + 29));
    assert_eq!(grid.taken().count(), 2, "quarantine and margin are 30 s together");
    grid.sites.get_mut(&site("b")).unwrap().kept.clear();
    grid.pass(Duration::from_secs(40));
    grid.assert_nothing_left();
}

/// What the sites keep silent about decides in which state the loss of b finds the reservation.
#[test]
fn a_connection_that_breaks_disturbs_nothing_in_any_state() {
    let cases = [
        (Some(Mute::Hold), "holding", 5),
        (Some(Mute::Commit), "starting", 80),
        (Some(Mute::Start), "starting", 80),
        (Some(Mute::Join), "joining", 50),
        (None, "ready", 3000),
    ];
    for (mute, state, away_s) in cases {
        let mut grid = Grid::new();
        grid.sites.get_mut(&site("b")).unwrap().mute.extend(mute);
        let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 2)]), job(Target::Head));
        assert_eq!(grid.state(reservation), state);
        grid.lose("b");
        grid.pass(Duration::from_secs(away_s - 1));
        assert_eq!(grid.state(reservation), state, "{mute:?}");
        let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Last)) else {
            panic!()
        };
        let away = |reason: &protocol::names::Text| reason.as_str().contains("site b has been away for");
        assert!(why.reasons.iter().any(away), "{why:?}");
        grid.sites.get_mut(&site("b")).unwrap().mute.clear();
        grid.connect("b");
        assert_eq!(grid.state(reservation), "ready", "{mute:?}");
        assert_eq!(grid.job(id).state, JobState::Running);
        let execs = grid.sent("a", |m| matches!(m, ToSite::Exec { epoch, .. } if *epoch != Epoch::FIRST));
        assert_eq!(execs, 0, "it was never begun anew");
    }
}

#[test]
fn who_waits_for_a_job_hears_when_a_site_of_it_goes_and_when_it_is_back() {
    let mut grid = Grid::new();
    let (id, _) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    let (elsewhere, _) = grid.submit(ask(&[("a", 1)]), job(Target::Head));
    let waits = grid.post("u", Request::WaitJob(Selector::Id(id)));
    grid.post("u", Request::WaitJob(Selector::Id(elsewhere)));
    let told = |grid: &mut Grid, change: fn(&mut Grid)| {
        grid.notices.clear();
        change(grid);
        grid.notices.iter().map(|(asker, _)| *asker).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut grid, |grid| grid.lose("b")), [waits]);
    // What it reads then.
    let Reply::Explained(why) = grid.request("u", Request::ExplainJob(Selector::Id(id))) else { panic!() };
    let named = "site b has been away for 0s (the connection was lost: cut); what it holds stays held";
    assert_eq!(why.reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>(), [named]);
    assert_eq!(told(&mut grid, |grid| grid.connect("b")), [waits]);
    let Reply::Explained(why) = grid.request("u", Request::ExplainJob(Selector::Id(id))) else { panic!() };
    assert!(why.reasons.is_empty(), "{why:?}");
}

#[test]
fn a_beat_says_that_a_site_was_there_and_nothing_else() {
    let mut grid = Grid::new();
    let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    grid.pass(Duration::from_secs(100));
    grid.actions.clear();
    grid.say("b", FromSite::Beat);
    assert!(grid.actions.is_empty(), "{:?}", grid.actions);
    grid.pass(Duration::from_secs(10));
    grid.lose("b");
    let Reply::Explained(why) = grid.request("u", Request::ExplainJob(Selector::Id(id))) else { panic!() };
    assert!(why.reasons[0].as_str().starts_with("site b has been away for 10s"), "{why:?}");
    assert_eq!(grid.state(reservation), "ready");
}

#[test]
fn a_site_that_is_away_hears_of_the_end_when_it_is_back() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 2)]));
    grid.lose("b");
    grid.request("u", Request::Release(Selector::Last));
    assert_eq!(grid.state(reservation), "ending");
    grid.connect("b");
    assert_eq!(grid.state(reservation), "ended");
    grid.assert_nothing_left();
}

#[test]
fn a_waiting_reservation_outlives_the_loss_of_a_site_that_gave_it_nothing() {
    let mut grid = Grid::new();
    let first = grid.reserve(ask(&[("a", 4)]));
    let second = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    grid.lose("b");
    assert_eq!(grid.state(second), "waiting");
    grid.request("u", Request::Release(Selector::Id(first)));
    assert_eq!(grid.state(second), "waiting");
    grid.connect("b");
    assert_eq!(grid.state(second), "ready");
}

/// The one way to lose what was granted: the site itself has forgotten it.
#[test]
fn a_site_that_lost_its_share_ends_the_reservation_by_name_and_frees_the_others() {
    let mut grid = Grid::new();
    let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    grid.say("b", FromSite::Lost { reservation, version: Version(7) });
    assert_eq!(grid.state(reservation), "ready", "of a version that never was");
    grid.lose("b");
    grid.sites.get_mut(&site("b")).unwrap().kept.clear();
    grid.connect("b");
    let failure = grid.failure(reservation);
    assert_eq!((failure.step, failure.site.as_ref()), (Step::Commit, Some(&site("b"))), "{failure}");
    assert_eq!(grid.job(id).state, JobState::Failed(failure));
    grid.assert_nothing_left();
}

#[test]
fn an_incarnation_that_fails_ends_what_was_made_for_one_job_and_names_the_node() {
    let mut grid = muted(Mute::Start);
    let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 1)]), job(Target::Head));
    let elsewhere: SiteName = site("a");
    let failure =
        Failure::new(Step::Setup, "no memory", "").at_site(&elsewhere).at_node(&"b1".parse().unwrap());
    grid.say("b", FromSite::Failed { reservation, epoch: Epoch::FIRST, failure });
    let text = grid.failure(reservation).to_string();
    assert_eq!(text, "SETUP, site b, node b1: no memory", "a site speaks for itself only");
    assert!(matches!(grid.job(id).state, JobState::Failed(_)));
    grid.assert_nothing_left();
}

#[test]
fn a_hold_refused_for_good_fails_with_the_sites_sentence() {
    let refusal = Refusal::UserNotMapped { site: site("b"), user: "u".into() };
    let mut grid = Grid::new();
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(refusal.clone());
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let failure = grid.failure(reservation);
    assert_eq!(failure.step, Step::Hold);
    assert!(failure.to_string().contains("user u has no account at site b"), "{failure}");
    grid.assert_nothing_left();
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(refusal.clone());
    let id = grid.fresh_id();
    let now = Ask { start: Start::Within { wait_s: 60 }, ..ask(&[("a", 1), ("b", 1)]) };
    assert_eq!(grid.request("u", Request::Reserve { id, ask: now }), Reply::Refused(refusal));
    grid.assert_nothing_left();
}

#[test]
fn a_site_that_reports_what_is_not_its_own_ends_the_reservation_by_name() {
    type Lie = fn(&mut Vec<protocol::site::ReadyMember>);
    let lies: [(&str, Lie); 4] = [
        ("address 10.1.0.30", |members| members[0].address = "10.1.0.30".parse().unwrap()),
        ("member 7", |members| members[1].number = 7),
        ("reports 1 members", |members| members.truncate(1)),
        ("the same key", |members| members[0].keys.user = PublicKey(members[0].keys.host.0)),
    ];
    for (sentence, lie) in lies {
        let mut grid = muted(Mute::Start);
        let reservation = grid.reserve(ask(&[("a", 1), ("b", 2)]));
        let (epoch, part) = (Epoch::FIRST, grid.sites[&site("b")].part(reservation));
        let mut members = ready(&site("b"), reservation, epoch, part);
        lie(&mut members);
        grid.say("b", FromSite::SiteReady { reservation, epoch, round: 1, members });
        let failure = grid.failure(reservation);
        assert_eq!(failure.site, Some(site("b")));
        assert!(failure.to_string().contains(sentence), "{failure}");
        grid.assert_nothing_left();
    }
}

#[test]
fn keys_that_change_after_they_were_reported_end_the_reservation() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let (epoch, part) = (Epoch::FIRST, grid.sites[&site("b")].part(reservation));
    let members = ready(&site("b"), reservation, epoch, part);
    let again = FromSite::SiteReady { reservation, epoch, round: 1, members: members.clone() };
    grid.say("b", again);
    assert_eq!(grid.state(reservation), "ready", "a repeated report is harmless");
    let mut changed = members;
    changed[0].keys.host = PublicKey([77; 32]);
    grid.say("b", FromSite::SiteReady { reservation, epoch, round: 1, members: changed });
    assert!(grid.failure(reservation).to_string().contains("changes the keys"));
}

#[test]
fn news_of_another_incarnation_or_anothers_part_change_nothing() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1)]));
    let failure = Failure::new(Step::Setup, "x", "");
    for (name, epoch) in [("a", Epoch(0)), ("a", Epoch(2)), ("b", Epoch::FIRST)] {
        grid.say(name, FromSite::Failed { reservation, epoch, failure: failure.clone() });
        grid.say(name, FromSite::Joined { reservation, epoch });
    }
    grid.say("b", FromSite::Ended { reservation, dirty: vec![] });
    assert_eq!(grid.state(reservation), "ready");
    assert_eq!(grid.taken().count(), 1);
}

/// What is kept of a reservation is one record, and a record has its size.
#[test]
fn a_site_that_says_again_and_again_that_it_ended_adds_nothing_to_what_is_kept() {
    let mut grid = muted(Mute::Hold);
    let start = Start::Within { wait_s: 0 };
    let id = grid.fresh_id();
    grid.post("u", Request::Reserve { id, ask: Ask { start, ..ask(&[("a", 1), ("b", 1)]) } });
    let (reservation, _, _) = grid.owner.attempts()[0];
    let dirty = vec![("a1".parse().unwrap(), "left over".repeat(50).as_str().into()); 100];
    let before = grid.actions.len();
    for _ in 0..50 {
        grid.say("a", FromSite::Ended { reservation, dirty: dirty.clone() });
    }
    assert_eq!(grid.actions.len(), before, "nothing was begun, so nothing has ended");
    grid.sites.get_mut(&site("b")).unwrap().mute.clear();
    grid.pass(Duration::from_secs(3));
    assert_eq!(grid.state(reservation), "ready");
    grid.say("a", FromSite::Ended { reservation, dirty });
    let Reply::Explained(why) = grid.request("u", Request::ExplainReservation(Selector::Last)) else {
        panic!()
    };
    let told = why.reasons.iter().filter(|reason| reason.as_str().contains("is not clean")).count();
    assert_eq!(told, 16, "of the end itself some are kept by name");
}

/// Who is in the ring that everybody has does not change because we were away for a moment.
#[test]
fn keys_that_change_while_the_owner_is_away_end_the_reservation_also_when_it_was_ready() {
    for ready_before in [true, false] {
        let mut grid = muted(Mute::Join);
        let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
        if ready_before {
            grid.say("b", FromSite::Joined { reservation, epoch: Epoch::FIRST });
        }
        assert_eq!(grid.state(reservation), if ready_before { "ready" } else { "joining" });
        let (epoch, part) = (Epoch::FIRST, grid.sites[&site("b")].part(reservation));
        let mut members = ready(&site("b"), reservation, epoch, part);
        grid.restart();
        grid.connect("a");
        grid.sites.get_mut(&site("b")).unwrap().mute.insert(Mute::Start);
        grid.connect("b");
        let say = |grid: &mut Grid, members| {
            grid.say("b", FromSite::SiteReady { reservation, epoch, round: 1, members });
        };
        say(&mut grid, members.clone());
        let state = grid.state(reservation);
        assert!(["ready", "joining"].contains(&state.as_str()), "the same as before is harmless: {state}");
        grid.restart();
        grid.connect("a");
        grid.connect("b");
        members[0].keys.user = PublicKey([77; 32]);
        say(&mut grid, members);
        assert!(grid.failure(reservation).to_string().contains("changes the keys"));
    }
}
