//! Private keys in files. They are read for one login and wiped. What a file cannot be used for, an
//! agent can: a passphrase is never asked here, and RSA is signed by agents only
//! (`decisions/0014`).

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair,
};
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData};
use zeroize::Zeroizing;

use crate::cli::client::reason;
use crate::login::key::Key;
use crate::login::wire::{put_number, put_string};

/// Longest key file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A private key that can sign.
pub struct KeyFile {
    pub path: PathBuf,
    pub key: Key,
    private: PrivateKey,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({}, {})", self.path.display(), self.key)
    }
}

/// The public half that stands beside a private key, if it does.
pub fn public_beside(path: &Path) -> Option<Key> {
    let public = match path.extension() {
        Some(extension) if extension == "pub" => path.to_owned(),
        _ => PathBuf::from(format!("{}.pub", path.to_str()?)),
    };
    let text = fs::read_to_string(public).ok()?;
    let mut words = text.split_ascii_whitespace();
    Key::from_words(words.next()?, words.next()?).ok()
}

impl KeyFile {
    /// # Errors
    /// One line: why it cannot be used, and what can be done.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let found = fs::metadata(path).map_err(|error| format!("{shown}: {}", reason(&error)))?;
        if found.mode() & 0o077 != 0 {
            return Err(format!("{shown} can be read by others; `chmod 600` it"));
        }
        if !found.is_file() || found.len() > FILE_BYTES_MAX {
            return Err(format!("{shown} is no key file"));
        }
        let text =
            fs::read(path).map(Zeroizing::new).map_err(|error| format!("{shown}: {}", reason(&error)))?;
        let agent = format!("let your agent have it: `ssh-add {shown}`");
        let private = PrivateKey::from_openssh(text.as_slice())
            .map_err(|_| format!("{shown} is no private key in OpenSSH's format; {agent}"))?;
        if private.is_encrypted() {
            return Err(format!("{shown} has a passphrase; {agent}"));
        }
        let public = private.public_key().to_bytes().map_err(|_| format!("{shown} is damaged"))?;
        let key = Key::from_bytes(&public).map_err(|error| format!("{shown}: {error}"))?;
        if key.is_rsa() {
            return Err(format!("{shown} is an RSA key; {agent}"));
        }
        Ok(Self { path: path.to_owned(), key, private })
    }

    /// Its signature, in the form in which ssh sends it; `None` if the file is damaged.
    pub fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        let (name, made) = match self.private.key_data() {
            KeypairData::Ed25519(pair) => {
                let seed = Zeroizing::new(pair.private.to_bytes());
                let signer =
                    Ed25519KeyPair::from_seed_and_public_key(seed.as_slice(), &pair.public.0).ok()?;
                ("ssh-ed25519", signer.sign(data).as_ref().to_vec())
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, private }) => {
                let by = &ECDSA_P256_SHA256_FIXED_SIGNING;
                ("ecdsa-sha2-nistp256", ecdsa(by, private.as_slice(), public.as_bytes(), data)?)
            }
            KeypairData::Ecdsa(EcdsaKeypair::NistP384 { public, private }) => {
                let by = &ECDSA_P384_SHA384_FIXED_SIGNING;
                ("ecdsa-sha2-nistp384", ecdsa(by, private.as_slice(), public.as_bytes(), data)?)
            }
            _ => return None,
        };
        let mut signature = Vec::new();
        put_string(&mut signature, name.as_bytes());
        put_string(&mut signature, &made);
        Some(signature)
    }
}

fn ecdsa(by: &'static EcdsaSigningAlgorithm, private: &[u8], public: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::from_private_key_and_public_key(by, private, public, &random).ok()?;
    let pair = signer.sign(&random, data).ok()?;
    let (r, s) = pair.as_ref().split_at(pair.as_ref().len() / 2);
    let mut made = Vec::new();
    put_number(&mut made, r);
    put_number(&mut made, s);
    Some(made)
}
