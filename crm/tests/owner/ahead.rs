//! Windows that a batch system is asked to keep free.

use std::time::Duration;

use crm::nodes::Node;
use crm::site::{Action, Ahead, Event, News, Settings, Site};
use crm::standing::Capabilities;

use protocol::site::{Remaining, ToSite};

use crate::world::{R, V, account, commit, hold, part, settings};

const LATER: Remaining = Remaining { starts_in_ms: 600_000, ends_in_ms: 1_200_000 };

fn says(reserves_ahead: bool) -> Event {
    Event::Batch(News::Capabilities(Capabilities {
        places_on_named_nodes: false,
        reserves_ahead,
        enforces_limits: true,
        lead: Duration::from_secs(20),
        nodes_max: None,
        walltime_max: None,
        closed: None,
    }))
}

/// What is asked of the batch system when all of this happens: to keep, or (`None`) no more.
fn asked(anonymous: bool, window: Remaining, events: Vec<Event>) -> Vec<Option<Ahead>> {
    let node = |n| Node::new(format!("place-{n}").parse().unwrap(), 0, 1);
    let mut site = Site::new(Settings { anonymous, ..settings() }, (0..2).map(node).collect());
    let mut part = part(2);
    part.window = window;
    let mut all = vec![Event::GrcConnected, hold(part), commit(V, window)];
    all.extend(events);
    let actions = all.into_iter().flat_map(|event| site.step(Duration::from_secs(5000), event));
    let wanted = actions.filter_map(|action| match action {
        Action::Reserve(ahead) => Some(Some(ahead)),
        Action::Unreserve { reservation } => {
            assert_eq!(reservation, R);
            Some(None)
        }
        _ => None,
    });
    wanted.collect()
}

#[test]
fn a_window_in_the_future_is_kept_once_and_given_back() {
    let end = || Event::Grc(ToSite::End { reservation: R });
    let again = vec![says(true), commit(V, LATER), says(true), end()];
    let ahead = Ahead { reservation: R, account: account(), nodes: 2, begin_in_s: 580, lasts_s: 630 };
    assert_eq!(asked(true, LATER, again), [Some(ahead), None]);
}

#[test]
fn nothing_is_kept_where_that_is_useless() {
    let now = Remaining { starts_in_ms: 0, ends_in_ms: 600_000 };
    assert_eq!(asked(true, LATER, vec![says(false)]), []);
    assert_eq!(asked(true, now, vec![says(true)]), []);
    // Its own nodes a site knows itself.
    assert_eq!(asked(false, LATER, vec![says(true)]), []);
}

#[test]
fn pilots_are_in_the_queue_by_the_lead_and_run_no_sooner_than_they_may() {
    let node = Node::new("place-0".parse().unwrap(), 0, 1);
    let early = Some(Duration::from_secs(4));
    let mut site = Site::new(Settings { anonymous: true, early, ..settings() }, vec![node]);
    let window = Remaining { starts_in_ms: 100_000, ends_in_ms: 700_000 };
    let mut part = part(1);
    part.window = window;
    let begin = Duration::from_secs(5000);
    for event in [Event::GrcConnected, hold(part), commit(V, window)] {
        assert!(!site.step(begin, event).iter().any(|action| matches!(action, Action::Submit(_))));
    }
    // In the queue 10 s before, with a begin 4 s before.
    let actions = site.step(begin + Duration::from_secs(90), Event::Tick);
    let begins = actions.into_iter().filter_map(|action| match action {
        Action::Submit(submit) => Some((submit.begin_in_s, submit.lifetime_s)),
        _ => None,
    });
    assert_eq!(begins.collect::<Vec<_>>(), [(6, 625)]);
}
