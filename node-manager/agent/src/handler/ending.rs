//! How commands are ended: SIGTERM, a grace, SIGKILL, and in the end a look whether anything is left.

use std::time::Duration;

use node_manager::init::record::{Found, Whom};
use protocol::ids::JobId;
use protocol::limits::{COMMANDS_MAX, UNANSWERED_MAX};
use protocol::names::Text;
use protocol::node::{Reply, State};
use protocol::refusal::{Failure, Step};
use tokio::time::{sleep, timeout};

use super::Handler;
use super::requests::crowded;
use crate::command::Wishes;
use crate::init::{Init, InitError};
use crate::voice::Asker;
use crate::work::Done;

const SIGKILL: u8 = 9;
const SIGTERM: u8 = 15;
/// How long a process may take to die of SIGKILL before it is named.
const KILL_TIME: Duration = Duration::from_secs(8);
/// Between two looks whether something is left.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl Handler {
    /// A signal for all processes of a command, on this member. One that knows nothing of the
    /// command may still hold what the command started here by ssh.
    pub(super) fn signal(&mut self, asker: Asker, job: JobId, signal: u8) {
        let Some(sandbox) = self.sandbox.as_ref() else { return self.reply(asker, &Reply::Done) };
        let Ok(room) = self.signals.clone().try_acquire_owned() else {
            return self.reply(asker, &Reply::Refused(crowded("SIGNAL", COMMANDS_MAX)));
        };
        let wishes = self.commands.get(&job).cloned();
        if let Some(wishes) = wishes.as_ref().filter(|_| matches!(signal, SIGTERM | SIGKILL)) {
            wishes.stop();
        }
        let (init, voice) = (sandbox.init.clone(), self.voice.clone());
        let failure = self.failure(Step::Running, "");
        self.tasks.spawn(async move {
            let sent = match signal {
                SIGKILL => kill(&init, job, wishes).await,
                _ => init
                    .signal(job.0, signal, Whom::Command)
                    .await
                    .map(drop)
                    .map_err(|error| format!("signal {signal} cannot be sent to {job}: {error}").into()),
            };
            let hint = "the member is ended; its node takes pilots again when it is found clean";
            let reply = sent.map_or_else(
                |cause| Reply::Failed(Failure { cause, hint: hint.into(), ..failure }),
                |()| Reply::Done,
            );
            voice.reply_wait(asker, &reply).await;
            drop(room);
        });
    }

    /// Answers when all is gone. Whoever is one too many is told so, and the end goes its way.
    pub(super) fn await_end(&mut self, asker: Asker) {
        // On a connection that broke nobody is answered any more.
        self.enders.retain(|before| before.line == asker.line);
        match self.enders.len() {
            0..UNANSWERED_MAX => self.enders.push(asker),
            _ => self.reply(asker, &Reply::Refused(crowded("waiting for the end", UNANSWERED_MAX))),
        }
    }

    /// The end that was asked for, after what runs inside had the time to end by itself.
    pub(super) async fn end_gently(&mut self, grace: Duration) {
        if self.leaving {
            return;
        }
        let sandbox = self.sandbox.as_ref().filter(|_| self.state == State::Running && !grace.is_zero());
        let Some(sandbox) = sandbox else { return self.end(None).await };
        self.leaving = true;
        let (init, results) = (sandbox.init.clone(), self.results.clone());
        self.tasks.spawn(async move {
            terminate(&init, grace).await;
            let _ = results.send(Done::Emptied);
        });
    }
}

/// SIGTERM to everything inside, until nothing is left or the grace is over.
async fn terminate(init: &Init, grace: Duration) {
    let emptied = async {
        let mut signal = SIGTERM;
        while let Ok(Found { processes: 1.., .. }) = init.signal(0, signal, Whom::Everything).await {
            sleep(LOOK_PAUSE).await;
            // Once: a program may count how often it is asked.
            signal = 0;
        }
    };
    // Whatever does not end by then, or does not say so, is torn down.
    let _ = timeout(grace, emptied).await;
}

/// SIGKILL, again and again, until nothing of the command is left.
async fn kill(init: &Init, job: JobId, wishes: Option<Wishes>) -> Result<(), Text> {
    let mut last = None;
    let emptied = async {
        loop {
            match init.signal(job.0, SIGKILL, Whom::Command).await {
                // With init everything inside is dead.
                Ok(Found { processes: 0, .. }) | Err(InitError::Gone) => return Ok(()),
                Ok(found) => last = Some(found),
                Err(error) => return Err(format!("{job} cannot be killed: {error}").into()),
            }
            sleep(LOOK_PAUSE).await;
        }
    };
    match timeout(KILL_TIME, emptied).await {
        Ok(outcome) => outcome,
        Err(_) => {
            if let Some(wishes) = wishes {
                wishes.give_up();
            }
            Err(undying(job, last).into())
        }
    }
}

/// `last` is what was found last, if init answered at all.
fn undying(job: JobId, last: Option<Found>) -> String {
    let s = KILL_TIME.as_secs();
    let Some(Found { processes, pid, state }) = last else {
        return format!(
            "{job} cannot be killed: the sandbox's first process does not answer within {s} s: was it stopped?"
        );
    };
    let why = if state == b'D' { ", which waits in the kernel" } else { "" };
    format!(
        "{processes} processes of {job} did not die of SIGKILL within {s} s: {pid} inside the sandbox{why}"
    )
}
