//! The sandbox's one interface, by rtnetlink.

pub mod link;
pub mod netlink;
pub mod shape;
