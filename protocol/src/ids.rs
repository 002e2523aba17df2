//! Numbers with a meaning. Short, because people type them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::BadName;

macro_rules! short_id {
    ($(#[$doc:meta])* $name:ident, $letter:literal, $kind:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($letter, "{}"), self.0))
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                text.strip_prefix($letter)
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .map(Self)
                    .ok_or_else(|| BadName {
                        kind: $kind,
                        given: text.chars().take(64).collect(),
                        rule: $rule,
                    })
            }
        }
    };
}

short_id!(
    /// A reservation, unique in one grid for ever.
    ReservationId, "r", "reservation id", "r and a number, like r12"
);
short_id!(
    /// A job: one command run inside a reservation.
    JobId, "j", "job id", "j and a number, like j34"
);

/// Grows with every incarnation of a reservation's sandboxes; an older one is fenced. The first
/// is [`Epoch::FIRST`] and begins by itself with the window; later ones the GRC orders.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const FIRST: Self = Self(1);
}

/// Grows with every attempt to hold something for a reservation, be it the first grant or a change
/// of it. What is in force is the version that was committed last; older ones are stale.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct Version(pub u32);

/// Made by the client, so that a repeated request is answered and never carried out twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

/// Position of a member within one site's part, from 0; the number in its host name.
pub type MemberNumber = u32;
