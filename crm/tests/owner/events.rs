//! Words for what the owner is told most often in tests.

use std::time::Duration;

use crm::pilot::{PilotId, Times};
use crm::site::{Account, Back, Event, Settings};
use protocol::identity::Pin;
use protocol::ids::{Epoch, JobId, ReservationId, Version};
use protocol::job::{Command, Target};
use protocol::keys::{KeyRing, Member, MemberKeys, PublicKey};
use protocol::names::{EnvironmentName, HostName};
use protocol::node;
use protocol::reservation::{AddressBlock, Limits};
use protocol::site::{FromSite, Part, Remaining, ToSite};
use sandbox_images::Catalog;

pub const R: ReservationId = ReservationId(1);
pub const E: Epoch = Epoch(1);
pub const V: Version = Version(1);
pub const J: JobId = JobId(7);
/// A window that has begun and lasts an hour.
pub const HOUR: Remaining = Remaining { starts_in_ms: 0, ends_in_ms: 3_600_000 };

/// A pilot on the node that it was meant for dials in.
pub fn arrived(pilot: PilotId, nonce: [u8; 16]) -> Event {
    Event::Arrived { pilot, pin: pin(pilot), nonce, node: "a1".parse().unwrap(), boot_id: [7; 16] }
}

/// The certificate of a pilot's agent.
pub fn pin(pilot: PilotId) -> Pin {
    let mut pin = [0; 32];
    pin[..8].copy_from_slice(&pilot.reservation.0.to_be_bytes());
    pin[8..12].copy_from_slice(&pilot.round.0.to_be_bytes());
    pin[12..16].copy_from_slice(&pilot.member.to_be_bytes());
    Pin(pin)
}

/// How an agent stands that is there again.
pub fn back(pilot: PilotId, state: node::State, rates: Option<grant::Rates>) -> Event {
    let stands = (node::State::Ready..=node::State::Running).contains(&state);
    let keys = stands.then(|| keys(pilot.member));
    Event::Returned { pilot, back: Box::new(Back { nonce: [1; 16], state, keys, rates }) }
}

pub fn lost(pilot: PilotId) -> Event {
    Event::AgentLost { pilot, cause: "reset by peer".into(), silent: Duration::ZERO }
}

pub fn settings() -> Settings {
    Settings {
        name: "a".parse().unwrap(),
        batch_system: "embedded".into(),
        anonymous: false,
        ranges: vec!["10.71.128.0/24".parse().unwrap()],
        reserved: vec![],
        prefix_len: 16,
        gateway: Some([10, 71, 0, 1].into()),
        mtu: 1500,
        driver: grant::Driver::Macvlan,
        times: Times::default(),
        lead: Duration::from_secs(10),
        early: None,
        hold: Duration::from_secs(600),
        word: Duration::from_secs(10),
        queue: "".into(),
        catalog: Catalog::host_only(),
    }
}

pub fn part(members: u32) -> Part {
    Part {
        user: "alice".parse().unwrap(),
        members,
        slots: 1,
        limits: Limits::default(),
        window: HOUR,
        layer: 0,
        environment: EnvironmentName::host(),
        addresses: vec![AddressBlock { first: [10, 71, 128, 10].into(), count: members }],
        peers: vec![],
    }
}

pub fn account() -> Account {
    Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 }
}

pub fn hold(part: Part) -> Event {
    hold_of(R, V, part)
}

pub fn hold_of(reservation: ReservationId, version: Version, part: Part) -> Event {
    Event::Hold { reservation, version, part, account: Ok(account()) }
}

pub fn commit(version: Version, window: Remaining) -> Event {
    Event::Grc(ToSite::Commit { reservation: R, version, window })
}

pub fn start(epoch: Epoch) -> Event {
    Event::Grc(ToSite::Start { reservation: R, epoch, window: HOUR })
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
    let members = told.iter().rev().find_map(|message| match message {
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
    exec_in(E, J, target)
}

pub fn exec_in(epoch: Epoch, job: JobId, target: Target) -> Event {
    let command = Command {
        argv: vec![b"true".to_vec()],
        variables: vec![],
        directories: vec![],
        directory_required: false,
    };
    Event::Grc(ToSite::Exec { reservation: R, epoch, job, target, command })
}
