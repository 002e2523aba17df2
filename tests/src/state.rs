//! What is known of a grid that is up: written down before anything else goes on, so that a
//! crashed `up` can be taken down like any other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::batch::Systems;
use crate::links::Links;
use crate::netns::{NODES_MAX, SITES_MAX};
use crate::node::{Machine, Role};
use crate::process::Identity;
use crate::site::LEASE_S;

/// Where a grid lives when nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/gridpilot-local";
/// Variable that every process started here carries, with the grid's directory.
pub const MARKER: &str = "GRIDPILOT_LOCAL_GRID";

/// How sandboxes get their interface.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Macvlan,
    Veth,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Veth => "veth",
        }
    }
}

/// What a grid shall look like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub directory: PathBuf,
    pub sites: u32,
    pub nodes: u32,
    pub driver: Driver,
    #[serde(default)]
    pub links: Links,
    /// What starts the sites' pilots.
    #[serde(default)]
    pub batch: Systems,
    /// The daemons' state lies on a filesystem of so many KiB of its own.
    pub state_kib: Option<u32>,
    /// `[times] lease_s` of the sites; `None` is what a CRM does by itself.
    #[serde(default)]
    pub lease_s: Option<u32>,
}

impl Plan {
    /// Two sites of two nodes, which is what most want.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            sites: 2,
            nodes: 2,
            driver: Driver::default(),
            links: Links::default(),
            batch: Systems::default(),
            state_kib: None,
            lease_s: Some(LEASE_S),
        }
    }

    pub fn check(&self) -> Result<()> {
        ensure!((1..=SITES_MAX).contains(&self.sites), "1 to {SITES_MAX} sites, not {}", self.sites);
        ensure!((1..=NODES_MAX).contains(&self.nodes), "1 to {NODES_MAX} nodes a site, not {}", self.nodes);
        self.batch.check(self.sites)?;
        self.links.check(self.sites)
    }
}

/// A daemon that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// `grc`, `crm-a`, ...: also the name of its log.
    pub name: String,
    pub identity: Identity,
}

/// The state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub plan: Plan,
    pub account: Option<Account>,
    pub machines: Vec<Machine>,
    pub daemons: Vec<Daemon>,
    /// Everything answered: `up` came to its end.
    pub complete: bool,
}

impl State {
    pub fn new(plan: Plan) -> Self {
        Self { plan, account: None, machines: Vec::new(), daemons: Vec::new(), complete: false }
    }

    pub fn file(directory: &Path) -> PathBuf {
        directory.join("state.json")
    }

    /// Replaces the file whole.
    pub fn save(&self) -> Result<()> {
        let file = Self::file(&self.plan.directory);
        let aside = file.with_extension("new");
        fs::write(&aside, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", aside.display()))?;
        fs::rename(&aside, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    pub fn load(directory: &Path) -> Result<Self> {
        let file = Self::file(directory);
        let bytes = fs::read(&file).with_context(|| {
            format!("no grid stands in {}: start one with local-grid up", directory.display())
        })?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", file.display()))
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.plan.directory.join(below)
    }

    /// The GRC's unix socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/grc.sock")
    }

    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .with_context(|| format!("no machine is called {name}"))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Node)
    }

    pub fn daemon(&self, name: &str) -> Result<&Daemon> {
        self.daemons
            .iter()
            .find(|daemon| daemon.name == name)
            .with_context(|| format!("no daemon is called {name}"))
    }
}
