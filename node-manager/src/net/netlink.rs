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

    /// Sends the batch, which may be empty, and waits for every answer. The first refusal is returned; requests
    /// behind it were carried out all the same.
    pub fn run(&self, batch: &Batch) -> Result<()> {
        self.run_and_read(batch, |_| {})
    }

    /// The same, with every link that is told of.
    fn run_and_read(&self, batch: &Batch, mut read: impl FnMut((u32, String))) -> Result<()> {
        // The kernel does not take what is empty.
        if batch.requests > 0 {
            retry_on_intr(|| send(&self.socket, &batch.bytes, SendFlags::empty()))?;
        }
        let mut refused = None;
        let mut answers = 0;
        let mut reply = vec![0; REPLY_BYTES];
        while answers < batch.requests {
            let (length, _) = retry_on_intr(|| recv(&self.socket, &mut reply[..], RecvFlags::empty()))?;
            for (kind, payload) in messages(&reply[..length]) {
                match kind {
                    // The end of a list is its answer.
                    ERROR | DONE => {
                        answers += 1;
                        let code = payload.first_chunk().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                        if code != 0 && refused.is_none() {
                            refused = Some(Errno::from_raw_os_error(-code));
                        }
                    }
                    libc::RTM_NEWLINK => link(payload).into_iter().for_each(&mut read),
                    _ => {}
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Index of the link of that name, if there is one.
    pub fn index_of(&self, name: &str) -> Result<Option<u32>> {
        let batch = Batch::of(libc::RTM_GETLINK, 0, &link_header(0, 0, 0), &[text(libc::IFLA_IFNAME, name)]);
        let mut index = None;
        match self.run_and_read(&batch, |(found, _)| index = Some(found)) {
            Ok(()) | Err(Errno::NODEV) => Ok(index),
            Err(errno) => Err(errno),
        }
    }

    /// Index and name of every link in the namespace.
    pub fn links(&self) -> Result<Vec<(u32, String)>> {
        let batch = Batch::of(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16, &link_header(0, 0, 0), &[]);
        let mut links = Vec::new();
        self.run_and_read(&batch, |link| links.push(link))?;
        Ok(links)
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
    /// A batch of one request.
    pub fn of(kind: u16, flags: u16, fixed: &[u8], attributes: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::default();
        batch.request(kind, flags, fixed, attributes);
        batch
    }

    /// Adds an acknowledged request: its fixed part, then its attributes.
    pub fn request(&mut self, kind: u16, flags: u16, fixed: &[u8], attributes: &[Vec<u8>]) {
        let attributes = attributes.concat();
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let length = (HEADER_BYTES + fixed.len() + attributes.len()) as u32;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        // Answers come in order, so that no number is needed.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        self.bytes.extend_from_slice(&attributes);
        self.requests += 1;
    }
}

/// An attribute of plain bytes, of other attributes, or of a fixed part and those.
pub fn attribute(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let length = (4 + value.len()) as u16;
    let mut out = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// An attribute that is a name, ended by a zero byte.
pub fn text(kind: u16, name: &str) -> Vec<u8> {
    attribute(kind, &[name.as_bytes(), &[0]])
}

/// `struct ifinfomsg`.
pub fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// The messages of one datagram: kind and payload.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_BYTES] = datagram.first_chunk()?;
        let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = datagram.get(HEADER_BYTES..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
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
    fn a_refusal_is_not_lost_between_successes() {
        let netlink = Netlink::open().unwrap();
        let asked = |indices: &[u32]| {
            let mut batch = Batch::default();
            // Questions only: these tests run in the machine's own namespace.
            for &index in indices {
                batch.request(libc::RTM_GETLINK, 0, &link_header(index, 0, 0), &[]);
            }
            netlink.run(&batch)
        };
        assert_eq!(asked(&[1]), Ok(()));
        assert_eq!(asked(&[1, i32::MAX as u32, 1]), Err(Errno::NODEV));
        assert_eq!(asked(&[1, 1]), Ok(()));
    }
}
