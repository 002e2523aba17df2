//! The configuration files of a local grid, as an administrator would write them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::account::Account;
use crate::batch;
use crate::links::pairs;
use crate::netns::{GRC_ADDRESS, machine_address, site_name};
use crate::node::{Machine, Role};
use crate::state::State;
use crate::users::{self, GUEST, USERS_PORT};

/// Port on which the GRC waits for CRMs.
pub const GRC_PORT: u16 = 7400;
/// Port on which a CRM waits for pilots.
pub const CRM_PORT: u16 = 7401;

/// `grc.toml`. Root, who needs no account to run jobs with, is the account's grid user.
pub fn grc_config(state: &State, account: &Account) -> String {
    let mut text = format!(
        "state = {}\nlisten = \"{GRC_ADDRESS}:{GRC_PORT}\"\nsocket = {}\nlisten_users = \"{GRC_ADDRESS}:{USERS_PORT}\"\n\
         users_file = {}\n\n[users]\nroot = \"{user}\"\n",
        quoted(&state.path("state/grc")),
        quoted(&state.socket()),
        quoted(&users::users_file(state)),
        user = account.grid_user(),
    );
    if account.grid_user() != account.name {
        let _ = writeln!(text, "{} = {:?}", toml_key(&account.name), account.grid_user());
    }
    for site in 0..state.plan.sites {
        let supernet = state.plan.links.supernet(site);
        let _ = write!(text, "\n[[site]]\nname = \"{}\"\nsupernets = [\"{supernet}\"]\n", site_name(site));
        if let Some(uplink) = state.plan.links.uplink {
            let _ = writeln!(text, "uplink = \"{uplink}\"");
        }
    }
    if let Some(capacity) = state.plan.links.link {
        for (a, b) in pairs(state.plan.sites) {
            let (a, b) = (site_name(a), site_name(b));
            let _ = write!(text, "\n[[link]]\nbetween = [\"{a}\", \"{b}\"]\ncapacity = \"{capacity}\"\n");
        }
    }
    text
}

/// Short, so that a test of silence does not take long.
pub const LEASE_S: u32 = 5;

/// `crm.toml` of one site with its nodes behind the site's batch system.
pub fn crm_config(state: &State, site: u32) -> String {
    let name = site_name(site);
    let mut text = format!(
        r#"site = "{name}"
state = {state_directory}
grc = "{GRC_ADDRESS}:{GRC_PORT}"
listen = "{head}:{CRM_PORT}"
launcher = {launcher}
mapfile = {mapfile}
ranges = ["{range}"]
prefix_len = 16
gateway = "{gateway}"
mtu = 1500
driver = "{driver}"

{times}"#,
        state_directory = quoted(&state.path(&format!("state/crm-{name}"))),
        head = machine_address(site, 0),
        launcher = quoted(&state.path("lib/launcher")),
        mapfile = quoted(&state.path("etc/grid-mapfile")),
        range = state.plan.links.sandbox_range(site),
        gateway = state.plan.links.gateway(site),
        driver = state.plan.driver.name(),
        times =
            state.plan.lease_s.map(|lease_s| format!("[times]\nlease_s = {lease_s}\n\n")).unwrap_or_default(),
    );
    text.push_str(&match batch::queue(state.plan.batch.of(site)) {
        Some(queue) => queue.crm_table(state, site),
        None => embedded_table(state, site),
    });
    text
}

/// The `[batch]` table of a site whose CRM starts the pilots itself, by stepping into the node's
/// machine as root and dropping to the account there.
fn embedded_table(state: &State, site: u32) -> String {
    let mut text = "[batch]\nsystem = \"embedded\"\n".to_owned();
    for node in nodes_of(state, site) {
        let mut start = node.enter();
        let drop = ["setpriv", "--reuid={uid}", "--regid={gid}", "--init-groups", "--inh-caps=-all", "--"];
        start.extend(drop.map(String::from));
        let members = if state.plan.batch.alone { 1 } else { 4 };
        let _ = write!(
            text,
            "\n[[batch.node]]\nname = \"{}\"\nslots = 4\nmembers = {members}\nstart = {start:?}\n",
            node.name
        );
    }
    text
}

/// `grid-mapfile`: the users of the grid are the account at every site.
pub fn mapfile(account: &Account) -> String {
    format!("\"{}\" {name}\n\"{GUEST}\" {name}\n", account.grid_user(), name = account.name)
}

/// The nodes of one site.
pub fn nodes_of(state: &State, site: u32) -> impl Iterator<Item = &Machine> {
    state.machines.iter().filter(move |m| m.role == Role::Node && m.site == Some(site))
}

/// Files of configuration, once the machines are known.
pub fn write_configs(state: &State, account: &Account) -> Result<()> {
    write_public(&state.path("etc/grc.toml"), &grc_config(state, account))?;
    write_public(&state.path("etc/grid-mapfile"), &mapfile(account))?;
    users::make(state, account)?;
    for site in 0..state.plan.sites {
        write_public(&crm_config_path(state, site), &crm_config(state, site))?;
    }
    Ok(())
}

/// Where a CRM finds its configuration.
pub fn crm_config_path(state: &State, site: u32) -> PathBuf {
    state.path(&format!("etc/crm-{}.toml", site_name(site)))
}

/// Writes a file that everybody may read and only root may change.
pub fn write_public(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

fn toml_key(name: &str) -> String {
    format!("{name:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Links;
    use crate::state::Plan;

    fn grc_toml(links: Links) -> toml::Table {
        let plan = Plan { sites: 3, nodes: 1, links, ..Plan::new("/nowhere".into()) };
        let account = Account { name: "somebody".into(), uid: 1000, gid: 1000, home: "/home/x".into() };
        grc_config(&State::new(plan), &account).parse().unwrap()
    }

    #[test]
    fn the_grc_is_told_of_every_pair_once_and_of_nothing_that_was_not_asked() {
        let rate = |text: &str| Some(text.parse().unwrap());
        let told = grc_toml(Links { link: rate("200Mbit"), uplink: rate("1Gbit"), ..Links::default() });
        let links = told["link"].as_array().unwrap();
        let pairs: Vec<_> = links
            .iter()
            .map(|link| (link["between"][0].as_str().unwrap(), link["between"][1].as_str().unwrap()))
            .collect();
        assert_eq!(pairs, [("a", "b"), ("a", "c"), ("b", "c")]);
        assert!(links.iter().all(|link| link["capacity"].as_str() == Some("200Mbit")));
        let sites = told["site"].as_array().unwrap();
        assert!(sites.iter().all(|site| site["uplink"].as_str() == Some("1Gbit")));
        let plain = grc_toml(Links { link: None, ..Links::default() });
        assert!(!plain.contains_key("link") && !plain["site"][0].as_table().unwrap().contains_key("uplink"));
    }
}
