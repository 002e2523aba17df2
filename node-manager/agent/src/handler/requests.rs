//! What the CRM asks for: whether it is legal now, and how it begins.

use std::sync::Arc;

use protocol::ids::JobId;
use protocol::job::{Command, Stream};
use protocol::keys::KeyRing;
use protocol::limits::{COMMANDS_MAX, ENDED_BYTES_MAX, ENDED_MAX, UNANSWERED_MAX};
use protocol::node::{Reply, Request, Setup};
use protocol::refusal::{Failure, Refusal};

use super::Handler;
use crate::command::{Start, Wishes};
use crate::lifecycle::{self, Event, WrongState};
use crate::setup::{self, CheckedSetup};
use crate::variables::{self, Surroundings};
use crate::voice::Asker;
use crate::work::{self, Done};

impl Handler {
    /// A request that follows on those before it.
    pub(super) async fn queue(&mut self, asker: Asker, request: Request) {
        // Those of a connection that broke are asked again, if they are wanted still.
        self.waiting.retain(|(before, _)| before.line == asker.line);
        if self.waiting.len() >= UNANSWERED_MAX {
            return self.reply(asker, &Reply::Refused(crowded("this", UNANSWERED_MAX)));
        }
        self.waiting.push_back((asker, request));
        self.advance().await;
    }

    /// Begins what waits, as long as nothing is being done.
    pub(super) async fn advance(&mut self) {
        while self.busy.is_none() {
            let Some((asker, request)) = self.waiting.pop_front() else { return };
            self.begin(asker, request).await;
        }
    }

    async fn begin(&mut self, asker: Asker, request: Request) {
        let (event, name) = match &request {
            Request::Setup(_) => (Event::SetupRequested, "SETUP"),
            Request::GetKeys => (Event::KeysAsked, "GET_KEYS"),
            Request::SetKeys(_) => (Event::RingReceived, "SET_KEYS"),
            Request::Run => (Event::RunRequested, "RUN"),
            _ => (Event::CommandRequested, "EXEC"),
        };
        // A step that is refused changes nothing, so the message may be looked at in between.
        if let Err(wrong) = lifecycle::step(self.state, event) {
            return self.reply(asker, &Reply::Refused(wrong_state(name, wrong)));
        }
        let outcome = match request {
            Request::Setup(setup) => self.begin_setup(asker, setup).await,
            Request::GetKeys => self.tell_keys(asker),
            Request::SetKeys(ring) => self.install(asker, ring),
            Request::Run => self.start_services(asker),
            Request::Exec { job, command } => self.start_command(asker, job, command),
            // Answered where they came in.
            _ => Ok(()),
        };
        if let Err(refusal) = outcome {
            self.reply(asker, &Reply::Refused(refusal));
        }
    }

    async fn begin_setup(&mut self, asker: Asker, setup: Setup) -> Result<(), Refusal> {
        let setup = Arc::new(CheckedSetup::new(setup)?);
        let uid = self.arrive.uid;
        self.preparing = Some(tokio::task::spawn_blocking(move || setup::prepare(uid)));
        self.lease = setup.lease;
        self.setup = Some(setup);
        self.busy = Some(asker);
        self.step(Event::SetupRequested, None).await;
        Ok(())
    }

    fn tell_keys(&mut self, asker: Asker) -> Result<(), Refusal> {
        let sandbox = self.sandbox.as_ref().ok_or_else(not_built)?;
        let keys = Reply::Keys(sandbox.keys.public());
        self.reply(asker, &keys);
        Ok(())
    }

    fn install(&mut self, asker: Asker, ring: KeyRing) -> Result<(), Refusal> {
        let (Some(sandbox), Some(setup)) = (&self.sandbox, &self.setup) else { return Err(not_built()) };
        setup::check_ring(&ring, setup, &sandbox.keys)?;
        let surroundings = Surroundings {
            reservation: setup.setup.reservation,
            address: setup.setup.address,
            shell: &sandbox.shell,
            extra: &setup.setup.variables,
        };
        let variables = variables::standard(surroundings, &ring).ok_or_else(not_built)?;
        let joined = work::Joined { ring: Arc::new(ring), variables: Arc::new(variables) };
        self.busy = Some(asker);
        self.tasks.spawn(work::install(sandbox.clone(), joined, asker, self.results.clone()));
        Ok(())
    }

    fn start_services(&mut self, asker: Asker) -> Result<(), Refusal> {
        let (Some(sandbox), Some(setup), Some(joined)) = (&self.sandbox, &self.setup, &self.joined) else {
            return Err(not_built());
        };
        self.busy = Some(asker);
        let run = work::serve(sandbox.clone(), setup.clone(), joined.clone(), self.runs);
        let results = self.results.clone();
        self.tasks.spawn(async move {
            let _ = results.send(Done::Served { asker, result: run.await });
        });
        self.runs += 1;
        Ok(())
    }

    fn start_command(&mut self, asker: Asker, job: JobId, command: Command) -> Result<(), Refusal> {
        let (Some(sandbox), Some(setup), Some(joined)) = (&self.sandbox, &self.setup, &self.joined) else {
            return Err(not_built());
        };
        if self.leaving {
            return Err(Refusal::WrongState { what: "EXEC".into(), state: "going down".into() });
        }
        work::check_job(job)?;
        if self.running() >= COMMANDS_MAX && !self.started.contains(&job) {
            return Err(crowded("EXEC", COMMANDS_MAX));
        }
        if !self.started.insert(job) {
            self.start_again(asker, job);
            return Ok(());
        }
        self.starting.insert(job, asker);
        let wishes = Wishes::default();
        let start = Start {
            init: sandbox.init.clone(),
            voice: self.voice.clone(),
            line: asker.line,
            job,
            host: setup.setup.host.clone(),
            environment: variables::of_command(&joined.variables, job, &command.variables),
            home: variables::home(&setup.user),
            wishes: wishes.subscribe(),
            counters: sandbox.counters.clone(),
            command,
        };
        self.commands.insert(job, wishes);
        let results = self.results.clone();
        self.tasks.spawn(async move {
            let begun = |result| drop(results.send(Done::CommandBegun { job, result }));
            if let Ok(Some(ended)) = start.run(begun).await {
                let _ = results.send(Done::CommandEnded { job, kept_bytes: ended.bytes() });
                ended.keep().await;
            } else {
                let _ = results.send(Done::CommandOver(job));
            }
        });
        Ok(())
    }

    /// It was asked for before, and the answer may not have been heard.
    fn start_again(&mut self, asker: Asker, job: JobId) {
        if let Some(before) = self.starting.get_mut(&job) {
            *before = asker;
            return;
        }
        let failure = self.not_started.iter().find(|(before, _)| *before == job);
        let reply = failure.map_or(Reply::Done, |(_, failure)| Reply::Failed(failure.clone()));
        self.reply(asker, &reply);
    }

    /// How many commands have not ended.
    pub(super) fn running(&self) -> usize {
        self.commands.len() - self.ended.len()
    }

    pub(super) fn command_begun(&mut self, job: JobId, result: Result<(), Failure>) {
        if let Err(failure) = &result {
            self.not_started.push_back((job, failure.clone()));
            if self.not_started.len() > COMMANDS_MAX {
                // No more than those can have been asked for and not be answered.
                self.not_started.pop_front();
            }
        }
        if let Some(asker) = self.starting.remove(&job) {
            self.reply(asker, &result.map_or_else(Reply::Failed, |()| Reply::Done));
        }
    }

    pub(super) fn output_saved(&mut self, job: JobId, stream: Stream, upto: u64) {
        if let Some(wishes) = self.commands.get(&job) {
            wishes.save(stream, upto);
        }
    }

    pub(super) fn resend(&mut self, job: JobId) {
        if let Some(wishes) = self.commands.get(&job) {
            wishes.resend();
        }
    }

    pub(super) fn exit_saved(&mut self, job: JobId) {
        if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == job) {
            self.ended.remove(at);
            self.commands.remove(&job);
        }
    }

    /// Until the CRM has saved it; but a CRM that never does must not fill the node's memory.
    pub(super) fn keep_ended(&mut self, job: JobId, kept_bytes: usize) {
        self.ended.push_back((job, kept_bytes));
        let mut bytes: usize = self.ended.iter().map(|(_, bytes)| bytes).sum();
        while self.ended.len() > ENDED_MAX || bytes > ENDED_BYTES_MAX {
            let Some((oldest, its_bytes)) = self.ended.pop_front() else { return };
            tracing::warn!("the end of {oldest} was never saved by the CRM; forgotten");
            self.commands.remove(&oldest);
            bytes -= its_bytes;
        }
    }
}

/// So many of its kind are not answered yet.
pub(super) fn crowded(what: &str, max: usize) -> Refusal {
    Refusal::WrongState {
        what: what.into(),
        state: format!("{max} before it are not answered or over").into(),
    }
}

pub(super) fn wrong_state(what: &str, wrong: WrongState) -> Refusal {
    let state = format!("{:?}", wrong.state).to_lowercase().into();
    Refusal::WrongState { what: what.into(), state }
}

fn not_built() -> Refusal {
    Refusal::WrongState { what: "this".into(), state: "the sandbox is not built".into() }
}
