//! The site's grant key: what its nodes' monitors believe. It signs grants and rates, and
//! makes the tokens of pilots.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use grant::{Grant, RATES_LEN, Rates};
use protocol::identity::{IdentityError, write_private};
use protocol::ids::{Epoch, ReservationId};
use protocol::names::{EnvironmentName, HostName, SiteName};
use protocol::node::{Setup, SignedRates};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::pilot::PilotId;

const FILE: &str = "grant-key.der";
/// In front of what is signed to make a token, so that the signature means nothing elsewhere.
const TOKEN_CONTEXT: &[u8] = b"gridpilot pilot token v1\0";

/// An ed25519 key pair.
pub struct GrantKey(Ed25519KeyPair);

impl fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantKey({})", self.public_hex())
    }
}

impl GrantKey {
    /// The key in the state directory, made if there is none. A key that others can read is
    /// refused, for whoever has it may build sandboxes on every node of the site.
    pub fn open_or_make(state: &Path) -> Result<Self, IdentityError> {
        let path = state.join(FILE);
        if !path.exists() {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|e| IdentityError::Generate(e.to_string()))?;
            write_private(&path, document.as_ref())?;
        }
        let read = |source| IdentityError::Read { path: path.clone(), source };
        let mode = fs::metadata(&path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path });
        }
        let bytes = fs::read(&path).map_err(read)?;
        Ed25519KeyPair::from_pkcs8(&bytes).map(Self).map_err(|_| IdentityError::Damaged { path })
    }

    /// A key that is kept nowhere, for tests and benchmarks.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        let failed = |e: String| IdentityError::Generate(e);
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| failed(e.to_string()))?;
        Ed25519KeyPair::from_pkcs8(document.as_ref()).map(Self).map_err(|e| failed(e.to_string()))
    }

    /// The public half as the node policy names it: 64 hexadecimal digits.
    pub fn public_hex(&self) -> String {
        self.0.public_key().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// SETUP for one pilot: grant and rates, signed, and what the agent needs beside them.
    pub fn setup(
        &self,
        site: &SiteName,
        grant: &Grant,
        rates: Option<&Rates>,
        environment: EnvironmentName,
    ) -> Setup {
        Setup {
            grant: grant.encode().to_vec(),
            signature: self.0.sign(&grant.signed_message()).as_ref().to_vec(),
            host: HostName { site: site.clone(), number: grant.member },
            address: grant.address,
            reservation: ReservationId(grant.reservation),
            epoch: Epoch(u32::try_from(grant.epoch).unwrap_or(u32::MAX)),
            environment,
            variables: Vec::new(),
            rates: rates.and_then(|rates| self.rates(rates)),
        }
    }

    /// The token of one pilot, for nobody else to make and the same in every life of this CRM: one
    /// that waits in a queue is known again without anything having been kept. An ed25519 signature
    /// has no randomness in it; hashed, it is good for nothing else.
    pub fn token(&self, pilot: PilotId) -> [u8; 32] {
        let PilotId { reservation, round, member } = pilot;
        let id = [&reservation.0.to_be_bytes()[..], &round.0.to_be_bytes(), &member.to_be_bytes()].concat();
        Sha256::digest(self.0.sign(&[TOKEN_CONTEXT, &id].concat())).into()
    }

    /// Rates that a node says hold there; `None` unless this key has signed them.
    pub fn own_rates(&self, rates: &SignedRates) -> Option<Rates> {
        let record: [u8; RATES_LEN] = rates.record.as_slice().try_into().ok()?;
        let public = UnparsedPublicKey::new(&ED25519, self.0.public_key().as_ref());
        public.verify(&Rates::signed_message(&record), &rates.signature).ok()?;
        Rates::decode(&record).ok()
    }

    /// The rates of one sandbox, signed; `None` for what no monitor would take.
    pub fn rates(&self, rates: &Rates) -> Option<SignedRates> {
        let record = rates.encode()?;
        let signature = self.0.sign(&Rates::signed_message(&record)).as_ref().to_vec();
        Some(SignedRates { record: record.to_vec(), signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pilot::Round;
    use protocol::ids::ReservationId;

    fn grant() -> Grant {
        Grant {
            nonce: [7; 16],
            site: grant::SiteName::new("a").unwrap(),
            reservation: 12,
            epoch: 3,
            member: 1,
            uid: 1001,
            user: grant::UserName::new("alice").unwrap(),
            address: [10, 71, 128, 7].into(),
            prefix_len: 16,
            gateway: None,
            mtu: 1500,
            driver: grant::Driver::Macvlan,
            shaped: false,
            lifetime_s: 60,
            lease_s: 10,
            memory_bytes: 0,
            pids: 0,
            cpus_milli: 0,
            upper_bytes: 0,
            upper_inodes: 0,
        }
    }

    #[test]
    fn what_is_signed_is_what_the_node_verifies() {
        let key = GrantKey::ephemeral().unwrap();
        let setup = key.setup(&"a".parse().unwrap(), &grant(), None, EnvironmentName::host());
        let record: [u8; grant::GRANT_LEN] = setup.grant.clone().try_into().unwrap();
        assert_eq!(Grant::decode(&record), Ok(grant()));
        let public = UnparsedPublicKey::new(&ED25519, key.0.public_key().as_ref());
        public.verify(&grant::signed_message(&record), &setup.signature).unwrap();
        let mut other = record;
        other[5] ^= 1;
        assert!(public.verify(&grant::signed_message(&other), &setup.signature).is_err());
        assert_eq!(setup.host.to_string(), "a-1");
        assert_eq!(setup.rates, None);

        let mut rates_kbit = [0; grant::CLASSES_MAX];
        rates_kbit[0] = 1000;
        let rates = Rates { nonce: [7; 16], serial: 1, lifetime_s: 9, rates_kbit, destinations: vec![] };
        let signed = key.rates(&rates).unwrap();
        let record: [u8; grant::RATES_LEN] = signed.record.clone().try_into().unwrap();
        assert_eq!(Rates::decode(&record), Ok(rates.clone()));
        public.verify(&Rates::signed_message(&record), &signed.signature).unwrap();
        assert_eq!(key.rates(&Rates { serial: 0, ..rates }), None);
    }

    #[test]
    fn a_pilot_has_one_token_in_every_life_and_no_other_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let pilot = |round, member| PilotId { reservation: ReservationId(1), round: Round(round), member };
        let key = GrantKey::open_or_make(dir.path()).unwrap();
        let again = GrantKey::open_or_make(dir.path()).unwrap();
        assert_eq!(key.token(pilot(1, 2)), again.token(pilot(1, 2)));
        let others = [pilot(2, 1), pilot(1, 1), pilot(2, 2)].map(|pilot| key.token(pilot));
        assert!(!others.contains(&key.token(pilot(1, 2))));
        assert_ne!(GrantKey::ephemeral().unwrap().token(pilot(1, 2)), key.token(pilot(1, 2)));
    }

    #[test]
    fn only_rates_of_its_own_are_believed() {
        let key = GrantKey::ephemeral().unwrap();
        let rates_kbit = [1000; grant::CLASSES_MAX];
        let rates = Rates { nonce: [7; 16], serial: 3, lifetime_s: 9, rates_kbit, destinations: vec![] };
        let signed = key.rates(&rates).unwrap();
        assert_eq!(key.own_rates(&signed), Some(rates));
        assert_eq!(GrantKey::ephemeral().unwrap().own_rates(&signed), None);
        let mut changed = signed.clone();
        changed.record[30] ^= 1;
        assert_eq!(key.own_rates(&changed), None);
    }

    #[test]
    fn the_key_stays_the_same_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = GrantKey::open_or_make(dir.path()).unwrap().public_hex();
        assert_eq!(GrantKey::open_or_make(dir.path()).unwrap().public_hex(), first);
        assert_eq!(first.len(), 64);
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(GrantKey::open_or_make(dir.path()), Err(IdentityError::Exposed { .. })));
    }
}
