//! Bytes to standard output and lines to standard error. `println!` would panic when the reader
//! goes away; here that is an ordinary end.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use protocol::job::Stream;

use super::errors::CliError;

/// Writes to standard output and flushes.
///
/// # Errors
/// `OutputClosed` when nobody reads.
pub fn print(bytes: &[u8]) -> Result<(), CliError> {
    write_all(&mut io::stdout().lock(), bytes).map_err(CliError::output)
}

/// A line to standard error. There is nobody to tell when that fails.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// One to three lines in our name; nothing for an empty text.
pub fn complain(text: &str) {
    if !text.is_empty() {
        say(&format!("gridpilot: {text}"));
    }
}

/// Passes a job's output on, without holding up signals and deadlines while the reader is slow.
///
/// # Errors
/// `OutputClosed` when nobody reads.
pub async fn pass_on(stream: Stream, bytes: Bytes) -> Result<(), CliError> {
    let written = tokio::task::spawn_blocking(move || match stream {
        Stream::Stdout => write_all(&mut io::stdout().lock(), &bytes),
        Stream::Stderr => write_all(&mut io::stderr().lock(), &bytes),
    });
    match written.await {
        Ok(result) => result.map_err(CliError::output),
        Err(error) => Err(CliError::Bug(error.to_string())),
    }
}

fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) => tolerate(error)?,
        }
    }
    loop {
        match to.flush() {
            Ok(()) => return Ok(()),
            Err(error) => tolerate(error)?,
        }
    }
}

/// Another program may have made the terminal or pipe that we share non-blocking.
fn tolerate(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        }
        _ => Err(error),
    }
}
