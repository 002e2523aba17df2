//! One line for every build, teardown and refusal: to the system log, else to stderr.

use std::fmt;
use std::os::unix::net::UnixDatagram;

const LOG_SOCKET: &str = "/dev/log";
/// authpriv.info
const PRIORITY: u8 = 10 << 3 | 6;

/// Writes the line with everything that is not printable escaped.
pub fn line(uid: u32, text: impl fmt::Display) {
    let line = render(uid, text);
    if !log(&line) {
        // Nobody may be reading, and that must not end us.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
    }
}

/// The same for what the caller is told on stderr anyway.
pub fn line_to_system_log(uid: u32, text: impl fmt::Display) {
    let _ = log(&render(uid, text));
}

fn render(uid: u32, text: impl fmt::Display) -> String {
    let text: String = text.to_string().chars().flat_map(escaped).collect();
    format!("gridpilot node-manager[{}]: uid {uid}: {text}", std::process::id())
}

fn log(line: &str) -> bool {
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(format!("<{PRIORITY}>{line}").as_bytes(), LOG_SOCKET)
    });
    sent.is_ok()
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_are_escaped() {
        let text: String = "a\n\x1b[31mé".chars().flat_map(super::escaped).collect();
        assert_eq!(text, "a\\n\\u{1b}[31mé");
    }
}
