//! TCP between two sandboxes on two nodes against the nodes' own interfaces, in turn.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use grant::Driver;
use nix::sched::{CloneFlags, setns};

use super::bed::{Bed, Built, NODE_LINK, PREFIX_LEN, ip, own_network, sysctl};
use super::{middle, row, table};

/// Where the program stands inside.
const PROGRAM: &str = "/home/grid/bench";
const PINGS: usize = 20_000;

/// One of two machines, joined by a cable.
struct Node {
    namespace: File,
    macvlan: Option<Built>,
    veth: Option<Built>,
}

impl Node {
    fn enter(&self) -> Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a node")
    }
}

/// How two programs find each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Path {
    Native,
    Macvlan,
    Veth,
}

impl Path {
    fn address(self, node: usize) -> Ipv4Addr {
        let last = node as u8 + 1;
        match self {
            Self::Native => Ipv4Addr::new(10, 70, 0, last),
            Self::Macvlan => Ipv4Addr::new(10, 70, 2, last),
            Self::Veth => Ipv4Addr::new(10, 70, 3, last),
        }
    }
}

/// Two nodes with a cable between them and two sandboxes each.
fn nodes(bed: &Bed) -> Result<[Node; 2]> {
    let mut namespaces = Vec::new();
    for _ in 0..2 {
        own_network()?;
        namespaces.push(File::open("/proc/self/ns/net")?);
    }
    // From the second into the first, which this process left but still holds.
    let holder =
        format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&namespaces[0]));
    ip(&[format!("link add {NODE_LINK} type veth peer name {NODE_LINK} netns {holder}")])?;
    let mut nodes = Vec::new();
    for (number, namespace) in namespaces.into_iter().enumerate() {
        let other = 1 - number;
        let own = Path::Native.address(number);
        let mut node = Node { namespace, macvlan: None, veth: None };
        node.enter()?;
        sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        sysctl("ipv4/ip_forward", "1")?;
        ip(&[
            "link set lo up".into(),
            format!("addr add {own}/{PREFIX_LEN} dev {NODE_LINK}"),
            format!("link set {NODE_LINK} up"),
            format!("route add {} via {}", Path::Veth.address(other), Path::Native.address(other)),
        ])?;
        node.macvlan = Some(Built::build(&bed.plan(Driver::Macvlan, Path::Macvlan.address(number))?)?);
        node.veth = Some(Built::build(&bed.plan(Driver::Veth, Path::Veth.address(number))?)?);
        nodes.push(node);
    }
    nodes.try_into().map_err(|_| anyhow::anyhow!("not two nodes"))
}

struct Bench {
    nodes: [Node; 2],
    /// Ids of commands are used once.
    next: u64,
    /// Servers on a node itself; those inside go with their sandbox.
    servers: Vec<Child>,
}

impl Bench {
    fn inside(&self, path: Path, node: usize) -> Option<&Built> {
        match path {
            Path::Native => None,
            Path::Macvlan => self.nodes[node].macvlan.as_ref(),
            Path::Veth => self.nodes[node].veth.as_ref(),
        }
    }

    /// The program on a node itself.
    fn on(&self, node: usize, arguments: &[String], stdout: Stdio) -> Result<Child> {
        self.nodes[node].enter()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(stdout);
        command.spawn().context("cannot start a probe")
    }

    /// The second node's server on this path, for so many connections.
    fn serve(&mut self, path: Path, connections: usize) -> Result<()> {
        let arguments = ["probe-serve".into(), path.address(1).to_string(), connections.to_string()];
        self.next += 1;
        match self.inside(path, 1) {
            Some(built) => built.start(self.next, &inside_words(&arguments), File::open("/dev/null")?),
            None => {
                let child = self.on(1, &arguments, Stdio::null())?;
                self.servers.push(child);
                Ok(())
            }
        }
    }

    /// A client on the first node; the number it prints.
    fn ask(&mut self, path: Path, what: &str, how_much: String) -> Result<f64> {
        let arguments = [what.to_owned(), path.address(1).to_string(), how_much];
        self.next += 1;
        let text = match self.inside(path, 0) {
            Some(built) => {
                let (mut reader, writer) = std::io::pipe()?;
                built.start(self.next, &inside_words(&arguments), writer)?;
                let mut text = String::new();
                reader.read_to_string(&mut text)?;
                built.finish(self.next).with_context(|| format!("{what} over {path:?}: {text}"))?;
                text
            }
            None => {
                let output = self.on(0, &arguments, Stdio::piped())?.wait_with_output()?;
                ensure!(output.status.success(), "{what} on the nodes: {}", output.status);
                String::from_utf8(output.stdout)?
            }
        };
        text.trim().parse().with_context(|| format!("{what} over {path:?} said {text:?}"))
    }

    /// A stream and a row of pings.
    fn sample(&mut self, path: Path, seconds: f64) -> Result<Sample> {
        let bits = self.ask(path, "probe-stream", seconds.to_string())?;
        let latency = self.ask(path, "probe-ping", PINGS.to_string())?;
        Ok(Sample { bits, latency })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn inside_words(arguments: &[String]) -> Vec<&str> {
    [PROGRAM].into_iter().chain(arguments.iter().map(String::as_str)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Bits per second.
    bits: f64,
    /// Seconds of a message and its echo.
    latency: f64,
}

/// One number of a sample.
type Part = fn(&Sample) -> f64;

/// Measures and prints. In each round every path stands between two runs of the nodes' own.
pub fn run(rounds: usize, seconds: f64) -> Result<String> {
    let bed = Bed::make()?;
    bed.carry_program()?;
    let mut bench = Bench { nodes: nodes(&bed)?, next: 0, servers: vec![] };
    let paths = [Path::Macvlan, Path::Veth];
    // Two connections a sample; one round more, that warms up.
    bench.serve(Path::Native, 2 * (paths.len() * (rounds + 1) + 1))?;
    for path in paths {
        bench.serve(path, 2 * (rounds + 1))?;
    }
    let mut native = vec![bench.sample(Path::Native, seconds)?];
    let mut samples = [Vec::new(), Vec::new()];
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (number, path) in paths.into_iter().enumerate() {
            let before = native[native.len() - 1];
            let sample = bench.sample(path, seconds)?;
            let after = bench.sample(Path::Native, seconds)?;
            native.push(after);
            if round > 0 {
                samples[number].push(sample);
                ratios[number].push(Sample {
                    bits: sample.bits * 2.0 / (before.bits + after.bits),
                    latency: sample.latency * 2.0 / (before.latency + after.latency),
                });
            }
        }
    }
    let empty = Vec::new();
    let names = ["the nodes' own interfaces", "sandboxes, macvlan", "sandboxes, veth (routed)"];
    let head = [
        "TCP between two nodes",
        "stream Gbit/s",
        "min",
        "max",
        "ratio",
        "64 B echo us",
        "min",
        "max",
        "ratio",
    ];
    let mut rows = vec![row(head)];
    for ((name, samples), ratios) in
        names.iter().zip([&native, &samples[0], &samples[1]]).zip([&empty, &ratios[0], &ratios[1]])
    {
        let mut cells = vec![(*name).to_owned()];
        let parts: [(Part, f64); 2] = [(|s| s.bits, 1e-9), (|s| s.latency, 1e6)];
        for (part, unit) in parts {
            let numbers: Vec<f64> = samples.iter().map(|sample| part(sample) * unit).collect();
            let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let most = numbers.iter().copied().fold(0.0, f64::max);
            cells.extend([middle(&numbers), least, most].map(|number| format!("{number:.2}")));
            cells.push(match ratios.is_empty() {
                true => "1".to_owned(),
                false => format!("{:.3}", middle(&ratios.iter().map(part).collect::<Vec<_>>())),
            });
        }
        rows.push(cells);
    }
    Ok(format!(
        "{rounds} rounds of {seconds} s of stream and {PINGS} echoes; each path between two runs of the nodes' own.\n\n{}",
        table(&rows)
    ))
}
