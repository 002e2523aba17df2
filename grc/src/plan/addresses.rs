//! Addresses as intervals: what a site may use, what is taken, and the carve.
//!
//! Ranges of different sites may overlap, so what is taken is kept once for the whole grid and
//! every carve avoids all of it. Nothing here enumerates a range: a /8 costs as much as a /29.

pub use capacity::AddressSet;
use capacity::{Calendar, Window};
use ipnet::Ipv4Net;
use protocol::reservation::AddressBlock;

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
    let calendar = Calendar::default();
    let blocks = Window::lasting(0, 1)
        .and_then(|any_time| calendar.carve(usable, taken, count, any_time, blocks_max, 0))?;
    Some(
        blocks
            .into_iter()
            .map(|block| AddressBlock { first: block.first.into(), count: block.count })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

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
