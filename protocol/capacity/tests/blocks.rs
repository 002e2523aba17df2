//! The calendar of addresses against one set of addresses per second.

use std::collections::BTreeSet;

use capacity::{AddressSet, Block, Calendar, Window};
use proptest::prelude::*;

const SECONDS: u64 = 24;
/// Somewhat more than three pages, from the middle of one on.
const FIRST: u32 = 0x0a00_0020;
const ADDRESSES: u32 = 210;

fn window(start: u64, length: u64) -> Window {
    Window::lasting(start, length).unwrap()
}

fn set_of(addresses: &BTreeSet<u32>) -> AddressSet {
    let mut set = AddressSet::default();
    addresses.iter().for_each(|one| set.insert((FIRST + one).into(), (FIRST + one).into()));
    set
}

/// Sets of a few stretches, as ranges of sites and their machines are.
fn sets() -> impl Strategy<Value = BTreeSet<u32>> {
    prop::collection::vec((0..ADDRESSES, 1u32..100), 0..4).prop_map(|runs| {
        runs.into_iter().flat_map(|(first, count)| first..(first + count).min(ADDRESSES)).collect()
    })
}

fn windows() -> impl Strategy<Value = Window> {
    (0..SECONDS - 1, 1..SECONDS / 2).prop_map(|(start, length)| window(start, length))
}

/// What was taken, as it was asked for.
type Held = Vec<(Vec<Block>, Window)>;

fn addresses(blocks: &[Block]) -> Vec<u32> {
    blocks.iter().flat_map(|block| (0..block.count).map(|n| block.first + n - FIRST)).collect()
}

/// The addresses that somebody has in some second of the window.
fn taken(held: &Held, window: Window) -> BTreeSet<u32> {
    let overlapping = held.iter().filter(|(_, other)| other.overlaps(window));
    overlapping.flat_map(|(blocks, _)| addresses(blocks)).collect()
}

proptest! {
    /// Carves of any history: exactly what was asked, nowhere anybody else's, and found if there
    /// is one at all.
    #[test]
    fn no_address_is_carved_twice_at_a_time_and_a_carve_is_found_if_there_is_one(
        steps in prop::collection::vec(
            (sets(), sets(), 1u32..70, windows(), any::<prop::sample::Index>(), 0u8..4, 0..ADDRESSES), 1..40),
    ) {
        let (mut calendar, mut held) = (Calendar::default(), Held::new());
        for (usable, avoid, count, window, which, kind, hint) in steps {
            if kind == 0 && !held.is_empty() {
                let (blocks, window) = held.swap_remove(which.index(held.len()));
                calendar.give_back(&blocks, window);
                continue;
            }
            let busy = taken(&held, window);
            let free: BTreeSet<u32> =
                usable.iter().filter(|one| !avoid.contains(one) && !busy.contains(one)).copied().collect();
            let (usable, avoid) = (set_of(&usable), set_of(&avoid));
            prop_assert_eq!(calendar.count_free(&usable, &[&avoid], window), free.len() as u64);
            match calendar.carve(&usable, &[&avoid], count, window, 64, FIRST + hint) {
                None => {
                    prop_assert!(free.len() < count as usize);
                    // The promise by which a search goes on: no earlier start helps.
                    let release = calendar.next_release(&usable, window.start());
                    for start in window.start()..release.unwrap_or(SECONDS) {
                        let later = Window::lasting(start, window.seconds()).unwrap();
                        prop_assert_eq!(calendar.carve(&usable, &[&avoid], count, later, 64, 0), None);
                    }
                }
                Some(blocks) => {
                    let all = addresses(&blocks);
                    prop_assert_eq!(all.len(), count as usize);
                    prop_assert!(all.iter().all(|one| free.contains(one)), "{:?} of {:?}", all, free);
                    prop_assert!(all.is_sorted_by(|a, b| a < b));
                    let run = |first: &u32| (0..count).all(|n| free.contains(&(first + n)));
                    let behind = free.range(hint..).find(|first| run(first));
                    let one_block = behind.or_else(|| free.iter().find(|first| run(first)));
                    if let Some(first) = one_block {
                        prop_assert_eq!(&blocks, &[Block { first: FIRST + first, count }]);
                    }
                    calendar.take(&blocks, window);
                    held.push((blocks, window));
                }
            }
            for second in 0..SECONDS * 2 {
                let now = Window::lasting(second, 1).unwrap();
                prop_assert_eq!(calendar.taken_at(second), set_of(&taken(&held, now)));
            }
        }
        let flat = |(blocks, window): &(Vec<Block>, Window)| {
            let window = *window;
            blocks.clone().into_iter().map(move |block| (block, window))
        };
        let mut built = Calendar::of(held.iter().flat_map(flat));
        for second in 0..SECONDS * 2 {
            prop_assert_eq!(calendar.taken_at(second), built.taken_at(second));
        }
        for (blocks, window) in held {
            calendar.give_back(&blocks, window);
            built.give_back(&blocks, window);
        }
        prop_assert!(calendar.is_empty() && built.is_empty());
    }

    #[test]
    fn the_neighbours_of_an_address_are_the_nearest_that_are_taken_meanwhile(
        steps in prop::collection::vec((0..ADDRESSES, 1u32..9, windows()), 0..20),
        address in 0..ADDRESSES, asked in windows(),
    ) {
        let (mut calendar, mut held) = (Calendar::default(), Held::new());
        for (first, count, window) in steps {
            let block = Block { first: FIRST + first, count };
            let clash = addresses(&[block]).iter().any(|one| taken(&held, window).contains(one));
            prop_assert_eq!(calendar.is_free(block, window), !clash);
            if !clash {
                calendar.take(&[block], window);
                held.push((vec![block], window));
            }
        }
        let taken = taken(&held, asked);
        let below = taken.range(..address).next_back().map(|one| FIRST + one);
        let above = taken.range(address + 1..).next().map(|one| FIRST + one);
        prop_assert_eq!(calendar.below(FIRST + address, asked), below);
        prop_assert_eq!(calendar.above(FIRST + address, asked), above);
    }

    #[test]
    fn what_is_forgotten_is_gone_and_the_rest_stays(
        steps in prop::collection::vec((0..ADDRESSES, 1u32..9, windows()), 1..20),
        cut in 0..SECONDS,
    ) {
        let (mut calendar, mut held) = (Calendar::default(), Held::new());
        for (first, count, window) in steps {
            let block = Block { first: FIRST + first, count };
            if calendar.is_free(block, window) {
                calendar.take(&[block], window);
                held.push((vec![block], window));
            }
        }
        calendar.forget_before(cut);
        for second in 0..SECONDS * 2 {
            let now = Window::lasting(second, 1).unwrap();
            let expected = if second < cut { BTreeSet::new() } else { taken(&held, now) };
            prop_assert_eq!(calendar.taken_at(second), set_of(&expected));
        }
        held.iter().for_each(|(blocks, window)| calendar.give_back(blocks, *window));
        prop_assert!(calendar.is_empty());
    }
}

#[test]
fn the_whole_address_space_is_as_little_work_as_a_few_addresses() {
    let mut everything = AddressSet::default();
    everything.insert([0, 0, 0, 0].into(), [255, 255, 255, 255].into());
    let mut calendar = Calendar::default();
    let ends = [Block { first: 0, count: 3 }, Block { first: u32::MAX - 1, count: 2 }];
    calendar.take(&ends, window(5, 5));
    let carved = calendar.carve(&everything, &[], 4096, window(0, 6), 1, 0).unwrap();
    assert_eq!(carved, [Block { first: 3, count: 4096 }]);
    assert_eq!(calendar.carve(&everything, &[&everything], 1, window(0, 1), 9, 0), None);
    assert_eq!(calendar.below(u32::MAX - 1, window(9, 1)), Some(2));
    assert_eq!(calendar.above(2, window(9, 1)), Some(u32::MAX - 1));
    assert_eq!(calendar.above(u32::MAX, window(9, 1)), None);
    calendar.give_back(&ends, window(5, 5));
    assert!(calendar.is_empty());
}

#[test]
fn one_address_serves_one_after_the_other() {
    let mut one = AddressSet::default();
    one.insert_run([10, 0, 0, 1].into(), 1);
    let mut calendar = Calendar::default();
    for n in 0..50 {
        let blocks = calendar.carve(&one, &[], 1, window(n * 10, 10), 1, 0).unwrap();
        calendar.take(&blocks, window(n * 10, 10));
        assert_eq!(calendar.carve(&one, &[], 1, window(n * 10 + 9, 1), 1, 0), None);
        assert_eq!(calendar.next_release(&one, n * 10), Some(n * 10 + 10));
    }
}
