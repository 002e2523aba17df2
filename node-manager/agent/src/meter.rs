//! Reads what a sandbox's classes have sent, and tells the CRM once a second.
//!
//! The monitor opened the socket in the sandbox's network namespace, where it has no rights: the
//! kernel answers questions on it and refuses changes. Its answers are there when a question is
//! sent, so nothing here waits for them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use protocol::limits::CLASSES_MAX;
use protocol::node::{ClassUse, Notice};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::voice::Voice;

const PERIOD: Duration = Duration::from_secs(1);
/// The name of every sandbox's interface.
const INTERFACE: &[u8] = b"eth0\0";

// Of linux/netlink.h, rtnetlink.h and gen_stats.h.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_CLASS: u16 = 40;
const GET_CLASS: u16 = 42;
const IFLA_NAME: u16 = 3;
const TCA_STATISTICS: u16 = 7;
const STATISTICS_BASIC: u16 = 1;
const STATISTICS_QUEUE: u16 = 3;
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const CLASS_BYTES: usize = 20;
/// Handle of class 0: 1:10.
const FIRST_CLASS: u32 = 0x1_0010;
/// A part of an answer is never longer.
const ANSWER_BYTES: usize = 32 * 1024;

/// The counters of one sandbox's classes.
#[derive(Debug)]
pub struct Counters {
    socket: OwnedFd,
    interface: u32,
    /// The kernel counts drops in 32 bits: its last figure, and what it comes to.
    dropped: [(u32, u64); CLASSES_MAX],
}

impl Counters {
    /// Takes the socket over, and looks the interface up.
    ///
    /// # Errors
    /// The kernel does not answer, or there is no such interface.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let mut interface = None;
        ask(&socket, GET_LINK, &[0; LINK_BYTES], |kind, message| {
            let named = || attributes(message.get(LINK_BYTES..)?).find(|(kind, _)| *kind == IFLA_NAME);
            if kind == NEW_LINK && named().is_some_and(|(_, name)| name == INTERFACE) {
                interface = u32_at(message, 4);
            }
        })?;
        let interface = interface.ok_or(Errno::NODEV)?;
        Ok(Self { socket, interface, dropped: [(0, 0); CLASSES_MAX] })
    }

    /// What they are now.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn read(&mut self) -> io::Result<Vec<ClassUse>> {
        let mut question = [0; CLASS_BYTES];
        question[4..8].copy_from_slice(&self.interface.to_ne_bytes());
        let mut classes = Vec::new();
        let dropped = &mut self.dropped;
        ask(&self.socket, GET_CLASS, &question, |kind, message| {
            let found = (kind == NEW_CLASS).then(|| class_use(message)).flatten();
            classes.extend(found.map(|(one, drops)| {
                let (last, sum) = &mut dropped[usize::from(one.class)];
                *sum += u64::from(drops.wrapping_sub(std::mem::replace(last, drops)));
                ClassUse { dropped: *sum, ..one }
            }));
        })?;
        classes.sort_by_key(|one| one.class);
        Ok(classes)
    }
}

/// Tells the CRM, until the sandbox's network is gone. `start` is the moment
/// from which the agent's own clock counts.
pub async fn report(mut counters: Counters, voice: Voice, start: Instant) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let at_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let classes = match counters.read() {
            Ok(classes) => classes,
            Err(error) => return tracing::warn!("the sandbox's counters cannot be read any more: {error}"),
        };
        voice.tell(voice.line(), &Notice::Used { at_ms, classes }).await;
    }
}

/// Asks for a whole list, and passes every message of the answer on.
fn ask(
    socket: &OwnedFd,
    kind: u16,
    question: &[u8],
    mut read: impl FnMut(u16, &[u8]),
) -> rustix::io::Result<()> {
    let length = (HEADER_BYTES + question.len()) as u32;
    let flags = REQUEST | DUMP;
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    let message = [&header[..], question].concat();
    retry_on_intr(|| send(socket, &message, SendFlags::NOSIGNAL))?;
    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let (length, _) = retry_on_intr(|| recv(socket, &mut answer[..], RecvFlags::DONTWAIT))?;
        for (kind, message) in messages(&answer[..length]) {
            match kind {
                ERROR | DONE => {
                    let code = u32_at(message, 0).map_or(0, |code| code as i32);
                    return if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) };
                }
                kind => read(kind, message),
            }
        }
    }
}

/// The messages of one datagram: kind and content.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(HEADER_BYTES..length)?;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, message))
    })
}

/// Attributes one after the other: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [low, high, kind, kind_high] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        // The uppermost two bits are flags.
        Some((u16::from_ne_bytes([kind, kind_high]) & 0x3fff, value))
    })
}

/// One of the sandbox's classes, and the kernel's own count of its drops.
fn class_use(message: &[u8]) -> Option<(ClassUse, u32)> {
    let class = u32_at(message, 8)?.checked_sub(FIRST_CLASS)?;
    let class = u8::try_from(class).ok().filter(|class| usize::from(*class) < CLASSES_MAX)?;
    let find = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let statistics = find(message.get(CLASS_BYTES..)?, TCA_STATISTICS)?;
    let sent_bytes = u64::from_ne_bytes(*find(statistics, STATISTICS_BASIC)?.first_chunk()?);
    let queue = find(statistics, STATISTICS_QUEUE)?;
    let (backlog_bytes, drops) = (u32_at(queue, 4)?, u32_at(queue, 8)?);
    Some((ClassUse { class, sent_bytes, dropped: 0, backlog_bytes }, drops))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (4 + value.len()) as u16;
        let mut out = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + content.len()) as u32;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat()
    }

    fn class(handle: u32, sent: u64, drops: u32, backlog: u32) -> Vec<u8> {
        let basic = attribute(STATISTICS_BASIC, &[&sent.to_ne_bytes()[..], &[9; 8]].concat());
        let queue = [3, backlog, drops, 0, 1].map(u32::to_ne_bytes).concat();
        let statistics = [basic, attribute(STATISTICS_QUEUE, &queue)].concat();
        let header = [0, 2, handle, 0x1_0000, 0].map(u32::to_ne_bytes).concat();
        let attributes = [attribute(1, b"htb\0"), attribute(TCA_STATISTICS | 0x8000, &statistics)].concat();
        message(NEW_CLASS, &[header, attributes].concat())
    }

    /// A kernel that has answered already.
    fn answered(answers: &[Vec<u8>]) -> (Counters, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        for answer in answers {
            send(kernel.as_fd(), answer, SendFlags::empty()).unwrap();
        }
        (Counters { socket: ours, interface: 2, dropped: [(0, 0); CLASSES_MAX] }, kernel)
    }

    fn done() -> Vec<u8> {
        message(DONE, &[0; 4])
    }

    #[test]
    fn an_answer_in_parts_is_read_to_its_end() {
        let first = [class(FIRST_CLASS + 3, 1 << 33, 5, 700), class(0x1_0001, 1, 1, 1)].concat();
        let second = [class(FIRST_CLASS, 1, 0, 0), done()].concat();
        let (mut counters, _kernel) = answered(&[first, second]);
        let used = |class, sent_bytes, dropped, backlog_bytes| ClassUse {
            class,
            sent_bytes,
            dropped,
            backlog_bytes,
        };
        assert_eq!(counters.read().unwrap(), [used(0, 1, 0, 0), used(3, 1 << 33, 5, 700)]);
    }

    #[test]
    fn drops_go_on_where_the_kernels_count_begins_anew() {
        let all = [u32::MAX - 1, 3, 3, 10].map(|drops| [class(FIRST_CLASS, 0, drops, 0), done()].concat());
        let (mut counters, _kernel) = answered(&all);
        let seen = [(); 4].map(|()| counters.read().unwrap()[0].dropped);
        let max = u64::from(u32::MAX);
        assert_eq!(seen, [max - 1, max + 4, max + 4, max + 11]);
    }

    #[test]
    fn a_refusal_and_silence_are_errors() {
        let (mut counters, _kernel) = answered(&[message(ERROR, &(-19i32).to_ne_bytes())]);
        assert_eq!(counters.read().unwrap_err().raw_os_error(), Some(19));
        assert_eq!(counters.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..200usize) {
            let mut valid = [class(FIRST_CLASS + 7, 5, 6, 7), bytes.clone()].concat();
            valid.truncate(cut);
            for datagram in [bytes, valid] {
                for (_, message) in messages(&datagram) {
                    let _ = class_use(message);
                    let _ = attributes(message).count();
                }
            }
        }
    }
}
