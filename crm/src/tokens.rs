//! One-time tokens of pilots. A token is 32 bytes that nobody can guess, kept here as a digest only, bound to
//! one pilot (reservation, round, member) and an expiry, and good once.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::node::Token;
use protocol::refusal::Refusal;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::pilot::PilotId;

#[derive(Debug)]
struct Bound {
    digest: [u8; 32],
    pilot: PilotId,
    expires: Duration,
    used: bool,
}

/// Every token that was issued and is not forgotten yet.
#[derive(Debug, Default)]
pub struct Tokens {
    /// By the first half of the digest. The lookup tells an attacker nothing, for it is the
    /// digest and not the token that is compared step by step; the rest is compared at once.
    bound: BTreeMap<[u8; 16], Bound>,
}

fn digest(token: &Token) -> ([u8; 16], [u8; 32]) {
    let digest: [u8; 32] = Sha256::digest(token.0).into();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    (key, digest)
}

impl Tokens {
    /// A token of these bytes, which nobody can guess, good for this pilot until `expires`. What has
    /// expired by now is forgotten.
    pub fn issue(&mut self, secret: [u8; 32], pilot: PilotId, now: Duration, expires: Duration) -> Token {
        self.bound.retain(|_, bound| now < bound.expires);
        let token = Token(secret);
        let (key, digest) = digest(&token);
        self.bound.insert(key, Bound { digest, pilot, expires, used: false });
        token
    }

    /// Whose token this is; from now on it is used.
    ///
    /// # Errors
    /// `Refusal::BadToken` with the reason: unknown, used, expired.
    pub fn redeem(&mut self, token: &Token, now: Duration) -> Result<PilotId, Refusal> {
        let bad = |why: String| Refusal::BadToken { why: why.into() };
        let (key, digest) = digest(token);
        let bound = self.bound.get_mut(&key).filter(|bound| bool::from(bound.digest.ct_eq(&digest)));
        let bound = bound.ok_or_else(|| bad("it is not known".into()))?;
        if bound.used {
            return Err(bad(format!("it was used before, by pilot {}", bound.pilot)));
        }
        if bound.expires <= now {
            return Err(bad(format!("it was for pilot {} and expired", bound.pilot)));
        }
        bound.used = true;
        Ok(bound.pilot)
    }

    /// Voids whatever this pilot was given. Repeatable.
    pub fn revoke(&mut self, pilot: PilotId) {
        self.bound.retain(|_, bound| bound.pilot != pilot);
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::ReservationId;

    use super::*;
    use crate::pilot::Round;

    fn pilot(member: u32) -> PilotId {
        PilotId { reservation: ReservationId(1), round: Round(1), member }
    }

    fn why(refused: Result<PilotId, Refusal>) -> String {
        refused.unwrap_err().to_string()
    }

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_is_good_once_and_for_its_own_pilot() {
        let mut tokens = Tokens::default();
        let first = tokens.issue([1; 32], pilot(0), Duration::ZERO, SOON);
        let second = tokens.issue([2; 32], pilot(1), Duration::ZERO, SOON);
        assert_eq!(tokens.redeem(&second, Duration::ZERO), Ok(pilot(1)));
        assert_eq!(tokens.redeem(&first, Duration::ZERO), Ok(pilot(0)));
        assert!(why(tokens.redeem(&first, Duration::ZERO)).contains("used before"));
    }

    #[test]
    fn unknown_expired_and_revoked_tokens_are_refused() {
        let mut tokens = Tokens::default();
        let token = tokens.issue([1; 32], pilot(0), Duration::ZERO, SOON);
        assert!(why(tokens.redeem(&Token([9; 32]), Duration::ZERO)).contains("not known"));
        let mut near = token;
        near.0[31] ^= 1;
        assert!(why(tokens.redeem(&near, Duration::ZERO)).contains("not known"));
        assert!(why(tokens.redeem(&token, SOON)).contains("expired"));
        tokens.revoke(pilot(0));
        tokens.revoke(pilot(0));
        assert!(why(tokens.redeem(&token, Duration::ZERO)).contains("not known"));
    }

    #[test]
    fn neither_token_nor_digest_shows_in_what_is_logged() {
        let mut tokens = Tokens::default();
        let token = tokens.issue([0xab; 32], pilot(0), Duration::ZERO, SOON);
        assert!(!format!("{token:?} {tokens:?}").contains("171, 171, 171"));
    }

    #[test]
    fn no_more_tokens_are_kept_than_may_still_be_shown() {
        let mut tokens = Tokens::default();
        for n in 0..100 {
            let now = SOON * n;
            tokens.issue([n as u8; 32], pilot(n), now, now + SOON);
            assert_eq!(tokens.bound.len(), 1, "after {n}");
        }
    }
}
