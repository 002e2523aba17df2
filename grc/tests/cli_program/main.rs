//! `gridpilot` as a whole program, against a small GRC that speaks the real protocol.

mod each;
mod fake;
mod orders;
mod restarts;
mod verbs;
mod watch;
mod windows;
