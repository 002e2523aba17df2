//! The agent's program; see the library for what it does.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use node_agent::connection::{Crm, arrival};
use node_agent::handler::{Ending, serve};
use node_agent::monitor::{Monitor, MonitorError, Said};
use node_agent::start::Handed;
use node_manager::operation::Notice;
use tracing_subscriber::EnvFilter;

/// By when the monitor must have said its first word.
const MEET_TIME: std::time::Duration = std::time::Duration::from_secs(5);

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq(["--version"]) {
        println!("node-agent {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // The batch system keeps what is written here with the pilot's output.
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info,rustls=warn"))
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What cannot be said must not end it in another way.
            let _ = writeln!(std::io::stderr(), "gridpilot node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let (operations, invocation) = Handed::take()?.into_parts()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ending = runtime.block_on(async {
        let (monitor, welcome) = tokio::time::timeout(MEET_TIME, Monitor::meet(operations))
            .await
            .context("the monitor says nothing")??;
        let crm = Crm::new(invocation.crm, welcome.crm_pin)?;
        let arrive = arrival(invocation.token, &welcome)?;
        let connection = tokio::select! {
            connection = crm.arrive(&arrive) => {
                connection.with_context(|| format!("cannot join the site's CRM at {}", invocation.crm))?
            }
            said = ended(&monitor) => return Err(said),
        };
        anyhow::Ok(serve(connection, crm, monitor, arrive).await)
    })?;
    // A task that hangs in a directory service must not keep the pilot alive.
    runtime.shutdown_background();
    match ending {
        Ending::Confirmed { dirty, cause } => {
            if let Some(cause) = cause {
                tracing::warn!("ended: {cause}");
            }
            dirty.map_or(Ok(()), |what| Err(anyhow::anyhow!("left on the node: {what}")))
        }
        Ending::Unconfirmed { cause } => {
            let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            Err(anyhow::anyhow!("ended without the monitor's confirmation{cause}"))
        }
    }
}

/// Resolves when the monitor ends the pilot before the CRM was reached.
async fn ended(monitor: &Monitor) -> anyhow::Error {
    loop {
        match monitor.next().await {
            Ok(Said::Other(Notice::Ended { reason })) => {
                return anyhow::anyhow!("ended: {}", reason.sentence());
            }
            Ok(_) => {}
            Err(error @ MonitorError::Gone) => return error.into(),
            Err(error) => return error.into(),
        }
    }
}
