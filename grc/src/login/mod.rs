//! Who somebody is who comes over the network: ssh keys, what they sign, and the file that says
//! whose they are. Both sides use it: the GRC to let in, `gridpilot` to ask.
//!
//! ```text
//! users file --users--> whose key lets in whom, --follow--> followed while the GRC serves
//! key      a public key and its signatures; what is signed stands in `protocol::login`
//! wire     strings as ssh writes them
//! ```

#[cfg(test)]
mod corpus;
pub mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod key;
pub mod users;
pub mod wire;
