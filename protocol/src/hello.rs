//! The first frame in each direction. Its layout never changes, whatever the version:
//!
//! ```text
//! "GPLT" | role u8 | version_min u16 | version_max u16 | length u8 | software name, UTF-8
//! ```
//! Both sides send it without waiting; each then takes the highest version that both speak, or
//! refuses in one line naming both ranges.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::names::Text;
use crate::refusal::Refusal;

/// Versions of the messages that this build speaks: `decisions/0012` says what 3 changed.
pub const VERSION_MIN: u16 = 3;
pub const VERSION_MAX: u16 = 3;
const MAGIC: &[u8; 4] = b"GPLT";
const FIXED_BYTES: usize = 4 + 1 + 2 + 2 + 1;
/// Longest hello: until one was read nothing longer is accepted. Later versions may append to
/// what this one knows, so there is room for more than that.
pub const HELLO_BYTES_MAX: usize = 1024;
const _: () = assert!(FIXED_BYTES + u8::MAX as usize <= HELLO_BYTES_MAX / 2);

/// Which side of which conversation the sender is; a connection to the wrong port ends here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Client,
    Grc,
    Crm,
    Agent,
}

/// What a peer says of itself first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    pub role: Role,
    pub version_min: u16,
    pub version_max: u16,
    /// For logs and refusals only.
    pub software: Text,
}

/// Why bytes are not a hello.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HelloError {
    #[error("the peer does not speak gridpilot's protocol")]
    NotOurs,
    #[error("the peer is of role {0}, which is not known")]
    UnknownRole(u8),
    #[error("the peer's greeting is damaged")]
    Damaged,
}

impl Hello {
    /// This build's own greeting.
    pub fn ours(role: Role) -> Self {
        Self {
            role,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            software: concat!("gridpilot ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    pub fn encode(&self) -> Bytes {
        let mut software = self.software.as_str();
        while software.len() > usize::from(u8::MAX) {
            // Whole characters, or the peer would have to call it damaged.
            software = &software[..software.len() - software.chars().last().map_or(0, char::len_utf8)];
        }
        let mut out = BytesMut::with_capacity(HELLO_BYTES_MAX);
        out.put_slice(MAGIC);
        out.put_u8(match self.role {
            Role::Client => 0,
            Role::Grc => 1,
            Role::Crm => 2,
            Role::Agent => 3,
        });
        out.put_u16(self.version_min);
        out.put_u16(self.version_max);
        out.put_u8(software.len() as u8);
        out.put_slice(software.as_bytes());
        out.freeze()
    }

    pub fn decode(mut bytes: &[u8]) -> Result<Self, HelloError> {
        if !bytes.starts_with(MAGIC) {
            return Err(HelloError::NotOurs);
        }
        if bytes.len() < FIXED_BYTES {
            return Err(HelloError::Damaged);
        }
        bytes.advance(MAGIC.len());
        let role = match bytes.get_u8() {
            0 => Role::Client,
            1 => Role::Grc,
            2 => Role::Crm,
            3 => Role::Agent,
            other => return Err(HelloError::UnknownRole(other)),
        };
        let version_min = bytes.get_u16();
        let version_max = bytes.get_u16();
        let length = usize::from(bytes.get_u8());
        // Later versions may append: what follows the name is skipped.
        let software = bytes.get(..length).ok_or(HelloError::Damaged)?;
        let software = std::str::from_utf8(software).map_err(|_| HelloError::Damaged)?.into();
        if version_min > version_max {
            return Err(HelloError::Damaged);
        }
        Ok(Self { role, version_min, version_max, software })
    }

    /// The version that this side and the peer use.
    ///
    /// # Errors
    /// `Refusal::Version` naming both ranges.
    pub fn agree(&self, peer: &Hello) -> Result<u16, Refusal> {
        let version = self.version_max.min(peer.version_max);
        if version < self.version_min.max(peer.version_min) {
            return Err(Refusal::Version {
                ours_min: self.version_min,
                ours_max: self.version_max,
                theirs_min: peer.version_min,
                theirs_max: peer.version_max,
            });
        }
        Ok(version)
    }
}
