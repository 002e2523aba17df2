//! Which jobs are older than this boot of the machine. What was acknowledged of their output may have
//! been lost with the machine's power, files, directories and all, and no line of theirs says so. So
//! one file for all jobs says it, written before anything is taken from a site:
//!
//! ```text
//! 65f3b4a2010203040506070809 6      boot id, the first job of this boot
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use protocol::ids::JobId;

use crate::pins::replace;

pub const FILE: &str = "boot";

/// This boot of the machine, over any number of starts.
#[derive(Debug)]
pub struct Boot {
    /// Another one after every boot.
    pub id: String,
    /// No job before this one began in this boot.
    first: JobId,
}

impl Boot {
    /// `known` are the jobs that earlier starts have left. The first start of a boot writes down that
    /// they are older than it; if it cannot, the next start takes itself for the first, which doubts
    /// more than it must.
    pub fn begin(directory: &Path, id: [u8; 16], known: &BTreeSet<JobId>) -> Self {
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let noted = text.trim_end().split_once(' ').filter(|(boot, _)| *boot == id);
        if let Some(first) = noted.and_then(|(_, first)| first.parse().ok()) {
            return Self { id, first };
        }
        let first = JobId(known.last().map_or(0, |last| last.0 + 1));
        let line = format!("{id} {first}\n");
        if let Err(error) = fs::create_dir_all(directory).and_then(|()| replace(&path, line.as_bytes())) {
            tracing::error!(%error, path = %path.display(), "cannot note which jobs are older than this boot");
        }
        Self { id, first }
    }

    pub fn is_after(&self, job: JobId) -> bool {
        job < self.first
    }
}
