//! Which addresses are taken, in the whole grid, and until when.
//!
//! An address is taken from the moment it is carved until its site confirms that nothing of the
//! reservation is left, or, where a site was lost, until a quarantine is over within which the
//! site's own sandboxes have ended by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::ids::{Epoch, ReservationId};
use protocol::limits::BLOCKS_PER_PART_MAX;
use protocol::names::SiteName;
use protocol::reservation::AddressBlock;

use crate::plan::addresses::{self, AddressSet};

/// One part that ended without its site's word for it.
pub(super) type Owed = (ReservationId, Epoch, SiteName);

#[derive(Debug, Default)]
pub(super) struct Book {
    taken: AddressSet,
    /// Given back before: carved again only when nothing fresher is left. A connection that the
    /// last holder left half closed, or a neighbour who remembers it, then meets nobody new.
    worn: AddressSet,
    /// Machines of the sites themselves, by site.
    reserved: BTreeMap<SiteName, AddressSet>,
    quarantine: BTreeSet<(Duration, Ipv4Addr, Ipv4Addr)>,
    /// Carves whose site was told to end and did not confirm in time.
    owed: BTreeMap<Owed, Vec<AddressBlock>>,
}

impl Book {
    /// After a restart the sandboxes of before are ending by themselves, and what they hold is
    /// not known. A site does not give an address out before its own sandbox is gone, but two
    /// sites may have the same address: those stay unused until `until`.
    pub fn with_unknown_past(supernets: &BTreeMap<SiteName, Vec<Ipv4Net>>, until: Duration) -> Self {
        let mut book = Self::default();
        let mut seen = AddressSet::default();
        for ranges in supernets.values() {
            let mut own = AddressSet::default();
            for range in ranges {
                own.insert(range.network(), range.broadcast());
            }
            for (first, last) in seen.intersection(&own).intervals() {
                book.taken.insert(first, last);
                book.quarantine.insert((until, first, last));
            }
            for (first, last) in own.intervals() {
                seen.insert(first, last);
            }
        }
        book
    }

    /// The addresses of machines that a site published, as far as they lie in its own ranges: a
    /// site cannot keep others from theirs.
    pub fn set_reserved(&mut self, site: &SiteName, reserved: &[Ipv4Addr], ranges: &[Ipv4Net]) {
        let mut set = AddressSet::default();
        for address in reserved.iter().filter(|a| ranges.iter().any(|range| range.contains(*a))) {
            set.insert(*address, *address);
        }
        self.reserved.insert(site.clone(), set);
    }

    /// Takes one block list for each of `wants`, or nothing.
    ///
    /// # Errors
    /// The index of the first that cannot be met now.
    pub fn take(&mut self, wants: &[(&AddressSet, u32)]) -> Result<Vec<Vec<AddressBlock>>, usize> {
        let mut carves: Vec<Vec<AddressBlock>> = Vec::with_capacity(wants.len());
        for (index, (usable, count)) in wants.iter().enumerate() {
            let mut carved = self.carve(usable, *count);
            if carved.is_none() {
                // Once round: begin anew.
                usable.intervals().for_each(|(first, last)| self.worn.remove(first, last));
                carved = self.carve(usable, *count);
            }
            match carved {
                Some(blocks) => {
                    blocks.iter().for_each(|block| self.taken.insert_run(block.first, block.count));
                    carves.push(blocks);
                }
                None => {
                    carves.iter().for_each(|carve| self.give_back(carve));
                    return Err(index);
                }
            }
        }
        Ok(carves)
    }

    fn carve(&self, usable: &AddressSet, count: u32) -> Option<Vec<AddressBlock>> {
        let avoided: Vec<&AddressSet> =
            [&self.taken, &self.worn].into_iter().chain(self.reserved.values()).collect();
        addresses::carve(usable, &avoided, count, BLOCKS_PER_PART_MAX)
    }

    /// How many members a site could ever have: its addresses without its own machines'.
    pub fn could_give(&self, site: &SiteName, usable: &AddressSet) -> u64 {
        let lost = self.reserved.get(site).map_or(0, |set| set.intersection(usable).count());
        usable.count() - lost
    }

    pub fn give_back(&mut self, blocks: &[AddressBlock]) {
        for block in blocks {
            self.taken.remove_run(block.first, block.count);
            self.worn.insert_run(block.first, block.count);
        }
    }

    /// They come back at `until`.
    pub fn quarantine(&mut self, blocks: &[AddressBlock], until: Duration) {
        for block in blocks.iter().filter(|block| block.count > 0) {
            let last = u32::from(block.first).saturating_add(block.count - 1);
            self.quarantine.insert((until, block.first, last.into()));
        }
    }

    /// They come back when the site says so, or is lost.
    pub fn owe(&mut self, owed: Owed, blocks: Vec<AddressBlock>) {
        self.owed.insert(owed, blocks);
    }

    /// A late confirmation; true if it was waited for.
    pub fn settle(&mut self, owed: &Owed) -> bool {
        let blocks = self.owed.remove(owed);
        if let Some(blocks) = &blocks {
            self.give_back(blocks);
        }
        blocks.is_some()
    }

    pub fn site_lost(&mut self, site: &SiteName, until: Duration) {
        let lost: Vec<Owed> = self.owed.keys().filter(|(_, _, at)| at == site).cloned().collect();
        for owed in lost {
            if let Some(blocks) = self.owed.remove(&owed) {
                self.quarantine(&blocks, until);
            }
        }
    }

    /// Gives back what was in quarantine until now.
    pub fn expire(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some(&(until, first, last)) = self.quarantine.first() {
            if until > now {
                break;
            }
            self.quarantine.pop_first();
            self.taken.remove(first, last);
            self.worn.insert(first, last);
            any = true;
        }
        any
    }

    /// When the next quarantine is over.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.quarantine.first().map(|(until, _, _)| *until)
    }

    /// Everything that no carve may touch now.
    pub fn taken(&self) -> &AddressSet {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::addresses::usable;

    fn site(text: &str) -> SiteName {
        text.parse().unwrap()
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_take_that_fails_half_way_takes_nothing() {
        let mut book = Book::default();
        let (large, small) = (usable(&[net("10.0.0.0/24")]), usable(&[net("10.1.0.0/30")]));
        assert_eq!(book.take(&[(&large, 4), (&small, 3)]), Err(1));
        assert!(book.taken().is_empty());
        let carves = book.take(&[(&large, 4), (&small, 2)]).unwrap();
        assert_eq!(book.taken().count(), 6);
        carves.iter().for_each(|carve| book.give_back(carve));
        assert!(book.taken().is_empty());
    }

    #[test]
    fn an_address_is_not_used_again_while_a_fresh_one_is_left() {
        let mut book = Book::default();
        let usable = usable(&[net("10.0.0.0/29")]);
        let mut order = Vec::new();
        for _ in 0..13 {
            let carves = book.take(&[(&usable, 1)]).unwrap();
            order.push(carves[0][0].first.octets()[3]);
            book.give_back(&carves[0]);
        }
        assert_eq!(order, [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1]);
        assert!(book.take(&[(&usable, 6)]).is_ok(), "what is worn is still there");
    }

    #[test]
    fn parts_of_one_reservation_at_sites_with_the_same_range_are_disjoint() {
        let mut book = Book::default();
        let same = usable(&[net("10.0.0.0/29")]);
        let carves = book.take(&[(&same, 3), (&same, 3)]).unwrap();
        assert_eq!(book.taken().count(), 6);
        assert_ne!(carves[0], carves[1]);
        assert_eq!(book.take(&[(&same, 1)]), Err(0));
    }

    #[test]
    fn a_site_reserves_only_in_its_own_ranges() {
        let mut book = Book::default();
        let ranges = [net("10.0.0.0/29")];
        book.set_reserved(&site("a"), &["10.0.0.1".parse().unwrap(), "10.9.0.1".parse().unwrap()], &ranges);
        let elsewhere = usable(&[net("10.9.0.0/29")]);
        assert_eq!(book.take(&[(&elsewhere, 1)]).unwrap()[0][0].first, Ipv4Addr::new(10, 9, 0, 1));
        let own = usable(&ranges);
        assert_eq!(book.could_give(&site("a"), &own), 5);
        assert_eq!(book.take(&[(&own, 1)]).unwrap()[0][0].first, Ipv4Addr::new(10, 0, 0, 2));
    }

    #[test]
    fn after_a_restart_only_what_two_sites_share_is_kept_back_and_only_for_a_time() {
        let supernets = BTreeMap::from([
            (site("a"), vec![net("10.0.0.0/24")]),
            (site("b"), vec![net("10.0.0.128/25"), net("10.1.0.0/24")]),
        ]);
        let mut book = Book::with_unknown_past(&supernets, Duration::from_secs(20));
        assert_eq!(book.taken().count(), 128);
        assert!(!book.expire(Duration::from_secs(19)));
        assert!(book.expire(Duration::from_secs(20)));
        assert!(book.taken().is_empty());
    }
}
