//! What a daemon must not forget: records by key, durable before anybody is told.
//!
//! ```text
//!   owner -- Put, Delete + ticket --> Writer (a thread) -- one transaction for many --> Store (redb)
//!     ^                                  |
//!     +---- durable up to ticket --------+      a failed write: nothing is ever reported again
//! ```
//!
//! The store holds the *current* records, no history: its size is that of what is live or retained.
//! Values are bytes of the caller's; here each carries a checksum. There is one way to start: every
//! [`Store::open`] is a recovery, which verifies the whole file before it changes a byte of it.
//!
//! [`Timeline`] is the grid's clock, which goes on by elapsed time whatever the wall clock does.
#![forbid(unsafe_code)]

mod disk;
mod error;
mod export;
mod file;
mod header;
mod record;
mod store;
mod timeline;
mod writer;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use export::export;
pub use record::{ID_BYTES_MAX, Key, KeyTooLong, Kind, VALUE_BYTES_MAX, Write};
pub use store::{Record, Store};
pub use timeline::{Reading, Saved, Timeline, boottime};
pub use writer::{Report, Writer};
