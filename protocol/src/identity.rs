//! A program's identity: an ed25519 key with a self-signed certificate. Peers know each other by
//! [`Pin`], the digest of the certificate; no chain, name or date in it is ever looked at, so
//! there is nothing to parse and nothing to expire unseen.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// SHA-256 of a certificate's DER encoding: what a peer is known by.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        hex32(text).map(Self).ok_or(IdentityError::BadPin)
    }
}

/// 32 bytes from 64 hexadecimal digits.
pub fn hex32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// What can go wrong with an identity and its files.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} can be read by others; its mode must be 0600")]
    Exposed { path: PathBuf },
    #[error("{path} is damaged")]
    Damaged { path: PathBuf },
    #[error("a pin is 64 hexadecimal digits")]
    BadPin,
    #[error("the system gives no key: {0}")]
    Generate(String),
}

/// Key and certificate of one program.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin())
    }
}

impl Identity {
    /// A fresh one. `name` stands in the certificate for people only.
    pub fn generate(name: &str) -> Result<Self, IdentityError> {
        let failed = |e: rcgen::Error| IdentityError::Generate(e.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?;
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Self { certificate, key: Zeroizing::new(key.serialize_der()) })
    }

    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// Reads `certificate.der` and `key.der` of a directory; a key that others can read is refused.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let certificate = read("certificate.der")?;
        let key = Zeroizing::new(read("key.der")?);
        let path = directory.join("key.der");
        let mode = fs::metadata(&path)
            .map_err(|source| IdentityError::Read { path: path.clone(), source })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path });
        }
        if key.is_empty() || certificate.is_empty() {
            return Err(IdentityError::Damaged { path });
        }
        Ok(Self { certificate: certificate.into(), key })
    }

    /// Writes both files, the key with mode 0600. Refuses to replace a key that is there.
    pub fn save(&self, directory: &Path) -> Result<(), IdentityError> {
        write_private(&directory.join("key.der"), &self.key)?;
        let path = directory.join("certificate.der");
        fs::write(&path, &self.certificate).map_err(|source| IdentityError::Write { path, source })
    }
}

/// Makes a new file of mode 0600 that must not exist yet, synced to disk.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Write { path: path.to_owned(), source };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a secret is worth nothing, and would keep a second attempt from writing it.
        let _ = fs::remove_file(path);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests;
