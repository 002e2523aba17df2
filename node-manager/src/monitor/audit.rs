//! One line for every build, teardown and refusal, to the system log or the kernel's:
//! the caller's own standard error would let him hide it, and hold us up.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixDatagram;

const LOG_SOCKET: &str = "/dev/log";
const KERNEL_LOG: &str = "/dev/kmsg";
/// authpriv.info
const PRIORITY: u8 = 10 << 3 | 6;

/// Writes the line with everything that is not printable escaped.
pub fn line(uid: u32, text: impl fmt::Display) {
    let line = render(uid, text);
    if log(&line).is_err() {
        // A node without any log has none.
        let kernel = std::fs::OpenOptions::new().write(true).open(KERNEL_LOG);
        let _ = kernel.and_then(|mut kernel| kernel.write_all(line.as_bytes()));
    }
}

/// The same for what anybody can make us say: the kernel's log is too small for that.
pub fn line_to_system_log(uid: u32, text: impl fmt::Display) {
    let _ = log(&render(uid, text));
}

fn render(uid: u32, text: impl fmt::Display) -> String {
    let text: String = text.to_string().chars().flat_map(escaped).collect();
    format!("<{PRIORITY}>gridpilot node-manager[{}]: uid {uid}: {text}", std::process::id())
}

fn log(line: &str) -> std::io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(line.as_bytes(), LOG_SOCKET)
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
