//! The grant: what a site's CRM signs for one sandbox on one node, and what the
//! setuid monitor demands before it builds anything. Beside it the [`Rates`] of a sandbox,
//! which the site may sign anew while it stands.
//!
//! A record of fixed layout, so that the privileged side parses nothing: every
//! field stands at a known offset, numbers are big endian, names are padded with
//! zero bytes, and every byte that means nothing must be zero. The CRM signs
//! [`Grant::signed_message`] with ed25519; the key stands in the node policy.
//!
//! A grant names the monitor's own [`nonce`](Grant::nonce), so it fits one start of
//! one monitor only: it cannot be replayed, and no clock is compared.

#![forbid(unsafe_code)]

use core::fmt;
use std::net::Ipv4Addr;

mod rates;
pub use rates::{
    CLASSES_MAX, DESTINATIONS_MAX, Destination, RATE_KBIT_MAX, RATES_CONTEXT, RATES_LEN, Rates, RatesError,
};

/// Length of an encoded grant in bytes.
pub const GRANT_LEN: usize = 140;
/// First byte of every grant of this layout.
pub const VERSION: u8 = 3;
/// What is signed in front of the record, so that the signature means nothing elsewhere.
pub const CONTEXT: &[u8] = b"gridpilot grant v3\0";
/// Longest lease in seconds.
pub const LEASE_S_MAX: u32 = 600;
/// Length of a site's name: `[a-z][a-z0-9]{0,11}`.
pub const SITE_BYTES_MAX: usize = 12;
/// Length of a user's name: `[a-z_][a-z0-9_-]{0,31}`.
pub const USER_BYTES_MAX: usize = 32;

/// How the sandbox gets its one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Driver {
    /// A macvlan (bridge mode) on the node's interface.
    Macvlan,
    /// A routed veth pair; the node forwards.
    Veth,
}

impl Driver {
    /// The word used for it in every configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Macvlan => "macvlan",
            Driver::Veth => "veth",
        }
    }

    /// The driver of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Driver> {
        [Driver::Macvlan, Driver::Veth].into_iter().find(|driver| driver.name() == name)
    }
}

/// A name that was checked against its rule; it holds ASCII only and no separator
/// of any file format in which it is written.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Text<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    fn new(text: &str, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> Option<Text<N>> {
        let all = text.as_bytes();
        if all.is_empty() || all.len() > N || !first(all[0]) || !all[1..].iter().all(|&b| rest(b)) {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..all.len()].copy_from_slice(all);
        Some(Text { length: all.len() as u8, bytes })
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length as usize]).unwrap_or("")
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr, $error:ident, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, PartialEq)]
        pub struct $name(Text<$max>);

        impl $name {
            /// Checks the rule of this kind of name.
            pub fn new(text: &str) -> Result<$name, GrantError> {
                Text::new(text, $first, $rest).map($name).ok_or(GrantError::$error)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

name_type!(
    /// Name of a site: `[a-z][a-z0-9]{0,11}`.
    SiteName,
    SITE_BYTES_MAX,
    BadSite,
    |b| b.is_ascii_lowercase(),
    |b| b.is_ascii_lowercase() || b.is_ascii_digit()
);

name_type!(
    /// Name of the grid user inside the sandbox: `[a-z_][a-z0-9_-]{0,31}`.
    UserName,
    USER_BYTES_MAX,
    BadUser,
    |b| b.is_ascii_lowercase() || b == b'_',
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-'
);

/// One permission to build one sandbox. What [`Grant::decode`] returns satisfies
/// every rule of [`Grant::check`]; whether this node allows it is the node policy's
/// question, not this crate's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The challenge of the monitor this grant is for.
    pub nonce: [u8; 16],
    /// The site that grants; must be the node's own.
    pub site: SiteName,
    /// Number of the reservation.
    pub reservation: u64,
    /// Incarnation of the reservation on this node; an older one is fenced.
    pub epoch: u64,
    /// Number of the member at its site: host name `<site>-<member>`.
    pub member: u32,
    /// The local account: must be the caller's real uid.
    pub uid: u32,
    /// The user's name inside the sandbox; the home is `/home/<user>`.
    pub user: UserName,
    /// The one address of the sandbox.
    pub address: Ipv4Addr,
    /// Length of its prefix, 8 to 31.
    pub prefix_len: u8,
    /// Where the default route goes; without it the sandbox reaches its own prefix only.
    pub gateway: Option<Ipv4Addr>,
    /// MTU of the interface in bytes, 576 to 65535.
    pub mtu: u16,
    /// How the interface is made.
    pub driver: Driver,
    /// The sandbox's interface stays down until [`Rates`] are installed on it.
    pub shaped: bool,
    /// Seconds after which the node itself ends the sandbox; never 0.
    pub lifetime_s: u32,
    /// Seconds without a word of the CRM after which the node ends the sandbox: 1 to [`LEASE_S_MAX`].
    pub lease_s: u32,
    /// Memory of all processes and files of the sandbox in bytes; 0 = as the node chooses within its policy.
    pub memory_bytes: u64,
    /// Number of processes and threads; 0 = as the node chooses within its policy.
    pub pids: u32,
    /// Thousandths of a CPU; 0 = no limit.
    pub cpus_milli: u32,
    /// Size of the writable part in bytes; 0 = as the node chooses within its policy.
    pub upper_bytes: u64,
    /// Files in the writable part; 0 = as the node chooses within its policy.
    pub upper_inodes: u64,
}

/// Why a record is not a grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GrantError {
    /// The version byte is not [`VERSION`].
    Version(u8),
    /// A byte that must be zero is not.
    Reserved,
    /// Not a site name.
    BadSite,
    /// Not a user name.
    BadUser,
    /// No such driver.
    BadDriver(u8),
    /// The address, its prefix or the gateway is none that a host can have.
    BadAddress,
    /// The MTU is below 576.
    BadMtu,
    /// A lifetime of nothing.
    NoLifetime,
    /// A lease of nothing, or too long a one.
    BadLease,
    /// The user is root.
    RootUser,
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrantError::Version(version) => {
                write!(f, "grant of version {version}, this program knows {VERSION}")
            }
            GrantError::Reserved => f.write_str("reserved bytes of the grant are not zero"),
            GrantError::BadSite => f.write_str("the site's name is not [a-z][a-z0-9]{0,11}"),
            GrantError::BadUser => f.write_str("the user's name is not [a-z_][a-z0-9_-]{0,31}"),
            GrantError::BadDriver(code) => write!(f, "unknown network driver {code}"),
            GrantError::BadAddress => {
                f.write_str("the address, its prefix or the gateway cannot be a host's")
            }
            GrantError::BadMtu => f.write_str("the MTU is below 576"),
            GrantError::NoLifetime => f.write_str("the lifetime is 0"),
            GrantError::BadLease => f.write_str("the lease is not 1 to 600 s"),
            GrantError::RootUser => f.write_str("the user is root"),
        }
    }
}

impl std::error::Error for GrantError {}

impl Grant {
    /// The rules that hold for every grant on every node.
    pub fn check(&self) -> Result<(), GrantError> {
        if !(8..=31).contains(&self.prefix_len) || !host_address(self.address, self.prefix_len) {
            return Err(GrantError::BadAddress);
        }
        if let Some(gateway) = self.gateway {
            let host_part = u32::MAX >> self.prefix_len;
            let same_net = (u32::from(gateway) ^ u32::from(self.address)) & !host_part == 0;
            if gateway == self.address || !same_net || !host_address(gateway, self.prefix_len) {
                return Err(GrantError::BadAddress);
            }
        }
        if self.mtu < 576 {
            return Err(GrantError::BadMtu);
        }
        if self.lifetime_s == 0 {
            return Err(GrantError::NoLifetime);
        }
        if !(1..=LEASE_S_MAX).contains(&self.lease_s) {
            return Err(GrantError::BadLease);
        }
        if self.uid == 0 || self.uid == u32::MAX || self.user.as_str() == "root" {
            return Err(GrantError::RootUser);
        }
        Ok(())
    }

    /// The record. Every grant has exactly one encoding.
    pub fn encode(&self) -> [u8; GRANT_LEN] {
        let mut out = [0; GRANT_LEN];
        let mut writer = Writer { out: &mut out, at: 0 };
        writer.put(&[VERSION, driver_code(self.driver), self.prefix_len, self.shaped.into()]);
        writer.put(&self.uid.to_be_bytes());
        writer.put(&self.nonce);
        writer.put(&self.reservation.to_be_bytes());
        writer.put(&self.epoch.to_be_bytes());
        writer.put(&self.member.to_be_bytes());
        writer.put(&self.lifetime_s.to_be_bytes());
        writer.put(&self.address.octets());
        writer.put(&self.gateway.map_or([0; 4], |gateway| gateway.octets()));
        writer.put(&self.mtu.to_be_bytes());
        writer.put(&[0, 0]);
        writer.put(&self.pids.to_be_bytes());
        writer.put(&self.memory_bytes.to_be_bytes());
        writer.put(&self.upper_bytes.to_be_bytes());
        writer.put(&self.upper_inodes.to_be_bytes());
        writer.put(&self.cpus_milli.to_be_bytes());
        writer.put(&self.lease_s.to_be_bytes());
        writer.put(&self.site.0.bytes);
        writer.put(&self.user.0.bytes);
        out
    }

    /// Reads a record back; the result passes [`Grant::check`].
    pub fn decode(record: &[u8; GRANT_LEN]) -> Result<Grant, GrantError> {
        let mut reader = Reader { record, at: 0 };
        let [version, driver, prefix_len, shaped] = reader.take();
        if version != VERSION {
            return Err(GrantError::Version(version));
        }
        let driver = match driver {
            1 => Driver::Macvlan,
            2 => Driver::Veth,
            other => return Err(GrantError::BadDriver(other)),
        };
        let uid = u32::from_be_bytes(reader.take());
        let nonce = reader.take();
        let reservation = u64::from_be_bytes(reader.take());
        let epoch = u64::from_be_bytes(reader.take());
        let member = u32::from_be_bytes(reader.take());
        let lifetime_s = u32::from_be_bytes(reader.take());
        let address = Ipv4Addr::from(reader.take::<4>());
        let gateway = Ipv4Addr::from(reader.take::<4>());
        let mtu = u16::from_be_bytes(reader.take());
        let reserved1: [u8; 2] = reader.take();
        let pids = u32::from_be_bytes(reader.take());
        let memory_bytes = u64::from_be_bytes(reader.take());
        let upper_bytes = u64::from_be_bytes(reader.take());
        let upper_inodes = u64::from_be_bytes(reader.take());
        let cpus_milli = u32::from_be_bytes(reader.take());
        let lease_s = u32::from_be_bytes(reader.take());
        let site = SiteName::new(padded(&reader.take::<SITE_BYTES_MAX>())?)?;
        let user = UserName::new(padded(&reader.take::<USER_BYTES_MAX>())?)?;
        if shaped > 1 || reserved1 != [0; 2] {
            return Err(GrantError::Reserved);
        }
        let gateway = Some(gateway).filter(|gateway| !gateway.is_unspecified());
        let grant = Grant {
            nonce,
            site,
            reservation,
            epoch,
            member,
            uid,
            user,
            address,
            prefix_len,
            gateway,
            mtu,
            driver,
            shaped: shaped == 1,
            lifetime_s,
            lease_s,
            memory_bytes,
            pids,
            cpus_milli,
            upper_bytes,
            upper_inodes,
        };
        grant.check()?;
        Ok(grant)
    }

    /// What the CRM signs and the monitor verifies.
    pub fn signed_message(&self) -> Vec<u8> {
        signed_message(&self.encode())
    }

    /// Name of the member's host inside the grid.
    pub fn host_name(&self) -> String {
        format!("{}-{}", self.site, self.member)
    }
}

/// The message of a record that is not decoded yet: its signature is checked first.
pub fn signed_message(record: &[u8; GRANT_LEN]) -> Vec<u8> {
    [CONTEXT, record].concat()
}

fn driver_code(driver: Driver) -> u8 {
    match driver {
        Driver::Macvlan => 1,
        Driver::Veth => 2,
    }
}

/// Whether a single host may have this address: a unicast one that is neither the
/// first nor the last of its prefix (a prefix of 31 bits has neither).
fn host_address(address: Ipv4Addr, prefix_len: u8) -> bool {
    let host_part = u32::MAX >> prefix_len;
    let host = u32::from(address) & host_part;
    let first = address.octets()[0];
    first != 0
        && first < 240
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_link_local()
        && (prefix_len == 31 || (host != 0 && host != host_part))
}

/// A name in its zero padding; a byte after the first zero would be a second encoding.
fn padded(field: &[u8]) -> Result<&str, GrantError> {
    let length = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    if field[length..].iter().any(|&b| b != 0) {
        return Err(GrantError::Reserved);
    }
    core::str::from_utf8(&field[..length]).map_err(|_| GrantError::BadUser)
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

struct Reader<'a> {
    record: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.record[self.at..self.at + N]);
        self.at += N;
        field
    }
}

#[cfg(test)]
mod tests;
