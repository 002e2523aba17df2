//! Bugs planted on purpose, so that the simulator can show that it would find them.
//!
//! Without the feature `planted` (no program that is installed has it) [`planted`] is a constant
//! `false` and the compiler removes what stands behind it. With it, one bug at a time can be
//! switched on for the calling thread. Each names a rule of the co-allocation that it breaks; a
//! bug that no history can show would teach nothing and has no place here.

/// One rule, broken. Where it is broken is where its name stands in the code.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Bug {
    /// GRC: the user is answered before the decision is durable.
    AnswerBeforeRecord,
    /// GRC: Commit leaves before the decision is durable.
    CommitBeforeRecord,
    /// GRC: the start of a transaction is not recorded.
    BeginNotRecorded,
    /// GRC: who asks about an unknown hold is told to commit it.
    PresumedCommit,
    /// GRC: an answer to an older attempt counts for the newer one.
    StaleHeldCounts,
    /// GRC: an uplink is charged with its largest pair instead of the sum.
    UplinkNotSummed,
    /// GRC: an abort gives the bandwidth back twice.
    BandwidthBackTwice,
    /// GRC: a change gives the old grant back when it begins.
    ChangeFreesFirst,
    /// GRC: addresses are free when End is sent, not when it is confirmed.
    AddressesBackAtEnd,
    /// GRC: a restart does not charge the book with what was granted.
    RestartForgetsBook,
    /// GRC: a repeated request after a restart is carried out again.
    RequestForgotten,
    /// GRC: the next epoch is sent before it is durable.
    EpochNotRecorded,
    /// GRC: an End that was not confirmed is not sent again.
    EndNotRepeated,
    /// GRC: carves ignore reservations at other sites.
    CarvePerSite,
    /// CRM: a hold that was voted for is dropped by a timer.
    HoldTimesOut,
    /// CRM: Held is said before it is durable.
    HeldBeforeRecord,
    /// CRM: a restart does not charge its nodes with what was committed.
    RestartForgetsNodes,
    /// CRM: a Release takes whatever there is, whatever its version.
    ReleaseTakesGrant,
    /// CRM: a repeated Start begins the pilots again.
    StartTwice,
    /// CRM: an order of an older epoch is obeyed.
    OlderEpochObeyed,
    /// CRM: a repeated Exec starts the command again.
    ExecTwice,
    /// CRM: an address is free when its pilot is asked to end, not when its end is confirmed.
    AddressBackUnconfirmed,
    /// CRM: the admission of a hold looks at its first second only.
    FirstSecondOnly,
    /// CRM: after a restart the pilots of before are forgotten.
    PilotsForgotten,
    /// CRM: the address of a pilot is free when its lease is over, not when its end is confirmed.
    AddressBackAtLease,
    /// CRM: a restart takes the sandboxes of an older epoch for those of the one that is wanted.
    OlderEpochAdopted,
    /// CRM: a restart forgets the tokens of pilots that queue.
    QueueTokenForgotten,
    /// CRM: a restart ends the pilots of before.
    RestartEndsPilots,
    /// Agent: one that returns forgets what it has started.
    ReturnForgetsStarted,
    /// Both: a failed write does not end the process.
    WriteFailureIgnored,
    /// Both: time is read from a wall clock that can be set.
    WallClock,
}

impl Bug {
    /// All of them, in the order above.
    #[rustfmt::skip]
    pub const ALL: [Self; 31] = {
        use Bug::*;
        [
            AnswerBeforeRecord, CommitBeforeRecord, BeginNotRecorded, PresumedCommit,
            StaleHeldCounts, UplinkNotSummed, BandwidthBackTwice, ChangeFreesFirst,
            AddressesBackAtEnd, RestartForgetsBook, RequestForgotten, EpochNotRecorded,
            EndNotRepeated, CarvePerSite, HoldTimesOut, HeldBeforeRecord, RestartForgetsNodes,
            ReleaseTakesGrant, StartTwice, OlderEpochObeyed, ExecTwice, AddressBackUnconfirmed,
            FirstSecondOnly, PilotsForgotten, AddressBackAtLease, OlderEpochAdopted,
            QueueTokenForgotten, RestartEndsPilots, ReturnForgetsStarted, WriteFailureIgnored,
            WallClock,
        ]
    };
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Switches one bug on, or all off, for the calling thread.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is switched on for the calling thread.
#[cfg(feature = "planted")]
#[inline]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is switched on: never, without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
