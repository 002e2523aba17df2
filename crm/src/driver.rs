//! The driver: performs what the owner says, in order, and hands it what comes back.
//!
//! Nothing behind a record is done before the journal has it on disk; see [`crate::durable`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use journal::Report;
use protocol::codec;
use protocol::connection::Outbox;
use protocol::frame::{Frame, Kind};
use protocol::names::{NodeName, SiteName, Text};
use protocol::node::{self, Arrive, First, Invocation, Notice, Reply, Request, Return, Token};
use tokio::sync::{Notify, mpsc};

use crate::batch::{self, BatchJob};
use crate::durable::Behind;
use crate::grant_key::GrantKey;
use crate::grc_client::Uplink;
use crate::pilot::PilotId;
use crate::pilots::{self, Knock};
use crate::serve::{Input, log_event, log_message};
use crate::site::{Action, Asked, Back, Event, Site, Submit};
use crate::store::Kept;
use crate::tokens::Tokens;

/// Actions that may wait for the journal before nothing new is listened to.
const WAITING_MAX: usize = 4096;

/// One connected agent.
#[derive(Debug)]
struct Agent {
    /// The number of its connection.
    connection: u64,
    outbox: Outbox,
    dismissed: Arc<Notify>,
    next: u64,
    asked: BTreeMap<u64, Asked>,
}

/// The owner and everything that its actions need.
#[derive(Debug)]
pub struct Driver {
    site: Site,
    name: SiteName,
    /// What pilots are told to dial.
    listen: SocketAddr,
    key: GrantKey,
    kept: Kept,
    batch: mpsc::UnboundedSender<batch::Command>,
    tokens: Tokens,
    uplink: Option<Uplink>,
    agents: BTreeMap<PilotId, Agent>,
    /// Pilots to be submitted together with those that may follow.
    gathered: Option<BatchJob>,
    behind: Behind,
    /// What performing actions gave rise to; dealt with before anything new.
    more: Vec<Event>,
    /// Something cannot be made durable at all.
    failed: Option<anyhow::Error>,
}

impl Driver {
    pub fn new(
        site: Site,
        name: SiteName,
        listen: SocketAddr,
        key: GrantKey,
        kept: Kept,
        batch: mpsc::UnboundedSender<batch::Command>,
    ) -> Self {
        Self {
            site,
            name,
            listen,
            key,
            kept,
            batch,
            tokens: Tokens::default(),
            uplink: None,
            agents: BTreeMap::new(),
            gathered: None,
            behind: Behind::default(),
            more: Vec::new(),
            failed: None,
        }
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// How long until [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Duration> {
        self.site.next_deadline().map(|at| at.saturating_sub(self.kept.now()))
    }

    /// Whether more may be listened to: the disk keeps up.
    pub fn keeps_up(&self) -> bool {
        self.behind.waiting() < WAITING_MAX
    }

    /// Whether all that was decided is durable and done.
    pub fn is_done(&self) -> bool {
        self.behind.is_idle()
    }

    /// Ends the connection to the GRC in order.
    pub async fn hang_up(&mut self) {
        if let Some(uplink) = self.uplink.take() {
            uplink.close().await;
        }
    }

    /// How far the journal is.
    ///
    /// # Errors
    /// It failed: nothing more may be answered, and the process must end.
    pub fn on_report(&mut self, report: Report) -> Result<()> {
        match report {
            Report::Durable(ticket) => self.behind.durable(ticket),
            Report::Failed(error) => {
                let what = "what was decided cannot be made durable, so nothing more is answered";
                return Err(anyhow!(error).context(what));
            }
        }
        self.go_on();
        Ok(())
    }

    /// Whether everything that was decided could at least be given to the journal.
    ///
    /// # Errors
    /// As for [`Self::on_report`].
    pub fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    pub fn on_input(&mut self, input: Input) {
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
            Input::Frame { pilot, connection, frame } => {
                if self.agents.get(&pilot).is_some_and(|agent| agent.connection == connection) {
                    self.on_frame(pilot, &frame);
                }
            }
            Input::Lost { pilot, connection, cause, silent } => {
                if self.agents.get(&pilot).is_some_and(|agent| agent.connection == connection) {
                    self.agents.remove(&pilot);
                    self.step(Event::AgentLost { pilot, cause, silent });
                }
            }
        }
    }

    /// An agent asks to be let in: known by its certificate if it was here before, else by its token.
    fn on_knock(&mut self, knock: Knock) {
        let (node, uid) = match &knock.first {
            First::Arrive(Arrive { node, uid, .. }) | First::Return(Return { node, uid, .. }) => {
                (node.clone(), *uid)
            }
        };
        if let Ok(pilot) = self.site.returns(&knock.pin, uid) {
            // It dialled again before the end of its old connection was noticed.
            self.drop_agent(pilot, "it has dialled again".into());
        }
        let back = self.site.returns(&knock.pin, uid);
        let (verdict, event) = match (back, &knock.first) {
            (Ok(pilot), first) => {
                let back = Box::new(self.back(first));
                (Ok(pilot), Some(Event::Returned { pilot, back }))
            }
            (Err(_), First::Arrive(arrive)) => {
                let redeemed = self.tokens.redeem(&arrive.token, self.kept.now());
                let verdict = redeemed.and_then(|pilot| self.site.expects(pilot, uid).map(|()| pilot));
                let Arrive { nonce, node, boot_id, .. } = arrive.clone();
                let arrived = |pilot| Event::Arrived { pilot, pin: knock.pin, nonce, node, boot_id };
                (verdict.clone(), verdict.ok().map(arrived))
            }
            (Err(refusal), First::Return(_)) => (Err(refusal), None),
        };
        match &verdict {
            Ok(pilot) => self.let_in(*pilot, &node, &knock),
            Err(refusal) => {
                tracing::warn!("a pilot at {} on node {node} is turned away: {refusal}", knock.from);
            }
        }
        pilots::answer(knock, verdict);
        if let Some(event) = event {
            self.step(event);
        }
    }

    /// How one stands that was here before. One that did not hear that it was let in arrives anew.
    fn back(&self, first: &First) -> Back {
        match first {
            First::Arrive(arrive) => {
                Back { nonce: arrive.nonce, state: node::State::Idle, keys: None, rates: None }
            }
            First::Return(one) => Back {
                nonce: one.nonce,
                state: one.state,
                keys: one.keys,
                rates: one.rates.as_ref().and_then(|rates| self.key.own_rates(rates)),
            },
        }
    }

    fn let_in(&mut self, pilot: PilotId, node: &NodeName, knock: &Knock) {
        tracing::debug!("pilot {pilot} is let in from node {node} ({})", knock.from);
        let wanted = self.site.names_nodes().then(|| self.site.pilot(pilot)).flatten();
        if let Some(wanted) = wanted.map(|p| &p.node).filter(|wanted| *wanted != node) {
            // Names of machines differ in domains and case; the start command decides.
            tracing::info!("pilot {pilot} was started for node {wanted}, which calls itself {node}");
        }
        let agent = Agent {
            connection: knock.connection,
            outbox: knock.outbox.clone(),
            dismissed: knock.dismissed.clone(),
            next: 1,
            asked: BTreeMap::new(),
        };
        self.agents.insert(pilot, agent);
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
            self.step(Event::AgentLost { pilot, cause, silent: Duration::ZERO });
        }
    }

    /// Lets something happen to the owner and performs what may be performed.
    pub fn step(&mut self, event: Event) {
        self.more.push(event);
        self.go_on();
    }

    /// What the owner said outside of a step, at its restoration.
    pub fn take(&mut self, actions: Vec<Action>) {
        self.queue(actions);
        self.go_on();
    }

    fn queue(&mut self, actions: Vec<Action>) {
        if let Some(batch) = self.behind.take(actions)
            && let Err(error) = self.kept.submit(batch)
        {
            // Nothing behind it is ever done.
            self.failed = Some(error);
        }
    }

    fn go_on(&mut self) {
        loop {
            while let Some(action) = self.behind.next_ready() {
                if !matches!(action, Action::Submit(_)) {
                    self.hand_over();
                }
                self.perform(action);
            }
            self.hand_over();
            if self.more.is_empty() {
                return;
            }
            let event = self.more.remove(0);
            log_event(&self.site, &event);
            let actions = self.site.step(self.kept.now(), event);
            self.queue(actions);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            // Given to the journal when it was queued.
            Action::Record(_) => {}
            Action::Tell(message) => {
                log_message(&message);
                if let Some(uplink) = &self.uplink {
                    uplink.tell(message);
                }
            }
            Action::Submit(submit) => self.submit(submit),
            Action::Adopt { pilot, token_s } => {
                if let Some(token_s) = token_s {
                    self.issue(pilot, token_s);
                }
                let awaited = token_s.is_some();
                let _ = self.batch.send(batch::Command::Watch { pilot, awaited });
            }
            Action::Cancel { pilot } => {
                self.tokens.revoke(pilot);
                let _ = self.batch.send(batch::Command::Cancel { pilot });
            }
            Action::Reserve(ahead) => drop(self.batch.send(batch::Command::Reserve(ahead))),
            Action::Unreserve { reservation } => {
                let _ = self.batch.send(batch::Command::Unreserve { reservation });
            }
            Action::Probe => {
                let _ = self.batch.send(batch::Command::Probe);
            }
            Action::Sweep { pilot, node, account } => {
                let _ = self.batch.send(batch::Command::Sweep { pilot, node, account });
            }
            Action::SetUp { pilot, grant, rates, environment } => {
                let setup = self.key.setup(&self.name, &grant, rates.as_deref(), environment);
                self.ask(pilot, Asked::Setup, &Request::Setup(setup));
                self.ask(pilot, Asked::GetKeys, &Request::GetKeys);
            }
            Action::Shape { pilot, rates } => match self.key.rates(&rates) {
                Some(signed) => self.ask(pilot, Asked::Shape(rates.serial), &Request::Shape(signed)),
                None => tracing::error!("rates of pilot {pilot} fit no record: {rates:?}"),
            },
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
            let (cause, silent) = (error.to_string().into(), Duration::ZERO);
            self.more.push(Event::AgentLost { pilot, cause, silent });
        }
    }

    fn issue(&mut self, pilot: PilotId, token_s: u32) -> Token {
        let now = self.kept.now();
        let expires = now + Duration::from_secs(token_s.into());
        self.tokens.issue(self.key.token(pilot), pilot, now, expires)
    }

    fn submit(&mut self, submit: Submit) {
        let pilot = submit.pilot;
        let token = self.issue(pilot, submit.lifetime_s);
        match codec::encode(&Invocation { crm: self.listen, token }) {
            Ok(invocation) => match &mut self.gathered {
                Some(job) if job.takes(&submit) => job.pilots.push((submit, invocation)),
                _ => {
                    self.hand_over();
                    self.gathered = Some(BatchJob::of(submit, invocation));
                }
            },
            Err(error) => self.more.push(Event::BatchGone { pilot, reason: error.to_string().into() }),
        }
    }

    /// Submits what was gathered.
    fn hand_over(&mut self) {
        if let Some(job) = self.gathered.take() {
            let _ = self.batch.send(batch::Command::Submit(job));
        }
    }
}
