//! The unprivileged half of the NodeManager: speaks with the site's CRM, makes keys, renders
//! files, streams output. It holds no privilege: the monitor builds and removes the sandbox, and
//! the sandbox's own init does everything that happens inside it.
#![forbid(unsafe_code)]

pub mod command;
pub mod connection;
pub mod handler;
pub mod init;
pub mod keys;
pub mod lifecycle;
pub mod limits;
pub mod meter;
pub mod monitor;
pub mod render;
pub mod seqpacket;
pub mod services;
pub mod setup;
pub mod start;
pub mod tail;
pub mod variables;
pub mod voice;
pub mod work;
