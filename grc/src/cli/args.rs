//! What can be typed. All after `--` is taken as it is.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use protocol::client::Selector;
use protocol::ids::{JobId, ReservationId};
use protocol::names::{EnvironmentName, Label, VariableName};
use protocol::reservation::{Bandwidth, Placement};

use super::bandwidth::bandwidth;
use super::errors::CliError;
use super::login::LoginArgs;
use super::target::{self, Surroundings, Target};
use super::values::{self, Thing};
use super::when::{Moment, moment};

/// Where the GRC of a machine listens when nothing else is said.
pub const SOCKET_DEFAULT: &str = "/run/gridpilot/grc.sock";
const PATIENCE_DEFAULT_S: u32 = 30;

const EVERYWHERE: &str = "Options everywhere";

const AFTER_HELP: &str = "\
Ids are r12 (reservation) and j34 (job); `last` is your newest.
Durations: 1h30m, 90s, 2d or HH:MM:SS. Sizes: 500M, 2GiB (1024), 2GB (1000). Rates: 64kbit, 1.5Mbit,
10Gbit. Times: now, +1h30m, 2026-12-01T10:00 (here) or 2026-12-01T10:00+09:00.

Exit codes: 0 done, 2 usage, 120 refused, 121 not found, 122 GRC unreachable, 123 the grid failed,
124 timed out, 125 a bug of ours, 130 interrupted (the job goes on), 141 nobody reads the output.
`submit --wait` and `wait` end with the job's own code (128 + signal; 143 when it was cancelled).

Environment: GRIDPILOT_GRC (the GRC's socket, or its HOST:PORT with GRIDPILOT_PIN and GRIDPILOT_USER),
GRIDPILOT_OUTPUT_MODE (cli, json, quiet). `gridpilot login` writes ~/.config/gridpilot/grc.toml.";

/// Run one unmodified parallel program across several clusters as if they were one.
#[derive(Debug, Parser)]
#[command(name = "gridpilot", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Args {
    /// How to answer: cli (for people), json (for programs), quiet (just the id)
    /// [env: GRIDPILOT_OUTPUT_MODE]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "MODE", value_enum)]
    output_mode: Option<OutputMode>,

    /// The GRC's socket or HOST:PORT [env: GRIDPILOT_GRC] [default: that of the last `login`, else
    /// /run/gridpilot/grc.sock]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "SOCKET|HOST:PORT")]
    grc: Option<PathBuf>,

    /// How long to try again when the GRC goes away meanwhile [default: 30s]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DUR", value_parser = values::duration)]
    reconnect: Option<u32>,

    #[command(subcommand)]
    pub verb: Verb,
}

/// Tables for people, documents for programs, or just the id.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum OutputMode {
    #[default]
    Cli,
    Json,
    Quiet,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the sites of the grid
    Sites,
    /// Run a command, in nodes of its own or in a standing reservation
    Submit(SubmitArgs),
    /// Take nodes without a command
    Reserve(ReserveArgs),
    /// End a reservation and every job in it
    Release {
        /// r12, or last
        #[arg(value_name = "RESERVATION", value_parser = values::reservation)]
        reservation: Selector<ReservationId>,
    },
    /// Change a granted reservation; it stays as it is until all of the change is granted
    Modify(ModifyArgs),
    /// Show what a reservation used of its bandwidth
    Usage {
        /// r12, or last
        #[arg(value_name = "RESERVATION", value_parser = values::reservation)]
        reservation: Selector<ReservationId>,
    },
    /// List your reservations
    Reservations,
    /// List your jobs
    Jobs,
    /// Show a job or a reservation
    Show {
        /// j34, r12, or last
        #[arg(value_name = "ID", value_parser = values::thing)]
        thing: Thing,
    },
    /// Print a job's output, as bytes in every output mode
    Log {
        /// j34, or last
        #[arg(value_name = "JOB", value_parser = values::job)]
        job: Selector<JobId>,
        /// Go on until the job is over
        #[arg(short, long)]
        follow: bool,
        /// Its standard error instead of its standard output
        #[arg(long)]
        stderr: bool,
    },
    /// Wait for a job to be over (and end with its code), or for a reservation to be ready or over
    Wait {
        /// j34, r12, or last
        #[arg(value_name = "ID", value_parser = values::thing)]
        thing: Thing,
        /// Give up after this time, with code 124
        #[arg(long, value_name = "DUR", value_parser = values::duration)]
        timeout: Option<u32>,
    },
    /// Stop a job; its own reservation, if it has one, ends
    Cancel {
        /// j34, or last
        #[arg(value_name = "JOB", value_parser = values::job)]
        job: Selector<JobId>,
    },
    /// Say why a job or a reservation waits or failed
    Explain {
        /// j34, r12, or last
        #[arg(value_name = "ID", value_parser = values::thing)]
        thing: Thing,
    },
    /// Log in to a GRC on another machine by ssh key, and use it from then on
    Login(LoginArgs),
    /// Print a completion script
    Completions { shell: Shell },
}

/// What a reservation is asked to be.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Shape {
    /// Nodes at each site, or in all [default: 1]
    #[arg(long, value_name = "SITE=N,..|N", value_parser = values::placement)]
    pub nodes: Option<Placement>,
    /// Processes that MPI may start on each member [default: 1]
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    #[command(flatten)]
    pub rates: Rates,
    #[command(flatten)]
    pub window: WindowArgs,
    /// Processors of each member, like 2 or 1.5
    #[arg(long, value_name = "N", value_parser = values::cpus)]
    pub cpus: Option<u32>,
    /// Memory of each member
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory: Option<u64>,
    /// Writable space of each member
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub disk: Option<u64>,
    /// Processes and threads at once, per member [default: 4096, or the node's ceiling if that is less]
    #[arg(long, value_name = "N", value_parser = values::processes)]
    pub processes: Option<u32>,
    /// Software: host (the nodes' own), a name or a lock [default: host]
    #[arg(long, value_name = "ENVIRONMENT", value_parser = values::environment)]
    pub env: Option<EnvironmentName>,
    /// A name to recognise it by
    #[arg(long, value_name = "NAME", value_parser = values::label)]
    pub name: Option<Label>,
}

/// What is reserved between the sites, each way.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Rates {
    /// Bandwidth between every two sites, or pair by pair, or none [default: none]
    #[arg(long, value_name = "RATE|A-B=RATE,..", value_parser = bandwidth)]
    pub bandwidth: Option<Bandwidth>,
    /// The same pair by pair in a file
    #[arg(long, value_name = "FILE.toml", conflicts_with = "bandwidth")]
    pub bandwidth_file: Option<PathBuf>,
}

/// When to have it and for how long.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct WindowArgs {
    /// How long to have it at most [default: 1h]
    #[arg(long, value_name = "DUR", value_parser = values::duration)]
    pub time: Option<u32>,
    /// When to begin: granted for then, or refused [default: now for reserve]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start: Option<Moment>,
    /// When to begin at the latest, if it cannot be had earlier
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "within")]
    pub latest: Option<Moment>,
    /// The same as so long after the start
    #[arg(long, value_name = "DUR", value_parser = values::duration)]
    pub within: Option<u32>,
    /// When to end, instead of --time
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "time")]
    pub end: Option<Moment>,
    /// Wait until it can be had, as submit does when no start is said
    #[arg(long, conflicts_with_all = ["start", "latest", "within"])]
    pub queue: bool,
}

/// What shall be different.
#[derive(Debug, ClapArgs)]
pub struct ModifyArgs {
    /// r12, or last
    #[arg(value_name = "RESERVATION", value_parser = values::reservation)]
    pub reservation: Selector<ReservationId>,
    /// Its whole length, from its start
    #[arg(long, value_name = "DUR", value_parser = values::duration, group = "length")]
    pub time: Option<u32>,
    /// So much longer
    #[arg(long, value_name = "DUR", value_parser = values::duration, group = "length")]
    pub extend: Option<u32>,
    /// So much shorter
    #[arg(long, value_name = "DUR", value_parser = values::duration, group = "length")]
    pub shrink: Option<u32>,
    /// When it shall end
    #[arg(long, value_name = "TIME", value_parser = moment, group = "length")]
    pub end: Option<Moment>,
    #[command(flatten)]
    pub rates: Rates,
    /// Other numbers of nodes at the same sites, before it begins
    #[arg(long, value_name = "SITE=N,..|N", value_parser = values::placement)]
    pub nodes: Option<Placement>,
}

#[derive(Debug, Default, ClapArgs)]
pub struct SubmitArgs {
    /// Stay, pass its output on, end with its code. In json mode: stay, then print the job
    #[arg(short, long)]
    pub wait: bool,
    #[command(flatten)]
    pub shape: Shape,
    /// Directory to start in; it must be there [default: this one if there, else home]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// A variable of the command's environment; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::variable)]
    pub set: Vec<(VariableName, String)>,
    /// Run in this standing reservation
    #[arg(long = "in", value_name = "RESERVATION", value_parser = values::reservation)]
    pub reservation: Option<Selector<ReservationId>>,
    /// When it is cancelled: so long from SIGTERM to SIGKILL [default: the grid's, 5s]
    #[arg(long, value_name = "DUR", value_parser = values::grace)]
    pub grace: Option<u16>,
    /// Start the command on every member, not on the head alone
    #[arg(long)]
    pub all: bool,
    /// A job for each line of FILE (- for standard input), waited for; {} in the command is the
    /// line, or it becomes the last argument
    #[arg(long, value_name = "FILE", requires = "reservation")]
    pub each: Option<PathBuf>,
    /// With --each: so many jobs beside each other [default: 16]
    #[arg(long, value_name = "N", requires = "each", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub at_once: Option<u8>,
    /// The same words in a file; options given here go before it
    #[arg(value_name = "FILE.toml")]
    pub file: Option<PathBuf>,
    /// The command and its arguments, never through a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Default, ClapArgs)]
pub struct ReserveArgs {
    /// Stay until it is ready
    #[arg(short, long)]
    pub wait: bool,
    #[command(flatten)]
    pub shape: Shape,
    /// The same words in a file; options given here go before it
    #[arg(value_name = "FILE.toml")]
    pub file: Option<PathBuf>,
}

impl Args {
    /// The option, else the variable, else cli. An empty variable is none.
    ///
    /// # Errors
    /// `Usage` when the variable holds something else.
    pub fn mode(&self) -> Result<OutputMode, CliError> {
        if let Some(mode) = self.output_mode {
            return Ok(mode);
        }
        match mode_variable() {
            None => Ok(OutputMode::default()),
            Some(value) => mode_named(&value).ok_or_else(|| {
                CliError::Usage(format!("GRIDPILOT_OUTPUT_MODE is {value:?}: write cli, json or quiet"))
            }),
        }
    }

    /// Which GRC is meant.
    pub fn target(&self) -> Result<Target, CliError> {
        target::choose(self.grc.as_deref(), &Surroundings::of_this_process())
    }

    /// How long to try again after the connection was lost.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.reconnect.unwrap_or(PATIENCE_DEFAULT_S).into())
    }
}

fn mode_variable() -> Option<OsString> {
    std::env::var_os("GRIDPILOT_OUTPUT_MODE").filter(|value| !value.is_empty())
}

fn mode_named(value: &OsStr) -> Option<OutputMode> {
    value.to_str().and_then(|text| OutputMode::from_str(text, false).ok())
}

/// How to answer a command line that is not understood: what stands there before `--`, else the
/// variable. Without it a program would get its error as text, and only this one.
pub fn mode_typed(words: impl IntoIterator<Item = OsString>) -> Option<OutputMode> {
    let words: Vec<OsString> = words.into_iter().take_while(|word| word != "--").collect();
    let apart = words.windows(2).find(|pair| pair[0] == "--output-mode").map(|pair| pair[1].clone());
    let joined =
        || words.iter().find_map(|word| word.to_str()?.strip_prefix("--output-mode=").map(Into::into));
    mode_named(&apart.or_else(joined).or_else(mode_variable)?)
}
