//! Who is which site: one-time tickets and pinned certificates, as files of the state directory.
//!
//! `tickets/<site>` holds the digest of a ticket's secret and when it ends; `sites/<site>.pin` the
//! pin of the certificate that burnt it. Tickets are read when they are shown, so that `grc ticket`
//! works while `grc serve` runs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use protocol::identity::{Pin, hex32};
use protocol::names::SiteName;
use protocol::refusal::Refusal;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How long a ticket may be used.
pub const TICKET_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Replaces a file whole: at any moment, also after a power cut, it is the old or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut aside: PathBuf = path.to_owned();
    aside.as_mut_os_string().push(".new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a ticket for a site, in place of an earlier one. The text is shown once and kept nowhere.
pub fn make_ticket(state: &Path, site: &SiteName, grc: Pin) -> anyhow::Result<String> {
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).context("the system gives no random bytes")?;
    let directory = state.join("tickets");
    let until = (wall() + TICKET_LIFE).as_secs();
    let record = format!("{} {until}\n", hex(&Sha256::digest(secret)));
    let path = directory.join(site.as_str());
    private_directory(&directory)
        .and_then(|()| replace(&path, record.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("gpt1.{site}.{grc}.{}", hex(&secret)))
}

/// Pins of the sites of the config.
#[derive(Debug)]
pub struct Pins {
    state: PathBuf,
    known: Mutex<BTreeMap<SiteName, Option<Pin>>>,
}

impl Pins {
    pub fn load<'a>(state: &Path, sites: impl Iterator<Item = &'a SiteName>) -> anyhow::Result<Self> {
        let mut known = BTreeMap::new();
        for site in sites {
            let path = state.join("sites").join(format!("{site}.pin"));
            let pin = match fs::read_to_string(&path) {
                Ok(text) => match hex32(text.trim()) {
                    Some(bytes) => Some(Pin(bytes)),
                    None => bail!("{} is damaged; make a new ticket and join the site again", path.display()),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            };
            known.insert(site.clone(), pin);
        }
        Ok(Self { state: state.to_owned(), known: Mutex::new(known) })
    }

    /// The site that this certificate is pinned for.
    pub fn site_of(&self, pin: Pin) -> Option<SiteName> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(_, one)| **one == Some(pin)).map(|(site, _)| site.clone())
    }

    /// Burns a ticket and pins the certificate of who showed it, in place of an earlier one.
    /// A wrong secret burns nothing: it cannot be guessed.
    pub fn register(&self, site: &SiteName, secret: &[u8; 32], pin: Pin) -> Result<(), Refusal> {
        let refused = |why: &str| Refusal::BadTicket { why: why.into() };
        // Held throughout, so that of two who show the same ticket one comes second.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(site) {
            return Err(Refusal::UnknownSite { site: site.clone() });
        }
        if known.iter().any(|(other, one)| other != site && *one == Some(pin)) {
            return Err(refused("this certificate is another site's already"));
        }
        let path = self.state.join("tickets").join(site.as_str());
        let record = fs::read_to_string(&path).map_err(|_| refused("there is none, or it was used"))?;
        let mut words = record.split_ascii_whitespace();
        let (Some(digest), Some(Ok(until))) = (words.next().and_then(hex32), words.next().map(str::parse))
        else {
            return Err(refused("its record is damaged"));
        };
        if !bool::from(Sha256::digest(secret).as_slice().ct_eq(&digest)) {
            return Err(refused("it is another one, or a newer one was made"));
        }
        if wall().as_secs() >= until {
            return Err(refused("it is too old"));
        }
        fs::remove_file(&path).map_err(|error| refused(&format!("it cannot be burnt: {error}")))?;
        let directory = self.state.join("sites");
        private_directory(&directory)
            .and_then(|()| replace(&directory.join(format!("{site}.pin")), format!("{pin}\n").as_bytes()))
            .map_err(|error| refused(&format!("the pin cannot be kept: {error}")))?;
        known.insert(site.clone(), Some(pin));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(ticket: &str) -> [u8; 32] {
        hex32(ticket.rsplit('.').next().unwrap()).unwrap()
    }

    #[test]
    fn a_ticket_pins_one_certificate_once_and_over_restarts() {
        let state = tempfile::tempdir().unwrap();
        let (a, b): (SiteName, SiteName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let pins = Pins::load(state.path(), [&a, &b].into_iter()).unwrap();
        let refused = |result: Result<(), Refusal>| result.unwrap_err().to_string();
        let ticket = make_ticket(state.path(), &a, Pin([9; 32])).unwrap();
        assert!(ticket.starts_with(&format!("gpt1.a.{}.", Pin([9; 32]))));
        assert!(refused(pins.register(&a, &[0; 32], Pin([1; 32]))).contains("another one"));
        assert!(refused(pins.register(&b, &secret(&ticket), Pin([1; 32]))).contains("there is none"));
        let unknown: SiteName = "c".parse().unwrap();
        assert!(refused(pins.register(&unknown, &secret(&ticket), Pin([1; 32]))).contains("no site"));
        pins.register(&a, &secret(&ticket), Pin([1; 32])).unwrap();
        assert!(refused(pins.register(&a, &secret(&ticket), Pin([2; 32]))).contains("used"));
        assert_eq!(pins.site_of(Pin([1; 32])), Some(a.clone()));
        assert_eq!(pins.site_of(Pin([2; 32])), None);
        let other = make_ticket(state.path(), &b, Pin([9; 32])).unwrap();
        assert!(refused(pins.register(&b, &secret(&other), Pin([1; 32]))).contains("another site's"));
        let again = Pins::load(state.path(), [&a].into_iter()).unwrap();
        assert_eq!(again.site_of(Pin([1; 32])), Some(a.clone()));
        // A new ticket moves the site to a new certificate.
        let renewed = make_ticket(state.path(), &a, Pin([9; 32])).unwrap();
        again.register(&a, &secret(&renewed), Pin([3; 32])).unwrap();
        assert_eq!(again.site_of(Pin([1; 32])), None);
    }

    #[test]
    fn an_old_ticket_and_one_that_was_replaced_are_refused() {
        let state = tempfile::tempdir().unwrap();
        let a: SiteName = "a".parse().unwrap();
        let pins = Pins::load(state.path(), [&a].into_iter()).unwrap();
        let first = make_ticket(state.path(), &a, Pin([9; 32])).unwrap();
        let second = make_ticket(state.path(), &a, Pin([9; 32])).unwrap();
        assert!(pins.register(&a, &secret(&first), Pin([1; 32])).is_err());
        let path = state.path().join("tickets/a");
        let record = fs::read_to_string(&path).unwrap();
        let digest = record.split(' ').next().unwrap();
        fs::write(&path, format!("{digest} {}\n", wall().as_secs())).unwrap();
        let refusal = pins.register(&a, &secret(&second), Pin([1; 32])).unwrap_err();
        assert!(refusal.to_string().contains("too old"), "{refusal}");
    }
}
