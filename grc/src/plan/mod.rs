//! Planning: which nodes at which sites, and which addresses. Pure; what is asked of it is
//! answered from offers that are already here.

pub mod addresses;
pub mod nodes;
