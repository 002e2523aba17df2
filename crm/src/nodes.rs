//! The site's nodes: who has room, who takes no pilot and why.

use std::collections::BTreeMap;

use protocol::names::{NodeName, SiteName, Text};
use protocol::refusal::Refusal;
use protocol::reservation::Limits;

use crate::pilot::PilotId;

/// One machine of the site.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: NodeName,
    /// Memory in bytes; 0 = not said, so nothing is refused because of it.
    pub memory_bytes: u64,
    /// Sandboxes of different reservations that may be there at once.
    pub members_max: u32,
    taken: u32,
    /// Pilots that did not go, and what is left of them.
    dirt: BTreeMap<PilotId, Text>,
}

impl Node {
    pub fn new(name: NodeName, memory_bytes: u64, members_max: u32) -> Self {
        Self { name, memory_bytes, members_max, taken: 0, dirt: BTreeMap::new() }
    }

    fn is_usable(&self) -> bool {
        self.dirt.is_empty()
    }

    fn has_room(&self) -> bool {
        self.is_usable() && self.taken < self.members_max
    }
}

/// All nodes, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct Nodes {
    list: Vec<Node>,
    places: BTreeMap<NodeName, usize>,
}

impl Nodes {
    /// Names are distinct; the configuration checks it.
    pub fn new(list: Vec<Node>) -> Self {
        let places = list.iter().enumerate().map(|(place, node)| (node.name.clone(), place)).collect();
        Self { list, places }
    }

    /// Nodes that take pilots at all.
    pub fn usable(&self) -> u32 {
        self.list.iter().filter(|node| node.is_usable()).count() as u32
    }

    /// Nodes that have room for one more pilot.
    pub fn free(&self) -> u32 {
        self.list.iter().filter(|node| node.has_room()).count() as u32
    }

    /// Nodes that take no pilot, and why.
    pub fn unusable(&self) -> Vec<(NodeName, Text)> {
        let mut unusable = Vec::new();
        for node in &self.list {
            if let Some(what) = node.dirt.values().next() {
                unusable.push((node.name.clone(), what.clone()));
            }
        }
        unusable
    }

    /// Pilots that have a place somewhere.
    pub fn taken(&self) -> u32 {
        self.list.iter().map(|node| node.taken).sum()
    }

    /// Takes a place on each of `count` distinct nodes, the emptiest first; the answer is in the
    /// order of the configuration, so that members are numbered as the nodes are.
    pub fn take(&mut self, site: &SiteName, count: u32, limits: &Limits) -> Result<Vec<NodeName>, Refusal> {
        let usable = self.usable();
        if count > usable {
            return Err(Refusal::MoreNodesThanExist { site: site.clone(), asked: count, have: usable });
        }
        let is_large = |node: &Node| node.memory_bytes == 0 || limits.memory_bytes <= node.memory_bytes;
        let large = self.list.iter().filter(|node| node.is_usable() && is_large(node)).count() as u32;
        if count > large {
            let what =
                format!("{count} nodes with {} bytes of memory, {large} are there", limits.memory_bytes);
            return Err(Refusal::AgainstPolicy { site: site.clone(), what: what.into() });
        }
        let mut free: Vec<usize> =
            (0..self.list.len()).filter(|&n| self.list[n].has_room() && is_large(&self.list[n])).collect();
        if (free.len() as u32) < count {
            let have = free.len() as u32;
            return Err(Refusal::NodesBusy { site: site.clone(), asked: count, have });
        }
        free.sort_by_key(|&place| (self.list[place].taken, place));
        free.truncate(count as usize);
        free.sort_unstable();
        Ok(free
            .into_iter()
            .map(|place| {
                self.list[place].taken += 1;
                self.list[place].name.clone()
            })
            .collect())
    }

    /// Gives a pilot's place back, and with it whatever it left.
    pub fn release(&mut self, node: &NodeName, pilot: PilotId) {
        if let Some(node) = self.places.get(node).map(|&place| &mut self.list[place]) {
            node.taken = node.taken.saturating_sub(1);
            node.dirt.remove(&pilot);
        }
    }

    /// Keeps a node away from new pilots until this one is released.
    pub fn soil(&mut self, node: &NodeName, pilot: PilotId, what: Text) {
        if let Some(node) = self.places.get(node).map(|&place| &mut self.list[place]) {
            node.dirt.insert(pilot, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{Epoch, ReservationId};

    use super::*;

    fn nodes(members_max: u32) -> Nodes {
        let names = ["a1", "a2", "a10"];
        Nodes::new(names.map(|n| Node::new(n.parse().unwrap(), 1 << 30, members_max)).to_vec())
    }

    fn take(nodes: &mut Nodes, count: u32) -> Result<Vec<String>, Refusal> {
        let site = "a".parse().unwrap();
        let taken = nodes.take(&site, count, &Limits::default())?;
        Ok(taken.iter().map(|n| n.as_str().to_owned()).collect())
    }

    #[test]
    fn members_stand_on_distinct_nodes_and_the_emptiest_come_first() {
        let mut nodes = nodes(2);
        assert_eq!(take(&mut nodes, 1).unwrap(), ["a1"]);
        assert_eq!(take(&mut nodes, 2).unwrap(), ["a2", "a10"]);
        assert_eq!(take(&mut nodes, 3).unwrap(), ["a1", "a2", "a10"]);
        assert!(matches!(take(&mut nodes, 1), Err(Refusal::NodesBusy { have: 0, asked: 1, .. })));
        assert!(matches!(take(&mut nodes, 4), Err(Refusal::MoreNodesThanExist { have: 3, asked: 4, .. })));
        assert_eq!(nodes.taken(), 6);
    }

    #[test]
    fn a_dirty_node_takes_no_pilot_until_its_pilot_is_gone() {
        let mut nodes = nodes(2);
        take(&mut nodes, 1).unwrap();
        let pilot = PilotId { reservation: ReservationId(1), epoch: Epoch(1), member: 0 };
        let a1: NodeName = "a1".parse().unwrap();
        nodes.soil(&a1, pilot, "a cgroup".into());
        assert_eq!((nodes.usable(), nodes.free()), (2, 2));
        assert_eq!(nodes.unusable(), [(a1.clone(), "a cgroup".into())]);
        assert!(matches!(take(&mut nodes, 3), Err(Refusal::MoreNodesThanExist { .. })));
        nodes.release(&a1, pilot);
        assert_eq!((nodes.usable(), nodes.free(), nodes.taken()), (3, 3, 0));
    }

    #[test]
    fn more_memory_than_a_node_has_is_refused_for_good() {
        let limits = Limits { memory_bytes: 2 << 30, ..Limits::default() };
        let refusal = nodes(1).take(&"a".parse().unwrap(), 1, &limits).unwrap_err();
        assert!(matches!(refusal, Refusal::AgainstPolicy { .. }), "{refusal}");
    }
}
