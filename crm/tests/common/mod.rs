//! A world for the owner: it does what a site's batch system, nodes and agents would do, and can
//! be told to fail once, at any point.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crm::nodes::Node;
use crm::pilot::{PilotId, Times};
use crm::site::{Account, Action, Asked, Event, Settings, Site};
use protocol::ids::{Epoch, JobId, ReservationId};
use protocol::job::{Command, Target};
use protocol::keys::{KeyRing, Member, MemberKeys, PublicKey};
use protocol::names::{EnvironmentName, HostName};
use protocol::node::{Notice, Reply, Request};
use protocol::refusal::{Failure, Step};
use protocol::reservation::{AddressBlock, Limits};
use protocol::site::{FromSite, Offer, Part, ToSite};
use sandbox_images::Catalog;

pub const R: ReservationId = ReservationId(1);
pub const E: Epoch = Epoch(1);
pub const J: JobId = JobId(7);

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
    pub swept: usize,
}

pub fn settings() -> Settings {
    Settings {
        name: "a".parse().unwrap(),
        batch_system: "embedded".into(),
        ranges: vec!["10.71.128.0/24".parse().unwrap()],
        reserved: vec![],
        prefix_len: 16,
        gateway: Some([10, 71, 0, 1].into()),
        mtu: 1500,
        driver: grant::Driver::Macvlan,
        times: Times::default(),
        catalog: Catalog::host_only(),
    }
}

pub fn part(members: u32) -> Part {
    Part {
        user: "alice".parse().unwrap(),
        members,
        slots: 1,
        limits: Limits::default(),
        duration_s: 3600,
        environment: EnvironmentName::host(),
        addresses: vec![AddressBlock { first: [10, 71, 128, 10].into(), count: members }],
    }
}

pub fn account() -> Account {
    Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 }
}

pub fn hold(part: Part) -> Event {
    Event::Hold { reservation: R, epoch: E, part, account: Ok(account()) }
}

pub fn keys(member: u32) -> MemberKeys {
    let key = |kind: u8| {
        let mut bytes = [kind; 32];
        bytes[..4].copy_from_slice(&member.to_be_bytes());
        PublicKey(bytes)
    };
    MemberKeys { host: key(1), user: key(2) }
}

/// The merged view that a GRC would make of what this site said, behind a head at another site.
pub fn ring(told: &[FromSite]) -> Option<KeyRing> {
    let members = told.iter().find_map(|message| match message {
        FromSite::SiteReady { members, .. } => Some(members),
        _ => None,
    })?;
    let member = |member: &protocol::site::ReadyMember| Member {
        host: HostName { site: "a".parse().unwrap(), number: member.number },
        address: member.address,
        slots: 1,
        keys: member.keys,
    };
    Some(KeyRing { user: "alice".parse().unwrap(), members: members.iter().map(member).collect() })
}

pub fn exec(target: Target) -> Event {
    let command = Command {
        argv: vec![b"true".to_vec()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    Event::Grc(ToSite::Exec { reservation: R, epoch: E, job: J, target, command })
}

impl World {
    pub fn new(nodes: u32) -> Self {
        let node = |n| Node::new(format!("a{n}").parse().unwrap(), 0, 1);
        let mut world = Self {
            site: Site::new(settings(), (1..=nodes).map(node).collect()),
            now: Duration::from_secs(1),
            told: vec![],
            events: VecDeque::new(),
            asked: 0,
            fault: None,
            mute: false,
            submitted: vec![],
            alive: BTreeSet::new(),
            swept: 0,
        };
        world.say(Event::GrcConnected);
        world
    }

    /// One event, and everything that follows at once.
    pub fn say(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            for action in self.site.step(self.now, event) {
                self.perform(action);
            }
        }
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
        if let Action::Tell(message) = action {
            return self.told.push(message);
        }
        if matches!(action, Action::Dismiss { .. } | Action::Pass { .. }) {
            return;
        }
        let n = self.asked;
        self.asked += 1;
        let fault = self.fault.filter(|(at, _)| *at == n).map(|(_, fault)| fault);
        let fault = if self.mute { Some(Fault::Silence) } else { fault };
        match action {
            Action::Submit(submit) => {
                let pilot = submit.pilot;
                self.submitted.push(pilot);
                match fault {
                    None => {
                        self.alive.insert(pilot);
                        self.site.expects(pilot, 1001).unwrap();
                        self.events.push_back(Event::Arrived { pilot, nonce: [1; 16] });
                    }
                    Some(Fault::Silence | Fault::Break) => {
                        self.alive.insert(pilot);
                    }
                    Some(Fault::Refusal | Fault::Death) => self.gone(pilot),
                }
            }
            Action::Cancel { pilot } => {
                if fault.is_none() && self.alive.remove(&pilot) {
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
            Action::SetUp { pilot, .. } => {
                self.answer(pilot, Asked::Setup, Reply::Done, fault);
                self.answer(pilot, Asked::GetKeys, Reply::Keys(keys(pilot.member)), None);
            }
            Action::Join { pilots, .. } => {
                for pilot in pilots {
                    self.answer(pilot, Asked::SetKeys, Reply::Done, fault);
                    self.answer(pilot, Asked::Run, Reply::Done, None);
                }
            }
            Action::Ask { pilot, asked: Asked::Shutdown, request: Request::Shutdown } => match fault {
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
            Action::Ask { pilot, asked, .. } => self.answer(pilot, asked, Reply::Done, fault),
            Action::Tell(_) | Action::Dismiss { .. } | Action::Pass { .. } => unreachable!(),
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

    fn gone(&mut self, pilot: PilotId) {
        self.alive.remove(&pilot);
        self.events.push_back(Event::BatchGone { pilot, reason: "exit code 3".into() });
    }

    fn lost(&mut self, pilot: PilotId) {
        self.events.push_back(Event::AgentLost { pilot, cause: "reset by peer".into() });
    }
}
