//! How fast a sandbox may send to whom: HTB on its own interface. A packet whose destination has
//! a class waits in that class's short queue and leaves at its rate, which is its ceiling too;
//! every other packet passes as if nothing were there.
//!
//! ```text
//! 1: htb ---- u32 by destination prefix ---> 1:10 .. 1:17 (rate = ceil) -> 10: .. 17: bfifo
//!   \---- no filter fits: not shaped
//! ```
//!
//! Classes and queues are changed in place, so that connections go on and nobody is unprotected
//! meanwhile. Filters cannot be: new ones are added in another priority, then the old go at once.

use grant::{Destination, Rates};
use rustix::io::Result;

use super::netlink::{Batch, Netlink, attribute, text};

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const ROOT: u32 = 0x1_0000;
/// Minor number of class 0, and major number of its queue.
const FIRST: u32 = 0x10;
// Of linux/pkt_sched.h and pkt_cls.h, which libc does not name.
const TOP: u32 = u32::MAX;
const HTB_PARAMETERS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
const HTB_VERSION: u32 = 3;
const RATE_TO_QUANTUM: u32 = 10;
const U32_CLASS: u16 = 1;
const U32_SELECTOR: u16 = 5;
const DESTINATION_OFFSET: u32 = 16;

/// The kernel counts a burst in the time that it takes, in ticks of 64 ns.
const TICK_NS: u64 = 64;
/// What may leave at once: 1 ms of the rate, and not less than a packet.
const BURST_NS: u64 = 1_000_000;
const BURST_BYTES_MIN: u64 = 1600;
/// Classes have no parent to share; without this the kernel warns of fast ones.
const QUANTUM_BYTES: u32 = 60_000;
/// A queue holds 10 ms of the rate, so that it adds no more; but a packet that TCP leaves for the
/// device to cut (64 KiB with its headers) must fit, else a connection hardly moves.
const QUEUE_MS: u64 = 10;
const QUEUE_BYTES_MIN: u64 = 80 * 1024;
const QUEUE_BYTES_MAX: u64 = 256 * 1024;

/// What is installed on one interface.
#[derive(Default)]
pub struct Shape {
    destinations: Vec<Destination>,
    /// Of the filters for these: 1 or 2, 0 as long as there is no root.
    priority: u32,
}

impl Shape {
    /// Makes these rates hold. `inside` is a socket of the interface's namespace. When something
    /// fails, what was limited before is limited still, and the next attempt begins anew.
    pub fn apply(&mut self, inside: &Netlink, index: u32, rates: &Rates) -> Result<()> {
        // Only the lifetime is new: who was never limited pays for nothing.
        if self.priority == 0 && rates.destinations.is_empty() {
            return Ok(());
        }
        if self.priority == 0 {
            let init = attribute(HTB_INIT, &[&words(&[HTB_VERSION, RATE_TO_QUANTUM, 0, 0, 0])]);
            let options = [text(libc::TCA_KIND, "htb"), attribute(libc::TCA_OPTIONS, &[&init])];
            inside.run(&Batch::of(libc::RTM_NEWQDISC, CREATE, &header(index, ROOT, TOP, 0), &options))?;
            self.priority = 1;
        }
        let mut batch = Batch::default();
        for (class, &rate) in (FIRST..).zip(&rates.rates_kbit).filter(|(_, rate)| **rate > 0) {
            limit(&mut batch, index, class, rate);
        }
        inside.run(&batch)?;
        if rates.destinations != self.destinations {
            let (old, new) = (self.priority, 3 - self.priority);
            // What an attempt that failed may have left there.
            let _ = inside.run(&remove_filters(index, new));
            let mut batch = Batch::default();
            rates.destinations.iter().for_each(|&to| add_filter(&mut batch, index, new, to));
            inside.run(&batch)?;
            if !self.destinations.is_empty() {
                inside.run(&remove_filters(index, old))?;
            }
            (self.priority, self.destinations) = (new, rates.destinations.clone());
        }
        Ok(())
    }
}

/// A class and its queue, made or changed.
fn limit(batch: &mut Batch, index: u32, class: u32, rate_kbit: u32) {
    let bytes_per_s = u64::from(rate_kbit) * 125;
    let ticks = (BURST_NS.max(BURST_BYTES_MIN * 1_000_000_000 / bytes_per_s) / TICK_NS) as u32;
    // `struct tc_ratespec` of an Ethernet, twice, and the rest of `struct tc_htb_opt`. The rate
    // itself is the attribute of 64 bits; here it must not be 0.
    let specification = [u32::from_ne_bytes([0, 1, 0, 0]), 0, 1];
    let rest = [ticks, ticks, QUANTUM_BYTES, 0, 0];
    let rate = &bytes_per_s.to_ne_bytes()[..];
    let options = [
        attribute(HTB_PARAMETERS, &[&words(&specification), &words(&specification), &words(&rest)]),
        attribute(HTB_RATE64, &[rate]),
        attribute(HTB_CEIL64, &[rate]),
    ];
    let options = [text(libc::TCA_KIND, "htb"), attribute(libc::TCA_OPTIONS, &[&options.concat()])];
    batch.request(libc::RTM_NEWTCLASS, CREATE, &header(index, ROOT + class, ROOT, 0), &options);
    let queue = (bytes_per_s * QUEUE_MS / 1000).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX) as u32;
    let options = [text(libc::TCA_KIND, "bfifo"), attribute(libc::TCA_OPTIONS, &[&words(&[queue])])];
    batch.request(libc::RTM_NEWQDISC, CREATE, &header(index, class << 16, ROOT + class, 0), &options);
}

fn add_filter(batch: &mut Batch, index: u32, priority: u32, to: Destination) {
    // `struct tc_u32_sel` with one key, the first match being the last.
    let key = [to.mask().to_be(), u32::from(to.network).to_be(), DESTINATION_OFFSET, 0];
    let selector = words(&[u32::from_ne_bytes([1, 0, 1, 0]), 0, 0, 0, key[0], key[1], key[2], key[3]]);
    let class = words(&[ROOT + FIRST + u32::from(to.class)]);
    let options = [attribute(U32_CLASS, &[&class]), attribute(U32_SELECTOR, &[&selector])];
    let options = [text(libc::TCA_KIND, "u32"), attribute(libc::TCA_OPTIONS, &[&options.concat()])];
    batch.request(libc::RTM_NEWTFILTER, CREATE, &filter_header(index, priority), &options);
}

fn remove_filters(index: u32, priority: u32) -> Batch {
    Batch::of(libc::RTM_DELTFILTER, 0, &filter_header(index, priority), &[])
}

fn filter_header(index: u32, priority: u32) -> Vec<u8> {
    header(index, 0, ROOT, priority << 16 | u32::from((libc::ETH_P_IP as u16).to_be()))
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    words(&[0, index, handle, parent, info])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
