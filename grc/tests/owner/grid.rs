//! A grid around the real owner: sites that answer at once, unless they are told to keep silent,
//! and a check after every step that no address is held twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use grc::coordinator::{Action, ClientId, ConnectionId, Coordinator, Deadlines, Event, Ids, Settings};
use protocol::client::{NewJob, Notice, Reply, Request, Selector};
use protocol::ids::{Epoch, JobId, RequestId, ReservationId};
use protocol::job::{Command, ExitStatus, JobView, Target};
use protocol::keys::{MemberKeys, PublicKey};
use protocol::names::{EnvironmentName, SiteName};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::{Ask, Limits, Placement, ReservationView};
use protocol::site::{FromSite, Offer, Part, ReadyMember, ToSite};

/// What a site does not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Mute {
    Hold,
    Commit,
    Join,
    End,
}

type Key = (ReservationId, Epoch);

#[derive(Debug)]
pub struct Fake {
    pub connection: Option<ConnectionId>,
    pub nodes: u32,
    pub ranges: Vec<&'static str>,
    pub mute: BTreeSet<Mute>,
    /// Answers the next hold with this.
    pub refuse: Option<Refusal>,
    pub held: BTreeMap<Key, Part>,
    pub granted: BTreeMap<Key, Part>,
    /// Sandboxes of before a lost connection, and when they have ended by themselves.
    pub orphans: Vec<(Duration, Part)>,
    pub sent: Vec<ToSite>,
}

impl Fake {
    fn free(&self) -> u32 {
        let taken: u32 = self.held.values().chain(self.granted.values()).map(|part| part.members).sum();
        self.nodes.saturating_sub(taken)
    }
}

pub struct Grid {
    pub owner: Coordinator,
    pub now: Duration,
    pub sites: BTreeMap<SiteName, Fake>,
    pub answers: BTreeMap<u64, Reply>,
    pub notices: Vec<(u64, Notice)>,
    pub actions: Vec<Action>,
    next_connection: u64,
    next_correlation: u64,
}

pub fn site(text: &str) -> SiteName {
    text.parse().unwrap()
}

pub fn ask(nodes: &[(&str, u32)]) -> Ask {
    Ask {
        placement: Placement::Sites(nodes.iter().map(|(name, n)| (site(name), *n)).collect()),
        slots: 1,
        limits: Limits::default(),
        duration_s: 3600,
        environment: EnvironmentName::host(),
        label: None,
    }
}

pub fn job(target: Target) -> NewJob {
    let command = Command {
        argv: vec![b"./ring".to_vec()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    NewJob { command, target, label: None }
}

impl Grid {
    /// Two sites of four nodes with the same range, connected.
    pub fn new() -> Self {
        let mut grid = Self::disconnected(&[("a", 4, &["10.1.0.0/27"]), ("b", 4, &["10.1.0.0/27"])]);
        grid.connect("a");
        grid.connect("b");
        grid
    }

    pub fn disconnected(sites: &[(&str, u32, &[&'static str])]) -> Self {
        let supernets =
            sites.iter().map(|(name, ..)| (site(name), vec!["10.1.0.0/16".parse().unwrap()])).collect();
        let fake = |nodes, ranges: &[&'static str]| Fake {
            connection: None,
            nodes,
            ranges: ranges.to_vec(),
            mute: BTreeSet::new(),
            refuse: None,
            held: BTreeMap::new(),
            granted: BTreeMap::new(),
            orphans: Vec::new(),
            sent: Vec::new(),
        };
        Self {
            owner: Coordinator::new(Settings {
                supernets,
                deadlines: Deadlines::default(),
                started_s: 1_000_000,
                incarnation: 1,
                ids: Ids { reservation: 1, job: 1 },
            }),
            now: Duration::ZERO,
            sites: sites.iter().map(|(name, nodes, ranges)| (site(name), fake(*nodes, ranges))).collect(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
            actions: Vec::new(),
            next_connection: 0,
            next_correlation: 0,
        }
    }

    /// One event, and everything that the sites answer to what follows from it.
    pub fn step(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.owner.step(self.now, event) {
                self.actions.push(action.clone());
                match action {
                    Action::Send { site, connection, message } => {
                        let fake = self.sites.get_mut(&site).unwrap();
                        if fake.connection == Some(connection) {
                            let answers = take(fake, &site, message);
                            events.extend(answers.into_iter().map(|message| Event::FromSite {
                                site: site.clone(),
                                connection,
                                message,
                            }));
                        }
                    }
                    Action::Answer { correlation, reply, .. } => {
                        let before = self.answers.insert(correlation, reply);
                        assert_eq!(before, None, "request {correlation} was answered twice");
                    }
                    Action::Notify { correlation, notice, .. } => self.notices.push((correlation, notice)),
                    _ => {}
                }
            }
            self.check();
        }
    }

    /// No two members that may be alive anywhere hold the same address.
    fn check(&mut self) {
        let mut seen: BTreeMap<Ipv4Addr, SiteName> = BTreeMap::new();
        for (name, fake) in &mut self.sites {
            let now = self.now;
            fake.orphans.retain(|(until, _)| *until > now);
            let orphans = fake.orphans.iter().map(|(_, part)| part);
            for part in fake.held.values().chain(fake.granted.values()).chain(orphans) {
                for address in part.addresses.iter().flat_map(|block| block.addresses()) {
                    let other = seen.insert(address, name.clone());
                    assert_eq!(other, None, "{address} is held twice, also at {name}");
                    assert!(self.owner.taken_addresses().contains(address), "{address} is not taken");
                }
            }
        }
    }

    pub fn connect(&mut self, name: &str) {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let fake = self.sites.get_mut(&site(name)).unwrap();
        fake.connection = Some(connection);
        let message = FromSite::Publish { site: site(name), offer: offer(fake) };
        self.step(Event::FromSite { site: site(name), connection, message });
    }

    /// The connection breaks; the site's sandboxes take their time to notice.
    pub fn lose(&mut self, name: &str) {
        let fake = self.sites.get_mut(&site(name)).unwrap();
        let Some(connection) = fake.connection.take() else { return };
        fake.held.clear();
        let until = self.now + Deadlines::default().quarantine;
        fake.orphans.extend(std::mem::take(&mut fake.granted).into_values().map(|part| (until, part)));
        self.step(Event::SiteGone { site: site(name), connection, why: "cut".into() });
    }

    pub fn say(&mut self, name: &str, message: FromSite) {
        let connection = self.sites[&site(name)].connection.unwrap();
        self.step(Event::FromSite { site: site(name), connection, message });
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.owner.next_wake().filter(|wake| *wake <= until) {
            self.now = self.now.max(wake);
            self.step(Event::Tick);
        }
        self.now = until;
    }

    /// Posts a request; its answer may come later, under the number returned.
    pub fn post(&mut self, user: &str, request: Request) -> u64 {
        self.next_correlation += 1;
        let correlation = self.next_correlation;
        let (client, user) = (ClientId(1), user.parse().unwrap());
        self.step(Event::Request { client, correlation, user, request });
        correlation
    }

    pub fn request(&mut self, user: &str, request: Request) -> Reply {
        let correlation = self.post(user, request);
        self.answers.remove(&correlation).expect("answered at once")
    }

    pub fn fresh_id(&self) -> RequestId {
        RequestId((u128::from(self.next_correlation) + 1_000_000).to_le_bytes())
    }

    pub fn reserve(&mut self, ask: Ask) -> ReservationId {
        let id = self.fresh_id();
        match self.request("u", Request::Reserve { id, ask }) {
            Reply::Reserved(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub fn submit(&mut self, ask: Ask, job: NewJob) -> (JobId, ReservationId) {
        let id = self.fresh_id();
        match self.request("u", Request::Submit { id, ask, job }) {
            Reply::Submitted { job, reservation } => (job, reservation),
            other => panic!("{other:?}"),
        }
    }

    pub fn submit_in(&mut self, reservation: ReservationId, job: NewJob) -> JobId {
        let id = self.fresh_id();
        match self.request("u", Request::SubmitIn { id, reservation, job }) {
            Reply::Submitted { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    pub fn reservation(&mut self, id: ReservationId) -> ReservationView {
        match self.request("u", Request::ShowReservation(Selector::Id(id))) {
            Reply::Reservation(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self, id: ReservationId) -> String {
        self.reservation(id).state.to_string()
    }

    pub fn failure(&mut self, id: ReservationId) -> Failure {
        match self.reservation(id).state {
            protocol::reservation::ReservationState::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub fn job(&mut self, id: JobId) -> JobView {
        match self.request("u", Request::ShowJob(Selector::Id(id))) {
            Reply::Job(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub fn exit(&mut self, name: &str, job: JobId, member: u32, status: ExitStatus) {
        let (reservation, epoch) = self.key(name, job);
        self.say(name, FromSite::Exited { reservation, epoch, job, member, status });
    }

    /// The incarnation in which a job was started at a site.
    pub fn key(&self, name: &str, job: JobId) -> Key {
        let started = |message: &ToSite| match message {
            ToSite::Exec { reservation, epoch, job: one, .. } if *one == job => Some((*reservation, *epoch)),
            _ => None,
        };
        self.sites[&site(name)].sent.iter().find_map(started).expect("started there")
    }

    pub fn sent(&self, name: &str, wanted: impl Fn(&ToSite) -> bool) -> usize {
        self.sites[&site(name)].sent.iter().filter(|message| wanted(message)).count()
    }

    /// Nothing of any reservation is left, anywhere.
    pub fn assert_nothing_left(&self) {
        for (name, fake) in &self.sites {
            assert!(fake.held.is_empty() && fake.granted.is_empty(), "{name} still holds {fake:?}");
        }
        assert!(self.owner.taken_addresses().is_empty(), "{:?}", self.owner.taken_addresses());
        assert_eq!(self.owner.live_carves().count(), 0);
    }
}

pub fn offer(fake: &Fake) -> Offer {
    Offer {
        batch_system: "fake".into(),
        ranges: fake.ranges.iter().map(|range| range.parse().unwrap()).collect(),
        reserved: vec![Ipv4Addr::new(10, 1, 0, 1)],
        nodes_usable: fake.nodes,
        nodes_free: fake.free(),
        unusable: vec![],
        environments: vec![EnvironmentName::host()],
    }
}

pub fn ready(name: &SiteName, key: Key, part: &Part) -> Vec<ReadyMember> {
    let addresses = part.addresses.iter().flat_map(|block| block.addresses());
    let digit = name.as_str().as_bytes()[0];
    addresses
        .zip(0..part.members)
        .map(|(address, number)| {
            let key = |kind| {
                let mut bytes = [digit; 32];
                bytes[0] = kind;
                bytes[1..5].copy_from_slice(&number.to_le_bytes());
                bytes[5..13].copy_from_slice(&key.0.0.to_le_bytes());
                PublicKey(bytes)
            };
            let node = format!("{name}{number}").parse().unwrap();
            ReadyMember { number, node, address, keys: MemberKeys { host: key(1), user: key(2) } }
        })
        .collect()
}

/// What a site does and answers.
fn take(fake: &mut Fake, name: &SiteName, message: ToSite) -> Vec<FromSite> {
    fake.sent.push(message.clone());
    let publish = |fake: &Fake| FromSite::Publish { site: name.clone(), offer: offer(fake) };
    match message {
        ToSite::Hold { reservation, epoch, part } => {
            if fake.mute.contains(&Mute::Hold) {
                return vec![];
            }
            if let Some(refusal) = fake.refuse.take() {
                return vec![FromSite::HoldRefused { reservation, epoch, refusal }];
            }
            if fake.free() < part.members {
                let refusal =
                    Refusal::NodesBusy { site: name.clone(), asked: part.members, have: fake.free() };
                return vec![FromSite::HoldRefused { reservation, epoch, refusal }];
            }
            fake.held.insert((reservation, epoch), part);
            vec![FromSite::Held { reservation, epoch }, publish(fake)]
        }
        ToSite::Commit { reservation, epoch } => {
            let Some(part) = fake.held.remove(&(reservation, epoch)) else { return vec![] };
            let members = ready(name, (reservation, epoch), &part);
            fake.granted.insert((reservation, epoch), part);
            if fake.mute.contains(&Mute::Commit) {
                return vec![];
            }
            vec![FromSite::SiteReady { reservation, epoch, members }]
        }
        ToSite::Release { reservation, epoch } => {
            fake.held.remove(&(reservation, epoch));
            vec![publish(fake)]
        }
        ToSite::Join { reservation, epoch, .. } => {
            let silent = fake.mute.contains(&Mute::Join);
            if silent { vec![] } else { vec![FromSite::Joined { reservation, epoch }] }
        }
        ToSite::End { reservation, epoch } => {
            if fake.mute.contains(&Mute::End) {
                return vec![];
            }
            fake.held.remove(&(reservation, epoch));
            fake.granted.remove(&(reservation, epoch));
            vec![FromSite::Ended { reservation, epoch, dirty: vec![] }, publish(fake)]
        }
        ToSite::Welcome
        | ToSite::Refused(_)
        | ToSite::Exec { .. }
        | ToSite::Signal { .. }
        | ToSite::OutputSaved { .. } => vec![],
    }
}
