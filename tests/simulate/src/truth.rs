//! What is really there, whatever anybody believes: sandboxes with their addresses, commands that
//! were started, rates that are installed. The rules here are about the world, not about books.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crm::pilot::PilotId;
use protocol::ids::{Epoch, JobId, MemberNumber, ReservationId};

use crate::agenda::Micros;
use crate::history::History;

/// A process of a pilot: the site's place and the process's number there.
pub type ProcessId = (usize, usize);

#[derive(Clone, Copy, Debug)]
struct Sandbox {
    process: ProcessId,
    node: usize,
    pilot: PilotId,
    epoch: Epoch,
}

#[derive(Debug, Default)]
pub struct Truth {
    sandboxes: BTreeMap<Ipv4Addr, Sandbox>,
    /// The newest incarnation that was ever built, by site.
    newest: BTreeMap<(ReservationId, usize), Epoch>,
    /// How much commands printed that have ended, by site and member.
    pub printed: BTreeMap<(JobId, usize, MemberNumber), u64>,
    started: BTreeSet<(JobId, Epoch, usize, MemberNumber)>,
    /// What every member of an incarnation was told about the others.
    rings: BTreeMap<(ReservationId, Epoch), u64>,
    /// Rates installed, by reservation, site, class and process.
    rates: BTreeMap<(ReservationId, usize, u8), BTreeMap<usize, u32>>,
    /// The most that was granted for a class of a part so far.
    granted: BTreeMap<(ReservationId, usize, u8), u64>,
}

impl Truth {
    pub fn build(
        &mut self,
        (at, history): (Micros, &mut History),
        process: ProcessId,
        (node, members_max): (usize, u32),
        (pilot, epoch): (PilotId, Epoch),
        address: Ipv4Addr,
    ) {
        if let Some(other) = self.sandboxes.get(&address) {
            let other = other.pilot;
            let what = || format!("{address} has {pilot} at site {} while {other} lives", process.0);
            history.broken(at, "address-once", what);
        }
        let mut here = 0;
        for other in self.sandboxes.values().filter(|one| one.process.0 == process.0 && one.node == node) {
            here += 1;
            if other.pilot.reservation != pilot.reservation {
                continue;
            }
            let older = other.epoch < epoch;
            let rule = if older { "epoch-fence" } else { "node-places" };
            let other = other.pilot;
            history.broken(at, rule, || format!("{pilot} is built on node {node} beside {other}"));
        }
        if here >= members_max {
            let what = || format!("{pilot} is sandbox {} on a node of {members_max}", here + 1);
            history.broken(at, "node-places", what);
        }
        let newest = self.newest.entry((pilot.reservation, process.0)).or_insert(epoch);
        if *newest > epoch {
            let newest = newest.0;
            history.broken(at, "epoch-fence", || format!("{pilot} is built after epoch {newest}"));
        }
        *newest = (*newest).max(epoch);
        self.sandboxes.insert(address, Sandbox { process, node, pilot, epoch });
    }

    /// The sandbox of this process is gone, with all that hung on it.
    pub fn gone(&mut self, process: ProcessId, address: Ipv4Addr) {
        if self.sandboxes.get(&address).is_some_and(|one| one.process == process) {
            self.sandboxes.remove(&address);
        }
        for rates in self.rates.values_mut() {
            rates.remove(&process.1);
        }
    }

    pub fn start(
        &mut self,
        (at, history): (Micros, &mut History),
        site: usize,
        (pilot, epoch): (PilotId, Epoch),
        job: JobId,
    ) {
        if !self.started.insert((job, epoch, site, pilot.member)) {
            let what = || format!("{job} starts again at member {} of site {site}", pilot.member);
            history.broken(at, "start-once", what);
        }
    }

    /// One incarnation has one view of its members, the same everywhere.
    pub fn ring(
        &mut self,
        (at, history): (Micros, &mut History),
        (pilot, epoch): (PilotId, Epoch),
        digest: u64,
    ) {
        let known = *self.rings.entry((pilot.reservation, epoch)).or_insert(digest);
        if known != digest {
            history.broken(at, "one-ring", || format!("{pilot} got another key ring than the others"));
        }
    }

    /// A member's class has this rate now. The sum over the part must not pass the grant.
    pub fn rate(
        &mut self,
        (at, history): (Micros, &mut History),
        (process, pilot): (ProcessId, PilotId),
        (class, rate_kbit): (u8, u32),
        granted_kbit: u64,
    ) {
        let key = (pilot.reservation, process.0, class);
        // A slow node may install what was asked under an older grant beside others that know the
        // newer one.
        let most = self.granted.entry(key).or_default();
        *most = (*most).max(granted_kbit);
        let granted_kbit = *most;
        let all = self.rates.entry(key).or_default();
        all.insert(process.1, rate_kbit);
        let sum: u64 = all.values().map(|rate| u64::from(*rate)).sum();
        if sum > granted_kbit {
            let what = || format!("members of {} may send {sum} of {granted_kbit} kbit/s", pilot.reservation);
            history.broken(at, "shares", what);
        }
    }

    pub fn sandboxes(&self) -> usize {
        self.sandboxes.len()
    }

    pub fn a_sandbox(&self) -> Option<PilotId> {
        self.sandboxes.values().next().map(|one| one.pilot)
    }
}
