//! `node-manager`: the setuid root program of a node. Started by a pilot's Launcher, or
//! as `node-manager sweep`; there are no options.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

use node_manager::monitor;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next();
    let code = match (verb.as_deref().map(OsStr::as_encoded_bytes), arguments.next()) {
        (None, _) => monitor::run(),
        (Some(b"sweep"), None) => monitor::sweep(),
        (Some(b"--version"), None) => {
            // Not `println`: it panics, still with root's rights, when nobody takes it.
            let _ = writeln!(std::io::stdout(), "node-manager {}", env!("CARGO_PKG_VERSION"));
            0
        }
        _ => monitor::misused(),
    };
    ExitCode::from(code)
}
