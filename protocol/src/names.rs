//! Checked words: a value of one of these types can be put into a hosts file, an ssh file,
//! a path component or a terminal without further thought.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::limits::{PATH_BYTES_MAX, TEXT_BYTES_MAX};

/// Why a text is not a name of the wanted kind; shown to whoever typed or sent it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{given:?} is not a {kind}: {rule}")]
pub struct BadName {
    pub kind: &'static str,
    pub given: String,
    pub rule: &'static str,
}

fn bad(kind: &'static str, given: &str, rule: &'static str) -> BadName {
    BadName { kind, given: given.chars().take(64).collect(), rule }
}

/// Reads a text and checks it where it lies: nothing is kept of one that is refused.
fn text<'de, D, T, E>(
    kind: &'static str,
    deserializer: D,
    check: impl Fn(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    struct Checked<F>(&'static str, F);

    impl<T, E: fmt::Display, F: Fn(&str) -> Result<T, E>> Visitor<'_> for Checked<F> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<R: Error>(self, given: &str) -> Result<T, R> {
            (self.1)(given).map_err(R::custom)
        }
    }

    deserializer.deserialize_str(Checked(kind, check))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
        pub struct $name(String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text($kind, deserializer, |given| given.parse())
            }
        }

        impl $name {
            /// The text, as it was accepted.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(bad($kind, text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A site of the grid. Short, because it is the first half of every host name.
    SiteName, "site name", "1 to 12 of a-z and 0-9, beginning with a letter",
    |text| {
        (1..=12).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    }
);

name_type!(
    /// A user of the grid, and the one login name inside every sandbox.
    UserName, "user name", "1 to 32 of a-z, 0-9, _ and -, beginning with a letter or _",
    |text| {
        (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    }
);

name_type!(
    /// A machine of a site as its administrator calls it.
    NodeName, "node name", "1 to 64 of letters, digits, . and -, beginning with a letter or digit",
    |text| {
        (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
    }
);

name_type!(
    /// What a user calls a job or a reservation: shown, never interpreted.
    Label, "label", "1 to 64 printable characters",
    |text| (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control)
);

name_type!(
    /// An environment by name or by lock id; `host` is the node's own tree.
    EnvironmentName, "environment name", "1 to 80 of a-z, 0-9, . _ and -, beginning with a letter or digit",
    |text| {
        (1..=80).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    }
);

name_type!(
    /// The name of an environment variable.
    VariableName, "variable name", "1 to 256 of letters, digits and _, not beginning with a digit",
    |text| {
        (1..=256).contains(&text.len())
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }
);

name_type!(
    /// An absolute path without NUL. It says nothing of what stands there.
    AbsolutePath, "path", "an absolute path of at most 4096 bytes without NUL",
    |text| text.starts_with('/') && text.len() < PATH_BYTES_MAX && !text.contains('\0')
);

impl EnvironmentName {
    /// The node's own tree: the environment that every site has.
    pub fn host() -> Self {
        Self("host".to_owned())
    }
}

/// A member's host name inside the grid: `<site>-<n>`.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
pub struct HostName {
    pub site: SiteName,
    /// Number of the member within its site, from 0.
    pub number: u32,
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.site, self.number))
    }
}

/// Free text from a peer or the system: control characters are replaced and the length is
/// bounded when it is made, so that it can be printed as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text("text", deserializer, |given| Ok::<_, BadName>(given.into()))
    }
}

impl Text {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(given: &str) -> Self {
        let mut text = String::with_capacity(given.len().min(TEXT_BYTES_MAX));
        for c in given.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if text.len() + c.len_utf8() > TEXT_BYTES_MAX {
                break;
            }
            text.push(c);
        }
        Self(text)
    }
}

impl From<String> for Text {
    fn from(given: String) -> Self {
        Self::from(given.as_str())
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What such a name may be put into: hosts files, ssh files, paths, terminals.
    #[test]
    fn names_refuse_everything_that_could_leave_its_line_or_directory() {
        for text in ["", "a\nb", "a b", "../a", "a/b", "-a", "a\0", "\u{1b}[2J", "a,b", "ä"] {
            assert!(text.parse::<SiteName>().is_err(), "{text:?}");
            assert!(text.parse::<UserName>().is_err(), "{text:?}");
            assert!(text.parse::<NodeName>().is_err(), "{text:?}");
        }
        for site in ["a", "tsukuba2"] {
            assert_eq!(site.parse::<SiteName>().unwrap().as_str(), site);
        }
        assert!("a-b".parse::<SiteName>().is_err(), "the dash separates site and number");
    }

    #[test]
    fn text_never_holds_a_control_character_and_is_bounded() {
        let text = Text::from(format!("a\u{1b}[31m\n{}", "é".repeat(2000)));
        assert!(!text.as_str().chars().any(char::is_control));
        assert!(text.as_str().len() <= TEXT_BYTES_MAX);
    }
}
