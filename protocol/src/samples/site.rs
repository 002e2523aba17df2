//! Samples of the conversation between the GRC and a CRM.

use crate::frame::Kind;
use crate::job::{ExitStatus, Stream, Target};
use crate::names::EnvironmentName;
use crate::refusal::Refusal;
use crate::reservation::AddressBlock;
use crate::samples::noun::{
    EPOCH as epoch, JOB as job, LIMITS, PROGRESS as progress, RESERVATION as reservation, VERSION as version,
    block, command, failure, hits, keys, ring,
};
use crate::samples::{Sample, address, every_variant, name};
use crate::site::{Flow, FromSite, Offer, Part, Peer, ReadyMember, Remaining, ToSite, Waits};

const WINDOW: Remaining = Remaining { starts_in_ms: 300_000, ends_in_ms: 3_900_000 };

/// Both directions.
pub fn site() -> Vec<Sample> {
    let member = 1;
    let window = WINDOW;
    let (stream, target) = (Stream::Stdout, Target::All);
    let mut samples = every_variant!(ToSite, Some(Kind::Notice), {
        Welcome: ToSite::Welcome,
        Refused: ToSite::Refused(Refusal::BadTicket { why: "it was used before".into() }),
        Hold: ToSite::Hold { reservation, version, part: part() },
        Commit: ToSite::Commit { reservation, version, window },
        Release: ToSite::Release { reservation, version },
        Start: ToSite::Start { reservation, epoch, window },
        Join: ToSite::Join { reservation, epoch, ring: ring() },
        Exec: ToSite::Exec { reservation, epoch, job, target, command: command() },
        Signal: ToSite::Signal { reservation, epoch, job, signal: 15 },
        OutputSaved: ToSite::OutputSaved { reservation, epoch, job, member, stream, upto: 65_536 },
        ExitSaved: ToSite::ExitSaved { reservation, epoch, job, member },
        End: ToSite::End { reservation },
        Hasten: ToSite::Hasten { reservation, epoch },
    });
    samples.extend(every_variant!(FromSite, Some(Kind::Notice), {
        Register: FromSite::Register { site: name("a"), secret: [0x5a; 32] },
        Publish: FromSite::Publish { site: name("a"), offer: offer() },
        Held: FromSite::Held { reservation, version },
        HoldRefused: FromSite::HoldRefused {
            reservation,
            version,
            refusal: Refusal::NodesBusy { site: name("a"), asked: 2, have: 1 },
        },
        Asks: FromSite::Asks { reservation, version },
        Committed: FromSite::Committed { reservation, version },
        Lost: FromSite::Lost { reservation, version },
        Progress: FromSite::Progress { reservation, epoch, round: 2, progress },
        SiteReady: FromSite::SiteReady { reservation, epoch, round: 2, members: vec![ready_member()] },
        Joined: FromSite::Joined { reservation, epoch },
        Failed: FromSite::Failed { reservation, epoch, failure: failure() },
        Output: FromSite::Output {
            reservation, epoch, job, member, stream, offset: 7, bytes: b"rank 1\n"[..].into(),
        },
        Exited: FromSite::Exited {
            reservation, epoch, job, member, status: ExitStatus::Signal(9), hits: hits(),
        },
        ExecFailed: FromSite::ExecFailed { reservation, epoch, job, member, failure: failure() },
        Ended: FromSite::Ended {
            reservation, dirty: vec![(name("a1"), "a cgroup is left".into())],
        },
        Used: FromSite::Used {
            reservation, epoch, over_ms: 1003,
            flows: vec![Flow { to: name("b"), granted_kbit: 100_000, sent_bytes: 12_000_000 }],
        },
        Waits: FromSite::Waits {
            reservation, epoch,
            waits: Some(Waits {
                pilots: 2, why: "Priority".into(), expected_in_s: Some(60), until_in_s: Some(599), held_for_s: None,
            }),
        },
        Withdrawn: FromSite::Withdrawn {
            reservation, epoch, round: 2, why: "its pilots waited 600 s".into(), again_in_s: 30,
        },
        Beat: FromSite::Beat,
        NothingRuns: FromSite::NothingRuns { reservation, epoch, job },
    }));
    samples
}

pub fn offer() -> Offer {
    Offer {
        batch_system: "embedded".into(),
        ranges: vec!["10.71.128.0/17".parse().expect("a range")],
        reserved: vec![address(254)],
        nodes_usable: 4,
        nodes_free: 3,
        layers: vec![4, 4, 1],
        lead_s: 10,
        unusable: vec![(name("a3"), "drained".into())],
        environments: vec![EnvironmentName::host()],
        queue: "partition main".into(),
        pilots_s: 600,
        nodes_max: Some(2),
        lasts_s_max: None,
        paused: Some("partition main is down".into()),
    }
}

pub fn part() -> Part {
    Part {
        user: name("ada"),
        members: 2,
        slots: 2,
        limits: LIMITS,
        window: WINDOW,
        layer: 1,
        environment: EnvironmentName::host(),
        addresses: vec![block()],
        peers: vec![Peer {
            site: name("b"),
            rate_kbit: 100_000,
            addresses: vec![AddressBlock { first: address(9), count: 3 }],
        }],
    }
}

fn ready_member() -> ReadyMember {
    ReadyMember { number: 1, node: name("a1"), address: address(1), keys: keys(8) }
}
