//! `gridpilot` as a whole program, against a small GRC that speaks the real protocol.

mod fake;
mod verbs;
mod watch;
