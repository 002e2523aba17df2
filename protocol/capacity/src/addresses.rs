//! Addresses as a set of intervals. Nothing here enumerates one: a /8 costs as much as a /29.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A set of addresses, kept as disjoint intervals that do not touch each other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressSet {
    /// First address of an interval to its last, both inside.
    intervals: BTreeMap<u32, u32>,
}

impl AddressSet {
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// How many addresses are in it.
    pub fn count(&self) -> u64 {
        self.intervals.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.covering(u32::from(address)).is_some()
    }

    /// The intervals, lowest first; both ends are inside.
    pub fn intervals(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> {
        self.intervals.iter().map(|(&first, &last)| (first.into(), last.into()))
    }

    /// The last address of the interval that covers `address`.
    pub fn covering(&self, address: u32) -> Option<u32> {
        self.intervals.range(..=address).next_back().map(|(_, &last)| last).filter(|&last| last >= address)
    }

    /// Adds all addresses from `first` to `last`; some may be in the set already.
    pub fn insert(&mut self, first: Ipv4Addr, last: Ipv4Addr) {
        let (mut first, mut last) = (u32::from(first), u32::from(last));
        // Whatever overlaps or touches becomes one interval with the new one.
        let below = self.intervals.range(..=first).next_back().map(|(&f, &l)| (f, l));
        if let Some((f, l)) = below
            && l >= first.saturating_sub(1)
        {
            first = f;
            last = last.max(l);
        }
        while let Some((&f, &l)) = self.intervals.range(first..=last.saturating_add(1)).next() {
            self.intervals.remove(&f);
            last = last.max(l);
        }
        self.intervals.insert(first, last);
    }

    /// Takes all addresses from `first` to `last` out; some may not be in the set.
    pub fn remove(&mut self, first: Ipv4Addr, last: Ipv4Addr) {
        let (first, last) = (u32::from(first), u32::from(last));
        if let Some((&f, &l)) = self.intervals.range(..first).next_back()
            && l >= first
        {
            self.intervals.insert(f, first - 1);
            if l > last {
                self.intervals.insert(last + 1, l);
            }
        }
        while let Some((&f, &l)) = self.intervals.range(first..=last).next() {
            self.intervals.remove(&f);
            if l > last {
                self.intervals.insert(last + 1, l);
            }
        }
    }

    /// `count` addresses from `first` on, as far as there are any.
    pub fn insert_run(&mut self, first: Ipv4Addr, count: u32) {
        if let Some(last) = last_of(first, count) {
            self.insert(first, last);
        }
    }

    pub fn remove_run(&mut self, first: Ipv4Addr, count: u32) {
        if let Some(last) = last_of(first, count) {
            self.remove(first, last);
        }
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (&first, &last) in &self.intervals {
            let mut at = first;
            while let Some((from, to)) = other.next_from(at).filter(|&(from, _)| from <= last) {
                let to = to.min(last);
                both.insert(from.into(), to.into());
                let Some(next) = to.checked_add(1) else { break };
                at = next;
            }
        }
        both
    }

    /// The first stretch of this set that ends at `at` or later, cut to begin no earlier.
    pub fn next_from(&self, at: u32) -> Option<(u32, u32)> {
        if let Some(last) = self.covering(at) {
            return Some((at, last));
        }
        self.intervals.range(at..).next().map(|(&first, &last)| (first, last))
    }
}

/// The last of `count` addresses from `first` on; `None` for no address.
fn last_of(first: Ipv4Addr, count: u32) -> Option<Ipv4Addr> {
    Some(u32::from(first).saturating_add(count.checked_sub(1)?).into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(last: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + last)
    }

    fn set_of(addresses: &BTreeSet<u32>) -> AddressSet {
        let mut set = AddressSet::default();
        for &one in addresses {
            set.insert(address(one), address(one));
        }
        set
    }

    proptest! {
        /// Against a plain set of numbers, over any history of inserts and removals.
        #[test]
        fn intervals_are_the_same_as_a_set(
            steps in prop::collection::vec((any::<bool>(), 0u32..64, 0u32..16), 0..40)
        ) {
            let mut set = AddressSet::default();
            let mut oracle = BTreeSet::new();
            for (add, first, length) in steps {
                let last = first + length;
                if add {
                    set.insert(address(first), address(last));
                    oracle.extend(first..=last);
                } else {
                    set.remove(address(first), address(last));
                    oracle.retain(|one| !(first..=last).contains(one));
                }
                prop_assert_eq!(set.count(), oracle.len() as u64);
                for one in 0..90 {
                    prop_assert_eq!(set.contains(address(one)), oracle.contains(&one));
                }
                let ends: Vec<_> = set.intervals().collect();
                for pair in ends.windows(2) {
                    prop_assert!(u32::from(pair[0].1) + 1 < u32::from(pair[1].0), "not merged");
                }
            }
        }

        #[test]
        fn intersection_is_the_same_as_of_sets(
            one in prop::collection::btree_set(0u32..60, 0..40),
            other in prop::collection::btree_set(0u32..60, 0..40),
        ) {
            let both: BTreeSet<u32> = one.intersection(&other).copied().collect();
            prop_assert_eq!(set_of(&one).intersection(&set_of(&other)), set_of(&both));
        }
    }

    #[test]
    fn a_run_ends_with_the_address_space() {
        let mut set = AddressSet::default();
        set.insert_run(Ipv4Addr::new(255, 255, 255, 254), 9);
        assert_eq!(set.count(), 2);
        set.insert_run(Ipv4Addr::new(10, 0, 0, 1), 0);
        assert_eq!(set.count(), 2);
        set.remove_run(Ipv4Addr::new(255, 255, 255, 255), 1);
        assert_eq!(set.count(), 1);
    }
}
