//! Agents that outlive connections and CRMs: they dial again with the same certificate, return, are
//! lost, or stop; and their leases.

use crm::pilot::PilotId;
use crm::site::{Action, Back, Event};
use protocol::identity::Pin;
use protocol::node::State;
use protocol::planted::{Bug, planted};
use protocol::site::FromSite;

use crate::agenda::{MS, Micros, S};
use crate::field::{Around, Field, News, Process};
use crate::world::{Happening, World};

/// As the owners are told; see `owners::TIMES`.
pub const LEASE: Micros = 6 * S;
/// Between two attempts to come back.
const REDIAL: Micros = 500 * MS;

/// What the CRM of now says of somebody who dials.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// With his token.
    pub arrives: bool,
    /// With his certificate.
    pub returns: bool,
}

/// The certificate of a process's agent.
pub fn pin(number: usize) -> Pin {
    let mut pin = [0; 32];
    pin[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    Pin(pin)
}

impl Field {
    /// The connection of an agent is gone; it notices that within so many milliseconds, and dials
    /// again until its lease is over.
    pub(crate) fn cut_off(&mut self, around: &mut Around, number: usize, notices_ms: u64) {
        let process = &mut self.processes[number];
        if !process.connected {
            return;
        }
        process.connected = false;
        let line = process.line;
        around.follows.push((self.random.below(notices_ms + 1) * MS, News::Redials(number)));
        around.follows.push((LEASE, News::Silence(number, line)));
    }

    /// An agent stands still: it says nothing more, and its monitor hears nothing of it. Or all of its
    /// node does, and no lease there ends before it goes on.
    pub(crate) fn falls_silent(&mut self, around: &mut Around, number: usize) {
        let process = &mut self.processes[number];
        if std::mem::replace(&mut process.silent, true) {
            return;
        }
        let line = process.line;
        if self.random.chance(300) {
            process.frozen_until = around.at + self.random.between(5, 60) * S;
        }
        around.follows.push((LEASE, News::Silence(number, line)));
        // The CRM looks every quarter of the lease.
        let found = LEASE + self.random.below(LEASE / 4 / MS) * MS;
        around.follows.push((found, News::LostByCrm(number)));
    }

    /// Whether the lease of this line is over.
    pub(crate) fn silence(&mut self, around: &mut Around, number: usize, line: u32) {
        let process = &self.processes[number];
        if around.at < process.frozen_until {
            let after = process.frozen_until - around.at;
            return around.follows.push((after, News::Silence(number, line)));
        }
        let broken = !process.connected || process.silent;
        if process.line == line && broken {
            self.tear_down(around, number);
        }
    }

    pub(crate) fn redials(
        &mut self,
        around: &mut Around,
        number: usize,
        expected: Option<Expected>,
    ) -> Vec<Event> {
        let process = &mut self.processes[number];
        if process.ended || process.tearing || process.connected || process.silent {
            return Vec::new();
        }
        let cut = around.at < process.cut_until;
        let Some(expected) = expected.filter(|_| !cut && process.shaping == 0) else {
            around.follows.push((REDIAL, News::Redials(number)));
            return Vec::new();
        };
        let pilot = process.pilot;
        if expected.returns {
            // Perhaps the end of its old connection was not noticed.
            let lost = self.agents.remove(&pilot).map(|_| Event::AgentLost {
                pilot,
                cause: "it has dialled again".into(),
                silent: std::time::Duration::ZERO,
            });
            let back = self.let_back(number);
            return lost.into_iter().chain([back]).collect();
        }
        if process.stands == State::Idle && !std::mem::replace(&mut process.unknown, true) {
            around.follows.push((REDIAL, News::Dials(number, 0)));
        } else {
            self.tear_down(around, number);
        }
        Vec::new()
    }

    /// Removes what dead pilots left; not where one lives.
    pub(crate) fn swept(&mut self, around: &mut Around, pilot: PilotId, node: usize) -> Event {
        let outcome = |what: &str| Event::Swept { pilot, outcome: Err(what.into()) };
        if self.random.chance(around.temper.sweep_fails) {
            return outcome("the node does not answer");
        }
        let there = |process: &&mut Process| process.pilot == pilot && process.node == node;
        for (number, process) in self.processes.iter_mut().enumerate() {
            if !there(&&mut *process) {
                continue;
            }
            if !process.ended && process.sandbox.is_some() {
                return outcome("it is alive");
            }
            if let Some(address) = process.sandbox.take() {
                around.truth.gone((around.site, number), address);
            }
        }
        Event::Swept { pilot, outcome: Ok(()) }
    }

    /// It is let in as the pilot that it is.
    pub(crate) fn let_back(&mut self, number: usize) -> Event {
        let process = &mut self.processes[number];
        process.connected = true;
        process.crm = self.crm;
        process.line += 1;
        (process.was_in, process.unknown) = (true, false);
        self.agents.insert(process.pilot, number);
        if planted(Bug::ReturnForgetsStarted) {
            process.started_jobs.clear();
        }
        let back = Back {
            nonce: process.nonce,
            state: if process.tearing { State::TearingDown } else { process.stands },
            keys: process.keys,
            rates: process.rates.clone(),
        };
        Event::Returned { pilot: process.pilot, back: Box::new(back) }
    }
}

impl World {
    /// A CRM stands still for so long: agents may have enough of it.
    pub fn is_unheard(&mut self, site: usize, time: Micros) {
        if time < LEASE || !self.sites[site].host.is_up() {
            return;
        }
        let connected = self.sites[site].field.agents.values().copied();
        let lines: Vec<_> = connected.map(|n| (n, self.sites[site].field.processes[n].line)).collect();
        for (number, line) in lines {
            let news = News::Unheard(number, line);
            self.agenda.after(LEASE, Happening::Field { site, news });
        }
    }

    /// What a site says of an incarnation is about sandboxes of that incarnation.
    pub fn check_epochs(&mut self, site: usize, message: &FromSite) {
        let FromSite::SiteReady { reservation, epoch, members, .. } = message else { return };
        let now = self.agenda.now();
        for member in members {
            let mut processes = self.sites[site].field.processes.iter();
            let Some(process) = processes.find(|one| one.sandbox == Some(member.address) && !one.ended)
            else {
                continue;
            };
            if process.pilot.reservation == *reservation && process.epoch != *epoch {
                let (pilot, older) = (process.pilot, process.epoch.0);
                let what = || format!("{pilot}, of epoch {older}, is said to be of epoch {}", epoch.0);
                self.history.broken(now, "epoch-fence", what);
            }
        }
    }

    /// A CRM that is started anew ends nothing that could go on: see the rule `kept`.
    pub fn check_kept(&mut self, site: usize, actions: &[Action]) {
        let now = self.agenda.now();
        for action in actions {
            let Action::Cancel { pilot } = action else { continue };
            let processes = &self.sites[site].field.processes;
            let runs = processes.iter().any(|one| {
                one.pilot == *pilot
                    && !one.ended
                    && !one.tearing
                    && !one.silent
                    && one.stands == State::Running
            });
            let id = pilot.reservation;
            if runs && self.promises.in_force(id, now + 2 * S) && !self.promises.is_over_at(id, site) {
                let what = || format!("{pilot} runs, and the CRM of site {site} ends it because it is new");
                self.history.broken(now, "kept", what);
            }
        }
    }
}
