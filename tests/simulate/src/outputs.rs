//! What commands print: kept by agents until it is saved, taken by the GRC's files in order, and
//! complete when the end of a command is taken.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use protocol::ids::{JobId, MemberNumber};
use protocol::job::{ExitStatus, Hits, Stream};
use protocol::node::Notice;
use protocol::site::{FromSite, ToSite};

use crate::agenda::{MS, Micros};
use crate::field::{Around, Field, News};

const STREAM: Stream = Stream::Stdout;

/// What a command has printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    pub printed: u64,
    pub saved: u64,
    /// Where all that is not saved was sent.
    pub line: u32,
}

/// The GRC's files, which outlive it, and what its connections miss.
#[derive(Debug, Default)]
pub struct Files {
    taken: BTreeMap<(JobId, usize, MemberNumber), u64>,
    /// By connection: something in front of what came on it was lost.
    gaps: BTreeSet<(u64, JobId, MemberNumber)>,
}

/// What the GRC's door does with a message.
#[derive(Debug)]
pub enum Doorway {
    /// It is the owner's.
    Owner(FromSite),
    Answer(ToSite),
    Nothing,
}

impl Files {
    /// Takes output; lets an end through only when nothing of it is known to be missing.
    pub fn hears(&mut self, site: usize, connection: u64, message: FromSite) -> Doorway {
        match message {
            FromSite::Output { reservation, epoch, job, member, stream, offset, bytes } => {
                let taken = self.taken.entry((job, site, member)).or_default();
                if stream != STREAM {
                    return Doorway::Nothing;
                }
                if offset > *taken {
                    self.gaps.insert((connection, job, member));
                    return Doorway::Nothing;
                }
                self.gaps.remove(&(connection, job, member));
                *taken = (*taken).max(offset + bytes.len() as u64);
                let upto = *taken;
                Doorway::Answer(ToSite::OutputSaved { reservation, epoch, job, member, stream, upto })
            }
            FromSite::Exited { job, member, .. } if self.gaps.contains(&(connection, job, member)) => {
                Doorway::Nothing
            }
            message => Doorway::Owner(message),
        }
    }

    pub fn taken(&self, job: JobId, site: usize, member: MemberNumber) -> u64 {
        self.taken.get(&(job, site, member)).copied().unwrap_or(0)
    }
}

impl Field {
    /// A command that runs so long prints a few times.
    pub(crate) fn prints_until(&mut self, around: &mut Around, number: usize, job: JobId, runs: Micros) {
        let line = self.processes[number].line;
        self.processes[number].output.entry(job).or_default().line = line;
        for _ in 0..self.random.below(4) {
            let (at, more) = (self.random.below(runs / MS) * MS, self.random.between(1, 40) as u32);
            around.follows.push((at, News::Prints(number, job, more)));
        }
    }

    pub(crate) fn prints(&mut self, around: &mut Around, number: usize, job: JobId, more: u32) {
        let process = &mut self.processes[number];
        if process.ended || process.tearing || !matches!(process.commands.get(&job), Some(None)) {
            return;
        }
        let Some(output) = process.output.get_mut(&job) else { return };
        let offset = output.printed;
        output.printed += u64::from(more);
        if output.line == process.line {
            let bytes = Bytes::from(vec![0; more as usize]);
            self.say(around, number, 0, Notice::Output { job, stream: STREAM, offset, bytes });
        }
    }

    /// It ends, which is said where the rest of it was said.
    pub(crate) fn ends(&mut self, around: &mut Around, number: usize, job: JobId, status: ExitStatus) {
        let process = &self.processes[number];
        let Some(output) = process.output.get(&job).copied() else { return };
        around.truth.printed.insert((job, around.site, process.pilot.member), output.printed);
        if output.line == process.line && !process.silent {
            self.tell_end(around, number, job, status);
        }
    }

    pub(crate) fn sends_again(&mut self, around: &mut Around, number: usize, job: JobId) {
        let process = &mut self.processes[number];
        let line = process.line;
        let ended = process.commands.get(&job).copied().flatten();
        let Some(output) = process.output.get_mut(&job) else { return };
        output.line = line;
        let (offset, length) = (output.saved, output.printed - output.saved);
        if length > 0 {
            let bytes = Bytes::from(vec![0; length as usize]);
            self.say(around, number, 5 * MS, Notice::Output { job, stream: STREAM, offset, bytes });
        }
        if let Some(status) = ended {
            self.tell_end(around, number, job, status);
        }
    }

    fn tell_end(&mut self, around: &mut Around, number: usize, job: JobId, status: ExitStatus) {
        let offset = self.processes[number].output.get(&job).map_or(0, |output| output.printed);
        let end = Notice::Output { job, stream: STREAM, offset, bytes: Bytes::new() };
        self.say(around, number, 5 * MS, end);
        self.say(around, number, 0, Notice::Exited { job, status, hits: Hits::default() });
    }
}
