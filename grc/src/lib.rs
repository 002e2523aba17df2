//! The GRC of a grid, and the command that people type.
#![forbid(unsafe_code)]

pub mod cli;
