//! Which addresses are taken when, for a whole grid.
//!
//! Counts are not enough here: an address that is free now and one that is free later are not one
//! address for both. So there is a bit for each address and stretch of time, in pages of 64
//! addresses; a page is a list of instants with the addresses that are busy from then on. Only
//! pages in which something is taken exist: a /8 costs as much as a /29.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::addresses::AddressSet;
use crate::window::Window;

/// Consecutive addresses, as numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Block {
    pub first: u32,
    pub count: u32,
}

impl Block {
    /// The last address; of a block beyond the end of the address space, the last there is.
    pub fn last(self) -> u32 {
        self.first.saturating_add(self.count.saturating_sub(1))
    }
}

/// Addresses of one page.
const PAGE: u32 = u64::BITS;

/// From each of these seconds on, the busy addresses; in ascending order. Neighbours differ, and
/// the last is 0. A plain list: what a window needs of it lies side by side.
type Page = Vec<(u64, u64)>;

/// What is taken over time. Ranges of sites may overlap: one calendar is for all of them.
#[derive(Clone, Debug, Default)]
pub struct Calendar {
    pages: BTreeMap<u32, Page>,
    /// Nothing is known, and nothing can be taken, before this second.
    forgotten: u64,
}

/// The addresses of a page that are busy in any second of the window.
fn busy(page: &Page, window: Window) -> u64 {
    let mut sum = 0;
    let end = page.partition_point(|(at, _)| *at < window.end());
    // From the last second on back to the entry that is in force at the first.
    for &(at, busy) in page[..end].iter().rev() {
        sum |= busy;
        if at <= window.start() {
            break;
        }
    }
    sum
}

/// The busy addresses in front of an entry.
fn before(page: &Page, place: usize) -> u64 {
    place.checked_sub(1).map_or(0, |place| page[place].1)
}

/// Flips these addresses over the window.
fn flip(page: &mut Page, window: Window, bits: u64) {
    let mut place = |second: u64| {
        let place = page.partition_point(|(at, _)| *at < second);
        if page.get(place).is_none_or(|(at, _)| *at != second) {
            page.insert(place, (second, before(page, place)));
        }
        place
    };
    let (begin, end) = (place(window.start()), place(window.end()));
    page[begin..end].iter_mut().for_each(|(_, busy)| *busy ^= bits);
    for place in [end, begin] {
        if page[place].1 == before(page, place) {
            page.remove(place);
        }
    }
}

/// The bits of a page from one of its addresses to another, both included.
fn bits(first: u32, last: u32) -> u64 {
    (u64::MAX << (first % PAGE)) & (u64::MAX >> (PAGE - 1 - last % PAGE))
}

/// The pages that these addresses lie in, with their bits.
fn pages(first: u32, last: u32) -> impl DoubleEndedIterator<Item = (u32, u64)> {
    (first / PAGE..=last / PAGE).map(move |page| {
        let start = page * PAGE;
        (page, bits(first.max(start), last.min(start + (PAGE - 1))))
    })
}

impl Calendar {
    /// The same as taking all of these one by one, in a fraction of the time.
    pub fn of(takes: impl IntoIterator<Item = (Block, Window)>) -> Self {
        let mut flips: Vec<(u32, u64, u64)> = Vec::new();
        for (block, window) in takes.into_iter().filter(|(block, _)| block.count > 0) {
            for (number, bits) in pages(block.first, block.last()) {
                flips.push((number, window.start(), bits));
                flips.push((number, window.end(), bits));
            }
        }
        flips.sort_unstable();
        let page = |flips: &[(u32, u64, u64)]| {
            let mut busy = 0;
            let seconds = flips.chunk_by(|(_, a, _), (_, b, _)| a == b).filter_map(|flips| {
                let flipped = flips.iter().fold(0, |sum, (_, _, bits)| sum ^ bits);
                busy ^= flipped;
                flips.first().filter(|_| flipped != 0).map(|(_, at, _)| (*at, busy))
            });
            seconds.collect::<Page>()
        };
        let of_pages = flips.chunk_by(|(a, _, _), (b, _, _)| a == b);
        let pages = of_pages.filter_map(|flips| flips.first().map(|(number, _, _)| (*number, page(flips))));
        Self { pages: pages.filter(|(_, page)| !page.is_empty()).collect(), forgotten: 0 }
    }

    /// Takes all of these addresses over the window. The caller has asked before whether they
    /// are free.
    pub fn take(&mut self, blocks: &[Block], window: Window) {
        debug_assert!(blocks.iter().all(|block| self.is_free(*block, window)), "taken twice: {blocks:?}");
        self.flip(blocks, window);
    }

    /// The exact inverse of [`Calendar::take`], be it of a part of the window.
    pub fn give_back(&mut self, blocks: &[Block], window: Window) {
        self.flip(blocks, window);
    }

    fn flip(&mut self, blocks: &[Block], window: Window) {
        let Some(window) = Window::new(window.start().max(self.forgotten), window.end()) else { return };
        for block in blocks.iter().filter(|block| block.count > 0) {
            for (number, bits) in pages(block.first, block.last()) {
                let page = self.pages.entry(number).or_default();
                flip(page, window, bits);
                if page.is_empty() {
                    self.pages.remove(&number);
                }
            }
        }
    }

    /// Whether none of the block is taken in any second of the window.
    pub fn is_free(&self, block: Block, window: Window) -> bool {
        let present = self.pages.range(block.first / PAGE..=block.last() / PAGE);
        let mut taken = present.map(|(number, page)| (number * PAGE, busy(page, window)));
        block.count == 0
            || taken.all(|(start, busy)| {
                busy & bits(block.first.max(start), block.last().min(start + (PAGE - 1))) == 0
            })
    }

    /// Finds `count` addresses of `usable` that are in none of `avoid` and that nobody takes in
    /// the window, in at most `blocks_max` blocks: the first gap that is large enough, from `hint`
    /// on and then from the lowest on, else the largest gaps. In ascending order, and always the
    /// same for the same calendar. `None` if there are not enough.
    ///
    /// Who gives as hint the address behind the last carve goes round: an address is used again
    /// after all others.
    pub fn carve(
        &self,
        usable: &AddressSet,
        avoid: &[&AddressSet],
        count: u32,
        window: Window,
        blocks_max: usize,
        hint: u32,
    ) -> Option<Vec<Block>> {
        let mut gaps: Vec<Block> = Vec::new();
        for from in [hint, 0] {
            gaps.clear();
            let whole = self.each_gap(usable, avoid, window, from, |first, last| {
                // As a difference, for the whole address space does not fit into 32 bits.
                if last - first >= count.saturating_sub(1) {
                    return ControlFlow::Break(Block { first, count });
                }
                gaps.push(Block { first, count: last - first + 1 });
                ControlFlow::Continue(())
            });
            if let ControlFlow::Break(block) = whole {
                return Some(vec![block]);
            }
        }
        gaps.sort_by_key(|gap| (std::cmp::Reverse(gap.count), gap.first));
        let mut wanted = count;
        let mut blocks = Vec::new();
        for gap in gaps.into_iter().take(blocks_max) {
            let count = gap.count.min(wanted);
            blocks.push(Block { first: gap.first, count });
            wanted -= count;
            if wanted == 0 {
                blocks.sort_unstable();
                return Some(blocks);
            }
        }
        None
    }

    /// How many addresses of `usable` are in none of `avoid` and that nobody takes in the window.
    pub fn count_free(&self, usable: &AddressSet, avoid: &[&AddressSet], window: Window) -> u64 {
        let mut count = 0;
        let _all: ControlFlow<()> = self.each_gap(usable, avoid, window, 0, |first, last| {
            count += u64::from(last - first) + 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Every stretch of free addresses from `from` on, lowest first, by its first and last address.
    fn each_gap<T>(
        &self,
        usable: &AddressSet,
        avoid: &[&AddressSet],
        window: Window,
        from: u32,
        mut visit: impl FnMut(u32, u32) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        for (first, last) in usable.intervals() {
            let last = u32::from(last);
            let mut next = Some(u32::from(first).max(from));
            while let Some(at) = next.filter(|at| *at <= last) {
                // Past everything that is avoided here, however the sets interlock.
                if let Some(end) = avoid.iter().filter_map(|set| set.covering(at)).max() {
                    next = end.checked_add(1);
                    continue;
                }
                let avoided = avoid.iter().filter_map(|set| set.next_from(at)).map(|(first, _)| first - 1);
                let end = avoided.min().unwrap_or(last).min(last);
                self.each_idle(at, end, window, &mut visit)?;
                next = end.checked_add(1);
            }
        }
        ControlFlow::Continue(())
    }

    /// Every stretch from `first` to `last` that nobody takes.
    fn each_idle<T>(
        &self,
        first: u32,
        last: u32,
        window: Window,
        visit: &mut impl FnMut(u32, u32) -> ControlFlow<T>,
    ) -> ControlFlow<T> {
        let mut free_from = Some(first);
        for (number, page) in self.pages.range(first / PAGE..=last / PAGE) {
            let start = number * PAGE;
            let mut busy = busy(page, window) & bits(first.max(start), last.min(start + (PAGE - 1)));
            while busy != 0 {
                let bit = busy.trailing_zeros();
                let run = (busy >> bit).trailing_ones();
                let (begin, end) = (start + bit, start + (bit + run - 1));
                if let Some(free) = free_from.filter(|free| *free < begin) {
                    visit(free, begin - 1)?;
                }
                free_from = end.checked_add(1);
                busy &= !bits(bit, bit + run - 1);
            }
        }
        match free_from.filter(|free| *free <= last) {
            Some(free) => visit(free, last),
            None => ControlFlow::Continue(()),
        }
    }

    /// The nearest address below that is taken in some second of the window.
    pub fn below(&self, address: u32, window: Window) -> Option<u32> {
        let last = address.checked_sub(1)?;
        self.pages.range(..=last / PAGE).rev().find_map(|(number, page)| {
            let start = number * PAGE;
            let busy = busy(page, window) & bits(start, last.min(start + (PAGE - 1)));
            (busy != 0).then(|| start + (PAGE - 1 - busy.leading_zeros()))
        })
    }

    /// The nearest address above that is taken in some second of the window.
    pub fn above(&self, address: u32, window: Window) -> Option<u32> {
        let first = address.checked_add(1)?;
        self.pages.range(first / PAGE..).find_map(|(number, page)| {
            let start = number * PAGE;
            let busy = busy(page, window) & bits(first.max(start), start + (PAGE - 1));
            (busy != 0).then(|| start + busy.trailing_zeros())
        })
    }

    /// The earliest second behind `after` at which some address of `usable` comes back. A carve
    /// that fails for a window that begins at `after` fails at every start before that. `None` if
    /// nothing comes back.
    pub fn next_release(&self, usable: &AddressSet, after: u64) -> Option<u64> {
        let mut earliest = None;
        for (first, last) in usable.intervals() {
            let (first, last) = (u32::from(first), u32::from(last));
            for (number, page) in self.pages.range(first / PAGE..=last / PAGE) {
                let start = number * PAGE;
                let usable = bits(first.max(start), last.min(start + (PAGE - 1)));
                let place = page.partition_point(|(at, _)| *at <= after);
                let mut level = before(page, place);
                let later = page[place..].iter();
                for &(at, busy) in later.take_while(|(at, _)| earliest.is_none_or(|known| *at < known)) {
                    if level & !busy & usable != 0 {
                        earliest = Some(at);
                        break;
                    }
                    level = busy;
                }
            }
        }
        earliest
    }

    /// Whether nothing is taken at any time.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Every address that is taken in this second.
    pub fn taken_at(&self, second: u64) -> AddressSet {
        let mut set = AddressSet::default();
        let Some(window) = Window::lasting(second, 1) else { return set };
        for (number, page) in &self.pages {
            let mut busy = busy(page, window);
            while busy != 0 {
                let bit = busy.trailing_zeros();
                let run = (busy >> bit).trailing_ones();
                set.insert_run((number * PAGE + bit).into(), run);
                busy &= !bits(bit, bit + run - 1);
            }
        }
        set
    }

    /// Drops what lies before `second`. What is given back later is given back from here on.
    pub fn forget_before(&mut self, second: u64) {
        if second <= self.forgotten {
            return;
        }
        self.forgotten = second;
        self.pages.retain(|_, page| {
            let past = page.partition_point(|(at, _)| *at < second);
            if let Some(last) = past.checked_sub(1) {
                // What was busy at the cut still is: the last entry before it moves there.
                page[last].0 = second;
                let replaced = page.get(past).is_some_and(|(at, _)| *at == second);
                page.drain(..if replaced { past } else { last });
            }
            if page.first().is_some_and(|(_, busy)| *busy == 0) {
                page.remove(0);
            }
            !page.is_empty()
        });
    }
}
