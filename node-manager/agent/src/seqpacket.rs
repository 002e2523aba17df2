//! A `SOCK_SEQPACKET` socket under tokio: one datagram is one record, descriptors ride on it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// More descriptors than any record carries.
const DESCRIPTORS_MAX: usize = 4;

/// One datagram with what it carried.
#[derive(Debug)]
pub struct Datagram {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// A connected socket.
#[derive(Debug)]
pub struct SeqPacket {
    /// Datagrams by name only: it brings readiness without unsafe code, and what is sent and
    /// received goes past it.
    socket: UnixDatagram,
}

impl SeqPacket {
    /// Takes a socket over; needs a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)? })
    }

    /// Sends one datagram, waiting for room. Cancel-safe: it is sent whole or not at all.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_as(bytes, descriptors, |send| send()).await
    }

    /// Likewise, for who must do something together with the sending: `attempt` is called whenever
    /// there may be room, sends at most once, and returns what came of it.
    pub async fn send_as(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        mut attempt: impl FnMut(&dyn Fn() -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let send = || send_now(&self.socket, bytes, descriptors);
        self.socket.async_io(Interest::WRITABLE, || attempt(&send)).await
    }

    /// Receives one datagram of at most `bytes_max`; `None` once the peer is gone. Cancel-safe.
    ///
    /// # Errors
    /// `InvalidData` for a datagram that is longer or carries more descriptors than expected.
    pub async fn receive(&self, bytes_max: usize) -> io::Result<Option<Datagram>> {
        match self.socket.async_io(Interest::READABLE, || receive_now(&self.socket, bytes_max)).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            result => result,
        }
    }
}

fn send_now(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags))?;
    Ok(())
}

fn receive_now(socket: impl AsFd, bytes_max: usize) -> io::Result<Option<Datagram>> {
    let mut bytes = vec![0; bytes_max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let received = retry_on_intr(|| recvmsg(&socket, &mut buffers, &mut control, flags))?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // No record is empty, so an empty datagram is the end of the conversation.
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Datagram { bytes, descriptors }))
}

#[cfg(test)]
pub(crate) mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// Two ends of one conversation.
    pub fn pair() -> (SeqPacket, SeqPacket) {
        let flags = SocketFlags::CLOEXEC;
        let (one, two) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (SeqPacket::new(one).unwrap(), SeqPacket::new(two).unwrap())
    }

    #[tokio::test]
    async fn datagrams_keep_their_borders_and_carry_descriptors() {
        let (one, two) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.send(b"first", &[]).await.unwrap();
        one.send(b"second", &[null.as_fd(), null.as_fd()]).await.unwrap();
        let first = two.receive(64).await.unwrap().unwrap();
        assert_eq!((&first.bytes[..], first.descriptors.len()), (&b"first"[..], 0));
        let second = two.receive(64).await.unwrap().unwrap();
        assert_eq!((&second.bytes[..], second.descriptors.len()), (&b"second"[..], 2));
        drop(one);
        assert!(two.receive(64).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_datagram_that_is_too_long_is_an_error_and_never_half_read() {
        let (one, two) = pair();
        one.send(&[1; 65], &[]).await.unwrap();
        assert_eq!(two.receive(64).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
