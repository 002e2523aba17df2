//! Deadlines, lost sites and sites that lie, at every state.

use std::time::Duration;

use protocol::client::{Request, Selector};
use protocol::job::{JobState, Target};
use protocol::keys::PublicKey;
use protocol::names::SiteName;
use protocol::refusal::{Failure, Refusal, Step};
use protocol::site::FromSite;

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
        (Mute::Hold, "holding", 10, Step::Hold),
        (Mute::Commit, "starting", 90, Step::Pilots),
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
fn a_site_that_does_not_confirm_the_end_keeps_its_addresses_out_of_use_until_it_does() {
    let mut grid = muted(Mute::End);
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 2)]));
    grid.request("u", Request::Release(Selector::Last));
    assert_eq!(grid.state(reservation), "ending");
    grid.pass(Duration::from_secs(31));
    let failure = grid.failure(reservation);
    assert_eq!((failure.step, failure.site), (Step::End, Some(site("b"))));
    assert_eq!(grid.owner.taken_addresses().count(), 2);
    grid.pass(Duration::from_secs(100_000));
    assert_eq!(grid.owner.taken_addresses().count(), 2, "no time alone gives them back");
    let fake = grid.sites.get_mut(&site("b")).unwrap();
    let (&(reservation, epoch), _) = fake.granted.first_key_value().unwrap();
    fake.granted.clear();
    grid.say("b", FromSite::Ended { reservation, epoch, dirty: vec![] });
    grid.assert_nothing_left();
}

/// What the sites keep silent about decides in which state the loss of b finds the reservation.
#[test]
fn a_lost_site_fails_its_reservations_in_every_state_and_frees_the_others() {
    let cases = [
        (Some(Mute::Hold), "holding", Step::Hold),
        (Some(Mute::Commit), "starting", Step::Pilots),
        (Some(Mute::Join), "joining", Step::SetKeys),
        (None, "ready", Step::Running),
    ];
    for (mute, state, step) in cases {
        let mut grid = Grid::new();
        grid.sites.get_mut(&site("b")).unwrap().mute.extend(mute);
        let (id, reservation) = grid.submit(ask(&[("a", 1), ("b", 2)]), job(Target::Head));
        let other = grid.reserve(ask(&[("a", 1)]));
        assert_eq!(grid.state(reservation), state);
        grid.lose("b");
        let failure = grid.failure(reservation);
        assert_eq!((failure.step, failure.site.as_ref()), (step, Some(&site("b"))), "{failure}");
        assert!(failure.to_string().contains("site b lost"), "{failure}");
        assert_eq!(grid.job(id).state, JobState::Failed(failure));
        assert_eq!(grid.state(other), "ready", "others live on");
        grid.request("u", Request::Release(Selector::Id(other)));
        if state != "holding" {
            assert_eq!(grid.owner.taken_addresses().count(), 2, "in quarantine");
        }
        grid.pass(Duration::from_secs(21));
        grid.assert_nothing_left();
        grid.connect("b");
        let again = grid.reserve(ask(&[("b", 4)]));
        assert_eq!(grid.state(again), if mute.is_some() { state } else { "ready" });
    }
}

#[test]
fn a_site_lost_while_ending_is_not_waited_for() {
    let mut grid = muted(Mute::End);
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 2)]));
    grid.request("u", Request::Release(Selector::Last));
    grid.lose("b");
    assert_eq!(grid.state(reservation), "ended");
    grid.pass(Duration::from_secs(21));
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

#[test]
fn a_site_that_dials_again_has_lost_what_it_had() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("b", 1)]));
    let fake = grid.sites.get_mut(&site("b")).unwrap();
    let until = grid.now + Duration::from_secs(20);
    fake.orphans.extend(std::mem::take(&mut fake.granted).into_values().map(|part| (until, part)));
    grid.connect("b");
    assert!(grid.failure(reservation).to_string().contains("site b lost"));
    let news = grid.reserve(ask(&[("b", 4)]));
    assert_eq!(grid.state(news), "ready");
}

#[test]
fn a_part_that_fails_ends_all_parts_and_names_the_node() {
    let mut grid = muted(Mute::Commit);
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let (&(_, epoch), _) = grid.sites[&site("b")].granted.first_key_value().unwrap();
    let elsewhere: SiteName = site("a");
    let failure =
        Failure::new(Step::Setup, "no memory", "").at_site(&elsewhere).at_node(&"b1".parse().unwrap());
    grid.say("b", FromSite::Failed { reservation, epoch, failure });
    let text = grid.failure(reservation).to_string();
    assert_eq!(text, "SETUP, site b, node b1: no memory", "a site speaks for itself only");
    grid.assert_nothing_left();
}

#[test]
fn a_hold_refused_for_good_fails_with_the_sites_sentence() {
    let mut grid = Grid::new();
    let refusal = Refusal::UserNotMapped { site: site("b"), user: "u".into() };
    grid.sites.get_mut(&site("b")).unwrap().refuse = Some(refusal);
    let reservation = grid.reserve(ask(&[("a", 1), ("b", 1)]));
    let failure = grid.failure(reservation);
    assert_eq!(failure.step, Step::Hold);
    assert!(failure.to_string().contains("user u has no account at site b"), "{failure}");
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
        let mut grid = muted(Mute::Commit);
        let reservation = grid.reserve(ask(&[("a", 1), ("b", 2)]));
        let (&(_, epoch), part) = grid.sites[&site("b")].granted.first_key_value().unwrap();
        let mut members = ready(&site("b"), (reservation, epoch), part);
        lie(&mut members);
        grid.say("b", FromSite::SiteReady { reservation, epoch, members });
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
    let (&(_, epoch), part) = grid.sites[&site("b")].granted.first_key_value().unwrap();
    let members = ready(&site("b"), (reservation, epoch), part);
    let again = FromSite::SiteReady { reservation, epoch, members: members.clone() };
    grid.say("b", again);
    assert_eq!(grid.state(reservation), "ready", "a repeated report is harmless");
    let mut changed = members;
    changed[0].keys.host = PublicKey([77; 32]);
    grid.say("b", FromSite::SiteReady { reservation, epoch, members: changed });
    assert!(grid.failure(reservation).to_string().contains("changes the keys"));
}

#[test]
fn news_of_another_incarnation_or_anothers_part_change_nothing() {
    let mut grid = Grid::new();
    let reservation = grid.reserve(ask(&[("a", 1)]));
    let (&(_, epoch), _) = grid.sites[&site("a")].granted.first_key_value().unwrap();
    let old = protocol::ids::Epoch(epoch.0 - 1);
    let failure = Failure::new(Step::Setup, "x", "");
    for (name, epoch) in [("a", old), ("b", epoch)] {
        grid.say(name, FromSite::Failed { reservation, epoch, failure: failure.clone() });
        grid.say(name, FromSite::Ended { reservation, epoch, dirty: vec![] });
        grid.say(name, FromSite::Joined { reservation, epoch });
    }
    assert_eq!(grid.state(reservation), "ready");
    assert_eq!(grid.owner.taken_addresses().count(), 1);
}
