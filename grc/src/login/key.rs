//! A public ssh key and what it has signed. ssh-key reads keys, ring checks signatures; why not one
//! of them for both stands in `decisions/0014`.

use std::fmt;

use protocol::login::NAMESPACE;
use ring::signature as algorithm;
use sha2::{Digest, Sha256};
use ssh_key::public::{EcdsaPublicKey, KeyData};
use ssh_key::{Fingerprint, HashAlg, SshSig};

use super::wire::{take_number, take_string};

/// Shortest RSA key, bits.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// Why something is not a key that can be used here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadKey {
    #[error(
        "{0:?} is no type of key that is taken here: ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ssh-rsa"
    )]
    Type(String),
    #[error("it is no {0} key")]
    Damaged(&'static str),
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits here, this one has {0}")]
    RsaBits(usize),
}

/// A key of a type whose signatures can be checked here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    data: KeyData,
    /// As ssh sends it.
    bytes: Vec<u8>,
}

/// The types that are taken, as they stand in files.
const TYPES: [&str; 4] = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ssh-rsa"];

impl Key {
    /// From the two words of a `.pub` file: type and base64.
    pub fn from_words(kind: &str, base64: &str) -> Result<Self, BadKey> {
        let Some(kind) = TYPES.into_iter().find(|one| *one == kind) else {
            return Err(BadKey::Type(kind.chars().take(32).collect()));
        };
        // Two words and nothing else: what follows them would become part of a comment.
        let single = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        if !single(base64) {
            return Err(BadKey::Damaged(kind));
        }
        let key = ssh_key::PublicKey::from_openssh(&format!("{kind} {base64}"));
        let key = key.map_err(|_| BadKey::Damaged(kind))?;
        Self::new(key.key_data().clone(), kind)
    }

    /// From the form in which ssh and its agent send it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKey> {
        let kind = take_string(&mut &bytes[..]).unwrap_or_default();
        let Some(kind) = TYPES.into_iter().find(|one| one.as_bytes() == kind) else {
            return Err(BadKey::Type(String::from_utf8_lossy(kind).chars().take(32).collect()));
        };
        let key = ssh_key::PublicKey::from_bytes(bytes).map_err(|_| BadKey::Damaged(kind))?;
        let key = Self::new(key.key_data().clone(), kind)?;
        if key.bytes != bytes { Err(BadKey::Damaged(kind)) } else { Ok(key) }
    }

    /// From what ssh-key has read.
    pub fn new(data: KeyData, kind: &'static str) -> Result<Self, BadKey> {
        if let KeyData::Rsa(rsa) = &data {
            let modulus = rsa.n.as_positive_bytes().ok_or(BadKey::Damaged(kind))?;
            let leading = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            let bits = 8 * modulus.len() - leading;
            if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                return Err(BadKey::RsaBits(bits));
            }
        }
        let bytes = ssh_key::PublicKey::new(data.clone(), "").to_bytes();
        let bytes = bytes.map_err(|_| BadKey::Damaged(kind))?;
        Ok(Self { data, bytes })
    }

    /// As ssh sends it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Type and base64, as in a `.pub` file without its comment.
    pub fn words(&self) -> String {
        ssh_key::PublicKey::new(self.data.clone(), "").to_openssh().unwrap_or_default().trim_end().to_owned()
    }

    pub fn is_rsa(&self) -> bool {
        matches!(self.data, KeyData::Rsa(_))
    }

    /// Whether this key has signed `message`, under our namespace and no other. `signature` is in the
    /// form in which ssh and its agent send it.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some(data) = signed_data(message) else { return false };
        self.checks(&data, signature).is_some()
    }

    fn checks(&self, data: &[u8], signature: &[u8]) -> Option<()> {
        let mut rest = signature;
        let name = take_string(&mut rest)?;
        let mut made = take_string(&mut rest)?;
        if !rest.is_empty() {
            return None;
        }
        match (&self.data, name) {
            (KeyData::Ed25519(key), b"ssh-ed25519") => verify(&algorithm::ED25519, &key.0, data, made),
            (KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)), b"ecdsa-sha2-nistp256") => {
                let pair = pair::<32, 64>(&mut made)?;
                verify(&algorithm::ECDSA_P256_SHA256_FIXED, point.as_bytes(), data, &pair)
            }
            (KeyData::Ecdsa(EcdsaPublicKey::NistP384(point)), b"ecdsa-sha2-nistp384") => {
                let pair = pair::<48, 96>(&mut made)?;
                verify(&algorithm::ECDSA_P384_SHA384_FIXED, point.as_bytes(), data, &pair)
            }
            (KeyData::Rsa(key), b"rsa-sha2-512" | b"rsa-sha2-256") => {
                let by = match name {
                    b"rsa-sha2-512" => &algorithm::RSA_PKCS1_2048_8192_SHA512,
                    _ => &algorithm::RSA_PKCS1_2048_8192_SHA256,
                };
                let (n, e) = (key.n.as_positive_bytes()?, key.e.as_positive_bytes()?);
                algorithm::RsaPublicKeyComponents { n, e }.verify(by, data, made).ok()
            }
            _ => None,
        }
    }
}

/// Its fingerprint, as `ssh-keygen -l` and `ssh-add -l` show it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.data.fingerprint(HashAlg::Sha256).to_string())
    }
}

/// The same for something of which only the bytes are known.
pub fn shown(bytes: &[u8]) -> String {
    Fingerprint::Sha256(Sha256::digest(bytes).into()).to_string()
}

/// What a key really signs: the message wrapped as `ssh-keygen -Y sign` does it, with our namespace
/// and sha512 (OpenSSH, `PROTOCOL.sshsig`).
pub fn signed_data(message: &[u8]) -> Option<Vec<u8>> {
    SshSig::signed_data(NAMESPACE, HashAlg::Sha512, message).ok()
}

fn verify(
    by: &'static dyn algorithm::VerificationAlgorithm,
    key: &[u8],
    data: &[u8],
    made: &[u8],
) -> Option<()> {
    algorithm::UnparsedPublicKey::new(by, key).verify(data, made).ok()
}

/// The two numbers of an ECDSA signature, one behind the other.
fn pair<const HALF: usize, const WHOLE: usize>(from: &mut &[u8]) -> Option<[u8; WHOLE]> {
    let (r, s) = (take_number::<HALF>(from)?, take_number::<HALF>(from)?);
    let mut pair = [0; WHOLE];
    pair[..HALF].copy_from_slice(&r);
    pair[HALF..].copy_from_slice(&s);
    from.is_empty().then_some(pair)
}
