//! Datagrams with descriptors over `SOCK_SEQPACKET` socket pairs: the only way the
//! monitor, the agent and the sandbox's init speak to each other.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Descriptors that may ride on one datagram.
pub const DESCRIPTORS_MAX: usize = 3;

/// A datagram and what came with it; the descriptors are close-on-exec.
#[derive(Debug)]
pub struct Datagram {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected ends, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one datagram. `EPIPE` when the other end is closed (never a signal); on a
/// non-blocking socket `EAGAIN` when it must be tried again.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives one datagram of at most `limit` bytes. `None` when the other end is closed;
/// `EMSGSIZE` when it was longer or carried more than [`DESCRIPTORS_MAX`] descriptors
/// (which are then closed); on a non-blocking socket `EAGAIN` when there is none.
pub fn receive(socket: impl AsFd, limit: usize) -> Result<Option<Datagram>> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // A peer that died with our datagrams unread.
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Datagram { bytes, descriptors }))
}

/// Whether a datagram is there that [`receive`] would take without descriptors. A stranger's
/// descriptors are better left in the queue: closing the last one can wait for his pleasure
/// (a lingering connection, a filesystem in user space).
pub fn is_plain(socket: impl AsFd) -> Result<bool> {
    let mut byte = [0];
    let mut control = RecvAncillaryBuffer::new(&mut []);
    let flags = RecvFlags::PEEK;
    let peeked = retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags))?;
    Ok(!peeked.flags.contains(ReturnFlags::CTRUNC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_datagram_and_the_end_is_seen() {
        let (here, there) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(&here, b"with", &[file.as_fd(), file.as_fd()]).unwrap();
        send(&here, b"without", &[]).unwrap();
        let first = receive(&there, 16).unwrap().unwrap();
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (&b"with"[..], 2));
        let second = receive(&there, 16).unwrap().unwrap();
        assert_eq!((second.bytes.as_slice(), second.descriptors.len()), (&b"without"[..], 0));
        drop(here);
        assert!(receive(&there, 16).unwrap().is_none());
        assert_eq!(send(&there, b"x", &[]).unwrap_err(), Errno::PIPE);
    }

    #[test]
    fn a_datagram_over_the_limit_is_refused() {
        let (here, there) = pair().unwrap();
        send(&here, &[7; 65], &[]).unwrap();
        assert_eq!(receive(&there, 64).unwrap_err(), Errno::MSGSIZE);
    }
}
