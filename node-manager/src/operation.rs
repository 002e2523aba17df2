//! Records between the agent and the monitor, over the socket that is the agent's
//! file descriptor 3 (`SOCK_SEQPACKET`: one record is one datagram).
//!
//! ```text
//! monitor                                   agent
//!    | Welcome                              --> |   once, first
//!    | <-- Build                                |   once
//!    | Built (+1 fd: the init socket) | Failed --> |
//!    | <-- Shape                                |   once built, any number
//!    | Shaped (+1 fd: the sandbox's counters) | Failed --> |
//!    | <-- Heard                                |   any time, any number
//!    | <-- TearDown                             |   any time; repeatable
//!    | Gone | Dirty                         --> |   the answer to TearDown
//!    | Ended                                --> |   unasked; the sandbox is already gone
//! ```
//!
//! After `Gone`, `Dirty` or `Ended` the monitor only waits, briefly, for the agent to
//! exit. A record that does not decode, comes out of order or carries descriptors
//! ends everything: the privileged side does not argue.
//!
//! Layout: one byte for the kind, then the fields in order; numbers are big endian,
//! texts have a length byte in front. Nothing may follow.

use std::os::fd::OwnedFd;

use grant::{GRANT_LEN, RATES_LEN};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No record between monitor and agent is longer than this.
pub const RECORD_BYTES_MAX: usize = 512;
/// A detail, a node's name or a word about leftovers is cut to this many bytes.
pub const TEXT_BYTES_MAX: usize = 200;
/// The agent's end of the socket of this module.
pub const OPERATION_FD: i32 = 3;
/// The agent reads its invocation from this pipe until it ends; opaque to the monitor.
pub const INVOCATION_FD: i32 = 4;

/// The agent's first act: its two inherited descriptors, [`OPERATION_FD`] and
/// [`INVOCATION_FD`]. Once per process; an error when it was not started by a monitor.
/// From then on no other process of its account (the agents share one) can trace it.
pub fn inherited() -> std::io::Result<(OwnedFd, OwnedFd)> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok((crate::sys::fd::adopt(OPERATION_FD)?, crate::sys::fd::adopt(INVOCATION_FD)?))
}

/// Agent to monitor.
#[allow(clippy::large_enum_variant)] // one at a time, never stored
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Build the sandbox that the grant describes. Legal once, whatever its answer was:
    /// `Built` or `Failed`. After `Failed` everything made so far is already gone.
    Build { grant: [u8; GRANT_LEN], signature: [u8; 64] },
    /// Let the sandbox send at these rates, and no faster. Legal once it is built, repeatable with
    /// a larger serial; answered `Shaped` or `Failed`. A sandbox whose grant says `shaped` has no
    /// network before the first: `EBUSY` or `EADDRINUSE` then means that its address is not free yet.
    /// What failed may be asked again as it was.
    Shape { rates: [u8; RATES_LEN], signature: [u8; 64] },
    /// Remove the sandbox. Legal in every state and repeatable; answered `Gone` (also
    /// when there was none) or `Dirty`.
    TearDown,
    /// The CRM was heard: the lease begins anew. Not answered.
    Heard,
}

/// Monitor to agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// First record of all, unasked.
    Welcome(Welcome),
    /// The sandbox stands; the datagram carries one descriptor, the agent's end of the
    /// socket to the sandbox's init (see [`crate::init::record`]).
    Built,
    /// The rates hold. The datagram carries one descriptor: a netlink socket of the sandbox's
    /// network namespace, opened without any right, by which its counters can be read and nothing
    /// be changed. It keeps the namespace alive: close it before `TearDown`.
    Shaped,
    /// The sandbox was not built, and nothing of it is left; or the rates are not those asked for.
    Failed { step: Step, errno: i32, detail: String },
    /// Nothing of the sandbox is left.
    Gone,
    /// Torn down, except for what the text names; the node's next start sweeps it.
    Dirty { what: String },
    /// The monitor ended the sandbox by itself. Comes after the teardown.
    Ended { reason: EndReason },
}

/// What the agent needs to know before it dials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Welcome {
    /// The challenge that the grant must name.
    pub nonce: [u8; 16],
    /// SHA-256 of the only certificate that the CRM may present.
    pub crm_pin: [u8; 32],
    /// The local account of the user: real uid of whoever started the pilot.
    pub uid: u32,
    /// Host name of the node.
    pub node_name: String,
}

/// A closed list of words: their codes are their places, their sentences are for people.
macro_rules! words {
    ($(#[$of:meta])* $list:ident { $($(#[$doc:meta])* $name:ident => $sentence:literal,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $list { $($(#[$doc])* $name,)* }

        impl $list {
            /// All of them.
            pub const ALL: &[$list] = &[$($list::$name,)*];

            /// For people.
            pub fn sentence(self) -> &'static str {
                match self { $($list::$name => $sentence,)* }
            }
        }
    };
}

words! {
    /// Why a sandbox ended without being asked to by the agent.
    EndReason {
        LauncherGone => "the Launcher died",
        LauncherAsked => "the batch system ended the pilot",
        SandboxDied => "the sandbox's first process died",
        LifetimeOver => "the lifetime of the grant is over",
        LeaseOver => "nothing was heard from the site's CRM for the lease",
        AgentGone => "the agent died",
        AgentBroke => "the agent sent a record out of order",
    }
}

words! {
    /// The steps of a build, in order, then those of shaping. A failure names exactly one of
    /// them; its sentence is what was being done, to be read after "cannot".
    Step {
        /// State, signature, nonce and caller.
        CheckGrant => "accept the grant",
        /// The node policy's ranges, drivers and ceilings.
        CheckPolicy => "keep to the node policy",
        FindAccount => "find the user's account",
        MakeCgroup => "make the sandbox's cgroup",
        CreateProcess => "create the sandbox's namespaces",
        DisableIpv6 => "switch IPv6 off in the sandbox",
        IsolateMounts => "cut the mount tree off from the node's",
        OpenHome => "open the user's home directory",
        OpenShare => "open a shared directory",
        MountUpper => "mount the writable part",
        WriteFiles => "write the sandbox's own files",
        MountOverlay => "mount the overlay root",
        CarryMounts => "carry in another filesystem of the node",
        MountDev => "make /dev",
        MountProc => "mount /proc",
        MountSys => "mount /sys",
        MountTmp => "make /tmp and /run",
        MountHome => "mount the user's home directory",
        MountSsh => "make the private ~/.ssh",
        MountShare => "mount a shared directory",
        PivotRoot => "change to the new root",
        CreateLink => "create the network interface",
        ConfigureNetwork => "configure the network interface",
        DropPrivilege => "give up all privilege",
        Serve => "start the sandbox's init",
        /// Signature, nonce and serial.
        CheckRates => "accept the rates",
        Shape => "shape the network interface",
    }
}

/// Why a datagram is not a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

impl Request {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Build { grant, signature } => [&[1][..], grant, signature].concat(),
            Request::TearDown => vec![2],
            Request::Shape { rates, signature } => [&[4][..], rates, signature].concat(),
            Request::Heard => vec![5],
        }
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Request, Malformed> {
        let mut fields = Fields(datagram);
        let request = match fields.byte()? {
            1 => Request::Build { grant: fields.array()?, signature: fields.array()? },
            2 => Request::TearDown,
            4 => Request::Shape { rates: fields.array()?, signature: fields.array()? },
            5 => Request::Heard,
            _ => return Err(Malformed),
        };
        fields.end(request)
    }
}

impl Notice {
    /// The datagram. Texts longer than [`TEXT_BYTES_MAX`] are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Notice::Welcome(welcome) => {
                out.push(1);
                out.extend_from_slice(&welcome.nonce);
                out.extend_from_slice(&welcome.crm_pin);
                out.extend_from_slice(&welcome.uid.to_be_bytes());
                put_text(&mut out, &welcome.node_name);
            }
            Notice::Built => out.push(2),
            Notice::Failed { step, errno, detail } => {
                out.extend_from_slice(&[3, *step as u8]);
                out.extend_from_slice(&errno.to_be_bytes());
                put_text(&mut out, detail);
            }
            Notice::Gone => out.push(4),
            Notice::Dirty { what } => {
                out.push(5);
                put_text(&mut out, what);
            }
            Notice::Ended { reason } => out.extend_from_slice(&[7, *reason as u8]),
            Notice::Shaped => out.push(8),
        }
        out
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Notice, Malformed> {
        let mut fields = Fields(datagram);
        let notice = match fields.byte()? {
            1 => Notice::Welcome(Welcome {
                nonce: fields.array()?,
                crm_pin: fields.array()?,
                uid: u32::from_be_bytes(fields.array()?),
                node_name: fields.text()?,
            }),
            2 => Notice::Built,
            3 => Notice::Failed {
                step: pick(Step::ALL, fields.byte()?)?,
                errno: i32::from_be_bytes(fields.array()?),
                detail: fields.text()?,
            },
            4 => Notice::Gone,
            5 => Notice::Dirty { what: fields.text()? },
            7 => Notice::Ended { reason: pick(EndReason::ALL, fields.byte()?)? },
            8 => Notice::Shaped,
            _ => return Err(Malformed),
        };
        fields.end(notice)
    }
}

pub(crate) fn pick<T: Copy>(all: &[T], code: u8) -> Result<T, Malformed> {
    all.get(code as usize).copied().ok_or(Malformed)
}

/// Cut at a character, so that the text stays one.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let fits = |&at: &usize| text.is_char_boundary(at);
    let cut = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(fits).unwrap_or(0);
    out.push(cut as u8);
    out.extend_from_slice(&text.as_bytes()[..cut]);
}

/// The rest of a datagram that is being read.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(field)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        let length = self.byte()? as usize;
        let text = core::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)?;
        if length > TEXT_BYTES_MAX { Err(Malformed) } else { Ok(text.to_owned()) }
    }

    pub fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(value) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notices() -> Vec<Notice> {
        let welcome = Welcome { nonce: [7; 16], crm_pin: [9; 32], uid: 1001, node_name: "a1".into() };
        let mut all = vec![
            Notice::Welcome(welcome),
            Notice::Built,
            Notice::Shaped,
            Notice::Gone,
            Notice::Dirty { what: "cgroup".into() },
        ];
        all.extend(EndReason::ALL.iter().map(|&reason| Notice::Ended { reason }));
        all.extend(Step::ALL.iter().map(|&step| Notice::Failed { step, errno: 28, detail: "é".into() }));
        all
    }

    #[test]
    fn every_record_comes_back_and_no_prefix_of_it_does() {
        for notice in notices() {
            let datagram = notice.encode();
            assert!(datagram.len() <= RECORD_BYTES_MAX);
            assert_eq!(Notice::decode(&datagram), Ok(notice.clone()));
            for cut in 0..datagram.len() {
                assert_eq!(Notice::decode(&datagram[..cut]), Err(Malformed), "{notice:?} cut at {cut}");
            }
            assert_eq!(Notice::decode(&[&datagram[..], &[0]].concat()), Err(Malformed));
        }
        for request in [
            Request::Build { grant: [3; GRANT_LEN], signature: [4; 64] },
            Request::Shape { rates: [5; RATES_LEN], signature: [6; 64] },
            Request::TearDown,
            Request::Heard,
        ] {
            let datagram = request.encode();
            assert!(datagram.len() <= RECORD_BYTES_MAX);
            assert_eq!(Request::decode(&datagram), Ok(request));
            assert_eq!(Request::decode(&[&datagram[..], &[0]].concat()), Err(Malformed));
            assert_eq!(Request::decode(&datagram[..datagram.len() - 1]), Err(Malformed));
        }
    }

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        let detail = format!("{}é", "x".repeat(TEXT_BYTES_MAX - 1));
        let datagram = Notice::Failed { step: Step::MountHome, errno: 5, detail }.encode();
        let Ok(Notice::Failed { detail, .. }) = Notice::decode(&datagram) else { panic!() };
        assert_eq!(detail, "x".repeat(TEXT_BYTES_MAX - 1));
    }
}
