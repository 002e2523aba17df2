//! The owner of a site: one state, fed with events, answering with actions.
//!
//! ```text
//!                 Hold        Commit        all ready       Join         all running
//! a part:  (none) ----> Held -------> Starting ------> Ready ----> Joining ------> Joined
//!                         \______________\_______________\___________\_______________/
//!                            Release, End, GRC lost, lease over   |
//!                                                                 v     all pilots settled
//!                                                               Ending -------------------> (none)
//! ```
//! Sans-IO: no clock (`now` is the time since the driver's start), no randomness, no tasks. The
//! driver performs the actions in order. Everything is keyed by (reservation, epoch): a repeated
//! message changes nothing, and one of an older epoch is fenced.
//!
//! A pilot that fails takes its part down only in word: the GRC is told once, the other members
//! stay until it says `End`. What a pilot holds (a place on a node, an address) comes back when
//! its teardown is confirmed, never before.

mod agents;
mod grc;
mod part;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::ids::{Epoch, ReservationId};
use protocol::names::{SiteName, Text};
use protocol::refusal::{Failure, Refusal};
use protocol::site::{FromSite, Offer};
use sandbox_images::Catalog;

use crate::addresses::Addresses;
use crate::nodes::{Node, Nodes};
use crate::offer::offer;
use crate::pilot::{self, Do, Pilot, PilotId, State, Times};
use part::{Held, Phase};
pub use words::{Account, Action, Asked, Event, Submit};

/// Beyond a part's duration until the site ends it by itself; also what a grant's lifetime has
/// beyond the part's, so that the node never ends a sandbox before its site would.
pub const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// Offers and progress are sent at most this often, unless something important follows them.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Reservations that are over and still fenced by name.
const FENCES_MAX: usize = 16_384;

/// What does not change while the site runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: SiteName,
    pub batch_system: Text,
    pub ranges: Vec<Ipv4Net>,
    /// Addresses of machines, never given to a member.
    pub reserved: Vec<Ipv4Addr>,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    pub mtu: u16,
    pub driver: grant::Driver,
    pub times: Times,
    pub catalog: Catalog,
}

/// The owner.
#[derive(Debug)]
pub struct Site {
    settings: Settings,
    nodes: Nodes,
    addresses: Addresses,
    parts: BTreeMap<ReservationId, Held>,
    /// Pilots of parts that are over, which do not go.
    leftovers: BTreeMap<PilotId, (Pilot, Account)>,
    /// Newest epoch of a reservation that is over here.
    fences: BTreeMap<ReservationId, Epoch>,
    deadlines: BTreeSet<(Duration, PilotId)>,
    connected: bool,
    closing: bool,
    published: Option<Offer>,
    published_at: Duration,
    offer_changed: bool,
    /// Parts whose progress changed since it was told.
    progressed: BTreeSet<ReservationId>,
    now: Duration,
    actions: Vec<Action>,
}

impl Site {
    pub fn new(settings: Settings, nodes: Vec<Node>) -> Self {
        let reserved = settings.reserved.iter().copied().chain(settings.gateway);
        Self {
            addresses: Addresses::new(&settings.ranges, settings.prefix_len, reserved),
            nodes: Nodes::new(nodes),
            settings,
            parts: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            fences: BTreeMap::new(),
            deadlines: BTreeSet::new(),
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
            Event::GrcConnected => {
                self.connected = true;
                self.published = None;
                self.publish();
            }
            Event::GrcLost => {
                self.connected = false;
                self.end_all();
            }
            Event::Stop => {
                self.closing = true;
                self.offer_changed = true;
                self.end_all();
            }
            Event::Hold { reservation, epoch, part, account } => self.hold(reservation, epoch, part, account),
            Event::Grc(message) => self.on_grc(message),
            Event::Arrived { pilot, nonce } => self.on_arrived(pilot, nonce),
            Event::Answered { pilot, asked, reply } => self.on_answer(pilot, asked, reply),
            Event::Noticed { pilot, notice } => self.on_notice(pilot, notice),
            Event::AgentLost { pilot, cause } => self.on_agent_lost(pilot, &cause),
            Event::BatchGone { pilot, reason } => self.on_batch_gone(pilot, &reason),
            Event::Swept { pilot, outcome } => self.on_swept(pilot, outcome),
            Event::Tick => {}
        }
        self.report();
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Tick`] must come at the latest, if nothing else comes before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let pilots = self.deadlines.first().map(|(at, _)| *at);
        let leases = self.parts.values().filter_map(Held::lease_end).min();
        let reports = (self.connected && (self.offer_changed || !self.progressed.is_empty()))
            .then(|| self.published_at + REPORT_INTERVAL);
        [pilots, leases, reports].into_iter().flatten().min()
    }

    /// Whether this pilot may arrive: it was submitted, did not arrive yet, and runs as the
    /// account it was submitted for.
    ///
    /// # Errors
    /// `Refusal::BadToken`, for the agent.
    pub fn expects(&self, id: PilotId, uid: u32) -> Result<(), Refusal> {
        let held = self.parts.get(&id.reservation).filter(|held| held.epoch == id.epoch);
        let pilot = held.and_then(|held| held.roster.get(id.member));
        match (held, pilot) {
            (Some(held), Some(pilot)) if pilot.state == State::Submitted => {
                if held.account.uid == uid {
                    return Ok(());
                }
                let why = format!("it was made for uid {}, this pilot runs as {uid}", held.account.uid);
                Err(Refusal::BadToken { why: why.into() })
            }
            _ => Err(Refusal::BadToken { why: "its pilot is not awaited any more".into() }),
        }
    }

    /// Whether nothing of any reservation is here.
    pub fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.leftovers.is_empty()
    }

    /// Places on nodes and addresses that pilots have: both 0 when the site is idle.
    pub fn holdings(&self) -> (u32, usize) {
        (self.nodes.taken(), self.addresses.held())
    }

    /// Where a pilot is to run, while it is known.
    pub fn pilot(&self, id: PilotId) -> Option<&Pilot> {
        match self.parts.get(&id.reservation) {
            Some(held) if held.epoch == id.epoch => held.roster.get(id.member),
            _ => self.leftovers.get(&id).map(|(pilot, _)| pilot),
        }
    }

    fn tell(&mut self, message: FromSite) {
        if self.connected {
            self.actions.push(Action::Tell(message));
        }
    }

    /// Tells the offer if it changed.
    fn publish(&mut self) {
        let Settings { batch_system, ranges, catalog, name, .. } = &self.settings;
        let offer = offer(batch_system, ranges, &self.nodes, &self.addresses, catalog, self.closing);
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
        let over =
            |held: &Held| held.phase != Phase::Ending && held.lease_end().is_some_and(|at| at <= self.now);
        let over: Vec<_> = self.parts.iter().filter(|(_, held)| over(held)).map(|(id, _)| *id).collect();
        for reservation in over {
            self.fail(
                reservation,
                Failure::new(
                    protocol::refusal::Step::End,
                    "the reservation's time is over and nobody ended it",
                    "the site ends it by itself",
                ),
            );
            self.end(reservation);
        }
    }

    /// Lets something happen to a pilot and does what follows. Returns whether it moved.
    fn advance(&mut self, id: PilotId, event: pilot::Event) -> bool {
        let (before, after, follows) = match self.parts.get_mut(&id.reservation) {
            Some(held) if held.epoch == id.epoch => match held.roster.step(id.member, event) {
                Some(made) => (made.before, made.after, made.follows),
                None => return false,
            },
            _ => match self.leftovers.get_mut(&id) {
                Some((pilot, _)) => {
                    let before = pilot.state;
                    let (after, follows) = before.step(event);
                    pilot.state = after;
                    (before, after, follows)
                }
                None => return false,
            },
        };
        if before == after && follows.is_empty() {
            return false;
        }
        self.set_deadline(id, self.settings.times.of(after).map(|time| self.now + time));
        for what in follows {
            self.perform(id, *what);
        }
        if self.parts.contains_key(&id.reservation) {
            self.progressed.insert(id.reservation);
        }
        let batch_gone = self.pilot(id).is_some_and(|pilot| pilot.batch_gone);
        if after == State::Cancelling && batch_gone {
            // It was said while the agent was still there, and is not said again.
            self.advance(id, pilot::Event::BatchGone);
        } else if after == State::Gone {
            self.leftovers.remove(&id);
        }
        self.check_barriers(id.reservation);
        true
    }

    fn pilot_mut(&mut self, id: PilotId) -> Option<&mut Pilot> {
        match self.parts.get_mut(&id.reservation) {
            Some(held) if held.epoch == id.epoch => held.roster.get_mut(id.member),
            _ => self.leftovers.get_mut(&id).map(|(pilot, _)| pilot),
        }
    }

    fn set_deadline(&mut self, id: PilotId, deadline: Option<Duration>) {
        let old = match self.pilot_mut(id) {
            Some(pilot) => std::mem::replace(&mut pilot.deadline, deadline),
            None => None,
        };
        if let Some(old) = old {
            self.deadlines.remove(&(old, id));
        }
        if let Some(at) = deadline {
            self.deadlines.insert((at, id));
        }
    }

    fn perform(&mut self, id: PilotId, what: Do) {
        let Some(pilot) = self.pilot(id).cloned() else { return };
        match what {
            Do::Submit => self.submit(&pilot),
            // The nonce comes with the arrival; see `on_arrived`.
            Do::SetUp => {}
            Do::ShutDown => self.actions.push(Action::Ask {
                pilot: id,
                asked: Asked::Shutdown,
                request: protocol::node::Request::Shutdown,
            }),
            Do::Dismiss => self.actions.push(Action::Dismiss { pilot: id }),
            Do::Cancel => self.actions.push(Action::Cancel { pilot: id }),
            Do::Sweep => {
                let account = match self.parts.get(&id.reservation) {
                    Some(held) if held.epoch == id.epoch => Some(held.account.clone()),
                    _ => self.leftovers.get(&id).map(|(_, account)| account.clone()),
                };
                if let Some(account) = account {
                    self.actions.push(Action::Sweep { pilot: id, node: pilot.node, account });
                }
            }
            Do::Quarantine => {
                let what = pilot.dirt.unwrap_or_else(|| format!("pilot {id} does not go").into());
                self.nodes.soil(&pilot.node, id, what);
                self.addresses.quarantine(pilot.address);
                self.offer_changed = true;
            }
            Do::Release => {
                self.nodes.release(&pilot.node, id);
                self.addresses.release(pilot.address, id);
                self.offer_changed = true;
            }
        }
    }
}
