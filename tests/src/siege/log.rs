//! The system log of a node, listened to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// Where programs send their lines: `/dev/log`, or what that leads to. The kernel keeps some ten
/// for a reader, so there is one that does nothing else.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
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
        Ok(Log { lines })
    }

    /// Lines since the last call, oldest first.
    pub fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
