//! What the site must not forget: its records, and how they become bytes.
//!
//! A record is the current state of one thing under a key of its own, not an entry of a log.
//! [`crate::site::Site`] hands them out in front of the actions that they must precede, and
//! [`crate::site::Site::restore`] makes a site of them again.

use std::net::Ipv4Addr;
use std::time::Duration;

use protocol::codec::{self, CodecError};
use protocol::identity::Pin;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::names::{NodeName, SiteName, Text};
use protocol::refusal::Failure;
use protocol::site::Part;
use serde::{Deserialize, Serialize};

use crate::pilot::{PilotId, Round};
use crate::site::Account;

/// Of a reservation, what this site voted for or granted. Times are those of the site's timeline.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    pub version: Version,
    /// Its `window` means nothing here.
    pub part: Part,
    pub start: Duration,
    pub end: Duration,
}

/// What the site has of one reservation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Booking {
    pub account: Account,
    /// Voted for; the GRC decides.
    pub held: Option<Terms>,
    /// In force.
    pub grant: Option<Terms>,
    /// Highest epoch whose pilots were begun, 0 before any.
    pub begun: Epoch,
    /// Highest epoch that the GRC ordered; the first begins without order.
    pub wanted: Epoch,
    /// The last that was submitted, 0 before any.
    pub round: Round,
    /// Why the epoch that was begun cannot go on.
    pub failed: Option<Failure>,
}

/// The pilots that were begun together.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Incarnation {
    pub epoch: Epoch,
    pub round: Round,
    pub account: Account,
    pub members: Vec<Placed>,
    /// Whose each bandwidth class of its sandboxes is.
    pub classes: Vec<Option<SiteName>>,
    /// Until when its batch job lasts at least, on the site's timeline: that cannot be changed.
    pub lasts_until: Duration,
}

/// Where a pilot was placed before it was submitted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    pub member: u32,
    pub node: NodeName,
    /// Of a queue's pilot, the machine that it came to, as the batch system says, and what that calls
    /// itself.
    pub at: Option<NodeName>,
    pub called: Option<NodeName>,
    pub layer: u32,
    pub address: Ipv4Addr,
}

/// What must be known of a pilot that arrived, so that it can come back to another CRM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Arrived {
    pub pin: Pin,
    /// As in [`Placed`].
    pub at: Option<NodeName>,
    pub called: Option<NodeName>,
    pub boot_id: [u8; 16],
}

/// The key of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub enum Key {
    Booking(ReservationId),
    /// The pilots that may be there.
    Incarnation(ReservationId),
    /// A pilot of an incarnation that is over, which does not go.
    Leftover(PilotId),
    /// A pilot that arrived, or is gone.
    Pilot(PilotId),
}

/// What stands under a key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Booking(Box<Booking>),
    Incarnation(Box<Incarnation>),
    Leftover {
        account: Account,
        placed: Placed,
        what: Option<Text>,
    },
    /// Nothing of one that is confirmed gone.
    Pilot(Option<Arrived>),
}

/// One change of what is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    Put(Key, Value),
    Forget(Key),
}

impl Key {
    /// In which table it stands, and its bytes there; keys sort by reservation.
    pub fn table_and_id(self) -> (u8, Vec<u8>) {
        match self {
            Self::Booking(reservation) => (1, reservation.0.to_be_bytes().to_vec()),
            Self::Incarnation(reservation) => (2, reservation.0.to_be_bytes().to_vec()),
            Self::Leftover(pilot) => (3, bytes_of(pilot)),
            Self::Pilot(pilot) => (4, bytes_of(pilot)),
        }
    }

    /// The key that these are; `None` if this version of the program makes none such.
    pub fn from_table_and_id(table: u8, id: &[u8]) -> Option<Self> {
        let reservation = ReservationId(u64::from_be_bytes(id.get(..8)?.try_into().ok()?));
        match (table, id.len()) {
            (1, 8) => Some(Self::Booking(reservation)),
            (2, 8) => Some(Self::Incarnation(reservation)),
            (3 | 4, 16) => {
                let round = Round(u32::from_be_bytes(id[8..12].try_into().ok()?));
                let member = u32::from_be_bytes(id[12..].try_into().ok()?);
                let pilot = PilotId { reservation, round, member };
                Some(if table == 3 { Self::Leftover(pilot) } else { Self::Pilot(pilot) })
            }
            _ => None,
        }
    }
}

fn bytes_of(pilot: PilotId) -> Vec<u8> {
    let PilotId { reservation, round, member } = pilot;
    let mut id = reservation.0.to_be_bytes().to_vec();
    id.extend(round.0.to_be_bytes());
    id.extend(member.to_be_bytes());
    id
}

impl Value {
    /// Whether it is of the kind that stands under such a key.
    pub fn belongs_under(&self, key: Key) -> bool {
        matches!(
            (key, self),
            (Key::Booking(_), Self::Booking(_))
                | (Key::Incarnation(_), Self::Incarnation(_))
                | (Key::Leftover(_), Self::Leftover { .. })
                | (Key::Pilot(_), Self::Pilot(_))
        )
    }

    /// # Errors
    /// It is larger than any message, which nothing that a message brought can become.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }

    /// # Errors
    /// The bytes are no record, or no whole one.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes)
    }
}

impl Record {
    pub fn key(&self) -> Key {
        match self {
            Self::Put(key, _) | Self::Forget(key) => *key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_bytes_and_no_other_bytes_are_a_key() {
        let pilot = PilotId { reservation: ReservationId(7), round: Round(2), member: 9 };
        let reservations = [Key::Booking(ReservationId(1)), Key::Incarnation(ReservationId(u64::MAX))];
        for key in reservations.into_iter().chain([Key::Leftover(pilot), Key::Pilot(pilot)]) {
            let (table, id) = key.table_and_id();
            assert_eq!(Key::from_table_and_id(table, &id), Some(key));
            assert_eq!(Key::from_table_and_id(table, &id[1..]), None);
            assert_eq!(Key::from_table_and_id(table, &[id.as_slice(), &[0]].concat()), None);
            assert_eq!(Key::from_table_and_id(9, &id), None);
        }
    }
}
