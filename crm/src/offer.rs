//! What the site publishes, made from what it has.

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
    closing: bool,
) -> Offer {
    Offer {
        batch_system: batch_system.clone(),
        ranges: ranges.to_vec(),
        reserved: addresses.never_carve(),
        nodes_usable: if closing { 0 } else { nodes.usable() },
        nodes_free: if closing { 0 } else { nodes.free() },
        unusable: nodes.unusable(),
        environments: catalog.names(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Node;

    #[test]
    fn a_site_that_is_closing_offers_nothing() {
        let nodes = Nodes::new(vec![Node::new("a1".parse().unwrap(), 0, 4)]);
        let ranges = ["10.71.128.0/17".parse().unwrap()];
        let addresses = Addresses::new(&ranges, 16, []);
        let make =
            |closing| offer(&"embedded".into(), &ranges, &nodes, &addresses, &Catalog::host_only(), closing);
        assert_eq!((make(false).nodes_usable, make(false).nodes_free), (1, 1));
        assert_eq!((make(true).nodes_usable, make(true).nodes_free), (0, 0));
    }
}
