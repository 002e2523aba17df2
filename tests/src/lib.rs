//! A whole grid on one machine: the sites as network, UTS and mount namespaces, the real
//! programs inside them, and the means to prove that nothing of it is left. `local-grid` is
//! built on it, and so are the integration tests.
#![forbid(unsafe_code)]

pub mod account;
pub mod batch;
pub mod bench;
pub mod demo;
pub mod endings;
pub mod exec_storm;
pub mod flow;
pub mod install;
pub mod links;
pub mod netns;
pub mod node;
pub mod process;
pub mod rate;
pub mod residue;
pub mod shared;
pub mod siege;
pub mod site;
pub mod state;
pub mod storm;
pub mod tight;
pub mod users;
pub mod world;
