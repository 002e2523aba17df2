//! Environments: what software a sandbox sees.
//!
//! A site holds a set of environments, the [`Catalog`]. Every site holds `host`, the node's own
//! tree, which is the lower layer of a sandbox's root as it is and needs nothing to be fetched.
//!
//! An environment made from packages will be known by its lock (the digest of its exact package
//! list) and enters here as a second kind of [`Root`], beside `HostTree`: the catalog then also
//! knows which of the lock's blobs the site's cache holds. Nothing else in the CRM depends on how
//! an environment comes to be; it asks the catalog by name and passes the name on.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use protocol::names::EnvironmentName;

/// What the read-only part of a sandbox's root is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Root {
    /// The node's own tree, whatever is installed there.
    HostTree,
}

/// One environment that the site can start now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Environment {
    pub name: EnvironmentName,
    pub root: Root,
}

/// The environment is not held here; names what was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("environment {name} is not held here; held are: {held}")]
pub struct UnknownEnvironment {
    pub name: EnvironmentName,
    /// What is held, for people.
    pub held: String,
}

/// The environments that one site holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Catalog {
    held: BTreeMap<EnvironmentName, Environment>,
}

impl Catalog {
    /// A site without prepared environments: it holds `host` and nothing else.
    pub fn host_only() -> Self {
        let host = Environment { name: EnvironmentName::host(), root: Root::HostTree };
        Self { held: BTreeMap::from([(host.name.clone(), host)]) }
    }

    /// The environment of that name.
    ///
    /// # Errors
    /// Names the environment that is missing and those that are there.
    pub fn find(&self, name: &EnvironmentName) -> Result<&Environment, UnknownEnvironment> {
        self.held.get(name).ok_or_else(|| UnknownEnvironment {
            name: name.clone(),
            held: self.held.keys().map(EnvironmentName::as_str).collect::<Vec<_>>().join(", "),
        })
    }

    /// Every name held, in order: what the site publishes.
    pub fn names(&self) -> Vec<EnvironmentName> {
        self.held.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_holds_the_hosts_own_tree() {
        let catalog = Catalog::host_only();
        let host = catalog.find(&EnvironmentName::host()).unwrap();
        assert_eq!(host.root, Root::HostTree);
        assert_eq!(catalog.names(), [EnvironmentName::host()]);
    }

    #[test]
    fn an_environment_that_is_not_held_is_refused_by_name() {
        let name: EnvironmentName = "debian-12.5".parse().unwrap();
        let error = Catalog::host_only().find(&name).unwrap_err();
        assert_eq!(error.to_string(), "environment debian-12.5 is not held here; held are: host");
    }
}
