//! Samples of the conversation between a client and the GRC.

use crate::client::{Explanation, Notice, Reply, Request, Selector, SiteView};
use crate::frame::Kind;
use crate::ids::ReservationId;
use crate::job::Stream;
use crate::names::EnvironmentName;
use crate::refusal::Refusal;
use crate::samples::noun::{
    JOB, REQUEST, RESERVATION, VERSION, ask, change, failure, job_view, new_job, nouns, reservation_view,
    usage_point,
};
use crate::samples::{Sample, every_variant, name};

/// Requests, replies, notices, and the nouns that all conversations share.
pub fn client() -> Vec<Sample> {
    let mut samples = every_variant!(Request, Some(Kind::Request), {
        Sites: Request::Sites,
        Reserve: Request::Reserve { id: REQUEST, ask: ask() },
        Submit: Request::Submit { id: REQUEST, ask: ask(), job: new_job() },
        SubmitIn: Request::SubmitIn { id: REQUEST, reservation: RESERVATION, job: new_job() },
        Reservations: Request::Reservations,
        Jobs: Request::Jobs,
        ShowReservation: Request::ShowReservation(Selector::Id(RESERVATION)),
        ShowJob: Request::ShowJob(Selector::Last),
        Log: Request::Log { job: Selector::Id(JOB), stream: Stream::Stderr, offset: 70_000, follow: true },
        WaitJob: Request::WaitJob(Selector::Id(JOB)),
        WaitReservation: Request::WaitReservation(Selector::Last),
        Cancel: Request::Cancel(Selector::Id(JOB)),
        Release: Request::Release(Selector::Id(RESERVATION)),
        ExplainJob: Request::ExplainJob(Selector::Last),
        ExplainReservation: Request::ExplainReservation(Selector::Id(RESERVATION)),
        Modify: Request::Modify { id: REQUEST, reservation: RESERVATION, change: change() },
        Usage: Request::Usage(Selector::Last),
    });
    samples.extend(every_variant!(Reply, Some(Kind::Reply), {
        Done: Reply::Done,
        Sites: Reply::Sites(vec![site_view()]),
        Reserved: Reply::Reserved(RESERVATION),
        Submitted: Reply::Submitted { job: JOB, reservation: RESERVATION },
        Reservations: Reply::Reservations(vec![reservation_view()]),
        Jobs: Reply::Jobs(vec![job_view()]),
        Reservation: Reply::Reservation(reservation_view()),
        Job: Reply::Job(job_view()),
        Explained: Reply::Explained(explanation()),
        LogEnd: Reply::LogEnd { offset: 5_000_000_000 },
        Refused: Reply::Refused(Refusal::UnknownSite { site: name("c") }),
        Failed: Reply::Failed(failure()),
        Modified: Reply::Modified { reservation: RESERVATION, version: VERSION },
        Usage: Reply::Usage(vec![usage_point()]),
    }));
    samples.extend(every_variant!(Notice, Some(Kind::Notice), {
        Output: Notice::Output { stream: Stream::Stdout, offset: 251, bytes: b"rank 0\n\0\xff"[..].into() },
        Job: Notice::Job(job_view()),
        Reservation: Notice::Reservation(reservation_view()),
    }));
    type Selected = Selector<ReservationId>;
    samples.extend(every_variant!(Selected, None, {
        Id: Selector::Id(RESERVATION),
        Last: Selector::Last,
    }));
    samples.extend(nouns());
    samples
}

fn site_view() -> SiteView {
    SiteView {
        name: name("a"),
        connected: true,
        last_seen_s: Some(1_795_000_000),
        batch_system: "embedded".into(),
        nodes_usable: 4,
        nodes_free: 3,
        ranges: vec!["10.71.128.0/17".into()],
        environments: vec![EnvironmentName::host()],
        problems: vec!["node a2 is dirty: a cgroup is left".into()],
    }
}

fn explanation() -> Explanation {
    Explanation {
        summary: "r12 waits for nodes".into(),
        reasons: vec!["site a has 1 free node, 2 are needed".into()],
        deadline_s: Some(1_795_000_090),
        hints: vec!["release a reservation".into()],
    }
}
