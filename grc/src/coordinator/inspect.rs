//! What the owner holds, for checks from outside: tests and the simulator count it for themselves.

use protocol::client::Reply;
use protocol::ids::{Epoch, RequestId, ReservationId, Version};
use protocol::names::{SiteName, UserName};
use protocol::reservation::{AddressBlock, PairRate};

use super::Coordinator;
use crate::plan::addresses::AddressSet;
use crate::reservation::{Phase, Share, Window};

/// A reservation that its user was granted and that has not begun to end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiveGrant {
    pub id: ReservationId,
    pub user: UserName,
    pub version: Version,
    pub epoch: Epoch,
    pub window: Window,
    pub shares: Vec<Share>,
    pub rates: Vec<PairRate>,
    pub ready: bool,
}

/// What the book has taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken<'a> {
    pub reservation: ReservationId,
    pub site: &'a SiteName,
    pub addresses: &'a [AddressBlock],
}

impl Coordinator {
    pub fn live_grants(&self) -> Vec<LiveGrant> {
        let live = self.reservations.values().filter(|reservation| reservation.phase.is_granted());
        live.filter_map(|reservation| {
            let grant = reservation.grant.clone()?;
            Some(LiveGrant {
                id: reservation.id,
                user: reservation.user.clone(),
                version: grant.version,
                epoch: reservation.epoch,
                window: grant.window,
                shares: reservation.shares(),
                rates: grant.rates,
                ready: reservation.phase == Phase::Ready,
            })
        })
        .collect()
    }

    /// Attempts that are not decided: what sites are being asked to hold.
    pub fn attempts(&self) -> Vec<(ReservationId, Version, Vec<Share>)> {
        let attempt = |r: &crate::reservation::Reservation| {
            r.attempt.as_ref().map(|attempt| (r.id, attempt.version, attempt.shares.clone()))
        };
        self.reservations.values().filter_map(attempt).collect()
    }

    /// Everything for which addresses are taken, now or later, by whom and where.
    pub fn taken(&self) -> Vec<Taken<'_>> {
        let taken = |(reservation, site, addresses)| Taken { reservation, site, addresses };
        self.room.addresses().map(taken).collect()
    }

    /// Every address that is taken, now or later.
    pub fn taken_addresses(&self) -> AddressSet {
        let mut set = AddressSet::default();
        self.room.addresses().flat_map(|(_, _, blocks)| blocks).for_each(|block| set.insert_block(*block));
        set
    }

    /// Members taken in one layer of a site at a second of the owner's time line.
    pub fn nodes_taken(&self, site: &SiteName, layer: u32, at_s: u64) -> u32 {
        self.room.nodes_taken(site, layer, at_s)
    }

    /// What a request was answered, as far as it is remembered.
    pub fn answered(&self, user: &UserName, request: RequestId) -> Option<&Reply> {
        self.users.get(user)?.answer_to(request)
    }

    /// Parts whose end no site has confirmed, though their reservation is over.
    pub fn owed(&self) -> usize {
        self.owed.values().map(super::owed::Owed::len).sum()
    }
}
