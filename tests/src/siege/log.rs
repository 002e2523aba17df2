//! The system log of a node, listened to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::wait_until;

const MARK: &str = "read so far";
const READ_TIME: Duration = Duration::from_secs(20);

/// Where programs send their lines: `/dev/log`, or what that leads to. The kernel keeps some ten
/// for a reader, so there is one that does nothing else.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    path: PathBuf,
}

impl Log {
    /// Everybody may write to it.
    pub fn listen(path: &Path) -> Result<Log> {
        let socket = UnixDatagram::bind(path).with_context(|| path.display().to_string())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Log { lines, path: path.to_owned() })
    }

    /// Lines since the last call, oldest first; everything that was sent before this call.
    ///
    /// # Errors
    /// The reader is gone.
    pub fn lines(&self) -> Result<Vec<String>> {
        // They are read in the order in which they were sent: behind this one is nothing of before.
        UnixDatagram::unbound()?.send_to(MARK.as_bytes(), &self.path).context("the system log")?;
        let kept = || self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let read = wait_until(READ_TIME, || kept().iter().any(|line| line == MARK));
        ensure!(read, "nobody reads the system log");
        let mut lines = std::mem::take(&mut *kept());
        lines.retain(|line| line != MARK);
        Ok(lines)
    }
}
