//! The whole exchange, simulated: the real owners of the GRC and of every site's CRM, the real
//! codec and frames, and NodeManagers that only answer. One process, one thread, no sockets:
//! what is measured is what the programs compute.

mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::client::{self, Selector};
use protocol::ids::{RequestId, ReservationId};
use protocol::limits::MEMBERS_MAX;
use protocol::names::EnvironmentName;
use protocol::reservation::{Ask, Bandwidth, Limits, Placement, ReservationState, Start};

use super::{fine_ms, median, row, spread, table};
use world::{SHARES, Share, Traffic, World};

/// What one run came to.
struct Round {
    exchange: Duration,
    ended: Duration,
    shares: [Duration; SHARES.len()],
    /// The slowest site's CRM.
    crm_worst: Duration,
    ring: Duration,
    lines: [Traffic; 2],
    inside: Traffic,
}

fn round(sites: usize, nodes: usize) -> Result<Round> {
    let mut world = World::new(sites, nodes)?;
    // A reservation has at most so many members, hence as many reservations as it takes.
    let sites_each = (MEMBERS_MAX / nodes).max(1);
    let mut requests = Vec::new();
    for (number, sites) in world.sites.chunks(sites_each).enumerate() {
        let ask = Ask {
            placement: Placement::Sites(sites.iter().map(|site| (site.name.clone(), nodes as u32)).collect()),
            slots: 1,
            limits: Limits::default(),
            start: Start::Open,
            duration_s: 3600,
            bandwidth: Bandwidth::Unasked,
            environment: EnvironmentName::host(),
            label: None,
        };
        requests.push(client::Request::Reserve { id: RequestId([number as u8; 16]), ask });
    }
    world.shares = Default::default();
    world.crm.fill(Duration::ZERO);
    for site in &mut world.sites {
        (site.lines, site.inside) = Default::default();
    }
    let begin = Instant::now();
    let count = requests.len();
    for request in requests {
        world.request(request)?;
    }
    let ids: Vec<ReservationId> = std::mem::take(&mut world.replies)
        .into_iter()
        .map(|reply| match reply {
            client::Reply::Reserved(id) => Ok(id),
            other => bail!("{other:?}"),
        })
        .collect::<Result<_>>()?;
    for id in &ids {
        world.request(client::Request::WaitReservation(Selector::Id(*id)))?;
    }
    while world.waited_for < count {
        ensure!(world.turn()?, "nothing is under way and not all are ready");
    }
    let exchange = begin.elapsed();
    for reply in std::mem::take(&mut world.replies) {
        let client::Reply::Reservation(view) = reply else { bail!("{reply:?}") };
        ensure!(view.state == ReservationState::Ready, "{} is {}", view.id, view.state);
    }
    let shares = world.shares;
    let crm_worst = world.crm.iter().copied().max().unwrap_or_default();
    let first = &world.sites[0];
    let (lines, inside) = (first.lines, first.inside);
    let ring = median(&mut world.rings);
    let begin = Instant::now();
    for id in ids {
        world.request(client::Request::Release(Selector::Id(id)))?;
    }
    world.run()?;
    let ended = begin.elapsed();
    ensure!(world.sites.iter().all(|site| site.owner.is_idle()), "something is left at a site");
    Ok(Round { exchange, ended, shares, crm_worst, ring, lines, inside })
}

/// Measures and prints.
pub fn run(sites: usize, nodes: usize, rounds: usize) -> Result<String> {
    ensure!((1..=200).contains(&sites) && (1..=1000).contains(&nodes), "at most 200 sites of 1000 nodes");
    let all = (0..rounds).map(|_| round(sites, nodes)).collect::<Result<Vec<_>>>()?;
    let mut rows =
        vec![row([&format!("{sites} sites, {nodes} NodeManagers each"), "median ms", "min ms", "max ms"])];
    let mut add = |name: &str, of: &dyn Fn(&Round) -> Duration| {
        let [middle, min, max] = spread(&all.iter().map(of).collect::<Vec<_>>());
        rows.push(vec![name.into(), middle, min, max]);
    };
    let alone = |r: &Round| r.exchange.saturating_sub(r.shares[Share::Agents as usize]);
    add("from the requests until all are ready, all in one thread", &|r| r.exchange);
    add("the same without the NodeManagers' own work", &alone);
    for (share, name) in SHARES {
        add(&format!("  {name}"), &|r| r.shares[share as usize]);
    }
    add("everything given back (End to Ended)", &|r| r.ended);
    add("the share of the GRC's machine", &|r| {
        r.shares[Share::GrcOwner as usize] + r.shares[Share::GrcWire as usize]
    });
    add("the share of the busiest CRM's machine", &|r| r.crm_worst);
    add("one NodeManager reads and checks its key ring", &|r| r.ring);
    let last = all.last().context("no rounds")?;
    let reservations = sites.div_ceil((MEMBERS_MAX / nodes).max(1));
    let mut traffic = vec![row(["traffic of one site", "messages", "KiB"])];
    for (name, of) in [
        ("from the GRC", last.lines[0]),
        ("to the GRC", last.lines[1]),
        ("with its NodeManagers", last.inside),
    ] {
        traffic.push(vec![name.into(), of.messages.to_string(), format!("{:.1}", of.bytes as f64 / 1024.0)]);
    }
    let path = |r: &Round| {
        r.shares[Share::GrcOwner as usize] + r.shares[Share::GrcWire as usize] + r.crm_worst + r.ring
    };
    let path = median(&mut all.iter().map(path).collect::<Vec<_>>());
    Ok(format!(
        "{rounds} rounds, {reservations} reservations at once (one has at most {MEMBERS_MAX} members).\n\n{}\n\
         With every program on a machine of its own, GRC + busiest CRM + one NodeManager: {} ms.\n\n{}",
        table(&rows),
        fine_ms(path),
        table(&traffic),
    ))
}
