//! The store over media that tests make: one in memory, one that forgets what was not synced.

mod crash;
mod damage;
mod files;
mod media;
