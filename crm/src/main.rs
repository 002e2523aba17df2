//! `crm`: the Cluster Resource Manager of one site.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use crm::config::Config;
use crm::grc_client::{self, Grc};
use crm::state::State;
use crm::ticket::Ticket;

#[derive(Parser)]
#[command(version, about = "Cluster Resource Manager: one per site of a gridpilot grid")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Join a grid, once, with a ticket that the GRC's administrator made for this site
    Join {
        #[command(flatten)]
        file: ConfigFile,
        /// As printed by `grc ticket SITE`; `-` reads it from standard input
        #[arg(long)]
        ticket: String,
    },
    /// Print the node policy, to be placed as /etc/gridpilot/node.policy on every node
    Policy {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Read what the site keeps, while it is stopped
    Journal {
        #[command(subcommand)]
        verb: JournalVerb,
    },
    /// Serve the site until a signal says to stop
    Serve {
        #[command(flatten)]
        file: ConfigFile,
        /// Only check the configuration and what it names
        #[arg(long)]
        check_config: bool,
    },
}

#[derive(Subcommand)]
enum JournalVerb {
    /// Print every record as a line of JSON
    Export {
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, default_value = "/etc/gridpilot/crm.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match run(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Join { file, ticket } => {
            let config = Config::load(&file.config)?;
            runtime()?.block_on(join(&config, &ticket))
        }
        Verb::Policy { file } => {
            let config = Config::load(&file.config)?;
            let state = State::open(&config.state, config.site.as_str())?;
            print!("{}", crm::policy::policy(&config, &state.grant_key, state.identity.pin()));
            Ok(())
        }
        Verb::Journal { verb: JournalVerb::Export { file } } => {
            let config = Config::load(&file.config)?;
            crm::store::export(&config.state)
        }
        Verb::Serve { file, check_config } => {
            let config = Config::load(&file.config)?;
            if check_config {
                println!("{}: ok", file.config.display());
                return Ok(());
            }
            runtime()?.block_on(crm::serve::serve(&config))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}

async fn join(config: &Config, ticket: &str) -> Result<()> {
    let ticket: Ticket = match ticket {
        "-" => std::io::read_to_string(std::io::stdin())?.parse()?,
        text => text.parse()?,
    };
    if ticket.site != config.site {
        bail!("the ticket is for site {}, the configuration is for site {}", ticket.site, config.site);
    }
    let state = State::open(&config.state, config.site.as_str())?;
    let grc = Grc {
        site: config.site.clone(),
        address: config.grc,
        connector: protocol::tls::connector(&state.identity, ticket.grc)?,
        accounts: config.accounts(),
    };
    grc_client::register(&grc, ticket.secret)
        .await
        .with_context(|| format!("site {} cannot join the grid at {}", config.site, config.grc))?;
    state.set_grc_pin(ticket.grc)?;
    println!("site {} has joined the grid at {}", config.site, config.grc);
    Ok(())
}
