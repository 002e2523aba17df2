//! A deterministic simulator of whole grids: the real owners of the GRC and of every CRM, and a
//! model of everything around them. One number gives one history, always the same.
//!
//! ```text
//! seed -> scenario (grid, requests, faults, tempers)
//!          |
//!          v         step(now, event)
//!   agenda (time) ----------------------> grc::Coordinator, crm::Site x n     the real ones
//!    ^  |   ^                                        | actions
//!    |  |   '---- network, clients, fields <---------+--> gate -> disk
//!    |  v                                            |
//!  faults                                            '--> rules, looked at all the time
//! ```
//! What is modelled, which faults there are and which rules must hold stands in
//! `docs/simulation.md`.
#![forbid(unsafe_code)]

pub mod agenda;
pub mod agents;
pub mod check;
pub mod clients;
pub mod clocks;
pub mod faults;
pub mod field;
pub mod gate;
pub mod grc_side;
pub mod history;
pub mod host;
pub mod network;
pub mod outputs;
pub mod owners;
pub mod promises;
pub mod queue;
pub mod random;
pub mod rest;
pub mod returns;
pub mod runner;
pub mod scenario;
pub mod shrink;
pub mod site_side;
pub mod store;
pub mod truth;
pub mod world;

pub use runner::{Finding, Summary, replay, simulate, simulate_many};
