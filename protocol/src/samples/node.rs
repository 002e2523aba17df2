//! Samples of the conversation between a CRM and an agent, and of what a pilot is started with.

use crate::frame::Kind;
use crate::job::{ExitStatus, Stream};
use crate::names::EnvironmentName;
use crate::node::{
    Arrive, ClassUse, First, Invocation, Notice, Reply, Request, Return, Setup, SignedRates, State, Token,
};
use crate::refusal::Refusal;
use crate::samples::noun::{EPOCH, JOB as job, RESERVATION, command, failure, hits, keys, ring};
use crate::samples::{Sample, address, every_variant, host, name};

/// The agent's first request, the CRM's requests, replies and notices.
pub fn node() -> Vec<Sample> {
    let stream = Stream::Stderr;
    let mut samples = every_variant!(First, Some(Kind::Request), {
        Arrive: First::Arrive(arrive()),
        Return: First::Return(returning()),
    });
    samples.extend(every_variant!(Request, Some(Kind::Request), {
        Setup: Request::Setup(setup()),
        GetKeys: Request::GetKeys,
        SetKeys: Request::SetKeys(ring()),
        Run: Request::Run,
        Exec: Request::Exec { job, command: command() },
        Signal: Request::Signal { job, signal: 15 },
        OutputSaved: Request::OutputSaved { job, stream, upto: 65_536 },
        Shutdown: Request::Shutdown,
        GetStatus: Request::GetStatus,
        Shape: Request::Shape(rates()),
        Resend: Request::Resend { job },
        ExitSaved: Request::ExitSaved { job },
        End: Request::End { grace_ms: 5000 },
        Beat: Request::Beat,
    }));
    samples.extend(every_variant!(Reply, Some(Kind::Reply), {
        Done: Reply::Done,
        Keys: Reply::Keys(keys(8)),
        Status: Reply::Status { state: State::Running, since_s: 61, commands: 2 },
        Refused: Reply::Refused(Refusal::WrongState { what: "SETUP".into(), state: "ready".into() }),
        Failed: Reply::Failed(failure()),
    }));
    samples.extend(every_variant!(Notice, Some(Kind::Notice), {
        StateChanged: Notice::StateChanged { state: State::TearingDown, cause: Some(failure()) },
        Output: Notice::Output { job, stream, offset: 7, bytes: b"rank 1\n"[..].into() },
        Exited: Notice::Exited { job, status: ExitStatus::Code(42), hits: hits() },
        Gone: Notice::Gone { dirty: Some("a cgroup is left".into()), cause: None },
        Used: Notice::Used {
            at_ms: 61_000,
            classes: vec![ClassUse { class: 1, sent_bytes: 1 << 33, dropped: 7, backlog_bytes: 65_536 }],
        },
        Beat: Notice::Beat,
    }));
    samples.extend(every_variant!(State, None, {
        Idle: State::Idle,
        Building: State::Building,
        Ready: State::Ready,
        Joined: State::Joined,
        Running: State::Running,
        TearingDown: State::TearingDown,
        Gone: State::Gone,
    }));
    samples
}

/// What the Launcher passes on unread, for either kind of address.
pub fn invocation() -> Vec<Sample> {
    let of = |name: &str, crm: &str| {
        let crm = crm.parse().expect("an address");
        Sample::of(name, None, &Invocation { crm, token: Token([0x5a; 32]) })
    };
    vec![of("Invocation.V4", "10.71.0.10:7401"), of("Invocation.V6", "[2001:db8::10]:7401")]
}

fn arrive() -> Arrive {
    Arrive {
        token: Token([0x5a; 32]),
        nonce: [0xa5; 16],
        node: name("a1.example"),
        uid: 1000,
        boot_id: [0x11; 16],
        version: "0.1.0".into(),
    }
}

fn returning() -> Return {
    Return {
        nonce: [0xa5; 16],
        node: name("a1.example"),
        uid: 1000,
        boot_id: [0x11; 16],
        state: State::Running,
        keys: Some(keys(8)),
        rates: Some(rates()),
        version: "0.1.0".into(),
    }
}

pub fn setup() -> Setup {
    Setup {
        grant: vec![0x47; 140],
        signature: vec![0x53; 64],
        host: host("a", 1),
        address: address(2),
        reservation: RESERVATION,
        epoch: EPOCH,
        environment: EnvironmentName::host(),
        variables: vec![(name("GRIDPILOT_MEMBERS"), "4".to_owned())],
        rates: Some(rates()),
    }
}

fn rates() -> SignedRates {
    SignedRates { record: vec![0x52; 345], signature: vec![0x54; 64] }
}
