//! The CRM: what one site's Cluster Resource Manager decides, and its edges.
//!
//! Pure: [`addresses`], [`nodes`], [`pilot`], [`roster`], [`offer`], [`mapfile`], [`tokens`],
//! [`rates`], [`shares`], [`record`], [`standing`].
//! Owner: [`site`], one state, `step(now, event) -> actions`. Edges: [`grc_client`], [`pilots`],
//! [`batch`], [`store`], tied together by [`driver`] and [`serve`]. Arrows point inwards only.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod batch;
pub mod config;
pub mod driver;
pub mod durable;
pub mod grant_key;
pub mod grc_client;
pub mod mapfile;
pub mod nodes;
pub mod offer;
pub mod pilot;
pub mod pilots;
pub mod policy;
pub mod queue;
pub mod rates;
pub mod record;
pub mod roster;
pub mod serve;
pub mod shares;
pub mod site;
pub mod standing;
pub mod state;
pub mod store;
pub mod ticket;
pub mod tokens;
pub mod trouble;
