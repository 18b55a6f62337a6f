//! Writes a database anew that takes far more space than its content: sled never
//! gives space back, and opens the slower the larger its file.
//!
//! ```text
//!  sled ─ copy ─► sled.next, synced ─► sled to sled.old ─► sled.next to sled ─► sled.old removed
//! ```
//!
//! A crash at any point leaves one whole database that the next start finds.

use std::path::{Path, PathBuf};

use super::open::open_store;
use super::{BufferConfig, BufferError};

/// A smaller file is not worth the work.
const LEAST_BYTES: u64 = 64 << 20;
/// So many times its content is far more than usual.
const RATIO: u64 = 8;

/// Whether a database of `disk` bytes with `live` bytes of content should be written anew.
pub(crate) fn is_worth_it(disk: u64, live: u64) -> bool {
    disk > LEAST_BYTES && disk / RATIO > live
}

/// Writes the database in `dir` anew, which nobody may have open; says how large it is then.
///
/// # Errors
/// [`BufferError`]; the database is as it was then.
pub(crate) fn compact(dir: &Path, config: &BufferConfig) -> Result<u64, BufferError> {
    let (path, next, old) = places(dir);
    remove(&next)?;
    let open = |path: &Path| {
        open_store(dir, path, config)?.map_err(|reason| BufferError::Damaged {
            path: path.to_owned(),
            reason,
        })
    };
    let (from, to) = (open(&path)?, open(&next)?);
    let copied = from.copy_to(&to);
    drop(to);
    drop(from);
    if let Err(error) = copied {
        remove(&next)?;
        return Err(error);
    }
    rename(&path, &old)?;
    rename(&next, &path)?;
    crate::disk::sync_parent(&path).map_err(|e| BufferError::io("sync", dir, &e))?;
    remove(&old)?;
    Ok(path.join("db").metadata().map_or(0, |data| data.len()))
}

/// Ends what a crash has interrupted.
pub(super) fn recover(dir: &Path) -> Result<(), BufferError> {
    let (path, next, old) = places(dir);
    if !path.exists() && old.exists() {
        // The copy was whole before the old one was moved.
        rename(if next.exists() { &next } else { &old }, &path)?;
        crate::disk::sync_parent(&path).map_err(|e| BufferError::io("sync", dir, &e))?;
    }
    remove(&next)?;
    remove(&old)
}

fn places(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (
        dir.join("sled"),
        dir.join("sled.next"),
        dir.join("sled.old"),
    )
}

fn rename(from: &Path, to: &Path) -> Result<(), BufferError> {
    std::fs::rename(from, to).map_err(|e| BufferError::io("move", from, &e))
}

fn remove(path: &Path) -> Result<(), BufferError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(BufferError::io("remove", path, &e))
        }
        _ => Ok(()),
    }
}
