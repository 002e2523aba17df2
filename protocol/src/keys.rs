//! Public keys and the merged view of all members, as data. The files that ssh and MPI read
//! are rendered from it at the receiving end and never travel as text: a newline or an option
//! cannot be smuggled into a file that nobody copies.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::limits::{self, MEMBERS_MAX, SLOTS_MAX};
use crate::names::{HostName, UserName};
use crate::refusal::Refusal;

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
    #[serde(deserialize_with = "at_most::<{limits::MEMBERS_MAX}, _, _>")]
    pub members: Vec<Member>,
}

impl KeyRing {
    /// What every receiver checks before it installs the ring: nobody is in it twice, under any
    /// name, address or key, and every member has slots.
    pub fn check(&self) -> Result<(), Refusal> {
        let count = self.members.len();
        Refusal::unless(count > 0, "a key ring without members")?;
        Refusal::unless_at_most("members", count, MEMBERS_MAX)?;
        let once = |distinct: usize, what| Refusal::unless(distinct == count, what);
        let members = || self.members.iter();
        once(members().map(|m| &m.host).collect::<BTreeSet<_>>().len(), "two members have one host name")?;
        once(members().map(|m| m.address).collect::<BTreeSet<_>>().len(), "two members have one address")?;
        let keys = members().flat_map(|m| [m.keys.host, m.keys.user]).collect::<BTreeSet<_>>();
        Refusal::unless(keys.len() == 2 * count, "one key stands for two")?;
        match members().find(|m| !(1..=SLOTS_MAX).contains(&m.slots)) {
            Some(member) => Err(Refusal::BadSlots { asked: member.slots, max: SLOTS_MAX }),
            None => Ok(()),
        }
    }
}
