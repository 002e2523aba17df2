//! The files that ssh and MPI programs read, rendered from checked values. Pure: values in, text
//! out. Nothing here copies text from a peer, so nobody can smuggle a line or an option in; a
//! file holds exactly one line per member where it lists members.

pub mod environment;
pub mod hosts;
pub mod ssh;

#[cfg(test)]
pub(crate) mod samples;
