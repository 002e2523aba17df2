//! Histories of the owner: the real state machine among sites that answer, keep silent, refuse,
//! lie and vanish. Time is an argument, so nothing here waits.

mod changes;
mod commands;
mod epochs;
mod failures;
mod fake;
mod grid;
mod histories;
mod life;
mod limits;
mod operators;
mod ownership;
mod restarts;
mod waiting;
mod windows;
