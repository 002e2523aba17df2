//! The users file: whose ssh key lets in whom. A line for each key:
//!
//! ```text
//! # grid user   type and key, as in a .pub file          comment
//! alice         ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA...  alice@laptop
//! ```
//! There are no options and no patterns. A key stands there once.

use std::collections::BTreeMap;

use protocol::names::UserName;

use super::key::Key;

/// Longest file that is read.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most keys in it.
const KEYS_MAX: usize = 65_536;

/// What is wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{line}: {what}")]
pub struct BadLine {
    pub line: usize,
    pub what: String,
}

/// Who is let in with which key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Users {
    /// By the key as ssh sends it.
    keys: BTreeMap<Vec<u8>, (UserName, Key)>,
}

impl Users {
    /// Reads all lines: those that can be used, and the first that cannot.
    pub fn parse(bytes: &[u8]) -> (Self, Option<BadLine>) {
        let mut users = Self::default();
        let mut lines: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut first = None;
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line_number = number + 1;
            let read = entry(line).and_then(|entry| {
                let Some((user, key)) = entry else { return Ok(()) };
                if users.keys.len() >= KEYS_MAX {
                    return Err(format!("more than {KEYS_MAX} keys"));
                }
                let bytes = key.as_bytes().to_vec();
                if let Some(before) = lines.insert(bytes.clone(), line_number) {
                    // Whose it is is not known then, so it is nobody's.
                    users.keys.remove(&bytes);
                    return Err(format!("this key stands in line {before} already"));
                }
                users.keys.insert(bytes, (user, key));
                Ok(())
            });
            if let Err(what) = read {
                first.get_or_insert(BadLine { line: line_number, what });
            }
        }
        (users, first)
    }

    /// What is left of these when only `good` lines count any more: nobody is let in newly by a file
    /// with a mistake in it, and who was taken out of it is out.
    pub fn without_what_left(&self, good: &Self) -> Self {
        let stays = |(bytes, entry): &(&Vec<u8>, &(UserName, Key))| good.keys.get(*bytes) == Some(entry);
        let keys = self.keys.iter().filter(stays).map(|(bytes, entry)| (bytes.clone(), entry.clone()));
        Self { keys: keys.collect() }
    }

    /// The key, if it lets in this user.
    pub fn key(&self, user: &UserName, bytes: &[u8]) -> Option<&Key> {
        self.keys.get(bytes).filter(|(whose, _)| whose == user).map(|(_, key)| key)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// One line; nothing, if nothing stands in it.
fn entry(line: &[u8]) -> Result<Option<(UserName, Key)>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "it is no UTF-8 text".to_owned())?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("it has a control character in it".to_owned());
    }
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let Some(user) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(None) };
    let (Some(kind), Some(base64)) = (words.next(), words.next()) else {
        return Err("a line is a grid user, a type of key, a key and a comment".to_owned());
    };
    let user: UserName = user.parse().map_err(|error| format!("{error}"))?;
    let key =
        Key::from_words(kind, base64).map_err(|error| format!("{error}; options are not understood"))?;
    Ok(Some((user, key)))
}
