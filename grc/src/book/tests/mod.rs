//! The book against lists of what was granted, counted second by second.

mod histories;
mod single;

use std::time::Duration;

use protocol::reservation::Placement;

use super::*;
use crate::network::{
    BandwidthProvider, Connection, Criteria, Operation, Pair, Resource, StaticLinks, Version,
};

/// Long enough that everything is over: the oracle looks no further.
const SECONDS: u64 = 120;

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn all_of(names: &[&str]) -> Vec<Candidate> {
    names.iter().map(|name| Candidate { site: site(name), warm: false, most: u32::MAX }).collect()
}

fn placed(parts: &[(&str, u32)]) -> Placement {
    Placement::Sites(parts.iter().map(|(name, members)| (site(name), *members)).collect())
}

/// From second 0 on, 10 seconds, addresses from 2 before to 1 after.
fn request<'a>(placement: &'a Placement, candidates: &'a [Candidate], rates: &'a Rates) -> Request<'a> {
    Request {
        placement,
        candidates,
        sites_max: 8,
        rates,
        now: 0,
        earliest: 0,
        latest: 0,
        duration: 10,
        lead: 2,
        tail: 1,
    }
}

fn no_links() -> StaticLinks {
    StaticLinks::new([], [], Duration::from_secs(60)).unwrap()
}

fn blocked(answer: Result<Plan, NoPlan>) -> Blocked {
    match answer {
        Err(NoPlan::Blocked(blocked)) => blocked,
        other => panic!("{other:?}"),
    }
}

/// Grants the rates of a plan at once.
fn connect(links: &mut StaticLinks, id: u64, version: u32, plan: &Plan) {
    let (connection, version) = (Connection(id), Version(version));
    let criteria = Criteria { window: plan.window, pairs: plan.pairs.clone() };
    let held = links.request(Duration::ZERO, connection, Operation::Reserve { version, criteria });
    assert!(matches!(held[0].answer, crate::network::Answer::Held { .. }), "{held:?}");
    links.request(Duration::ZERO, connection, Operation::Commit { version });
}

fn addresses_in(blocks: &[AddressBlock]) -> Vec<Ipv4Addr> {
    blocks.iter().flat_map(|block| block.addresses()).collect()
}
