//! Up to where each member's output was taken, beside the output itself, so that a restart goes on
//! where it stopped. One append-only file per job:
//!
//! ```text
//! a 0 stdout 4096 4096      site, member, stream, taken up to, bytes on file then
//! = 65f3b4a2                what follows was noted in this boot of the machine
//! ! some of it ...          what was lost, to be told with the log
//! ```
//! A line is written after the bytes that it speaks of: bytes without their line were never
//! acknowledged and come again. A power cut may take lines that were acknowledged, the last or all:
//! then a stream is in doubt until it is heard of in the new boot, over any number of starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use protocol::ids::MemberNumber;
use protocol::job::Stream;
use protocol::names::SiteName;

use super::file_name;
use crate::pins::replace;

pub const FILE: &str = "offsets";
/// A longer file is written anew, with one line for each stream.
const BYTES_MAX: u64 = 256 * 1024;

pub type Source = (SiteName, MemberNumber, Stream);

/// What is known of the streams of a job.
#[derive(Debug, Default)]
pub struct Offsets {
    pub taken: BTreeMap<Source, u64>,
    /// Bytes on file.
    pub stdout: u64,
    pub stderr: u64,
    pub damage: Option<String>,
    /// What was acknowledged may be gone, until a stream is heard of.
    pub doubt: Option<Doubt>,
}

/// Of a job that is older than this boot of the machine, or whose offsets cannot be read.
#[derive(Debug)]
pub struct Doubt {
    boot: String,
    /// Streams that were heard of in this boot: they count on from there.
    heard: BTreeSet<Source>,
    /// The file says already where this boot begins.
    noted: bool,
}

impl Doubt {
    fn new(boot: &str) -> Self {
        Self { boot: boot.to_owned(), heard: BTreeSet::new(), noted: false }
    }
}

impl Offsets {
    /// The stream sends something: whether it may go on behind what was lost.
    pub fn hear(&mut self, source: &Source) -> bool {
        self.doubt.as_mut().is_some_and(|doubt| doubt.heard.insert(source.clone()))
    }

    pub fn length(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Reads what an earlier start has left, and cuts the files back to what was acknowledged.
    /// In doubt is what is older than this boot, and what was found unreadable in it.
    pub fn load(directory: &Path, boot: &str, older: bool) -> std::io::Result<Self> {
        let mut known = Self { doubt: older.then(|| Doubt::new(boot)), ..Self::default() };
        let text = match fs::read(directory.join(FILE)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // There may be bytes all the same, whose line was never written.
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // The last line may be half: whatever it spoke of comes again.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            known.take_line(line.trim_end(), boot);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let path = directory.join(file_name(stream));
            let on_file = fs::metadata(&path).map_or(0, |meta| meta.len());
            let length = known.length(stream);
            if on_file > *length {
                OpenOptions::new().write(true).open(&path)?.set_len(*length)?;
            } else if on_file < *length {
                *length = on_file;
                known.damage.get_or_insert_with(|| "some of it was lost with the machine's power".into());
            }
        }
        let rewritten = known.lines();
        if rewritten.len() < text.len() {
            replace(&directory.join(FILE), rewritten.as_bytes())?;
            known.was_rewritten();
        }
        Ok(known)
    }

    /// What there is of a job whose offsets cannot be read.
    pub fn unreadable(directory: &Path, boot: &str, error: &std::io::Error) -> Self {
        let length = |stream| fs::metadata(directory.join(file_name(stream))).map_or(0, |meta| meta.len());
        Self {
            taken: BTreeMap::new(),
            stdout: length(Stream::Stdout),
            stderr: length(Stream::Stderr),
            damage: Some(format!("some of it cannot be read: {error}")),
            doubt: Some(Doubt::new(boot)),
        }
    }

    fn was_rewritten(&mut self) {
        if let Some(doubt) = &mut self.doubt {
            doubt.noted = true;
        }
    }

    fn take_line(&mut self, line: &str, boot: &str) {
        if let Some(damage) = line.strip_prefix("! ") {
            self.damage = Some(damage.to_owned());
            return;
        }
        if let Some(begun) = line.strip_prefix("= ") {
            if begun == boot {
                self.doubt = Some(Doubt { noted: true, ..Doubt::new(boot) });
            }
            return;
        }
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or("");
        let (site, member, stream) = (word().parse(), word().parse(), word());
        let (upto, length) = (word().parse::<u64>(), word().parse::<u64>());
        let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|one| file_name(*one) == stream);
        if let (Ok(site), Ok(member), Some(stream), Ok(upto), Ok(length)) =
            (site, member, stream, upto, length)
        {
            let source = (site, member, stream);
            if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.noted) {
                doubt.heard.insert(source.clone());
            }
            self.taken.insert(source, upto);
            *self.length(stream) = length;
        }
    }

    fn line(&self, (site, member, stream): &Source) -> String {
        let upto = self.taken.get(&(site.clone(), *member, *stream)).copied().unwrap_or(0);
        let length = if *stream == Stream::Stdout { self.stdout } else { self.stderr };
        format!("{site} {member} {} {upto} {length}\n", file_name(*stream))
    }

    fn lines(&self) -> String {
        let heard = |source: &&Source| self.doubt.as_ref().is_some_and(|doubt| doubt.heard.contains(*source));
        let before = self.taken.keys().filter(|source| !heard(source)).map(|source| self.line(source));
        let boot = self.doubt.iter().map(|doubt| format!("= {}\n", doubt.boot));
        let since = self.taken.keys().filter(heard).map(|source| self.line(source));
        let damage = self.damage.iter().map(|damage| format!("! {}\n", damage.replace('\n', " ")));
        before.chain(boot).chain(since).chain(damage).collect()
    }

    /// Notes that a stream was taken further, or that something was lost.
    pub fn note(&mut self, directory: &Path, source: &Source, damaged: bool) -> std::io::Result<()> {
        let path = directory.join(FILE);
        let open = || OpenOptions::new().append(true).create(true).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                open()?
            }
            opened => opened?,
        };
        let begins = self.doubt.as_ref().is_some_and(|doubt| !doubt.noted);
        if damaged || begins || file.metadata()?.len() > BYTES_MAX {
            replace(&path, self.lines().as_bytes())?;
            self.was_rewritten();
            return Ok(());
        }
        file.write_all(self.line(source).as_bytes())
    }
}
