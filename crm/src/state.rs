//! The state directory: identity, grant key and the pin of the GRC. Private to the CRM's account.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use protocol::identity::{Identity, Pin};

use crate::grant_key::GrantKey;

const GRC_PIN: &str = "grc.pin";

/// What is kept.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    pub identity: Identity,
    pub grant_key: GrantKey,
}

impl State {
    /// Opens the directory, made with mode 0700 if it is not there; makes what is missing of
    /// identity and grant key. A directory that others can enter is refused.
    pub fn open(directory: &Path, site: &str) -> Result<Self> {
        let named = || format!("state directory {}", directory.display());
        if !directory.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
        }
        let mode = fs::metadata(directory).with_context(named)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("{} is open to others (mode {:03o}); its mode must be 700", named(), mode & 0o777);
        }
        let identity = if directory.join("key.der").exists() {
            Identity::load(directory)?
        } else {
            let identity = Identity::generate(&format!("crm of site {site}"))?;
            identity.save(directory)?;
            identity
        };
        let grant_key = GrantKey::open_or_make(directory)?;
        Ok(Self { directory: directory.to_owned(), identity, grant_key })
    }

    /// The GRC that this site joined.
    pub fn grc_pin(&self) -> Result<Pin> {
        let path = self.directory.join(GRC_PIN);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("this site has not joined a grid ({}); run `crm join`", path.display())
        })?;
        text.trim().parse().with_context(|| format!("{} is damaged; run `crm join` again", path.display()))
    }

    /// Remembers the GRC; a new one replaces the old.
    pub fn set_grc_pin(&self, pin: Pin) -> Result<()> {
        let path = self.directory.join(GRC_PIN);
        let aside = self.directory.join("grc.pin.new");
        fs::write(&aside, format!("{pin}\n")).with_context(|| aside.display().to_string())?;
        fs::rename(&aside, &path).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_found_again_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = State::open(&path, "a").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(first.grc_pin().unwrap_err().to_string().contains("crm join"));
        first.set_grc_pin(Pin([7; 32])).unwrap();
        let again = State::open(&path, "a").unwrap();
        assert_eq!(again.identity.pin(), first.identity.pin());
        assert_eq!(again.grant_key.public_hex(), first.grant_key.public_hex());
        assert_eq!(again.grc_pin().unwrap(), Pin([7; 32]));
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(State::open(dir.path(), "a").unwrap_err().to_string().contains("mode 755"));
    }
}
