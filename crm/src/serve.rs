//! `crm serve`: the edges, and one task that drives the site's owner.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::frame::Frame;
use protocol::names::Text;
use protocol::site::FromSite;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::batch;
use crate::config::Config;
use crate::driver::Driver;
use crate::grc_client::{self, Grc, Uplink};
use crate::pilot::{PilotId, State::Gone};
use crate::pilots::{self, Knock};
use crate::site::{Event, News, Site};
use crate::state::State;
use crate::store::{self, Opened};

/// How long an orderly stop may take; whoever is left then loses the CRM and ends by itself.
const STOP_TIME: Duration = Duration::from_secs(15);
/// Inputs that may wait for the driver; whoever sends more waits.
const INPUTS_MAX: usize = 1024;
/// The runtime's clock stands still while the machine sleeps, the site's timeline does not.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What the edges tell the driver.
#[derive(Debug)]
pub enum Input {
    GrcConnected(Uplink),
    GrcLost,
    Event(Event),
    Knock(Box<Knock>),
    Frame {
        pilot: PilotId,
        connection: u64,
        frame: Frame,
    },
    /// The connection of this number is gone, so long after the agent's last word.
    Lost {
        pilot: PilotId,
        connection: u64,
        cause: Text,
        silent: Duration,
    },
}

/// Serves until a signal says to stop. SIGTERM and SIGINT end the pilots in order; what was granted
/// is taken up again at the next start. SIGUSR1 leaves the pilots to a CRM that is started at once.
pub async fn serve(config: &Config) -> Result<()> {
    let state = State::open(&config.state, config.site.as_str())?;
    let grc_pin = state.grc_pin()?;
    let acceptor = protocol::tls::acceptor(&state.identity)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    // The port may have been left to the system; pilots are told the real one.
    let listen = listener.local_addr()?;
    let Opened { kept, records, mut reports } = store::open(&config.state, &config.site).await?;
    let (inputs, mut incoming) = mpsc::channel(INPUTS_MAX);
    let (batch, commands) = mpsc::unbounded_channel();
    let (events, mut news) = mpsc::channel(INPUTS_MAX);
    batch::start(config, commands, events)?;
    let (site, actions) = Site::restore(config.settings(), config.nodes(), kept.now(), records);
    let mut driver = Driver::new(site, config.site.clone(), listen, state.grant_key, kept, batch);
    driver.take(actions);
    tokio::spawn(pilots::listen(listener, acceptor, inputs.clone(), config.settings().times.lease));
    let grc = Grc {
        site: config.site.clone(),
        address: config.grc,
        connector: protocol::tls::connector(&state.identity, grc_pin)?,
        accounts: config.accounts(),
    };
    tokio::spawn(grc_client::keep_connected(grc, inputs));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut leave = signal(SignalKind::user_defined1())?;
    eprintln!("crm: site {} ready, pilots are awaited on {listen}", config.site);
    let mut stop_at: Option<Instant> = None;
    loop {
        driver.check()?;
        if let Some(at) = stop_at
            && ((driver.site().is_quiet() && driver.is_done()) || at <= Instant::now())
        {
            driver.hang_up().await;
            eprintln!("crm: site {} stopped", config.site);
            return Ok(());
        }
        let tick = driver.next_tick();
        let stop = stop_at.map(|at| at.saturating_duration_since(Instant::now()));
        let sleep = tick.into_iter().chain(stop).min().unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        let mut asked_to_stop = false;
        tokio::select! {
            Some(report) = reports.recv() => driver.on_report(report)?,
            Some(input) = incoming.recv(), if driver.keeps_up() => driver.on_input(input),
            Some(event) = news.recv(), if driver.keeps_up() => driver.step(event),
            () = tokio::time::sleep(sleep) => driver.step(Event::Tick),
            _ = terminate.recv() => asked_to_stop = true,
            _ = interrupt.recv() => asked_to_stop = true,
            _ = leave.recv() => {
                driver.hang_up().await;
                eprintln!("crm: site {} stopped; its pilots await it within their lease", config.site);
                return Ok(());
            }
        }
        if asked_to_stop && stop_at.is_none() {
            eprintln!("crm: site {} is stopping", config.site);
            stop_at = Some(Instant::now() + STOP_TIME);
            driver.step(Event::Stop);
        }
    }
}

/// What is worth a line.
pub fn log_event(site: &Site, event: &Event) {
    // Said before, or of one that is not awaited any more, it is an echo.
    let is_news = |pilot: &PilotId| site.pilot(*pilot).is_some_and(|p| !p.batch_gone && p.state != Gone);
    match event {
        Event::BatchGone { pilot, .. } if !is_news(pilot) => {}
        Event::BatchGone { pilot, reason } => tracing::info!("pilot {pilot} is gone: {reason}"),
        Event::Batch(News::NotSubmitted { pilots, error }) => {
            let first = pilots.first().map(ToString::to_string).unwrap_or_default();
            tracing::warn!("pilot {first} and {} with it were not submitted: {error}", pilots.len() - 1);
        }
        Event::Batch(News::NotThere { pilots }) => {
            for pilot in pilots.iter().filter(|pilot| is_news(pilot)) {
                tracing::info!("the batch system does not know pilot {pilot}");
            }
        }
        Event::AgentLost { pilot, cause, .. } => tracing::info!("pilot {pilot} is away: {cause}"),
        Event::Returned { pilot, .. } => tracing::info!("pilot {pilot} is back"),
        Event::Swept { pilot, outcome: Err(what) } => tracing::warn!("after pilot {pilot}: {what}"),
        Event::GrcLost => tracing::info!("the GRC is away; what it granted stays"),
        _ => {}
    }
}

/// What is worth a line.
pub fn log_message(message: &FromSite) {
    match message {
        FromSite::Failed { reservation, failure, .. } => tracing::warn!("{reservation} failed: {failure}"),
        FromSite::HoldRefused { reservation, refusal, .. } => {
            tracing::info!("{reservation} is not held: {refusal}");
        }
        FromSite::Held { reservation, .. } => tracing::info!("{reservation} is held"),
        FromSite::Committed { reservation, .. } => tracing::info!("{reservation} is granted"),
        FromSite::Lost { reservation, .. } => tracing::warn!("{reservation} is not here"),
        FromSite::SiteReady { reservation, .. } => tracing::info!("{reservation} is ready here"),
        FromSite::Joined { reservation, .. } => tracing::info!("{reservation} is joined here"),
        FromSite::Ended { reservation, dirty, .. } if dirty.is_empty() => {
            tracing::info!("{reservation} is ended");
        }
        FromSite::Ended { reservation, dirty, .. } => {
            let nodes: Vec<_> = dirty.iter().map(|(node, what)| format!("{node}: {what}")).collect();
            tracing::warn!("{reservation} is ended, not clean: {}", nodes.join("; "));
        }
        _ => {}
    }
}
