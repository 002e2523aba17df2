//! The setuid half of the NodeManager. Its records ([`operation`], [`init::record`]) and the names
//! and places of its cgroups ([`sandbox::cgroup`]) are the only parts that the agent uses.

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
