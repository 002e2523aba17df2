//! The owner of a site: one state, fed with events, answering with actions.
//!
//! ```text
//! what it has of a reservation:
//!            Hold        Commit       window near      all ready    Join      all running
//!   (none) -----> Held -------> Booked -------> Starting ----> Ready --> Joining --------> Joined
//!     ^            |               |^              |             |           |               |
//!     '- Release --'               |'----------- Ending <--------+-----------+---------------'
//!     ^                            |                ^   Start of a newer epoch, the CRM stops
//!     '-- all pilots settled -- Ending, for good <--+-- End, the window is over (from anywhere)
//! ```
//! Beside a grant a *change* of it may be held: a hold of a higher version, which replaces the
//! grant when it is committed, and of which nothing is left when it is released.
//!
//! Sans-IO: no clock (`now` is the time on the site's own timeline, which never jumps), no
//! randomness, no tasks. The driver performs the actions in order; what stands behind a
//! [`Action::Record`] waits until that is durable. Every message may be lost, repeated, late or
//! out of order; the rules stand in `protocol::site`. Nothing is ended by the loss of the GRC and
//! nothing but the pilots by a restart: [`Site::restore`] makes the site anew from its records.
//!
//! A pilot that fails takes its incarnation down only in word: the GRC is told, the other members
//! stay until it decides. What a pilot holds (a place on a node, an address) comes back when its
//! teardown is confirmed, never before.

mod agents;
mod ahead;
mod away;
mod begin;
mod booking;
mod end;
mod grc;
mod hold;
mod jobs;
mod moves;
mod queue;
mod restore;
mod rounds;
mod shaping;
mod verdict;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::identity::Pin;
use protocol::ids::{Epoch, MemberNumber, ReservationId, Version};
use protocol::names::{NodeName, SiteName, Text};
use protocol::refusal::Refusal;
use protocol::site::{FromSite, Offer};
use sandbox_images::Catalog;

use crate::addresses::Addresses;
use crate::nodes::{Node, Nodes};
use crate::offer::offer;
use crate::pilot::{Pilot, PilotId, State, Times};
use crate::queue::Queue;
use crate::record::{Arrived, Record, Terms};
use crate::trouble::Troubles;
pub use ahead::Ahead;
use booking::{Booking, Incarnation};
pub use queue::{lasts_max, walltime};
pub use words::{Account, Action, Asked, Back, Event, News, Submit};

/// What a grant's lifetime has beyond the window, so that the node never ends a sandbox before its
/// site would.
pub const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// After so long without a word about a hold the GRC is asked, and after as long again.
pub const ASK_INTERVAL: Duration = Duration::from_secs(3);
/// Offers and progress are sent at most this often, unless something important follows them.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Reservations of which it is remembered what is over.
const FENCES_MAX: usize = 16_384;
/// Fences everything of a reservation.
const ALL_VERSIONS: Version = Version(u32::MAX);

/// What does not change while the site runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: SiteName,
    pub batch_system: Text,
    /// Nodes are places of a queue; which machine takes one is known when its pilot runs.
    pub anonymous: bool,
    pub ranges: Vec<Ipv4Net>,
    /// Addresses of machines, never given to a member.
    pub reserved: Vec<Ipv4Addr>,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    pub mtu: u16,
    pub driver: grant::Driver,
    pub times: Times,
    /// How long before a window its pilots may be submitted.
    pub lead: Duration,
    /// How long before a window they may run; `None` = as soon as they are submitted.
    pub early: Option<Duration>,
    /// How long pilots that came are held for those that have not.
    pub hold: Duration,
    /// How long the batch system may take to say why a pilot ended. What is left of it stands that long.
    pub word: Duration,
    /// Which queue of the batch system it is; empty where there is none.
    pub queue: Text,
    pub catalog: Catalog,
}

/// The owner.
#[derive(Debug)]
pub struct Site {
    settings: Settings,
    nodes: Nodes,
    addresses: Addresses,
    queue: Queue,
    /// What the batch system asks for at least.
    lead_of_batch: Duration,
    /// Nodes, and accounts, whose pilots fail one after another.
    troubles: Troubles<NodeName>,
    accounts: Troubles<u32>,
    /// Accounts that have as many jobs in the queue as they may, by uid: until when nothing more is
    /// submitted for them, and why.
    full: BTreeMap<u32, (Duration, Text)>,
    bookings: BTreeMap<ReservationId, Booking>,
    /// When bookings must be looked at.
    wakes: BTreeSet<(Duration, ReservationId)>,
    /// Bookings whose pilots should begin and for which nodes or addresses are not free yet.
    waiting: BTreeSet<ReservationId>,
    /// Something came free, for which they may wait.
    freed: bool,
    /// Pilots of incarnations that are over, which do not go.
    leftovers: BTreeMap<PilotId, (Pilot, Account)>,
    /// Highest version of a reservation that is over here.
    fences: BTreeMap<ReservationId, Version>,
    /// By which certificate the agents of pilots are known.
    pins: BTreeMap<Pin, PilotId>,
    deadlines: BTreeSet<(Duration, PilotId)>,
    verdicts: verdict::Verdicts,
    /// The batch system keeps nodes free for windows in the future.
    reserves_ahead: bool,
    /// What was asked of it: nodes, begin and end.
    ahead: BTreeMap<ReservationId, (u32, Duration, Duration)>,
    connected: bool,
    closing: bool,
    published: Option<Offer>,
    published_at: Duration,
    offer_changed: bool,
    /// Reservations whose progress changed since it was told.
    progressed: BTreeSet<ReservationId>,
    now: Duration,
    actions: Vec<Action>,
}

impl Site {
    /// A site that has nothing.
    pub fn new(settings: Settings, nodes: Vec<Node>) -> Self {
        let reserved = settings.reserved.iter().copied().chain(settings.gateway);
        Self {
            addresses: Addresses::new(&settings.ranges, settings.prefix_len, reserved),
            nodes: Nodes::new(nodes),
            settings,
            queue: Queue::default(),
            lead_of_batch: Duration::ZERO,
            troubles: Troubles::default(),
            accounts: Troubles::default(),
            full: BTreeMap::new(),
            bookings: BTreeMap::new(),
            wakes: BTreeSet::new(),
            waiting: BTreeSet::new(),
            freed: false,
            leftovers: BTreeMap::new(),
            fences: BTreeMap::new(),
            pins: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            verdicts: verdict::Verdicts::default(),
            reserves_ahead: false,
            ahead: BTreeMap::new(),
            connected: false,
            closing: false,
            published: None,
            published_at: Duration::ZERO,
            offer_changed: false,
            progressed: BTreeSet::new(),
            now: Duration::ZERO,
            actions: Vec::new(),
        }
    }

    /// Lets something happen; `now` never goes back. The actions are to be performed in order.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        self.expire();
        match event {
            Event::GrcConnected => self.on_connected(),
            Event::GrcLost => self.connected = false,
            Event::Stop => self.stop(),
            Event::Hold { reservation, version, part, account } => {
                self.hold(reservation, version, part, account);
            }
            Event::Grc(message) => self.on_grc(message),
            Event::Arrived { pilot, pin, nonce, node, boot_id } => {
                self.on_arrived(pilot, nonce, Arrived { pin, at: None, called: Some(node), boot_id });
            }
            Event::Returned { pilot, back } => self.on_returned(pilot, *back),
            Event::Answered { pilot, asked, reply } => self.on_answer(pilot, asked, reply),
            Event::Noticed { pilot, notice } => self.on_notice(pilot, notice),
            Event::AgentLost { pilot, cause, silent } => self.on_agent_lost(pilot, &cause, silent),
            Event::BatchGone { pilot, reason } => self.on_batch_gone(pilot, &reason),
            Event::Batch(news) => self.on_batch_news(news),
            Event::Swept { pilot, outcome } => self.on_swept(pilot, outcome),
            Event::Tick => {}
        }
        self.begin_waiting();
        self.report();
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] must come at the latest, if nothing else comes before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let pilots = self.deadlines.first().map(|(at, _)| *at);
        let bookings = self.wakes.first().map(|(at, _)| *at);
        let queue = self.next_look_at_queue();
        let reports = (self.connected && (self.offer_changed || !self.progressed.is_empty()))
            .then(|| self.published_at + REPORT_INTERVAL);
        [pilots, bookings, queue, reports, self.verdicts.next_deadline()].into_iter().flatten().min()
    }

    /// Whether this pilot may arrive: it was submitted, did not arrive yet, and runs as the
    /// account it was submitted for.
    ///
    /// # Errors
    /// `Refusal::BadToken`, for the agent.
    pub fn expects(&self, id: PilotId, uid: u32) -> Result<(), Refusal> {
        let incarnation = self.incarnation(id);
        let pilot = incarnation.and_then(|incarnation| incarnation.roster.get(id.member));
        match (incarnation, pilot) {
            (Some(Incarnation { account, .. }), Some(pilot)) if pilot.state == State::Submitted => {
                if account.uid == uid {
                    return Ok(());
                }
                let why = format!("it was made for uid {}, this pilot runs as {uid}", account.uid);
                Err(Refusal::BadToken { why: why.into() })
            }
            _ => Err(Refusal::BadToken { why: "its pilot is not awaited any more".into() }),
        }
    }

    /// Which pilot has this certificate and may come back.
    ///
    /// # Errors
    /// `Refusal::BadToken`, for the agent.
    pub fn returns(&self, pin: &Pin, uid: u32) -> Result<PilotId, Refusal> {
        let known = self.pins.get(pin).and_then(|id| Some((self.incarnation(*id)?, self.pilot(*id)?)));
        match known {
            Some((incarnation, pilot))
                if incarnation.account.uid == uid
                    && (pilot.state.has_agent() || pilot.state == State::Away) =>
            {
                Ok(pilot.id)
            }
            _ => Err(Refusal::BadToken { why: "its pilot is not awaited any more".into() }),
        }
    }

    /// Whether pilots are for nodes by name.
    pub fn names_nodes(&self) -> bool {
        !self.settings.anonymous
    }

    /// Whether nothing of any reservation is here.
    pub fn is_idle(&self) -> bool {
        self.bookings.is_empty() && self.leftovers.is_empty()
    }

    /// Whether no pilot is here, or comes, that could still be waited for.
    pub fn is_quiet(&self) -> bool {
        self.bookings.values().all(|booking| booking.incarnation.is_none())
    }

    /// Places on nodes and addresses that pilots have: both 0 when no pilot is there.
    pub fn holdings(&self) -> (u32, usize) {
        (self.nodes.taken(), self.addresses.held())
    }

    /// What was voted for and what is in force, by reservation: for tests and the simulator.
    pub fn bookings(&self) -> impl Iterator<Item = (ReservationId, Option<&Terms>, Option<&Terms>)> {
        self.bookings.iter().map(|(id, booking)| (*id, booking.held.as_ref(), booking.grant.as_ref()))
    }

    /// The pilots that are here in whatever state, with their nodes and addresses.
    pub fn pilots(&self) -> impl Iterator<Item = &Pilot> {
        let incarnations = self.bookings.values().filter_map(|booking| booking.incarnation.as_ref());
        let members = incarnations.flat_map(|incarnation| incarnation.roster.pilots());
        let members = members.filter(|pilot| pilot.state != State::Gone);
        members.chain(self.leftovers.values().map(|(pilot, _)| pilot))
    }

    /// Where a pilot is to run, while it is known.
    pub fn pilot(&self, id: PilotId) -> Option<&Pilot> {
        match self.incarnation(id) {
            Some(incarnation) => incarnation.roster.get(id.member),
            None => self.leftovers.get(&id).map(|(pilot, _)| pilot),
        }
    }

    /// The incarnation to which a pilot belongs, if it is the present one.
    fn incarnation(&self, id: PilotId) -> Option<&Incarnation> {
        let incarnation = self.bookings.get(&id.reservation)?.incarnation.as_ref();
        incarnation.filter(|incarnation| incarnation.round == id.round)
    }

    fn incarnation_mut(&mut self, id: PilotId) -> Option<&mut Incarnation> {
        let incarnation = self.bookings.get_mut(&id.reservation)?.incarnation.as_mut();
        incarnation.filter(|incarnation| incarnation.round == id.round)
    }

    /// The present incarnation, if it is of this epoch.
    fn incarnation_of(&self, reservation: ReservationId, epoch: Epoch) -> Option<&Incarnation> {
        let incarnation = self.bookings.get(&reservation)?.incarnation.as_ref();
        incarnation.filter(|incarnation| incarnation.epoch == epoch)
    }

    /// A member's pilot in this epoch, whether or not there is such a member.
    fn pilot_of(&self, reservation: ReservationId, epoch: Epoch, member: MemberNumber) -> Option<PilotId> {
        let round = self.incarnation_of(reservation, epoch)?.round;
        Some(PilotId { reservation, round, member })
    }

    /// The epoch of a pilot of the present incarnation.
    fn epoch_of(&self, id: PilotId) -> Option<Epoch> {
        Some(self.incarnation(id)?.epoch)
    }

    fn record(&mut self, record: Record) {
        self.actions.push(Action::Record(record));
    }

    /// The booking as it is now goes into the journal.
    fn record_booking(&mut self, reservation: ReservationId) {
        if let Some(booking) = self.bookings.get(&reservation) {
            let record = booking.record(reservation);
            self.record(record);
        }
    }

    fn tell(&mut self, message: FromSite) {
        if self.connected {
            self.actions.push(Action::Tell(message));
        }
    }

    /// Tells the offer if it changed.
    fn publish(&mut self) {
        let name = &self.settings.name;
        let offer = offer(&self.settings, &self.nodes, &self.addresses, &self.queue, self.lead(), self.now);
        self.offer_changed = false;
        if self.connected && self.published.as_ref() != Some(&offer) {
            let site = name.clone();
            self.published = Some(offer.clone());
            self.published_at = self.now;
            self.tell(FromSite::Publish { site, offer });
        }
    }

    /// Tells what changed, but not more often than anybody needs to know.
    fn report(&mut self) {
        if self.now < self.published_at + REPORT_INTERVAL {
            return;
        }
        if self.offer_changed {
            self.publish();
        }
        for reservation in std::mem::take(&mut self.progressed) {
            self.published_at = self.now;
            self.tell_progress(reservation);
            self.tell_waits(reservation);
        }
    }

    /// Everything whose time is over.
    fn expire(&mut self) {
        while let Some((at, pilot)) = self.deadlines.first().copied() {
            if at > self.now {
                break;
            }
            self.deadlines.pop_first();
            self.on_time_over(pilot);
        }
        while let Some((at, reservation)) = self.wakes.first().copied() {
            if at > self.now {
                break;
            }
            self.wakes.pop_first();
            self.on_wake(reservation);
        }
        self.pass_old_verdicts();
        self.look_at_queue();
    }
}
