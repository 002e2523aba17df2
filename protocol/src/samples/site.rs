//! Samples of the conversation between the GRC and a CRM.

use crate::frame::Kind;
use crate::job::{ExitStatus, Stream, Target};
use crate::names::EnvironmentName;
use crate::refusal::Refusal;
use crate::samples::noun::{
    EPOCH as epoch, JOB as job, LIMITS, PROGRESS as progress, RESERVATION as reservation, block, command,
    failure, keys, ring,
};
use crate::samples::{Sample, address, every_variant, name};
use crate::site::{FromSite, Offer, Part, ReadyMember, ToSite};

/// Both directions.
pub fn site() -> Vec<Sample> {
    let member = 1;
    let (stream, target) = (Stream::Stdout, Target::All);
    let mut samples = every_variant!(ToSite, Some(Kind::Notice), {
        Welcome: ToSite::Welcome,
        Refused: ToSite::Refused(Refusal::BadTicket { why: "it was used before".into() }),
        Hold: ToSite::Hold { reservation, epoch, part: part() },
        Commit: ToSite::Commit { reservation, epoch },
        Release: ToSite::Release { reservation, epoch },
        Join: ToSite::Join { reservation, epoch, ring: ring() },
        Exec: ToSite::Exec { reservation, epoch, job, target, command: command() },
        Signal: ToSite::Signal { reservation, epoch, job, signal: 15 },
        OutputSaved: ToSite::OutputSaved { reservation, epoch, job, member, stream, upto: 65_536 },
        End: ToSite::End { reservation, epoch },
    });
    samples.extend(every_variant!(FromSite, Some(Kind::Notice), {
        Register: FromSite::Register { site: name("a"), secret: [0x5a; 32] },
        Publish: FromSite::Publish { site: name("a"), offer: offer() },
        Held: FromSite::Held { reservation, epoch },
        HoldRefused: FromSite::HoldRefused {
            reservation,
            epoch,
            refusal: Refusal::NodesBusy { site: name("a"), asked: 2, have: 1 },
        },
        Progress: FromSite::Progress { reservation, epoch, progress },
        SiteReady: FromSite::SiteReady { reservation, epoch, members: vec![ready_member()] },
        Joined: FromSite::Joined { reservation, epoch },
        Failed: FromSite::Failed { reservation, epoch, failure: failure() },
        Output: FromSite::Output {
            reservation, epoch, job, member, stream, offset: 7, bytes: b"rank 1\n"[..].into(),
        },
        Exited: FromSite::Exited { reservation, epoch, job, member, status: ExitStatus::Signal(9) },
        ExecFailed: FromSite::ExecFailed { reservation, epoch, job, member, failure: failure() },
        Ended: FromSite::Ended {
            reservation, epoch, dirty: vec![(name("a1"), "a cgroup is left".into())],
        },
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
        unusable: vec![(name("a3"), "drained".into())],
        environments: vec![EnvironmentName::host()],
    }
}

pub fn part() -> Part {
    Part {
        user: name("ada"),
        members: 2,
        slots: 2,
        limits: LIMITS,
        duration_s: 3600,
        environment: EnvironmentName::host(),
        addresses: vec![block()],
    }
}

fn ready_member() -> ReadyMember {
    ReadyMember { number: 1, node: name("a1"), address: address(1), keys: keys(8) }
}
