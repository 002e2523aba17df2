//! The owner: the one state of the GRC and the one function that changes it.
//!
//! ```text
//! sockets, timers --Event--> Coordinator::step(now, event) --Actions, in order--> store, sockets
//! records of the store --> restore(settings, records) --> the same Coordinator again
//! ```
//! Nothing here does I/O, reads a clock, draws a random number or looks at the order of a hash map:
//! the same events at the same times give the same actions, so whole histories can be replayed.
//! What must be durable is one more action, [`Action::Record`], in front of those that it must
//! precede; [`crate::record`] says which. Starting and recovering are one path, [`restore`].
//!
//! Where things are: [`requests`] what users ask, [`submit`] what they make, [`sites`] what sites
//! say, [`attempt`] from waiting to granted, [`change`] changes of a grant, [`life`] from granted
//! to over, [`epochs`] incarnations, [`resend`] what is said again, [`owed`] ends that were not
//! confirmed, [`jobs`] commands, [`kills`] those that may run on, [`room`] what is taken when, [`network`] rates, [`limits`] what
//! one user may have, [`users`] who owns what, [`whose`] who may see it, [`watch`]
//! who waits for news.

mod attempt;
mod change;
mod epochs;
mod event;
mod inspect;
mod jobs;
mod kills;
mod life;
mod limits;
mod network;
mod owed;
mod requests;
mod resend;
mod restore;
mod room;
mod sites;
mod submit;
mod users;
mod waiting;
mod watch;
mod whose;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::ids::{JobId, ReservationId};
use protocol::names::{SiteName, UserName};
use protocol::site::ToSite;

pub use crate::record::Record;
pub use event::{Action, ClientId, ConnectionId, Deadlines, Event, Ids};
pub use inspect::{LiveGrant, Taken};
pub use limits::{Limits, SiteLimits};
pub use users::{COMMAND_BYTES_MAX, LIVE_JOBS_MAX};

use crate::job::Job;
use crate::network::BandwidthProvider;
use crate::record::Value;
use crate::reservation::Reservation;
use crate::view::Wall;
use event::Due;
use owed::Owed;
use room::Room;
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
    /// What one user may have, and who may look after the others' things.
    pub limits: Limits,
    /// Capacity between two sites each way, kbit/s.
    pub links: BTreeMap<(SiteName, SiteName), u64>,
    /// Capacity between a site and all others each way, kbit/s; who is not here has no bound.
    pub uplinks: BTreeMap<SiteName, u64>,
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
    /// Counts answers that are kept, to know the older from the newer.
    answers: u64,
    sites: BTreeMap<SiteName, Site>,
    reservations: BTreeMap<ReservationId, Reservation>,
    jobs: BTreeMap<JobId, Job>,
    users: BTreeMap<UserName, User>,
    /// Reservations in `Waiting`: first come, first tried; later ones may pass.
    waiting: BTreeSet<ReservationId>,
    room: Room,
    network: Box<dyn BandwidthProvider>,
    owed: BTreeMap<ReservationId, Owed>,
    watchers: Watchers,
    timers: BTreeSet<(Duration, Due)>,
    /// The timer for what waits.
    plan_at: Option<Duration>,
    /// Something changed that may let a waiting reservation begin.
    replan: bool,
}

impl Coordinator {
    /// The owner of a grid without a past.
    pub fn new(settings: Settings) -> Self {
        Self::restore(settings, Vec::new()).0
    }

    /// Takes one event at a time that never goes back (the owner's own time line, since the
    /// epoch), and says what follows. The actions are to be performed in their order, all before
    /// the next event's.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        // What is due has happened before this, however late the event is looked at.
        self.tick();
        match event {
            Event::Request { client, correlation, user, request } => {
                self.request(client, correlation, &user, request);
            }
            Event::ClientGone { client } => self.client_gone(client),
            Event::FromSite { site, connection, message } => self.heard(&site, connection, message),
            Event::SiteGone { site, connection, why } => self.site_gone(&site, connection, why.as_str()),
            Event::Tick => {}
        }
        if std::mem::take(&mut self.replan) {
            self.plan_waiting();
        }
        self.tell_watchers();
        std::mem::take(&mut self.out)
    }

    /// When `step` wants a [`Event::Tick`], if nothing else happens before.
    pub fn next_wake(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.network.next_wake()].into_iter().flatten().min()
    }

    fn tick(&mut self) {
        self.network_tick();
        while let Some(&(at, due)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            match due {
                Due::Resume => self.resume(),
                Due::Reservation(id) => self.reservation_due(id),
                Due::Attempt(id) => self.attempt_due(id),
                Due::Resend(id) => self.resend_due(id),
                Due::BeginAnew(id) => self.begin_anew_due(id),
                Due::Job(id) => self.job_due(id),
                Due::Owed(id) => self.owed_due(id),
                Due::Plan => self.replan = true,
            }
        }
    }

    fn set_timer(&mut self, at: Duration, due: Due) {
        self.timers.insert((at, due));
    }

    fn record(&mut self, value: Value) {
        self.out.push(Action::Record(Record::Put(value)));
    }

    /// Makes durable how a reservation stands.
    fn save(&mut self, id: ReservationId) {
        if let Some(reservation) = self.reservations.get(&id) {
            let saved = reservation.saved();
            self.record(Value::Reservation(Box::new(saved)));
        }
    }

    /// Times as they are shown.
    fn wall(&self) -> Wall {
        Wall { now: self.now }
    }

    /// Posts a message to a site; one that is away is told when it is back.
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
            self.record(Value::Ids(self.reserved));
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
}
