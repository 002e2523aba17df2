//! What the agents on a site's nodes do with what their CRM asks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use crm::pilot::PilotId;
use crm::site::Asked;
use protocol::ids::{Epoch, JobId};
use protocol::job::ExitStatus;
use protocol::keys::{KeyRing, MemberKeys, PublicKey};
use protocol::node::{ClassUse, Notice, Reply, Request, State};
use protocol::refusal::{Failure, Refusal, Step};

use crate::agenda::{MS, Micros, S};
use crate::field::{Allowed, Around, Field, News};

impl Field {
    /// The connected agent of a pilot, unless it hangs or dies now.
    fn agent(&mut self, around: &mut Around, pilot: PilotId) -> Option<usize> {
        let number = *self.agents.get(&pilot)?;
        if self.random.chance(around.temper.agent_dies) {
            let leaves = self.random.chance(300);
            around.follows.push((self.random.below(500) * MS, News::Dies(number, leaves)));
        }
        if self.random.chance(around.temper.agent_silent) {
            self.falls_silent(around, number);
        }
        let process = &self.processes[number];
        (process.connected && !process.ended && !process.silent).then_some(number)
    }

    /// How long this takes a node that is as slow as it happens to be.
    fn takes(&mut self, around: &Around, least_ms: u64, most_ms: u64) -> Micros {
        match self.random.chance(around.temper.agent_slow) {
            true => self.random.between(2, 40) * S,
            false => self.random.between(least_ms, most_ms) * MS,
        }
    }

    /// An answer that comes after everything this agent has said before.
    fn answer(&mut self, around: &mut Around, number: usize, delay: Micros, asked: Asked, reply: Reply) {
        let process = &mut self.processes[number];
        process.says_at = process.says_at.max(around.at + delay);
        let news = News::Answers(number, process.line, asked, reply);
        around.follows.push((process.says_at - around.at, news));
    }

    pub(crate) fn say(&mut self, around: &mut Around, number: usize, delay: Micros, notice: Notice) {
        let process = &mut self.processes[number];
        process.says_at = process.says_at.max(around.at + delay);
        around.follows.push((process.says_at - around.at, News::Says(number, process.line, notice)));
    }

    fn fails(&mut self, around: &mut Around, number: usize, asked: Asked) -> bool {
        let fails = self.random.chance(around.temper.agent_fails);
        if fails {
            let failure = Failure::new(Step::Setup, "no memory", "free some");
            self.answer(around, number, 20 * MS, asked, Reply::Failed(failure));
        }
        fails
    }

    pub fn set_up(&mut self, around: &mut Around, pilot: PilotId, address: Ipv4Addr, allowed: Allowed) {
        let Some(number) = self.agent(around, pilot) else { return };
        let process = &mut self.processes[number];
        if process.stands == State::Idle {
            process.epoch = Epoch(allowed.epoch);
            process.allowed = allowed;
            process.stands = State::Building;
        }
        (process.setup_line, process.keys_line) = (process.line, process.line);
        if self.fails(around, number, Asked::Setup) {
            return;
        }
        let delay = self.takes(around, 20, 300);
        around.follows.push((delay, News::Built(number, address)));
    }

    pub(crate) fn built(&mut self, around: &mut Around, number: usize, address: Ipv4Addr) {
        let process = &mut self.processes[number];
        if process.ended || process.tearing {
            return;
        }
        if process.stands >= State::Ready {
            // It was asked twice.
            let refusal = Refusal::WrongState { what: "SETUP".into(), state: "ready".into() };
            self.answer(around, number, MS, Asked::Setup, Reply::Refused(refusal));
            return;
        }
        process.sandbox = Some(address);
        let (pilot, node) = ((process.pilot, process.epoch), process.node);
        let at = (around.at, &mut *around.history);
        around.truth.build(at, (around.site, number), (node, self.members_max), pilot, address);
        let allowed = std::mem::take(&mut self.processes[number].allowed);
        self.install(around, number, &allowed);
        let process = &mut self.processes[number];
        process.stands = State::Ready;
        let (setup, asked) = (process.setup_line == process.line, process.keys_line == process.line);
        if setup {
            self.answer(around, number, MS, Asked::Setup, Reply::Done);
        }
        let key = |random: &mut crate::random::Random| PublicKey(random.bytes());
        let keys = MemberKeys { host: key(&mut self.random), user: key(&mut self.random) };
        self.processes[number].keys = Some(keys);
        let delay = self.takes(around, 5, 100);
        if asked {
            self.answer(around, number, delay, Asked::GetKeys, Reply::Keys(keys));
        }
        if self.traffic && !self.processes[number].classes.is_empty() {
            around.follows.push((S, News::Counts(number)));
        }
    }

    pub fn join(&mut self, around: &mut Around, pilot: PilotId, ring: &KeyRing) {
        let Some(number) = self.agent(around, pilot) else { return };
        let mut hasher = DefaultHasher::new();
        for member in &ring.members {
            (member.address, member.keys.host, member.slots).hash(&mut hasher);
        }
        let whose = (pilot, self.processes[number].epoch);
        around.truth.ring((around.at, &mut *around.history), whose, hasher.finish());
        if self.fails(around, number, Asked::SetKeys) {
            return;
        }
        let delay = self.takes(around, 5, 100);
        self.answer(around, number, delay, Asked::SetKeys, Reply::Done);
        around.follows.push((delay, News::Stands(number, State::Joined)));
        self.answer(around, number, delay + 50 * MS, Asked::Run, Reply::Done);
        around.follows.push((delay + 50 * MS, News::Stands(number, State::Running)));
    }

    pub fn ask(&mut self, around: &mut Around, pilot: PilotId, asked: Asked, request: &Request) {
        let Some(number) = self.agent(around, pilot) else { return };
        match request {
            Request::Exec { job, .. } => {
                let process = &self.processes[number];
                if let Some(failure) = process.failed_jobs.get(job) {
                    let reply = Reply::Failed(failure.clone());
                    return self.answer(around, number, 5 * MS, asked, reply);
                }
                if process.started_jobs.contains(job) {
                    return self.answer(around, number, 5 * MS, asked, Reply::Done);
                }
                if self.fails(around, number, asked) {
                    let failure = Failure::new(Step::Setup, "no memory", "free some");
                    self.processes[number].failed_jobs.insert(*job, failure);
                    return;
                }
                self.processes[number].started_jobs.insert(*job);
                let whose = (pilot, self.processes[number].epoch);
                around.truth.start((around.at, &mut *around.history), around.site, whose, *job);
                self.processes[number].commands.insert(*job, None);
                self.answer(around, number, 5 * MS, asked, Reply::Done);
                let runs = self.random.between(100, 20_000) * MS;
                self.prints_until(around, number, *job, runs);
                let status = ExitStatus::Code(self.random.below(3) as u8);
                around.follows.push((runs, News::Exits(number, *job, status)));
            }
            Request::Signal { job, signal } => {
                self.answer(around, number, 5 * MS, asked, Reply::Done);
                if self.random.chance(800) {
                    let status = ExitStatus::Signal(*signal);
                    around.follows.push((100 * MS, News::Exits(number, *job, status)));
                }
            }
            Request::GetKeys => {
                self.processes[number].keys_line = self.processes[number].line;
                if let Some(keys) = self.processes[number].keys {
                    self.answer(around, number, 5 * MS, asked, Reply::Keys(keys));
                }
            }
            Request::Shutdown | Request::End { .. } => {
                self.answer(around, number, MS, asked, Reply::Done);
                self.tear_down(around, number);
            }
            _ => {
                let delay = self.takes(around, 5, 200);
                self.answer(around, number, delay, asked, Reply::Done);
            }
        }
    }

    /// New rates came and are installed.
    pub fn shape(&mut self, around: &mut Around, pilot: PilotId, serial: u32, allowed: Allowed) {
        let Some(number) = self.agent(around, pilot) else { return };
        if self.fails(around, number, Asked::Shape(serial)) {
            return;
        }
        let delay = self.takes(around, 5, 200);
        self.answer(around, number, delay, Asked::Shape(serial), Reply::Done);
        // What is asked is done in order, just before it is answered.
        self.processes[number].shaping += 1;
        let done = self.processes[number].says_at - around.at;
        around.follows.insert(0, (done, News::Installed(number, allowed)));
    }

    pub(crate) fn install(&mut self, around: &mut Around, number: usize, allowed: &Allowed) {
        let process = &mut self.processes[number];
        if process.ended || process.sandbox.is_none() {
            return;
        }
        process.rates = allowed.rates.clone().or(process.rates.take());
        process.lease = around.at + allowed.lifetime;
        around.follows.push((allowed.lifetime, News::LeaseOver(number)));
        for (class, rate_kbit, granted_kbit) in allowed.classes.iter().copied() {
            process.classes.entry(class).or_default().0 = rate_kbit;
            let at = (around.at, &mut *around.history);
            let process = ((around.site, number), process.pilot);
            around.truth.rate(at, process, (class, rate_kbit), granted_kbit);
        }
    }

    /// What is not answered.
    pub fn pass(&mut self, around: &mut Around, pilot: PilotId, request: &Request) {
        let Some(number) = self.agent(around, pilot) else { return };
        match request {
            Request::Resend { job } => self.sends_again(around, number, *job),
            Request::OutputSaved { job, upto, .. } => {
                if let Some(output) = self.processes[number].output.get_mut(job) {
                    output.saved = (*upto).clamp(output.saved, output.printed);
                }
            }
            Request::ExitSaved { job } => {
                self.processes[number].commands.remove(job);
                self.processes[number].output.remove(job);
            }
            _ => {}
        }
    }

    /// The CRM closes the connection.
    pub fn dismiss(&mut self, around: &mut Around, pilot: PilotId) {
        if let Some(number) = self.agents.remove(&pilot) {
            self.cut_off(around, number, 1_000);
        }
    }

    pub(crate) fn exits(&mut self, around: &mut Around, number: usize, job: JobId, status: ExitStatus) {
        let process = &mut self.processes[number];
        let Some(known) = process.commands.get_mut(&job) else { return };
        if process.ended || process.tearing || known.is_some() {
            return;
        }
        *known = Some(status);
        self.ends(around, number, job, status);
    }

    pub(crate) fn tear_down(&mut self, around: &mut Around, number: usize) {
        let process = &mut self.processes[number];
        if process.ended || process.tearing {
            return;
        }
        process.tearing = true;
        let notice = Notice::StateChanged { state: State::TearingDown, cause: None };
        self.say(around, number, MS, notice);
        let delay = self.random.between(20, 1_500) * MS;
        around.follows.push((delay, News::TornDown(number)));
    }

    pub(crate) fn torn_down(&mut self, around: &mut Around, number: usize) {
        let process = &mut self.processes[number];
        if process.ended {
            return;
        }
        if let Some(address) = process.sandbox.take() {
            around.truth.gone((around.site, number), address);
        }
        self.say(around, number, MS, Notice::Gone { dirty: None, cause: None });
        let said = self.processes[number].says_at.saturating_sub(around.at);
        around.follows.push((said + self.random.between(1, 500) * MS, News::Dies(number, false)));
    }

    /// The agent reads its counters, once a second.
    pub(crate) fn counts(&mut self, around: &mut Around, number: usize) -> Option<crm::site::Event> {
        let process = &mut self.processes[number];
        if process.ended || process.tearing || !process.connected || process.silent {
            return None;
        }
        around.follows.push((S, News::Counts(number)));
        let mut classes = Vec::new();
        for (class, (rate_kbit, sent)) in &mut process.classes {
            // It uses all it may, or nearly nothing.
            let wants = self.random.chance(600);
            *sent += if wants { u64::from(*rate_kbit) * 125 } else { self.random.below(1_000) };
            classes.push(ClassUse { class: *class, sent_bytes: *sent, dropped: 0, backlog_bytes: 0 });
        }
        let notice = Notice::Used { at_ms: around.at / MS, classes };
        Some(crm::site::Event::Noticed { pilot: process.pilot, notice })
    }
}
