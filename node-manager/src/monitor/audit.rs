//! One line for every build, teardown and refusal: to the system log, else to stderr.

use std::fmt;
use std::os::unix::net::UnixDatagram;

const LOG_SOCKET: &str = "/dev/log";
/// authpriv.info
const PRIORITY: u8 = 10 << 3 | 6;

/// Writes the line with everything that is not printable escaped.
pub fn line(uid: u32, text: impl fmt::Display) {
    let text: String = text.to_string().chars().flat_map(escaped).collect();
    let line = format!("gridpilot node-manager[{}]: uid {uid}: {text}", std::process::id());
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(format!("<{PRIORITY}>{line}").as_bytes(), LOG_SOCKET)
    });
    if sent.is_err() {
        // Nobody may be reading, and that must not end us.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
    }
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
