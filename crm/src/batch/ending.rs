//! How a pilot ended, as its exit code tells: the Launcher's own codes, and those of whatever could
//! not start it.

/// In people's words, for the reason that a user sees.
pub fn words(code: i32) -> String {
    let what = match code {
        0 => return "its Launcher ended in order".into(),
        2 => "its Launcher was started with arguments that it does not know",
        65 => "its Launcher got no invocation that it could use",
        69 => "its Launcher could not start a NodeManager",
        70 => "its NodeManager refused or failed; the node's system log says why",
        71 => "its NodeManager was killed",
        126 | 127 => "the Launcher is not on the node, or cannot be executed there",
        129..=192 => return format!("it was killed by signal {}", code - 128),
        _ => return format!("it ended with code {code}"),
    };
    format!("{what} (code {code})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words_of_one_line() {
        for code in -1..=256 {
            let words = words(code);
            assert!(!words.is_empty() && !words.contains('\n'), "{code}");
        }
        assert_eq!(words(137), "it was killed by signal 9");
        assert!(words(69).contains("could not start a NodeManager"));
    }
}
