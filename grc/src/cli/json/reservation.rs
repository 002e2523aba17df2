//! Reservations, their parts and what they use, for programs.

use std::net::Ipv4Addr;

use protocol::reservation::{
    AddressBlock, BlockProof, MemberView, PairView, PartView, QueueView, ReservationState, ReservationView,
    UsagePoint,
};
use serde::Serialize;

use super::{FailureJson, time};

/// A reservation: `reservations`, `show`, `wait`, and `reserve --wait`.
#[derive(Debug, Serialize)]
pub struct ReservationJson {
    id: String,
    name: Option<String>,
    user: String,
    /// `waiting`, `holding`, `booked`, `starting`, `joining`, `ready`, `ending`, `ended` or `failed`.
    state: String,
    failure: Option<FailureJson>,
    slots: u32,
    environment: String,
    parts: Vec<PartJson>,
    /// What is reserved between the parts.
    pairs: Vec<PairJson>,
    /// Of the grant in force, 0 before there is one.
    version: u32,
    /// The incarnation of its sandboxes.
    epoch: u32,
    made: Option<String>,
    /// Expected, as long as it waits; so is `ends`.
    starts: Option<String>,
    ends: Option<String>,
    deadline: Option<String>,
}

impl From<&ReservationView> for ReservationJson {
    fn from(view: &ReservationView) -> Self {
        Self {
            id: view.id.to_string(),
            name: view.label.as_ref().map(ToString::to_string),
            user: view.user.to_string(),
            state: view.state.to_string(),
            failure: match &view.state {
                ReservationState::Failed(failure) => Some(failure.into()),
                _ => None,
            },
            slots: view.slots,
            environment: view.environment.to_string(),
            parts: view.parts.iter().map(PartJson::from).collect(),
            pairs: view.pairs.iter().map(PairJson::from).collect(),
            version: view.version.0,
            epoch: view.epoch.0,
            made: time(view.made_s),
            starts: time(view.starts_s),
            ends: time(view.ends_s),
            deadline: view.deadline_s.and_then(time),
        }
    }
}

#[derive(Debug, Serialize)]
struct PartJson {
    site: String,
    nodes: u32,
    addresses: Vec<BlockJson>,
    submitted: u32,
    arrived: u32,
    built: u32,
    joined: u32,
    members: Vec<MemberJson>,
    /// Why nobody else has an address of a block; `show` has it, lists do not.
    proof: Vec<ProofJson>,
    /// While pilots are waited for.
    queue: Option<QueueJson>,
}

#[derive(Debug, Serialize)]
struct QueueJson {
    pilots: u32,
    queue: String,
    why: String,
    expected: Option<String>,
    until: Option<String>,
    held_until: Option<String>,
    begins_again: Option<String>,
}

impl From<&QueueView> for QueueJson {
    fn from(view: &QueueView) -> Self {
        Self {
            pilots: view.pilots,
            queue: view.queue.to_string(),
            why: view.why.to_string(),
            expected: view.expected_s.and_then(time),
            until: view.until_s.and_then(time),
            held_until: view.held_until_s.and_then(time),
            begins_again: view.again_s.and_then(time),
        }
    }
}

#[derive(Debug, Serialize)]
struct BlockJson {
    first: Ipv4Addr,
    count: u32,
}

impl From<&AddressBlock> for BlockJson {
    fn from(block: &AddressBlock) -> Self {
        Self { first: block.first, count: block.count }
    }
}

/// Of all blocks of the grid whose reservation overlaps this one in time, the nearest ends at
/// `below` and the next begins at `above`.
#[derive(Debug, Serialize)]
struct ProofJson {
    #[serde(flatten)]
    block: BlockJson,
    below: Option<Ipv4Addr>,
    above: Option<Ipv4Addr>,
}

impl From<&BlockProof> for ProofJson {
    fn from(proof: &BlockProof) -> Self {
        Self { block: (&proof.block).into(), below: proof.below, above: proof.above }
    }
}

#[derive(Debug, Serialize)]
struct PairJson {
    a: String,
    b: String,
    granted_kbit: u32,
    a_to_b_kbit: Option<u32>,
    b_to_a_kbit: Option<u32>,
}

impl From<&PairView> for PairJson {
    fn from(pair: &PairView) -> Self {
        Self {
            a: pair.a.to_string(),
            b: pair.b.to_string(),
            granted_kbit: pair.granted_kbit,
            a_to_b_kbit: pair.a_to_b_kbit,
            b_to_a_kbit: pair.b_to_a_kbit,
        }
    }
}

/// One of `usage`.
#[derive(Debug, Serialize)]
pub struct UsageJson {
    at: Option<String>,
    from: String,
    to: String,
    granted_kbit: u32,
    used_kbit: u32,
}

impl From<&UsagePoint> for UsageJson {
    fn from(point: &UsagePoint) -> Self {
        Self {
            at: time(point.at_s),
            from: point.from.to_string(),
            to: point.to.to_string(),
            granted_kbit: point.granted_kbit,
            used_kbit: point.used_kbit,
        }
    }
}

#[derive(Debug, Serialize)]
struct MemberJson {
    host: String,
    address: Ipv4Addr,
    node: String,
}

impl From<&MemberView> for MemberJson {
    fn from(member: &MemberView) -> Self {
        Self { host: member.host.to_string(), address: member.address, node: member.node.to_string() }
    }
}

impl From<&PartView> for PartJson {
    fn from(part: &PartView) -> Self {
        Self {
            site: part.site.to_string(),
            nodes: part.nodes,
            addresses: part.addresses.iter().map(BlockJson::from).collect(),
            submitted: part.progress.submitted,
            arrived: part.progress.arrived,
            built: part.progress.built,
            joined: part.progress.joined,
            members: part.members.iter().map(MemberJson::from).collect(),
            proof: part.proof.iter().map(ProofJson::from).collect(),
            queue: part.queue.as_ref().map(QueueJson::from),
        }
    }
}
