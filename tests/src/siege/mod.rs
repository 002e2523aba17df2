//! A node under siege: the installed setuid program with a policy, accounts and an interface of
//! its own in private namespaces, and the means to start pilots on it, to attack them, and to
//! count what they leave. `gridpilot-attacks`, `gridpilot-inject` and `gridpilot-soak` stand on it.

pub mod attacks;
pub mod bed;
pub mod grid;
pub mod inject;
pub mod inject_agent;
pub mod left;
pub mod log;
pub mod pilot;
pub mod script;
pub mod soak;
pub mod soak_grid;
pub mod steps;
pub mod trace;
