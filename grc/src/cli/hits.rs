//! Limits that a job ran into: one line each, with the limit's size and what to do.

use protocol::job::Hits;
use serde::Serialize;

use super::table::bytes;

/// A limit that was hit, as json tells it.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub struct HitJson {
    /// `memory`, `processes`, `disk` or `files`.
    limit: &'static str,
    /// Per member: bytes, or a number of processes or files; absent where it is not known.
    size: Option<u64>,
    /// How many processes were killed or could not be made.
    times: Option<u32>,
}

/// Every limit that was hit, in a fixed order.
pub fn json(hits: &Hits) -> Vec<HitJson> {
    let known = |size: u64| (size > 0).then_some(size);
    let counted = |limit, size, times| HitJson { limit, size: known(size), times: Some(times) };
    let seen = |limit, size| HitJson { limit, size: known(size), times: None };
    [
        (hits.out_of_memory > 0).then(|| counted("memory", hits.memory_bytes, hits.out_of_memory)),
        (hits.processes_refused > 0).then(|| counted("processes", hits.pids.into(), hits.processes_refused)),
        hits.disk_full.then(|| seen("disk", hits.disk_bytes)),
        hits.files_full.then(|| seen("files", hits.files)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The same for people.
pub fn lines(hits: &Hits) -> Vec<String> {
    json(hits).iter().map(line).collect()
}

fn line(hit: &HitJson) -> String {
    let limit = |show: fn(u64) -> String| match hit.size {
        Some(size) => format!("limit {} per member", show(size)),
        None => "a limit of the node".to_owned(),
    };
    let times = hit.times.unwrap_or(0);
    match hit.limit {
        "memory" => {
            let whom = if times == 1 { "a process was killed" } else { "processes were killed" };
            format!("out of memory: {whom}, {}; ask for more with --memory", limit(bytes))
        }
        "processes" => format!(
            "too many processes: {times} could not be started, {}; ask for more with --processes",
            limit(|size| size.to_string())
        ),
        "disk" => {
            format!("disk full: {}; ask for more with --disk, or write to a shared directory", limit(bytes))
        }
        _ => format!(
            "disk full: too many files, {}; ask for more with --disk, or write to a shared directory",
            limit(|size| size.to_string())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_that_was_hit_is_one_line_with_its_size_and_what_to_do() {
        assert!(lines(&Hits::default()).is_empty());
        let all = Hits {
            out_of_memory: 1,
            processes_refused: 40,
            disk_full: true,
            files_full: true,
            memory_bytes: 512 << 20,
            pids: 64,
            disk_bytes: 3 << 30,
            files: 1000,
        };
        let lines = lines(&all);
        let wanted = [
            "out of memory: a process was killed, limit 512MiB per member; ask for more with --memory",
            "too many processes: 40 could not be started, limit 64 per member; ask for more with --processes",
            "disk full: limit 3GiB per member; ask for more with --disk, or write to a shared directory",
            "disk full: too many files, limit 1000 per member; ask for more with --disk, or write to a shared directory",
        ];
        assert_eq!(lines, wanted);
        assert_eq!(
            json(&all).iter().map(|hit| hit.size).collect::<Vec<_>>(),
            [Some(512 << 20), Some(64), Some(3 << 30), Some(1000)]
        );
        let unknown = Hits { out_of_memory: 2, ..Hits::default() };
        assert_eq!(json(&unknown)[0].size, None);
        assert!(line(&json(&unknown)[0]).contains("processes were killed, a limit of the node"));
    }
}
