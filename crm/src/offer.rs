//! What the site publishes, made from what it has.

use std::time::Duration;

use ipnet::Ipv4Net;
use protocol::names::Text;
use protocol::site::Offer;
use sandbox_images::Catalog;

use crate::addresses::Addresses;
use crate::nodes::Nodes;

/// The offer of this moment. Equal states give equal offers, so that only changes are sent.
pub fn offer(
    batch_system: &Text,
    ranges: &[Ipv4Net],
    nodes: &Nodes,
    addresses: &Addresses,
    catalog: &Catalog,
    lead: Duration,
    now: Duration,
) -> Offer {
    Offer {
        batch_system: batch_system.clone(),
        ranges: ranges.to_vec(),
        reserved: addresses.never_carve(),
        nodes_usable: nodes.usable(),
        nodes_free: nodes.free(now),
        layers: nodes.layers(),
        lead_s: u32::try_from(lead.as_secs()).unwrap_or(u32::MAX),
        unusable: nodes.unusable(),
        environments: catalog.names(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Node;

    #[test]
    fn every_layer_has_the_nodes_that_take_so_many() {
        let node = |name: &str, members| Node::new(name.parse().unwrap(), 0, members);
        let nodes = Nodes::new(vec![node("a1", 4), node("a2", 1)]);
        let ranges = ["10.71.128.0/17".parse().unwrap()];
        let addresses = Addresses::new(&ranges, 16, []);
        let (lead, catalog) = (Duration::from_secs(10), Catalog::host_only());
        let offer = offer(&"embedded".into(), &ranges, &nodes, &addresses, &catalog, lead, Duration::ZERO);
        assert_eq!(offer.layers, [2, 1, 1, 1]);
        assert_eq!((offer.nodes_usable, offer.nodes_free, offer.lead_s), (2, 2, 10));
        offer.check().unwrap();
    }
}
