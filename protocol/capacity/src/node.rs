//! The tree below a profile: chunks of break points, and nodes of chunks.
//!
//! Each point has the level from it on, each child the level in front of it, both counted from
//! the start of the node that they are in. So a change of everything behind an instant is one
//! short loop per level of the tree (what is counted from a changed start moves with it), and
//! nothing has ever to be pushed down. A child also has the extremes of its own levels, which is
//! how a question passes over it without looking inside.

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

#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// Its first point's second.
    first: u64,
    /// The level in front of it; that of a node's first child is 0.
    base: i64,
    /// The highest and the lowest level after one of its points, counted from `base`.
    high: i64,
    low: i64,
    node: Node,
}

/// Points and children are in ascending order, and no point has the level of the one before it.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Chunk(Vec<Point>),
    Inner(Vec<Child>),
}

/// Where the level last was above a limit.
pub(crate) enum Over {
    /// Until this second.
    Until(u64),
    /// From this second on, for longer than the part of the tree that was looked at can say.
    From(u64),
}

impl Child {
    fn of(base: i64, node: Node) -> Self {
        let mut child = Self { first: 0, base, high: 0, low: 0, node };
        child.refresh();
        child
    }

    fn refresh(&mut self) {
        (self.high, self.low) = (i64::MIN, i64::MAX);
        match &self.node {
            Node::Chunk(points) => {
                self.first = points.first().map_or(0, |point| point.at);
                for point in points {
                    self.high = self.high.max(point.level);
                    self.low = self.low.min(point.level);
                }
            }
            Node::Inner(children) => {
                self.first = children.first().map_or(0, |child| child.first);
                for child in children {
                    self.high = self.high.max(child.base + child.high);
                    self.low = self.low.min(child.base + child.low);
                }
            }
        }
    }
}

/// Index of the child in which `at` lies: the first one for what is before all.
fn child_at(children: &[Child], at: u64) -> usize {
    children.partition_point(|child| child.first <= at).saturating_sub(1)
}

impl Node {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Chunk(points) => points.len(),
            Self::Inner(children) => children.len(),
        }
    }

    /// Moves the level from `at` on by `by`. A point appears or vanishes as needed. The caller
    /// splits this node if it is full then.
    pub fn change(&mut self, at: u64, by: i64) {
        match self {
            Self::Chunk(points) => {
                let i = points.partition_point(|point| point.at < at);
                let before = if i == 0 { 0 } else { points[i - 1].level };
                if points.get(i).is_none_or(|point| point.at != at) {
                    if points.len() == points.capacity() {
                        points.reserve_exact(FULL / 4);
                    }
                    points.insert(i, Point { at, level: before });
                }
                for point in &mut points[i..] {
                    point.level += by;
                }
                if points[i].level == before {
                    points.remove(i);
                }
            }
            Self::Inner(children) => {
                let i = child_at(children, at);
                for child in &mut children[i + 1..] {
                    child.base += by;
                }
                let child = &mut children[i];
                child.node.change(at, by);
                child.refresh();
                let len = child.node.len();
                if len == 0 {
                    // What is gone added up to nothing, so the bases behind it are right.
                    children.remove(i);
                } else if len >= FULL {
                    let (base, node) = child.node.split();
                    child.refresh();
                    let right = Child::of(child.base + base, node);
                    children.insert(i + 1, right);
                } else if len < SPARSE {
                    join(children, i);
                }
            }
        }
    }

    /// Splits the root when it is full, and drops one that has a single child.
    pub fn settle(&mut self) {
        if self.len() >= FULL {
            let (base, right) = self.split();
            let left = std::mem::replace(self, Self::Chunk(Vec::new()));
            *self = Self::Inner(vec![Child::of(0, left), Child::of(base, right)]);
        }
        while let Self::Inner(children) = self
            && children.len() <= 1
        {
            *self = children.pop().map_or(Self::Chunk(Vec::new()), |child| child.node);
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
            Self::Inner(children) => {
                let mut right = children.split_off(children.len() / 2);
                let base = right.first().map_or(0, |child| child.base);
                right.iter_mut().for_each(|child| child.base -= base);
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
            (Self::Inner(children), Self::Inner(more)) => {
                children.extend(more.into_iter().map(|child| Child { base: child.base + base, ..child }));
            }
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
                Self::Inner(children) => {
                    let child = &children[child_at(children, at)];
                    sum += child.base;
                    node = &child.node;
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
            Self::Inner(children) => {
                let i = child_at(children, window.start());
                let mut high = children[i].base + children[i].node.highest(window);
                let end = children.partition_point(|child| child.first < window.end());
                let inside = children.get(i + 1..end).and_then(|inside| inside.split_last());
                let Some((last, wholly)) = inside else { return high };
                for child in wholly {
                    high = high.max(child.base + child.high);
                }
                // Only the last one may reach out of the window.
                if last.base + last.high > high {
                    high = high.max(last.base + last.node.highest(window));
                }
                high
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
            Self::Inner(children) => {
                let end = children.partition_point(|child| child.first < window.end());
                for child in children[..end].iter().rev() {
                    if child.base + child.high > limit
                        && let Some(over) = child.node.last_over(window, limit - child.base)
                    {
                        return Some(over);
                    }
                    if child.first <= window.start() {
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
            Self::Inner(children) => children[child_at(children, after)..]
                .iter()
                .filter(|child| child.base + child.low <= limit)
                .find_map(|child| child.node.first_within(after, limit - child.base)),
        }
    }

    /// The first point, with the level from it on.
    pub fn first(&self) -> Option<(u64, i64)> {
        match self {
            Self::Chunk(points) => points.first().map(|point| (point.at, point.level)),
            Self::Inner(children) => children.first().and_then(|child| child.node.first()),
        }
    }

    /// All points in order; levels are counted from `base`.
    pub fn collect(&self, base: i64, into: &mut Vec<(u64, i64)>) {
        match self {
            Self::Chunk(points) => into.extend(points.iter().map(|point| (point.at, base + point.level))),
            Self::Inner(children) => {
                children.iter().for_each(|child| child.node.collect(base + child.base, into));
            }
        }
    }

    /// A tree of these points, which are in ascending order and none of which is for nothing.
    /// Chunks are filled to three quarters, so that the next changes do not split them all.
    pub fn build(points: &[(u64, i64)]) -> Self {
        const FILLED: usize = FULL / 4 * 3;
        let mut base = 0;
        let mut row: Vec<Child> = Vec::with_capacity(points.len().div_ceil(FILLED));
        for part in points.chunks(FILLED) {
            let chunk = part.iter().map(|&(at, level)| Point { at, level: level - base }).collect();
            row.push(Child::of(base, Self::Chunk(chunk)));
            base = part.last().map_or(base, |&(_, level)| level);
        }
        while row.len() > 1 {
            let mut above: Vec<Child> = Vec::with_capacity(row.len().div_ceil(FILLED));
            let mut row_left = row.into_iter().peekable();
            while let Some(base) = row_left.peek().map(|child| child.base) {
                let children = row_left.by_ref().take(FILLED);
                let children = children.map(|child| Child { base: child.base - base, ..child }).collect();
                above.push(Child::of(base, Self::Inner(children)));
            }
            row = above;
        }
        row.pop().map_or(Self::Chunk(Vec::new()), |child| child.node)
    }
}

/// Joins child `i` with the neighbour that has more room, if there is one with enough.
fn join(children: &mut Vec<Child>, i: usize) {
    let size = |n: usize| children.get(n).map_or(usize::MAX / 2, |child| child.node.len());
    let before = i.checked_sub(1).map_or(usize::MAX / 2, size);
    let left = if before < size(i + 1) { i - 1 } else { i };
    if size(left) + size(left + 1) > JOINED_MAX {
        return;
    }
    let right = children.remove(left + 1);
    let into = &mut children[left];
    into.node.append(right.base - into.base, right.node);
    into.refresh();
}
