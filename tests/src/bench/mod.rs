//! Measurements, run by `make bench`. What two things are compared is taken in turn in one run,
//! and medians are shown, for the machine is never quiet. No test asserts a time.

pub mod asked;
pub mod bed;
pub mod durable;
pub mod exchange;
pub mod far;
pub mod helper;
pub mod idle;
pub mod network;
pub mod probe;
pub mod sandbox;
pub mod search;
pub mod short;
pub mod start;
pub mod thousand;
pub mod usage;

use std::time::Duration;

/// The middle one; of an even number the upper of the two.
pub fn median(samples: &mut [Duration]) -> Duration {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort();
    samples[samples.len() / 2]
}

/// The middle one of numbers, as [`median`].
pub fn middle(samples: &[f64]) -> f64 {
    assert!(!samples.is_empty(), "nothing was measured");
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Each sample over the reference that was taken beside it, then the middle one: what slows the
/// machine down for a while slows both, and falls out.
pub fn ratio(samples: &[Duration], references: &[Duration]) -> f64 {
    let each = samples.iter().zip(references);
    middle(&each.map(|(one, other)| one.as_secs_f64() / other.as_secs_f64()).collect::<Vec<_>>())
}

/// Milliseconds with one digit.
pub fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// Milliseconds with two digits, for what takes few of them.
pub fn fine_ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// Median, least and most of one row of samples.
pub fn spread(samples: &[Duration]) -> [String; 3] {
    let mut sorted = samples.to_vec();
    let middle = median(&mut sorted);
    [middle, sorted[0], sorted[sorted.len() - 1]].map(fine_ms)
}

/// A table in Markdown: the first row is the head, the first column stands left.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for column in 0..columns {
            let cell = row.get(column).map_or("", String::as_str);
            let width = width(column);
            let cell = if column == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            text.push_str(&cell);
        }
        text.push_str("|\n");
        if number == 0 {
            for column in 0..columns {
                let dashes = "-".repeat(width(column));
                text.push_str(&if column == 0 { format!("|{dashes}--") } else { format!("|-{dashes}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

/// A row of a table.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The machine, in one line for above a table.
pub fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let memory = kib_of("/proc/meminfo", "MemTotal").unwrap_or(0) as f64 / f64::from(1 << 20);
    let kernel = kernel.trim();
    format!("Linux {kernel}, {processors} processors, {memory:.0} GiB of memory, load {}", load.join(" "))
}

/// The number behind `name:` in a file of the kernel's, in KiB as it stands there.
pub fn kib_of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_care_for_outliers() {
        let mut samples = [9000, 2, 1, 3, 4].map(Duration::from_millis);
        assert_eq!(median(&mut samples), Duration::from_millis(3));
    }

    #[test]
    fn a_slow_moment_that_hits_both_falls_out_of_the_ratio() {
        let samples = [20, 400, 22].map(Duration::from_millis);
        let references = [10, 200, 11].map(Duration::from_millis);
        assert_eq!(ratio(&samples, &references), 2.0);
    }
}
