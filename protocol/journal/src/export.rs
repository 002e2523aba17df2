//! The store as lines of JSON, for people and for whoever must repair by hand.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::store::Core;
use crate::{Key, Kind, StoreError, file};

/// Writes a line about the store and then one for each record, in the order of keys: table, id in
/// hexadecimal digits, and what `decode` makes of the value, or its bytes in hexadecimal digits
/// if that is nothing. The number of records comes back. Nothing is changed, not even what a cut
/// short commit has left. While the daemon runs this is refused as [`StoreError::InUse`].
pub fn export(
    path: &Path,
    kind: Kind,
    decode: impl Fn(&Key, &[u8]) -> Option<Value>,
    out: &mut dyn io::Write,
) -> Result<u64, StoreError> {
    let Some(file) = file::existing(path, false)? else {
        return Err(StoreError::io("open", path, io::ErrorKind::NotFound.into()));
    };
    let (core, about) = Core::held(Arc::new(file), path)?;
    if about.kind != kind {
        return Err(StoreError::OtherKind { path: path.to_owned(), found: about.kind, wanted: kind });
    }
    let failed = |error| StoreError::Io { doing: "export", path: path.to_owned(), source: error };
    let head = json!({"store": about.kind.to_string(), "owner": about.owner, "format": about.format});
    writeln!(out, "{head}").map_err(failed)?;
    let mut count = 0;
    core.each(|key, value| {
        count += 1;
        let line = match decode(&key, value) {
            Some(record) => json!({"table": key.table(), "id": hex(key.id()), "record": record}),
            None => json!({"table": key.table(), "id": hex(key.id()), "bytes": hex(value)}),
        };
        writeln!(out, "{line}").map_err(failed)
    })?;
    out.flush().map_err(failed)?;
    Ok(count)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
