//! The tree below a profile: chunks of break points, and nodes of chunks.
//!
//! Levels are counted from the start of the node that they are in, be it of a point or in front
//! of a child. So a child moves with everything in it by one number, and nothing has ever to be
//! pushed down: a change touches two chunks, and in each node above them what lies between. Of
//! each child the extremes are known, which is how a question passes over it without looking
//! inside.

use std::ops::Range;

use crate::window::Window;

/// Entries at which a node is split; one more than it ever keeps.
const FULL: usize = 64;
/// A node below this is joined with a neighbour, if both together then have room to grow.
const SPARSE: usize = FULL / 4;
const JOINED_MAX: usize = FULL - SPARSE;

/// From this second on, up to the next point, the level is this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    at: u64,
    level: i64,
}

/// A row of children, in ascending order; what is known of each lies apart, for a question reads
/// one thing of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// The second of its first point.
    firsts: Vec<u64>,
    /// The level in front of it; that of the first child is 0.
    bases: Vec<i64>,
    /// The highest and the lowest level after one of its points.
    highs: Vec<i64>,
    lows: Vec<i64>,
    nodes: Vec<Node>,
}

/// Points are in ascending order, and none has the level of the one before it.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Chunk(Vec<Point>),
    Inner(Row),
}

/// Where the level last was above a limit.
pub(crate) enum Over {
    /// Until this second.
    Until(u64),
    /// From this second on, for longer than the part of the tree that was looked at can say.
    From(u64),
}

impl Row {
    /// Index of the child in which `at` lies: the first one for what is before all.
    fn at(&self, at: u64) -> usize {
        self.firsts.partition_point(|first| *first <= at).saturating_sub(1)
    }

    /// How many children begin before `end`.
    fn before(&self, end: u64) -> usize {
        self.firsts.partition_point(|first| *first < end)
    }

    fn insert(&mut self, place: usize, base: i64, node: Node) {
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
    fn shift(&mut self, places: Range<usize>, by: i64) {
        for row in [&mut self.bases, &mut self.highs, &mut self.lows] {
            row[places.clone()].iter_mut().for_each(|level| *level += by);
        }
    }

    /// Brings a child up to date after a change in it, and its size within bounds.
    fn mend(&mut self, place: usize) {
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

    fn split_off(&mut self) -> (i64, Self) {
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

    fn append(&mut self, base: i64, mut more: Self) {
        more.shift(0..more.nodes.len(), base);
        self.firsts.append(&mut more.firsts);
        self.bases.append(&mut more.bases);
        self.highs.append(&mut more.highs);
        self.lows.append(&mut more.lows);
        self.nodes.append(&mut more.nodes);
    }
}

/// Moves the level by `by` from the first instant on until the second one, if there is one. The
/// points that this needs appear, and those that are for nothing vanish.
fn change_points(points: &mut Vec<Point>, from: u64, until: Option<u64>, by: i64) {
    let mut place = |at: u64| {
        let i = points.partition_point(|point| point.at < at);
        if points.get(i).is_none_or(|point| point.at != at) {
            if points.len() == points.capacity() {
                points.reserve_exact(FULL / 4);
            }
            let level = if i == 0 { 0 } else { points[i - 1].level };
            points.insert(i, Point { at, level });
        }
        i
    };
    let begin = place(from);
    let end = until.map(&mut place);
    let behind = end.unwrap_or(points.len());
    for point in &mut points[begin..behind] {
        point.level += by;
    }
    for i in end.into_iter().chain([begin]) {
        if points[i].level == if i == 0 { 0 } else { points[i - 1].level } {
            points.remove(i);
        }
    }
}

impl Node {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Chunk(points) => points.len(),
            Self::Inner(row) => row.nodes.len(),
        }
    }

    fn first_at(&self) -> u64 {
        match self {
            Self::Chunk(points) => points.first().map_or(0, |point| point.at),
            Self::Inner(row) => row.firsts.first().copied().unwrap_or(0),
        }
    }

    /// The highest and the lowest level after one of its points.
    fn extremes(&self) -> (i64, i64) {
        let none = (i64::MIN, i64::MAX);
        match self {
            Self::Chunk(points) => {
                points.iter().fold(none, |(high, low), point| (high.max(point.level), low.min(point.level)))
            }
            Self::Inner(row) => {
                let high = row.highs.iter().fold(none.0, |high, one| high.max(*one));
                (high, row.lows.iter().fold(none.1, |low, one| low.min(*one)))
            }
        }
    }

    /// Moves the level by `by` from the first instant on until the second one; without one, for
    /// all that follows in this node. The caller settles or mends it afterwards.
    pub fn change(&mut self, from: u64, until: Option<u64>, by: i64) {
        match self {
            Self::Chunk(points) => change_points(points, from, until, by),
            Self::Inner(row) => {
                let begin = row.at(from);
                let end = until.map(|until| (row.at(until), until));
                match end {
                    Some((end, until)) if end > begin => {
                        row.shift(begin + 1..end + 1, by);
                        row.nodes[begin].change(from, None, by);
                        row.nodes[end].change(until, None, -by);
                        // The later one first, for it may be gone then.
                        row.mend(end);
                    }
                    Some(_) => row.nodes[begin].change(from, until, by),
                    None => {
                        row.shift(begin + 1..row.nodes.len(), by);
                        row.nodes[begin].change(from, None, by);
                    }
                }
                row.mend(begin);
            }
        }
    }

    /// Splits the root when it is full, and drops one that has a single child.
    pub fn settle(&mut self) {
        if self.len() >= FULL {
            let (base, right) = self.split();
            let left = std::mem::replace(self, Self::Chunk(Vec::new()));
            let mut row = Row::default();
            row.insert(0, 0, left);
            row.insert(1, base, right);
            *self = Self::Inner(row);
        }
        while let Self::Inner(row) = self
            && row.nodes.len() <= 1
        {
            *self = row.nodes.pop().unwrap_or(Self::Chunk(Vec::new()));
        }
    }

    /// Cuts the second half off; with the level in front of it.
    fn split(&mut self) -> (i64, Self) {
        match self {
            Self::Chunk(points) => {
                let mut right = points.split_off(points.len() / 2);
                let base = points.last().map_or(0, |point| point.level);
                right.iter_mut().for_each(|point| point.level -= base);
                (base, Self::Chunk(right))
            }
            Self::Inner(row) => {
                let (base, right) = row.split_off();
                (base, Self::Inner(right))
            }
        }
    }

    /// Takes the neighbour behind it in, which begins at level `base`.
    fn append(&mut self, base: i64, other: Self) {
        match (self, other) {
            (Self::Chunk(points), Self::Chunk(more)) => {
                points.extend(more.into_iter().map(|point| Point { level: point.level + base, ..point }));
            }
            (Self::Inner(row), Self::Inner(more)) => row.append(base, more),
            _ => unreachable!("all children of a node are of one kind"),
        }
    }

    /// The level at `at`, counted from the start of this node.
    pub fn level(&self, at: u64) -> i64 {
        let mut node = self;
        let mut sum = 0;
        loop {
            match node {
                Self::Chunk(points) => {
                    let i = points.partition_point(|point| point.at <= at);
                    return if i == 0 { sum } else { sum + points[i - 1].level };
                }
                Self::Inner(row) => {
                    let place = row.at(at);
                    sum += row.bases[place];
                    node = &row.nodes[place];
                }
            }
        }
    }

    /// The highest level in the window.
    pub fn highest(&self, window: Window) -> i64 {
        match self {
            Self::Chunk(points) => {
                let i = points.partition_point(|point| point.at <= window.start());
                let level = if i == 0 { 0 } else { points[i - 1].level };
                let inside = points[i..].iter().take_while(|point| point.at < window.end());
                inside.fold(level, |high, point| high.max(point.level))
            }
            Self::Inner(row) => {
                let (begin, end) = (row.at(window.start()), row.before(window.end()));
                let high = row.bases[begin] + row.nodes[begin].highest(window);
                if end <= begin + 1 {
                    return high;
                }
                let (wholly, last) = (begin + 1..end - 1, end - 1);
                let high = row.highs[wholly].iter().fold(high, |high, one| high.max(*one));
                // Only the last one may reach out of the window.
                if row.highs[last] <= high {
                    return high;
                }
                high.max(row.bases[last] + row.nodes[last].highest(window))
            }
        }
    }

    /// The last stretch above `limit` that is in the window at least in part.
    pub fn last_over(&self, window: Window, limit: i64) -> Option<Over> {
        match self {
            Self::Chunk(points) => {
                let end = points.partition_point(|point| point.at < window.end());
                for i in (0..end).rev() {
                    if points[i].level > limit {
                        return Some(match points.get(i + 1) {
                            Some(next) if next.level <= limit => Over::Until(next.at),
                            _ => Over::From(points[i].at),
                        });
                    }
                    // The point in force at the window's start was the last to look at.
                    if points[i].at <= window.start() {
                        break;
                    }
                }
                None
            }
            Self::Inner(row) => {
                for place in (0..row.before(window.end())).rev() {
                    if row.highs[place] > limit
                        && let Some(over) = row.nodes[place].last_over(window, limit - row.bases[place])
                    {
                        return Some(over);
                    }
                    if row.firsts[place] <= window.start() {
                        break;
                    }
                }
                None
            }
        }
    }

    /// The first point behind `after` from which on the level is at most `limit`.
    pub fn first_within(&self, after: u64, limit: i64) -> Option<u64> {
        match self {
            Self::Chunk(points) => {
                let i = points.partition_point(|point| point.at <= after);
                points[i..].iter().find(|point| point.level <= limit).map(|point| point.at)
            }
            Self::Inner(row) => (row.at(after)..row.nodes.len())
                .filter(|place| row.lows[*place] <= limit)
                .find_map(|place| row.nodes[place].first_within(after, limit - row.bases[place])),
        }
    }

    /// The first point, with the level from it on.
    pub fn first(&self) -> Option<(u64, i64)> {
        match self {
            Self::Chunk(points) => points.first().map(|point| (point.at, point.level)),
            Self::Inner(row) => row.nodes.first().and_then(Self::first),
        }
    }

    /// All points in order; levels are counted from `base`.
    pub fn collect(&self, base: i64, into: &mut Vec<(u64, i64)>) {
        match self {
            Self::Chunk(points) => into.extend(points.iter().map(|point| (point.at, base + point.level))),
            Self::Inner(row) => {
                let children = row.bases.iter().zip(&row.nodes);
                children.for_each(|(own, node)| node.collect(base + own, into));
            }
        }
    }

    /// A tree of these points, which are in ascending order and none of which is for nothing.
    /// Chunks are filled to three quarters, so that the next changes do not split them all.
    pub fn build(points: &[(u64, i64)]) -> Self {
        const FILLED: usize = FULL / 4 * 3;
        let mut base = 0;
        let mut nodes: Vec<(i64, Self)> = Vec::with_capacity(points.len().div_ceil(FILLED));
        for part in points.chunks(FILLED) {
            let chunk = part.iter().map(|&(at, level)| Point { at, level: level - base }).collect();
            nodes.push((base, Self::Chunk(chunk)));
            base = part.last().map_or(base, |&(_, level)| level);
        }
        while nodes.len() > 1 {
            let mut above: Vec<(i64, Self)> = Vec::with_capacity(nodes.len().div_ceil(FILLED));
            let mut left = nodes.into_iter().peekable();
            while let Some(base) = left.peek().map(|(base, _)| *base) {
                let mut row = Row::default();
                for (place, (own, node)) in left.by_ref().take(FILLED).enumerate() {
                    row.insert(place, own - base, node);
                }
                above.push((base, Self::Inner(row)));
            }
            nodes = above;
        }
        nodes.pop().map_or(Self::Chunk(Vec::new()), |(_, node)| node)
    }
}
