//! What the configuration says of users: where they come in, what one of them may have, who looks
//! after all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::limits::{HORIZON_S_MAX, NODES_PER_SITE_MAX};
use protocol::names::{SiteName, UserName};
use serde::Deserialize;
use toml::Spanned;

use super::{Mistake, at, capacity};
use crate::coordinator::{Limits, SiteLimits};

/// Where the users file is, if nothing else is said.
const USERS_FILE: &str = "/etc/gridpilot/users";
const DAY_S: u64 = 24 * 3600;
const RESERVATIONS_MAX: usize = 65_536;
const CONNECTIONS_MAX: usize = 1024;
const REQUESTS_MAX: usize = 65_536;
const NODES_MAX: u32 = 64 * NODES_PER_SITE_MAX as u32;

/// The door for users of other machines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remote {
    pub listen: SocketAddr,
    /// Whose ssh keys let in whom; [`crate::login::users`] reads it.
    pub users_file: PathBuf,
}

/// What one user may have open, whichever door he came in by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connections {
    pub per_user: usize,
    /// Requests that are not answered yet, over all of his connections.
    pub requests: usize,
}

impl Default for Connections {
    fn default() -> Self {
        Self { per_user: 128, requests: 1024 }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitEntries {
    reservations_per_user: Option<Spanned<usize>>,
    nodes_per_user: Option<Spanned<u32>>,
    horizon_days: Option<Spanned<u64>>,
    bandwidth_per_user: Option<Spanned<String>>,
    connections_per_user: Option<Spanned<usize>>,
    requests_per_user: Option<Spanned<usize>>,
}

/// The value, if it lies between 1 and `most`; the default, if there is none.
fn within<T: Copy + PartialOrd + From<u8> + std::fmt::Display>(
    given: Option<Spanned<T>>,
    most: T,
    default: T,
    what: &str,
) -> Result<T, Mistake> {
    match given {
        None => Ok(default),
        Some(given) if (T::from(1)..=most).contains(given.get_ref()) => Ok(given.into_inner()),
        Some(given) => Err(at(given.span(), format!("a user has 1 to {most} {what}"))),
    }
}

impl LimitEntries {
    pub(super) fn read(
        self,
        sites: BTreeMap<SiteName, SiteLimits>,
        operators: BTreeSet<UserName>,
    ) -> Result<(Limits, Connections), Mistake> {
        let (default, open) = (Limits::default(), Connections::default());
        let days = within(self.horizon_days, HORIZON_S_MAX / DAY_S, HORIZON_S_MAX / DAY_S, "days ahead")?;
        let rate_kbit = self.bandwidth_per_user.as_ref().map(capacity).transpose()?;
        let limits = Limits {
            reservations: within(
                self.reservations_per_user,
                RESERVATIONS_MAX,
                default.reservations,
                "reservations",
            )?,
            nodes: within(self.nodes_per_user, NODES_MAX, default.nodes, "nodes")?,
            horizon_s: days * DAY_S,
            rate_kbit: rate_kbit.unwrap_or(default.rate_kbit),
            sites,
            operators,
        };
        let connections = Connections {
            per_user: within(self.connections_per_user, CONNECTIONS_MAX, open.per_user, "connections")?,
            requests: within(self.requests_per_user, REQUESTS_MAX, open.requests, "open requests")?,
        };
        Ok((limits, connections))
    }
}

pub(super) fn site_limit(
    users: Option<BTreeSet<UserName>>,
    nodes: Option<Spanned<u32>>,
) -> Result<SiteLimits, Mistake> {
    let nodes = nodes.map(|nodes| within(Some(nodes), NODES_MAX, 1, "nodes at a site")).transpose()?;
    Ok(SiteLimits { users, nodes })
}

pub(super) fn remote(
    listen: Option<Spanned<SocketAddr>>,
    file: Option<Spanned<PathBuf>>,
    sites: SocketAddr,
) -> Result<Option<Remote>, Mistake> {
    if let Some(path) = &file
        && !path.get_ref().is_absolute()
    {
        return Err(at(path.span(), "users_file must be an absolute path".into()));
    }
    let Some(listen) = listen else { return Ok(None) };
    if *listen.get_ref() == sites && sites.port() != 0 {
        return Err(at(listen.span(), "listen_users is the sites' address: take another port".into()));
    }
    let users_file = file.map_or_else(|| USERS_FILE.into(), Spanned::into_inner);
    Ok(Some(Remote { listen: listen.into_inner(), users_file }))
}
