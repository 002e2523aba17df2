//! The owner: the one state of the GRC and the one function that changes it.
//!
//! ```text
//! sockets, timers --Event--> Coordinator::step(now, event) --Actions, in order--> sockets, files
//! ```
//! Nothing here does I/O, reads a clock, draws a random number or looks at the order of a hash map:
//! the same events at the same times give the same actions, so whole histories can be replayed. A
//! journal is one more action in front of those that it must precede, as [`Action::ReserveIds`] is.
//!
//! Where things are: [`requests`] what users ask, [`submit`] what they make, [`sites`] what sites
//! say, [`grant`] from waiting to granted, [`life`] from granted to over, [`jobs`] commands,
//! [`book`] addresses, [`users`] who owns what, [`watch`] who waits for news.

mod book;
mod event;
mod grant;
mod jobs;
mod life;
mod requests;
mod sites;
mod submit;
mod users;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::ids::{JobId, ReservationId};
use protocol::names::{SiteName, UserName};
use protocol::reservation::AddressBlock;
use protocol::site::ToSite;

pub use event::{Action, ClientId, ConnectionId, Deadlines, Event, Ids};
pub use users::{LIVE_JOBS_MAX, LIVE_RESERVATIONS_MAX, WAITING_COMMAND_BYTES_MAX};

use crate::job::Job;
use crate::plan::addresses::AddressSet;
use crate::reservation::{Phase, Reservation};
use crate::view::Wall;
use book::Book;
use event::Due;
use sites::Site;
use users::User;
use watch::Watchers;

/// How many ids are made durable at a time: after a restart at most so many are skipped.
const IDS_AT_ONCE: u64 = 256;

/// What the owner is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sites of the grid and what each may publish.
    pub supernets: BTreeMap<SiteName, Vec<Ipv4Net>>,
    pub deadlines: Deadlines,
    /// Seconds since the epoch at the owner's time zero: for what is shown, never for decisions.
    pub started_s: u64,
    /// Counts the starts of this GRC, from 1. Epochs of later ones are larger.
    pub incarnation: u32,
    /// The first ids that were never given out.
    pub ids: Ids,
}

/// The state of the grid, owned by one task.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    now: Duration,
    /// What the event at hand leads to, in order.
    out: Vec<Action>,
    next: Ids,
    reserved: Ids,
    sites: BTreeMap<SiteName, Site>,
    reservations: BTreeMap<ReservationId, Reservation>,
    jobs: BTreeMap<JobId, Job>,
    users: BTreeMap<UserName, User>,
    /// Reservations in `Waiting`: first come, first tried; later ones may pass.
    waiting: BTreeSet<ReservationId>,
    /// Reservations in `Holding`.
    holding: BTreeSet<ReservationId>,
    book: Book,
    watchers: Watchers,
    timers: BTreeSet<(Duration, Due)>,
    /// Something changed that may let a waiting reservation begin.
    replan: bool,
}

impl Coordinator {
    pub fn new(settings: Settings) -> Self {
        let sites = settings.supernets.keys().map(|name| (name.clone(), Site::default())).collect();
        let mut timers = BTreeSet::new();
        let book = if settings.incarnation > 1 {
            Book::with_unknown_past(&settings.supernets, settings.deadlines.quarantine)
        } else {
            Book::default()
        };
        timers.extend(book.next_expiry().map(|at| (at, Due::Addresses)));
        Self {
            now: Duration::ZERO,
            out: Vec::new(),
            next: settings.ids,
            reserved: settings.ids,
            settings,
            sites,
            reservations: BTreeMap::new(),
            jobs: BTreeMap::new(),
            users: BTreeMap::new(),
            waiting: BTreeSet::new(),
            holding: BTreeSet::new(),
            book,
            watchers: Watchers::default(),
            timers,
            replan: false,
        }
    }

    /// Takes one event at a time that never goes back (since the owner's start), and says what
    /// follows. The actions are to be performed in their order, all before the next event's.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::Request { client, correlation, user, request } => {
                self.request(client, correlation, &user, request);
            }
            Event::ClientGone { client } => self.watchers.forget(client),
            Event::FromSite { site, connection, message } => self.heard(&site, connection, message),
            Event::SiteGone { site, connection, why } => self.site_gone(&site, connection, why.as_str()),
            Event::Tick => self.tick(),
        }
        if std::mem::take(&mut self.replan) {
            self.plan_waiting();
        }
        self.tell_watchers();
        std::mem::take(&mut self.out)
    }

    /// When `step` wants a [`Event::Tick`], if nothing else happens before.
    pub fn next_wake(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn tick(&mut self) {
        while let Some(&(at, due)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            match due {
                Due::Reservation(id) => self.reservation_due(id),
                Due::Job(id) => self.job_due(id),
                Due::Plan => self.replan = true,
                Due::Addresses => {
                    self.replan |= self.book.expire(self.now);
                    self.timers.extend(self.book.next_expiry().map(|at| (at, Due::Addresses)));
                }
            }
        }
    }

    fn set_timer(&mut self, at: Duration, due: Due) {
        self.timers.insert((at, due));
    }

    /// Times as they are shown.
    fn wall(&self) -> Wall {
        Wall { started_s: self.settings.started_s, now: self.now }
    }

    /// Posts a message to a site; one that is not connected has been dealt with as lost.
    fn send(&mut self, site: &SiteName, message: ToSite) {
        if let Some(connection) = self.sites.get(site).and_then(|site| site.connection) {
            self.out.push(Action::Send { site: site.clone(), connection, message });
        }
    }

    fn user(&mut self, name: &UserName) -> &mut User {
        self.users.entry(name.clone()).or_default()
    }

    fn reserve_ids(&mut self) {
        let (next, reserved) = (self.next, self.reserved);
        if next.reservation >= reserved.reservation || next.job >= reserved.job {
            self.reserved = Ids { reservation: next.reservation + IDS_AT_ONCE, job: next.job + IDS_AT_ONCE };
            self.out.push(Action::ReserveIds(self.reserved));
        }
    }

    fn new_reservation_id(&mut self) -> ReservationId {
        self.reserve_ids();
        self.next.reservation += 1;
        ReservationId(self.next.reservation - 1)
    }

    fn new_job_id(&mut self) -> JobId {
        self.reserve_ids();
        self.next.job += 1;
        JobId(self.next.job - 1)
    }

    /// Every address that no carve may touch now, for checks from outside.
    pub fn taken_addresses(&self) -> &AddressSet {
        self.book.taken()
    }

    /// The carves of all reservations that sites hold something for, for checks from outside.
    pub fn live_carves(&self) -> impl Iterator<Item = (ReservationId, &SiteName, &[AddressBlock])> {
        let live = |r: &&Reservation| !matches!(r.phase, Phase::Waiting | Phase::Over);
        self.reservations
            .values()
            .filter(live)
            .flat_map(|r| r.parts.iter().map(move |part| (r.id, &part.site, part.carve.as_slice())))
    }
}
