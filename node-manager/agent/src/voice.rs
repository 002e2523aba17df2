//! What the agent's tasks speak through: the way to the CRM, which may break and come again.
//!
//! Every connection is a *line* with a number. An answer belongs to the line on which it was asked
//! for; a command's output goes on in a line only from where the CRM asked for it there.

use protocol::connection::Outbox;
use protocol::frame::Kind;
use protocol::node::{Notice, Reply};
use tokio::sync::watch;

/// Who asked, and so where the answer goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asker {
    pub line: u64,
    pub correlation: u64,
}

#[derive(Debug, Default)]
struct Line {
    number: u64,
    outbox: Option<Outbox>,
}

/// The present line. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Voice(watch::Sender<Line>);

impl Voice {
    /// The first line is number 1.
    pub fn new(outbox: Outbox) -> Self {
        Self(watch::Sender::new(Line { number: 1, outbox: Some(outbox) }))
    }

    /// The number of the present line, or of the last one.
    pub fn line(&self) -> u64 {
        self.0.borrow().number
    }

    /// A new line stands.
    pub fn connect(&self, outbox: Outbox) {
        self.0.send_modify(|line| *line = Line { number: line.number + 1, outbox: Some(outbox) });
    }

    /// The line is gone; what is said meanwhile is not heard.
    pub fn hang_up(&self) {
        self.0.send_modify(|line| line.outbox = None);
    }

    fn outbox(&self, number: u64) -> Option<Outbox> {
        let line = self.0.borrow();
        line.outbox.clone().filter(|_| line.number == number)
    }

    /// Answers at once. False if the line does not take it and must be given up; whoever asked on
    /// an older line asks again.
    #[must_use]
    pub fn reply(&self, asker: Asker, reply: &Reply) -> bool {
        let outbox = self.outbox(asker.line);
        outbox.is_none_or(|outbox| outbox.post(Kind::Reply, asker.correlation, reply).is_ok())
    }

    /// Says something at once, to nobody while there is no line. False as for [`Self::reply`].
    #[must_use]
    pub fn notice(&self, notice: &Notice) -> bool {
        let outbox = self.outbox(self.line());
        outbox.is_none_or(|outbox| outbox.post(Kind::Notice, 0, notice).is_ok())
    }

    /// Like [`Self::reply`], but waits while much is on its way.
    pub async fn reply_wait(&self, asker: Asker, reply: &Reply) {
        if let Some(outbox) = self.outbox(asker.line) {
            let _ = outbox.post_wait(Kind::Reply, asker.correlation, reply).await;
        }
    }

    /// Says something on this line, waiting while much is on its way; not said if it is gone.
    pub async fn tell(&self, line: u64, notice: &Notice) {
        if let Some(outbox) = self.outbox(line) {
            let _ = outbox.post_wait(Kind::Notice, 0, notice).await;
        }
    }
}
