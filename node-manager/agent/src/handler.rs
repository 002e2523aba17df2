//! The owner of everything the agent knows: one task, one state. Requests of the CRM, words of the
//! monitor and results of its own work come in; replies and notices go out. Long work is done by
//! tasks that report back, so that SHUTDOWN and GET_STATUS are answered in every state.

mod ending;
mod link;
mod requests;
mod shape;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use node_manager::operation;
use protocol::connection::{Connection, read};
use protocol::frame::{Frame, Kind};
use protocol::ids::JobId;
use protocol::limits::COMMANDS_MAX;
use protocol::names::Text;
use protocol::node::{Arrive, Notice, Reply, Request, SignedRates, State};
use protocol::refusal::{Failure, Refusal, Step};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::command::Wishes;
use crate::connection::Redial;
use crate::init::{Init, InitError, Over};
use crate::lifecycle::{self, Action, Event};
use crate::limits::Counters;
use crate::monitor::{Monitor, MonitorError, Said};
use crate::setup::{CheckedSetup, Prepared, install_failure};
use crate::voice::{Asker, Voice};
use crate::work::{self, Done, Sandbox};
use link::{Link, Word};

/// How long the monitor may take to remove the sandbox before the agent stops waiting for it.
const REMOVE_TIME: Duration = Duration::from_secs(15);
/// How long the last words may take to reach the CRM.
const GOODBYE_TIME: Duration = Duration::from_secs(2);
/// How long the monitor may take to say why the sandbox's first process died.
const REASON_TIME: Duration = Duration::from_secs(1);
/// The lease until SETUP says another.
const LEASE: Duration = Duration::from_secs(10);

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
    /// With what it arrived; of use once more if the CRM lost even that.
    arrive: Arrive,
    monitor: Monitor,
    voice: Voice,
    /// The CRM is asked to let it in again, on this line.
    returning: bool,
    /// It shall not be told that this pilot returns, for it does not know it: it arrives anew.
    unknown: bool,
    /// When something was heard of the CRM last, and when the monitor was told so.
    heard_at: Instant,
    heard_told: Option<Instant>,
    /// How long it may be silent.
    lease: Duration,
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
    /// Who waits to hear whether it did.
    starting: HashMap<JobId, Asker>,
    /// Those that did not, the latest last.
    not_started: VecDeque<(JobId, Failure)>,
    runs: u64,
    /// Requests that follow on one another, in their order, behind the one that is being done.
    waiting: VecDeque<(Asker, Request)>,
    busy: Option<Asker>,
    /// Who waits for rates to hold, in the monitor's order.
    shaping: VecDeque<(Asker, SignedRates)>,
    /// Those that hold.
    rates: Option<SignedRates>,
    /// By when the address of a shaped sandbox must be free.
    address_by: Option<Instant>,
    /// Tells what a shaped sandbox sends.
    meter: Option<AbortHandle>,
    /// Room for signals on their way.
    signals: Arc<Semaphore>,
    /// What runs inside was asked to end; nothing new begins.
    leaving: bool,
    /// Those who asked for the end.
    enders: Vec<Asker>,
    cause: Option<Failure>,
    remove_by: Option<Instant>,
    ending: Option<Ending>,
    /// The CRM no longer takes what it is sent.
    unheard: bool,
    tasks: JoinSet<()>,
    results: mpsc::UnboundedSender<Done>,
}

/// Serves the CRM until the sandbox is gone; a connection that breaks is dialled again, as long as
/// the lease lasts. `arrive` is what the pilot arrived with.
pub async fn serve<R: Redial>(
    connection: Connection<R::Stream>,
    crm: R,
    monitor: Monitor,
    arrive: Arrive,
) -> Ending {
    let (mut link, outbox) = Link::up(connection);
    let (results, mut work_done) = mpsc::unbounded_channel();
    let mut handler = Handler {
        arrive,
        monitor,
        voice: Voice::new(outbox),
        returning: false,
        unknown: false,
        heard_at: Instant::now(),
        heard_told: None,
        lease: LEASE,
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
        starting: HashMap::new(),
        not_started: VecDeque::new(),
        runs: 0,
        waiting: VecDeque::new(),
        busy: None,
        shaping: VecDeque::new(),
        rates: None,
        address_by: None,
        meter: None,
        signals: Arc::new(Semaphore::new(COMMANDS_MAX)),
        leaving: false,
        enders: Vec::new(),
        cause: None,
        remove_by: None,
        ending: None,
        unheard: false,
        tasks: JoinSet::new(),
        results,
    };
    let ending = handler.run(&mut link, &crm, &mut work_done).await;
    // The writer ends once every task that could still post is gone and all is sent.
    handler.tasks.shutdown().await;
    drop(handler);
    let _ = timeout(GOODBYE_TIME, link.finish()).await;
    ending
}

impl Handler {
    async fn run<R: Redial>(
        &mut self,
        link: &mut Link<R::Stream>,
        crm: &R,
        results: &mut mpsc::UnboundedReceiver<Done>,
    ) -> Ending {
        loop {
            if let Some(ending) = self.ending.take() {
                return ending;
            }
            if std::mem::take(&mut self.unheard) {
                self.lose(link, crm, "it does not take what it is sent");
            }
            self.come_back(link);
            let remove_by = self.remove_by.unwrap_or_else(Instant::now);
            let lease_over = self.heard_at + self.lease;
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
                word = link.next() => match word {
                    Word::Frame(Ok(frame)) => self.on_frame(link, crm, &frame).await,
                    Word::Frame(Err(error)) => self.lose(link, crm, &error.to_string()),
                    Word::Connected(connection) => link.connected(connection),
                },
                // Last: what has come while this process stood still was said in time.
                () = sleep_until(lease_over), if self.state < State::TearingDown => {
                    let lease_s = self.lease.as_secs();
                    let cause = format!("nothing was heard from the site's CRM for {lease_s} s");
                    self.end(Some(self.failure(Step::Running, cause))).await;
                }
            }
        }
    }

    async fn on_frame<R: Redial>(&mut self, link: &mut Link<R::Stream>, crm: &R, frame: &Frame) {
        if frame.kind == Kind::Reply && std::mem::take(&mut self.returning) {
            return self.let_in(link, crm, frame).await;
        }
        self.heard().await;
        let asker = Asker { line: self.voice.line(), correlation: frame.correlation };
        let request = match (frame.kind, read::<Request>(frame)) {
            (Kind::Request | Kind::Notice, Ok(request)) => request,
            (Kind::Request, Err(error)) => {
                let why = error.to_string().into();
                return self.reply(asker, &Reply::Refused(Refusal::Malformed { why }));
            }
            (kind, _) => return tracing::warn!("a {kind:?} of the CRM makes no sense here; ignored"),
        };
        match request.check() {
            Ok(()) => self.on_request(asker, request).await,
            Err(refusal) => self.reply(asker, &Reply::Refused(refusal)),
        }
    }

    async fn on_request(&mut self, asker: Asker, request: Request) {
        match request {
            Request::GetStatus => {
                let since_s = self.since.elapsed().as_secs();
                let commands = self.running() as u32;
                self.reply(asker, &Reply::Status { state: self.state, since_s, commands });
            }
            Request::OutputSaved { job, stream, upto } => self.output_saved(job, stream, upto),
            Request::Resend { job } => self.resend(job),
            Request::ExitSaved { job } => self.exit_saved(job),
            Request::Beat => self.notice(&Notice::Beat),
            Request::Shape(rates) => self.begin_shape(asker, rates).await,
            Request::Signal { job, signal } => self.signal(asker, job, signal),
            Request::Shutdown | Request::End { .. } if self.state == State::Gone => {
                self.reply(asker, &Reply::Done);
            }
            Request::End { grace_ms } => {
                self.await_end(asker);
                self.end_gently(Duration::from_millis(grace_ms.into())).await;
            }
            Request::Shutdown => {
                self.await_end(asker);
                self.end(None).await;
            }
            request => self.queue(asker, request).await,
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
                // What is left over is said to who asks.
                self.end(self.cause.clone()).await;
            }
            Ok(Said::Other(operation::Notice::Welcome(_))) => {}
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
        let (init, over) = match Init::new(socket) {
            Ok(both) => both,
            Err(error) => {
                let failure = self.failure(Step::Setup, format!("no way to the sandbox's init: {error}"));
                return self.setup_failed(failure).await;
            }
        };
        let results = self.results.clone();
        self.tasks.spawn(async move {
            let over = over.await.unwrap_or(Over::Gone);
            if over == Over::Gone {
                // Who ended it is the monitor's to say, and it does so when nothing is left.
                tokio::time::sleep(REASON_TIME).await;
            }
            let _ = results.send(Done::InitOver(over));
        });
        self.tasks.spawn(work::prepared(preparing, init, self.results.clone()));
    }

    async fn on_done(&mut self, done: Done) {
        match done {
            Done::Prepared { .. } if self.state != State::Building => {}
            Done::Prepared { init, result: Ok(Prepared { keys, shell }) } => {
                let counters = Counters::of(std::os::unix::process::parent_id());
                self.sandbox = Some(Sandbox { init, keys: Arc::new(keys), counters, shell });
                self.open_network().await;
            }
            Done::ShapeAgain if self.state == State::Building => self.open_network().await,
            Done::ShapeAgain => {}
            Done::Prepared { result: Err(cause), .. } => {
                self.setup_failed(self.failure(Step::GetKeys, cause)).await;
            }
            // Those of an operation that the end has overtaken were answered then.
            Done::Installed { asker, .. } | Done::Served { asker, .. } if self.busy != Some(asker) => {}
            Done::Installed { result: Ok(joined), .. } => {
                self.joined = Some(joined);
                self.finish(Event::RingInstalled, &Reply::Done).await;
            }
            Done::Installed { result: Err((file, error)), .. } => {
                self.fail(self.placed(install_failure(file, &error))).await;
            }
            Done::Served { result: Ok(()), .. } => self.finish(Event::ServicesAnswer, &Reply::Done).await,
            Done::Served { result: Err(failure), .. } => self.fail(self.placed(failure)).await,
            Done::CommandBegun { job, result } => self.command_begun(job, result),
            Done::CommandEnded { job, kept_bytes } => self.keep_ended(job, kept_bytes),
            Done::CommandOver(job) => {
                self.commands.remove(&job);
            }
            Done::Emptied => self.end(None).await,
            Done::InitOver(over) => {
                let cause = match over {
                    Over::Gone => operation::EndReason::SandboxDied.sentence().into(),
                    Over::Silent => Text::from(InitError::Silent.to_string()),
                };
                self.end(Some(self.failure(Step::Running, cause))).await;
            }
        }
    }

    /// The operation in hand succeeded.
    async fn finish(&mut self, event: Event, reply: &Reply) {
        self.step(event, None).await;
        if let Some(asker) = self.busy.take() {
            self.reply(asker, reply);
        }
        self.advance().await;
    }

    /// The operation in hand failed and changed nothing that cannot be repeated.
    async fn fail(&mut self, failure: Failure) {
        if let Some(asker) = self.busy.take() {
            self.reply(asker, &Reply::Failed(failure));
        }
        self.advance().await;
    }

    async fn setup_failed(&mut self, failure: Failure) {
        if self.state != State::Building {
            return;
        }
        let failure = self.placed(failure);
        if let Some(asker) = self.busy.take() {
            self.reply(asker, &Reply::Failed(failure.clone()));
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
        for asker in std::mem::take(&mut self.enders) {
            self.reply(asker, &Reply::Done);
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
        if let Some(asker) = self.busy.take() {
            let failure = self.failure(Step::End, "the sandbox was ended meanwhile");
            self.reply(asker, &Reply::Failed(failure));
        }
        for (asker, _) in std::mem::take(&mut self.waiting) {
            let refusal = Refusal::WrongState { what: "this".into(), state: "going down".into() };
            self.reply(asker, &Reply::Refused(refusal));
        }
    }

    fn failure(&self, step: Step, cause: impl Into<Text>) -> Failure {
        self.placed(Failure::new(step, cause, ""))
    }

    /// With site and node, so that the user sees where.
    fn placed(&self, failure: Failure) -> Failure {
        let failure = failure.at_node(&self.arrive.node);
        match &self.setup {
            Some(setup) => failure.at_site(&setup.setup.host.site),
            None => failure,
        }
    }

    fn reply(&mut self, asker: Asker, reply: &Reply) {
        self.unheard |= !self.voice.reply(asker, reply);
    }

    fn notice(&mut self, notice: &Notice) {
        self.unheard |= !self.voice.notice(notice);
    }
}
