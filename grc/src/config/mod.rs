//! `grc.toml`: read once, checked whole. An error names the file, the line and what is wrong in one
//! line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::limits::{RATE_KBIT_MIN, SITES_MAX};
use protocol::names::{SiteName, UserName};
use serde::Deserialize;

use crate::coordinator::{Deadlines, Limits, SiteLimits};
use crate::rates;
pub use users::{Connections, Remote};
use users::{LimitEntries, remote, site_limit};

mod users;

/// The configuration of one GRC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Identity, tickets, pins of sites, output of jobs. Mode 0700, made by `grc init`.
    pub state: PathBuf,
    /// Where CRMs dial.
    pub listen: SocketAddr,
    /// Where users of this machine connect.
    pub socket: PathBuf,
    /// The sites of the grid and the networks inside which each may publish ranges.
    pub supernets: BTreeMap<SiteName, Vec<Ipv4Net>>,
    /// Local account to user of the grid; who is not here has the same name there.
    pub users: BTreeMap<String, UserName>,
    pub deadlines: Deadlines,
    /// Capacity between two sites each way, kbit/s; the lesser name stands first. Between sites
    /// that are not here nothing can be reserved.
    pub links: BTreeMap<(SiteName, SiteName), u64>,
    /// Capacity between a site and all others each way, kbit/s; who is not here has no bound.
    pub uplinks: BTreeMap<SiteName, u64>,
    /// Where users come in over the network, and who they are; `None` is not at all.
    pub remote: Option<Remote>,
    /// What one user may have.
    pub limits: Limits,
    pub connections: Connections,
    /// What is kept of each output stream of a job; the rest is taken and dropped.
    pub output_bytes_max: u64,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {what}")]
    Bad { path: PathBuf, line: usize, what: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: PathBuf,
    listen: SocketAddr,
    socket: PathBuf,
    #[serde(default)]
    site: Vec<SiteEntry>,
    #[serde(default)]
    link: Vec<LinkEntry>,
    #[serde(default)]
    users: BTreeMap<String, UserName>,
    listen_users: Option<toml::Spanned<SocketAddr>>,
    users_file: Option<toml::Spanned<PathBuf>>,
    #[serde(default)]
    operators: BTreeSet<UserName>,
    #[serde(default)]
    limits: LimitEntries,
    #[serde(default)]
    deadlines: DeadlineEntries,
    #[serde(default = "default_output")]
    output_bytes_max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteEntry {
    name: toml::Spanned<SiteName>,
    supernets: toml::Spanned<Vec<Ipv4Net>>,
    uplink: Option<toml::Spanned<String>>,
    users: Option<BTreeSet<UserName>>,
    nodes_per_user: Option<toml::Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    between: toml::Spanned<[SiteName; 2]>,
    capacity: toml::Spanned<String>,
}

/// All in whole seconds; what is absent keeps its default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadlineEntries {
    waiting_s: Option<toml::Spanned<u32>>,
    holding_s: Option<toml::Spanned<u32>>,
    starting_s: Option<toml::Spanned<u32>>,
    joining_s: Option<toml::Spanned<u32>>,
    ending_s: Option<toml::Spanned<u32>>,
    quarantine_s: Option<toml::Spanned<u32>>,
    grace_s: Option<toml::Spanned<u32>>,
}

fn default_output() -> u64 {
    1 << 30
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(at, what)| {
            let line = 1 + text[..at.min(text.len())].matches('\n').count();
            ConfigError::Bad { path: path.to_owned(), line, what }
        })
    }

    /// The position of an error is a byte offset.
    fn parse(text: &str) -> Result<Self, Mistake> {
        let file: File = toml::from_str(text).map_err(|error| {
            let what = error.message().lines().next().unwrap_or("cannot be read").to_owned();
            (error.span().map_or(0, |span| span.start), what)
        })?;
        let mut supernets = BTreeMap::new();
        let mut uplinks = BTreeMap::new();
        let mut site_limits = BTreeMap::new();
        for entry in file.site {
            if entry.supernets.get_ref().is_empty() {
                let what = format!("site {} may publish nothing: supernets is empty", entry.name.get_ref());
                return Err(at(entry.supernets.span(), what));
            }
            let (span, name) = (entry.name.span(), entry.name.into_inner());
            if let Some(uplink) = &entry.uplink {
                uplinks.insert(name.clone(), capacity(uplink)?);
            }
            let limits = site_limit(entry.users, entry.nodes_per_user)?;
            if limits != SiteLimits::default() {
                site_limits.insert(name.clone(), limits);
            }
            if supernets.insert(name.clone(), entry.supernets.into_inner()).is_some() {
                return Err(at(span, format!("site {name} stands here twice")));
            }
            if supernets.len() > SITES_MAX {
                return Err(at(span, format!("more than {SITES_MAX} sites")));
            }
        }
        let links = links(file.link, &supernets)?;
        let (limits, connections) = file.limits.read(site_limits, file.operators)?;
        let remote = remote(file.listen_users, file.users_file, file.listen)?;
        for (key, path) in [("state", &file.state), ("socket", &file.socket)] {
            if !path.is_absolute() {
                return Err((text.find(key).unwrap_or(0), format!("{key} must be an absolute path")));
            }
        }
        let mut deadlines = Deadlines::default();
        let given = &file.deadlines;
        for (given, field) in [
            (&given.waiting_s, &mut deadlines.waiting),
            (&given.holding_s, &mut deadlines.holding),
            (&given.starting_s, &mut deadlines.starting),
            (&given.joining_s, &mut deadlines.joining),
            (&given.ending_s, &mut deadlines.ending),
            (&given.quarantine_s, &mut deadlines.quarantine),
            (&given.grace_s, &mut deadlines.grace),
        ] {
            let Some(given) = given else { continue };
            if *given.get_ref() == 0 {
                return Err(at(given.span(), "a deadline has at least one second".into()));
            }
            *field = Duration::from_secs((*given.get_ref()).into());
        }
        Ok(Self {
            state: file.state,
            listen: file.listen,
            socket: file.socket,
            supernets,
            users: file.users,
            deadlines,
            links,
            uplinks,
            remote,
            limits,
            connections,
            output_bytes_max: file.output_bytes_max,
        })
    }
}

/// Where in the text something is wrong, and what.
type Mistake = (usize, String);

fn at(span: Range<usize>, what: String) -> Mistake {
    (span.start, what)
}

fn capacity(text: &toml::Spanned<String>) -> Result<u64, Mistake> {
    let least = u64::from(RATE_KBIT_MIN);
    match rates::parse(text.get_ref()) {
        Ok(kbit) if kbit >= least => Ok(kbit),
        Ok(_) => Err(at(text.span(), format!("a capacity is {} at least", rates::show(least)))),
        Err(what) => Err(at(text.span(), what)),
    }
}

/// Each pair of sites once, in either order.
fn links(
    entries: Vec<LinkEntry>,
    sites: &BTreeMap<SiteName, Vec<Ipv4Net>>,
) -> Result<BTreeMap<(SiteName, SiteName), u64>, Mistake> {
    let mut links = BTreeMap::new();
    for entry in entries {
        let capacity = capacity(&entry.capacity)?;
        let span = entry.between.span();
        let [a, b] = entry.between.into_inner();
        if a == b {
            return Err(at(span, format!("a link goes from {a} to another site")));
        }
        if let Some(unknown) = [&a, &b].into_iter().find(|site| !sites.contains_key(*site)) {
            return Err(at(span, format!("no [[site]] is called {unknown}")));
        }
        let ends = if a < b { (a, b) } else { (b, a) };
        if links.contains_key(&ends) {
            return Err(at(span, format!("the link between {} and {} stands here twice", ends.0, ends.1)));
        }
        links.insert(ends, capacity);
    }
    Ok(links)
}

#[cfg(test)]
mod tests;
