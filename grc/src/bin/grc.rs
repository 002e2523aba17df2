//! `grc`: the daemon of the grid and the commands around it.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use grc::config::Config;
use grc::serve::Server;
use grc::{durable, pins};
use protocol::identity::Identity;
use protocol::names::SiteName;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Grid Resource Coordinator: one per grid.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, default_value = "/etc/gridpilot/grc.toml")]
    config: PathBuf,
    /// Only say whether the configuration can be used.
    #[arg(long, global = true)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the state directory and the identity of this GRC, once.
    Init,
    /// Print the pin by which users of other machines know this GRC.
    Pin,
    /// Print a one-time ticket with which a site's CRM joins; valid for a day.
    Ticket {
        /// A site of the configuration.
        site: SiteName,
    },
    /// Serve users and sites.
    Serve,
    /// What is durable: every reservation, job and answer.
    Journal {
        #[command(subcommand)]
        what: Journal,
    },
}

#[derive(Subcommand)]
enum Journal {
    /// Print it as lines of JSON, one for each record. The GRC must not serve meanwhile.
    Export,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("grc: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match (arguments.check_config, arguments.command) {
        (true, _) => {
            println!("{}: ok, {} site(s)", arguments.config.display(), config.supernets.len());
            Ok(())
        }
        (false, Some(Command::Init)) => init(&config.state),
        (false, Some(Command::Pin)) => pin(&config.state),
        (false, Some(Command::Ticket { site })) => ticket(&config, &site),
        (false, Some(Command::Serve)) => serve(config),
        (false, Some(Command::Journal { what: Journal::Export })) => export(&config.state),
        (false, None) => {
            eprintln!("grc: say what to do: init, pin, ticket SITE, serve or journal export");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grc: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The chain of causes, each thing said once: some errors name their cause themselves.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line {
        line if line.is_empty() => cause,
        line if line.contains(&cause) => line,
        line => format!("{line}: {cause}"),
    })
}

fn init(state: &Path) -> anyhow::Result<()> {
    if state.join("key.der").exists() {
        bail!("{} has an identity already; sites know it, so it is not replaced", state.display());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .with_context(|| format!("cannot make {}", state.display()))?;
    // It may have been there before, with another mode.
    std::fs::set_permissions(state, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", state.display()))?;
    let identity = Identity::generate("gridpilot grc")?;
    identity.save(state)?;
    println!("{}", identity.pin());
    Ok(())
}

fn identity(state: &Path) -> anyhow::Result<Identity> {
    Identity::load(state)
        .with_context(|| format!("{} holds no identity; run `grc init` once", state.display()))
}

fn pin(state: &Path) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", identity(state)?.pin()).context("cannot print the pin")
}

fn ticket(config: &Config, site: &SiteName) -> anyhow::Result<()> {
    if !config.supernets.contains_key(site) {
        bail!("site {site} is not in the configuration; add a [[site]] with its supernets");
    }
    let ticket = pins::make_ticket(&config.state, site, identity(&config.state)?.pin())?;
    writeln!(std::io::stdout(), "{ticket}").context("cannot print the ticket")
}

fn export(state: &Path) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    durable::export(state, &mut out)?;
    out.flush().context("cannot print the journal")
}

fn serve(config: Config) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    more_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let socket = config.socket.clone();
        let server = Server::start(config, stop.clone()).await?;
        let remote = server.users_address.map_or_else(String::new, |address| format!(" or dial {address}"));
        eprintln!("grc ready: sites dial {}, users connect to {}{remote}", server.address, socket.display());
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
        server.run().await
    });
    // A task that still waits for a slow peer does not hold the process.
    runtime.shutdown_background();
    result
}

/// As many open files as the system lets us have: each client and site takes one.
fn more_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
