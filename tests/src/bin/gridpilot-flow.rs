//! `gridpilot-flow`: how much gets through between two hosts, second by second. An ordinary
//! program, for use inside sandboxes as well as outside; knows nothing of gridpilot.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use gridpilot_tests::flow::send::{Send, send};
use gridpilot_tests::flow::serve::{Serve, serve};

/// Measures how much gets through. Writes lines of JSON; ends by itself.
#[derive(Parser)]
#[command(version, about)]
enum Arguments {
    /// Receive and count: a line for each second, then one with total and median.
    Serve(Serve),
    /// Send, by TCP or UDP.
    Send(Send),
}

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let done = match Arguments::parse() {
        Arguments::Serve(args) => serve(&args, &mut out).map(|_| ()),
        Arguments::Send(args) => send(&args, &mut out).map(|_| ()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gridpilot-flow: {error:#}");
            ExitCode::FAILURE
        }
    }
}
