//! A grid around the real owner: sites that answer at once, unless they are told to keep silent,
//! and a check after every step that no address is held twice.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use grc::coordinator::{Action, ClientId, ConnectionId, Coordinator, Deadlines, Event, Record, Settings};
use grc::plan::addresses::AddressSet;
use grc::record::Key;
use protocol::client::{NewJob, Notice, Reply, Request, Selector};
use protocol::ids::{Epoch, JobId, RequestId, ReservationId};
use protocol::job::{Command, ExitStatus, Hits, JobView, Target};
use protocol::names::{EnvironmentName, SiteName};
use protocol::refusal::Failure;
use protocol::reservation::{Ask, Bandwidth, Limits, PairRate, Placement, ReservationView, Start};
use protocol::site::{FromSite, ToSite};

use crate::fake::{Fake, offer, take};

/// When every grid of these tests begins.
pub const BEGIN: Duration = Duration::from_secs(1_000_000);
pub const RESERVATIONS_PER_USER: usize = 256;

pub struct Grid {
    pub owner: Coordinator,
    pub now: Duration,
    pub sites: BTreeMap<SiteName, Fake>,
    pub answers: BTreeMap<u64, Reply>,
    pub notices: Vec<(u64, Notice)>,
    pub actions: Vec<Action>,
    /// What was made durable, in the order in which it was.
    pub store: BTreeMap<Key, Record>,
    pub settings: Settings,
    /// The owner dies before its next action but so many.
    pub dies_after: Option<usize>,
    /// It died, and was not started again.
    pub dead: bool,
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
        start: Start::Open,
        duration_s: 3600,
        bandwidth: Bandwidth::Unasked,
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
    NewJob { command, target, label: None, grace_s: None }
}

impl Grid {
    /// Two sites of four nodes with the same range, connected.
    pub fn new() -> Self {
        let mut grid = Self::disconnected(&[("a", 4, &["10.1.0.0/27"]), ("b", 4, &["10.1.0.0/27"])]);
        grid.connect("a");
        grid.connect("b");
        grid
    }

    /// Dies and starts again, with everything that was made durable and nothing else.
    pub fn restart(&mut self) {
        self.dead = false;
        let records = self.store.values().cloned().collect();
        let (owner, first) = Coordinator::restore(self.settings.clone(), records);
        self.owner = owner;
        self.perform(first);
        for fake in self.sites.values_mut() {
            fake.connection = None;
        }
        self.step(Event::Tick);
    }

    pub fn disconnected(sites: &[(&str, u32, &[&'static str])]) -> Self {
        let supernets =
            sites.iter().map(|(name, ..)| (site(name), vec!["10.1.0.0/16".parse().unwrap()])).collect();
        let settings = Settings {
            supernets,
            deadlines: Deadlines::default(),
            links: BTreeMap::from([((site("a"), site("b")), 200_000)]),
            uplinks: BTreeMap::new(),
            limits: grc::coordinator::Limits {
                reservations: RESERVATIONS_PER_USER,
                ..grc::coordinator::Limits::default()
            },
        };
        let mut grid = Self {
            owner: Coordinator::new(settings.clone()),
            now: BEGIN,
            sites: sites
                .iter()
                .map(|(name, nodes, ranges)| (site(name), Fake::new(*nodes, ranges)))
                .collect(),
            answers: BTreeMap::new(),
            notices: Vec::new(),
            actions: Vec::new(),
            store: BTreeMap::new(),
            settings,
            dies_after: None,
            dead: false,
            next_connection: 0,
            next_correlation: 0,
        };
        grid.step(Event::Tick);
        grid
    }

    /// One event, and everything that the sites answer to what follows from it.
    pub fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front().filter(|_| !self.dead) {
            let actions = self.owner.step(self.now, event);
            events.extend(self.perform(actions));
            self.sites.values_mut().for_each(|fake| fake.expire(self.now));
            self.check();
        }
    }

    /// Does what the owner wants done; what the sites answer.
    pub fn perform(&mut self, actions: Vec<Action>) -> Vec<Event> {
        let mut events = Vec::new();
        for action in actions {
            match &mut self.dies_after {
                Some(0) => {
                    (self.dies_after, self.dead) = (None, true);
                    return Vec::new();
                }
                Some(left) => *left -= 1,
                None => {}
            }
            self.actions.push(action.clone());
            match action {
                Action::Record(record) => keep(&mut self.store, record),
                Action::Send { site, connection, message } => {
                    let fake = self.sites.get_mut(&site).unwrap();
                    fake.expire(self.now);
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
        events
    }

    /// No two sandboxes that may be alive anywhere have the same address.
    fn check(&self) {
        let mut seen: BTreeMap<Ipv4Addr, (&SiteName, ReservationId)> = BTreeMap::new();
        let taken = self.taken();
        for (name, fake) in &self.sites {
            for (id, kept) in fake.kept.iter().filter(|(_, kept)| kept.epoch.is_some()) {
                let blocks = kept.granted.iter().flat_map(|(_, part)| &part.addresses);
                for address in blocks.flat_map(|block| block.addresses()) {
                    let other = seen.insert(address, (name, *id));
                    assert_eq!(other, None, "{address} is held twice, also by {id} at {name}");
                    assert!(taken.contains(address), "{address} of {id} at {name} is not taken");
                }
            }
        }
    }

    pub fn connect(&mut self, name: &str) {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let fake = self.sites.get_mut(&site(name)).unwrap();
        fake.connection = Some(connection);
        // What a site says when it connects: its offer, what it holds, what it has committed.
        let mut messages = vec![FromSite::Publish { site: site(name), offer: offer(fake) }];
        for (id, kept) in &fake.kept {
            let (reservation, mut say) = (*id, Vec::new());
            say.extend(
                kept.held.iter().map(|(version, _)| FromSite::Asks { reservation, version: *version }),
            );
            let committed = kept.granted.iter();
            say.extend(committed.map(|(version, _)| FromSite::Committed { reservation, version: *version }));
            messages.extend(say);
        }
        for message in messages {
            self.step(Event::FromSite { site: site(name), connection, message });
        }
    }

    /// The connection breaks; the site keeps what it has.
    pub fn lose(&mut self, name: &str) {
        let fake = self.sites.get_mut(&site(name)).unwrap();
        let Some(connection) = fake.connection.take() else { return };
        self.step(Event::SiteGone { site: site(name), connection, why: "cut".into() });
    }

    pub fn say(&mut self, name: &str, message: FromSite) {
        let connection = self.sites[&site(name)].connection.unwrap();
        self.step(Event::FromSite { site: site(name), connection, message });
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.owner.next_wake().filter(|wake| *wake <= until && !self.dead) {
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

    /// A request that is answered at once; nobody dies of it.
    pub fn request(&mut self, user: &str, request: Request) -> Reply {
        let dies_after = self.dies_after.take();
        let correlation = self.post(user, request);
        self.dies_after = dies_after;
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
        self.say(name, FromSite::Exited { reservation, epoch, job, member, status, hits: Hits::default() });
    }

    /// The incarnation in which a job was started at a site.
    pub fn key(&self, name: &str, job: JobId) -> (ReservationId, Epoch) {
        let started = |message: &ToSite| match message {
            ToSite::Exec { reservation, epoch, job: one, .. } if *one == job => Some((*reservation, *epoch)),
            _ => None,
        };
        self.sites[&site(name)].sent.iter().find_map(started).expect("started there")
    }

    pub fn sent(&self, name: &str, wanted: impl Fn(&ToSite) -> bool) -> usize {
        self.sites[&site(name)].sent.iter().filter(|message| wanted(message)).count()
    }

    /// Every address that the owner has taken, now or later.
    pub fn taken(&self) -> AddressSet {
        let mut set = AddressSet::default();
        for block in self.owner.taken().iter().flat_map(|taken| &taken.addresses) {
            block.addresses().for_each(|address| set.insert(address, address));
        }
        set
    }

    /// Nothing of any reservation is left, anywhere.
    pub fn assert_nothing_left(&self) {
        for (name, fake) in &self.sites {
            assert!(fake.kept.is_empty(), "{name} still holds {fake:?}");
        }
        assert_eq!(self.owner.taken(), []);
        assert!(self.owner.book().is_empty(), "{:?}", self.owner.book());
        for (a, b) in self.settings.links.keys() {
            let pair = PairRate { a: a.clone(), b: b.clone(), rate_kbit: 1 };
            for need in self.owner.network().needs(&[pair]).unwrap() {
                assert!(need.demand.profile.is_empty(), "{need:?}");
            }
        }
        assert_eq!(self.owner.live_grants(), []);
        assert_eq!(self.owner.attempts(), []);
        assert_eq!(self.owner.owed(), 0);
    }
}

pub fn keep(store: &mut BTreeMap<Key, Record>, record: Record) {
    match record {
        Record::Put(_) => drop(store.insert(record.key(), record)),
        Record::Forget(key) => drop(store.remove(&key)),
    }
}
