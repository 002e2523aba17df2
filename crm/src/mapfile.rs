//! The grid-mapfile: which local account a grid user's pilots run as.
//!
//! One mapping per line: the grid user in double quotes, then the account. `#` begins a comment.
//! ```text
//! # grid user      account
//! "alice"          alice
//! "bob"            guest01
//! ```
//! A grid user who is not named has no account here. Without a file every grid user maps to the
//! account of the same name. Root is nobody's account.
//!
//! A CRM that root started submits pilots to a queue as whatever account a user is mapped to. One
//! that an ordinary user started can be nobody else there, and serves that account alone. (Of the
//! embedded system the start command becomes the account.)

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};
use protocol::names::{SiteName, UserName};
use protocol::refusal::Refusal;

use crate::site::Account;

/// Why the file cannot be used; names the line.
#[derive(Debug, thiserror::Error)]
pub enum MapfileError {
    #[error("cannot read the grid-mapfile {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {what}")]
    Line { path: PathBuf, line: usize, what: String },
}

/// The mapping of one file, or the identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mapfile {
    /// No file is configured: same name.
    SameName,
    Named(BTreeMap<UserName, UserName>),
}

impl Mapfile {
    /// Reads the file anew: a change counts from the next hold on.
    pub fn load(path: Option<&Path>) -> Result<Self, MapfileError> {
        let Some(path) = path else { return Ok(Self::SameName) };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(source) => Err(MapfileError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, MapfileError> {
        let mut map = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |what: String| MapfileError::Line { path: path.to_owned(), line: number + 1, what };
            let (user, account) = line
                .strip_prefix('"')
                .and_then(|rest| rest.split_once('"'))
                .filter(|(_, rest)| rest.starts_with(char::is_whitespace))
                .ok_or_else(|| at("a line reads: \"grid user\" local-account".into()))?;
            let user: UserName = user.parse().map_err(|e| at(format!("{e}")))?;
            let account: UserName = account.trim().parse().map_err(|e| at(format!("{e}")))?;
            if account.as_str() == "root" {
                return Err(at("root is nobody's account".into()));
            }
            if map.insert(user.clone(), account).is_some() {
                return Err(at(format!("user {user} is mapped twice")));
            }
        }
        Ok(Self::Named(map))
    }

    /// The name of the account, if the user has one here.
    pub fn account(&self, user: &UserName) -> Option<UserName> {
        match self {
            Self::SameName => Some(user.clone()),
            Self::Named(map) => map.get(user).cloned(),
        }
    }
}

/// Whom a site's CRM serves, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The grid-mapfile, if there is one.
    pub mapfile: Option<PathBuf>,
    /// Only the account that the CRM itself runs as, unless that is root.
    pub own_only: bool,
}

/// The account of a grid user as the system knows it. May ask a network service: not for the
/// owner's task.
///
/// # Errors
/// `Refusal::UserNotMapped` when there is none, or one that this CRM cannot be; `AgainstPolicy` when
/// it is root's.
pub fn look_up(accounts: &Accounts, site: &SiteName, user: &UserName) -> Result<Account, Refusal> {
    let not_mapped = || Refusal::UserNotMapped { site: site.clone(), user: user.as_str().into() };
    let map = Mapfile::load(accounts.mapfile.as_deref()).map_err(|error| {
        tracing::error!("{error}");
        not_mapped()
    })?;
    let name = map.account(user).ok_or_else(not_mapped)?;
    let entry = User::from_name(name.as_str()).ok().flatten().ok_or_else(|| {
        tracing::warn!("grid user {user} maps to {name}, which is no account of this machine");
        not_mapped()
    })?;
    if entry.uid.is_root() {
        let what = format!("user {user} is mapped to {name}, whose uid is 0").into();
        return Err(Refusal::AgainstPolicy { site: site.clone(), what });
    }
    let account = Account { name, uid: entry.uid.as_raw(), gid: entry.gid.as_raw() };
    if !accounts.own_only || is_served(geteuid(), &account) {
        return Ok(account);
    }
    let own = User::from_uid(geteuid()).ok().flatten().map(|own| own.name);
    let own = own.unwrap_or_else(|| format!("uid {}", geteuid()));
    let user = format!("{user} (account {}; the site's CRM serves {own} alone)", account.name);
    Err(Refusal::UserNotMapped { site: site.clone(), user: user.into() })
}

/// Whether a CRM of this uid can start pilots as the account.
fn is_served(own: Uid, account: &Account) -> bool {
    own.is_root() || own.as_raw() == account.uid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mapfile, String> {
        Mapfile::parse(Path::new("map"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_named_user_has_the_named_account_and_others_have_none() {
        let map = parse("# comment\n\n  \"alice\"   al\n\"bob\"\tguest-01  \n").unwrap();
        let account = |user: &str| map.account(&user.parse().unwrap()).map(String::from);
        assert_eq!(account("alice").as_deref(), Some("al"));
        assert_eq!(account("bob").as_deref(), Some("guest-01"));
        assert_eq!(account("carol"), None);
        assert_eq!(
            Mapfile::SameName.account(&"carol".parse().unwrap()).map(String::from).as_deref(),
            Some("carol")
        );
    }

    #[test]
    fn every_other_line_is_refused_with_its_number() {
        for bad in [
            "alice al",
            "\"alice\"",
            "\"alice\"al",
            "\"alice al",
            "\"alice\" al bob",
            "\"alice\" root",
            "\"Alice\" al",
            "\"alice\" ../al",
            "\"\" al",
            "\"bob\" b\n\"bob\" c",
        ] {
            let error = parse(&format!("# first\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("map:2:") || error.starts_with("map:3:"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn only_root_serves_more_than_its_own_account() {
        let account = Account { name: "alice".parse().unwrap(), uid: 1001, gid: 1001 };
        for (own, served) in [(0, true), (1001, true), (1002, false)] {
            assert_eq!(is_served(Uid::from_raw(own), &account), served, "{own}");
        }
    }

    #[test]
    fn root_and_unknown_accounts_are_refused() {
        let site = "a".parse().unwrap();
        let accounts = Accounts::default();
        let root = look_up(&accounts, &site, &"root".parse().unwrap()).unwrap_err();
        assert!(matches!(root, Refusal::AgainstPolicy { .. }), "{root}");
        let nobody = look_up(&accounts, &site, &"no_such_account_here".parse().unwrap()).unwrap_err();
        assert!(matches!(nobody, Refusal::UserNotMapped { .. }), "{nobody}");
    }
}
