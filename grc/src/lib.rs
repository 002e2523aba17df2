//! The GRC, Grid Resource Coordinator: plans over the sites' offers, co-allocates, gathers and
//! redistributes keys, answers users; and `gridpilot`, the command that people type.
//!
//! Three rings, arrows inwards only: pure ([`plan`], [`exchange`], [`coallocate`], [`reservation`],
//! [`job`], [`record`], [`usage`], [`view`], [`explain`], [`rates`], [`wording`]: no I/O, time is an
//! argument) <- the owner ([`coordinator`]) <- edges (the rest: sockets, files).
#![forbid(unsafe_code)]

pub mod book;
pub mod cli;
pub mod coallocate;
pub mod commands;
pub mod config;
pub mod coordinator;
pub mod durable;
pub mod exchange;
pub mod explain;
pub mod job;
pub mod login;
pub mod network;
pub mod output;
pub mod pins;
pub mod plan;
pub mod rates;
pub mod record;
pub mod remote;
pub mod reservation;
pub mod seats;
pub mod serve;
pub mod server;
pub mod sites;
pub mod strangers;
pub mod usage;
pub mod view;
pub mod wording;
