//! The conversation between the GRC and one site's CRM. The CRM dials (a site need only be able
//! to call out). Both directions are one-way notices; what must be answered is answered by a
//! notice naming the same reservation and version or epoch.
//!
//! ```text
//! GRC                               CRM
//!   <------------- Register or Publish      once after connecting; Publish again on change
//!   <------------- Asks*, Committed*        after Publish: what it holds, what it has committed
//!   Hold (version) --------------->          to all sites at once
//!   <------------- Held | HoldRefused        durable before it is said
//!   Commit (version) ------------->          all at once, after the decision is durable
//!   <------------- Committed                 durable before it is said
//!                                            the window comes near: pilots of epoch 1
//!   Start (epoch) ---------------->          only to begin anew: the next incarnation
//!   <------------- Progress*, Waits*         pilots in the queue and why, in, built
//!   <------------- SiteReady                 first barrier: every sandbox stands
//!   <------------- Withdrawn                 they waited too long for other sites: a later round
//!   Hasten (epoch) --------------->          ... which begins now, for all others are ready
//!   Join (key ring) -------------->
//!   <------------- Joined                    second barrier: every sshd answers
//!   Exec, Signal, OutputSaved, ExitSaved -->
//!   <------------- Output*, Exited, Used*
//!   <------------- Beat                      whenever nothing else was said for a while
//!   End -------------------------->          legal at any time, always answered
//!   <------------- Ended
//! ```
//! **Anything may be lost, repeated, late or out of order**, for connections break and processes
//! die: every message may be repeated, and the answer to a repeated one is how it stands now. Who
//! waits for an answer asks again after a while, and on every new connection:
//!
//! - A version that is not the one being asked or in force is stale; a stale Hold, Commit or
//!   Release changes nothing. A newer Hold replaces an older one that was not committed.
//! - A site that holds and hears nothing asks (`Asks`); the GRC answers Commit, or Release, which
//!   it also says of what it does not know (presumed abort), or nothing while it is undecided.
//! - A site that is asked to commit, start or join what it does not have says `Lost`.
//! - The GRC answers `End` to whatever a site says of a reservation that is over or not known.
//! - A repeated Start (of this epoch) is answered with SiteReady, Failed or Progress; a repeated
//!   Join with Joined; a repeated Exec with Exited or ExecFailed if that is how it stands.
//!
//! The number of messages does not depend on the number of nodes, `Output` aside. The wire form
//! of an enum is the position of its variant: append only; `golden/site_v3.txt` pins it.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::ids::{Epoch, JobId, MemberNumber, ReservationId, Version};
use crate::job::{self, Command, ExitStatus, Hits, Stream, Target};
use crate::keys::{KeyRing, MemberKeys};
use crate::limits::{
    self, DURATION_S_MAX, HORIZON_S_MAX, LAYERS_MAX, MEMBERS_MAX, NODES_PER_SITE_MAX, RATE_KBIT_MAX,
    SLOTS_MAX,
};
use crate::names::{EnvironmentName, NodeName, SiteName, Text, UserName};
use crate::refusal::{Failure, Refusal};
use crate::reservation::{AddressBlock, Limits, Progress};

/// A site says something at least so often.
pub const BEAT_TIME: Duration = Duration::from_secs(2);
/// One of which not a byte comes for so long is away.
pub const SILENCE_TIME: Duration = Duration::from_secs(10);
const _: () = assert!(3 * BEAT_TIME.as_millis() < SILENCE_TIME.as_millis());

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
    /// How many nodes take more than `n` sandboxes of different reservations at once, for n = 0,
    /// 1, ...: the first is `nodes_usable`. Layer `n` is planned by itself: a part stands in one
    /// layer, so that its members always find distinct nodes.
    #[serde(deserialize_with = "at_most::<{limits::LAYERS_MAX}, _, _>")]
    pub layers: Vec<u32>,
    /// How long before a window its pilots may begin, seconds, so that keys and addresses are
    /// there when it opens.
    pub lead_s: u32,
    /// Nodes that take no pilot, and why (dirty, drained, down).
    #[serde(deserialize_with = "at_most::<{limits::NODES_PER_SITE_MAX}, _, _>")]
    pub unusable: Vec<(NodeName, Text)>,
    #[serde(deserialize_with = "at_most::<{limits::ENVIRONMENTS_PER_SITE_MAX}, _, _>")]
    pub environments: Vec<EnvironmentName>,
    /// Which queue of the batch system it is, in its words; empty where there is none.
    pub queue: Text,
    /// How long pilots may wait in that queue, seconds; then the site gives them up.
    pub pilots_s: u32,
    /// Most nodes that one part may have; `None` is as many as there are.
    pub nodes_max: Option<u32>,
    /// Longest that a part may last, seconds, the time before its window included.
    pub lasts_s_max: Option<u32>,
    /// Why nothing is begun now, and nothing new is held.
    pub paused: Option<Text>,
}

impl Offer {
    /// What the GRC checks before it keeps an offer. Whether the ranges are allowed is for it to say.
    pub fn check(&self) -> Result<(), Refusal> {
        Refusal::unless_at_most("nodes", self.nodes_usable as usize, NODES_PER_SITE_MAX)?;
        Refusal::unless(self.nodes_free <= self.nodes_usable, "more nodes are free than usable")?;
        Refusal::unless_at_most("layers", self.layers.len(), LAYERS_MAX)?;
        Refusal::unless(self.layers.is_sorted_by(|a, b| a >= b), "a layer is larger than the one below it")?;
        let first = self.layers.first().copied().unwrap_or(0);
        Refusal::unless(first == self.nodes_usable, "the first layer is not all usable nodes")
    }
}

/// A window as it stands for the sender now. Clocks of sites are never compared: the receiver adds
/// this to its own, and takes the latest word for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Remaining {
    /// Until it begins, milliseconds; 0 when it has begun.
    pub starts_in_ms: u64,
    /// Until it ends, milliseconds; 0 when it has ended.
    pub ends_in_ms: u64,
}

impl Remaining {
    fn check(&self) -> Result<(), Refusal> {
        let Self { starts_in_ms, ends_in_ms } = *self;
        let bad = |why: &str| Err(Refusal::BadWindow { why: why.into() });
        if starts_in_ms > HORIZON_S_MAX * 1000 {
            return bad("it begins too far ahead");
        }
        match ends_in_ms.checked_sub(starts_in_ms) {
            None => bad("its end lies before its start"),
            Some(length) if length > u64::from(DURATION_S_MAX) * 1000 => bad("it is too long"),
            Some(_) => Ok(()),
        }
    }
}

/// Another part of the reservation, to which this part may send at a granted rate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub site: SiteName,
    /// For all members of this part together.
    pub rate_kbit: u32,
    /// Where its members will be.
    #[serde(deserialize_with = "at_most::<{limits::BLOCKS_PER_PART_MAX}, _, _>")]
    pub addresses: Vec<AddressBlock>,
}

/// One site's share of a reservation.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub user: UserName,
    pub members: u32,
    pub slots: u32,
    pub limits: Limits,
    pub window: Remaining,
    /// In which layer of the site its members stand.
    pub layer: u32,
    pub environment: EnvironmentName,
    /// At least as many addresses as members, all inside the site's ranges.
    #[serde(deserialize_with = "at_most::<{limits::BLOCKS_PER_PART_MAX}, _, _>")]
    pub addresses: Vec<AddressBlock>,
    /// The other parts to which something is granted; traffic to anybody else is not shaped.
    #[serde(deserialize_with = "at_most::<{limits::PEERS_MAX}, _, _>")]
    pub peers: Vec<Peer>,
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
        self.window.check()?;
        for peer in &self.peers {
            Refusal::unless((1..=RATE_KBIT_MAX).contains(&peer.rate_kbit), "a peer without a rate")?;
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
    /// never dropped by a timer of the site's own: the window's end bounds it. For a reservation
    /// that has a grant it is a change, and the grant stays in force beside it.
    Hold { reservation: ReservationId, version: Version, part: Part },
    /// The hold of this version is the grant now.
    Commit { reservation: ReservationId, version: Version, window: Remaining },
    /// Give the hold of this version back. A grant is not touched by it.
    Release { reservation: ReservationId, version: Version },
    /// This incarnation shall be on during the window; end any older one first.
    Start { reservation: ReservationId, epoch: Epoch, window: Remaining },
    /// Install the merged view, start the services, answer `Joined`.
    Join { reservation: ReservationId, epoch: Epoch, ring: KeyRing },
    /// Start a command. The same job never starts twice in one epoch.
    Exec { reservation: ReservationId, epoch: Epoch, job: JobId, target: Target, command: Command },
    /// Send a signal to every process of a job, also to those that left its session: 1 to
    /// [`SIGNAL_MAX`](crate::limits::SIGNAL_MAX).
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
    /// The end of this member's command is kept: it need not be told again.
    ExitSaved { reservation: ReservationId, epoch: Epoch, job: JobId, member: MemberNumber },
    /// Tear everything of this reservation down, whatever its version and epoch. Legal at any
    /// time, always answered by `Ended`.
    End { reservation: ReservationId },
    /// All other sites are ready: a site that has released its pilots begins them again now.
    Hasten { reservation: ReservationId, epoch: Epoch },
}

impl ToSite {
    /// What the CRM checks of every message before it acts on it.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Hold { part, .. } => part.check(),
            Self::Commit { window, .. } | Self::Start { window, .. } => window.check(),
            Self::Join { ring, .. } => ring.check(),
            Self::Exec { command, .. } => command.check(),
            Self::Signal { signal, .. } => job::check_signal(*signal),
            Self::Welcome
            | Self::Refused(_)
            | Self::Release { .. }
            | Self::OutputSaved { .. }
            | Self::ExitSaved { .. }
            | Self::End { .. }
            | Self::Hasten { .. } => Ok(()),
        }
    }
}

/// What the pilots of a part wait for before the first barrier. Spans count from now.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// Pilots that have not come.
    pub pilots: u32,
    /// Why, as the batch system says it; empty when it says nothing.
    pub why: Text,
    /// When they may start, as the batch system expects it.
    pub expected_in_s: Option<u32>,
    /// When they are given up.
    pub until_in_s: Option<u32>,
    /// How long those that came are still held for the others.
    pub held_for_s: Option<u32>,
}

/// What one part sent to another since it last said so.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    pub to: SiteName,
    /// Of all members together, as it is granted.
    pub granted_kbit: u32,
    pub sent_bytes: u64,
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
        version: Version,
    },
    HoldRefused {
        reservation: ReservationId,
        version: Version,
        refusal: Refusal,
    },
    /// This version is held and nothing was heard of it for a while: what of it?
    Asks {
        reservation: ReservationId,
        version: Version,
    },
    /// This version is the grant, and that is durable.
    Committed {
        reservation: ReservationId,
        version: Version,
    },
    /// The site has nothing of this reservation, or not this version of it.
    Lost {
        reservation: ReservationId,
        version: Version,
    },
    Progress {
        reservation: ReservationId,
        epoch: Epoch,
        /// Counts what the site submitted for the reservation: what it says of an older one is over.
        round: u32,
        progress: Progress,
    },
    SiteReady {
        reservation: ReservationId,
        epoch: Epoch,
        round: u32,
        #[serde(deserialize_with = "at_most::<{limits::MEMBERS_MAX}, _, _>")]
        members: Vec<ReadyMember>,
    },
    Joined {
        reservation: ReservationId,
        epoch: Epoch,
    },
    /// This incarnation cannot go on. The site keeps the grant: `Start` of the next epoch begins
    /// anew, `End` gives up.
    Failed {
        reservation: ReservationId,
        epoch: Epoch,
        failure: Failure,
    },
    /// Bytes of one stream of one member's command, in order; `offset` counts from 0. Without bytes it
    /// says where the stream ended: in front of every `Exited` come those of both streams, so that an
    /// end is not taken for the whole while something before it was lost with a connection.
    Output {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        stream: Stream,
        offset: u64,
        bytes: Bytes,
    },
    /// A member's command ended; all of its output was sent before. Told again until `ExitSaved`.
    Exited {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
        member: MemberNumber,
        status: ExitStatus,
        hits: Hits,
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
        #[serde(deserialize_with = "at_most::<{limits::NODES_PER_SITE_MAX}, _, _>")]
        dirty: Vec<(NodeName, Text)>,
    },
    /// What the members sent to other parts in the last `over_ms` milliseconds.
    Used {
        reservation: ReservationId,
        epoch: Epoch,
        over_ms: u32,
        #[serde(deserialize_with = "at_most::<{limits::PEERS_MAX}, _, _>")]
        flows: Vec<Flow>,
    },
    /// What pilots wait for; said when it changed. `None`: for nothing any more.
    Waits {
        reservation: ReservationId,
        epoch: Epoch,
        waits: Option<Waits>,
    },
    /// The pilots of this round waited too long for others and are released: the site was ready, or
    /// partly, and is not any more. It begins the next round of this epoch by itself.
    Withdrawn {
        reservation: ReservationId,
        epoch: Epoch,
        round: u32,
        why: Text,
        again_in_s: u32,
    },
    /// The site lives and has nothing to say; after [`BEAT_TIME`] without any other word.
    Beat,
    /// Answers a `Signal`: no command of this job runs at the site, none will be started, and the GRC
    /// has saved how those ended that ran.
    NothingRuns {
        reservation: ReservationId,
        epoch: Epoch,
        job: JobId,
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
            | Self::Asks { .. }
            | Self::Committed { .. }
            | Self::Lost { .. }
            | Self::Used { .. }
            | Self::Progress { .. }
            | Self::SiteReady { .. }
            | Self::Joined { .. }
            | Self::Failed { .. }
            | Self::Exited { .. }
            | Self::ExecFailed { .. }
            | Self::Waits { .. }
            | Self::Withdrawn { .. }
            | Self::Beat
            | Self::NothingRuns { .. }
            | Self::Ended { .. } => Ok(()),
        }
    }
}
