//! The cables between the sites: what the GRC is told of them, how fast they really are, and
//! sites whose sandboxes have the same range.
//!
//! Shaped, a cable carries what it is said to carry and no more:
//! ```text
//!   core, port r-b:   htb  uplink of b
//!                           +-- link a-b   by source: the machines and sandboxes of a
//!                           +-- link c-b
//!   router of b, core0: htb uplink of b    by destination: the other sites
//! ```
//! What the GRC and the sites say to each other is in none of these classes.
//!
//! With the same range at all sites no router can tell by an address where a sandbox is. So they
//! stand on one stretched segment, as with a layer-2 service between sites: a second cable goes
//! from every site's switch to a bridge of its own in the core, and ARP finds who has an address.
//! Machines keep the addresses of their site, and the routed core between them. That works as long as
//! no two sandboxes have the same address, which is for the GRC to see to. Shaped, the segment and the
//! core each carry the rates; they are not added up.
//! ```text
//!   core  br0 ------ routed: machines        br1 ------ one segment: sandboxes in 10.71.128.0/17
//!          | core0 of each router             | seg0 of each router, a port of its br0
//! ```

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::netns::{self, Tool, Wiring, site_name};
use crate::rate::Rate;

/// The site whose range all publish when they share one.
const SHARED: u32 = 0;
/// What waits at the end of a cable, at most: this long.
const QUEUE_MS: u64 = 20;
/// ... and at least so much.
const QUEUE_BYTES_MIN: u64 = 65_536;
/// Rate of an uplink of which nothing is said: as fast as it goes.
const UNLIMITED: Rate = Rate { kbit: 100_000_000 };

/// What of the cables between the sites was asked for.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Tell the GRC of a link of this capacity between every two sites.
    #[arg(long, value_name = "RATE", default_value = "200Mbit")]
    pub link: Option<Rate>,
    /// Tell the GRC that this much goes in and out of every site.
    #[arg(long, value_name = "RATE")]
    pub uplink: Option<Rate>,
    /// Make the cables as slow as the GRC is told.
    #[arg(long = "shape-links")]
    #[serde(default)]
    pub shaped: bool,
    /// All sites publish the same range for their sandboxes.
    #[arg(long)]
    #[serde(default)]
    pub same_ranges: bool,
}

/// Capacity of every link when nothing else is said, kbit/s.
pub const LINK_KBIT: u32 = 200_000;

impl Default for Links {
    fn default() -> Self {
        let link = Some(Rate { kbit: LINK_KBIT });
        Self { link, uplink: None, shaped: false, same_ranges: false }
    }
}

/// Every two sites once.
pub fn pairs(sites: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..sites).flat_map(move |a| (a + 1..sites).map(move |b| (a, b)))
}

impl Links {
    /// What cannot be made.
    pub fn check(&self, sites: u32) -> Result<()> {
        let Self { link, uplink, shaped, same_ranges } = self;
        ensure!(!shaped || link.is_some() || uplink.is_some(), "--shape-links needs --link or --uplink");
        // On one segment a frame does not show from which of several sites it comes.
        let can_tell = !(*shaped && *same_ranges) || sites <= 2;
        ensure!(can_tell, "--shape-links with --same-ranges goes with 2 sites, not {sites}");
        Ok(())
    }

    /// Everything that a site may publish.
    pub fn supernet(&self, site: u32) -> String {
        netns::supernet(if self.same_ranges { SHARED } else { site })
    }

    /// What of it its sandboxes get.
    pub fn sandbox_range(&self, site: u32) -> String {
        netns::sandbox_range(if self.same_ranges { SHARED } else { site })
    }

    /// The way out for a site's sandboxes: its own router, also on a shared segment.
    pub fn gateway(&self, site: u32) -> String {
        if self.same_ranges {
            format!("10.{}.1.{}", netns::site_byte(SHARED), 1 + site)
        } else {
            netns::gateway(site)
        }
    }
}

/// What comes to the machines and cables of [`netns`], in this order. `nodes` are those of all
/// sites.
pub fn wirings(links: &Links, core: i32, routers: &[i32], nodes: &[i32]) -> Vec<Wiring> {
    let mut all = Vec::new();
    if links.same_ranges {
        all.extend(segment(links, core, routers, nodes));
    }
    if links.shaped && routers.len() > 1 {
        all.extend(shape(links, core, routers));
    }
    all
}

fn segment(links: &Links, core: i32, routers: &[i32], nodes: &[i32]) -> Vec<Wiring> {
    let ip = |inside, lines| Wiring { inside, tool: Tool::Ip, lines };
    let range = links.sandbox_range(SHARED);
    let mut middle = vec!["link add br1 type bridge forward_delay 0".into(), "link set br1 up".into()];
    let mut all = Vec::new();
    for (site, &router) in (0u32..).zip(routers) {
        let port = format!("s-{}", site_name(site));
        middle.push(format!("link add {port} type veth peer name seg0 netns {router}"));
        middle.push(format!("link set {port} master br1"));
        middle.push(format!("link set {port} up"));
        all.push(ip(
            router,
            vec![
                format!("addr add {}/32 dev br0", links.gateway(site)),
                format!("route add {range} dev br0"),
                "link set seg0 master br0".into(),
                "link set seg0 up".into(),
            ],
        ));
    }
    all.insert(0, ip(core, middle));
    // A node that routes for its sandboxes finds the others on the wire, not behind its router.
    all.extend(nodes.iter().map(|&node| ip(node, vec![format!("route add {range} dev eth0")])));
    all
}

fn shape(links: &Links, core: i32, routers: &[i32]) -> Vec<Wiring> {
    let tc = |inside| Wiring { inside, tool: Tool::Tc, lines: Vec::new() };
    let sites = routers.len() as u32;
    let others = |site: u32| (0..sites).filter(move |&other| other != site);
    let uplink = links.uplink.unwrap_or(UNLIMITED);
    let link = links.link.unwrap_or(uplink).min(uplink);
    // Together never more than the uplink, or each would take its own before it asks for more.
    let own = Rate { kbit: link.kbit.min(uplink.kbit / (sites - 1).max(1)).max(1) };
    let mut middle = tc(core);
    let mut all = Vec::new();
    for (site, &router) in (0u32..).zip(routers) {
        let into = format!("r-{}", site_name(site));
        root(&mut middle.lines, &into, uplink, 0);
        for other in others(site) {
            let class = 0x10 + other;
            leaf(&mut middle.lines, &into, class, own, link);
            filter(&mut middle.lines, &into, "src", &netns::supernet(other), class);
        }
        let mut out = tc(router);
        root(&mut out.lines, "core0", uplink, 0);
        leaf(&mut out.lines, "core0", 0x10, uplink, uplink);
        for other in others(site) {
            filter(&mut out.lines, "core0", "dst", &netns::supernet(other), 0x10);
        }
        all.push(out);
        if links.same_ranges {
            // Two sites: all that goes in comes from the other.
            let into = format!("s-{}", site_name(site));
            root(&mut middle.lines, &into, uplink, 0x10);
            leaf(&mut middle.lines, &into, 0x10, link, link);
        }
    }
    all.push(middle);
    all
}

fn rates(rate: Rate, ceil: Rate) -> String {
    // A millisecond's worth, and a full frame at least.
    let burst = (ceil.kbit / 8).max(3200);
    format!("rate {}kbit ceil {}kbit burst {burst} cburst {burst} quantum 60000", rate.kbit, ceil.kbit)
}

fn root(lines: &mut Vec<String>, device: &str, uplink: Rate, default: u32) {
    lines.push(format!("qdisc add dev {device} root handle 1: htb default {default:x}"));
    lines.push(format!("class add dev {device} parent 1: classid 1:1 htb {}", rates(uplink, uplink)));
}

fn leaf(lines: &mut Vec<String>, device: &str, class: u32, rate: Rate, ceil: Rate) {
    let limit = (u64::from(ceil.kbit) * QUEUE_MS / 8).clamp(QUEUE_BYTES_MIN, 1 << 30);
    lines.push(format!("class add dev {device} parent 1:1 classid 1:{class:x} htb {}", rates(rate, ceil)));
    lines.push(format!("qdisc add dev {device} parent 1:{class:x} bfifo limit {limit}"));
}

fn filter(lines: &mut Vec<String>, device: &str, end: &str, prefix: &str, class: u32) {
    lines.push(format!(
        "filter add dev {device} parent 1: protocol ip u32 match ip {end} {prefix} flowid 1:{class:x}"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(mbit: u32) -> Option<Rate> {
        Some(Rate { kbit: 1000 * mbit })
    }

    #[test]
    fn the_links_into_a_site_never_have_more_of_their_own_than_its_uplink() {
        let links = Links { link: mbit(200), uplink: mbit(300), shaped: true, ..Links::default() };
        links.check(4).unwrap();
        let lines = wirings(&links, 1, &[2, 3, 4, 5], &[]).pop().unwrap().lines;
        let of_a: Vec<_> =
            lines.iter().filter(|line| line.contains("class add dev r-a parent 1:1 ")).collect();
        assert_eq!(of_a.len(), 3);
        assert!(of_a.iter().all(|line| line.contains("rate 100000kbit ceil 200000kbit")), "{of_a:?}");
    }

    #[test]
    fn what_cannot_be_shaped_is_refused() {
        let shaped = Links { link: None, shaped: true, ..Links::default() };
        assert!(shaped.check(2).is_err());
        let stretched = Links { link: mbit(1), shaped: true, same_ranges: true, ..Links::default() };
        assert!(stretched.check(2).is_ok() && stretched.check(3).is_err());
        assert_eq!(pairs(3).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn sites_that_share_a_range_keep_routers_of_their_own() {
        let links = Links { same_ranges: true, ..Links::default() };
        assert_eq!(links.sandbox_range(0), links.sandbox_range(1));
        assert_eq!(links.supernet(0), links.supernet(25));
        assert_ne!(links.gateway(0), links.gateway(1));
        let machines: Vec<String> =
            (0..=netns::NODES_MAX).map(|n| netns::machine_address(SHARED, n)).collect();
        assert!((0..netns::SITES_MAX).all(|site| !machines.contains(&links.gateway(site))));
    }
}
