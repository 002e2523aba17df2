//! The world of one history: the real owners in their processes, and everything around them.

use std::collections::BTreeSet;

use crm::site::Site;
use grc::coordinator::Coordinator;
use protocol::names::{NodeName, SiteName};
use protocol::site::{FromSite, ToSite};

use crate::agenda::{Agenda, MS, Micros, S};
use crate::clients::Clients;
use crate::field::{Field, News};
use crate::history::History;
use crate::host::Host;
use crate::network::{Direction, End, Fate, Link};
use crate::outputs::Files;
use crate::promises::Promises;
use crate::random::Random;
use crate::scenario::{Scenario, SiteSpec, Who};
use crate::truth::Truth;

/// From the last fault until everything must have come to rest.
const REST: Micros = 900 * S;
/// More happenings than any history has that gets anywhere.
const EVENTS_MAX: u64 = 200_000;

/// What is sent between the two daemons.
#[derive(Clone, Debug)]
pub enum Message {
    Up(Box<FromSite>),
    Down(Box<ToSite>),
}

/// Everything that can happen.
#[derive(Debug)]
pub enum Happening {
    Wake {
        who: Who,
        life: u32,
    },
    Synced {
        who: Who,
        life: u32,
    },
    Start {
        who: Who,
    },
    Resume {
        who: Who,
        life: u32,
    },
    Arrives {
        site: usize,
        connection: u64,
        message: Message,
    },
    Dial {
        site: usize,
        life: u32,
    },
    /// An end of a connection notices that it is gone.
    Notices {
        site: usize,
        end: End,
        connection: u64,
    },
    Field {
        site: usize,
        news: News,
    },
    Asks {
        client: usize,
    },
    HangsUp {
        client: usize,
        connection: u64,
    },
    Fault {
        number: usize,
    },
    Heals {
        number: usize,
    },
    /// Look whether all is as it should be.
    Look,
}

/// A site with all that belongs to it.
#[derive(Debug)]
pub struct Place {
    pub name: SiteName,
    pub spec: SiteSpec,
    pub nodes: Vec<NodeName>,
    pub host: Host<Site>,
    pub field: Field,
    pub link: Link<Message>,
}

pub struct World {
    pub agenda: Agenda<Happening>,
    pub history: History,
    pub scenario: Scenario,
    /// Delays that nobody else draws.
    pub random: Random,
    pub grc: Host<Coordinator>,
    pub sites: Vec<Place>,
    pub clients: Clients,
    pub promises: Promises,
    pub truth: Truth,
    pub files: Files,
    pub connections: u64,
    /// Faults that last, by their number.
    pub lasting: BTreeSet<usize>,
    /// When the last fault was over.
    pub calm_since: Micros,
    /// Whether all requests, windows and pilots are over.
    pub over: bool,
    /// Users have given back what they still waited for.
    pub given_back: bool,
    /// The request with which the end is tried.
    pub tried_by: Option<usize>,
    pub books_changed: bool,
    pub parts_changed: Vec<bool>,
}

impl World {
    pub fn new(scenario: Scenario, recorded: bool) -> Self {
        let random = Random::new(scenario.seed).fork(1);
        let names: Vec<SiteName> =
            ["a", "b", "c"].iter().take(scenario.sites.len()).filter_map(|name| name.parse().ok()).collect();
        let place = |(number, spec): (usize, &SiteSpec)| {
            let name = names[number].clone();
            let nodes: Vec<NodeName> =
                (0..spec.nodes).filter_map(|n| format!("{name}{n}").parse().ok()).collect();
            let purpose = 10 + number as u64;
            Place {
                host: Host::new(Who::Site(number), (1_800_000_000 + 77 * number as Micros) * S + 123),
                field: Field::new(random.fork(purpose), spec, nodes.clone(), scenario.traffic),
                link: Link::new(random.fork(purpose + 10)),
                name,
                spec: spec.clone(),
                nodes,
            }
        };
        let sites: Vec<Place> = scenario.sites.iter().enumerate().map(place).collect();
        let mut world = Self {
            agenda: Agenda::default(),
            history: History::new(recorded),
            random: random.fork(2),
            grc: Host::new(Who::Grc, 1_800_000_000 * S + 456),
            sites,
            clients: Clients::new(scenario.asked.clone(), names, scenario.seed),
            promises: Promises::default(),
            truth: Truth::default(),
            files: Files::default(),
            connections: 0,
            lasting: BTreeSet::new(),
            calm_since: 0,
            over: false,
            given_back: false,
            tried_by: None,
            books_changed: false,
            parts_changed: vec![false; scenario.sites.len()],
            scenario,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        self.agenda.at(0, Happening::Start { who: Who::Grc });
        for site in 0..self.sites.len() {
            self.agenda.at((1 + site as Micros) * MS, Happening::Start { who: Who::Site(site) });
        }
        for (client, asked) in self.scenario.asked.iter().enumerate() {
            // The grid is up when the first one comes.
            self.agenda.at(S + asked.at, Happening::Asks { client });
        }
        for (number, (at, _)) in self.scenario.faults.iter().enumerate() {
            self.agenda.at(S + at, Happening::Fault { number });
        }
        self.agenda.at(5 * S, Happening::Look);
    }

    /// The whole history, up to the first broken rule.
    pub fn run(&mut self) {
        while self.history.violation.is_none() && !self.over {
            let Some(happening) = self.agenda.advance() else { break };
            let now = self.agenda.now();
            self.history.count(now, kind(&happening));
            self.happen(happening);
            if self.history.events > EVENTS_MAX {
                self.history.broken(now, "rest", || format!("{EVENTS_MAX} happenings and no end"));
            }
            if now > S + self.scenario.calm_at + REST {
                let left = self.what_is_left();
                self.history.broken(now, "rest", || format!("it does not come to rest: {left}"));
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { who: Who::Grc, life } if life == self.grc.life => self.wake_grc(),
            Happening::Wake { who: Who::Site(site), life } if life == self.sites[site].host.life => {
                self.wake_site(site);
            }
            Happening::Synced { who: Who::Grc, life } if life == self.grc.life => match self.grc.synced() {
                Ok(()) => self.run_grc(),
                Err(error) => self.dies(Who::Grc, &format!("its disk says {error:?}"), S),
            },
            Happening::Synced { who: Who::Site(site), life } if life == self.sites[site].host.life => {
                match self.sites[site].host.synced() {
                    Ok(()) => self.run_site(site),
                    Err(error) => self.dies(Who::Site(site), &format!("its disk says {error:?}"), S),
                }
            }
            Happening::Wake { .. } | Happening::Synced { .. } => {}
            Happening::Start { who } => self.start(who),
            Happening::Resume { who, life } => self.resume(who, life),
            Happening::Arrives { site, connection, message } => self.arrives(site, connection, message),
            Happening::Dial { site, life } => self.dial(site, life),
            Happening::Notices { site, end, connection } => self.notices(site, end, connection),
            Happening::Field { site, news } => self.field_news(site, news),
            Happening::Asks { client } => self.asks(client),
            Happening::HangsUp { client, connection } => self.hangs_up(client, connection),
            Happening::Fault { number } => self.fault(number),
            Happening::Heals { number } => self.heals(number),
            Happening::Look => self.look(),
        }
    }

    pub fn say(&mut self, who: impl std::fmt::Display, what: impl FnOnce() -> String) {
        let now = self.agenda.now();
        self.history.say(now, who, what);
    }

    /// The CRM calls, again and again until it is connected.
    fn dial(&mut self, site: usize, life: u32) {
        let place = &mut self.sites[site];
        if place.host.life != life || !place.host.is_up() || place.link.at_site.is_some() {
            return;
        }
        if place.host.paused || place.link.is_cut() || !self.grc.is_up() || self.grc.paused {
            self.agenda.after(S, Happening::Dial { site, life });
            return;
        }
        self.connections += 1;
        place.link.connect(self.connections);
        let connection = self.connections;
        self.say(self.sites[site].name.clone(), || format!("connection {connection}"));
        self.tell_site(site, crm::site::Event::GrcConnected);
    }

    /// Puts a message on its way.
    pub fn post(&mut self, site: usize, connection: u64, message: Message) {
        let direction = match message {
            Message::Up(_) => Direction::Up,
            Message::Down(_) => Direction::Down,
        };
        let now = self.agenda.now();
        // The last phase is without faults.
        let calm = crate::scenario::Temper { delay: 5 * MS, ..Default::default() };
        let temper = if now > S + self.scenario.calm_at { &calm } else { &self.scenario.temper };
        let fate = match &message {
            // Output is not overtaken by the end behind it.
            Message::Up(message) => match **message {
                FromSite::Publish { .. } | FromSite::Output { .. } | FromSite::Exited { .. } => {
                    Fate::ArrivesInOrder
                }
                FromSite::ExecFailed { .. } | FromSite::NothingRuns { .. } => Fate::Arrives,
                _ => Fate::Anything,
            },
            Message::Down(message) => match **message {
                ToSite::Welcome | ToSite::Refused(_) => Fate::ArrivesInOrder,
                ToSite::Exec { .. } | ToSite::Signal { .. } | ToSite::ExitSaved { .. } => Fate::Arrives,
                _ => Fate::Anything,
            },
        };
        let posted = (&message, fate);
        let [first, again] = self.sites[site].link.post(now, temper, direction, connection, posted);
        if let Some(at) = again {
            let message = message.clone();
            self.agenda.at(at, Happening::Arrives { site, connection, message });
        }
        match first {
            Some(at) => self.agenda.at(at, Happening::Arrives { site, connection, message }),
            None => self.say("network", || format!("loses or keeps back {message:?}")),
        }
    }

    fn arrives(&mut self, site: usize, connection: u64, message: Message) {
        let place = &self.sites[site];
        let heard = match message {
            Message::Up(_) => place.link.at_grc.contains(&connection),
            Message::Down(_) => place.link.at_site == Some(connection),
        };
        if !heard {
            return;
        }
        match message {
            Message::Up(message) => self.grc_hears(site, connection, *message),
            Message::Down(message) => self.site_hears(site, *message),
        }
    }

    /// Both ends will find out that a connection is gone, each in its time.
    pub fn break_off(&mut self, site: usize) {
        let link = &mut self.sites[site].link;
        let mut gone = link.at_grc.clone();
        gone.extend(link.at_site);
        gone.dedup();
        for connection in gone {
            link.break_off(connection);
            let (sooner, later) = (link.notice_time(), link.notice_time());
            self.agenda.after(sooner, Happening::Notices { site, end: End::Site, connection });
            self.agenda.after(later, Happening::Notices { site, end: End::Grc, connection });
        }
    }

    fn notices(&mut self, site: usize, end: End, connection: u64) {
        if !self.sites[site].link.close(end, connection) {
            return;
        }
        let name = self.sites[site].name.clone();
        match end {
            End::Site => {
                self.say(&name, || format!("notices that connection {connection} is gone"));
                let life = self.sites[site].host.life;
                self.agenda.after(300 * MS, Happening::Dial { site, life });
                self.tell_site(site, crm::site::Event::GrcLost);
            }
            End::Grc => {
                self.say("grc", || format!("notices that connection {connection} of {name} is gone"));
                self.site_gone(site, connection);
            }
        }
    }

    fn start(&mut self, who: Who) {
        match who {
            Who::Grc if !self.grc.is_up() => match self.grc.disk.full {
                true => self.agenda.after(S, Happening::Start { who }),
                false => self.start_grc(),
            },
            Who::Site(site) if !self.sites[site].host.is_up() => match self.sites[site].host.disk.full {
                true => self.agenda.after(S, Happening::Start { who }),
                false => self.start_site(site),
            },
            _ => {}
        }
    }

    fn resume(&mut self, who: Who, life: u32) {
        let now = self.agenda.now();
        match who {
            Who::Grc if self.grc.life == life => {
                self.grc.resume(now);
                self.run_grc();
            }
            Who::Site(site) if self.sites[site].host.life == life => {
                self.sites[site].host.resume(now);
                self.run_site(site);
            }
            _ => {}
        }
    }

    /// The process ends here; it is started again after a while.
    pub fn dies(&mut self, who: Who, why: &str, down: Micros) {
        let reached = self.random.chance(500);
        self.agenda.after(down, Happening::Start { who });
        match who {
            Who::Grc => {
                self.say("grc", || format!("dies: {why}"));
                self.grc.crash(reached);
                self.grc_died();
            }
            Who::Site(site) => {
                let name = self.sites[site].name.clone();
                self.say(&name, || format!("its CRM dies: {why}"));
                self.sites[site].host.crash(reached);
                self.site_died(site);
            }
        }
    }
}

/// A number for each kind of happening, for the digest.
fn kind(happening: &Happening) -> u64 {
    match happening {
        Happening::Wake { .. } => 1,
        Happening::Synced { .. } => 2,
        Happening::Start { .. } => 3,
        Happening::Resume { .. } => 4,
        Happening::Arrives { message: Message::Up(_), .. } => 5,
        Happening::Arrives { message: Message::Down(_), .. } => 6,
        Happening::Dial { .. } => 7,
        Happening::Notices { .. } => 8,
        Happening::Field { .. } => 9,
        Happening::Asks { .. } => 10,
        Happening::HangsUp { .. } => 11,
        Happening::Fault { .. } => 12,
        Happening::Heals { .. } => 13,
        Happening::Look => 14,
    }
}
