//! As much of rtnetlink as the sandbox's one interface needs: requests gathered in a
//! batch, sent at once, acknowledged one by one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REPLY_BYTES: usize = 32 * 1024;

/// A request socket that belongs to the network namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens a socket of the current network namespace.
    pub fn open() -> Result<Netlink> {
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)?;
        Ok(Netlink { socket })
    }

    /// A socket that somebody else opened: it acts in that namespace.
    pub fn adopt(socket: OwnedFd) -> Netlink {
        Netlink { socket }
    }

    /// Sends the batch and waits for every answer. The first refusal is returned with the
    /// number of its request; requests behind it were carried out all the same.
    pub fn run(&self, batch: &Batch) -> std::result::Result<(), (usize, Errno)> {
        self.run_and_read(batch, |_, _| {})
    }

    fn run_and_read(
        &self,
        batch: &Batch,
        mut read: impl FnMut(u16, &[u8]),
    ) -> std::result::Result<(), (usize, Errno)> {
        let whole = |errno| (0, errno);
        retry_on_intr(|| send(&self.socket, &batch.bytes, SendFlags::empty())).map_err(whole)?;
        let mut refused = None;
        let mut answers = 0;
        let mut reply = vec![0; REPLY_BYTES];
        while answers < batch.requests {
            let (length, _) =
                retry_on_intr(|| recv(&self.socket, &mut reply[..], RecvFlags::empty())).map_err(whole)?;
            for (kind, sequence, payload) in messages(&reply[..length]) {
                if kind == ERROR {
                    answers += 1;
                    let code = payload.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                    if code != 0 && refused.is_none() {
                        refused = Some((sequence as usize, Errno::from_raw_os_error(-code)));
                    }
                } else {
                    read(kind, payload);
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Index of the link of that name, if there is one.
    pub fn index_of(&self, name: &str) -> Result<Option<u32>> {
        let mut batch = Batch::default();
        batch.request(libc::RTM_GETLINK, 0, &link_header(0, 0, 0), |batch| {
            batch.name(libc::IFLA_IFNAME, name)
        });
        let mut index = None;
        match self.run_and_read(&batch, |_, payload| index = link(payload).map(|(index, _)| index)) {
            Ok(()) | Err((_, Errno::NODEV)) => Ok(index),
            Err((_, errno)) => Err(errno),
        }
    }

    /// Index and name of every link in the namespace.
    pub fn links(&self) -> Result<Vec<(u32, String)>> {
        let mut batch = Batch::default();
        batch.request(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, &link_header(0, 0, 0), |_| {});
        retry_on_intr(|| send(&self.socket, &batch.bytes, SendFlags::empty()))?;
        let mut links = Vec::new();
        let mut reply = vec![0; REPLY_BYTES];
        loop {
            let (length, _) = retry_on_intr(|| recv(&self.socket, &mut reply[..], RecvFlags::empty()))?;
            for (kind, _, payload) in messages(&reply[..length]) {
                match kind {
                    DONE => return Ok(links),
                    ERROR => return Err(Errno::IO),
                    libc::RTM_NEWLINK => links.extend(link(payload)),
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Requests that are sent together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: usize,
}

impl Batch {
    /// Adds an acknowledged request: its fixed part, then the attributes that `fill` puts.
    pub fn request(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Batch)) {
        let start = self.bytes.len();
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&(self.requests as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.requests += 1;
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of plain bytes.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |batch| batch.bytes.extend_from_slice(value));
    }

    /// An attribute of other attributes (or of a fixed part and attributes).
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Batch)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The fixed part inside a nested attribute.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A name, ended by a zero byte.
    pub fn name(&mut self, kind: u16, name: &str) {
        self.put(kind, &[name.as_bytes(), &[0]].concat());
    }
}

/// `struct ifinfomsg`.
pub fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The messages of one datagram: kind, sequence number, payload.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_BYTES] = datagram.first_chunk()?;
        let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let payload = datagram.get(HEADER_BYTES..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, sequence, payload))
    })
}

/// Index and name from an RTM_NEWLINK message.
fn link(payload: &[u8]) -> Option<(u32, String)> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let mut attributes = payload.get(16..)?;
    loop {
        let length = u16::from_ne_bytes(attributes.get(0..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == libc::IFLA_IFNAME {
            let name = value.strip_suffix(&[0]).unwrap_or(value);
            return Some((index, String::from_utf8_lossy(name).into_owned()));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_its_name() {
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(links.iter().any(|(_, name)| name == "lo"), "{links:?}");
    }

    #[test]
    fn a_refusal_names_its_request() {
        let netlink = Netlink::open().unwrap();
        let mut batch = Batch::default();
        batch.request(libc::RTM_GETLINK, 0, &link_header(1, 0, 0), |_| {});
        assert_eq!(netlink.run(&batch), Ok(()));
        // Questions only: these tests run in the machine's own namespace.
        let mut batch = Batch::default();
        for index in [1, i32::MAX as u32, 1] {
            batch.request(libc::RTM_GETLINK, 0, &link_header(index, 0, 0), |_| {});
        }
        assert_eq!(netlink.run(&batch), Err((1, Errno::NODEV)));
    }
}
