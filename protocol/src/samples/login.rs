//! Samples of what is said before a client over the network is known.

use crate::frame::Kind;
use crate::login::{FromStranger, ToStranger};
use crate::refusal::Refusal;
use crate::samples::{Sample, every_variant, name};

pub fn login() -> Vec<Sample> {
    let key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".iter().copied().chain([7; 32]).collect();
    let signature = b"\0\0\0\x0bssh-ed25519\0\0\0\x40".iter().copied().chain([9; 64]).collect();
    let mut samples = every_variant!(FromStranger, Some(Kind::Request), {
        Login: FromStranger::Login { user: name("ada"), key, signature },
    });
    // The challenge is a notice, the two others are replies: one decoder reads all three.
    samples.extend(every_variant!(ToStranger, Some(Kind::Reply), {
        Challenge: ToStranger::Challenge([0x5a; 32]),
        Welcome: ToStranger::Welcome,
        Refused: ToStranger::Refused(Refusal::LoginRefused { user: name("ada") }),
    }));
    samples
}
