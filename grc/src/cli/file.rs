//! `submit FILE.toml`: the same words as the options, in a file.
//!
//! ```toml
//! nodes = "a=2,b=2"          # or a number
//! slots = 2
//! bandwidth = "100Mbit"      # or pair by pair, see `bandwidth`
//! start = "2026-12-01T10:00"
//! time = "1h30m"
//! memory = "2GiB"
//! set = { OMP_NUM_THREADS = "2" }
//! command = ["mpirun", "./ring"]
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use protocol::client::Selector;
use protocol::ids::ReservationId;
use protocol::names::{EnvironmentName, Label, VariableName};
use protocol::reservation::{Bandwidth, Placement};
use serde::de::{Deserialize, Deserializer, Error};

use super::bandwidth::{self, PairEntry};
use super::client::reason;
use super::errors::CliError;
use super::values;
use super::when::{self, Moment};

/// The file, read and checked. Unknown words are refused with their line.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct JobFile {
    #[serde(deserialize_with = "placement")]
    pub nodes: Option<Placement>,
    pub slots: Option<u32>,
    #[serde(deserialize_with = "rates")]
    pub bandwidth: Option<Bandwidth>,
    pub bandwidth_file: Option<PathBuf>,
    pub pair: Vec<PairEntry>,
    #[serde(deserialize_with = "duration")]
    pub time: Option<u32>,
    #[serde(deserialize_with = "moment")]
    pub start: Option<Moment>,
    #[serde(deserialize_with = "moment")]
    pub latest: Option<Moment>,
    #[serde(deserialize_with = "duration")]
    pub within: Option<u32>,
    #[serde(deserialize_with = "moment")]
    pub end: Option<Moment>,
    pub queue: bool,
    #[serde(deserialize_with = "cpus")]
    pub cpus: Option<u32>,
    #[serde(deserialize_with = "size")]
    pub memory: Option<u64>,
    #[serde(deserialize_with = "size")]
    pub disk: Option<u64>,
    #[serde(deserialize_with = "processes")]
    pub processes: Option<u32>,
    #[serde(deserialize_with = "grace")]
    pub grace: Option<u16>,
    pub env: Option<EnvironmentName>,
    pub name: Option<Label>,
    pub cwd: Option<PathBuf>,
    #[serde(deserialize_with = "variables")]
    pub set: Vec<(VariableName, String)>,
    #[serde(rename = "in", deserialize_with = "reservation")]
    pub reservation: Option<Selector<ReservationId>>,
    pub all: bool,
    pub command: Vec<String>,
}

/// What may be written with or without quotes.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "a text or a number is wanted here")]
enum Word {
    Integer(u64),
    Float(f64),
    Text(String),
}

fn word<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = match Word::deserialize(from)? {
        Word::Integer(number) => number.to_string(),
        Word::Float(number) => number.to_string(),
        Word::Text(text) => text,
    };
    parse(&text).map(Some).map_err(D::Error::custom)
}

fn placement<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Placement>, D::Error> {
    word(from, values::placement)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    word(from, values::duration)
}

fn rates<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bandwidth>, D::Error> {
    word(from, bandwidth::bandwidth)
}

fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Moment>, D::Error> {
    word(from, when::moment)
}

fn cpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    word(from, values::cpus)
}

fn processes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    word(from, values::processes)
}

fn grace<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    word(from, values::grace)
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    word(from, values::size)
}

fn reservation<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Selector<ReservationId>>, D::Error> {
    word(from, values::reservation)
}

fn variables<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(VariableName, String)>, D::Error> {
    let table = BTreeMap::<String, String>::deserialize(from)?;
    table
        .into_iter()
        .map(|(name, value)| Ok((VariableName::try_from(name).map_err(D::Error::custom)?, value)))
        .collect()
}

/// Reads a job file.
///
/// # Errors
/// `Usage`, naming the file and the line.
pub fn read(path: &Path) -> Result<JobFile, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::Usage(format!(
            "cannot read the job file {}: {}\n  a command stands behind `--`: gridpilot submit -- COMMAND",
            path.display(),
            reason(&error)
        ))
    })?;
    parse(&text, path.display())
}

fn parse(text: &str, path: impl Display) -> Result<JobFile, CliError> {
    let bad = |at: usize, what: String| {
        let line = 1 + text[..at.min(text.len())].matches('\n').count();
        CliError::Usage(format!("{path}, line {line}: {what}"))
    };
    let mut file: JobFile = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        bad(error.span().map_or(0, |span| span.start), message)
    })?;
    let pairs = std::mem::take(&mut file.pair);
    let ways = [file.bandwidth.is_some(), file.bandwidth_file.is_some(), !pairs.is_empty()];
    if ways.into_iter().filter(|said| *said).count() > 1 {
        let what = "`bandwidth`, `bandwidth-file` and `[[pair]]` say the same thing; leave all but one out";
        return Err(CliError::Usage(format!("{path}: {what}")));
    }
    if !pairs.is_empty() {
        file.bandwidth = Some(bandwidth::of_pairs(pairs).map_err(|(at, what)| bad(at, what))?);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_everything_that_options_say() {
        let file = parse(
            r#"
            nodes = "a=2,b=1"
            slots = 2
            time = "1h30m"
            cpus = 1.5
            memory = "2GiB"
            disk = 1048576
            env = "host"
            name = "ring"
            cwd = "/tmp"
            set = { A = "1", B = "x=y" }
            all = true
            bandwidth = "a-b=100Mbit"
            start = "+1h"
            latest = "2026-12-01T10:00Z"
            end = "now"
            command = ["./ring", "-v"]
            "#,
            "x",
        )
        .unwrap();
        assert_eq!(file.nodes, Some(values::placement("a=2,b=1").unwrap()));
        assert_eq!((file.slots, file.time, file.cpus), (Some(2), Some(5400), Some(1500)));
        assert_eq!((file.memory, file.disk), (Some(2 << 30), Some(1 << 20)));
        assert_eq!(file.bandwidth, Some(bandwidth::bandwidth("a-b=100Mbit").unwrap()));
        assert_eq!((file.start, file.end), (Some(Moment::In(3600)), Some(Moment::Now)));
        assert_eq!(file.latest, Some(Moment::At(1_796_119_200)));
        assert_eq!(file.set.len(), 2);
        assert!(file.all);
        assert_eq!(file.command, ["./ring", "-v"]);
        assert_eq!(parse("nodes = 4", "x").unwrap().nodes, Some(Placement::Anywhere(4)));
        let pairs = parse("queue = true\n[[pair]]\nbetween = [\"a\", \"b\"]\nrate = \"1Gbit\"", "x").unwrap();
        assert_eq!(pairs.bandwidth, Some(bandwidth::bandwidth("a-b=1Gbit").unwrap()));
        assert!(pairs.queue);
        assert_eq!(parse("in = \"r3\"", "x").unwrap().reservation, Some(Selector::Id(ReservationId(3))));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_with_its_line() {
        for (text, wanted) in [
            ("slots = 1\nnods = 4\n", "unknown field `nods`"),
            ("slots = 1\ntime = \"90\"\n", "is not a duration"),
            ("slots = 1\nmemory = \"2X\"\n", "is not a size"),
            ("slots = 1\nnodes = true\n", "a text or a number"),
            ("slots = 1\ncommand = \"ls -l\"\n", "expected a sequence"),
            ("slots = 1\nset = { \"1A\" = \"x\" }\n", "variable name"),
            ("slots = 1\nbandwidth = \"1GB\"\n", "is not a rate"),
            ("slots = 1\nstart = \"10:00\"\n", "is not a time"),
            ("[[pair]]\nbetween = [\"a\", 1]\nrate = \"1Gbit\"\n", "expected site name"),
            ("[[pair]]\nrate = \"1Gb\"\nbetween = [\"a\", \"b\"]\n", "is not a rate"),
            ("slots = 1\nslots = = 2\n", ""),
        ] {
            let CliError::Usage(message) = parse(text, "job.toml").unwrap_err() else { panic!("{text}") };
            assert!(message.starts_with("job.toml, line 2: "), "{message}");
            assert!(message.contains(wanted), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}
