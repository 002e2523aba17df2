//! The nouns that several conversations share, filled in so that no field has its default.

use crate::client::NewJob;
use crate::ids::{Epoch, JobId, RequestId, ReservationId, Version};
use crate::job::{Command, ExitStatus, Hits, JobState, JobView, Stream, Target};
use crate::keys::{KeyRing, Member, MemberKeys, PublicKey};
use crate::names::EnvironmentName;
use crate::refusal::{Failure, Refusal, Resource, Step};
use crate::reservation::{
    AddressBlock, Ask, Bandwidth, BlockProof, Change, Limits, MemberView, PairRate, PairView, PartView,
    Placement, Progress, QueueView, ReservationState, ReservationView, Start, UsagePoint,
};
use crate::samples::{Sample, address, every_variant, host, name};

pub const RESERVATION: ReservationId = ReservationId(12);
pub const JOB: JobId = JobId(34);
pub const EPOCH: Epoch = Epoch(3);
pub const VERSION: Version = Version(4);
pub const REQUEST: RequestId = RequestId([0xa5; 16]);
pub const PROGRESS: Progress = Progress { wanted: 5, submitted: 4, arrived: 3, built: 2, joined: 1 };
pub const LIMITS: Limits =
    Limits { cpus_milli: 1500, memory_bytes: 2 << 30, disk_bytes: 1 << 30, pids: 4096 };

pub fn command() -> Command {
    Command {
        argv: vec![b"mpirun".to_vec(), b"./ring".to_vec(), vec![0xff, 0x80]],
        variables: vec![(name("LANG"), "C.UTF-8".to_owned())],
        directories: vec![name("/home/ada/run")],
        directory_required: true,
    }
}

pub fn new_job() -> NewJob {
    NewJob { command: command(), target: Target::Head, label: Some(name("first light")), grace_s: Some(30) }
}

pub fn ask() -> Ask {
    Ask {
        placement: Placement::Sites(vec![(name("a"), 2), (name("b"), 3)]),
        slots: 2,
        limits: LIMITS,
        start: Start::Within { wait_s: 300 },
        duration_s: 3600,
        bandwidth: Bandwidth::Between(100_000),
        environment: EnvironmentName::host(),
        label: None,
    }
}

pub fn change() -> Change {
    Change {
        duration_s: Some(7200),
        bandwidth: Some(Bandwidth::Pairs(vec![PairRate { a: name("a"), b: name("b"), rate_kbit: 50_000 }])),
        placement: Some(Placement::Anywhere(9)),
    }
}

pub fn usage_point() -> UsagePoint {
    UsagePoint {
        at_s: 1_795_000_100,
        from: name("a"),
        to: name("b"),
        granted_kbit: 100_000,
        used_kbit: 95_600,
    }
}

pub fn keys(seed: u8) -> MemberKeys {
    MemberKeys { host: PublicKey([seed; 32]), user: PublicKey([seed + 1; 32]) }
}

pub fn ring() -> KeyRing {
    let member = |site, number, last| Member {
        host: host(site, number),
        address: address(last),
        slots: 2,
        keys: keys(2 * last),
    };
    KeyRing { user: name("ada"), members: vec![member("a", 0, 1), member("b", 0, 2)] }
}

pub fn failure() -> Failure {
    Failure::new(Step::Setup, "mount overlay: no space left on device", "free some memory on the node")
        .at_site(&name("a"))
        .at_node(&name("a1.example"))
}

pub fn block() -> AddressBlock {
    AddressBlock { first: address(1), count: 2 }
}

pub fn reservation_view() -> ReservationView {
    ReservationView {
        id: RESERVATION,
        label: Some(name("night run")),
        user: "ada".into(),
        state: ReservationState::Ready,
        slots: 2,
        environment: EnvironmentName::host(),
        parts: vec![PartView {
            site: name("a"),
            nodes: 2,
            addresses: vec![block()],
            progress: PROGRESS,
            members: vec![MemberView { host: host("a", 0), address: address(1), node: name("a1") }],
            proof: vec![BlockProof { block: block(), below: None, above: Some(address(9)) }],
            queue: Some(QueueView {
                pilots: 1,
                queue: "slurm, partition main".into(),
                why: "Priority".into(),
                expected_s: Some(1_795_000_060),
                until_s: Some(1_795_000_600),
                held_until_s: None,
                again_s: None,
            }),
        }],
        made_s: 1_795_000_000,
        version: VERSION,
        epoch: EPOCH,
        starts_s: 1_795_000_001,
        ends_s: 1_795_003_600,
        pairs: vec![PairView {
            a: name("a"),
            b: name("b"),
            granted_kbit: 100_000,
            a_to_b_kbit: Some(95_600),
            b_to_a_kbit: None,
        }],
        deadline_s: Some(1_795_000_090),
    }
}

pub fn job_view() -> JobView {
    JobView {
        id: JOB,
        reservation: RESERVATION,
        label: None,
        user: "ada".into(),
        command: "mpirun ./ring".into(),
        target: Target::All,
        state: JobState::Done(ExitStatus::Code(42)),
        submitted_s: 1_795_000_000,
        started_s: Some(1_795_000_010),
        ended_s: None,
        head: Some(host("a", 0)),
        stdout_bytes: 300,
        stderr_bytes: 70_000,
        hits: hits(),
    }
}

pub fn hits() -> Hits {
    Hits {
        out_of_memory: 1,
        processes_refused: 7,
        disk_full: true,
        files_full: true,
        memory_bytes: 1 << 29,
        pids: 512,
        disk_bytes: 1 << 30,
        files: 65_536,
    }
}

/// Nouns that are enums: a message holds one variant of each, so they are pinned on their own.
pub fn nouns() -> Vec<Sample> {
    let site = || name("a");
    let mut samples = every_variant!(Refusal, None, {
        UnknownSite: Refusal::UnknownSite { site: site() },
        SiteTwice: Refusal::SiteTwice { site: site() },
        SiteDown: Refusal::SiteDown { site: site() },
        MoreNodesThanExist: Refusal::MoreNodesThanExist { site: site(), asked: 9, have: 4 },
        MoreNodesThanGrid: Refusal::MoreNodesThanGrid { asked: 9, have: 4 },
        NodesBusy: Refusal::NodesBusy { site: site(), asked: 2, have: 1 },
        ZeroNodes: Refusal::ZeroNodes,
        TooManyMembers: Refusal::TooManyMembers { asked: 5000, max: 4096 },
        BadSlots: Refusal::BadSlots { asked: 0, max: 4096 },
        BadDuration: Refusal::BadDuration { asked_s: 0, max_s: 2_592_000 },
        EmptyCommand: Refusal::EmptyCommand,
        CommandTooLong: Refusal::CommandTooLong { what: "more than 16384 arguments".into() },
        NulInCommand: Refusal::NulInCommand,
        RangeNotAllowed: Refusal::RangeNotAllowed { site: site(), range: "10.72.0.0/16".into() },
        AddressesExhausted: Refusal::AddressesExhausted { site: site(), asked: 2 },
        UnknownEnvironment: Refusal::UnknownEnvironment { site: site(), environment: name("bio-2026") },
        UnknownReservation: Refusal::UnknownReservation { id: RESERVATION },
        UnknownJob: Refusal::UnknownJob { id: JOB },
        NothingYet: Refusal::NothingYet,
        ReservationOver: Refusal::ReservationOver { id: RESERVATION, state: "ended".into() },
        WrongState: Refusal::WrongState { what: "SETUP".into(), state: "ready".into() },
        UserNotMapped: Refusal::UserNotMapped { site: site(), user: "ada".into() },
        BadToken: Refusal::BadToken { why: "it was used before".into() },
        BadTicket: Refusal::BadTicket { why: "it is 25 hours old".into() },
        UnknownPeer: Refusal::UnknownPeer { who: "site a".into() },
        Version: Refusal::Version { ours_min: 1, ours_max: 1, theirs_min: 2, theirs_max: 3 },
        Malformed: Refusal::Malformed { why: "3 bytes follow the end".into() },
        AgainstPolicy: Refusal::AgainstPolicy { site: site(), what: "uid 0".into() },
        TooMany: Refusal::TooMany { what: "reservations".into(), count: 256 },
        UnknownMember: Refusal::UnknownMember { id: RESERVATION, host: "b-7".into() },
        OverLimit: Refusal::OverLimit { what: "members".into(), count: 5000, max: 4096 },
        Inconsistent: Refusal::Inconsistent { what: "two address blocks overlap".into() },
        NoRoom: Refusal::NoRoom {
            resource: Resource::Link { a: site(), b: name("b") }, asked: 100_000, have: 50_000, in_s: vec![300, 900],
        },
        BadWindow: Refusal::BadWindow { why: "it begins in the past".into() },
        BadRate: Refusal::BadRate { asked_kbit: 0, min_kbit: 64, max_kbit: 100_000_000 },
        UnknownLink: Refusal::UnknownLink { a: site(), b: name("b") },
        OverUserLimit: Refusal::OverUserLimit { what: "nodes at once".into(), asked: 20, limit: 16 },
        SiteNotForUser: Refusal::SiteNotForUser { site: site(), user: name("ada") },
        LoginRefused: Refusal::LoginRefused { user: name("ada") },
        QueuePaused: Refusal::QueuePaused { site: site(), why: "partition main is down".into() },
        OverQueueLimit: Refusal::OverQueueLimit {
            site: site(), what: "nodes of one batch job".into(), asked: 9, max: 4,
        },
    });
    samples.extend(every_variant!(Step, None, {
        Plan: Step::Plan,
        Hold: Step::Hold,
        Commit: Step::Commit,
        Pilots: Step::Pilots,
        Setup: Step::Setup,
        GetKeys: Step::GetKeys,
        SetKeys: Step::SetKeys,
        Run: Step::Run,
        Exec: Step::Exec,
        Running: Step::Running,
        End: Step::End,
    }));
    samples.extend(every_variant!(ReservationState, None, {
        Waiting: ReservationState::Waiting,
        Holding: ReservationState::Holding,
        Starting: ReservationState::Starting,
        Joining: ReservationState::Joining,
        Ready: ReservationState::Ready,
        Ending: ReservationState::Ending,
        Ended: ReservationState::Ended,
        Failed: ReservationState::Failed(failure()),
        Booked: ReservationState::Booked,
    }));
    samples.extend(every_variant!(Resource, None, {
        Nodes: Resource::Nodes { site: site() },
        Addresses: Resource::Addresses { site: site() },
        Link: Resource::Link { a: site(), b: name("b") },
        Uplink: Resource::Uplink { site: site() },
    }));
    samples.extend(every_variant!(Start, None, {
        Open: Start::Open,
        Within: Start::Within { wait_s: 300 },
        Between: Start::Between { earliest_s: 1_795_000_000, latest_s: 1_795_000_600 },
    }));
    samples.extend(every_variant!(Bandwidth, None, {
        Unasked: Bandwidth::Unasked,
        Between: Bandwidth::Between(100_000),
        Pairs: Bandwidth::Pairs(vec![PairRate { a: site(), b: name("b"), rate_kbit: 50_000 }]),
    }));
    samples.extend(every_variant!(JobState, None, {
        Waiting: JobState::Waiting,
        Running: JobState::Running,
        Done: JobState::Done(ExitStatus::Code(0)),
        Failed: JobState::Failed(failure()),
        Cancelled: JobState::Cancelled,
    }));
    samples.extend(every_variant!(Placement, None, {
        Sites: Placement::Sites(vec![(site(), 2)]),
        Anywhere: Placement::Anywhere(7),
    }));
    samples.extend(every_variant!(ExitStatus, None, {
        Code: ExitStatus::Code(42),
        Signal: ExitStatus::Signal(9),
    }));
    samples.extend(every_variant!(Stream, None, { Stdout: Stream::Stdout, Stderr: Stream::Stderr, }));
    samples.extend(every_variant!(Target, None, { Head: Target::Head, All: Target::All, }));
    samples
}
