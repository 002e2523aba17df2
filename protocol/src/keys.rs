//! Public keys and the merged view of all members, as data. The files that ssh and MPI read
//! are rendered from it at the receiving end and never travel as text: a newline or an option
//! cannot be smuggled into a file that nobody copies.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::names::{HostName, UserName};

/// An ed25519 public key, the raw 32 bytes. Other algorithms are not spoken: every key here is
/// made by our own agents.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

/// What one sandbox made for itself: the public halves.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MemberKeys {
    /// Key by which its sshd proves which host it is.
    pub host: PublicKey,
    /// Key by which its user logs in to the other members.
    pub user: PublicKey,
}

/// One member of a reservation as every other member sees it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub host: HostName,
    pub address: Ipv4Addr,
    /// Processes that MPI may start there.
    pub slots: u32,
    pub keys: MemberKeys,
}

/// The merged view of all sites, the same bytes for every member. The first member is the head.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct KeyRing {
    pub user: UserName,
    pub members: Vec<Member>,
}
