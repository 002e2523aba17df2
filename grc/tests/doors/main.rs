//! The GRC's sockets: a real server in this process, real TLS over loopback, real unix socket.

mod attacks;
mod behind;
mod clients;
mod keys;
mod logins;
mod peers;
mod strangers;
