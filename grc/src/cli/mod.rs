//! `gridpilot`, the command that people type.
//!
//! ```text
//! args, file -> values, when, window ...   what was asked
//! submit, modify, show, watch             one conversation each
//! target, login                           which GRC, and who we are there
//! client                                  the line to it, reconnecting
//! table | json | progress | out | errors  what people and programs see
//! ```
//! Standard output carries what was asked for and nothing else; progress and errors go to
//! standard error. Exit codes stand in [`errors`].

pub mod args;
pub mod bandwidth;
pub mod client;
pub mod each;
pub mod errors;
pub mod file;
pub mod hits;
pub mod json;
pub mod login;
pub mod modify;
pub mod order;
pub mod out;
pub mod progress;
pub mod room;
pub mod show;
pub mod submit;
pub mod table;
pub mod target;
pub mod values;
pub mod watch;
pub mod when;
pub mod window;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, OutputMode, Verb};
use client::Client;
use errors::CliError;

/// What a verb needs beside its own arguments.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub mode: OutputMode,
}

/// The whole program.
pub fn main() -> ExitCode {
    // A panic is a bug of ours and says so by its code, also in builds that abort.
    std::panic::set_hook(Box::new(|panic| {
        let error = CliError::Bug(panic.to_string());
        out::complain(&error.sentence());
        std::process::exit(i32::from(error.code()));
    }));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let mode = match args.mode() {
        Ok(mode) => mode,
        Err(error) => return finish(Err(error), OutputMode::Cli),
    };
    finish(run(args, mode), mode)
}

fn run(args: Args, mode: OutputMode) -> Result<u8, CliError> {
    if let Verb::Completions { shell } = args.verb {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "gridpilot", &mut script);
        out::print(&script)?;
        return Ok(0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Bug(format!("no runtime: {error}")))?;
    let code = match args.verb {
        Verb::Login(login) => runtime.block_on(login::login(login)),
        _ => {
            let client = Client::new(args.target()?, args.patience());
            runtime.block_on(dispatch(args.verb, Session { client, mode }))
        }
    };
    // A write to a reader that stopped reading must not keep the program.
    runtime.shutdown_background();
    code
}

async fn dispatch(verb: Verb, mut session: Session) -> Result<u8, CliError> {
    let session = &mut session;
    match verb {
        Verb::Sites => show::sites(session).await,
        Verb::Submit(args) => submit::submit(session, args).await,
        Verb::Reserve(args) => submit::reserve(session, args).await,
        Verb::Release { reservation } => show::release(session, reservation).await,
        Verb::Modify(args) => modify::modify(session, args).await,
        Verb::Usage { reservation } => show::usage(session, reservation).await,
        Verb::Reservations => show::reservations(session).await,
        Verb::Jobs => show::jobs(session).await,
        Verb::Show { thing } => show::show(session, thing).await,
        Verb::Log { job, follow, stderr } => watch::log(session, job, follow, stderr).await,
        Verb::Wait { thing, timeout } => watch::wait(session, thing, timeout).await,
        Verb::Cancel { job } => show::cancel(session, job).await,
        Verb::Explain { thing } => show::explain(session, thing).await,
        // These need no session.
        Verb::Login(_) | Verb::Completions { .. } => Ok(0),
    }
}

fn finish(outcome: Result<u8, CliError>, mode: OutputMode) -> ExitCode {
    let code = outcome.unwrap_or_else(|error| {
        match mode {
            OutputMode::Json => json::complain(&error),
            OutputMode::Cli | OutputMode::Quiet => out::complain(&error.sentence()),
        }
        error.code()
    });
    ExitCode::from(code)
}

/// clap's own messages run over a page; ours have at most three lines. Help goes out whole.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return finish(out::print(error.render().to_string().as_bytes()).map(|()| 0), OutputMode::Cli);
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            out::say(error.render().to_string().trim_end());
            return ExitCode::from(errors::USAGE);
        }
        _ => {}
    }
    let mode = args::mode_typed(std::env::args_os()).unwrap_or(OutputMode::Cli);
    finish(Err(CliError::Usage(errors::condense(&error.render().to_string()))), mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Args::command().debug_assert();
    }
}
