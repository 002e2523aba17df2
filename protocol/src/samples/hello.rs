//! Samples of the greeting, which the codec has no part in.

use crate::hello::{Hello, Role};

/// The greeting of every role, by name. The versions are fixed: the bytes must not move when a
/// build speaks another version.
pub fn hello() -> Vec<(&'static str, Hello)> {
    let of = |role| {
        let name = match role {
            Role::Client => "Hello.Client",
            Role::Grc => "Hello.Grc",
            Role::Crm => "Hello.Crm",
            Role::Agent => "Hello.Agent",
        };
        (name, Hello { role, version_min: 1, version_max: 258, software: "gridpilot 0.1.0".into() })
    };
    [Role::Client, Role::Grc, Role::Crm, Role::Agent].map(of).into()
}
