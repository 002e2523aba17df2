//! The file below redb. It starts *held*: what redb writes stays in memory, so that a file which
//! turns out to be damaged or somebody else's is left as it is. `release` writes that down and
//! passes everything through from there on. `seal` ends all writing: a store is never closed, only
//! left, as a kill would leave it, so that there is one way to start.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

const PAGE_BYTES: usize = 4096;

/// Bytes that last. Tests have one that loses what was not synced.
pub trait Medium: Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    /// Grows without taking space: redb doubles its file, and a disk that is half full has room
    /// for the pages it will use. A page that finds no space fails the commit it is written for.
    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[derive(Debug)]
enum Stage {
    Held(Held),
    Through,
    Sealed,
}

/// What a held disk looks like: the medium, these pages over it, and this length.
#[derive(Debug)]
struct Held {
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    len: u64,
}

impl Held {
    fn read(&self, medium: &impl Medium, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Beyond the medium's end there are zeroes.
        let there = medium.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        out[there..].fill(0);
        if there > 0 {
            medium.read(offset, &mut out[..there])?;
        }
        for piece in pieces(offset, out.len()) {
            if let Some(page) = self.pages.get(&piece.page) {
                out[piece.outside].copy_from_slice(&page[piece.inside]);
            }
        }
        Ok(())
    }

    fn write(&mut self, medium: &impl Medium, offset: u64, data: &[u8]) -> io::Result<()> {
        self.len = self.len.max(offset + data.len() as u64);
        for piece in pieces(offset, data.len()) {
            let mut page = Box::new([0; PAGE_BYTES]);
            let start = piece.page * PAGE_BYTES as u64;
            let there = self.len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
            self.read(medium, start, &mut page[..there])?;
            page[piece.inside].copy_from_slice(&data[piece.outside]);
            self.pages.insert(piece.page, page);
        }
        Ok(())
    }

    /// The first page last, after the others are durable: it names them.
    fn write_down(&self, medium: &impl Medium) -> io::Result<()> {
        if self.len != medium.len()? {
            medium.set_len(self.len)?;
        }
        for (number, page) in self.pages.iter().rev() {
            if *number == 0 {
                medium.sync()?;
            }
            let start = number * PAGE_BYTES as u64;
            let there = self.len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
            medium.write(start, &page[..there])?;
        }
        medium.sync()
    }
}

/// The part of a range of bytes that lies in one page.
struct Piece {
    page: u64,
    inside: Range<usize>,
    outside: Range<usize>,
}

fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES as u64) as usize;
        let n = (len - done).min(PAGE_BYTES - within);
        let piece =
            Piece { page: at / PAGE_BYTES as u64, inside: within..within + n, outside: done..done + n };
        done += n;
        (n > 0).then_some(piece)
    })
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// The first failure, which redb replaces by its own words.
    failure: Option<io::Error>,
}

/// Clones are the same disk: one is redb's, one the store's.
#[derive(Debug)]
pub struct Disk<M> {
    medium: Arc<M>,
    state: Arc<Mutex<State>>,
}

impl<M> Clone for Disk<M> {
    fn clone(&self) -> Disk<M> {
        Disk { medium: self.medium.clone(), state: self.state.clone() }
    }
}

impl<M: Medium> Disk<M> {
    /// Writes are kept in memory, the first of them this byte at this offset.
    pub fn held(medium: Arc<M>, offset: u64, byte: u8) -> io::Result<Disk<M>> {
        let mut held = Held { pages: BTreeMap::new(), len: medium.len()? };
        held.write(&*medium, offset, &[byte])?;
        Ok(Disk::staged(medium, Stage::Held(held)))
    }

    /// Writes go to the medium.
    pub fn through(medium: Arc<M>) -> Disk<M> {
        Disk::staged(medium, Stage::Through)
    }

    fn staged(medium: Arc<M>, stage: Stage) -> Disk<M> {
        Disk { medium, state: Arc::new(Mutex::new(State { stage, failure: None })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what was held.
    pub fn release(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Stage::Held(held) = &state.stage {
            held.write_down(&*self.medium)?;
            state.stage = Stage::Through;
        }
        Ok(())
    }

    /// Nothing is written from here on.
    pub fn seal(&self) {
        self.state().stage = Stage::Sealed;
    }

    /// What went wrong first below redb, if anything did.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }

    fn change(&self, make: impl FnOnce(&M, &mut Stage) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        if matches!(state.stage, Stage::Sealed) {
            return Err(io::Error::other("the store was left"));
        }
        let result = make(&self.medium, &mut state.stage);
        note(&mut state.failure, result)
    }
}

fn note(failure: &mut Option<io::Error>, result: io::Result<()>) -> io::Result<()> {
    if let Err(error) = &result {
        let copy = match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        failure.get_or_insert(copy);
    }
    result
}

impl<M: Medium> StorageBackend for Disk<M> {
    fn len(&self) -> io::Result<u64> {
        match &self.state().stage {
            Stage::Held(held) => Ok(held.len),
            Stage::Through | Stage::Sealed => self.medium.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        let result = match &state.stage {
            Stage::Held(held) => held.read(&*self.medium, offset, out),
            Stage::Through | Stage::Sealed => self.medium.read(offset, out),
        };
        note(&mut state.failure, result)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|medium, stage| match stage {
            Stage::Held(held) => {
                held.len = len;
                Ok(())
            }
            _ => medium.set_len(len),
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|medium, stage| match stage {
            Stage::Held(_) => Ok(()),
            _ => medium.sync(),
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|medium, stage| match stage {
            Stage::Held(held) => held.write(medium, offset, data),
            _ => medium.write(offset, data),
        })
    }
}
