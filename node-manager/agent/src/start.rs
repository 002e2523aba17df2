//! How the agent is started: by the monitor only, with two descriptors in fixed places.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use node_manager::operation::inherited;
use protocol::codec;
use protocol::limits::INVOCATION_BYTES_MAX;
use protocol::node::Invocation;
use rustix::fs::{FileType, fstat};
use rustix::net::{SocketType, sockopt};

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("this program is started by the NodeManager and of no use by hand")]
    ByHand,
    #[error("started as root; the NodeManager starts it without privilege")]
    AsRoot,
    #[error("the invocation cannot be read: {0}")]
    Read(io::Error),
    #[error("the invocation is not one of this version's")]
    Damaged,
}

/// What the monitor hands over.
#[derive(Debug)]
pub struct Handed {
    /// Leads to the monitor.
    pub operations: OwnedFd,
    invocation: OwnedFd,
}

impl Handed {
    /// Takes the descriptors over, once per process and before anything else is opened. From then
    /// on nobody of its account can trace it or read its memory.
    ///
    /// # Errors
    /// `ByHand` unless they are what the monitor gives and root is at the other end; `AsRoot` for
    /// an agent that still has what it must not have.
    pub fn take() -> Result<Self, StartError> {
        if nix::unistd::geteuid().is_root() || nix::unistd::getuid().is_root() {
            return Err(StartError::AsRoot);
        }
        let (operations, invocation) = inherited().map_err(by_hand)?;
        let is_channel = sockopt::socket_type(&operations).map_err(by_hand)? == SocketType::SEQPACKET;
        let from_root = sockopt::socket_peercred(&operations).map_err(by_hand)?.uid.is_root();
        let is_pipe = FileType::from_raw_mode(fstat(&invocation).map_err(by_hand)?.st_mode) == FileType::Fifo;
        if is_channel && from_root && is_pipe {
            Ok(Self { operations, invocation })
        } else {
            Err(StartError::ByHand)
        }
    }

    /// Reads the invocation to its end; the Launcher wrote it before anything was started.
    pub fn into_parts(self) -> Result<(OwnedFd, Invocation), StartError> {
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        std::fs::File::from(self.invocation)
            .take(INVOCATION_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(StartError::Read)?;
        let invocation = codec::decode(&bytes).map_err(|_| StartError::Damaged)?;
        Ok((self.operations, invocation))
    }
}

fn by_hand<E>(_: E) -> StartError {
    StartError::ByHand
}
