//! A site as the owner sees it: it answers at once, unless it is told to keep silent, and keeps what
//! it has through any loss of a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use grc::coordinator::ConnectionId;
use protocol::ids::{Epoch, ReservationId, Version};
use protocol::keys::{MemberKeys, PublicKey};
use protocol::names::{EnvironmentName, SiteName};
use protocol::refusal::Refusal;
use protocol::site::{FromSite, Offer, Part, ReadyMember, ToSite};

/// What a site does not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Mute {
    Hold,
    Commit,
    Start,
    Join,
    End,
}

/// What a site has of one reservation; a newer hold stands beside what is committed.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub held: Option<(Version, Part)>,
    pub granted: Option<(Version, Part)>,
    /// The incarnation that is on.
    pub epoch: Option<Epoch>,
    pub joined: bool,
    /// When it ends by itself, whatever the owner says.
    pub ends: Option<Duration>,
}

/// A site that keeps what it has through any loss of a connection, as sites do.
#[derive(Debug)]
pub struct Fake {
    pub connection: Option<ConnectionId>,
    pub now: Duration,
    pub nodes: u32,
    pub lead_s: u32,
    pub pilots_s: u32,
    pub nodes_max: Option<u32>,
    pub paused: Option<&'static str>,
    pub ranges: Vec<&'static str>,
    pub mute: BTreeSet<Mute>,
    /// Answers the next hold with this.
    pub refuse: Option<Refusal>,
    pub kept: BTreeMap<ReservationId, Kept>,
    pub sent: Vec<ToSite>,
    /// So many messages to it are lost, and so many that it answers.
    pub deaf: u32,
    pub dumb: u32,
    /// Hears every message twice.
    pub echo: bool,
}

impl Fake {
    pub fn new(nodes: u32, ranges: &[&'static str]) -> Self {
        Self {
            connection: None,
            now: Duration::ZERO,
            nodes,
            lead_s: 0,
            pilots_s: 60,
            nodes_max: None,
            paused: None,
            ranges: ranges.to_vec(),
            mute: BTreeSet::new(),
            refuse: None,
            kept: BTreeMap::new(),
            sent: Vec::new(),
            deaf: 0,
            dumb: 0,
            echo: false,
        }
    }

    /// A site ends every window by its own clock.
    pub fn expire(&mut self, now: Duration) {
        self.now = now;
        self.kept.retain(|_, kept| kept.ends.is_none_or(|ends| ends > now));
    }

    /// The part in force.
    pub fn part(&self, id: ReservationId) -> &Part {
        &self.kept[&id].granted.as_ref().unwrap().1
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let both = self.kept.values().flat_map(|kept| [&kept.held, &kept.granted]);
        both.flatten().map(|(_, part)| part)
    }
}

pub fn offer(fake: &Fake) -> Offer {
    let used: u32 = fake.parts().map(|part| part.members).sum();
    Offer {
        batch_system: "fake".into(),
        ranges: fake.ranges.iter().map(|range| range.parse().unwrap()).collect(),
        reserved: vec![Ipv4Addr::new(10, 1, 0, 1)],
        nodes_usable: fake.nodes,
        nodes_free: fake.nodes.saturating_sub(used),
        layers: vec![fake.nodes],
        lead_s: fake.lead_s,
        unusable: vec![],
        environments: vec![EnvironmentName::host()],
        queue: "partition main".into(),
        pilots_s: fake.pilots_s,
        nodes_max: fake.nodes_max,
        lasts_s_max: None,
        paused: fake.paused.map(Into::into),
    }
}

pub fn ready(name: &SiteName, id: ReservationId, epoch: Epoch, part: &Part) -> Vec<ReadyMember> {
    let addresses = part.addresses.iter().flat_map(|block| block.addresses());
    let digit = name.as_str().as_bytes()[0];
    addresses
        .zip(0..part.members)
        .map(|(address, number)| {
            let key = |kind| {
                let mut bytes = [digit; 32];
                bytes[0] = kind;
                bytes[1..5].copy_from_slice(&number.to_le_bytes());
                bytes[5..13].copy_from_slice(&id.0.to_le_bytes());
                bytes[13..17].copy_from_slice(&epoch.0.to_le_bytes());
                PublicKey(bytes)
            };
            let node = format!("{name}{number}").parse().unwrap();
            ReadyMember { number, node, address, keys: MemberKeys { host: key(1), user: key(2) } }
        })
        .collect()
}

/// What comes of a message on a line that loses and repeats.
pub fn take(fake: &mut Fake, name: &SiteName, message: ToSite) -> Vec<FromSite> {
    if fake.deaf > 0 {
        fake.deaf -= 1;
        return vec![];
    }
    let mut answers = obey(fake, name, message.clone());
    if fake.echo {
        answers.extend(obey(fake, name, message));
    }
    let lost = (fake.dumb as usize).min(answers.len());
    fake.dumb -= lost as u32;
    answers.split_off(lost)
}

/// What a site does and answers.
fn obey(fake: &mut Fake, name: &SiteName, message: ToSite) -> Vec<FromSite> {
    fake.sent.push(message.clone());
    let publish = |fake: &Fake| FromSite::Publish { site: name.clone(), offer: offer(fake) };
    let mute = |fake: &Fake, what| fake.mute.contains(&what);
    match message {
        ToSite::Hold { reservation, version, part } => {
            if mute(fake, Mute::Hold) {
                return vec![];
            }
            if let Some(refusal) = fake.refuse.take() {
                return vec![FromSite::HoldRefused { reservation, version, refusal }];
            }
            let others = fake.kept.iter().filter(|(id, _)| **id != reservation);
            let used: u32 = others
                .flat_map(|(_, kept)| [&kept.held, &kept.granted])
                .flatten()
                .filter(|(_, other)| overlap(other, &part))
                .map(|(_, other)| other.members)
                .sum();
            if used + part.members > fake.nodes {
                let (asked, have) = (part.members, fake.nodes.saturating_sub(used));
                let refusal = Refusal::NodesBusy { site: name.clone(), asked, have };
                return vec![FromSite::HoldRefused { reservation, version, refusal }];
            }
            let kept = fake.kept.entry(reservation).or_default();
            let in_force = kept.granted.as_ref().map(|(version, _)| *version);
            if in_force.max(kept.held.as_ref().map(|(version, _)| *version)) <= Some(version) {
                kept.held = Some((version, part));
            }
            vec![FromSite::Held { reservation, version }, publish(fake)]
        }
        ToSite::Commit { reservation, version, window } => {
            let lost = FromSite::Lost { reservation, version };
            if mute(fake, Mute::Commit) {
                return vec![];
            }
            let Some(kept) = fake.kept.get_mut(&reservation) else { return vec![lost] };
            let first = kept.granted.is_none();
            match kept.held.take() {
                Some((held, part)) if held == version => kept.granted = Some((version, part)),
                other => kept.held = other,
            }
            if kept.granted.as_ref().is_none_or(|(granted, _)| *granted != version) {
                return vec![lost];
            }
            kept.ends = Some(fake.now + Duration::from_millis(window.ends_in_ms));
            let mut answers = vec![FromSite::Committed { reservation, version }];
            if first && window.starts_in_ms <= u64::from(fake.lead_s) * 1000 {
                answers.extend(begin(fake, name, reservation, Epoch::FIRST));
            }
            answers
        }
        ToSite::Release { reservation, version } => {
            if let Some(kept) = fake.kept.get_mut(&reservation) {
                kept.held = kept.held.take().filter(|(held, _)| *held != version);
                if kept.granted.is_none() && kept.held.is_none() {
                    fake.kept.remove(&reservation);
                }
            }
            vec![publish(fake)]
        }
        ToSite::Start { reservation, epoch, window } => {
            let Some(kept) = fake.kept.get(&reservation).filter(|kept| kept.granted.is_some()) else {
                return vec![FromSite::Lost { reservation, version: Version::default() }];
            };
            let early = window.starts_in_ms > u64::from(fake.lead_s) * 1000;
            if early || kept.epoch.is_some_and(|on| on > epoch) {
                return vec![];
            }
            begin(fake, name, reservation, epoch)
        }
        ToSite::Join { reservation, epoch, .. } => {
            if mute(fake, Mute::Join) {
                return vec![];
            }
            if let Some(kept) = fake.kept.get_mut(&reservation) {
                kept.joined = true;
            }
            vec![FromSite::Joined { reservation, epoch }]
        }
        ToSite::End { reservation } => {
            if mute(fake, Mute::End) {
                return vec![];
            }
            fake.kept.remove(&reservation);
            vec![FromSite::Ended { reservation, dirty: vec![] }, publish(fake)]
        }
        ToSite::Welcome
        | ToSite::Refused(_)
        | ToSite::Exec { .. }
        | ToSite::Signal { .. }
        | ToSite::OutputSaved { .. }
        | ToSite::ExitSaved { .. }
        | ToSite::Hasten { .. } => vec![],
    }
}

fn overlap(one: &Part, other: &Part) -> bool {
    let (one, other) = (one.window, other.window);
    one.starts_in_ms < other.ends_in_ms && other.starts_in_ms < one.ends_in_ms
}

/// The sandboxes of an epoch stand at once, unless the site keeps silent about it.
fn begin(fake: &mut Fake, name: &SiteName, reservation: ReservationId, epoch: Epoch) -> Vec<FromSite> {
    let silent = fake.mute.contains(&Mute::Start);
    let Some(kept) = fake.kept.get_mut(&reservation) else { return vec![] };
    kept.joined &= kept.epoch == Some(epoch);
    kept.epoch = Some(epoch);
    if silent {
        return vec![];
    }
    let Some((_, part)) = &kept.granted else { return vec![] };
    vec![FromSite::SiteReady { reservation, epoch, round: 1, members: ready(name, reservation, epoch, part) }]
}
