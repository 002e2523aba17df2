//! What a site is made of besides its CRM: the batch system, which may lie, and the nodes with
//! their pilots. All of it goes on while the CRM is dead.
//!
//! ```text
//! process: queued -> started -> dialled in -> sandbox stands -> sandbox gone -> ended -> told
//!             \__________\____________\______________\_ dies at any point, and may leave remains
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crm::pilot::PilotId;
use crm::site::{Asked, Event, Submit};
use grant::Rates;
use protocol::ids::{Epoch, JobId};
use protocol::job::ExitStatus;
use protocol::keys::MemberKeys;
use protocol::names::NodeName;
use protocol::node::{Notice, Reply, State};
use protocol::refusal::Failure;

use crate::agenda::{MS, Micros, S};
use crate::history::History;
use crate::outputs::Output;
use crate::queue::not_there;
use crate::random::Random;
use crate::returns::{Expected, pin};
use crate::scenario::{SiteSpec, Temper};
use crate::truth::Truth;

/// A class of a sandbox: its number, its rate, and what the whole part was granted for it.
pub type ClassRate = (u8, u32, u64);

/// What a sandbox is allowed, by its grant or by rates that came later.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Of the incarnation that it was granted for; 0 where rates alone are meant.
    pub epoch: u32,
    pub classes: Vec<ClassRate>,
    /// From when it is told.
    pub lifetime: Micros,
    /// As the CRM made them.
    pub rates: Option<Rates>,
}

/// What happens at a site beside its CRM.
#[derive(Clone, Debug)]
pub enum News {
    /// The batch system starts a process on its node.
    Starts(usize),
    Dials(usize, u32),
    /// An agent that lost its CRM dials again.
    Redials(usize),
    /// An agent, or its monitor, looks whether anything was heard since this line broke or stood still.
    Silence(usize, u32),
    /// The CRM stood still for a whole lease.
    Unheard(usize, u32),
    Built(usize, Ipv4Addr),
    /// On the line of this number.
    Answers(usize, u32, Asked, Reply),
    Says(usize, u32, Notice),
    /// The key ring is there, or the services answer.
    Stands(usize, State),
    /// A command prints so much.
    Prints(usize, JobId, u32),
    /// A command ends.
    Exits(usize, JobId, ExitStatus),
    /// The CRM notices that the connection to this agent is gone.
    LostByCrm(usize),
    /// The agent notices it.
    LostByAgent(usize),
    Installed(usize, Allowed),
    TornDown(usize),
    /// A sandbox may have come to the end that its grant sets.
    LeaseOver(usize),
    Dies(usize, bool),
    /// The batch system reports.
    Gone(PilotId),
    Swept(PilotId, usize),
    /// The batch system speaks to this life of the CRM.
    Batch(u32, crm::site::News),
    Counts(usize),
}

#[derive(Debug)]
pub struct Process {
    pub pilot: PilotId,
    pub node: usize,
    pub uid: u32,
    /// The CRM that made its token.
    pub crm: u32,
    pub started: bool,
    pub ended: bool,
    /// Its agent is connected to that CRM.
    pub connected: bool,
    /// Counts its connections.
    pub line: u32,
    /// It was let in, and perhaps it shall arrive anew all the same.
    pub was_in: bool,
    pub unknown: bool,
    /// Nothing gets through to any CRM until then.
    pub cut_until: Micros,
    pub nonce: [u8; 16],
    pub stands: State,
    pub keys: Option<MemberKeys>,
    /// On which line SETUP was asked for, and the keys were.
    pub setup_line: u32,
    pub keys_line: u32,
    /// Those that hold, and how many are under way.
    pub rates: Option<Rates>,
    pub shaping: u32,
    /// Its whole node stands still until then: nothing there ends either.
    pub frozen_until: Micros,
    /// It answers nothing any more.
    pub silent: bool,
    pub tearing: bool,
    pub sandbox: Option<Ipv4Addr>,
    /// The batch system said that it is not there.
    pub lied: bool,
    /// Of the grant that it was built by.
    pub epoch: Epoch,
    /// Nothing that it says overtakes what it said before.
    pub says_at: Micros,
    pub commands: BTreeMap<JobId, Option<ExitStatus>>,
    pub output: BTreeMap<JobId, Output>,
    pub started_jobs: BTreeSet<JobId>,
    pub failed_jobs: BTreeMap<JobId, Failure>,
    /// When the sandbox ends by itself, by its own clock.
    pub lease: Micros,
    /// What comes with the sandbox.
    pub allowed: Allowed,
    /// Rate and bytes sent, by class.
    pub classes: BTreeMap<u8, (u32, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    crm: u32,
    used: bool,
    void: bool,
}

/// What the field needs of the world around it.
pub struct Around<'a> {
    pub at: Micros,
    pub site: usize,
    pub temper: &'a Temper,
    pub history: &'a mut History,
    pub truth: &'a mut Truth,
    /// What follows, and how much later.
    pub follows: &'a mut Vec<(Micros, News)>,
}

#[derive(Debug)]
pub struct Field {
    pub random: Random,
    pub members_max: u32,
    names: Vec<NodeName>,
    pub processes: Vec<Process>,
    /// Agents connected to the CRM of now.
    pub agents: BTreeMap<PilotId, usize>,
    tokens: BTreeMap<PilotId, Token>,
    /// Which life of the CRM was told that a pilot is gone.
    told: BTreeMap<PilotId, u32>,
    /// The CRM of now.
    pub crm: u32,
    /// The queue takes nothing until then.
    pub(crate) shut_until: Micros,
    pub traffic: bool,
}

impl Field {
    pub fn new(random: Random, spec: &SiteSpec, names: Vec<NodeName>, traffic: bool) -> Self {
        Self {
            random,
            members_max: spec.members_max,
            names,
            processes: Vec::new(),
            agents: BTreeMap::new(),
            tokens: BTreeMap::new(),
            told: BTreeMap::new(),
            crm: 0,
            shut_until: 0,
            traffic,
        }
    }

    /// The CRM died: every agent will notice.
    pub fn crm_died(&mut self, around: &mut Around) {
        for number in std::mem::take(&mut self.agents).into_values() {
            self.cut_off(around, number, 2_000);
        }
    }

    /// A CRM of now takes up a pilot of one before; perhaps it awaits it.
    pub fn adopt(&mut self, around: &mut Around, pilot: PilotId, awaited: bool) {
        if awaited {
            self.tokens.insert(pilot, Token { crm: self.crm, used: false, void: false });
        }
        self.told.remove(&pilot);
        let soon = self.random.between(5, 800) * MS;
        let mut ended = self.processes.iter().filter(|process| process.pilot == pilot).map(|one| one.ended);
        match ended.next() {
            None => around.follows.push((soon, not_there(self.crm, pilot))),
            Some(first) if first && ended.all(|ended| ended) => {
                around.follows.push((soon, News::Gone(pilot)));
            }
            Some(_) => {}
        }
    }

    pub fn submit(&mut self, around: &mut Around, submit: &Submit) {
        let pilot = submit.pilot;
        let alive = |process: &&Process| process.pilot == pilot && !process.ended && process.crm == self.crm;
        if let Some(process) = self.processes.iter().find(alive).filter(|process| !process.lied) {
            let what = || format!("{pilot} is submitted while {} of it is there", process.node);
            around.history.broken(around.at, "submit-once", what);
        }
        let temper = around.temper;
        if self.queue_takes(around, pilot) == Some(false) {
            return;
        }
        self.tokens.insert(pilot, Token { crm: self.crm, used: false, void: false });
        self.told.remove(&pilot);
        let gone = |random: &mut Random| (random.between(5, 500) * MS, News::Gone(pilot));
        if self.random.chance(temper.batch_refuses) {
            around.follows.push(gone(&mut self.random));
            return;
        }
        if self.random.chance(temper.submit_answer_lost) {
            around.follows.push(gone(&mut self.random));
        } else if self.random.chance(temper.gone_early) {
            around.follows.push((self.random.below(20_000) * MS, News::Gone(pilot)));
        }
        let copies = if self.random.chance(temper.pilot_twice) { 2 } else { 1 };
        for _ in 0..copies {
            let number = self.processes.len();
            self.processes.push(Process {
                pilot,
                node: self.names.iter().position(|name| *name == submit.node).unwrap_or_default(),
                uid: submit.account.uid,
                crm: self.crm,
                started: false,
                ended: false,
                connected: false,
                line: 0,
                was_in: false,
                unknown: false,
                cut_until: 0,
                nonce: self.random.bytes(),
                stands: State::Idle,
                keys: None,
                setup_line: 0,
                keys_line: 0,
                rates: None,
                shaping: 0,
                frozen_until: 0,
                silent: false,
                tearing: false,
                sandbox: None,
                lied: false,
                epoch: Epoch(0),
                says_at: 0,
                commands: BTreeMap::new(),
                output: BTreeMap::new(),
                started_jobs: BTreeSet::new(),
                failed_jobs: BTreeMap::new(),
                lease: 0,
                allowed: Allowed::default(),
                classes: BTreeMap::new(),
            });
            if self.random.chance(temper.batch_never) {
                continue;
            }
            let late = self.random.chance(temper.batch_late);
            let delay = if late { self.random.between(2, 50) * S } else { self.random.between(20, 900) * MS };
            let begin = u64::from(submit.begin_in_s) * S;
            around.follows.push((begin + delay, News::Starts(number)));
        }
    }

    pub fn cancel(&mut self, around: &mut Around, pilot: PilotId) {
        if let Some(token) = self.tokens.get_mut(&pilot) {
            token.void = true;
        }
        let mut none = true;
        for number in 0..self.processes.len() {
            let process = &mut self.processes[number];
            if process.pilot != pilot || process.ended {
                continue;
            }
            none = false;
            let ignored = self.random.chance(around.temper.cancel_ignored);
            let delay =
                if ignored { self.random.between(5, 100) * S } else { self.random.between(20, 2_000) * MS };
            around.follows.push((delay, News::Dies(number, false)));
        }
        if none {
            around.follows.push((self.random.between(5, 800) * MS, not_there(self.crm, pilot)));
        }
    }

    pub fn sweep(&mut self, around: &mut Around, pilot: PilotId, node: &NodeName) {
        let node = self.names.iter().position(|name| name == node).unwrap_or_default();
        around.follows.push((self.random.between(50, 2_000) * MS, News::Swept(pilot, node)));
    }

    /// Lets something happen; perhaps the CRM of now is told. `expected` is what it says of a pilot
    /// that dials: nothing, while it is down or paused.
    pub fn news(&mut self, around: &mut Around, news: News, expected: Option<Expected>) -> Vec<Event> {
        let event = match news {
            News::Redials(number) => return self.redials(around, number, expected),
            News::Silence(number, line) => {
                self.silence(around, number, line);
                None
            }
            News::Unheard(number, line) => {
                let process = &self.processes[number];
                if process.connected && process.line == line {
                    self.tear_down(around, number);
                }
                None
            }
            News::Stands(number, state) => {
                let process = &mut self.processes[number];
                process.stands = process.stands.max(state);
                None
            }
            News::Prints(number, job, more) => {
                self.prints(around, number, job, more);
                None
            }
            News::Starts(number) => {
                let process = &mut self.processes[number];
                if !process.ended {
                    process.started = true;
                    around.follows.push((self.random.between(5, 300) * MS, News::Dials(number, 0)));
                }
                None
            }
            News::Dials(number, tries) => self.dials(around, number, tries, expected),
            News::Built(number, address) => {
                self.built(around, number, address);
                None
            }
            News::Answers(number, line, asked, reply) => {
                let process = &self.processes[number];
                let heard = process.connected && process.line == line && !process.ended;
                heard.then_some(Event::Answered { pilot: process.pilot, asked, reply })
            }
            News::Says(number, line, notice) => {
                let process = &self.processes[number];
                let heard = process.connected && process.line == line;
                heard.then_some(Event::Noticed { pilot: process.pilot, notice })
            }
            News::Exits(number, job, status) => {
                self.exits(around, number, job, status);
                None
            }
            News::LostByCrm(number) => {
                let process = &mut self.processes[number];
                let pilot = process.pilot;
                let was = self.agents.get(&pilot) == Some(&number);
                if was {
                    self.agents.remove(&pilot);
                }
                if was {
                    self.cut_off(around, number, 2_000);
                }
                was.then(|| Event::AgentLost { pilot, cause: "reset".into(), silent: Duration::ZERO })
            }
            News::LostByAgent(number) => {
                if self.processes[number].connected {
                    self.cut_off(around, number, 0);
                    let after = self.random.below(8_000) * MS;
                    around.follows.push((after, News::LostByCrm(number)));
                }
                None
            }
            News::Installed(number, allowed) => {
                let process = &mut self.processes[number];
                process.shaping = process.shaping.saturating_sub(1);
                self.install(around, number, &allowed);
                None
            }
            News::TornDown(number) => {
                self.torn_down(around, number);
                None
            }
            News::LeaseOver(number) => {
                if self.processes[number].lease <= around.at {
                    self.tear_down(around, number);
                    // What a dead monitor left does not outlive what it was granted either.
                    if let Some(address) =
                        self.processes[number].sandbox.filter(|_| self.processes[number].ended)
                    {
                        around.truth.gone((around.site, number), address);
                    }
                }
                None
            }
            News::Dies(number, leaves) => {
                self.dies(around, number, leaves);
                None
            }
            News::Gone(pilot) => {
                self.told.insert(pilot, self.crm);
                let mine = self.processes.iter_mut().filter(|process| process.pilot == pilot);
                mine.for_each(|process| process.lied = true);
                Some(Event::BatchGone { pilot, reason: "exit code 1".into() })
            }
            News::Batch(life, news) => (life == self.crm).then_some(Event::Batch(news)),
            News::Swept(pilot, node) => Some(self.swept(around, pilot, node)),
            News::Counts(number) => self.counts(around, number),
        };
        event.into_iter().collect()
    }

    fn dials(
        &mut self,
        around: &mut Around,
        number: usize,
        tries: u32,
        expected: Option<Expected>,
    ) -> Option<Event> {
        let process = &self.processes[number];
        if process.ended {
            return None;
        }
        let pilot = process.pilot;
        match expected {
            None if tries < 20 => {
                around.follows.push((700 * MS, News::Dials(number, tries + 1)));
                return None;
            }
            // It did not hear that it was let in.
            Some(expected) if expected.returns => {
                return Some(self.let_back(number));
            }
            Some(expected) if expected.arrives => {
                let token = self.tokens.get_mut(&pilot);
                if token.as_ref().is_some_and(|one| one.crm != self.crm && !one.void) {
                    let what = || format!("{pilot} is awaited, and its token is forgotten");
                    around.history.broken(around.at, "queue-kept", what);
                }
                if let Some(token) = token.filter(|one| one.crm == self.crm && !one.used && !one.void) {
                    token.used = true;
                    self.agents.insert(pilot, number);
                    let process = &mut self.processes[number];
                    process.connected = true;
                    process.crm = self.crm;
                    process.line += 1;
                    (process.was_in, process.unknown) = (true, false);
                    let nonce = process.nonce;
                    let node = self.names[process.node].clone();
                    return Some(Event::Arrived { pilot, pin: pin(number), nonce, node, boot_id: [0; 16] });
                }
            }
            None | Some(_) => {}
        }
        self.dies(around, number, false);
        None
    }

    /// The process is gone, whatever it was doing; the kernel takes the sandbox along, unless
    /// something of it stays until the node is swept.
    pub fn dies(&mut self, around: &mut Around, number: usize, leaves: bool) {
        let process = &mut self.processes[number];
        if process.ended {
            return;
        }
        if around.at < process.frozen_until {
            around.follows.push((process.frozen_until - around.at, News::Dies(number, leaves)));
            return;
        }
        process.ended = true;
        let pilot = process.pilot;
        if process.connected {
            around.follows.push((self.random.below(800) * MS, News::LostByCrm(number)));
        }
        if !leaves && let Some(address) = process.sandbox.take() {
            around.truth.gone((around.site, number), address);
        }
        let alive = self.processes.iter().any(|other| other.pilot == pilot && !other.ended);
        if !alive && self.told.get(&pilot) != Some(&self.crm) {
            around.follows.push((self.random.below(1_500) * MS, News::Gone(pilot)));
            if self.random.chance(around.temper.gone_twice) {
                around.follows.push((self.random.between(1_500, 5_000) * MS, News::Gone(pilot)));
            }
        }
    }

    /// Pilots that are queued or running.
    pub fn alive(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| !process.ended)
    }
}
