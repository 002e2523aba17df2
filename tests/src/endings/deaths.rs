//! Nodes and whole sites that die, most of them without a word, and how long their user waits until
//! he reads which it was.
//!
//! One job runs on both sites of a grid and is waited for by `gridpilot submit --wait`, whose words
//! are read as they come.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::scene::{Snapshot, ask};
use crate::batch::{self, Queue, Systems};
use crate::netns::{Tool, Wiring, site_name};
use crate::process::{Identity, run, wait_until};
use crate::residue::Residue;
use crate::state::Plan;
use crate::world::Grid;

/// The promise: who died is named so long after it.
pub const NAMED_TIME: Duration = Duration::from_secs(15);
/// How long the words are waited for, to see how late they are.
const PATIENCE: Duration = Duration::from_secs(60);
/// The site where it happens; the job's head is at the other.
const SITE: u32 = 1;
/// Its only node.
const NODE: &str = "b1";
const SCRIPT: &str = "echo up; exec sleep 4321";

/// Who dies, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Death {
    /// The cable of a node is pulled; what runs there runs on.
    NodeCut,
    /// Cable and power: every process on it ends, and nothing of that reaches anybody.
    NodeDark,
    /// Every process on it stands still; its kernel goes on answering.
    NodeFrozen,
    /// The site's cable to the rest of the grid is pulled.
    SiteCut,
    /// Its CRM and everything on its nodes stand still.
    SiteFrozen,
    /// Its CRM and everything on its nodes are killed at once.
    SiteKilled,
}

impl Death {
    pub const ALL: [Self; 6] =
        [Self::NodeCut, Self::NodeDark, Self::NodeFrozen, Self::SiteCut, Self::SiteFrozen, Self::SiteKilled];

    /// What the user must read in one line.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::NodeCut | Self::NodeDark | Self::NodeFrozen => &["site b", "node b1"],
            Self::SiteCut | Self::SiteFrozen | Self::SiteKilled => &["site b"],
        }
    }

    /// The port at which a cable is pulled: the switch's machine, and its link.
    fn port(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::NodeCut | Self::NodeDark => Some(("router-b", "p-1")),
            Self::SiteCut => Some(("core", "r-b")),
            Self::NodeFrozen | Self::SiteFrozen | Self::SiteKilled => None,
        }
    }

    fn signal(self) -> Option<Signal> {
        match self {
            Self::NodeCut | Self::SiteCut => None,
            Self::NodeDark | Self::SiteKilled => Some(Signal::SIGKILL),
            Self::NodeFrozen | Self::SiteFrozen => Some(Signal::SIGSTOP),
        }
    }

    fn takes_the_crm(self) -> bool {
        matches!(self, Self::SiteFrozen | Self::SiteKilled)
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NodeCut => "node: cable pulled",
            Self::NodeDark => "node: cable pulled, all SIGKILL",
            Self::NodeFrozen => "node: all SIGSTOP",
            Self::SiteCut => "site: cable pulled",
            Self::SiteFrozen => "site: CRM and nodes SIGSTOP",
            Self::SiteKilled => "site: CRM and nodes SIGKILL",
        })
    }
}

/// What the user read, and when.
#[derive(Clone, Debug)]
pub struct Told {
    pub after: Duration,
    pub line: String,
}

/// The grid that a death needs. An embedded CRM sees its own child die with a node, whatever became of
/// the cable; a batch system hears as little of it as the CRM.
pub fn plan(batch: Systems, directory: PathBuf) -> Plan {
    Plan { sites: 2, nodes: 1, batch, ..Plan::new(directory) }
}

/// The batch system of the site, if it has one.
fn queue(grid: &Grid) -> Option<&'static dyn Queue> {
    batch::queue(grid.state.plan.batch.of(SITE))
}

/// Lets it happen in an idle grid of [`plan`], and heals it again.
///
/// # Errors
/// It was not named at all, or something is left when all is well again.
pub fn happen(grid: &mut Grid, death: Death) -> Result<Told> {
    let mut residue = Residue::before(grid)?;
    let mut user = User::submit(grid)?;
    residue.observe(grid);
    let struck = Struck::strike(grid, death)?;
    let named = |line: &str| death.names().iter().all(|name| line.contains(name));
    let told = user.read_until(named).map(|(at, line)| Told { after: at.duration_since(struck.at), line });
    struck.heal(grid)?;
    user.leave(grid)?;
    residue.expect_none(grid)?;
    told.with_context(|| format!("{death}: it was never named"))
}

/// Who waits for the job.
struct User {
    gridpilot: Child,
    reservation: String,
    lines: mpsc::Receiver<(Instant, String)>,
}

impl User {
    /// Comes back when the command runs at both sites.
    fn submit(grid: &Grid) -> Result<Self> {
        let nodes = format!("{}=1,{}=1", site_name(0), site_name(SITE));
        let words = ["submit", "--wait", "--all", "--nodes", &nodes, "--", "sh", "-c", SCRIPT];
        let mut command = grid.gridpilot_as_user()?;
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut gridpilot = command.spawn().context("cannot start gridpilot")?;
        let (say, lines) = mpsc::channel();
        read_lines(gridpilot.stdout.take().context("no stdout")?, say.clone());
        read_lines(gridpilot.stderr.take().context("no stderr")?, say);
        let mut user = Self { gridpilot, reservation: String::new(), lines };
        let (_, submitted) = user.read_until(|line| line.contains("submitted in"))?;
        user.reservation = submitted.rsplit(' ').next().unwrap_or_default().to_owned();
        for _ in 0..2 {
            user.read_until(|line| line == "up").context("the command does not start everywhere")?;
        }
        Ok(user)
    }

    fn read_until(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(Instant, String)> {
        let end = Instant::now() + PATIENCE;
        let mut read = Vec::new();
        while let Ok((at, line)) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if wanted(&line) {
                return Ok((at, line));
            }
            read.push(line);
        }
        bail!("not read within {} s, only: {}", PATIENCE.as_secs(), read.join(" | "))
    }

    /// Releases what he has and waits until it is over.
    fn leave(mut self, grid: &Grid) -> Result<()> {
        let release = || run(grid.gridpilot_as_user()?.args(["release", &self.reservation]));
        let over = || ask(grid, &["show", &self.reservation]).is_ok_and(|view| is_over(&view));
        // A reservation that has failed by itself cannot be released.
        let refused = release().err();
        let ended = wait_until(PATIENCE, over);
        let _ = self.gridpilot.kill();
        self.gridpilot.wait()?;
        ensure!(ended, "the reservation is not over: {refused:?}");
        Ok(())
    }
}

fn is_over(view: &serde_json::Value) -> bool {
    matches!(view["state"].as_str(), Some("ended" | "failed"))
}

fn read_lines(from: impl Read + Send + 'static, say: mpsc::Sender<(Instant, String)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if say.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
}

/// What was done, to be undone.
struct Struck {
    death: Death,
    at: Instant,
    processes: Vec<Identity>,
}

impl Struck {
    fn strike(grid: &Grid, death: Death) -> Result<Self> {
        let mut processes: Vec<Identity> = Vec::new();
        if death.takes_the_crm() {
            processes.push(grid.state.daemon(&crm())?.identity);
        }
        if let Some(queue) = queue(grid) {
            processes.push(grid.state.daemon(&queue.node_daemon(NODE))?.identity);
        }
        let pilots = Snapshot::take(grid).on(NODE);
        ensure!(!pilots.is_empty(), "nothing runs on node {NODE}");
        processes.extend(pilots);
        let at = Instant::now();
        pull(grid, death, "down")?;
        for process in &processes {
            death.signal().map(|signal| process.signal(signal));
        }
        Ok(Self { death, at, processes })
    }

    fn heal(self, grid: &mut Grid) -> Result<()> {
        pull(grid, self.death, "up")?;
        for process in &self.processes {
            process.signal(Signal::SIGCONT);
        }
        if self.death == Death::SiteKilled {
            grid.start_crm(SITE)?;
        }
        if let Some(queue) = queue(grid).filter(|_| self.death.signal() == Some(Signal::SIGKILL)) {
            queue.start_node(grid, NODE)?;
        }
        grid.wait_connected()
    }
}

fn crm() -> String {
    format!("crm-{}", site_name(SITE))
}

/// Pulls the cable at the switch, or plugs it in again: both ends keep their addresses and routes.
fn pull(grid: &Grid, death: Death, to: &str) -> Result<()> {
    let Some((machine, port)) = death.port() else { return Ok(()) };
    let inside = grid.state.machine(machine)?.holder.pid;
    Wiring { inside, tool: Tool::Ip, lines: vec![format!("link set {port} {to}")] }.apply()
}
