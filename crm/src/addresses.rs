//! One address for every pilot, out of the part's carve.
//!
//! A carve is checked when it is held; which pilot has which of its addresses is decided when the
//! pilots are submitted. From then on an address belongs to its pilot until the teardown is
//! *confirmed*. A pilot that cannot be confirmed gone keeps its address in quarantine, beyond the
//! end of its part: it is published as reserved and given to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use protocol::ids::ReservationId;
use protocol::reservation::AddressBlock;

use crate::pilot::{PilotId, Round};

/// Why a carve cannot serve a part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CarveError {
    /// A block is not wholly inside the site's ranges.
    Outside(AddressBlock),
    /// So many addresses of the carve can be given.
    TooFew(u32),
}

/// Who has which address.
#[derive(Clone, Debug)]
pub struct Addresses {
    ranges: Vec<Ipv4Net>,
    prefix_len: u8,
    reserved: BTreeSet<Ipv4Addr>,
    /// More than one of an address only after a restart, when a pilot of before may still have it.
    holders: BTreeSet<(Ipv4Addr, PilotId)>,
    quarantined: BTreeMap<Ipv4Addr, PilotId>,
}

impl Addresses {
    /// `reserved` are addresses of machines; those inside the ranges are never given.
    pub fn new(ranges: &[Ipv4Net], prefix_len: u8, reserved: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let ranges = Ipv4Net::aggregate(&ranges.to_vec());
        let reserved = reserved.into_iter().filter(|a| ranges.iter().any(|r| r.contains(a))).collect();
        Self { ranges, prefix_len, reserved, holders: BTreeSet::new(), quarantined: BTreeMap::new() }
    }

    /// Whether a carve could ever serve so many members, whoever has what now.
    ///
    /// # Errors
    /// It leaves the ranges, or has too few addresses that a member can have.
    pub fn check(&self, carve: &[AddressBlock], members: u32) -> Result<(), CarveError> {
        if let Some(block) = carve.iter().find(|block| !self.contains(block)) {
            return Err(CarveError::Outside(*block));
        }
        let of_members = |address: &Ipv4Addr| self.is_a_members(*address);
        self.first(carve, members, of_members).map(|_| ())
    }

    /// Distinct addresses that can be given now.
    ///
    /// # Errors
    /// As [`Self::check`], and too few because others still have theirs.
    pub fn choose(&self, carve: &[AddressBlock], members: u32) -> Result<Vec<Ipv4Addr>, CarveError> {
        self.check(carve, members)?;
        self.first(carve, members, |address| self.is_a_members(*address) && self.is_free(*address))
    }

    /// The first of the carve that suit. The blocks are inside the ranges, so this looks at no more
    /// addresses than the site has, and it stops as soon as there are enough.
    fn first(
        &self,
        carve: &[AddressBlock],
        members: u32,
        suits: impl Fn(&Ipv4Addr) -> bool,
    ) -> Result<Vec<Ipv4Addr>, CarveError> {
        let mut seen = BTreeSet::new();
        let all = carve.iter().flat_map(|block| block.addresses());
        let chosen = all.filter(|address| suits(address) && seen.insert(*address));
        let chosen: Vec<Ipv4Addr> = chosen.take(members as usize).collect();
        match chosen.len() as u32 {
            count if count == members => Ok(chosen),
            count => Err(CarveError::TooFew(count)),
        }
    }

    /// Gives a pilot an address that [`Self::choose`] found, or that it had before a restart.
    pub fn take(&mut self, address: Ipv4Addr, holder: PilotId) {
        self.holders.insert((address, holder));
    }

    /// Gives an address back: the teardown of its holder is confirmed. Repeatable; an address
    /// that somebody else holds meanwhile stays with him.
    pub fn release(&mut self, address: Ipv4Addr, holder: PilotId) {
        self.holders.remove(&(address, holder));
        if self.quarantined.get(&address) == Some(&holder) {
            self.quarantined.remove(&address);
        }
    }

    /// Marks an address whose holder cannot be confirmed gone. Ended by [`Self::release`].
    pub fn quarantine(&mut self, address: Ipv4Addr, holder: PilotId) {
        self.quarantined.insert(address, holder);
    }

    /// What must not be carved for anybody: machines, and holders that did not go.
    pub fn never_carve(&self) -> Vec<Ipv4Addr> {
        let mut all: BTreeSet<Ipv4Addr> = self.reserved.clone();
        all.extend(self.quarantined.keys());
        all.into_iter().collect()
    }

    /// Addresses that pilots hold.
    pub fn held(&self) -> usize {
        self.holders.len()
    }

    fn contains(&self, block: &AddressBlock) -> bool {
        let first = u32::from(block.first);
        let Some(last) = block.count.checked_sub(1).and_then(|more| first.checked_add(more)) else {
            return false;
        };
        // The ranges are aggregated, so a block inside their union lies in a run of touching ones.
        let mut next = first;
        for range in &self.ranges {
            let (low, high) = (u32::from(range.network()), u32::from(range.broadcast()));
            if (low..=high).contains(&next) {
                if last <= high {
                    return true;
                }
                next = high + 1;
            }
        }
        false
    }

    /// Whether a member can have this address at all.
    fn is_a_members(&self, address: Ipv4Addr) -> bool {
        let host_part = u32::MAX.checked_shr(u32::from(self.prefix_len)).unwrap_or(0);
        let host = u32::from(address) & host_part;
        let is_host = self.prefix_len >= 31 || (host != 0 && host != host_part);
        is_host && !self.reserved.contains(&address)
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        let first = PilotId { reservation: ReservationId(0), round: Round(0), member: 0 };
        let next = self.holders.range((address, first)..).next();
        next.is_none_or(|(held, _)| *held != address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::ids::ReservationId;

    use super::*;

    fn pilots(reservation: u64, count: u32) -> Vec<PilotId> {
        (0..count)
            .map(|member| PilotId { reservation: ReservationId(reservation), round: Round(1), member })
            .collect()
    }

    fn block(first: [u8; 4], count: u32) -> AddressBlock {
        AddressBlock { first: first.into(), count }
    }

    /// Chooses and takes, as the site does at once.
    fn take(
        site: &mut Addresses,
        carve: &[AddressBlock],
        pilots: &[PilotId],
    ) -> Result<Vec<Ipv4Addr>, CarveError> {
        let chosen = site.choose(carve, pilots.len() as u32)?;
        chosen.iter().zip(pilots).for_each(|(address, pilot)| site.take(*address, *pilot));
        Ok(chosen)
    }

    fn site() -> Addresses {
        let ranges = ["10.71.128.0/25".parse().unwrap(), "10.71.128.128/26".parse().unwrap()];
        Addresses::new(&ranges, 24, [[10, 71, 128, 3].into(), [10, 9, 9, 9].into()])
    }

    #[test]
    fn a_carve_outside_the_ranges_is_refused_whole() {
        for bad in [
            block([10, 71, 127, 255], 2),
            block([10, 71, 128, 190], 3),
            block([10, 71, 128, 1], 0),
            block([255, 255, 255, 255], 2),
            block([0, 0, 0, 0], u32::MAX),
        ] {
            let mut site = site();
            let carve = [block([10, 71, 128, 1], 1), bad];
            assert_eq!(take(&mut site, &carve, &pilots(1, 1)), Err(CarveError::Outside(bad)));
            assert_eq!(site.held(), 0);
        }
        // Touching ranges are one range.
        assert!(take(&mut site(), &[block([10, 71, 128, 120], 20)], &pilots(1, 20)).is_ok());
    }

    #[test]
    fn network_address_and_machines_are_never_given() {
        let mut site = site();
        let given = take(&mut site, &[block([10, 71, 128, 0], 6)], &pilots(1, 4)).unwrap();
        assert_eq!(given.iter().map(|a| a.octets()[3]).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(take(&mut site, &[block([10, 71, 128, 0], 6)], &pilots(2, 1)), Err(CarveError::TooFew(0)));
    }

    #[test]
    fn an_address_in_quarantine_comes_back_only_with_its_holder() {
        let mut site = site();
        let first = pilots(1, 1)[0];
        let address = take(&mut site, &[block([10, 71, 128, 9], 1)], &[first]).unwrap()[0];
        assert_eq!(site.check(&[block([10, 71, 128, 9], 1)], 1), Ok(()), "later it can be had again");
        site.quarantine(address, first);
        assert!(site.never_carve().contains(&address));
        site.release(address, pilots(2, 1)[0]);
        assert!(take(&mut site, &[block([10, 71, 128, 9], 1)], &pilots(2, 1)).is_err());
        site.release(address, first);
        assert!(!site.never_carve().contains(&address));
        assert!(take(&mut site, &[block([10, 71, 128, 9], 1)], &pilots(2, 1)).is_ok());
    }

    proptest! {
        /// Against the plainest oracle there is: a set of what everybody has.
        #[test]
        fn no_two_pilots_ever_have_the_same_address(
            moves in prop::collection::vec((0u32..200, 1u32..20, 1u32..8, any::<bool>()), 1..60)
        ) {
            let mut site = site();
            let mut live: Vec<(Vec<PilotId>, Vec<Ipv4Addr>)> = Vec::new();
            for (n, (start, width, count, end)) in moves.into_iter().enumerate() {
                if end && !live.is_empty() {
                    let (pilots, given) = live.remove(start as usize % live.len());
                    for (pilot, address) in pilots.iter().zip(&given) {
                        site.release(*address, *pilot);
                        site.release(*address, *pilot);
                    }
                } else {
                    let first = u32::from(Ipv4Addr::new(10, 71, 128, 0)) + start;
                    let carve = [AddressBlock { first: first.into(), count: width }];
                    let pilots = pilots(n as u64, count);
                    if let Ok(given) = take(&mut site, &carve, &pilots) {
                        prop_assert!(given.iter().all(|a| carve[0].addresses().any(|b| b == *a)));
                        live.push((pilots, given));
                    }
                }
                let all: Vec<_> = live.iter().flat_map(|(_, given)| given).collect();
                let distinct: BTreeSet<_> = all.iter().collect();
                prop_assert_eq!(all.len(), distinct.len());
                prop_assert_eq!(all.len(), site.held());
            }
        }
    }
}
