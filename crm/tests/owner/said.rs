//! What was said, and short words for what tests say often.

use crm::pilot::{PilotId, Round};
use crm::site::Event;
use protocol::refusal::{Failure, Refusal};
use protocol::site::{FromSite, ToSite};

use crate::world::{E, HOUR, R, V, World, hold, part, ring};

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
