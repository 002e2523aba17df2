//! Variables as text: for shells, and for sshd. Values come from users, so both quote everything.

use std::collections::BTreeMap;

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Whether a value fits into a line of a configuration file. Others cannot reach an ssh login.
pub fn fits_a_line(value: &str) -> bool {
    !value.chars().any(char::is_control)
}

/// `/etc/gridpilot/environment`: `export NAME='value'`, to be sourced by any POSIX shell.
pub fn shell(variables: &Variables) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(&format!("export {name}='{}'\n", value.replace('\'', "'\\''")));
    }
    text
}

/// The arguments of sshd's `SetEnv`, all on one line: sshd heeds only the first `SetEnv` it meets.
/// Values that do not fit a line are left out.
pub fn set_env(variables: &Variables) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let pairs: Vec<String> = variables
        .iter()
        .filter(|(_, value)| fits_a_line(value))
        .map(|(name, value)| format!("\"{name}={}\"", quote(value)))
        .collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &str, value: &str) -> Variables {
        Variables::from([(name.to_owned(), value.to_owned())])
    }

    /// How sshd cuts a line into arguments (`argv_split` in its misc.c), for double quotes.
    fn split_as_sshd(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                ' ' if !quoted => words.extend(word.take()),
                '#' if !quoted && word.is_none() => break,
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                '\\' if matches!(rest.peek(), Some('"' | '\\' | '\'')) => {
                    word.get_or_insert_default().extend(rest.next());
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        assert!(!quoted, "unbalanced: {line}");
        words.extend(word);
        words
    }

    proptest! {
        #[test]
        fn sshd_reads_back_each_variable_and_nothing_else(values in proptest::collection::vec("\\PC{0,20}", 0..8)) {
            let variables: Variables =
                values.iter().enumerate().map(|(n, value)| (format!("V{n}"), value.clone())).collect();
            let expected: Vec<String> =
                variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let line = set_env(&variables);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(split_as_sshd(&line), expected);
        }
    }

    #[test]
    fn a_value_with_a_line_break_cannot_become_an_option_of_sshd() {
        let variables = one("A", "x\"\nPermitRootLogin yes");
        assert_eq!(set_env(&variables), "");
    }

    #[test]
    fn a_shell_reads_back_any_value() {
        for value in ["", "a b", "it's", "$(reboot)", "a\nb", "\\", "\"`"] {
            let script = format!("{}printf %s \"$A\"", shell(&one("A", value)));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
