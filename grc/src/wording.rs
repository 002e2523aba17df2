//! Sentences that the GRC and `gridpilot` both say, and that need more than a refusal knows of
//! itself.

use protocol::refusal::Resource;

use crate::rates;

/// What is short and by how much: `the link a-b has 50Mbit left then, 100Mbit are needed`.
pub fn no_room(resource: &Resource, asked: u64, have: u64) -> String {
    match resource {
        Resource::Nodes { .. } => format!("{resource} has {have} free nodes then, {asked} are needed"),
        Resource::Addresses { .. } => {
            format!("{resource} has {have} free addresses then, {asked} are needed")
        }
        Resource::Link { .. } | Resource::Uplink { .. } => {
            format!("{resource} has {} left then, {} are needed", rates::show(have), rates::show(asked))
        }
    }
}
