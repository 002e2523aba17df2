//! `crm.toml`: what a site's administrator says. Unknown keys are refused with file and line.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::names::{NodeName, SiteName};
use serde::{Deserialize, Deserializer};

use crate::mapfile::Mapfile;
use crate::nodes::Node;
use crate::pilot::Times;
use crate::site::Settings;

/// Why a configuration is not accepted: one line that names the file and, where there is one,
/// the line in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Longest time before a window in which addresses are kept for it.
const LEAD_S_MAX: u32 = 3600;

/// Shortest lease: below it a busy machine would look like a dead one.
const LEASE_S_MIN: u32 = 5;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub site: SiteName,
    /// Identity, grant key and the GRC's pin; made with mode 0700.
    pub state: PathBuf,
    /// Where the GRC listens for sites.
    pub grc: SocketAddr,
    /// Where this CRM listens for pilots: an address that the nodes reach, for it is what
    /// pilots are told.
    pub listen: SocketAddr,
    pub launcher: PathBuf,
    /// The grid-mapfile; absent = every grid user has the account of the same name.
    pub mapfile: Option<PathBuf>,
    pub ranges: Vec<Ipv4Net>,
    /// Addresses inside the ranges that machines have.
    #[serde(default)]
    pub reserved: Vec<Ipv4Addr>,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    #[serde(default = "mtu")]
    pub mtu: u16,
    #[serde(default = "driver", deserialize_with = "read_driver")]
    pub driver: grant::Driver,
    /// The nodes' interface that the driver uses; goes into the node policy only.
    #[serde(default = "interface")]
    pub interface: String,
    /// Host directories that sandboxes see, like `/scratch rw`; goes into the node policy only.
    #[serde(default)]
    pub shares: Vec<String>,
    /// How long before a window its pilots may begin, seconds: what the slowest node needs to
    /// build a sandbox and exchange keys.
    #[serde(default = "lead")]
    pub lead_s: u32,
    #[serde(default)]
    pub times: TimesConfig,
    pub batch: Batch,
}

/// `[times]`, in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesConfig {
    pub pilots_s: u32,
    pub setup_s: u32,
    pub keys_s: u32,
    pub run_s: u32,
    pub end_s: u32,
    /// From 5 to 600: how long node and site bear with each other's silence.
    pub lease_s: u32,
}

impl Default for TimesConfig {
    fn default() -> Self {
        let times = Times::default();
        let s = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Self {
            pilots_s: s(times.pilots),
            setup_s: s(times.setup),
            keys_s: s(times.keys),
            run_s: s(times.run),
            end_s: s(times.end),
            lease_s: s(times.lease),
        }
    }
}

/// `[batch]`: which batch system starts the pilots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub system: System,
    #[serde(default)]
    pub node: Vec<NodeConfig>,
}

/// The batch systems that this build speaks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// The CRM starts pilots itself, on the nodes named here.
    Embedded,
}

/// `[[batch.node]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    pub name: NodeName,
    /// Processors, for people; how many processes MPI starts is the user's `--slots`.
    #[serde(default = "slots")]
    pub slots: u32,
    /// Memory of the node, like "2GiB"; a reservation that asks more per member goes elsewhere.
    #[serde(default, deserialize_with = "read_size")]
    pub memory: u64,
    /// Sandboxes of different reservations at once.
    #[serde(default = "members")]
    pub members: u32,
    /// Put in front of the Launcher's command line to start it on this node as the mapped
    /// account: `{user}`, `{uid}` and `{gid}` are replaced.
    pub start: Vec<String>,
}

fn mtu() -> u16 {
    1500
}

fn driver() -> grant::Driver {
    grant::Driver::Macvlan
}

fn lead() -> u32 {
    10
}

fn interface() -> String {
    "eth0".into()
}

fn slots() -> u32 {
    1
}

fn members() -> u32 {
    4
}

fn read_driver<'de, D: Deserializer<'de>>(deserializer: D) -> Result<grant::Driver, D::Error> {
    let name = String::deserialize(deserializer)?;
    grant::Driver::from_name(&name)
        .ok_or_else(|| serde::de::Error::custom(format!("driver {name:?} is neither macvlan nor veth")))
}

fn read_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    size(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a size like 512MiB or 2GiB")))
}

/// Bytes of a text like `2GiB`, `512MiB`, `64KiB` or `4096`.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match &text[digits..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

impl Config {
    /// Reads and checks a file, and the grid-mapfile that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("cannot read {}: {e}", path.display())))?;
        let config = Self::parse(path, &text)?;
        Mapfile::load(config.mapfile.as_deref()).map_err(|e| ConfigError(e.to_string()))?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError(format!("{}:{line}: {}", path.display(), error.message().replace('\n', " ")))
        })?;
        match config.check() {
            Ok(()) => Ok(config),
            Err(what) => Err(ConfigError(format!("{}: {what}", path.display()))),
        }
    }

    fn check(&self) -> Result<(), String> {
        if !(8..=30).contains(&self.prefix_len) {
            return Err(format!("prefix_len is {}, it must be 8 to 30", self.prefix_len));
        }
        if self.ranges.is_empty() || self.ranges.len() > protocol::limits::RANGES_PER_SITE_MAX {
            return Err(format!("ranges must name 1 to {}", protocol::limits::RANGES_PER_SITE_MAX));
        }
        for range in &self.ranges {
            if range.addr() != range.network() {
                return Err(format!("range {range} has host bits; the range is {}", range.trunc()));
            }
            if range.prefix_len() < self.prefix_len {
                return Err(format!("range {range} is wider than prefix_len {}", self.prefix_len));
            }
            let net = Ipv4Net::new(range.network(), self.prefix_len).map_err(|e| e.to_string())?;
            if let Some(gateway) = self.gateway.filter(|gateway| !net.contains(gateway)) {
                return Err(format!(
                    "gateway {gateway} is not in {}, the network of range {range}",
                    net.trunc()
                ));
            }
        }
        if self.mtu < 576 {
            return Err(format!("mtu is {}, it must be at least 576", self.mtu));
        }
        if self.listen.ip().is_unspecified() {
            return Err(format!("listen is {}; name the address that the nodes reach", self.listen));
        }
        for (key, path) in [("state", &self.state), ("launcher", &self.launcher)] {
            if !path.is_absolute() {
                return Err(format!("{key} is {}; name an absolute path", path.display()));
            }
        }
        let is_plain = |text: &str| !text.is_empty() && !text.contains(['\n', '#', '=']);
        if !is_plain(&self.interface) || self.interface.contains(char::is_whitespace) {
            return Err(format!("interface {:?} is no interface's name", self.interface));
        }
        for share in &self.shares {
            let well_formed = share
                .split_once(' ')
                .is_some_and(|(dir, mode)| dir.starts_with('/') && ["rw", "ro"].contains(&mode));
            if !is_plain(share) || !well_formed {
                return Err(format!("share {share:?} must read like \"/scratch rw\" or \"/data ro\""));
            }
        }
        self.check_nodes()
    }

    fn check_nodes(&self) -> Result<(), String> {
        if self.batch.node.is_empty() {
            return Err("[[batch.node]] is missing; the embedded batch system needs nodes".into());
        }
        if self.batch.node.len() > protocol::limits::NODES_PER_SITE_MAX {
            return Err(format!("more than {} nodes", protocol::limits::NODES_PER_SITE_MAX));
        }
        let mut names = BTreeSet::new();
        for node in &self.batch.node {
            if !names.insert(&node.name) {
                return Err(format!("node {} is named twice", node.name));
            }
            if node.members == 0 || node.slots == 0 {
                return Err(format!("node {} has 0 members or slots", node.name));
            }
            if node.members as usize > protocol::limits::LAYERS_MAX {
                let max = protocol::limits::LAYERS_MAX;
                return Err(format!(
                    "node {} has {} members, at most {max} are possible",
                    node.name, node.members
                ));
            }
            let is_blank = |word: &String| word.is_empty() || word.contains('\0');
            if node.start.is_empty() || node.start.iter().any(is_blank) {
                return Err(format!("start of node {} is empty or holds an empty word", node.name));
            }
        }
        let t = &self.times;
        if [t.pilots_s, t.setup_s, t.keys_s, t.run_s, t.end_s].contains(&0) {
            return Err("[times] holds a 0".into());
        }
        if !(LEASE_S_MIN..=grant::LEASE_S_MAX).contains(&t.lease_s) {
            let max = grant::LEASE_S_MAX;
            return Err(format!("lease_s is {}, from {LEASE_S_MIN} to {max} are possible", t.lease_s));
        }
        if self.lead_s > LEAD_S_MAX {
            return Err(format!("lead_s is {}, at most {LEAD_S_MAX} are possible", self.lead_s));
        }
        Ok(())
    }

    /// The same for the owner.
    pub fn settings(&self) -> Settings {
        let s = |seconds: u32| Duration::from_secs(seconds.into());
        let own = match self.listen.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        Settings {
            name: self.site.clone(),
            batch_system: match self.batch.system {
                System::Embedded => "embedded".into(),
            },
            ranges: self.ranges.clone(),
            reserved: self.reserved.iter().copied().chain(own).collect(),
            prefix_len: self.prefix_len,
            gateway: self.gateway,
            mtu: self.mtu,
            driver: self.driver,
            times: Times {
                pilots: s(self.times.pilots_s),
                setup: s(self.times.setup_s),
                keys: s(self.times.keys_s),
                run: s(self.times.run_s),
                end: s(self.times.end_s),
                lease: s(self.times.lease_s),
            },
            lead: s(self.lead_s),
            catalog: sandbox_images::Catalog::host_only(),
        }
    }

    /// The nodes for the owner.
    pub fn nodes(&self) -> Vec<Node> {
        self.batch.node.iter().map(|n| Node::new(n.name.clone(), n.memory, n.members)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
site = "a"
state = "/var/lib/crm"
grc = "10.99.0.1:7400"
listen = "10.71.0.10:7401"
launcher = "/usr/local/lib/gridpilot/launcher"
ranges = ["10.71.128.0/17"]
prefix_len = 16
gateway = "10.71.0.1"
[batch]
system = "embedded"
[[batch.node]]
name = "a1"
slots = 4
memory = "2GiB"
start = ["ssh", "a1"]
"#;

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Config::parse(Path::new("crm.toml"), &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_accepted_with_its_defaults() {
        let config = Config::parse(Path::new("crm.toml"), GOOD).unwrap();
        assert_eq!(config.batch.node[0].memory, 2 << 30);
        assert_eq!(config.batch.node[0].members, 4);
        assert_eq!((config.mtu, config.driver), (1500, grant::Driver::Macvlan));
        assert_eq!(config.settings().times, Times::default());
        assert!(config.settings().reserved.contains(&[10, 71, 0, 10].into()));
    }

    #[test]
    fn what_the_file_says_wrongly_is_refused_with_its_line() {
        for (from, to, line, word) in [
            ("prefix_len", "prefix_length", 8, "prefix_length"),
            ("slots = 4", "slot = 4", 14, "slot"),
            ("site = \"a\"", "site = \"A\"", 2, "site name"),
            ("\"2GiB\"", "\"2GB\"", 15, "size"),
            ("10.71.128.0/17", "10.71.128.0/77", 7, ""),
            ("\"embedded\"", "\"lsf\"", 11, "embedded"),
            ("[batch]", "driver = \"move\"\n[batch]", 10, "macvlan"),
        ] {
            let error = refusal(from, to);
            assert!(error.starts_with(&format!("crm.toml:{line}: ")), "{to}: {error}");
            assert!(error.contains(word) && !error.contains('\n'), "{to}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        for (from, to, word) in [
            ("10.71.0.1\"", "10.72.0.1\"", "gateway"),
            ("10.71.128.0/17", "10.71.128.1/17", "host bits"),
            ("10.71.128.0/17", "10.0.0.0/8", "wider"),
            ("prefix_len = 16", "prefix_len = 0", "prefix_len"),
            ("10.71.0.10:7401", "0.0.0.0:7401", "listen"),
            ("[\"ssh\", \"a1\"]", "[]", "start"),
            ("slots = 4", "members = 0", "members"),
            ("\"/var/lib/crm\"", "\"crm\"", "state"),
            ("[batch]", "shares = [\"/a rx\"]\n[batch]", "share"),
            ("[batch]", "interface = \"eth0\\nuid_min = 0\"\n[batch]", "interface"),
        ] {
            let error = refusal(from, to);
            assert!(error.contains(word), "{to}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("3MiB"), Some(3 << 20));
        for bad in ["", "GiB", "-1GiB", "1.5GiB", "1 GiB", "99999999999GiB", "2gib"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
