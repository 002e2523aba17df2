//! The children of an inner node of a profile's tree.

use std::ops::Range;

use crate::node::{FULL, Node};

/// A node below this is joined with a neighbour, if both together then have room to grow.
const SPARSE: usize = FULL / 4;
const JOINED_MAX: usize = FULL - SPARSE;

/// A row of children, in ascending order; what is known of each lies apart, for a question reads
/// one thing of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// The second of its first point.
    pub firsts: Vec<u64>,
    /// The level in front of it; that of the first child is 0.
    pub bases: Vec<i64>,
    /// The highest and the lowest level after one of its points.
    pub highs: Vec<i64>,
    pub lows: Vec<i64>,
    pub nodes: Vec<Node>,
}

impl Row {
    /// The child in which `at` lies: the first one for what is before all.
    pub fn at(&self, at: u64) -> usize {
        self.firsts.partition_point(|first| *first <= at).saturating_sub(1)
    }

    /// How many children begin before `end`.
    pub fn before(&self, end: u64) -> usize {
        self.firsts.partition_point(|first| *first < end)
    }

    pub fn insert(&mut self, place: usize, base: i64, node: Node) {
        self.firsts.insert(place, 0);
        self.bases.insert(place, base);
        self.highs.insert(place, 0);
        self.lows.insert(place, 0);
        self.nodes.insert(place, node);
        self.refresh(place);
    }

    fn remove(&mut self, place: usize) -> (i64, Node) {
        self.firsts.remove(place);
        self.highs.remove(place);
        self.lows.remove(place);
        (self.bases.remove(place), self.nodes.remove(place))
    }

    /// Looks at a child again after a change in it.
    fn refresh(&mut self, place: usize) {
        let (node, base) = (&self.nodes[place], self.bases[place]);
        let (high, low) = node.extremes();
        self.firsts[place] = node.first_at();
        (self.highs[place], self.lows[place]) = (high + base, low + base);
    }

    /// Moves whole children by `by`.
    pub fn shift(&mut self, places: Range<usize>, by: i64) {
        for row in [&mut self.bases, &mut self.highs, &mut self.lows] {
            row[places.clone()].iter_mut().for_each(|level| *level += by);
        }
    }

    /// Brings a child up to date after a change in it, and its size within bounds.
    pub fn mend(&mut self, place: usize) {
        let len = self.nodes[place].len();
        if len == 0 {
            // What is gone added up to nothing, so the bases behind it are right.
            self.remove(place);
            return;
        }
        let right = (len >= FULL).then(|| self.nodes[place].split());
        self.refresh(place);
        if let Some((level, node)) = right {
            self.insert(place + 1, self.bases[place] + level, node);
        } else if len < SPARSE {
            self.join(place);
        }
    }

    /// Joins a child with the neighbour that has more room, if there is one with enough.
    fn join(&mut self, place: usize) {
        let size = |n: usize| self.nodes.get(n).map_or(usize::MAX / 2, Node::len);
        let before = place.checked_sub(1).map_or(usize::MAX / 2, size);
        let left = if before < size(place + 1) { place - 1 } else { place };
        if size(left) + size(left + 1) > JOINED_MAX {
            return;
        }
        let (base, right) = self.remove(left + 1);
        self.nodes[left].append(base - self.bases[left], right);
        self.refresh(left);
    }

    pub fn split_off(&mut self) -> (i64, Self) {
        let half = self.nodes.len() / 2;
        let mut right = Self {
            firsts: self.firsts.split_off(half),
            bases: self.bases.split_off(half),
            highs: self.highs.split_off(half),
            lows: self.lows.split_off(half),
            nodes: self.nodes.split_off(half),
        };
        let base = right.bases.first().copied().unwrap_or(0);
        right.shift(0..right.nodes.len(), -base);
        (base, right)
    }

    pub fn append(&mut self, base: i64, mut more: Self) {
        more.shift(0..more.nodes.len(), base);
        self.firsts.append(&mut more.firsts);
        self.bases.append(&mut more.bases);
        self.highs.append(&mut more.highs);
        self.lows.append(&mut more.lows);
        self.nodes.append(&mut more.nodes);
    }
}
