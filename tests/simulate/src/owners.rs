//! The real owners as processes of the simulator: how they are started from what is durable, and
//! which of their actions is a record.

use std::time::Duration;

use crm::nodes::Node;
use crm::pilot::Times;
use crm::site::Site;
use grc::coordinator::{Coordinator, Deadlines};
use ipnet::Ipv4Net;
use journal::Write;
use sandbox_images::Catalog;

use crate::host::Owner;
use crate::world::World;

impl Owner for Coordinator {
    type Event = grc::coordinator::Event;
    type Action = grc::coordinator::Action;

    fn step(&mut self, now: Duration, event: Self::Event) -> Vec<Self::Action> {
        self.step(now, event)
    }

    fn next_wake(&self) -> Option<Duration> {
        self.next_wake()
    }

    fn record(action: &Self::Action) -> Option<Write> {
        match action {
            grc::coordinator::Action::Record(record) => record.encode().ok(),
            _ => None,
        }
    }
}

impl Owner for Site {
    type Event = crm::site::Event;
    type Action = crm::site::Action;

    fn step(&mut self, now: Duration, event: Self::Event) -> Vec<Self::Action> {
        self.step(now, event)
    }

    fn next_wake(&self) -> Option<Duration> {
        self.next_deadline()
    }

    fn record(action: &Self::Action) -> Option<Write> {
        let crm::site::Action::Record(record) = action else { return None };
        let (table, id) = record.key().table_and_id();
        let key = journal::Key::new(table, &id).ok()?;
        Some(match record {
            crm::record::Record::Put(_, value) => Write::Put { key, value: value.encode().ok()? },
            crm::record::Record::Forget(_) => Write::Delete { key },
        })
    }
}

/// Shorter than those of a real grid, so that more of them pass in one history.
const DEADLINES: Deadlines = Deadlines {
    waiting: Duration::from_secs(600),
    holding: Duration::from_secs(5),
    starting: Duration::from_secs(40),
    joining: Duration::from_secs(20),
    ending: Duration::from_secs(20),
    quarantine: Duration::from_secs(15),
    grace: Duration::from_secs(2),
};

const TIMES: Times = Times {
    pilots: Duration::from_secs(20),
    setup: Duration::from_secs(10),
    keys: Duration::from_secs(10),
    run: Duration::from_secs(10),
    end: Duration::from_secs(5),
    lease: Duration::from_secs(6),
    grace: Duration::from_secs(2),
};

fn net(text: &str) -> Vec<Ipv4Net> {
    text.parse().into_iter().collect()
}

impl World {
    /// The GRC out of what is durable on its disk.
    pub fn restore_grc(&self) -> (Coordinator, Vec<grc::coordinator::Action>) {
        let names = || self.sites.iter().map(|place| &place.name);
        let pairs = names().flat_map(|a| names().filter(move |b| a < b).map(move |b| (a.clone(), b.clone())));
        let pairs = pairs.map(|pair| (pair, self.scenario.link_kbit));
        let uplinks = self.sites.iter().filter_map(|p| Some((p.name.clone(), p.spec.uplink_kbit?)));
        let settings = grc::coordinator::Settings {
            supernets: self.sites.iter().map(|place| (place.name.clone(), net("10.1.0.0/16"))).collect(),
            deadlines: DEADLINES,
            limits: grc::coordinator::Limits::default(),
            links: pairs.collect(),
            uplinks: uplinks.collect(),
        };
        let values = self.grc.disk.records().filter_map(|(_, bytes)| grc::record::Value::decode(bytes).ok());
        Coordinator::restore(settings, values.map(grc::record::Record::Put).collect())
    }

    /// A CRM out of what is durable on its disk.
    pub fn restore_site(&self, site: usize) -> (Site, Vec<crm::site::Action>) {
        let place = &self.sites[site];
        let settings = crm::site::Settings {
            name: place.name.clone(),
            batch_system: "simulated".into(),
            anonymous: false,
            ranges: net(place.spec.range),
            reserved: Vec::new(),
            prefix_len: 16,
            gateway: None,
            mtu: 1500,
            driver: grant::Driver::Macvlan,
            times: TIMES,
            lead: Duration::from_secs(3),
            early: site.is_multiple_of(2).then_some(Duration::from_secs(1)),
            hold: Duration::from_secs(12),
            word: Duration::from_secs(10),
            queue: "main".into(),
            catalog: Catalog::host_only(),
        };
        let node = |name: &protocol::names::NodeName| Node::new(name.clone(), 0, place.spec.members_max);
        let nodes = place.nodes.iter().map(node).collect();
        let records = place.host.disk.records().filter_map(|(key, bytes)| {
            let key = crm::record::Key::from_table_and_id(key.table(), key.id())?;
            Some(crm::record::Record::Put(key, crm::record::Value::decode(bytes).ok()?))
        });
        Site::restore(settings, nodes, place.host.now(self.agenda.now()), records)
    }
}
