//! The only place with `unsafe`: system calls that neither rustix nor nix offers as
//! safe functions. Every block says why it is sound.

pub mod fd;
pub mod mount;
pub mod process;
pub mod seccomp;
