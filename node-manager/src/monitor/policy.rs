//! The node policy: what root says about this node. `key = value`, one a line, `#` for
//! comments; an unknown key is refused rather than ignored.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use grant::{Driver, SiteName};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use super::start::owned_by_root;
use crate::sandbox::Share;

/// The only place it is read from.
pub const POLICY_PATH: &str = "/etc/gridpilot/node.policy";
const POLICY_BYTES_MAX: u64 = 64 * 1024;

/// What this node allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    pub site: SiteName,
    /// The CRM's ed25519 public key.
    pub grant_key: [u8; 32],
    /// SHA-256 of the CRM's certificate; for the agent.
    pub crm_pin: [u8; 32],
    pub interface: String,
    pub drivers: Vec<Driver>,
    pub ranges: Vec<Range>,
    pub shares: Vec<Share>,
    /// Lowest uid that may have a sandbox.
    pub uid_min: u32,
    /// Ceilings of what a grant may ask; for memory and pids, and for rates, 0 = none.
    pub upper_max: u64,
    pub memory_max: u64,
    pub pids_max: u64,
    /// Sum of a sandbox's rates, kbit/s.
    pub rate_max: u64,
    /// Longest lease, seconds.
    pub lease_max: u64,
}

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    network: u32,
    prefix_len: u8,
}

impl Range {
    pub(super) fn parse(text: &str) -> Option<Range> {
        let (network, prefix_len) = text.split_once('/')?;
        let network = u32::from(network.parse::<Ipv4Addr>().ok()?);
        let prefix_len = prefix_len.parse().ok().filter(|len| (8..=32).contains(len))?;
        let range = Range { network, prefix_len };
        (network & !range.mask() == 0).then_some(range)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix_len))
    }

    /// Whether a sandbox may have this address.
    pub fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == self.network
    }
}

impl Policy {
    /// Reads the policy, provided that nobody but root could have written it.
    pub fn read() -> Result<Policy, String> {
        let named = |error: &dyn std::fmt::Display| format!("node policy {POLICY_PATH}: {error}");
        if !std::fs::exists(POLICY_PATH).unwrap_or(true) {
            return Err(named(&"No such file; `crm policy` at the site prints what belongs there"));
        }
        owned_by_root(Path::new(POLICY_PATH)).map_err(|error| format!("node policy: {error}"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, POLICY_PATH, flags, Mode::empty()).map_err(|error| named(&error))?;
        let status = fstat(&file).map_err(|error| named(&error))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(named(&"is not a regular file"));
        }
        let mut text = String::new();
        let read = File::from(file).take(POLICY_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| named(&error))?;
        if text.len() as u64 > POLICY_BYTES_MAX {
            return Err(named(&"is longer than 64 KiB"));
        }
        Policy::parse(&text).map_err(|error| named(&error))
    }

    fn parse(text: &str) -> Result<Policy, String> {
        let mut lines = Lines(Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let (key, value) =
                line.split_once('=').ok_or_else(|| format!("line {number}: is not `key = value`"))?;
            if !KEYS.split(' ').any(|known| known == key.trim()) {
                return Err(format!("line {number}: unknown key {}", key.trim().escape_default()));
            }
            lines.0.push((number, key.trim(), value.trim()));
        }
        let hex_digits = "is not 64 hex digits";
        Ok(Policy {
            site: lines.one("site", "is not the name of a site", |text| SiteName::new(text).ok())?,
            grant_key: lines.one("grant_key", hex_digits, hex)?,
            crm_pin: lines.one("crm_pin", hex_digits, hex)?,
            interface: lines.one("interface", "is not the name of an interface", interface)?,
            drivers: lines.some("driver", "is not macvlan or veth", Driver::from_name)?,
            ranges: lines.some("range", "is not a network such as 10.1.0.0/16", Range::parse)?,
            shares: lines.all("share", "is not `/absolute/path rw` or `ro`", share)?,
            uid_min: lines.number("uid_min", 1000)?.max(1),
            // 0 would be a tmpfs without a limit.
            upper_max: lines.number("upper_max", 4 << 30)?.max(1 << 20),
            memory_max: lines.number("memory_max", 0)?,
            pids_max: lines.number("pids_max", 32768)?,
            rate_max: lines.number("rate_max", 0)?,
            lease_max: lines.number("lease_max", grant::LEASE_S_MAX.into())?,
        })
    }
}

const KEYS: &str = "site grant_key crm_pin interface driver range share uid_min upper_max memory_max pids_max \
    rate_max lease_max";

/// Makes a value of a line's text, if it can be one.
type Reader<T> = fn(&str) -> Option<T>;

/// Number, key and value of every line that says something.
struct Lines<'a>(Vec<(usize, &'a str, &'a str)>);

impl Lines<'_> {
    /// Every value of a key; `wrong` is what is said of a value that cannot be read.
    fn all<T>(&self, key: &str, wrong: &str, read: Reader<T>) -> Result<Vec<T>, String> {
        let values = self.0.iter().filter(|(_, name, _)| *name == key);
        values
            .map(|(number, _, value)| read(value).ok_or_else(|| format!("line {number}: {key}: {wrong}")))
            .collect()
    }

    fn some<T>(&self, key: &str, wrong: &str, read: Reader<T>) -> Result<Vec<T>, String> {
        let values = self.all(key, wrong, read)?;
        if values.is_empty() { Err(format!("{key} is missing")) } else { Ok(values) }
    }

    fn at_most_one<T>(&self, key: &str, wrong: &str, read: Reader<T>) -> Result<Option<T>, String> {
        let mut values = self.all(key, wrong, read)?;
        match self.0.iter().filter(|(_, name, _)| *name == key).nth(1) {
            Some((number, ..)) => Err(format!("line {number}: {key} is given twice")),
            None => Ok(values.pop()),
        }
    }

    fn one<T>(&self, key: &str, wrong: &str, read: Reader<T>) -> Result<T, String> {
        self.at_most_one(key, wrong, read)?.ok_or_else(|| format!("{key} is missing"))
    }

    fn number<T: FromStr>(&self, key: &str, default: T) -> Result<T, String> {
        Ok(self.at_most_one(key, "is not a number", |text| text.parse().ok())?.unwrap_or(default))
    }
}

fn interface(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    ((1..=15).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let plain = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let half = |half: &str| u128::from_str_radix(half, 16).ok().map(u128::to_be_bytes);
    let (first, second) = text.split_at_checked(32).filter(|_| plain)?;
    [half(first)?, half(second)?].concat().try_into().ok()
}

fn share(value: &str) -> Option<Share> {
    let (path, access) = value.rsplit_once(char::is_whitespace)?;
    let path = PathBuf::from(path.trim());
    let writable = match access {
        "rw" => true,
        "ro" => false,
        _ => return None,
    };
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    (path.is_absolute() && plain && path != Path::new("/")).then_some(Share { path, writable })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const SAMPLE: &str = "\
# written by crm policy
site = a
grant_key = 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
crm_pin = ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
interface = eth0        # the one with the cable
driver = macvlan
driver = veth
range = 10.71.128.0/17
share = /scratch rw
share = /opt/site apps ro
memory_max = 0
";

    #[test]
    fn the_sample_is_understood() {
        let policy = Policy::parse(SAMPLE).unwrap();
        assert_eq!(policy.grant_key[31], 0x1f);
        assert_eq!(policy.drivers, [Driver::Macvlan, Driver::Veth]);
        assert!(policy.ranges[0].holds(Ipv4Addr::new(10, 71, 255, 1)));
        assert!(!policy.ranges[0].holds(Ipv4Addr::new(10, 71, 127, 1)));
        assert_eq!(policy.shares[1], Share { path: "/opt/site apps".into(), writable: false });
        assert_eq!((policy.uid_min, policy.upper_max, policy.pids_max), (1000, 4 << 30, 32768));
        assert_eq!(policy.rate_max, 0);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (line, reason) in [
            ("colour = red", "line 12: unknown key colour"),
            ("site", "line 12: is not `key = value`"),
            ("site = b", "line 12: site is given twice"),
            ("uid_min = -1", "line 12: uid_min: is not a number"),
            ("range = 10.71.128.1/17", "line 12: range: is not a network such as 10.1.0.0/16"),
            ("range = 10.71.0.0/0", "line 12: range: is not a network such as 10.1.0.0/16"),
            ("share = scratch rw", "line 12: share: is not `/absolute/path rw` or `ro`"),
            ("share = /a/../etc rw", "line 12: share: is not `/absolute/path rw` or `ro`"),
            ("share = / rw", "line 12: share: is not `/absolute/path rw` or `ro`"),
            ("driver = bridge", "line 12: driver: is not macvlan or veth"),
            ("crm_pin = +f", "line 12: crm_pin: is not 64 hex digits"),
        ] {
            assert_eq!(Policy::parse(&format!("{SAMPLE}{line}\n")), Err(reason.to_owned()));
        }
    }

    #[test]
    fn what_must_be_there_is_named_when_missing() {
        for key in ["site", "grant_key", "crm_pin", "interface", "driver", "range"] {
            let text: String =
                SAMPLE.lines().filter(|line| !line.starts_with(key)).flat_map(|line| [line, "\n"]).collect();
            assert_eq!(Policy::parse(&text), Err(format!("{key} is missing")));
        }
    }
}
