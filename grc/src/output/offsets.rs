//! Up to where each member's output was taken, beside the output itself, so that a restart goes on
//! where it stopped. One append-only file per job:
//!
//! ```text
//! a 0 stdout 4096 4096      site, member, stream, taken up to, bytes on file then
//! ! some of it ...          what was lost, to be told with the log
//! ```
//! A line is written after the bytes that it speaks of: bytes without their line were never
//! acknowledged and come again.

use std::collections::BTreeMap;
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
}

impl Offsets {
    pub fn length(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Reads what an earlier start has left, and cuts the files back to what was acknowledged.
    pub fn load(directory: &Path) -> std::io::Result<Self> {
        let mut known = Self::default();
        let text = match fs::read(directory.join(FILE)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(known),
            Err(error) => return Err(error),
        };
        // The last line may be half: whatever it spoke of comes again.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            known.take_line(line.trim_end());
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
        }
        Ok(known)
    }

    fn take_line(&mut self, line: &str) {
        if let Some(damage) = line.strip_prefix("! ") {
            self.damage = Some(damage.to_owned());
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
            self.taken.insert((site, member, stream), upto);
            *self.length(stream) = length;
        }
    }

    fn line(&self, (site, member, stream): &Source) -> String {
        let upto = self.taken.get(&(site.clone(), *member, *stream)).copied().unwrap_or(0);
        let length = if *stream == Stream::Stdout { self.stdout } else { self.stderr };
        format!("{site} {member} {} {upto} {length}\n", file_name(*stream))
    }

    fn lines(&self) -> String {
        let damage = self.damage.iter().map(|damage| format!("! {}\n", damage.replace('\n', " ")));
        self.taken.keys().map(|source| self.line(source)).chain(damage).collect()
    }

    /// Notes that a stream was taken further, or that something was lost.
    pub fn note(&self, directory: &Path, source: &Source, damaged: bool) -> std::io::Result<()> {
        let path = directory.join(FILE);
        let open = || OpenOptions::new().append(true).create(true).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                open()?
            }
            opened => opened?,
        };
        if damaged || file.metadata()?.len() > BYTES_MAX {
            return replace(&path, self.lines().as_bytes());
        }
        file.write_all(self.line(source).as_bytes())
    }
}
