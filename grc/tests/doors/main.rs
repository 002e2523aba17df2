//! The GRC's sockets: a real server in this process, real TLS over loopback, real unix socket.

mod clients;
mod peers;
mod strangers;
