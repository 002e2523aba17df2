//! The conversation between the GRC and one site's CRM. The CRM dials (a site need only be able
//! to call out). Both directions are one-way notices; what must be answered is answered by a
//! notice naming the same reservation and epoch, so every message may be repeated.
//!
//! ```text
//! GRC                               CRM
//!   <------------- Register or Publish      once after connecting; Publish again on change
//!   Hold ------------------------->
//!   <------------- Held | HoldRefused
//!   Commit ----------------------->          all at once, after all sites held
//!   <------------- Progress*                 pilots in the queue, in, built
//!   <------------- SiteReady                 first barrier: every sandbox stands
//!   Join (key ring) -------------->
//!   <------------- Joined                    second barrier: every sshd answers
//!   Exec, Signal, OutputSaved ---->
//!   <------------- Output*, Exited
//!   End -------------------------->          legal at any time, always answered
//!   <------------- Ended
//! ```
//! The number of messages does not depend on the number of nodes, `Output` aside. The wire form
//! of an enum is the position of its variant: append only; `golden/site_v1.txt` pins it.

use std::net::Ipv4Addr;

use bytes::Bytes;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{Epoch, JobId, MemberNumber, ReservationId};
use crate::job::{self, Command, ExitStatus, Stream, Target};
use crate::keys::{KeyRing, MemberKeys};
use crate::limits::{self, DURATION_S_MAX, MEMBERS_MAX, NODES_PER_SITE_MAX, SLOTS_MAX};
use crate::names::{EnvironmentName, NodeName, SiteName, Text, UserName};
use crate::refusal::{Failure, Refusal};
use crate::reservation::{AddressBlock, Limits, Progress};

/// What a site has to give, pushed whenever it changes, so that planning needs no round trip.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    pub batch_system: Text,
    /// Ranges of the site's sandboxes, outside of which no carve of this site may lie.
    #[serde(deserialize_with = "at_most::<{limits::RANGES_PER_SITE_MAX}, _, _>")]
    pub ranges: Vec<Ipv4Net>,
    /// Addresses inside the ranges that are taken by machines: never carved.
    #[serde(deserialize_with = "at_most::<{limits::RESERVED_PER_SITE_MAX}, _, _>")]
    pub reserved: Vec<Ipv4Addr>,
    /// Nodes that can take a pilot at all. A part never has two members on one node.
    pub nodes_usable: u32,
    /// Nodes that have room for one more pilot now.
    pub nodes_free: u32,
    /// Nodes that take no pilot, and why (dirty, drained, down).
    #[serde(deserialize_with = "at_most::<{limits::NODES_PER_SITE_MAX}, _, _>")]
    pub unusable: Vec<(NodeName, Text)>,
    #[serde(deserialize_with = "at_most::<{limits::ENVIRONMENTS_PER_SITE_MAX}, _, _>")]
    pub environments: Vec<EnvironmentName>,
}

impl Offer {
    /// What the GRC checks before it keeps an offer. Whether the ranges are allowed is for it to say.
    pub fn check(&self) -> Result<(), Refusal> {
        Refusal::unless_at_most("nodes", self.nodes_usable as usize, NODES_PER_SITE_MAX)?;
        Refusal::unless(self.nodes_free <= self.nodes_usable, "more nodes are free than usable")
    }
}

/// One site's share of a reservation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub user: UserName,
    pub members: u32,
    pub slots: u32,
    pub limits: Limits,
    /// Counted from the commit on the site's own clock: clocks of sites are never compared.
    pub duration_s: u32,
    pub environment: EnvironmentName,
    /// At least as many addresses as members, all inside the site's ranges.
    #[serde(deserialize_with = "at_most::<{limits::BLOCKS_PER_PART_MAX}, _, _>")]
    pub addresses: Vec<AddressBlock>,
}

impl Part {
    /// What the CRM checks before it asks whether it can: sizes within the limits, and a carve
    /// that has an address for every member and none twice.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.members == 0 {
            return Err(Refusal::ZeroNodes);
        }
        if self.members as usize > MEMBERS_MAX {
            return Err(Refusal::TooManyMembers { asked: self.members, max: MEMBERS_MAX as u32 });
        }
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(Refusal::BadSlots { asked: self.slots, max: SLOTS_MAX });
        }
        if !(1..=DURATION_S_MAX).contains(&self.duration_s) {
            return Err(Refusal::BadDuration { asked_s: self.duration_s, max_s: DURATION_S_MAX });
        }
        let mut blocks = self.addresses.clone();
        blocks.sort_unstable();
        let mut end = 0; // One past the last address so far; 2^32 is one past the last of all.
        let mut count = 0;
        for block in blocks {
            let first = u64::from(u32::from(block.first));
            Refusal::unless(block.count > 0, "an address block without addresses")?;
            Refusal::unless(first >= end, "two address blocks overlap")?;
            end = first + u64::from(block.count);
            Refusal::unless(end <= 1 << 32, "an address block past the end of the address space")?;
            count += u64::from(block.count);
        }
        Refusal::unless(count >= u64::from(self.members), "fewer addresses than members")
    }
}

/// One member that stands, as its site reports it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReadyMember {
    pub number: MemberNumber,
    pub node: NodeName,
    pub address: Ipv4Addr,
    pub keys: MemberKeys,
}

/// GRC to CRM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToSite {
    /// Answers `Register` and `Publish`: the site is part of the grid.
    Welcome,
    /// Answers `Register` and `Publish`: it is not; the connection ends.
    Refused(Refusal),
    /// Keep these nodes and addresses for this reservation until Commit or Release. The hold is
    /// never dropped by a timer of the site's own.
    Hold { reservation: ReservationId, epoch: Epoch, part: Part },
    /// The hold is a grant: start the pilots.
    Commit { reservation: ReservationId, epoch: Epoch },
    /// Give a hold back. An unknown one is already given back.
    Release { reservation: ReservationId, epoch: Epoch },
    /// Install the merged view, start the services, answer `Joined`.
    Join { reservation: ReservationId, epoch: Epoch, ring: KeyRing },
    /// Start a command. The same job never starts twice in one epoch.
    Exec { reservation: ReservationId, epoch: Epoch, job: JobId, target: Target, command: Command },
    /// Send a signal to every process of a job's session.
    Signal { reservation: ReservationId, epoch: Epoch, job: JobId, signal: u8 },
    /// Output of this stream is kept up to here: more may be sent.
    OutputSaved {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        stream: Stream,
        upto: u64,
    },
    /// Tear everything of this reservation down. Legal at any time, always answered by `Ended`.
    End { reservation: ReservationId, epoch: Epoch },
}

impl ToSite {
    /// What the CRM checks of every message before it acts on it.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Hold { part, .. } => part.check(),
            Self::Join { ring, .. } => ring.check(),
            Self::Exec { command, .. } => command.check(),
            Self::Signal { signal, .. } => job::check_signal(*signal),
            Self::Welcome
            | Self::Refused(_)
            | Self::Commit { .. }
            | Self::Release { .. }
            | Self::OutputSaved { .. }
            | Self::End { .. } => Ok(()),
        }
    }
}

/// CRM to GRC.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromSite {
    /// First contact, with the secret of a one-time ticket: pin the certificate of this
    /// connection for this site.
    Register {
        site: SiteName,
        secret: [u8; 32],
    },
    /// The first message of a registered site, and again on every change.
    Publish {
        site: SiteName,
        offer: Offer,
    },
    Held {
        reservation: ReservationId,
        epoch: Epoch,
    },
    HoldRefused {
        reservation: ReservationId,
        epoch: Epoch,
        refusal: Refusal,
    },
    Progress {
        reservation: ReservationId,
        epoch: Epoch,
        progress: Progress,
    },
    SiteReady {
        reservation: ReservationId,
        epoch: Epoch,
        #[serde(deserialize_with = "at_most::<{limits::MEMBERS_MAX}, _, _>")]
        members: Vec<ReadyMember>,
    },
    Joined {
        reservation: ReservationId,
        epoch: Epoch,
    },
    /// The part cannot go on. The site keeps what it has until `End`.
    Failed {
        reservation: ReservationId,
        epoch: Epoch,
        failure: Failure,
    },
    /// Bytes of one stream of one member's command, in order; `offset` counts from 0.
    Output {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        stream: Stream,
        offset: u64,
        bytes: Bytes,
    },
    /// A member's command ended; all of its output was sent before.
    Exited {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        status: ExitStatus,
    },
    /// A member's command could not be started.
    ExecFailed {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        failure: Failure,
    },
    /// Nothing of the reservation is left at this site, but for the nodes named, which are kept
    /// away from new pilots.
    Ended {
        reservation: ReservationId,
        epoch: Epoch,
        #[serde(deserialize_with = "at_most::<{limits::NODES_PER_SITE_MAX}, _, _>")]
        dirty: Vec<(NodeName, Text)>,
    },
}

impl FromSite {
    /// What the GRC checks of every message before it acts on it. Whether members, addresses and
    /// keys belong to the site's part is for the exchange to say, which knows the part.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Publish { offer, .. } => offer.check(),
            Self::Output { offset, bytes, .. } => job::check_output(*offset, bytes),
            Self::Register { .. }
            | Self::Held { .. }
            | Self::HoldRefused { .. }
            | Self::Progress { .. }
            | Self::SiteReady { .. }
            | Self::Joined { .. }
            | Self::Failed { .. }
            | Self::Exited { .. }
            | Self::ExecFailed { .. }
            | Self::Ended { .. } => Ok(()),
        }
    }
}
