//! Capacity over time: how much of something is used in which second, and when there is room.
//!
//! - [`Profile`] is the amount used of one resource over time, in exact seconds.
//! - [`search`] finds the earliest start at which several resources have room together.
//! - [`Calendar`] says which addresses are taken when, and carves free ones out of an [`AddressSet`].
//! - [`Use`] and [`extra`] say what a change has to hold beside the grant that it replaces.
//!
//! Pure: no I/O, no clock, no dependency. Times are whole seconds on whatever clock the caller
//! keeps; a caller with finer times takes the floor of a start and the ceiling of an end.
#![forbid(unsafe_code)]

mod addresses;
mod blocks;
mod change;
mod node;
mod profile;
mod row;
pub mod search;
mod window;

pub use addresses::AddressSet;
pub use blocks::{Block, Calendar};
pub use change::{Use, extra};
pub use profile::Profile;
pub use search::{Answer, Blocked, Demand, Gate, earliest};
pub use window::Window;
