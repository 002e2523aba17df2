use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::disk::Medium;
use crate::store::Core;
use crate::{Key, Kind, Record, StoreError, Write};

pub const PATH: &str = "state/grc.store";
pub const OWNER: &str = "pin";

/// Small numbers that look random; the same seed gives the same ones.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What reached the medium, in order.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Sync,
    /// A commit has returned: it may have been told.
    Told,
}

/// Memory that notes everything done to it, and can refuse.
#[derive(Debug, Default)]
pub struct Ram {
    state: Mutex<(Vec<u8>, Vec<Op>)>,
    /// How many operations it does, and the error number of all that follow.
    fails: Mutex<Option<(usize, i32)>>,
}

impl Ram {
    pub fn new(bytes: Vec<u8>) -> Arc<Ram> {
        Arc::new(Ram { state: Mutex::new((bytes, Vec::new())), fails: Mutex::new(None) })
    }

    /// Does this many operations, counted from its making, and refuses those behind them.
    pub fn fail_after(&self, ops: usize, errno: i32) {
        *self.fails.lock().unwrap() = Some((ops, errno));
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.clone()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.state.lock().unwrap().1.clone()
    }

    pub fn told(&self) {
        self.state.lock().unwrap().1.push(Op::Told);
    }
}

pub fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { offset, data } => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(data);
        }
        Op::SetLen(len) => bytes.resize(*len as usize, 0),
        Op::Sync | Op::Told => {}
    }
}

impl Medium for Ram {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let there = state.0.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.done(Op::Write { offset, data: data.to_vec() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.done(Op::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.done(Op::Sync)
    }
}

impl Ram {
    fn done(&self, op: Op) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        match *self.fails.lock().unwrap() {
            Some((ops, errno)) if state.1.len() >= ops => Err(io::Error::from_raw_os_error(errno)),
            _ => {
                apply(&mut state.0, &op);
                state.1.push(op);
                Ok(())
            }
        }
    }
}

pub fn open(medium: &Arc<Ram>) -> Result<(Core<Ram>, Vec<Record>), StoreError> {
    let mut records = Vec::new();
    let show = |key, value: &[u8]| records.push((key, value.to_vec()));
    let core = Core::open(medium.clone(), Path::new(PATH), Kind::Grc, OWNER, show)?;
    Ok((core, records))
}

/// A new store with nothing in it.
pub fn empty_store() -> Vec<u8> {
    let medium = Ram::new(Vec::new());
    Core::make(&medium, Path::new(PATH), Kind::Grc, OWNER).unwrap();
    medium.bytes()
}

/// Some changes of a few keys; a tenth of the values needs a page or more of its own.
pub fn some_writes(dice: &mut Dice, keys: usize) -> Vec<Write> {
    (0..1 + dice.below(8))
        .map(|_| {
            let key = Key::of(dice.below(3) as u8, dice.below(keys) as u64);
            let longest = if dice.below(10) == 0 { 9_000 } else { 600 };
            match dice.below(4) {
                0 => Write::Delete { key },
                _ => Write::Put { key, value: vec![dice.next() as u8; dice.below(longest)] },
            }
        })
        .collect()
}
