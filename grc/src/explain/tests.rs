//! What is said of a reservation in each of its phases.

use super::*;
use crate::coallocate::Coallocation;
use crate::reservation::{Grant, Share, Troubles, Window};
use crate::usage::Series;
use protocol::ids::{Epoch, RequestId, ReservationId, Version};
use protocol::names::EnvironmentName;
use protocol::refusal::{Resource, Step};
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, Start};

pub(crate) const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_800_000_000 + seconds)
}

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

/// Half an hour with one member at a and one at b, begun at second 600 once it is granted.
pub(crate) fn example(phase: Phase) -> Reservation {
    let window = Window { start: at(600), end: at(2400), lead: Duration::from_secs(10), until: at(2400) };
    let share = |name: &str| Share { site: site(name), members: 1, layer: 0, carve: vec![] };
    let granted = phase >= Phase::Booked;
    Reservation {
        id: ReservationId(2),
        user: "u".parse().unwrap(),
        ask: Ask {
            placement: Placement::Anywhere(2),
            slots: 1,
            limits: Limits::default(),
            start: Start::Open,
            duration_s: 1800,
            bandwidth: Bandwidth::Unasked,
            environment: EnvironmentName::host(),
            label: None,
        },
        request: RequestId([1; 16]),
        changes: vec![],
        own_job: None,
        jobs: [].into(),
        kills: Default::default(),
        made: at(0),
        phase,
        version: Version(1),
        attempt: None,
        grant: granted.then(|| Grant { version: Version(1), window, rates: vec![] }),
        parts: match phase {
            Phase::Waiting => vec![],
            _ => ["a", "b"].map(|name| PartState::new(&share(name), PartStage::Held)).into(),
        },
        epoch: Epoch(1),
        ring: Vec::new(),
        was_ready: false,
        resized: false,
        resumed: false,
        troubles: Troubles::default(),
        failure: None,
        deadline: None,
        not_before: Duration::ZERO,
        put_off: 0,
        waits_for: None,
        expected: None,
        remarks: vec![],
        resend: None,
        alarm: None,
        ended: None,
        usage: Series::default(),
    }
}

fn explained(of: &Reservation, second: u64, away: &[Away]) -> (String, Vec<String>, Option<u64>) {
    let told = reservation(of, Wall { now: at(second) }, away);
    let deadline = told.deadline_s.map(|deadline| deadline - at(0).as_secs());
    (told.summary.to_string(), told.reasons.iter().map(ToString::to_string).collect(), deadline)
}

fn asking(held: &[&str]) -> Attempt {
    let mut all = Coallocation::begin(vec![site("a"), site("b")]);
    for name in held {
        all.held(&site(name));
    }
    let window = Window { start: at(600), end: at(6000), lead: Duration::ZERO, until: at(6000) };
    Attempt {
        version: Version(2),
        window,
        shares: vec![],
        rates: vec![],
        all,
        deadline: at(5),
        request: None,
        operator: None,
    }
}

#[test]
fn who_waits_learns_what_is_short_by_how_much_and_until_when() {
    let mut waiting = example(Phase::Waiting);
    let resource = Resource::Link { a: site("a"), b: site("b") };
    let refusal = Refusal::NoRoom { resource, asked: 100_000, have: 50_000, in_s: vec![300, 900] };
    waiting.waits_for = Some((Why::Refused(refusal), at(10)));
    let (summary, reasons, _) = explained(&waiting, 70, &[]);
    assert_eq!(summary, "reservation r2 waits until it can be had");
    let short = "the link a-b has 50Mbit left in that window, 100Mbit are needed";
    assert_eq!(reasons, [short, "it can begin in 4m at the earliest"], "counted from when it was found");
    assert_eq!(explained(&waiting, 1000, &[]).1[1], "it can begin as soon as it is tried again");
    // What the book says now goes before what was said then.
    waiting.expected = Some(at(100));
    waiting.not_before = at(72);
    assert_eq!(
        explained(&waiting, 70, &[]).1[1..],
        ["it can begin in 30s at the earliest", "it is tried again in 2s"]
    );
}

#[test]
fn a_booked_one_says_when_it_begins_and_when_its_pilots_come() {
    let booked = example(Phase::Booked);
    let (summary, reasons, deadline) = explained(&booked, 500, &[]);
    assert_eq!(summary, "reservation r2 is booked: its window has not begun");
    assert_eq!(reasons, ["it begins in 1m40s and lasts 30m; its pilots come in 1m30s"]);
    assert_eq!(deadline, Some(600));
}

#[test]
fn who_has_not_answered_is_named_for_the_first_grant_and_for_a_change() {
    for (held, silent) in [
        (&[][..], &["site a has not answered the hold yet", "site b has not answered the hold yet"][..]),
        (&["a"], &["site b has not answered the hold yet"]),
        (&["a", "b"], &["all sites hold their share; the links have not answered yet"]),
    ] {
        let mut holding = example(Phase::Holding);
        holding.attempt = Some(asking(held));
        assert_eq!(explained(&holding, 1, &[]).1, silent);
        let mut ready = example(Phase::Ready);
        ready.attempt = Some(asking(held));
        let (_, reasons, deadline) = explained(&ready, 700, &[]);
        assert_eq!(reasons[0], "a change to version 2 is being asked; version 1 holds until then");
        assert_eq!(
            (&reasons[1..], deadline),
            (&silent.iter().map(ToString::to_string).collect::<Vec<_>>()[..], Some(2400))
        );
    }
}

#[test]
fn lost_sandboxes_say_why_and_when_the_next_epoch_begins() {
    let mut broken = example(Phase::Starting);
    let failure = Failure::new(Step::Pilots, "the pilot is gone", "").at_site(&site("b"));
    broken.troubles = Troubles { count: 2, last: Some(failure), next_try: Some(at(704)) };
    let reasons = explained(&broken, 700, &[]).1;
    assert_eq!(
        reasons[..2],
        [
            "its sandboxes were lost: pilots, site b: the pilot is gone",
            "they are begun anew in 4s; 2 failed in a row",
        ]
    );
    broken.troubles.next_try = None;
    broken.epoch = Epoch(3);
    assert_eq!(explained(&broken, 700, &[]).1[1], "they are begun anew, as epoch 3; 2 failed in a row");
    broken.phase = Phase::Over;
    assert_eq!(explained(&broken, 700, &[]).1, Vec::<String>::new());
}

#[test]
fn sites_that_are_away_are_named_with_since_when_as_long_as_it_matters() {
    let why = Some("nothing was heard of it for 10 s".into());
    let away = [
        Away { site: site("a"), since: Some(at(640)), why },
        Away { site: site("b"), since: None, why: None },
    ];
    for phase in [Phase::Booked, Phase::Starting, Phase::Joining, Phase::Ready, Phase::Ending] {
        let reasons = explained(&example(phase), 700, &away).1;
        let named =
            "site a has been away for 1m (nothing was heard of it for 10 s); what it holds stays held";
        assert!(reasons.iter().any(|reason| reason == named), "{phase:?} {reasons:?}");
        assert!(reasons.iter().any(|reason| reason.starts_with("site b has not connected")), "{phase:?}");
    }
    assert_eq!(explained(&example(Phase::Over), 700, &away).1, Vec::<String>::new());
}
