//! Addresses as intervals: what a site may use, what is taken, and the carve.
//!
//! Ranges of different sites may overlap, so what is taken is kept once for the whole grid and
//! every carve avoids all of it. Nothing here enumerates a range: a /8 costs as much as a /29.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use protocol::reservation::AddressBlock;

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
    fn covering(&self, address: u32) -> Option<u32> {
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

    pub fn insert_block(&mut self, block: AddressBlock) {
        if let Some(last) = last_of(block) {
            self.insert(block.first, last);
        }
    }

    pub fn remove_block(&mut self, block: AddressBlock) {
        if let Some(last) = last_of(block) {
            self.remove(block.first, last);
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
    fn next_from(&self, at: u32) -> Option<(u32, u32)> {
        if let Some(last) = self.covering(at) {
            return Some((at, last));
        }
        self.intervals.range(at..).next().map(|(&first, &last)| (first, last))
    }
}

/// The last address of a block; `None` for an empty one or one beyond the address space.
fn last_of(block: AddressBlock) -> Option<Ipv4Addr> {
    u32::from(block.first).checked_add(block.count.checked_sub(1)?).map(Ipv4Addr::from)
}

/// What a site that publishes `ranges` can give to sandboxes: all of their addresses but the
/// network and the broadcast address of each, which no interface may have.
pub fn usable(ranges: &[Ipv4Net]) -> AddressSet {
    let mut set = AddressSet::default();
    for range in ranges {
        set.insert(range.network(), range.broadcast());
    }
    // Afterwards, so that an edge of one range stays out though another range covers it.
    for range in ranges.iter().filter(|range| range.prefix_len() < 31) {
        set.remove(range.network(), range.network());
        set.remove(range.broadcast(), range.broadcast());
    }
    set
}

/// The first of `ranges` that does not lie wholly inside `supernets`, be it across several.
pub fn first_outside(ranges: &[Ipv4Net], supernets: &[Ipv4Net]) -> Option<Ipv4Net> {
    let mut allowed = AddressSet::default();
    for supernet in supernets {
        allowed.insert(supernet.network(), supernet.broadcast());
    }
    let inside = |range: &Ipv4Net| {
        allowed.covering(range.network().into()).is_some_and(|last| last >= range.broadcast().into())
    };
    ranges.iter().find(|range| !inside(range)).copied()
}

/// Finds `count` addresses of `usable` that are in none of `taken`, in at most `blocks_max`
/// blocks: one block if there is a gap for it, else the largest gaps first. The answer is in
/// ascending order and always the same for the same sets. `None` if there are not enough.
pub fn carve(
    usable: &AddressSet,
    taken: &[&AddressSet],
    count: u32,
    blocks_max: usize,
) -> Option<Vec<AddressBlock>> {
    let mut gaps = Vec::new();
    for (&first, &last) in &usable.intervals {
        let mut at = first;
        loop {
            // Past everything that is taken here, however the sets interlock.
            let covered = taken.iter().filter_map(|set| set.covering(at)).max();
            if let Some(end) = covered {
                match end.checked_add(1) {
                    Some(next) if next <= last => at = next,
                    _ => break,
                }
                continue;
            }
            let end = taken
                .iter()
                .filter_map(|set| set.intervals.range(at..).next())
                .map(|(&first, _)| first - 1)
                .min()
                .unwrap_or(last)
                .min(last);
            // As a difference, for the whole address space does not fit into 32 bits.
            if end - at >= count.saturating_sub(1) {
                return Some(vec![AddressBlock { first: at.into(), count }]);
            }
            gaps.push(AddressBlock { first: at.into(), count: end - at + 1 });
            match end.checked_add(1) {
                Some(next) if next <= last => at = next,
                _ => break,
            }
        }
    }
    gaps.sort_by_key(|gap| (std::cmp::Reverse(gap.count), gap.first));
    let mut wanted = count;
    let mut blocks = Vec::new();
    for gap in gaps.into_iter().take(blocks_max) {
        let count = gap.count.min(wanted);
        blocks.push(AddressBlock { first: gap.first, count });
        wanted -= count;
        if wanted == 0 {
            blocks.sort();
            return Some(blocks);
        }
    }
    None
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

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
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

        /// A carve holds what was asked, inside what is usable and free, and fails only if there
        /// is not enough.
        #[test]
        fn a_carve_is_disjoint_from_all_that_is_taken_and_found_if_there_is_one(
            usable in prop::collection::btree_set(0u32..80, 0..80),
            taken in prop::collection::btree_set(0u32..80, 0..40),
            reserved in prop::collection::btree_set(0u32..80, 0..20),
            count in 1u32..40,
        ) {
            let free: BTreeSet<u32> =
                usable.iter().filter(|one| !taken.contains(one) && !reserved.contains(one)).copied().collect();
            let carved = carve(&set_of(&usable), &[&set_of(&taken), &set_of(&reserved)], count, 256);
            match carved {
                None => prop_assert!(free.len() < count as usize),
                Some(blocks) => {
                    let all: Vec<u32> = blocks
                        .iter()
                        .flat_map(|block| block.addresses())
                        .map(|one| u32::from(one) - 0x0a00_0000)
                        .collect();
                    prop_assert_eq!(all.len(), count as usize);
                    prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), count as usize);
                    prop_assert!(all.iter().all(|one| free.contains(one)));
                }
            }
        }
    }

    #[test]
    fn the_ends_of_a_range_are_no_addresses_of_members() {
        let set = usable(&[net("10.1.0.0/29"), net("10.1.0.8/29"), net("10.2.0.0/32"), net("10.3.0.0/31")]);
        assert_eq!(set.count(), 6 + 6 + 1 + 2);
        for edge in ["10.1.0.0", "10.1.0.7", "10.1.0.8", "10.1.0.15"] {
            assert!(!set.contains(edge.parse().unwrap()), "{edge}");
        }
    }

    #[test]
    fn a_carve_of_a_whole_slash_8_and_of_everything_is_no_more_work_than_a_small_one() {
        let set = usable(&[net("10.0.0.0/8")]);
        let blocks = carve(&set, &[], 4096, 256).unwrap();
        assert_eq!(blocks, [AddressBlock { first: Ipv4Addr::new(10, 0, 0, 1), count: 4096 }]);
        let everything = usable(&[net("0.0.0.0/0")]);
        assert_eq!(carve(&everything, &[], 1, 1).unwrap()[0].first, Ipv4Addr::new(0, 0, 0, 1));
        assert_eq!(carve(&everything, &[&everything], 1, 1), None);
    }

    #[test]
    fn too_many_fragments_are_refused_rather_than_sent() {
        let free: BTreeSet<u32> = (0..40).map(|n| n * 2).collect();
        assert_eq!(carve(&set_of(&free), &[], 5, 4), None);
        assert_eq!(carve(&set_of(&free), &[], 4, 4).unwrap().len(), 4);
    }

    #[test]
    fn ranges_outside_the_supernets_are_found() {
        let supernets = [net("10.71.0.0/17"), net("10.71.128.0/17"), net("10.80.0.0/24")];
        let inside = [net("10.71.0.0/16"), net("10.80.0.128/25")];
        assert_eq!(first_outside(&inside, &supernets), None, "two supernets side by side are one");
        for outside in ["10.72.0.0/16", "10.80.0.0/23", "0.0.0.0/0"] {
            assert_eq!(first_outside(&[inside[0], net(outside)], &supernets), Some(net(outside)));
        }
    }
}
