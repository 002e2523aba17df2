//! The cables of the world: which links and routes make a grid out of machines. Pure text for
//! `ip -batch`; [`crate::node`] makes the machines and [`Wiring::apply`] carries the text out.
//!
//! ```text
//!   core 10.99.0.0/24 ---- grc 10.99.0.10
//!     |            \
//!   router of a     router of b      10.99.0.71, 10.99.0.72
//!   br0 10.71.0.1   br0 10.72.0.1
//!    |  |  |
//!   a0 a1 a2                         10.71.0.10 (head), .11, .12; sandboxes in 10.71.128.0/17
//! ```
//! Nothing of it has a name outside: every link stands in a namespace that lives as long as the
//! process that holds it. How fast the sites' cables are, and sites with the same range: [`crate::links`].

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// At most so many sites: `a` is 10.71, `z` 10.96, the core 10.99.
pub const SITES_MAX: u32 = 26;
/// At most so many nodes a site: 10.x.0.11 and up to 10.x.0.250.
pub const NODES_MAX: u32 = 240;
/// Where the GRC listens.
pub const GRC_ADDRESS: &str = "10.99.0.10";
const CORE_GATEWAY: &str = "10.99.0.1";

/// Second byte of a site's addresses.
pub fn site_byte(site: u32) -> u32 {
    71 + site
}

/// `a`, `b`, ... as site names go.
pub fn site_name(site: u32) -> String {
    char::from(b'a' + u8::try_from(site.min(25)).unwrap_or(25)).to_string()
}

/// Address of machine `number` of a site: 0 is the head.
pub fn machine_address(site: u32, number: u32) -> String {
    format!("10.{}.0.{}", site_byte(site), 10 + number)
}

/// Address of a site's router on the site's own network.
pub fn gateway(site: u32) -> String {
    format!("10.{}.0.1", site_byte(site))
}

/// Everything that a site may use.
pub fn supernet(site: u32) -> String {
    format!("10.{}.0.0/16", site_byte(site))
}

/// What of it its sandboxes get.
pub fn sandbox_range(site: u32) -> String {
    format!("10.{}.128.0/17", site_byte(site))
}

/// Which tool of iproute2 reads the lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tool {
    Ip,
    Tc,
}

/// Commands for `ip -batch` or `tc -batch`, to be run in the network namespace of process `inside`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wiring {
    pub inside: i32,
    pub tool: Tool,
    pub lines: Vec<String>,
}

impl Wiring {
    fn new(inside: i32) -> Self {
        Self { inside, tool: Tool::Ip, lines: vec!["link set lo up".into()] }
    }

    fn line(mut self, line: String) -> Self {
        self.lines.push(line);
        self
    }

    /// Carries the commands out.
    ///
    /// # Errors
    /// The first line that the tool refuses, with its words.
    pub fn apply(&self) -> Result<()> {
        let tool = match self.tool {
            Tool::Ip => "ip",
            Tool::Tc => "tc",
        };
        let mut child = Command::new("nsenter")
            .args([format!("--target={}", self.inside), "--net".into()])
            .args(["--", tool, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start nsenter (package util-linux)")?;
        let mut text = self.lines.join("\n");
        text.push('\n');
        child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{tool} -batch: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }
}

/// Does something in the network namespace of process `pid`, in a thread of its own: sockets made
/// there stay there, wherever they are used afterwards.
pub fn inside<T: Send>(pid: i32, act: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))
        .with_context(|| format!("process {pid} has no network namespace"))?;
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            Ok(act())
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A machine that is a bridge with an address: the core, or a site's router.
fn bridge(inside: i32, address: &str) -> Wiring {
    Wiring::new(inside)
        .line("link add br0 type bridge forward_delay 0".into())
        .line(format!("addr add {address} dev br0"))
        .line("link set br0 up".into())
}

/// One cable from bridge `br0` in `switch` to `link` in `machine`: both ends are born where they
/// belong.
fn cable(wiring: Wiring, port: &str, machine: i32, link: &str) -> Wiring {
    wiring
        .line(format!("link add {port} type veth peer name {link} netns {machine}"))
        .line(format!("link set {port} master br0"))
        .line(format!("link set {port} up"))
}

/// The core with the GRC's machine and a cable to every router.
pub fn core(core: i32, grc: i32, routers: &[i32]) -> Vec<Wiring> {
    let mut middle = cable(bridge(core, &format!("{CORE_GATEWAY}/24")), "grc", grc, "eth0");
    for (site, &router) in (0u32..).zip(routers) {
        middle = cable(middle, &format!("r-{}", site_name(site)), router, "core0");
    }
    let mut machine = endpoint(grc, &format!("{GRC_ADDRESS}/24"));
    for site in 0..routers.len() as u32 {
        machine = machine.line(route_to(site));
    }
    vec![middle, machine]
}

fn route_to(site: u32) -> String {
    format!("route add {} via 10.99.0.{}", supernet(site), site_byte(site))
}

fn endpoint(inside: i32, address: &str) -> Wiring {
    Wiring::new(inside).line(format!("addr add {address} dev eth0")).line("link set eth0 up".into())
}

/// A site's router with its switch and the cables to its machines. Goes before [`core`], which
/// plugs it in, and before [`uplink`], which gives it its routes.
pub fn site(site: u32, router: i32, machines: &[i32]) -> Vec<Wiring> {
    let mut switch = bridge(router, &format!("{}/16", gateway(site)));
    let mut all = Vec::new();
    for (number, &machine) in (0u32..).zip(machines) {
        switch = cable(switch, &format!("p-{number}"), machine, "eth0");
        all.push(
            endpoint(machine, &format!("{}/16", machine_address(site, number)))
                .line(format!("route add default via {}", gateway(site))),
        );
    }
    all.insert(0, switch);
    all
}

/// The router's side of the core. Goes after [`core`].
pub fn uplink(site: u32, router: i32, sites: u32) -> Wiring {
    let mut wiring = Wiring {
        inside: router,
        tool: Tool::Ip,
        lines: vec![format!("addr add 10.99.0.{}/24 dev core0", site_byte(site)), "link set core0 up".into()],
    };
    for other in (0..sites).filter(|&other| other != site) {
        wiring = wiring.line(route_to(other));
    }
    wiring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_world_is_given_once() {
        let mut all = vec![GRC_ADDRESS.to_owned(), CORE_GATEWAY.to_owned()];
        for site in 0..SITES_MAX {
            all.push(gateway(site));
            all.push(format!("10.99.0.{}", site_byte(site)));
            all.extend((0..=NODES_MAX).map(|number| machine_address(site, number)));
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|address| address.parse::<std::net::Ipv4Addr>().is_ok()));
    }

    #[test]
    fn a_router_knows_the_way_to_every_other_site_and_not_to_its_own() {
        let lines = uplink(1, 7, 3).lines;
        assert_eq!(lines.iter().filter(|line| line.starts_with("route")).count(), 2);
        assert!(!lines.iter().any(|line| line.contains("10.72.0.0/16")));
    }
}
