//! Measurements, run by `make bench`. What two things are compared is taken in turn in one run,
//! and medians are shown, for the machine is never quiet. No test asserts a time.

pub mod start;

use std::time::Duration;

/// The middle one; of an even number the upper of the two.
pub fn median(samples: &mut [Duration]) -> Duration {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort();
    samples[samples.len() / 2]
}

/// Milliseconds with one digit.
pub fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
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

/// The machine, in one line for above a table.
pub fn machine() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("Linux {}, {processors} processors, load {}", kernel.trim(), load.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_care_for_outliers() {
        let mut samples = [9000, 2, 1, 3, 4].map(Duration::from_millis);
        assert_eq!(median(&mut samples), Duration::from_millis(3));
    }
}
