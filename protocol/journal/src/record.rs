//! Keys, and the form of a value in the file: its checksum in front of it.

use std::fmt;

use thiserror::Error;
use twox_hash::XxHash3_64;

/// Longest id of a record within its table.
pub const ID_BYTES_MAX: usize = 62;
/// Longest value: the longest frame of the protocol fits.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

const CHECKSUM_BYTES: usize = 8;

/// Whose store a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Grc,
    Crm,
}

impl Kind {
    pub(crate) fn number(self) -> u8 {
        match self {
            Kind::Grc => 1,
            Kind::Crm => 2,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Kind> {
        [Kind::Grc, Kind::Crm].into_iter().find(|kind| kind.number() == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Grc => "GRC",
            Kind::Crm => "CRM",
        })
    }
}

/// Names a record: a table, whose numbers are the caller's and never change meaning, and an id of
/// at most [`ID_BYTES_MAX`] bytes in it. Ordered by table, then by the bytes of the id, so numbers
/// in big-endian order stay in order. Records that are made one after the other should have ids
/// that grow: they share pages of the file, and a commit writes whole pages.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    table: u8,
    // Zeroes behind the id: the derived order is that of the bytes, the shorter one first.
    id: [u8; ID_BYTES_MAX],
    len: u8,
}

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a record's id of {bytes} bytes is longer than {ID_BYTES_MAX}")]
pub struct KeyTooLong {
    pub bytes: usize,
}

impl Key {
    pub fn new(table: u8, id: &[u8]) -> Result<Key, KeyTooLong> {
        let too_long = KeyTooLong { bytes: id.len() };
        let mut key =
            Key { table, id: [0; ID_BYTES_MAX], len: u8::try_from(id.len()).map_err(|_| too_long)? };
        key.id.get_mut(..id.len()).ok_or(too_long)?.copy_from_slice(id);
        Ok(key)
    }

    /// The record of a number, in the order of numbers.
    pub fn of(table: u8, number: u64) -> Key {
        let mut id = [0; ID_BYTES_MAX];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Key { table, id, len: 8 }
    }

    pub fn table(&self) -> u8 {
        self.table
    }

    pub fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.len)]
    }

    /// The number, if the id was made by [`Key::of`].
    pub fn number(&self) -> Option<u64> {
        self.id().try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn encode(&self) -> ([u8; ID_BYTES_MAX + 1], usize) {
        let mut bytes = [0; ID_BYTES_MAX + 1];
        bytes[0] = self.table;
        bytes[1..].copy_from_slice(&self.id);
        (bytes, usize::from(self.len) + 1)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Key> {
        let (table, id) = bytes.split_first()?;
        Key::new(*table, id).ok()
    }
}

/// `3/00000000000000a7`: the table and the id as hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.table)?;
        self.id().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// One change. Of several to one key in a commit the last one holds; deleting what is not there
/// changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    Put { key: Key, value: Vec<u8> },
    Delete { key: Key },
}

impl Write {
    pub fn key(&self) -> Key {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => *key,
        }
    }
}

/// Over key and value, so that a value cannot turn up under another key.
fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), value).to_le_bytes()
}

/// Puts the stored form of a value into `out`, in place of what was there.
pub(crate) fn seal(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&checksum(key, value));
    out.extend_from_slice(value);
}

/// The value of a stored form; `None` if it is not what was stored under this key.
pub(crate) fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = stored.split_at_checked(CHECKSUM_BYTES)?;
    (sum == checksum(key, value)).then_some(value)
}
