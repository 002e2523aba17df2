//! What the site publishes, made from what it has.

use std::time::Duration;

use protocol::site::Offer;

use crate::addresses::Addresses;
use crate::nodes::Nodes;
use crate::queue::Queue;
use crate::site::{Settings, lasts_max};

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// The offer of this moment. Equal states give equal offers, so that only changes are sent.
pub fn offer(
    settings: &Settings,
    nodes: &Nodes,
    addresses: &Addresses,
    queue: &Queue,
    lead: Duration,
    now: Duration,
) -> Offer {
    let limits = queue.state();
    Offer {
        batch_system: settings.batch_system.clone(),
        ranges: settings.ranges.to_vec(),
        reserved: addresses.never_carve(),
        nodes_usable: nodes.usable(),
        nodes_free: nodes.free(now),
        layers: nodes.layers(),
        lead_s: seconds(lead),
        unusable: nodes.unusable(),
        environments: settings.catalog.names(),
        queue: settings.queue.clone(),
        pilots_s: seconds(settings.times.pilots),
        nodes_max: limits.nodes_max,
        lasts_s_max: limits.walltime_max.map(|max| seconds(lasts_max(max, settings.times.grace))),
        paused: queue.paused_as(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Node;
    use crate::queue::QueueState;

    #[test]
    fn every_layer_has_the_nodes_that_take_so_many() {
        let node = |name: &str, members| Node::new(name.parse().unwrap(), 0, members);
        let nodes = Nodes::new(vec![node("a1", 4), node("a2", 1)]);
        let ranges = ["10.71.128.0/17".parse().unwrap()];
        let addresses = Addresses::new(&ranges, 16, []);
        let settings = Settings {
            name: "a".parse().unwrap(),
            batch_system: "embedded".into(),
            anonymous: false,
            ranges: ranges.to_vec(),
            reserved: vec![],
            prefix_len: 16,
            gateway: None,
            mtu: 1500,
            driver: grant::Driver::Macvlan,
            times: crate::pilot::Times::default(),
            lead: Duration::ZERO,
            early: None,
            hold: Duration::from_secs(600),
            word: Duration::from_secs(10),
            queue: "".into(),
            catalog: sandbox_images::Catalog::host_only(),
        };
        let mut queue = Queue::default();
        let (lead, now) = (Duration::from_secs(10), Duration::ZERO);
        let first = offer(&settings, &nodes, &addresses, &queue, lead, now);
        assert_eq!(first.layers, [2, 1, 1, 1]);
        assert_eq!((first.nodes_usable, first.nodes_free, first.lead_s), (2, 2, 10));
        assert_eq!((first.nodes_max, first.lasts_s_max, &first.paused), (None, None, &None));
        first.check().unwrap();

        let walltime_max = Some(Duration::from_secs(3600));
        let _ = queue.heard(now, Ok(QueueState { closed: None, nodes_max: Some(1), walltime_max }));
        queue.turned_back(now, "the partition is down".into());
        let second = offer(&settings, &nodes, &addresses, &queue, lead, now);
        assert_eq!(second.nodes_max, Some(1));
        // What it says fits: one second more would not.
        let margins = crate::site::LEASE_MARGIN + settings.times.grace;
        let lasts = second.lasts_s_max.unwrap() + margins.as_secs() as u32;
        assert!(crate::site::walltime(lasts) <= Duration::from_secs(3600));
        assert!(crate::site::walltime(lasts + 1) > Duration::from_secs(3600));
        assert!(second.paused.unwrap().as_str().contains("the partition is down"));
    }
}
