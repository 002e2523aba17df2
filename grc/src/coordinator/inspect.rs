//! What the owner holds, for checks from outside: tests and the simulator count it for themselves.

use protocol::client::Reply;
use protocol::ids::{Epoch, RequestId, ReservationId, Version};
use protocol::names::{SiteName, UserName};
use protocol::reservation::{AddressBlock, PairRate};

use super::Coordinator;
use crate::book::Book;
use crate::network::BandwidthProvider;
use crate::reservation::{PartStage, Phase, Share, Window};

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
pub struct Taken {
    pub reservation: ReservationId,
    pub site: SiteName,
    pub addresses: Vec<AddressBlock>,
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

    /// Everything that has addresses, now or later: parts that are granted, asked for, ending, or
    /// owed.
    pub fn taken(&self) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut add = |reservation, share: &Share| {
            let Share { site, carve, .. } = share.clone();
            taken.push(Taken { reservation, site, addresses: carve });
        };
        for reservation in self.reservations.values() {
            let live = reservation.parts.iter().filter(|part| part.stage < PartStage::Ended);
            live.for_each(|part| add(reservation.id, &part.share()));
            let asked = reservation.attempt.iter().flat_map(|attempt| &attempt.shares);
            asked.for_each(|share| add(reservation.id, share));
        }
        for (id, owed) in &self.owed {
            owed.shares().for_each(|share| add(*id, share));
        }
        taken
    }

    /// What is booked of nodes and addresses, over time.
    pub fn book(&self) -> &Book {
        self.room.book()
    }

    /// What is booked of links, over time.
    pub fn network(&self) -> &dyn BandwidthProvider {
        self.network.as_ref()
    }

    /// What a request was answered, as far as it is remembered.
    pub fn answered(&self, user: &UserName, request: RequestId) -> Option<&Reply> {
        self.users.get(user)?.answer_to(request)
    }

    /// Parts whose end no site has confirmed, though their reservation is over.
    pub fn owed(&self) -> usize {
        self.owed.values().map(|owed| owed.shares().count()).sum()
    }
}
