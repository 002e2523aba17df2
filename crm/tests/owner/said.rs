//! What was said, and short words for what tests say often.

use std::time::Duration;

use crm::pilot::{PilotId, Round};
use crm::site::{Account, Event, News};
use crm::standing::{BatchError, Capabilities};
use protocol::ids::{Epoch, ReservationId};
use protocol::refusal::{Failure, Refusal};
use protocol::reservation::AddressBlock;
use protocol::site::{FromSite, Part, ToSite, Waits};

use crate::world::{E, HOUR, R, V, World, account, arrived, commit, hold, part, ring};

pub const COMMIT: Event = Event::Grc(ToSite::Commit { reservation: R, version: V, window: HOUR });
pub const END: Event = Event::Grc(ToSite::End { reservation: R });

pub fn join(world: &World) -> Option<Event> {
    ring(&world.told).map(|ring| Event::Grc(ToSite::Join { reservation: R, epoch: E, ring }))
}

pub fn is_failed(message: &FromSite) -> bool {
    matches!(message, FromSite::Failed { .. })
}

pub fn is_ended(message: &FromSite) -> bool {
    matches!(message, FromSite::Ended { .. })
}

pub fn is_joined(message: &FromSite) -> bool {
    matches!(message, FromSite::Joined { .. })
}

pub fn is_ready(message: &FromSite) -> bool {
    matches!(message, FromSite::SiteReady { .. })
}

pub fn failure(world: &World) -> &Failure {
    let mut failures = world.told.iter().filter_map(|message| match message {
        FromSite::Failed { failure, .. } => Some(failure),
        _ => None,
    });
    failures.next().expect("no failure was told")
}

pub fn refusal(world: &World) -> &Refusal {
    let mut refusals = world.told.iter().rev().filter_map(|message| match message {
        FromSite::HoldRefused { refusal, .. } => Some(refusal),
        _ => None,
    });
    refusals.next().expect("no hold was refused")
}

pub fn joined(members: u32) -> World {
    let mut world = World::new(members);
    world.say(hold(part(members)));
    world.say(COMMIT);
    let join = join(&world).unwrap();
    world.say(join);
    assert_eq!(world.heard(is_joined), 1);
    world
}

pub fn pilot(member: u32) -> PilotId {
    PilotId { reservation: R, round: Round(1), member }
}

pub fn is_held(message: &FromSite) -> bool {
    matches!(message, FromSite::Held { .. })
}

pub fn is_committed(message: &FromSite) -> bool {
    matches!(message, FromSite::Committed { .. })
}

pub fn is_lost(message: &FromSite) -> bool {
    matches!(message, FromSite::Lost { .. })
}

pub fn is_asking(message: &FromSite) -> bool {
    matches!(message, FromSite::Asks { .. })
}

pub fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two pilots that wait in the queue.
pub fn queued() -> World {
    let mut world = World::new(3);
    world.mute = true;
    world.say(hold(part(2)));
    world.say(commit(V, HOUR));
    assert_eq!(world.submitted, [pilot(0), pilot(1)]);
    world
}

/// A part with other addresses.
pub fn elsewhere(members: u32) -> Part {
    let addresses = vec![AddressBlock { first: [10, 71, 128, 100].into(), count: members }];
    Part { addresses, ..part(members) }
}

pub fn arrives(world: &mut World, id: PilotId) {
    world.mute = false;
    world.say(arrived(id, [1; 16]));
}

pub fn of_round(round: u32, member: u32) -> PilotId {
    PilotId { reservation: R, round: Round(round), member }
}

pub fn capabilities(closed: Option<&str>) -> Capabilities {
    Capabilities {
        places_on_named_nodes: true,
        reserves_ahead: false,
        enforces_limits: false,
        lead: Duration::ZERO,
        nodes_max: None,
        walltime_max: None,
        closed: closed.map(Into::into),
    }
}

pub fn batch(world: &mut World, news: News) {
    world.say(Event::Batch(news));
}

/// The batch system did not take these.
pub fn not_taken(world: &mut World, pilots: &[PilotId], error: BatchError) {
    if !matches!(error, BatchError::Unknown(_)) {
        world.alive.retain(|id| !pilots.contains(id));
    }
    batch(world, News::NotSubmitted { pilots: pilots.to_vec(), error });
}

pub fn ready_in(world: &World) -> Vec<(Epoch, u32)> {
    let ready = world.told.iter().filter_map(|message| match message {
        FromSite::SiteReady { epoch, round, .. } => Some((*epoch, *round)),
        _ => None,
    });
    ready.collect()
}

pub fn waits(world: &World) -> Option<Waits> {
    let told = world.told.iter().rev().find_map(|message| match message {
        FromSite::Waits { waits, .. } => Some(waits.clone()),
        _ => None,
    });
    told.flatten()
}

pub fn failed(world: &World) -> Option<Failure> {
    world.told.iter().rev().find_map(|message| match message {
        FromSite::Failed { failure, .. } => Some(failure.clone()),
        _ => None,
    })
}

pub fn refused(world: &World) -> Option<Refusal> {
    world.told.iter().rev().find_map(|message| match message {
        FromSite::HoldRefused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    })
}

/// What another user asks for, elsewhere.
pub fn hold_of_bob(reservation: ReservationId) -> Event {
    let bob = Account { name: "bob".parse().unwrap(), uid: 1002, ..account() };
    let part = Part { user: bob.name.clone(), ..elsewhere(1) };
    Event::Hold { reservation, version: V, part, account: Ok(bob) }
}

pub fn is_held_for(world: &World, id: ReservationId) -> bool {
    world.heard(|m| matches!(m, FromSite::Held { reservation, .. } if *reservation == id)) > 0
}
