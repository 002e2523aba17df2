//! The setuid half of the NodeManager. Its records ([`operation`], [`init::record`])
//! are the only part that the agent uses.

#![deny(unsafe_code)]

pub mod init;
pub mod operation;
