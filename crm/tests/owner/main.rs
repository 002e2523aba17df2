//! The owner of a site, whole, against a world that may fail at any point.

mod ahead;
mod grc;
mod histories;
mod life;
mod restarts;
mod said;
mod shaping;
mod votes;
mod waiting;
mod windows;
mod world;
