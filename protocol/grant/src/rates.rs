//! The rates of one sandbox: how much it may send to whom, and how long it may be. A record of fixed layout like the
//! grant, signed by the same key behind a context of its own.
//!
//! It names the monitor's nonce, so it fits one start of one monitor, and a serial that grows with
//! each record of that sandbox: an older one cannot be shown again.

use core::fmt;
use std::net::Ipv4Addr;

use crate::{Reader, Writer};

/// Length of encoded rates in bytes.
pub const RATES_LEN: usize = 28 + 4 * CLASSES_MAX + 6 * DESTINATIONS_MAX;
/// First byte of all rates of this layout.
const VERSION: u8 = 1;
/// What is signed in front of the record, so that the signature means nothing elsewhere.
pub const RATES_CONTEXT: &[u8] = b"gridpilot rates v1\0";
/// Classes of one sandbox.
pub const CLASSES_MAX: usize = 8;
/// Destinations of all classes together.
pub const DESTINATIONS_MAX: usize = 48;
/// Highest rate of a class: 100 Gbit/s.
pub const RATE_KBIT_MAX: u32 = 100_000_000;

/// What one sandbox may send. What goes to none of the destinations is not limited. What
/// [`Rates::decode`] returns satisfies every rule of [`Rates::check`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rates {
    /// The challenge of the monitor these are for.
    pub nonce: [u8; 16],
    /// Grows with every record for this sandbox; never 0.
    pub serial: u32,
    /// Seconds from now after which the node itself ends the sandbox, in the place of what the
    /// grant or earlier rates said; never 0.
    pub lifetime_s: u32,
    /// Rate of each class in kbit/s with all headers, at most [`RATE_KBIT_MAX`]; 0 = the class is
    /// not used. A class keeps its number as long as it is used, for its counters go with it.
    pub rates_kbit: [u32; CLASSES_MAX],
    /// Whose class is which, at most [`DESTINATIONS_MAX`]: in the order of their addresses, and
    /// none inside another.
    pub destinations: Vec<Destination>,
}

/// Addresses with a common prefix, and the class of what is sent to them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Destination {
    /// First address of the prefix.
    pub network: Ipv4Addr,
    /// 8 to 32.
    pub prefix_len: u8,
    /// Index into [`Rates::rates_kbit`].
    pub class: u8,
}

impl Destination {
    /// The part of an address that must agree.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32u32.saturating_sub(self.prefix_len.into())).unwrap_or(0)
    }

    fn last(self) -> u32 {
        u32::from(self.network) | !self.mask()
    }
}

/// Why a record is not rates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RatesError {
    /// The version byte is none that this program knows.
    Version(u8),
    /// A byte that must be zero is not.
    Reserved,
    /// Serials begin with 1.
    NoSerial,
    /// A lifetime of nothing.
    NoLifetime,
    /// A rate is above [`RATE_KBIT_MAX`].
    BadRate(u32),
    /// More than [`DESTINATIONS_MAX`].
    TooManyDestinations,
    /// No prefix, one of a class without a rate, or one that is not behind the one before it.
    BadDestination(Destination),
}

impl fmt::Display for RatesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RatesError::Version(version) => {
                write!(f, "rates of version {version}, this program knows {VERSION}")
            }
            RatesError::Reserved => f.write_str("reserved bytes of the rates are not zero"),
            RatesError::NoSerial => f.write_str("the serial of the rates is 0"),
            RatesError::NoLifetime => f.write_str("the lifetime is 0"),
            RatesError::BadRate(rate) => write!(f, "a rate of {rate} kbit/s is above {RATE_KBIT_MAX}"),
            RatesError::TooManyDestinations => write!(f, "more than {DESTINATIONS_MAX} destinations"),
            RatesError::BadDestination(Destination { network, prefix_len, class }) => {
                write!(f, "destination {network}/{prefix_len} of class {class} is none, or at a wrong place")
            }
        }
    }
}

impl std::error::Error for RatesError {}

impl Rates {
    /// The rules that hold for all rates on every node.
    pub fn check(&self) -> Result<(), RatesError> {
        if self.serial == 0 {
            return Err(RatesError::NoSerial);
        }
        if self.lifetime_s == 0 {
            return Err(RatesError::NoLifetime);
        }
        if let Some(&rate) = self.rates_kbit.iter().find(|&&rate| rate > RATE_KBIT_MAX) {
            return Err(RatesError::BadRate(rate));
        }
        if self.destinations.len() > DESTINATIONS_MAX {
            return Err(RatesError::TooManyDestinations);
        }
        let mut free = 0;
        for &one in &self.destinations {
            let prefix = (8..=32).contains(&one.prefix_len) && u32::from(one.network) & !one.mask() == 0;
            let has_rate = self.rates_kbit.get(usize::from(one.class)).is_some_and(|&rate| rate > 0);
            if !prefix || !has_rate || u64::from(u32::from(one.network)) < free {
                return Err(RatesError::BadDestination(one));
            }
            free = u64::from(one.last()) + 1;
        }
        Ok(())
    }

    /// The record; `None` unless [`Rates::check`] is content. All rates have exactly one encoding.
    pub fn encode(&self) -> Option<[u8; RATES_LEN]> {
        self.check().ok()?;
        let mut out = [0; RATES_LEN];
        let mut writer = Writer { out: &mut out, at: 0 };
        writer.put(&[VERSION, 0, 0, 0]);
        writer.put(&self.serial.to_be_bytes());
        writer.put(&self.nonce);
        writer.put(&self.lifetime_s.to_be_bytes());
        self.rates_kbit.iter().for_each(|rate| writer.put(&rate.to_be_bytes()));
        for Destination { network, prefix_len, class } in &self.destinations {
            writer.put(&network.octets());
            writer.put(&[*prefix_len, *class]);
        }
        Some(out)
    }

    /// Reads a record back; the result passes [`Rates::check`].
    pub fn decode(record: &[u8; RATES_LEN]) -> Result<Rates, RatesError> {
        let mut reader = Reader { record, at: 0 };
        let [version, reserved @ ..] = reader.take::<4>();
        if version != VERSION {
            return Err(RatesError::Version(version));
        }
        let serial = u32::from_be_bytes(reader.take());
        let nonce = reader.take();
        let lifetime_s = u32::from_be_bytes(reader.take());
        let rates_kbit = std::array::from_fn(|_| u32::from_be_bytes(reader.take()));
        let all: [Destination; DESTINATIONS_MAX] = std::array::from_fn(|_| {
            let network = Ipv4Addr::from(reader.take::<4>());
            let [prefix_len, class] = reader.take();
            Destination { network, prefix_len, class }
        });
        let used = all.iter().take_while(|one| one.prefix_len != 0).count();
        let zero = Destination { network: Ipv4Addr::UNSPECIFIED, prefix_len: 0, class: 0 };
        if reserved != [0; 3] || all[used..].iter().any(|one| *one != zero) {
            return Err(RatesError::Reserved);
        }
        let rates = Rates { nonce, serial, lifetime_s, rates_kbit, destinations: all[..used].to_vec() };
        rates.check()?;
        Ok(rates)
    }

    /// The message of a record that is not decoded yet: its signature is checked first.
    pub fn signed_message(record: &[u8; RATES_LEN]) -> Vec<u8> {
        [RATES_CONTEXT, record].concat()
    }
}

#[cfg(test)]
mod tests;
