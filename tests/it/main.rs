//! Whole-program tests. Those that make a grid need root and the packages that `needs.sh` installs,
//! and fail without them; only tests of a batch system that is not to be had here leave it out, and
//! say `NOT TRIED` with what is missing.
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
mod looks;
mod machines;
mod mixed;
mod refusals;
mod reservations;
mod silence;
mod slurm;
mod users;
mod waiting;
