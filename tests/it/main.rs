//! Whole-program tests. Those that make a grid need root and the installed packages, and say so
//! when they are missing: nothing is skipped.
#![forbid(unsafe_code)]

mod attacks;
mod common;
mod counters;
mod death;
mod flood;
mod full_disk;
mod grid;
mod grid_engine;
mod hostile;
mod house;
mod inside;
mod kills;
mod leases;
mod limits;
mod links;
mod local_grid;
mod machines;
mod mixed;
mod refusals;
mod reservations;
mod silence;
mod slurm;
mod users;
mod waiting;
