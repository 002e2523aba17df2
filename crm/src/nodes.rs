//! The site's nodes: who has room when, who takes no pilot and why.
//!
//! A node that takes `n` sandboxes at once has a place in each of the layers 0 to n-1; a part has
//! its members in one layer. What is *booked* are numbers of places in a layer over time; which
//! nodes they are is decided when pilots are submitted. As every two places of a layer are equal,
//! a part that was admitted by number always finds its distinct nodes, provided that those before
//! it have left theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capacity::{Profile, Window};
use protocol::limits::{ALTERNATIVES_MAX, HORIZON_S_MAX};
use protocol::names::{NodeName, SiteName, Text};
use protocol::refusal::{Refusal, Resource};
use protocol::reservation::Limits;

use crate::pilot::{Pilot, PilotId};

/// What a pilot left.
#[derive(Clone, Debug)]
struct Dirt {
    /// Where, for people.
    shown: NodeName,
    /// On which machine of a queue, where the batch system said so.
    machine: Option<NodeName>,
    what: Text,
}

/// One machine of the site.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: NodeName,
    /// Memory in bytes; 0 = not said, so nothing is refused because of it.
    pub memory_bytes: u64,
    /// Sandboxes of different reservations that may be there at once.
    pub members_max: u32,
    /// Who has its place in which layer. More than one only after a restart, when a pilot of
    /// before may still be there.
    taken: BTreeSet<(u32, PilotId)>,
    /// Pilots that did not go.
    dirt: BTreeMap<PilotId, Dirt>,
    /// Why it gets no pilot for a while, although nothing is left on it.
    away: Option<Text>,
}

impl Node {
    pub fn new(name: NodeName, memory_bytes: u64, members_max: u32) -> Self {
        Self { name, memory_bytes, members_max, taken: BTreeSet::new(), dirt: BTreeMap::new(), away: None }
    }

    fn is_usable(&self) -> bool {
        self.dirt.is_empty() && self.away.is_none()
    }

    fn is_in(&self, layer: u32) -> bool {
        self.is_usable() && layer < self.members_max
    }

    fn has_room_in(&self, layer: u32) -> bool {
        self.is_in(layer) && !self.taken.iter().any(|(taken, _)| *taken == layer)
    }

    fn has_room(&self) -> bool {
        self.is_usable() && (self.taken.len() as u32) < self.members_max
    }

    fn has_memory(&self, limits: &Limits) -> bool {
        self.memory_bytes == 0 || limits.memory_bytes <= self.memory_bytes
    }
}

/// So many places of a layer, from `start` (whole seconds on the site's timeline) to `end`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Charge {
    pub layer: u32,
    pub members: u32,
    window: Window,
}

impl Charge {
    /// Rounded inwards, but never to nothing: the GRC has planned to the second, and what it says
    /// arrives a little late. Of two parts that follow each other on the same nodes, the second
    /// would else be refused for the sake of a few milliseconds. It waits for them at its start.
    ///
    /// Pilots that begin before the window, at `early`, use their places from then on.
    pub fn new(layer: u32, members: u32, early: Option<Duration>, start: Duration, end: Duration) -> Self {
        let first = first_second(start);
        let first = early.map_or(first, |early| early.as_secs().min(first));
        let window = Window::new(first, end.as_secs());
        let window = window.or(Window::new(first, first + 1));
        // The second is never empty.
        let window = window.unwrap_or_else(|| unreachable!("a second is not empty"));
        Self { layer, members, window }
    }

    /// The time before the window, for pilots that would begin now; `None` if there is none.
    pub fn before(layer: u32, members: u32, now: Duration, start: Duration) -> Option<Self> {
        let window = Window::new(now.as_secs(), first_second(start))?;
        Some(Self { layer, members, window })
    }

    /// Both at once, where both are of the same layer: the larger of the two at any time.
    pub fn larger_of(old: Self, new: Self) -> Vec<Self> {
        if old.layer != new.layer {
            return vec![old, new];
        }
        let mut times = [old.window.start(), old.window.end(), new.window.start(), new.window.end()].to_vec();
        times.sort_unstable();
        let at = |charge: Self, start: u64| {
            let inside = charge.window.start() <= start && start < charge.window.end();
            if inside { charge.members } else { 0 }
        };
        let spans = times.windows(2).filter_map(|pair| {
            let window = Window::new(pair[0], pair[1])?;
            let members = at(old, pair[0]).max(at(new, pair[0]));
            (members > 0).then_some(Self { layer: old.layer, members, window })
        });
        spans.collect()
    }

    /// How many of these places `charges` hold at least, all the time.
    fn had_of(self, charges: &[Self]) -> u32 {
        let mut own = Profile::default();
        for charge in charges.iter().filter(|charge| charge.layer == self.layer) {
            own.add(charge.window, charge.members.into());
        }
        // Pieces of one part never overlap, and a piece lies wholly in the old part or outside.
        u32::try_from(own.max(self.window)).unwrap_or(u32::MAX)
    }
}

/// The first whole second of what begins at `start`.
fn first_second(start: Duration) -> u64 {
    start.as_secs() + u64::from(start.subsec_nanos() > 0)
}

/// All nodes, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct Nodes {
    list: Vec<Node>,
    places: BTreeMap<NodeName, usize>,
    /// What is booked of each layer.
    booked: Vec<Profile>,
}

impl Nodes {
    /// Names are distinct; the configuration checks it.
    pub fn new(list: Vec<Node>) -> Self {
        let places = list.iter().enumerate().map(|(place, node)| (node.name.clone(), place)).collect();
        let layers = list.iter().map(|node| node.members_max).max().unwrap_or(0);
        Self { list, places, booked: vec![Profile::default(); layers as usize] }
    }

    /// Nodes that take pilots at all.
    pub fn usable(&self) -> u32 {
        self.list.iter().filter(|node| node.is_usable()).count() as u32
    }

    /// Places of each layer; a node that takes no pilot has none.
    pub fn layers(&self) -> Vec<u32> {
        (0..self.booked.len() as u32).map(|layer| self.size(layer)).collect()
    }

    fn size(&self, layer: u32) -> u32 {
        self.list.iter().filter(|node| node.is_in(layer)).count() as u32
    }

    /// Nodes that have room for one more pilot now: a place that nobody has, and that is not
    /// booked for somebody who comes this second.
    pub fn free(&self, now: Duration) -> u32 {
        let with_room = self.list.iter().filter(|node| node.has_room()).count() as u64;
        let now = Window::new(now.as_secs(), now.as_secs() + 1);
        let unbooked = (0..self.booked.len()).map(|layer| {
            let booked = now.map_or(0, |now| self.booked[layer].max(now));
            u64::from(self.size(layer as u32)).saturating_sub(booked)
        });
        with_room.min(unbooked.sum()) as u32
    }

    /// Nodes that take no pilot, and why.
    pub fn unusable(&self) -> Vec<(NodeName, Text)> {
        let away = |node: &Node| Some((node.name.clone(), node.away.clone()?));
        self.list
            .iter()
            .filter_map(|node| {
                let dirt = node.dirt.values().next().map(|dirt| (dirt.shown.clone(), dirt.what.clone()));
                dirt.or_else(|| away(node))
            })
            .collect()
    }

    /// Pilots that have a place somewhere.
    pub fn taken(&self) -> u32 {
        self.list.iter().map(|node| node.taken.len() as u32).sum()
    }

    /// Books `new` in the place of `old`, or nothing at all. Where `old` had as many places all
    /// the time, no room is needed.
    ///
    /// # Errors
    /// Why not: more than there are for good, more memory than enough of them have, or too many
    /// booked at that time, with what is left then and when it could be.
    pub fn book(
        &mut self,
        site: &SiteName,
        old: &[Charge],
        new: &[Charge],
        limits: &Limits,
    ) -> Result<(), Refusal> {
        self.give_back(old);
        for charge in new {
            if let Err(refusal) = self.admit(site, *charge, charge.had_of(old), limits) {
                self.charge(old);
                return Err(refusal);
            }
        }
        self.charge(new);
        Ok(())
    }

    fn admit(&self, site: &SiteName, charge: Charge, had: u32, limits: &Limits) -> Result<(), Refusal> {
        let Charge { layer, members, window } = charge;
        if members <= had {
            return Ok(());
        }
        let (site, size) = (site.clone(), self.size(layer));
        if members > size {
            return Err(Refusal::MoreNodesThanExist { site, asked: members, have: size });
        }
        let is_large = |node: &&Node| node.is_in(layer) && node.has_memory(limits);
        let large = self.list.iter().filter(is_large).count() as u32;
        if members > large {
            let what =
                format!("{members} nodes with {} bytes of memory, {large} are there", limits.memory_bytes);
            return Err(Refusal::AgainstPolicy { site, what: what.into() });
        }
        let booked = &self.booked[layer as usize];
        let looked_at = match protocol::planted::planted(protocol::planted::Bug::FirstSecondOnly) {
            true => Window::new(window.start(), window.start() + 1).unwrap_or(window),
            false => window,
        };
        let have = u64::from(size).saturating_sub(booked.max(looked_at));
        if u64::from(members) <= have {
            return Ok(());
        }
        let latest = window.start() + HORIZON_S_MAX;
        let fit = booked.first_fit(window.start(), latest, window.seconds(), members.into(), size.into());
        let in_s = fit.map(|at| at - window.start()).into_iter().take(ALTERNATIVES_MAX).collect();
        Err(Refusal::NoRoom { resource: Resource::Nodes { site }, asked: members.into(), have, in_s })
    }

    /// Books without asking: what was granted before is charged whatever became of the nodes.
    pub fn charge(&mut self, charges: &[Charge]) {
        for charge in charges {
            if charge.layer as usize >= self.booked.len() {
                self.booked.resize(charge.layer as usize + 1, Profile::default());
            }
            self.booked[charge.layer as usize].add(charge.window, charge.members.into());
        }
    }

    /// Gives back exactly what was charged.
    pub fn give_back(&mut self, charges: &[Charge]) {
        for charge in charges {
            if let Some(booked) = self.booked.get_mut(charge.layer as usize) {
                booked.sub(charge.window, charge.members.into());
            }
        }
    }

    /// Whether this could be booked on top of everything.
    pub fn has_room(&self, charge: Charge) -> bool {
        let booked = self.booked.get(charge.layer as usize).map_or(0, |booked| booked.max(charge.window));
        booked + u64::from(charge.members) <= u64::from(self.size(charge.layer))
    }

    /// Distinct nodes of the layer whose place there is free now and which have the memory, the
    /// emptiest first; the answer is in the order of the configuration, so that members are
    /// numbered as the nodes are.
    ///
    /// # Errors
    /// So many there are now.
    pub fn choose(&self, layer: u32, count: u32, limits: &Limits) -> Result<Vec<NodeName>, u32> {
        let fits = |n: &usize| self.list[*n].has_room_in(layer) && self.list[*n].has_memory(limits);
        let mut free: Vec<usize> = (0..self.list.len()).filter(fits).collect();
        if (free.len() as u32) < count {
            return Err(free.len() as u32);
        }
        // What is large is kept for those who need it.
        free.sort_by_key(|&n| (self.list[n].taken.len(), self.list[n].memory_bytes, n));
        free.truncate(count as usize);
        free.sort_unstable();
        Ok(free.into_iter().map(|n| self.list[n].name.clone()).collect())
    }

    /// Gives a pilot the place of a node in a layer. A node that is not configured any more has
    /// none to give.
    pub fn take(&mut self, node: &NodeName, layer: u32, pilot: PilotId) {
        if let Some(node) = self.node_mut(node) {
            node.taken.insert((layer, pilot));
        }
    }

    /// Gives a pilot's place back, and with it whatever it left. Repeatable.
    pub fn release(&mut self, node: &NodeName, pilot: PilotId) {
        if let Some(node) = self.node_mut(node) {
            node.taken.retain(|(_, holder)| *holder != pilot);
            node.dirt.remove(&pilot);
        }
    }

    /// Keeps a pilot's node away from new ones until this one is released.
    pub fn soil(&mut self, pilot: &Pilot, what: Text) {
        if let Some(node) = self.node_mut(&pilot.node) {
            let (shown, machine) = (pilot.node_name().clone(), pilot.at.clone());
            node.dirt.insert(pilot.id, Dirt { shown, machine, what });
        }
    }

    /// Keeps a node that is known by name away from new pilots, until it is let back.
    pub fn keep_away(&mut self, node: &NodeName, why: Text) {
        if let Some(node) = self.node_mut(node) {
            node.away = Some(why);
        }
    }

    /// Repeatable.
    pub fn let_back(&mut self, node: &NodeName) {
        if let Some(node) = self.node_mut(node) {
            node.away = None;
        }
    }

    /// Machines of a queue where something is left, as far as they are known.
    pub fn soiled(&self) -> impl Iterator<Item = &NodeName> {
        self.list.iter().flat_map(|node| node.dirt.values().filter_map(|dirt| dirt.machine.as_ref()))
    }

    fn node_mut(&mut self, node: &NodeName) -> Option<&mut Node> {
        self.places.get(node).map(|&place| &mut self.list[place])
    }
}

#[cfg(test)]
mod tests;
