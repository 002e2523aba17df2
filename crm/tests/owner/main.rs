//! The owner of a site, whole, against a world that may fail at any point.

mod ahead;
mod events;
mod grc;
mod histories;
mod life;
mod queues;
mod restarts;
mod said;
mod shaping;
mod signals;
mod votes;
mod waiting;
mod windows;
mod world;
