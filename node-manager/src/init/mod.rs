//! The sandbox's first process.

pub mod record;
