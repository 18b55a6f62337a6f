//! Values of a version that kept them in a store of their own.

use std::path::Path;

use super::notes;
use crate::buffer::{self, BufferConfig, BufferError};
use crate::streams::{Notes, Streams};

/// Stands in the buffer once there is nothing to move any more.
const DONE: &[u8] = b"value-import";

/// Moves the values in `old`, if there are any that have not been moved yet:
/// all of them in one commit, then the folder goes.
pub(super) fn once(streams: &Streams, old: &Path) -> Result<(), BufferError> {
    let gone = old.with_extension("moved");
    let failed = |error| BufferError::io("remove the moved values", &gone, &error);
    if gone.is_dir() {
        std::fs::remove_dir_all(&gone).map_err(failed)?;
    }
    if !old.join("sled").is_dir() {
        return Ok(());
    }
    if streams.notes(DONE)?.is_empty() {
        let config = BufferConfig {
            cache_bytes: 4 << 20,
            ballast_bytes: 0,
            ..BufferConfig::default()
        };
        let opened = buffer::open(old, &config)?;
        if let Some((path, reason)) = &opened.quarantined {
            tracing::error!(path = %path.display(), reason, "handlers' values were damaged and set aside");
        }
        let mut moved = Notes::new();
        for (key, piece) in opened.store.notes(b"")? {
            if notes::parse(&key).is_some() {
                moved.insert([notes::PREFIX, &key].concat(), Some(piece));
            }
        }
        let count = moved.len();
        moved.insert(DONE.to_vec(), Some(Vec::new()));
        streams.write_notes_now(moved)?;
        tracing::info!(path = %old.display(), count, "moved handlers' values into the buffer");
    }
    // Under another name first: a folder that is half removed is none that is half moved.
    std::fs::rename(old, &gone)
        .and_then(|()| std::fs::remove_dir_all(&gone))
        .map_err(failed)
}
