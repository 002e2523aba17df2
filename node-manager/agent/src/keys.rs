//! The two key pairs of one sandbox: its host key and its user's key. Made fresh in this process,
//! never written to a disk, gone with the sandbox.

use protocol::keys::{MemberKeys, PublicKey};
use rand::TryRng;
use rand::rngs::SysRng;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the system gives no random bytes: {0}")]
    Random(rand::rngs::SysError),
    #[error("a key cannot be written: {0}")]
    Write(#[from] ssh_key::Error),
}

/// One key pair, as files want it.
pub struct KeyPair {
    public: PublicKey,
    /// OpenSSH's private key format, without a passphrase.
    private: Zeroizing<String>,
}

impl KeyPair {
    fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(seed.as_mut()).map_err(KeyError::Random)?;
        // From a seed: ssh-key's own generator would want an older generation of rand.
        let pair = Ed25519Keypair::from_seed(&seed);
        let public = PublicKey(pair.public.0);
        let private = PrivateKey::new(KeypairData::Ed25519(pair), "")?.to_openssh(LineEnding::LF)?;
        Ok(Self { public, private })
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The content of the private key's file.
    pub fn private(&self) -> &[u8] {
        self.private.as_bytes()
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Both pairs of a sandbox.
#[derive(Debug)]
pub struct Keys {
    pub host: KeyPair,
    pub user: KeyPair,
}

impl Keys {
    /// Takes some tens of microseconds, unless the system is short of randomness at boot.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { host: KeyPair::generate()?, user: KeyPair::generate()? })
    }

    /// The halves that everybody may know.
    pub fn public(&self) -> MemberKeys {
        MemberKeys { host: self.host.public, user: self.user.public }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sandbox_has_keys_of_its_own_and_they_never_show_in_a_log() {
        let (one, two) = (Keys::generate().unwrap(), Keys::generate().unwrap());
        let all = [one.host.public, one.user.public, two.host.public, two.user.public];
        for (n, key) in all.iter().enumerate() {
            assert!(!all[..n].contains(key));
        }
        assert!(!format!("{one:?}").contains("PRIVATE KEY"));
    }
}
