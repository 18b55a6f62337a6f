//! The durable store under the streams: frames by (stream, first sequence) and
//! a few small notes beside them, changed together or not at all.
//!
//! ```text
//! <dir>/sled/            one sled tree:  'f' stream u32 | first u64 | chunk u16 → a piece of a frame
//!                                        'n' key                             → a note
//! <dir>/bounds.json      where each stream ended, to notice a lost tail
//! <dir>/owner            process id of the user, for a readable error
//! <dir>/ballast          freed to be able to open when the disk is full
//! <dir>/quarantine-<ms>  what could not be opened; the newest two are kept
//! <dir>/sled.next, .old  while the database is written anew
//! ```
//!
//! sled 0.34 loses data at a power cut unless its use is kept narrow; the rules
//! are in [`sled_store`]. Everything above this module sees [`FrameStore`] only.

mod bounds;
mod compact;
#[cfg(test)]
pub(crate) mod fault_store;
mod open;
mod sled_store;
mod space;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

pub(crate) use bounds::Bounds;
pub(crate) use compact::{compact, is_worth_it as is_worth_compacting};
pub(crate) use open::{Opened, open, open_as_it_is, quarantines};
pub(crate) use space::Space;

/// How the buffer uses its disk.
#[derive(Debug, Clone)]
pub struct BufferConfig {
    /// Page cache in bytes; sled goes beyond it by a small factor.
    pub cache_bytes: u64,
    /// Space kept aside to be able to open on a full disk.
    pub ballast_bytes: u64,
    /// Records are refused when less than this is free.
    pub free_floor_bytes: u64,
    /// How long a predecessor that is about to end may still hold the lock.
    pub lock_wait: Duration,
    /// Opening that takes longer is given up.
    pub open_limit: Duration,
    /// What the buffer may take on the disk; none is 1 GiB, or a quarter of a smaller file system.
    pub max_bytes: Option<u64>,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 24 << 20,
            ballast_bytes: 32 << 20,
            free_floor_bytes: 64 << 20,
            lock_wait: Duration::from_secs(2),
            open_limit: Duration::from_secs(60),
            max_bytes: None,
        }
    }
}

impl BufferConfig {
    /// What a buffer in `dir` may take on the disk.
    pub(crate) fn disk_limit(&self, dir: &Path) -> u64 {
        let usual = || {
            let quarter = crate::disk::total_bytes(dir).map_or(u64::MAX, |total| total / 4);
            quarter.min(1 << 30)
        };
        self.max_bytes.unwrap_or_else(usual).max(LEAST_MAX_BYTES)
    }
}

/// Less than this is no use: sled takes some segments for an empty database.
const LEAST_MAX_BYTES: u64 = 8 << 20;

/// Why the buffer cannot be opened or used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BufferError {
    /// Another process has it open.
    #[error(
        "the buffer {path} is in use by {owner}: stop it, or give this one its own data folder"
    )]
    InUse {
        /// The buffer's folder.
        path: PathBuf,
        /// Who has it.
        owner: String,
    },
    /// Written by another version of this program.
    #[error(
        "the buffer {path} has format {found}, this program knows {known}: run the version that wrote it until the buffer is empty, or move the folder away"
    )]
    Format {
        /// The buffer's folder.
        path: PathBuf,
        /// Its format.
        found: String,
        /// The one format known.
        known: u32,
    },
    /// The file system has no space left.
    #[error("no space left for the buffer {path}: free some, {need} bytes at least")]
    NoSpace {
        /// The buffer's folder.
        path: PathBuf,
        /// How much has to be free.
        need: u64,
    },
    /// Opening takes too long.
    #[error("the buffer {path} did not open within {limit:?}")]
    Slow {
        /// The buffer's folder.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// A file operation failed.
    #[error("cannot {act} {path}: {reason}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The stored data is damaged.
    #[error("the buffer {path} is damaged: {reason}; it is set aside at the next start")]
    Damaged {
        /// The buffer's folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A write failed; what is on the disk now is only known after a restart.
    #[error("the buffer failed and takes nothing until the process restarts: {0}")]
    Failed(String),
}

impl BufferError {
    pub(crate) fn io(act: &'static str, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::Io {
            act,
            path: path.into(),
            reason: error.to_string(),
        }
    }
}

/// A stream's number within the store.
pub(crate) type StreamId = u32;

/// Larger values would lie in files that sled never makes durable.
pub(crate) const MAX_NOTE_BYTES: usize = sled_store::CHUNK_BYTES;

/// A key and its value.
pub(crate) type Note = (Vec<u8>, Vec<u8>);

/// A frame as it lies in the store, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredFrame {
    /// Sequence it was stored under.
    pub first: u64,
    /// The encoded frame.
    pub bytes: Bytes,
}

/// Changes that take effect together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Changes {
    /// Frames to remove, with their encoded size. Applied before `put`.
    pub remove: Vec<(StreamId, u64, usize)>,
    /// Frames to store: stream, first sequence, encoded frame.
    pub put: Vec<(StreamId, u64, Bytes)>,
    /// Keys of notes to remove. Applied before `notes`.
    pub forget: Vec<Vec<u8>>,
    /// Notes to write; a note is no larger than [`MAX_NOTE_BYTES`].
    pub notes: Vec<Note>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.put.is_empty()
            && self.forget.is_empty()
            && self.notes.is_empty()
    }
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It survives a power cut.
    Durable,
    /// It becomes durable with a later commit; if it is lost, it is done again.
    Lazy,
}

/// A durable, ordered map of frames per stream. One thread commits, any may read.
pub(crate) trait FrameStore: Send + Sync {
    /// Applies all changes or none.
    ///
    /// # Errors
    /// [`BufferError`]; after one the store must not be used further.
    fn commit(&self, changes: &Changes, durability: Durability) -> Result<(), BufferError>;

    /// The frame with the highest first sequence at or below `seq`.
    ///
    /// # Errors
    /// [`BufferError`] if the store cannot be read.
    fn at_or_before(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError>;

    /// The frame with the lowest first sequence above `seq`.
    ///
    /// # Errors
    /// [`BufferError`] if the store cannot be read.
    fn after(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError>;

    /// All notes whose key starts with `prefix`, in order of their keys.
    ///
    /// # Errors
    /// [`BufferError`] if the store cannot be read.
    fn notes(&self, prefix: &[u8]) -> Result<Vec<Note>, BufferError>;

    /// Bytes on the disk.
    fn disk_bytes(&self) -> u64;

    /// Values that lie in files of their own, which are never made durable: 0, or a defect.
    fn blobs(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
