//! The owner of everything the agent knows: one task, one state. Requests of the CRM, words of the
//! monitor and results of its own work come in; replies and notices go out. Long work is done by
//! tasks that report back, so that SHUTDOWN and GET_STATUS are answered in every state.

mod requests;
mod shape;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use node_manager::operation;
use protocol::connection::{Connection, Inbox, Outbox, read};
use protocol::frame::{Frame, Kind};
use protocol::ids::JobId;
use protocol::names::{NodeName, Text};
use protocol::node::{Notice, Reply, Request, State};
use protocol::refusal::{Failure, Refusal, Step};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::command::Wishes;
use crate::init::Init;
use crate::lifecycle::{self, Action, Event};
use crate::monitor::{Monitor, MonitorError, Said};
use crate::setup::{CheckedSetup, Prepared, install_failure};
use crate::work::{self, Done, Sandbox};

/// How long the monitor may take to remove the sandbox before the agent stops waiting for it.
const REMOVE_TIME: Duration = Duration::from_secs(15);
/// How long the last words may take to reach the CRM.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// How a NodeManager's life ended.
#[derive(Debug)]
pub enum Ending {
    /// The monitor said that nothing is left, but for what `dirty` names.
    Confirmed { dirty: Option<Text>, cause: Option<Failure> },
    /// The monitor is gone or silent: the CRM hears it by our silence and looks after the node.
    Unconfirmed { cause: Option<Failure> },
}

/// One NodeManager, as the agent knows it.
#[derive(Debug)]
pub struct Handler {
    node: NodeName,
    uid: u32,
    monitor: Monitor,
    outbox: Outbox,
    born: Instant,
    state: State,
    since: Instant,
    setup: Option<Arc<CheckedSetup>>,
    /// Keys and account, made while the monitor builds.
    preparing: Option<JoinHandle<work::PrepareResult>>,
    sandbox: Option<Sandbox>,
    joined: Option<work::Joined>,
    /// Those that run, and those whose end is not saved.
    commands: HashMap<JobId, Wishes>,
    /// The latter, oldest first, with what is kept of their output.
    ended: VecDeque<(JobId, usize)>,
    /// Every job that was ever started: none starts twice.
    started: HashSet<JobId>,
    runs: u64,
    /// Requests that follow on one another, in their order, behind the one that is being done.
    waiting: VecDeque<(u64, Request)>,
    busy: Option<u64>,
    /// Who waits for rates to hold, in the monitor's order.
    shaping: VecDeque<u64>,
    /// By when the address of a shaped sandbox must be free.
    address_by: Option<Instant>,
    /// Tells what a shaped sandbox sends.
    meter: Option<AbortHandle>,
    /// Those who asked for the end.
    enders: Vec<u64>,
    cause: Option<Failure>,
    remove_by: Option<Instant>,
    ending: Option<Ending>,
    /// The CRM no longer takes what it is sent.
    unheard: bool,
    tasks: JoinSet<()>,
    results: mpsc::UnboundedSender<Done>,
}

/// Serves the CRM until the sandbox is gone.
pub async fn serve<S>(connection: Connection<S>, monitor: Monitor, node: NodeName, uid: u32) -> Ending
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Connection { mut inbox, outbox, mut writer, .. } = connection;
    let (results, mut work_done) = mpsc::unbounded_channel();
    let mut handler = Handler {
        node,
        uid,
        monitor,
        outbox,
        born: Instant::now(),
        state: State::Idle,
        since: Instant::now(),
        setup: None,
        preparing: None,
        sandbox: None,
        joined: None,
        commands: HashMap::new(),
        ended: VecDeque::new(),
        started: HashSet::new(),
        runs: 0,
        waiting: VecDeque::new(),
        busy: None,
        shaping: VecDeque::new(),
        address_by: None,
        meter: None,
        enders: Vec::new(),
        cause: None,
        remove_by: None,
        ending: None,
        unheard: false,
        tasks: JoinSet::new(),
        results,
    };
    let ending = handler.run(&mut inbox, &mut work_done).await;
    // The writer ends once every task that could still post is gone and all is sent.
    handler.tasks.shutdown().await;
    drop(handler);
    let _ = timeout(GOODBYE_TIME, &mut writer).await;
    ending
}

impl Handler {
    async fn run<S>(&mut self, inbox: &mut Inbox<S>, results: &mut mpsc::UnboundedReceiver<Done>) -> Ending
    where
        S: AsyncRead + AsyncWrite,
    {
        let mut connected = true;
        loop {
            if let Some(ending) = self.ending.take() {
                return ending;
            }
            if self.unheard && connected {
                connected = false;
                self.end(Some(self.failure(Step::Running, "the CRM does not take what it is sent"))).await;
            }
            let remove_by = self.remove_by.unwrap_or_else(Instant::now);
            tokio::select! {
                // What was done here before what is said of it: a word of the CRM about the end of
                // a command must find that it ended.
                biased;
                () = sleep_until(remove_by), if self.remove_by.is_some() => {
                    self.ending = Some(Ending::Unconfirmed { cause: self.cause.clone() });
                }
                Some(done) = results.recv() => self.on_done(done).await,
                said = self.monitor.next() => self.on_monitor(said).await,
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                frame = inbox.next(), if connected => match frame {
                    Ok(frame) => self.on_frame(&frame).await,
                    Err(error) => {
                        connected = false;
                        let cause = format!("the connection to the CRM is lost: {error}");
                        self.end(Some(self.failure(Step::Running, cause))).await;
                    }
                },
            }
        }
    }

    async fn on_frame(&mut self, frame: &Frame) {
        let request = match (frame.kind, read::<Request>(frame)) {
            (Kind::Request | Kind::Notice, Ok(request)) => request,
            (Kind::Request, Err(error)) => {
                let why = error.to_string().into();
                return self.reply(frame.correlation, &Reply::Refused(Refusal::Malformed { why }));
            }
            (kind, _) => return tracing::warn!("a {kind:?} of the CRM makes no sense here; ignored"),
        };
        match request {
            Request::GetStatus => {
                let since_s = self.since.elapsed().as_secs();
                let commands = (self.commands.len() - self.ended.len()) as u32;
                self.reply(frame.correlation, &Reply::Status { state: self.state, since_s, commands });
            }
            Request::OutputSaved { job, stream, upto } => self.output_saved(job, stream, upto),
            Request::Resend { job } => self.resend(job),
            Request::ExitSaved { job } => self.exit_saved(job),
            Request::Beat => self.notice(&Notice::Beat),
            Request::Shape(rates) => self.begin_shape(frame.correlation, &rates).await,
            Request::Signal { job, signal } => self.signal(frame.correlation, job, signal),
            Request::Shutdown if self.state == State::Gone => self.reply(frame.correlation, &Reply::Done),
            Request::Shutdown => {
                self.enders.push(frame.correlation);
                self.end(None).await;
            }
            request => {
                self.waiting.push_back((frame.correlation, request));
                self.advance().await;
            }
        }
    }

    async fn on_monitor(&mut self, said: Result<Said, MonitorError>) {
        match said {
            Ok(Said::Built(socket)) => self.on_built(socket).await,
            Ok(Said::Other(operation::Notice::Failed { step, errno, detail })) => {
                self.on_failed(step, errno, &detail).await;
            }
            Ok(Said::Shaped(counters)) => self.on_shaped(counters).await,
            Ok(Said::Other(operation::Notice::Gone)) => self.removed(None).await,
            Ok(Said::Other(operation::Notice::Dirty { what })) => self.removed(Some(what.into())).await,
            Ok(Said::Other(operation::Notice::Ended { reason })) => {
                if self.state < State::TearingDown {
                    self.cause.get_or_insert(self.failure(Step::Running, reason.sentence()));
                }
                self.removed(None).await;
            }
            Ok(Said::Other(operation::Notice::State(_) | operation::Notice::Welcome(_))) => {}
            // These are always what they are called.
            Ok(Said::Other(operation::Notice::Built | operation::Notice::Shaped)) => {}
            Err(error) => {
                let cause = self.failure(Step::Running, error.to_string());
                self.cause.get_or_insert_with(|| cause.clone());
                self.notice(&Notice::StateChanged { state: State::TearingDown, cause: Some(cause) });
                self.ending = Some(Ending::Unconfirmed { cause: self.cause.clone() });
            }
        }
    }

    async fn on_built(&mut self, socket: OwnedFd) {
        let Some(preparing) = self.preparing.take().filter(|_| self.state == State::Building) else {
            return;
        };
        let (init, gone) = match Init::new(socket) {
            Ok(both) => both,
            Err(error) => {
                let failure = self.failure(Step::Setup, format!("no way to the sandbox's init: {error}"));
                return self.setup_failed(failure).await;
            }
        };
        let results = self.results.clone();
        self.tasks.spawn(async move {
            let _ = gone.await;
            let _ = results.send(Done::InitGone);
        });
        self.tasks.spawn(work::prepared(preparing, init, self.results.clone()));
    }

    async fn on_done(&mut self, done: Done) {
        match done {
            Done::Prepared { .. } if self.state != State::Building => {}
            Done::Prepared { init, result: Ok(Prepared { keys, shell }) } => {
                self.sandbox = Some(Sandbox { init, keys: Arc::new(keys), shell });
                self.open_network().await;
            }
            Done::ShapeAgain if self.state == State::Building => self.open_network().await,
            Done::ShapeAgain => {}
            Done::Prepared { result: Err(cause), .. } => {
                self.setup_failed(self.failure(Step::GetKeys, cause)).await;
            }
            // Those of an operation that the end has overtaken were answered then.
            Done::Installed { correlation, .. } | Done::Served { correlation, .. }
                if self.busy != Some(correlation) => {}
            Done::Installed { result: Ok(joined), .. } => {
                self.joined = Some(joined);
                self.finish(Event::RingInstalled, &Reply::Done).await;
            }
            Done::Installed { result: Err((file, error)), .. } => {
                self.fail(self.placed(install_failure(file, &error))).await;
            }
            Done::Served { result: Ok(()), .. } => self.finish(Event::ServicesAnswer, &Reply::Done).await,
            Done::Served { result: Err(failure), .. } => self.fail(self.placed(failure)).await,
            Done::CommandEnded { job, kept_bytes } => self.keep_ended(job, kept_bytes),
            Done::CommandOver(job) => {
                self.commands.remove(&job);
            }
            Done::InitGone => {
                let cause = operation::EndReason::SandboxDied.sentence();
                self.end(Some(self.failure(Step::Running, cause))).await;
            }
        }
    }

    /// The operation in hand succeeded.
    async fn finish(&mut self, event: Event, reply: &Reply) {
        self.step(event, None).await;
        if let Some(correlation) = self.busy.take() {
            self.reply(correlation, reply);
        }
        self.advance().await;
    }

    /// The operation in hand failed and changed nothing that cannot be repeated.
    async fn fail(&mut self, failure: Failure) {
        if let Some(correlation) = self.busy.take() {
            self.reply(correlation, &Reply::Failed(failure));
        }
        self.advance().await;
    }

    async fn setup_failed(&mut self, failure: Failure) {
        if self.state != State::Building {
            return;
        }
        let failure = self.placed(failure);
        if let Some(correlation) = self.busy.take() {
            self.reply(correlation, &Reply::Failed(failure.clone()));
        }
        self.cause.get_or_insert_with(|| failure.clone());
        self.step(Event::SandboxFailed, Some(failure)).await;
    }

    /// The one way down: whoever or whatever wants the end.
    async fn end(&mut self, cause: Option<Failure>) {
        if self.state < State::TearingDown {
            self.cause = self.cause.take().or_else(|| cause.clone());
        }
        self.step(Event::EndRequested, cause).await;
    }

    async fn removed(&mut self, dirty: Option<Text>) {
        let cause = self.cause.clone();
        self.step(Event::SandboxRemoved, None).await;
        self.notice(&Notice::Gone { dirty: dirty.clone(), cause: cause.clone() });
        for correlation in std::mem::take(&mut self.enders) {
            self.reply(correlation, &Reply::Done);
        }
        self.ending = Some(Ending::Confirmed { dirty, cause });
    }

    /// Takes the step, tells of the new state, does what follows from it alone.
    async fn step(&mut self, event: Event, cause: Option<Failure>) {
        let (next, actions) = match lifecycle::step(self.state, event) {
            Ok(followed) => followed,
            Err(wrong) => return tracing::warn!("{wrong}; ignored"),
        };
        if next != self.state {
            self.state = next;
            self.since = Instant::now();
            // Gone has a notice of its own, with what was left.
            if next != State::Gone {
                self.notice(&Notice::StateChanged { state: next, cause });
            }
        }
        for action in actions {
            match action {
                Action::BuildSandbox => self.build().await,
                Action::RemoveSandbox => self.remove().await,
                Action::Exit => self.refuse_waiting(),
                // Begun with the request that carries what they need.
                Action::TellKeys
                | Action::InstallRing
                | Action::StartServices
                | Action::StartCommand
                | Action::PassRates => {}
            }
        }
    }

    async fn build(&mut self) {
        let Some(setup) = self.setup.clone() else { return };
        if let Err(error) = self.monitor.build(setup.grant, setup.signature).await {
            // The socket says the same to the reader, which ends it.
            tracing::warn!("cannot ask the monitor to build: {error}");
        }
    }

    async fn remove(&mut self) {
        self.refuse_waiting();
        self.remove_by = Some(Instant::now() + REMOVE_TIME);
        if let Err(error) = self.monitor.tear_down().await {
            tracing::warn!("cannot ask the monitor to tear down: {error}");
        }
    }

    /// Nobody who asked is left without an answer.
    fn refuse_waiting(&mut self) {
        self.stop_shaping();
        if let Some(correlation) = self.busy.take() {
            let failure = self.failure(Step::End, "the sandbox was ended meanwhile");
            self.reply(correlation, &Reply::Failed(failure));
        }
        for (correlation, _) in std::mem::take(&mut self.waiting) {
            let refusal = Refusal::WrongState { what: "this".into(), state: "going down".into() };
            self.reply(correlation, &Reply::Refused(refusal));
        }
    }

    fn failure(&self, step: Step, cause: impl Into<Text>) -> Failure {
        self.placed(Failure::new(step, cause, ""))
    }

    /// With site and node, so that the user sees where.
    fn placed(&self, failure: Failure) -> Failure {
        let failure = failure.at_node(&self.node);
        match &self.setup {
            Some(setup) => failure.at_site(&setup.setup.host.site),
            None => failure,
        }
    }

    fn reply(&mut self, correlation: u64, reply: &Reply) {
        self.unheard |= self.outbox.post(Kind::Reply, correlation, reply).is_err();
    }

    fn notice(&mut self, notice: &Notice) {
        self.unheard |= self.outbox.post(Kind::Notice, 0, notice).is_err();
    }
}
