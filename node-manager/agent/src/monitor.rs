//! The agent's side of the socket to the monitor, the only one who may build and remove.

use std::io;
use std::os::fd::OwnedFd;

use grant::{GRANT_LEN, RATES_LEN};
use node_manager::operation::{Notice, RECORD_BYTES_MAX, Request, Welcome};

use crate::seqpacket::SeqPacket;

/// Why nothing more can be expected of the monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("the NodeManager's monitor is gone")]
    Gone,
    #[error("the socket to the monitor broke: {0}")]
    Io(#[from] io::Error),
    #[error("the monitor sent something that is not a record")]
    Malformed,
}

/// What the monitor said.
#[derive(Debug)]
pub enum Said {
    /// The sandbox stands; this leads to its init.
    Built(OwnedFd),
    /// The rates hold; this is for the counters.
    Shaped(OwnedFd),
    Other(Notice),
}

/// The monitor, as the agent sees it.
#[derive(Debug)]
pub struct Monitor {
    socket: SeqPacket,
}

impl Monitor {
    /// Takes the socket over and waits for the monitor's first record.
    pub async fn meet(socket: OwnedFd) -> Result<(Self, Welcome), MonitorError> {
        let monitor = Self { socket: SeqPacket::new(socket)? };
        match monitor.next().await? {
            Said::Other(Notice::Welcome(welcome)) => Ok((monitor, welcome)),
            _ => Err(MonitorError::Malformed),
        }
    }

    /// Asks for the sandbox of a signed grant. Once.
    pub async fn build(&self, grant: [u8; GRANT_LEN], signature: [u8; 64]) -> Result<(), MonitorError> {
        self.send(&Request::Build { grant, signature }).await
    }

    /// Asks for rates that the site signed. Repeatable, with newer ones.
    pub async fn shape(&self, rates: [u8; RATES_LEN], signature: [u8; 64]) -> Result<(), MonitorError> {
        self.send(&Request::Shape { rates, signature }).await
    }

    /// Asks for the removal of everything. Repeatable.
    pub async fn tear_down(&self) -> Result<(), MonitorError> {
        self.send(&Request::TearDown).await
    }

    /// The CRM was heard.
    pub async fn heard(&self) -> Result<(), MonitorError> {
        self.send(&Request::Heard).await
    }

    async fn send(&self, request: &Request) -> Result<(), MonitorError> {
        self.socket.send(&request.encode(), &[]).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => MonitorError::Gone,
            _ => MonitorError::Io(error),
        })
    }

    /// The next record. Cancel-safe.
    pub async fn next(&self) -> Result<Said, MonitorError> {
        let datagram = self.socket.receive(RECORD_BYTES_MAX).await?.ok_or(MonitorError::Gone)?;
        let notice = Notice::decode(&datagram.bytes).map_err(|_| MonitorError::Malformed)?;
        let mut descriptors = datagram.descriptors.into_iter();
        match (notice, descriptors.next(), descriptors.next()) {
            (Notice::Built, Some(init), None) => Ok(Said::Built(init)),
            (Notice::Shaped, Some(counters), None) => Ok(Said::Shaped(counters)),
            (Notice::Built | Notice::Shaped, ..) => Err(MonitorError::Malformed),
            (notice, None, None) => Ok(Said::Other(notice)),
            _ => Err(MonitorError::Malformed),
        }
    }
}
