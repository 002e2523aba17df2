//! Commands on their way to one site. They may be a megabyte each, and as many at once as all users
//! may have: posted like everything else they would fill the site's outbox, and a site whose outbox
//! is full is given up. So while much waits to be sent, commands wait beside the outbox, in their
//! order, and other words pass them. That is harmless: a site starts nothing of a job that it was told
//! to stop, nor of an incarnation that is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::connection::{ConnectionError, Outbox};
use protocol::frame::Kind;
use protocol::limits::OUTBOX_BYTES_MAX;
use protocol::site::ToSite;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// As long as less than this is free in the outbox, commands wait.
const FREE_BYTES_MIN: usize = OUTBOX_BYTES_MAX / 2;

/// The way of commands to one connection of a site. Dropping it gives up what waits.
#[derive(Debug)]
pub struct Commands {
    outbox: Outbox,
    waiting: Arc<AtomicUsize>,
    queue: mpsc::UnboundedSender<ToSite>,
    task: JoinHandle<()>,
}

impl Commands {
    /// Needs a tokio runtime.
    pub fn to(outbox: Outbox) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel();
        let (waiting, posted) = (Arc::new(AtomicUsize::new(0)), outbox.clone());
        let left = waiting.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = queued.recv().await {
                if posted.post_wait(Kind::Notice, 0, &message).await.is_err() {
                    return; // The connection is over, which its door notices.
                }
                left.fetch_sub(1, Ordering::Release);
            }
        });
        Self { outbox, waiting, queue, task }
    }

    /// Sends a command at once if there is room, else when its turn comes. Never waits. What waits is
    /// bounded by what users may have: a command is said once on a connection.
    ///
    /// # Errors
    /// The connection is over or must be given up.
    pub fn post(&self, command: ToSite) -> Result<(), ConnectionError> {
        let is_first = self.waiting.load(Ordering::Acquire) == 0;
        if is_first && self.outbox.free_bytes() >= FREE_BYTES_MIN {
            return self.outbox.post(Kind::Notice, 0, &command);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.send(command).map_err(|_| ConnectionError::Closed)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use protocol::connection::{self, Connection, greet};
    use protocol::hello::Role;
    use protocol::ids::{Epoch, JobId, ReservationId};
    use protocol::job::{Command, Target};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// Twice of what an outbox holds.
    const COUNT: u64 = 2 * 64 + 8;

    async fn pair() -> (Connection<DuplexStream>, Connection<DuplexStream>) {
        let (a, b) = duplex(64 * 1024);
        let (grc, crm) = tokio::join!(greet(a, Role::Grc, &[Role::Crm]), greet(b, Role::Crm, &[Role::Grc]));
        (grc.unwrap(), crm.unwrap())
    }

    fn exec(job: u64, bytes: usize) -> ToSite {
        let argv = vec![b"x".to_vec(), vec![b'a'; bytes]];
        let command = Command { argv, variables: vec![], directories: vec![], directory_required: false };
        let (reservation, epoch, job) = (ReservationId(1), Epoch(1), JobId(job));
        ToSite::Exec { reservation, epoch, job, target: Target::Head, command }
    }

    #[tokio::test]
    async fn more_commands_than_an_outbox_holds_all_arrive_in_order_and_cut_nobody_off() {
        let (grc, mut crm) = pair().await;
        let commands = Commands::to(grc.outbox.clone());
        for job in 0..COUNT {
            commands.post(exec(job, 1024 * 1024)).unwrap();
        }
        let end = ToSite::End { reservation: ReservationId(1) };
        grc.outbox.post(Kind::Notice, 0, &end).unwrap();
        let (mut jobs, mut ended_after) = (Vec::new(), None);
        while jobs.len() < COUNT as usize {
            let frame = crm.inbox.next().await.unwrap();
            match connection::read(&frame).unwrap() {
                ToSite::Exec { job, .. } => jobs.push(job.0),
                ToSite::End { .. } => ended_after = Some(jobs.len() as u64),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(jobs, (0..COUNT).collect::<Vec<_>>());
        assert!(ended_after.is_some_and(|after| after < COUNT / 2), "{ended_after:?}: other words pass them");
        // Nothing waits any more: the next is posted before anybody else has run.
        let free = grc.outbox.free_bytes();
        commands.post(exec(COUNT, 1000)).unwrap();
        assert!(grc.outbox.free_bytes() < free, "a command that has room goes out at once");
    }

    #[tokio::test]
    async fn what_waits_goes_with_the_connection() {
        let (grc, crm) = pair().await;
        let commands = Commands::to(grc.outbox.clone());
        for job in 0..COUNT {
            commands.post(exec(job, 1024 * 1024)).unwrap();
        }
        drop(crm);
        drop(commands);
        drop(grc.outbox);
        // Its writer ends when nobody can post any more, or nobody reads.
        grc.writer.await.unwrap();
    }
}
