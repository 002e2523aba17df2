//! `grc.toml`: read once, checked whole. An error names the file, the line and what is wrong in one
//! line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::limits::{RATE_KBIT_MIN, SITES_MAX};
use protocol::names::{SiteName, UserName};
use serde::Deserialize;

use crate::coordinator::Deadlines;
use crate::rates;

/// Reservations that one user may have at a time, if nothing else is said.
const RESERVATIONS_PER_USER: usize = 1024;
const RESERVATIONS_PER_USER_MAX: usize = 65_536;

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
    /// Reservations of one user that are not over.
    pub reservations_per_user: usize,
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    between: toml::Spanned<[SiteName; 2]>,
    capacity: toml::Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitEntries {
    reservations_per_user: Option<toml::Spanned<usize>>,
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
        for entry in file.site {
            if entry.supernets.get_ref().is_empty() {
                let what = format!("site {} may publish nothing: supernets is empty", entry.name.get_ref());
                return Err(at(entry.supernets.span(), what));
            }
            let (span, name) = (entry.name.span(), entry.name.into_inner());
            if let Some(uplink) = &entry.uplink {
                uplinks.insert(name.clone(), capacity(uplink)?);
            }
            if supernets.insert(name.clone(), entry.supernets.into_inner()).is_some() {
                return Err(at(span, format!("site {name} stands here twice")));
            }
            if supernets.len() > SITES_MAX {
                return Err(at(span, format!("more than {SITES_MAX} sites")));
            }
        }
        let links = links(file.link, &supernets)?;
        let reservations_per_user = match file.limits.reservations_per_user {
            None => RESERVATIONS_PER_USER,
            Some(given) if (1..=RESERVATIONS_PER_USER_MAX).contains(given.get_ref()) => given.into_inner(),
            Some(given) => {
                let what = format!("a user has 1 to {RESERVATIONS_PER_USER_MAX} reservations");
                return Err(at(given.span(), what));
            }
        };
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
            reservations_per_user,
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
mod tests {
    use super::*;

    const GOOD: &str = r#"state = "/var/lib/grc"
listen = "10.99.0.1:7400"
socket = "/run/gridpilot/grc.sock"
[[site]]
name = "a"
supernets = ["10.71.0.0/16"]
[[site]]
name = "b"
supernets = ["10.72.0.0/16", "10.73.0.0/24"]
[users]
root = "grid"
[deadlines]
starting_s = 30
"#;

    const LINKS: &str = r#"[[link]]
between = ["b", "a"]
capacity = "200Mbit"
[limits]
reservations_per_user = 5
"#;

    fn error(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("grc.toml");
        std::fs::write(&path, text).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error.strip_prefix(path.to_str().unwrap()).map(str::to_owned).unwrap_or(error)
    }

    #[test]
    fn a_full_configuration_is_read_as_it_stands() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.supernets.len(), 2);
        assert_eq!(config.users["root"].as_str(), "grid");
        assert_eq!(config.deadlines.starting, Duration::from_secs(30));
        assert_eq!(config.deadlines.holding, Deadlines::default().holding);
        assert_eq!(config.links, BTreeMap::new());
        assert_eq!(config.reservations_per_user, 1024);
    }

    #[test]
    fn links_and_uplinks_are_capacities_between_sites() {
        let text = GOOD.replacen("name = \"b\"", "name = \"b\"\nuplink = \"1Gbit\"", 1) + LINKS;
        let config = Config::parse(&text).unwrap();
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(config.links, BTreeMap::from([((a, b.clone()), 200_000)]));
        assert_eq!(config.uplinks, BTreeMap::from([(b, 1_000_000)]));
        assert_eq!(config.reservations_per_user, 5);
    }

    #[test]
    fn a_link_that_cannot_be_is_named_with_file_and_line() {
        let first = GOOD.lines().count();
        let wrong = |from: &str, to: &str| {
            let message = error(&format!("{GOOD}{}", LINKS.replacen(from, to, 1)));
            let (line, what) = message[1..].split_once(": ").unwrap();
            (line.parse::<usize>().unwrap() - first, what.to_owned())
        };
        let says = |line: usize, what: &str| (line, what.to_owned());
        assert_eq!(wrong("\"a\"", "\"b\""), says(2, "a link goes from b to another site"));
        assert_eq!(wrong("\"a\"", "\"c\""), says(2, "no [[site]] is called c"));
        assert_eq!(wrong("200Mbit", "63kbit"), says(3, "a capacity is 64kbit at least"));
        assert_eq!(wrong("200Mbit", "0Mbit"), says(3, "a capacity is 64kbit at least"));
        let (line, what) = wrong("200Mbit", "200MB");
        assert!(line == 3 && what.contains("is not a rate"), "{what}");
        assert_eq!(wrong("= 5", "= 0"), says(5, "a user has 1 to 65536 reservations"));
        let (line, what) = wrong("capacity", "capacty");
        assert!(line == 3 && what.starts_with("unknown field `capacty`"), "{what}");
        let twice = "[[link]]\nbetween = [\"a\", \"b\"]\ncapacity = \"1Gbit\"\n[limits]";
        assert_eq!(wrong("[limits]", twice), says(5, "the link between a and b stands here twice"));
        let message = error(&GOOD.replacen("name = \"b\"", "name = \"b\"\nuplink = \"1GB\"", 1));
        assert!(message.starts_with(":9: \"1GB\" is not a rate"), "{message}");
    }

    #[test]
    fn every_mistake_is_named_with_file_and_line() {
        let swap = |from: &str, to: &str| error(&GOOD.replacen(from, to, 1));
        assert!(swap("root =", "root = \"x\"\n\"root\" =").starts_with(":12: "), "a key twice");
        let unknown = swap("socket =", "sokcet =");
        assert!(unknown.starts_with(":3: unknown field `sokcet`"), "{unknown}");
        assert!(swap("starting_s", "startin_s").starts_with(":13: unknown field"));
        assert_eq!(swap("name = \"b\"", "name = \"a\""), ":8: site a stands here twice");
        assert!(swap("name = \"b\"", "name = \"B\"").starts_with(":8: \"B\" is not a site name"));
        assert!(swap("10.71.0.0/16", "10.71.0.0/33").starts_with(":6: "));
        assert!(swap("[\"10.71.0.0/16\"]", "[]").starts_with(":6: site a may publish nothing"));
        assert_eq!(swap("/var/lib/grc", "lib"), ":1: state must be an absolute path");
        assert_eq!(swap("starting_s = 30", "starting_s = 0"), ":13: a deadline has at least one second");
        assert!(swap("listen =", "#").contains("missing field `listen`"));
    }
}
