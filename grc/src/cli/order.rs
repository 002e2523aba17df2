//! Sending an order: something that changes the grid, and whose answer may take its time.

use std::time::Duration;

use protocol::client::{Reply, Request};
use protocol::ids::RequestId;
use tokio::time::{Instant, interval_at, timeout};

use super::Session;
use super::client::{ANSWER_TIME, Client, Trouble, checked};
use super::errors::CliError;
use super::progress::{Phase, Progress};
use super::watch::Interrupt;
use super::when::now_s;

/// Most answers come sooner; a line for them would only flicker.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Made once per invocation: the same order repeated over a new connection is the same order.
pub fn new_id() -> RequestId {
    RequestId(rand::random())
}

/// Sends an order and waits for its answer, which is shown with its deadline when it does not come
/// at once. A lost connection is sought again and the order repeated with its id.
///
/// # Errors
/// A refusal or failure comes as an error, too. Ctrl-C before the answer cannot take the order
/// back, and says so.
pub async fn order(
    session: &mut Session,
    interrupt: &mut Interrupt,
    request: &Request,
) -> Result<Reply, CliError> {
    let mut progress = Progress::new(session.mode);
    let client = &mut session.client;
    tokio::select! {
        reply = repeat(client, &mut progress, request) => reply,
        () = interrupt.pressed() => Err(CliError::Interrupted(
            "interrupted before the GRC answered\n  \
             whether it took the order is shown by `gridpilot jobs` and `gridpilot reservations`".to_owned(),
        )),
    }
}

async fn repeat(client: &mut Client, progress: &mut Progress, request: &Request) -> Result<Reply, CliError> {
    client.connect().await?;
    loop {
        let answer = timeout(ANSWER_TIME, shown(client, progress, request)).await;
        progress.clear();
        match answer {
            Ok(Ok(reply)) => return checked(reply),
            Ok(Err(Trouble::Lost)) => client.reconnect().await?,
            Ok(Err(Trouble::Final(error))) => return Err(error),
            Err(_) => return Err(client.silent()),
        }
    }
}

async fn shown(client: &mut Client, progress: &mut Progress, request: &Request) -> Result<Reply, Trouble> {
    let deadline_s = Some(now_s() + ANSWER_TIME.as_secs());
    let mut tick = interval_at(Instant::now() + SHOWN_AFTER, Duration::from_secs(1));
    let answer = client.answer(request);
    tokio::pin!(answer);
    loop {
        tokio::select! {
            reply = &mut answer => return reply,
            _ = tick.tick() => {
                let text = "waiting for the answer of the GRC".to_owned();
                progress.show(Phase { name: "answer", text, deadline_s });
                progress.tick();
            }
        }
    }
}
