//! The node policy: the text that an administrator puts, root-owned, on every node of the site.

use protocol::identity::Pin;

use crate::config::Config;
use crate::grant_key::GrantKey;

/// The policy of this site's nodes. What is not said here stands at the monitor's defaults.
pub fn policy(config: &Config, key: &GrantKey, crm: Pin) -> String {
    let mut lines = vec![
        format!("# node policy of site {}, printed by `crm policy`", config.site),
        "# place it as /etc/gridpilot/node.policy, owned by root, mode 0644".to_owned(),
        format!("site = {}", config.site),
        format!("grant_key = {}", key.public_hex()),
        format!("crm_pin = {crm}"),
        format!("interface = {}", config.interface),
        format!("driver = {}", config.driver.name()),
    ];
    lines.extend(config.ranges.iter().map(|range| format!("range = {range}")));
    lines.extend(config.shares.iter().map(|share| format!("share = {share}")));
    lines.join("\n") + "\n"
}
