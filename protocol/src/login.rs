//! How somebody who comes over the network says who he is, between the greeting and the first
//! request of [`crate::client`].
//!
//! ```text
//! GRC                                 client
//! Challenge ------------------------->          notice: 32 bytes that were never used before
//! <------------------------------ Login         request: name, key, signature; may be repeated
//! Welcome | Refused ----------------->          reply; after Welcome requests are taken
//! Refused --------------------------->          notice: the time is over, or others need the place
//! ```
//! What is signed is [`signed`], as an SSH signature of namespace [`NAMESPACE`] with hash sha512. It
//! holds what is only true of this one connection: the challenge, and what TLS derives for both its
//! ends and for nobody between them. A signature is worth nothing anywhere else or a second time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::limits::LOGIN_PIECE_BYTES_MAX;
use crate::names::UserName;
use crate::refusal::Refusal;

/// Namespace of the signature: a key signs for other purposes too, and must not by that sign here.
pub const NAMESPACE: &str = "gridpilot-login";
/// Keys that are tried over one connection at most.
pub const ATTEMPTS_MAX: usize = 6;
/// From the connection to the login: an agent may ask its owner before it signs.
pub const LOGIN_TIME: Duration = Duration::from_secs(60);

/// What the GRC says until somebody is known.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToStranger {
    Challenge([u8; 32]),
    /// From here on requests are taken.
    Welcome,
    /// Another key may be tried, [`ATTEMPTS_MAX`] in all, unless the refusal is of something else;
    /// after `WrongState` the same may be tried over another connection.
    Refused(Refusal),
}

/// What a stranger says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromStranger {
    Login {
        /// Who he wants to be.
        user: UserName,
        /// His public key as ssh sends it (RFC 4253, 6.6).
        #[serde(deserialize_with = "at_most::<{LOGIN_PIECE_BYTES_MAX}, _, _>")]
        key: Vec<u8>,
        /// The signature as ssh sends it: algorithm, and what that algorithm makes.
        #[serde(deserialize_with = "at_most::<{LOGIN_PIECE_BYTES_MAX}, _, _>")]
        signature: Vec<u8>,
    },
}

/// The message that is signed: everything of fixed length, and the one name at its end.
/// `binding` is `tls::binding` of the connection, `grc` the pin of the GRC.
pub fn signed(challenge: &[u8; 32], binding: &[u8; 32], grc: &[u8; 32], user: &UserName) -> Vec<u8> {
    [challenge.as_slice(), binding, grc, user.as_str().as_bytes()].concat()
}
