//! The CRM: what one site's Cluster Resource Manager decides, and its edges.
//!
//! Pure: [`addresses`], [`nodes`], [`pilot`], [`roster`], [`offer`], [`shares`], [`mapfile`], [`tokens`].
//! Owner: [`site`], one state, `step(now, event) -> actions`. Edges: [`grc_client`], [`pilots`],
//! [`batch`], tied together by [`serve`]. Arrows point inwards only.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod batch;
pub mod config;
pub mod grant_key;
pub mod grc_client;
pub mod mapfile;
pub mod nodes;
pub mod offer;
pub mod pilot;
pub mod pilots;
pub mod policy;
pub mod roster;
pub mod serve;
pub mod shares;
pub mod site;
pub mod state;
pub mod ticket;
pub mod tokens;
