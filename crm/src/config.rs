//! `crm.toml`: what a site's administrator says. Unknown keys are refused with file and line.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::names::SiteName;
use serde::{Deserialize, Deserializer};

use crate::mapfile::{Accounts, Mapfile};
use crate::nodes::Node;
use crate::pilot::Times;
use crate::site::Settings;

mod batch;

pub use batch::{Batch, NodeConfig, System};

/// Why a configuration is not accepted: one line that names the file and, where there is one,
/// the line in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// A shorter lease ends sandboxes when the network hiccups, a longer one keeps dead nodes too long.
const LEASE_S: RangeInclusive<u32> = 5..=grant::LEASE_S_MAX;
/// Longest time before a window in which addresses are kept for it.
const LEAD_S_MAX: u32 = 3600;
/// Longest time that commands get to end by themselves.
const GRACE_S_MAX: u32 = 600;

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
    /// How long before a window its pilots may run, seconds; they are in the queue for `lead_s`
    /// all the same. Absent = as soon as they are in. Of queues only.
    pub early_s: Option<u32>,
    #[serde(default)]
    pub times: TimesConfig,
    pub batch: Batch,
}

/// What `[times] hold_s` is if it is not said.
const HOLD_S: u32 = 600;

/// `[times]`, in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesConfig {
    /// How long pilots may wait in the queue; absent = as usual for the batch system.
    pub pilots_s: Option<u32>,
    pub setup_s: u32,
    pub keys_s: u32,
    pub run_s: u32,
    pub end_s: u32,
    /// How long CRM and node may hear nothing of each other before both give up.
    pub lease_s: u32,
    /// How long pilots that came are held for those of other sites, before they are released and
    /// begun again later.
    pub hold_s: u32,
    pub grace_s: u32,
}

impl Default for TimesConfig {
    fn default() -> Self {
        let times = Times::default();
        let s = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Self {
            pilots_s: None,
            setup_s: s(times.setup),
            keys_s: s(times.keys),
            run_s: s(times.run),
            end_s: s(times.end),
            lease_s: s(times.lease),
            hold_s: HOLD_S,
            grace_s: s(times.grace),
        }
    }
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
        self.batch.check()?;
        self.check_times()
    }

    fn check_times(&self) -> Result<(), String> {
        let t = &self.times;
        if [t.pilots_s.unwrap_or(1), t.setup_s, t.keys_s, t.run_s, t.end_s, t.hold_s].contains(&0) {
            return Err("[times] holds a 0".into());
        }
        if !LEASE_S.contains(&t.lease_s) {
            let (first, last) = (LEASE_S.start(), LEASE_S.end());
            return Err(format!("[times] lease_s is {}, it must be {first} to {last}", t.lease_s));
        }
        if t.grace_s > GRACE_S_MAX {
            return Err(format!("[times] grace_s is {}, at most {GRACE_S_MAX} are possible", t.grace_s));
        }
        if self.lead_s > LEAD_S_MAX {
            return Err(format!("lead_s is {}, at most {LEAD_S_MAX} are possible", self.lead_s));
        }
        if let Some(early_s) = self.early_s {
            if !self.batch.system.is_queue() {
                return Err("early_s is for queues; pilots of the embedded system run at once".into());
            }
            if early_s > self.lead_s {
                return Err(format!("early_s is {early_s}, at most lead_s = {} is possible", self.lead_s));
            }
        }
        Ok(())
    }

    /// The same for the owner.
    pub fn settings(&self) -> Settings {
        let s = |seconds: u32| Duration::from_secs(seconds.into());
        let usual = || self.batch.system.pilots_time(Times::default().pilots);
        let own = match self.listen.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        Settings {
            name: self.site.clone(),
            batch_system: self.batch.system.name().into(),
            anonymous: self.batch.system.is_queue(),
            ranges: self.ranges.clone(),
            reserved: self.reserved.iter().copied().chain(own).collect(),
            prefix_len: self.prefix_len,
            gateway: self.gateway,
            mtu: self.mtu,
            driver: self.driver,
            times: Times {
                pilots: self.times.pilots_s.map_or_else(usual, s),
                setup: s(self.times.setup_s),
                keys: s(self.times.keys_s),
                run: s(self.times.run_s),
                end: s(self.times.end_s),
                lease: s(self.times.lease_s),
                grace: s(self.times.grace_s),
            },
            lead: s(self.lead_s),
            early: self.early_s.map(s),
            hold: s(self.times.hold_s),
            word: self.batch.system.word_time(),
            queue: self.batch.queue_name().into(),
            catalog: sandbox_images::Catalog::host_only(),
        }
    }

    /// Whom the site serves. The commands of a queue run as the account itself.
    pub fn accounts(&self) -> Accounts {
        Accounts { mapfile: self.mapfile.clone(), own_only: self.batch.system.is_queue() }
    }

    /// The nodes for the owner.
    pub fn nodes(&self) -> Vec<Node> {
        self.batch.places()
    }
}

#[cfg(test)]
mod tests;
