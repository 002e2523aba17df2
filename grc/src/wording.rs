//! Sentences that the GRC and `gridpilot` both say, and that need more than a refusal knows of
//! itself.

use protocol::refusal::Resource;

use crate::rates;

/// The shortest form in which people write a duration: `1h30m`, `2d`, `0s`.
pub fn show_duration(seconds: u64) -> String {
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, letter) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
        if rest >= unit {
            text.push_str(&format!("{}{letter}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What is short and by how much: `the link a-b has 50Mbit left in that window, 100Mbit are needed`.
pub fn no_room(resource: &Resource, asked: u64, have: u64) -> String {
    match resource {
        Resource::Nodes { .. } => {
            format!("{resource} has {have} free nodes in that window, {asked} are needed")
        }
        Resource::Addresses { .. } => {
            format!("{resource} has {have} free addresses in that window, {asked} are needed")
        }
        Resource::Link { .. } | Resource::Uplink { .. } => {
            format!(
                "{resource} has {} left in that window, {} are needed",
                rates::show(have),
                rates::show(asked)
            )
        }
    }
}
