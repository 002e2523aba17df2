//! What users are shown of the owner's state.

use std::time::Duration;

use protocol::client::SiteView;
use protocol::codec;
use protocol::job::JobView;
use protocol::limits::{FRAME_BYTES_MAX, LISTING_MAX, SITES_MAX};
use protocol::names::{HostName, SiteName, Text};
use protocol::reservation::{MemberView, PairView, PartView, QueueView, ReservationState, ReservationView};
use protocol::site::Offer;
use serde::Serialize;

use crate::job::Job;
use crate::reservation::{PartState, Phase, Reservation};

/// What one site may take of the answer that lists all.
const SITE_BYTES_MAX: usize = FRAME_BYTES_MAX / SITES_MAX - 64;

/// The owner's time line as it is shown: seconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    pub now: Duration,
}

impl Wall {
    pub fn at(self, time: Duration) -> u64 {
        time.as_secs()
    }
}

/// Whether a view lists every member; listings and news do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Members {
    Shown,
    LeftOut,
}

/// A reservation for its user. The proof of its carves is known to who carves, and filled in there.
pub fn reservation(reservation: &Reservation, wall: Wall, members: Members) -> ReservationView {
    let (starts, ends) = span(reservation, wall.now);
    ReservationView {
        id: reservation.id,
        label: reservation.ask.label.clone(),
        user: reservation.user.as_str().into(),
        state: state(reservation),
        slots: reservation.ask.slots,
        environment: reservation.ask.environment.clone(),
        parts: reservation.parts.iter().map(|one| part(one, members, wall)).collect(),
        made_s: wall.at(reservation.made),
        version: reservation.grant.as_ref().map(|grant| grant.version).unwrap_or_default(),
        epoch: reservation.epoch,
        starts_s: wall.at(starts),
        ends_s: wall.at(ends),
        pairs: pairs(reservation),
        deadline_s: reservation.deadline.map(|at| wall.at(at)),
    }
}

/// Start and end: as it was, as it is granted, or as it is expected.
fn span(reservation: &Reservation, now: Duration) -> (Duration, Duration) {
    let length = Duration::from_secs(reservation.ask.duration_s.into());
    let (start, end) = match reservation.window() {
        Some(window) => (window.start, window.end),
        None => {
            let start = reservation.expected.unwrap_or(now);
            (start, start + length)
        }
    };
    match reservation.ended {
        Some(ended) => (start.min(ended), ended),
        None => (start, end),
    }
}

/// What is granted between the parts, and what was measured last.
fn pairs(reservation: &Reservation) -> Vec<PairView> {
    let granted = reservation.grant.iter().flat_map(|grant| &grant.rates);
    let usage = &reservation.usage;
    granted
        .map(|rate| PairView {
            a: rate.a.clone(),
            b: rate.b.clone(),
            granted_kbit: rate.rate_kbit,
            a_to_b_kbit: usage.last(&rate.a, &rate.b),
            b_to_a_kbit: usage.last(&rate.b, &rate.a),
        })
        .collect()
}

fn state(reservation: &Reservation) -> ReservationState {
    match (reservation.phase, &reservation.failure) {
        (Phase::Waiting, _) => ReservationState::Waiting,
        (Phase::Holding, _) => ReservationState::Holding,
        (Phase::Booked, _) => ReservationState::Booked,
        (Phase::Starting, _) => ReservationState::Starting,
        (Phase::Joining, _) => ReservationState::Joining,
        (Phase::Ready, _) => ReservationState::Ready,
        (Phase::Ending, _) => ReservationState::Ending,
        (Phase::Over, None) => ReservationState::Ended,
        (Phase::Over, Some(failure)) => ReservationState::Failed(failure.clone()),
    }
}

/// What a part's pilots wait for, while they do.
fn queue(part: &PartState, wall: Wall) -> Option<QueueView> {
    let at = |time: Option<Duration>| time.map(|at| wall.at(at));
    let queue = part.queue.clone();
    match (&part.waiting, part.again) {
        (Some(waiting), again) => Some(QueueView {
            pilots: waiting.pilots,
            queue,
            why: waiting.why.clone(),
            expected_s: at(waiting.expected),
            until_s: at(waiting.until),
            held_until_s: at(waiting.held_until),
            again_s: at(again),
        }),
        (None, Some(again)) => {
            let (why, again_s) = (Text::default(), Some(wall.at(again)));
            let (expected_s, until_s, held_until_s) = (None, None, None);
            let pilots = part.members;
            Some(QueueView { pilots, queue, why, expected_s, until_s, held_until_s, again_s })
        }
        (None, None) => None,
    }
}

fn part(part: &PartState, members: Members, wall: Wall) -> PartView {
    let members = match members {
        Members::LeftOut => Vec::new(),
        Members::Shown => part
            .ready
            .iter()
            .map(|member| MemberView {
                host: HostName { site: part.site.clone(), number: member.number },
                address: member.address,
                node: member.node.clone(),
            })
            .collect(),
    };
    PartView {
        site: part.site.clone(),
        nodes: part.members,
        addresses: part.carve.clone(),
        progress: part.progress,
        members,
        proof: Vec::new(),
        queue: queue(part, wall),
    }
}

/// How much output there is is known where it is kept, and filled in there.
pub fn job(job: &Job, wall: Wall) -> JobView {
    JobView {
        id: job.id,
        reservation: job.reservation,
        label: job.label.clone(),
        user: job.user.as_str().into(),
        command: job.summary.clone(),
        target: job.target,
        state: job.state.clone(),
        submitted_s: wall.at(job.submitted),
        started_s: job.started.map(|at| wall.at(at)),
        ended_s: job.ended.map(|at| wall.at(at)),
        head: job.head.clone(),
        stdout_bytes: 0,
        stderr_bytes: 0,
        hits: job.hits,
    }
}

/// What is known of a site beside its name.
#[derive(Clone, Debug, Default)]
pub struct SiteFacts<'a> {
    pub connected: bool,
    pub offer: Option<&'a Offer>,
    pub last_seen: Option<Duration>,
    pub problem: Option<&'a Text>,
}

pub fn site(name: &SiteName, facts: &SiteFacts<'_>, wall: Wall) -> SiteView {
    let offer = facts.offer;
    let live = offer.filter(|_| facts.connected);
    let mut problems: Vec<Text> = facts.problem.cloned().into_iter().collect();
    if facts.last_seen.is_none() && facts.problem.is_none() {
        problems.push("has not connected since the GRC started".into());
    }
    if let Some(offer) = live {
        problems.extend(offer.paused.iter().map(|why| paused(offer, why)));
        problems.extend(offer.unusable.iter().map(|(node, why)| format!("node {node}: {why}").into()));
    }
    let mut view = SiteView {
        name: name.clone(),
        connected: facts.connected,
        last_seen_s: if facts.connected {
            Some(wall.at(wall.now))
        } else {
            facts.last_seen.map(|at| wall.at(at))
        },
        batch_system: offer.map(|offer| offer.batch_system.clone()).unwrap_or_default(),
        nodes_usable: live.map_or(0, |offer| offer.nodes_usable),
        nodes_free: live.map_or(0, |offer| offer.nodes_free),
        ranges: offer
            .map(|offer| offer.ranges.iter().map(|range| range.to_string().into()).collect())
            .unwrap_or_default(),
        environments: offer.map(|offer| offer.environments.clone()).unwrap_or_default(),
        problems,
    };
    shorten(&mut view);
    view
}

fn paused(offer: &Offer, why: &Text) -> Text {
    match offer.queue.as_str() {
        "" => format!("its batch queue is paused: {why}").into(),
        queue => format!("its batch queue ({queue}) is paused: {why}").into(),
    }
}

/// A site may say more of itself than fits beside all others: the end of its longest list goes.
fn shorten(view: &mut SiteView) {
    while codec::encode(view).map_or(true, |bytes| bytes.len() > SITE_BYTES_MAX) {
        let (problems, environments) = (view.problems.len(), view.environments.len());
        if problems >= environments.max(view.ranges.len()) {
            view.problems.truncate(problems / 2);
        } else if environments >= view.ranges.len() {
            view.environments.truncate(environments / 2);
        } else {
            view.ranges.truncate(view.ranges.len() / 2);
        }
    }
}

/// As many of the newest as fit into one answer, oldest first.
pub fn listing<T: Serialize>(newest_first: impl Iterator<Item = T>) -> Vec<T> {
    let mut room = FRAME_BYTES_MAX - 1024;
    let mut views: Vec<T> = newest_first
        .take(LISTING_MAX)
        .map_while(|view| {
            // Its real size: estimates of texts are either wrong or wasteful.
            room = room.checked_sub(codec::encode(&view).ok()?.len())?;
            Some(view)
        })
        .collect();
    views.reverse();
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::tests::{at, example};
    use protocol::ids::Version;
    use protocol::reservation::PairRate;

    #[test]
    fn a_window_is_shown_as_it_is_expected_then_as_it_is_granted_then_as_it_was() {
        let shown = |of: &Reservation| {
            let view = reservation(of, Wall { now: at(50) }, Members::LeftOut);
            let base = at(0).as_secs();
            (view.version, view.starts_s - base, view.ends_s - base)
        };
        let mut one = example(Phase::Waiting);
        assert_eq!(shown(&one), (Version(0), 50, 1850), "from now on, if nothing is known");
        one.expected = Some(at(100));
        assert_eq!(shown(&one), (Version(0), 100, 1900));
        let mut one = example(Phase::Ready);
        assert_eq!(shown(&one), (Version(1), 600, 2400));
        one.ended = Some(at(700));
        assert_eq!(shown(&one), (Version(1), 600, 700));
        one.ended = Some(at(30));
        assert_eq!(shown(&one), (Version(1), 30, 30), "released before it began");
    }

    #[test]
    fn pairs_show_what_is_granted_and_what_was_measured_last_each_way() {
        let mut one = example(Phase::Ready);
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let rate = PairRate { a: a.clone(), b: b.clone(), rate_kbit: 100 };
        one.grant.as_mut().unwrap().rates = vec![rate];
        one.usage.add(at(601).as_secs(), &b, &a, 100, 40);
        let view = reservation(&one, Wall { now: at(602) }, Members::LeftOut);
        let pair = PairView { a, b, granted_kbit: 100, a_to_b_kbit: None, b_to_a_kbit: Some(40) };
        assert_eq!(view.pairs, [pair]);
    }

    #[test]
    fn what_a_site_says_of_itself_never_keeps_the_list_of_sites_from_being_sent() {
        let offer = Offer {
            batch_system: "x".repeat(5000).into(),
            ranges: vec!["10.0.0.0/8".parse().unwrap(); 64],
            reserved: vec![],
            nodes_usable: 1,
            nodes_free: 1,
            layers: vec![1],
            lead_s: 0,
            unusable: vec![("n".parse().unwrap(), "y".repeat(5000).into()); 1000],
            environments: vec!["e".repeat(80).parse().unwrap(); 10_000],
            queue: "q".repeat(5000).into(),
            pilots_s: 600,
            nodes_max: None,
            lasts_s_max: None,
            paused: Some("z".repeat(5000).into()),
        };
        let facts = SiteFacts {
            connected: true,
            offer: Some(&offer),
            last_seen: Some(Duration::ZERO),
            problem: None,
        };
        let view = site(&"a".parse().unwrap(), &facts, Wall { now: Duration::ZERO });
        assert!(!view.problems.is_empty());
        assert!(codec::encode(&vec![view; SITES_MAX]).is_ok());
    }

    #[test]
    fn a_listing_always_fits_into_one_frame_and_keeps_the_newest() {
        let long = |n: u32| (n, "x".repeat(10_000));
        let views = listing((0..10_000).rev().map(long));
        assert!(codec::encode(&views).is_ok());
        assert_eq!(views.last().map(|(n, _)| *n), Some(9_999));
        assert!(views.len() > 800 && views.is_sorted());
    }
}
