//! Nodes that the batch system keeps ahead: asked for by a task of its own, for nobody should wait
//! behind what is only a help, and after a restart all windows to come are asked for at once.
//!
//! Of each reservation only the latest wish counts. What begins soonest is asked for first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::ReservationId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Batch;
use crate::site::Ahead;

/// Between two tries to give nodes back: its last job is still ending, most likely.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often the nodes of a reservation that is over are given back before that is left to time.
const TRIES: u32 = 6;
/// How long a submission waits for the nodes that were asked for it.
const SETTLE_TIME: Duration = Duration::from_secs(20);

/// What is wanted for one reservation.
#[derive(Clone, Debug)]
enum Wish {
    Keep(Ahead),
    /// Not before `at`; so often it was tried.
    GiveBack {
        at: Instant,
        tries: u32,
    },
}

#[derive(Debug, Default)]
struct Wishes {
    all: BTreeMap<ReservationId, Wish>,
    /// Nodes are being asked for.
    asking: Option<ReservationId>,
}

impl Wishes {
    /// The next one whose time has come, or else when that is.
    fn next(&self, now: Instant) -> Result<ReservationId, Option<Instant>> {
        let keep = self.all.iter().filter_map(|(reservation, wish)| match wish {
            Wish::Keep(ahead) => Some((ahead.begin_in_s, *reservation)),
            Wish::GiveBack { .. } => None,
        });
        if let Some((_, reservation)) = keep.min() {
            return Ok(reservation);
        }
        let back = self.all.iter().filter_map(|(reservation, wish)| match wish {
            Wish::GiveBack { at, .. } => Some((*at, *reservation)),
            Wish::Keep(_) => None,
        });
        match back.min() {
            Some((at, reservation)) if at <= now => Ok(reservation),
            later => Err(later.map(|(at, _)| at)),
        }
    }

    fn is_settled(&self, reservation: ReservationId) -> bool {
        self.asking != Some(reservation) && !matches!(self.all.get(&reservation), Some(Wish::Keep(_)))
    }
}

/// The task; it ends with this.
#[derive(Debug)]
pub struct Keeper {
    wishes: Arc<watch::Sender<Wishes>>,
    _task: JoinSet<()>,
}

impl Keeper {
    /// To be called in a runtime.
    pub fn new<B: Batch>(batch: Arc<B>) -> Self {
        let wishes = Arc::new(watch::Sender::default());
        let mut task = JoinSet::new();
        task.spawn(carry_out(batch, wishes.clone()));
        Self { wishes, _task: task }
    }

    /// Keeps nodes, or keeps them otherwise than before.
    pub fn reserve(&self, ahead: Ahead) {
        self.wish(ahead.reservation, Wish::Keep(ahead));
    }

    /// Keeps them no more. Repeatable, also of what was never kept.
    pub fn unreserve(&self, reservation: ReservationId) {
        self.wish(reservation, Wish::GiveBack { at: Instant::now(), tries: 0 });
    }

    fn wish(&self, reservation: ReservationId, wish: Wish) {
        self.wishes.send_modify(|wishes| drop(wishes.all.insert(reservation, wish)));
    }

    /// Resolves when what was asked for this reservation is there or refused, so that what is
    /// submitted for it finds its nodes; after a while in any case.
    pub async fn settled(&self, reservation: ReservationId) {
        let mut wishes = self.wishes.subscribe();
        let settled = wishes.wait_for(|wishes| wishes.is_settled(reservation));
        if tokio::time::timeout(SETTLE_TIME, settled).await.is_err() {
            tracing::warn!("no nodes are kept ahead for {reservation} yet, its pilots will queue");
        }
    }
}

async fn carry_out<B: Batch>(batch: Arc<B>, wishes: Arc<watch::Sender<Wishes>>) {
    let mut changes = wishes.subscribe();
    loop {
        let next = changes.borrow_and_update().next(Instant::now());
        let reservation = match next {
            Ok(reservation) => reservation,
            Err(later) => {
                let due = async {
                    match later {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    // We hold a sender ourselves: it never fails.
                    _ = changes.changed() => {}
                    () = due => {}
                }
                continue;
            }
        };
        let mut wish = None;
        wishes.send_modify(|wishes| {
            wish = wishes.all.remove(&reservation);
            wishes.asking = matches!(wish, Some(Wish::Keep(_))).then_some(reservation);
        });
        let again = match wish {
            Some(Wish::Keep(ahead)) => {
                if let Err(error) = batch.reserve(&ahead).await {
                    tracing::warn!(
                        "no nodes are kept ahead for {reservation}, its pilots will queue: {error}"
                    );
                }
                None
            }
            Some(Wish::GiveBack { tries, .. }) => give_back(&*batch, reservation, tries + 1).await,
            None => None,
        };
        wishes.send_modify(|wishes| {
            wishes.asking = None;
            if let Some(wish) = again {
                // Whatever was wished meanwhile counts.
                wishes.all.entry(reservation).or_insert(wish);
            }
        });
    }
}

/// What is to be tried again.
async fn give_back(batch: &impl Batch, reservation: ReservationId, tries: u32) -> Option<Wish> {
    let error = batch.unreserve(reservation).await.err()?;
    if tries < TRIES {
        tracing::debug!("nodes are still kept for {reservation}: {error}");
        return Some(Wish::GiveBack { at: Instant::now() + RETRY_INTERVAL, tries });
    }
    tracing::warn!("nodes stay kept for {reservation} until its window is over: {error}");
    None
}
