//! The setuid half of the NodeManager. Its records ([`operation`], [`init::record`])
//! are the only part that the agent uses.

#![deny(unsafe_code)]

pub mod account;
pub mod channel;
pub mod failure;
pub mod init;
pub mod monitor;
pub mod net;
pub mod operation;
pub mod sandbox;
#[allow(unsafe_code)]
mod sys;
