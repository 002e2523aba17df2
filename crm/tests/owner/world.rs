//! A world for the owner: it does what a site's batch system, nodes and agents would do, and can
//! be told to fail once, at any point.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crm::nodes::Node;
use crm::pilot::PilotId;
use crm::record::{Key, Record, Value};
use crm::site::{Action, Asked, Event, News, Settings, Site};
use protocol::ids::JobId;
use protocol::job::{ExitStatus, Hits};
use protocol::node::{self, Notice, Reply, Request};
use protocol::refusal::{Failure, Step};
use protocol::site::{FromSite, Offer};

pub use crate::events::*;

/// How the one failure looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Nothing comes back.
    Silence,
    /// The answer says that it failed; from the batch system: the pilot is gone.
    Refusal,
    /// The connection to the agent breaks instead.
    Break,
    /// The pilot's process dies first.
    Death,
}

pub struct World {
    pub site: Site,
    pub nodes: Vec<Node>,
    pub settings: Settings,
    pub now: Duration,
    pub told: Vec<FromSite>,
    pub events: VecDeque<Event>,
    /// Actions that want something to happen, so far.
    pub asked: usize,
    pub fault: Option<(usize, Fault)>,
    /// Nothing is answered at all, while this is set.
    pub mute: bool,
    pub submitted: Vec<PilotId>,
    pub alive: BTreeSet<PilotId>,
    /// Those that have, or had, an agent connected.
    pub arrived: BTreeSet<PilotId>,
    /// Where they run and with which address, as SETUP and submission said.
    pub where_alive: BTreeMap<PilotId, (String, std::net::Ipv4Addr)>,
    pub swept: usize,
    /// What is durable.
    pub records: BTreeMap<Key, Value>,
    /// All actions so far; the site dies before this one is performed.
    pub performed: usize,
    pub dies_at: Option<usize>,
    /// The connection to the GRC ended with the site that had it.
    pub cut: bool,
    /// Commands that agents were asked to start.
    pub started: Vec<(PilotId, JobId)>,
    /// Of these, those that have not ended.
    pub running: Vec<(PilotId, JobId)>,
    /// Rates that agents were told, with SETUP or later; for the later ones the test answers.
    pub shaped: Vec<(PilotId, grant::Rates)>,
    pub passed: Vec<(PilotId, Request)>,
    /// Commands whose end is not saved: their agents tell it again.
    pub kept: BTreeSet<(PilotId, JobId)>,
    /// How agents stand that were let in.
    pub stand: BTreeMap<PilotId, node::State>,
    /// Agents come back to a CRM that was started anew; else their nodes are cut off from it.
    pub come_back: bool,
    /// How often the batch system was asked how its queue is.
    pub probed: usize,
    /// Machines that the last submission must not come to.
    pub excluded: Vec<String>,
}

impl World {
    pub fn new(nodes: u32) -> Self {
        let node = |n| Node::new(format!("a{n}").parse().unwrap(), 0, 1);
        Self::with_nodes((1..=nodes).map(node).collect())
    }

    pub fn with_nodes(nodes: Vec<Node>) -> Self {
        let mut world = Self {
            site: Site::new(settings(), nodes.clone()),
            nodes,
            settings: settings(),
            now: Duration::from_secs(1_000_000),
            told: vec![],
            events: VecDeque::new(),
            asked: 0,
            fault: None,
            mute: false,
            submitted: vec![],
            alive: BTreeSet::new(),
            arrived: BTreeSet::new(),
            where_alive: BTreeMap::new(),
            swept: 0,
            records: BTreeMap::new(),
            performed: 0,
            dies_at: None,
            cut: false,
            started: vec![],
            running: vec![],
            shaped: vec![],
            passed: vec![],
            kept: BTreeSet::new(),
            stand: BTreeMap::new(),
            come_back: true,
            probed: 0,
            excluded: vec![],
        };
        world.say(Event::GrcConnected);
        world
    }

    /// One event, and everything that follows at once. The site may die of it, and is back then,
    /// without a connection.
    pub fn say(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let actions = self.site.step(self.now, event);
            if self.perform_all(actions) {
                return self.restart();
            }
        }
    }

    /// Whether the site died on the way.
    fn perform_all(&mut self, actions: Vec<Action>) -> bool {
        for action in actions {
            if self.dies_at == Some(self.performed) {
                return true;
            }
            self.performed += 1;
            self.perform(action);
        }
        false
    }

    /// The CRM dies and is started again: what was not durable is gone. Its pilots are where they
    /// were, and come back, or arrive, where they are let in.
    pub fn restart(&mut self) {
        self.dies_at = None;
        self.cut = true;
        self.events.clear();
        let records = self.records.clone().into_iter().map(|(key, value)| Record::Put(key, value));
        let (site, actions) = Site::restore(self.settings.clone(), self.nodes.clone(), self.now, records);
        self.site = site;
        self.perform_all(actions);
        self.say(Event::Tick);
        if self.come_back {
            self.return_all();
        }
    }

    /// Whoever is alive dials: who is not awaited ends.
    pub fn return_all(&mut self) {
        for pilot in self.alive.clone() {
            let event = match self.stand.get(&pilot) {
                Some(state) => {
                    let told = self.shaped.iter().rev().find(|(of, _)| *of == pilot);
                    let rates = told.map(|(_, rates)| rates.clone());
                    self.site.returns(&pin(pilot), 1001).map(|_| back(pilot, *state, rates))
                }
                None => self.site.expects(pilot, 1001).map(|()| arrived(pilot, [1; 16])),
            };
            match event {
                Ok(event) => self.say(event),
                Err(_) if self.mute => {}
                Err(_) => {
                    self.gone(pilot);
                    self.say(Event::Tick);
                }
            }
        }
    }

    /// Every command that runs ends well.
    pub fn run_commands(&mut self) {
        for (pilot, job) in std::mem::take(&mut self.running) {
            self.kept.insert((pilot, job));
            let notice =
                Notice::Exited { job, status: protocol::job::ExitStatus::Code(0), hits: Hits::default() };
            self.say(Event::Noticed { pilot, notice });
        }
    }

    /// Lets so much time pass, deadline by deadline.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.site.next_deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.say(Event::Tick);
        }
        self.now = until;
        self.say(Event::Tick);
    }

    /// Lets time pass, deadline by deadline, until `done` or nothing is left to wait for.
    pub fn wait(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..200 {
            if done(self) {
                return;
            }
            let Some(at) = self.site.next_deadline() else { return };
            self.now = at;
            self.say(Event::Tick);
        }
        panic!("after 200 deadlines the site still waits: {:?}", self.told);
    }

    /// What every pilot that is alive has is held for it, and for it alone.
    pub fn check(&self) {
        for id in &self.alive {
            let pilot = self.site.pilot(*id);
            assert!(pilot.is_some(), "nobody knows of {id}, which is alive");
        }
        let (places, addresses) = self.site.holdings();
        assert_eq!(places as usize, addresses);
    }

    pub fn heard(&self, want: impl Fn(&FromSite) -> bool) -> usize {
        self.told.iter().filter(|message| want(message)).count()
    }

    pub fn offer(&self) -> &Offer {
        let mut offers = self.told.iter().rev().filter_map(|message| match message {
            FromSite::Publish { offer, .. } => Some(offer),
            _ => None,
        });
        offers.next().expect("nothing was published")
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Record(Record::Put(key, value)) => {
                // What is kept goes through its bytes, as it does in a store.
                let value = Value::decode(&value.encode().unwrap()).unwrap();
                self.records.insert(key, value);
            }
            Action::Record(Record::Forget(key)) => drop(self.records.remove(&key)),
            Action::Tell(message) => {
                message.check().unwrap();
                self.told.push(message);
            }
            Action::Dismiss { .. } => {}
            Action::Pass { pilot, request } => {
                match request {
                    Request::Resend { job } if self.kept.contains(&(pilot, job)) => {
                        let (status, hits) = (ExitStatus::Code(0), Hits::default());
                        let notice = Notice::Exited { job, status, hits };
                        self.events.push_back(Event::Noticed { pilot, notice });
                    }
                    Request::ExitSaved { job } => drop(self.kept.remove(&(pilot, job))),
                    _ => {}
                }
                self.passed.push((pilot, request));
            }
            Action::Reserve(_) | Action::Unreserve { .. } => {}
            Action::Probe => self.probed += 1,
            Action::Shape { pilot, rates } => {
                rates.check().unwrap();
                self.shaped.push((pilot, *rates));
            }
            action => self.ask(action),
        }
    }

    fn ask(&mut self, action: Action) {
        let n = self.asked;
        self.asked += 1;
        let fault = self.fault.filter(|(at, _)| *at == n).map(|(_, fault)| fault);
        let fault = if self.mute { Some(Fault::Silence) } else { fault };
        match action {
            Action::Submit(submit) => {
                let pilot = submit.pilot;
                self.submitted.push(pilot);
                self.excluded = submit.exclude.iter().map(ToString::to_string).collect();
                let address = self.site.pilot(pilot).unwrap().address;
                let place = (submit.node.as_str().to_owned(), address);
                let doubled = self.where_alive.iter().find(|(id, (node, has))| {
                    (*node == place.0 && self.nodes_take_one() || *has == address) && self.alive.contains(id)
                });
                assert_eq!(doubled, None, "{pilot} was given {place:?}");
                assert!(!self.alive.contains(&pilot), "{pilot} was submitted twice");
                self.where_alive.insert(pilot, place);
                match fault {
                    None => {
                        self.alive.insert(pilot);
                        self.stand.insert(pilot, node::State::Idle);
                        self.site.expects(pilot, 1001).unwrap();
                        self.events.push_back(arrived(pilot, [1; 16]));
                    }
                    Some(Fault::Silence | Fault::Break) => {
                        self.alive.insert(pilot);
                    }
                    Some(Fault::Refusal | Fault::Death) => self.gone(pilot),
                }
            }
            Action::Adopt { pilot, .. } => match self.submitted.contains(&pilot) {
                _ if self.alive.contains(&pilot) || fault.is_some() => {}
                true => self.gone(pilot),
                false => self.events.push_back(Event::Batch(News::NotThere { pilots: vec![pilot] })),
            },
            Action::Cancel { pilot } => {
                if fault.is_none() {
                    self.gone(pilot);
                }
            }
            Action::Sweep { pilot, .. } => {
                self.swept += 1;
                match fault {
                    None => self.events.push_back(Event::Swept { pilot, outcome: Ok(()) }),
                    Some(Fault::Silence) => {}
                    Some(_) => self.events.push_back(Event::Swept { pilot, outcome: Err("a cgroup".into()) }),
                }
            }
            Action::SetUp { pilot, grant, rates, .. } => {
                assert_eq!(grant.shaped, rates.is_some());
                rates.into_iter().for_each(|rates| self.shaped.push((pilot, *rates)));
                if fault.is_none() {
                    self.stand.insert(pilot, node::State::Ready);
                }
                self.answer(pilot, Asked::Setup, Reply::Done, fault);
                self.answer(pilot, Asked::GetKeys, Reply::Keys(keys(pilot.member)), None);
            }
            Action::Join { pilots, .. } => {
                for pilot in pilots {
                    if fault.is_none() {
                        self.stand.insert(pilot, node::State::Running);
                    }
                    self.answer(pilot, Asked::SetKeys, Reply::Done, fault);
                    self.answer(pilot, Asked::Run, Reply::Done, None);
                }
            }
            Action::Ask { pilot, asked: Asked::Shutdown, request: Request::End { .. } } => match fault {
                None => {
                    self.events.push_back(Event::Answered {
                        pilot,
                        asked: Asked::Shutdown,
                        reply: Reply::Done,
                    });
                    let notice = Notice::Gone { dirty: None, cause: None };
                    self.events.push_back(Event::Noticed { pilot, notice });
                    self.gone(pilot);
                }
                Some(Fault::Silence) => {}
                Some(Fault::Refusal) => {
                    let notice = Notice::Gone { dirty: Some("a mount".into()), cause: None };
                    self.events.push_back(Event::Noticed { pilot, notice });
                }
                Some(Fault::Break) => self.lost(pilot),
                Some(Fault::Death) => {
                    self.gone(pilot);
                    self.lost(pilot);
                }
            },
            Action::Ask { pilot, asked: asked @ Asked::Exec(job), .. } => {
                // An agent starts nothing twice, whoever asks again.
                if !self.started.contains(&(pilot, job)) {
                    self.started.push((pilot, job));
                    self.running.push((pilot, job));
                }
                self.answer(pilot, asked, Reply::Done, fault);
            }
            Action::Ask { pilot, asked, .. } => self.answer(pilot, asked, Reply::Done, fault),
            other => unreachable!("{other:?}"),
        }
    }

    fn answer(&mut self, pilot: PilotId, asked: Asked, reply: Reply, fault: Option<Fault>) {
        match fault {
            None => self.events.push_back(Event::Answered { pilot, asked, reply }),
            Some(Fault::Silence) => {}
            Some(Fault::Refusal) => {
                let reply = Reply::Failed(Failure::new(Step::Setup, "no memory", "free some"));
                self.events.push_back(Event::Answered { pilot, asked, reply });
            }
            Some(Fault::Break) => self.lost(pilot),
            Some(Fault::Death) => {
                self.gone(pilot);
                self.lost(pilot);
            }
        }
    }

    fn nodes_take_one(&self) -> bool {
        self.nodes.iter().all(|node| node.members_max == 1)
    }

    fn gone(&mut self, pilot: PilotId) {
        self.alive.remove(&pilot);
        self.stand.remove(&pilot);
        self.running.retain(|(of, _)| *of != pilot);
        self.events.push_back(Event::BatchGone { pilot, reason: "exit code 3".into() });
    }

    fn lost(&mut self, pilot: PilotId) {
        self.events.push_back(lost(pilot));
    }
}
