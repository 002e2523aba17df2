//! The real owners as processes of the simulator: how they are started from what is durable, and
//! which of their actions is a record.

use std::collections::BTreeMap;
use std::time::Duration;

use crm::nodes::Node;
use crm::pilot::Times;
use crm::site::Site;
use grc::coordinator::{Coordinator, Deadlines};
use protocol::codec;
use sandbox_images::Catalog;

use crate::host::Owner;
use crate::store::Write;
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
        let grc::coordinator::Action::Record(record) = action else { return None };
        Some(match record {
            grc::record::Record::Put(value) => {
                let (table, id) = value.key().encode();
                ([&[table], id.as_slice()].concat(), value.encode().ok())
            }
            grc::record::Record::Forget(key) => {
                let (table, id) = key.encode();
                ([&[table], id.as_slice()].concat(), None)
            }
        })
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
        let key = [&[table], id.as_slice()].concat();
        Some(match record {
            crm::record::Record::Put(_, value) => (key, value.encode().ok()),
            crm::record::Record::Forget(_) => (key, None),
        })
    }
}
