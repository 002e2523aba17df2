//! `gridpilot`: the one command that people type. Everything stands in [`grc::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    grc::cli::main()
}
