//! Every word that gridpilot's programs say to each other: frames, codec, limits, the nouns and
//! the conversations ([`login`], [`client`], [`site`], [`node`]). Every value that comes out of here is
//! checked; nothing here decides anything.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod frame;
pub mod hello;
pub mod ids;
pub mod job;
pub mod keys;
pub mod limits;
pub mod login;
pub mod names;
pub mod node;
pub mod planted;
pub mod refusal;
pub mod reservation;
pub mod site;

#[cfg(feature = "net")]
pub mod connection;
#[cfg(feature = "net")]
pub mod identity;
#[cfg(feature = "net")]
pub mod tls;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod samples;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
