//! `crm serve`: one task that owns the site and performs its actions; everything else feeds it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use protocol::codec;
use protocol::connection::Outbox;
use protocol::frame::{Frame, Kind};
use protocol::names::Text;
use protocol::node::{Invocation, Notice, Reply, Request};
use protocol::site::FromSite;
use rand::TryRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use crate::batch::{self, embedded::Embedded};
use crate::config::{Config, System};
use crate::grant_key::GrantKey;
use crate::grc_client::{self, Grc, Uplink};
use crate::pilot::PilotId;
use crate::pilots::{self, Knock};
use crate::site::{Action, Asked, Event, Site, Submit};
use crate::state::State;
use crate::tokens::Tokens;

/// How long an orderly stop may take; whoever is left then loses the CRM and ends by itself.
const STOP_TIME: Duration = Duration::from_secs(15);
/// Inputs that may wait for the driver; whoever sends more waits.
const INPUTS_MAX: usize = 1024;

/// What the edges tell the driver.
#[derive(Debug)]
pub enum Input {
    GrcConnected(Uplink),
    GrcLost,
    Event(Event),
    Knock(Box<Knock>),
    Frame { pilot: PilotId, frame: Frame },
    Lost { pilot: PilotId, cause: Text },
}

/// One connected agent.
#[derive(Debug)]
struct Agent {
    outbox: Outbox,
    dismissed: Arc<Notify>,
    next: u64,
    asked: BTreeMap<u64, Asked>,
}

struct Driver {
    site: Site,
    name: protocol::names::SiteName,
    listen: SocketAddr,
    started: Instant,
    key: GrantKey,
    tokens: Tokens,
    uplink: Option<Uplink>,
    agents: BTreeMap<PilotId, Agent>,
    batch: mpsc::UnboundedSender<batch::Command>,
    /// What performing actions gave rise to; dealt with before anything new.
    more: Vec<Event>,
}

/// Serves until a signal says to stop, then ends everything in order.
pub async fn serve(config: &Config) -> Result<()> {
    let state = State::open(&config.state, config.site.as_str())?;
    let grc_pin = state.grc_pin()?;
    let acceptor = protocol::tls::acceptor(&state.identity)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    // The port may have been left to the system; pilots are told the real one.
    let listen = listener.local_addr()?;
    let (inputs, mut incoming) = mpsc::channel(INPUTS_MAX);
    let (batch, commands) = mpsc::unbounded_channel();
    let (events, mut news) = mpsc::channel(INPUTS_MAX);
    let System::Embedded = config.batch.system;
    let embedded = Embedded::new(&config.batch.node, &config.launcher, &config.state);
    tokio::spawn(batch::run(Arc::new(embedded), commands, events));
    tokio::spawn(pilots::listen(listener, acceptor, inputs.clone()));
    let grc = Grc {
        site: config.site.clone(),
        address: config.grc,
        connector: protocol::tls::connector(&state.identity, grc_pin)?,
        mapfile: config.mapfile.clone(),
    };
    tokio::spawn(grc_client::keep_connected(grc, inputs));
    let mut driver = Driver {
        site: Site::new(config.settings(), config.nodes()),
        name: config.site.clone(),
        listen,
        started: Instant::now(),
        key: state.grant_key,
        tokens: Tokens::default(),
        uplink: None,
        agents: BTreeMap::new(),
        batch,
        more: Vec::new(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    eprintln!("crm: site {} ready, pilots are awaited on {listen}", config.site);
    let mut stop_at: Option<Instant> = None;
    loop {
        if let Some(at) = stop_at
            && (driver.site.is_idle() || at <= Instant::now())
        {
            if let Some(uplink) = driver.uplink.take() {
                uplink.close().await;
            }
            eprintln!("crm: site {} stopped", config.site);
            return Ok(());
        }
        let deadline = driver.site.next_deadline().map(|at| driver.started + at);
        let wake = deadline.into_iter().chain(stop_at).min();
        tokio::select! {
            Some(input) = incoming.recv() => driver.on_input(input),
            Some(event) = news.recv() => driver.step(event),
            () = sleep_until(wake) => driver.step(Event::Tick),
            _ = terminate.recv() => stop_at = Some(driver.stop(stop_at)),
            _ = interrupt.recv() => stop_at = Some(driver.stop(stop_at)),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn stop(&mut self, before: Option<Instant>) -> Instant {
        if before.is_none() {
            eprintln!("crm: site {} is stopping", self.name);
            self.step(Event::Stop);
        }
        before.unwrap_or_else(|| Instant::now() + STOP_TIME)
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::GrcConnected(uplink) => {
                self.uplink = Some(uplink);
                self.step(Event::GrcConnected);
            }
            Input::GrcLost => {
                self.uplink = None;
                self.step(Event::GrcLost);
            }
            Input::Event(event) => self.step(event),
            Input::Knock(knock) => self.on_knock(*knock),
            Input::Frame { pilot, frame } => self.on_frame(pilot, &frame),
            Input::Lost { pilot, cause } => {
                if self.agents.remove(&pilot).is_some() {
                    self.step(Event::AgentLost { pilot, cause });
                }
            }
        }
    }

    fn on_knock(&mut self, knock: Knock) {
        let redeemed = self.tokens.redeem(&knock.arrive.token, self.now());
        let verdict = redeemed.and_then(|pilot| self.site.expects(pilot, knock.arrive.uid).map(|()| pilot));
        let (nonce, node) = (knock.arrive.nonce, knock.arrive.node.clone());
        match &verdict {
            Ok(pilot) => {
                tracing::debug!("pilot {pilot} arrived from node {node} ({})", knock.from);
                let wanted = self.site.pilot(*pilot).map(|p| p.node.clone());
                if let Some(wanted) = wanted.filter(|wanted| *wanted != node) {
                    // Names of machines differ in domains and case; the start command decides.
                    tracing::info!("pilot {pilot} was started for node {wanted}, which calls itself {node}");
                }
                let agent = Agent {
                    outbox: knock.outbox.clone(),
                    dismissed: knock.dismissed.clone(),
                    next: 1,
                    asked: BTreeMap::new(),
                };
                self.agents.insert(*pilot, agent);
            }
            Err(refusal) => {
                tracing::warn!("a pilot at {} on node {node} is turned away: {refusal}", knock.from);
            }
        }
        let pilot = verdict.as_ref().ok().copied();
        pilots::answer(knock, verdict);
        if let Some(pilot) = pilot {
            self.step(Event::Arrived { pilot, nonce });
        }
    }

    fn on_frame(&mut self, pilot: PilotId, frame: &Frame) {
        let Some(agent) = self.agents.get_mut(&pilot) else { return };
        let event = match frame.kind {
            Kind::Reply => {
                match (agent.asked.remove(&frame.correlation), codec::decode::<Reply>(&frame.body)) {
                    (Some(asked), Ok(reply)) => Ok(Event::Answered { pilot, asked, reply }),
                    (None, _) => Err("it answered what was not asked".to_owned()),
                    (_, Err(error)) => Err(error.to_string()),
                }
            }
            Kind::Notice => match codec::decode::<Notice>(&frame.body) {
                Ok(notice) => match notice.check() {
                    Ok(()) => Ok(Event::Noticed { pilot, notice }),
                    Err(refusal) => Err(refusal.to_string()),
                },
                Err(error) => Err(error.to_string()),
            },
            Kind::Hello | Kind::Request => Err("it sent a frame that no agent sends".to_owned()),
        };
        match event {
            Ok(event) => self.step(event),
            Err(cause) => self.drop_agent(pilot, cause.into()),
        }
    }

    /// An agent that cannot be talked to is as good as gone.
    fn drop_agent(&mut self, pilot: PilotId, cause: Text) {
        if let Some(agent) = self.agents.remove(&pilot) {
            agent.dismissed.notify_one();
            self.step(Event::AgentLost { pilot, cause });
        }
    }

    fn step(&mut self, event: Event) {
        self.more.push(event);
        while !self.more.is_empty() {
            let event = self.more.remove(0);
            log_event(&event);
            for action in self.site.step(self.now(), event) {
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Tell(message) => {
                log_message(&message);
                if let Some(uplink) = &self.uplink {
                    uplink.tell(message);
                }
            }
            Action::Submit(submit) => self.submit(submit),
            Action::Cancel { pilot } => {
                self.tokens.revoke(pilot);
                let _ = self.batch.send(batch::Command::Cancel { pilot });
            }
            Action::Sweep { pilot, node, account } => {
                let _ = self.batch.send(batch::Command::Sweep { pilot, node, account });
            }
            Action::SetUp { pilot, grant, rates, environment } => {
                let setup = self.key.setup(&self.name, pilot, &grant, rates.as_deref(), environment);
                self.ask(pilot, Asked::Setup, &Request::Setup(setup));
                self.ask(pilot, Asked::GetKeys, &Request::GetKeys);
            }
            Action::Join { pilots, ring } => {
                let set_keys = codec::encode(&Request::SetKeys(ring)).map(Bytes::from);
                let run = codec::encode(&Request::Run).map(Bytes::from);
                match (set_keys, run) {
                    (Ok(set_keys), Ok(run)) => {
                        for pilot in pilots {
                            self.post(pilot, Asked::SetKeys, set_keys.clone());
                            self.post(pilot, Asked::Run, run.clone());
                        }
                    }
                    (Err(error), _) | (_, Err(error)) => tracing::error!("no key ring goes out: {error}"),
                }
            }
            Action::Ask { pilot, asked, request } => self.ask(pilot, asked, &request),
            Action::Pass { pilot, request } => {
                if let Some(agent) = self.agents.get(&pilot) {
                    // A broken connection is reported by its own task.
                    let _ = agent.outbox.post(Kind::Notice, 0, &request);
                }
            }
            Action::Record(_) | Action::Shape { .. } => {}
            Action::Dismiss { pilot } => {
                if let Some(agent) = self.agents.remove(&pilot) {
                    agent.dismissed.notify_one();
                }
            }
        }
    }

    fn ask(&mut self, pilot: PilotId, asked: Asked, request: &Request) {
        match codec::encode(request) {
            Ok(body) => self.post(pilot, asked, body.into()),
            Err(error) => tracing::error!("a request to pilot {pilot} cannot be written: {error}"),
        }
    }

    fn post(&mut self, pilot: PilotId, asked: Asked, body: Bytes) {
        let Some(agent) = self.agents.get_mut(&pilot) else { return };
        let correlation = agent.next;
        agent.next += 1;
        agent.asked.insert(correlation, asked);
        if let Err(error) = agent.outbox.post_encoded(Kind::Request, correlation, body) {
            // Not from here: an action of the same step may still be outstanding.
            agent.dismissed.notify_one();
            self.agents.remove(&pilot);
            self.more.push(Event::AgentLost { pilot, cause: error.to_string().into() });
        }
    }

    fn submit(&mut self, submit: Submit) {
        let pilot = submit.pilot;
        let mut random = [0; 32];
        if let Err(error) = rand::rngs::SysRng.try_fill_bytes(&mut random) {
            let reason = format!("the system gives no random bytes for its token: {error}").into();
            self.more.push(Event::BatchGone { pilot, reason });
            return;
        }
        let expires = self.now() + Duration::from_secs(submit.token_s.into());
        let token = self.tokens.issue(random, pilot, expires);
        match codec::encode(&Invocation { crm: self.listen, token }) {
            Ok(invocation) => {
                let _ = self.batch.send(batch::Command::Submit { submit: Box::new(submit), invocation });
            }
            Err(error) => self.more.push(Event::BatchGone { pilot, reason: error.to_string().into() }),
        }
    }
}

fn log_event(event: &Event) {
    match event {
        Event::BatchGone { pilot, reason } => tracing::info!("pilot {pilot} is gone: {reason}"),
        Event::AgentLost { pilot, cause } => tracing::info!("pilot {pilot} is lost: {cause}"),
        Event::Swept { pilot, outcome: Err(what) } => tracing::warn!("after pilot {pilot}: {what}"),
        Event::GrcLost => tracing::info!("the GRC is lost; everything that this site has is ended"),
        _ => {}
    }
}

fn log_message(message: &FromSite) {
    match message {
        FromSite::Failed { reservation, failure, .. } => tracing::warn!("{reservation} failed: {failure}"),
        FromSite::HoldRefused { reservation, refusal, .. } => {
            tracing::info!("{reservation} is not held: {refusal}");
        }
        FromSite::Held { reservation, .. } => tracing::info!("{reservation} is held"),
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
