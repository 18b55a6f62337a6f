//! The only file that knows sled. Its rules, each learnt from lost data:
//!
//! - sled's flush is no fsync on Linux: `db` is fdatasynced after each flush.
//! - `conf`, `db`, `blobs/` and the folders are fsynced once after opening.
//! - a value beyond a page becomes a file in `blobs/` that is never synced, so
//!   no value is larger than [`CHUNK_BYTES`] and larger frames are cut in
//!   chunks, all within one atomic batch.
//! - one tree, so that one batch is enough; point reads only; no iteration over
//!   frames, which would draw the backlog into memory.
//! - it panics on damage: calls run under `catch_unwind`.
//! - a failed write is final for this process.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use super::{
    BufferConfig, BufferError, Changes, Durability, FrameStore, Note, StoredFrame, StreamId,
};

const SEGMENT_BYTES: usize = 512 * 1024;
/// The largest value: with 16 values in a page, far below sled's limit of a
/// quarter of a segment for a page.
pub(super) const CHUNK_BYTES: usize = 6_016;
const FRAME: u8 = b'f';
const NOTE: u8 = b'n';

pub(super) struct SledStore {
    /// Taken only when this is dropped.
    db: Option<sled::Db>,
    data: File,
    path: PathBuf,
    /// Whether a damaged database is set aside at the next start.
    marks: bool,
    failed: OnceLock<String>,
}

/// How opening failed, as far as it matters for what to do next.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Locked,
    NoSpace,
    Damaged(String),
    Io(std::io::Error),
}

impl SledStore {
    /// Opens or creates the database in `path`; panics inside are caught by the caller.
    pub(super) fn open(path: &Path, config: &BufferConfig) -> Result<Self, OpenFailure> {
        remove_unfinished_snapshots(path).map_err(OpenFailure::Io)?;
        let db = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(config.cache_bytes)
            .flush_every_ms(Some(1_000))
            .mode(sled::Mode::HighThroughput)
            .use_compression(false)
            .open()
            .map_err(open_failure)?;
        db.flush().map_err(open_failure)?;
        let data = sync_files(path).map_err(OpenFailure::Io)?;
        Ok(Self {
            db: Some(db),
            data,
            path: path.to_owned(),
            marks: true,
            failed: OnceLock::new(),
        })
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("it is there until this is dropped")
    }

    /// The same store for people who look into it: damage has no consequences.
    pub(super) fn without_marks(mut self) -> Self {
        self.marks = false;
        self
    }

    /// Copies everything into `other` and makes it durable there.
    pub(super) fn copy_to(&self, other: &Self) -> Result<(), BufferError> {
        let (mut batch, mut bytes) = (sled::Batch::default(), 0);
        let mut entries = self.db().iter();
        loop {
            let entry = self.guarded(|| entries.next().transpose().map_err(text))?;
            if let Some((key, value)) = &entry {
                bytes += key.len() + value.len();
                batch.insert(key, value);
            }
            if bytes >= SEGMENT_BYTES || entry.is_none() {
                let full = std::mem::take(&mut batch);
                bytes = 0;
                other.guarded(|| {
                    other.db().apply_batch(full).map_err(text)?;
                    other.db().flush().map_err(text)?;
                    other.data.sync_data().map_err(text)
                })?;
            }
            if entry.is_none() {
                return Ok(());
            }
        }
    }

    /// Runs a call into sled; a panic or an error makes the store unusable.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, String>) -> Result<T, BufferError> {
        if let Some(reason) = self.failed.get() {
            return Err(BufferError::Failed(reason.clone()));
        }
        let reason = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(panic) => {
                let reason = panic_text(panic.as_ref());
                if self.marks {
                    super::open::mark_for_quarantine(&self.path, &reason);
                }
                reason
            }
        };
        let reason = self.failed.get_or_init(|| reason);
        Err(BufferError::Failed(reason.clone()))
    }

    fn read_frame(
        &self,
        stream: StreamId,
        first: u64,
        chunk_0: Option<sled::IVec>,
    ) -> Result<StoredFrame, String> {
        let chunk_0 = match chunk_0 {
            Some(chunk) => Some(chunk),
            None => self.db().get(frame_key(stream, first, 0)).map_err(text)?,
        };
        let Some(chunk_0) = chunk_0 else {
            let bytes = Bytes::new();
            return Ok(StoredFrame { first, bytes });
        };
        let mut chunks = vec![chunk_0];
        while chunks
            .last()
            .is_some_and(|chunk| chunk.len() == CHUNK_BYTES)
        {
            let Ok(next) = u16::try_from(chunks.len()) else {
                break;
            };
            let key = frame_key(stream, first, next);
            match self.db().get(key).map_err(text)? {
                Some(chunk) => chunks.push(chunk),
                None => break,
            }
        }
        let mut bytes = BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.len()).sum());
        for chunk in &chunks {
            bytes.extend_from_slice(chunk);
        }
        let bytes = bytes.freeze();
        Ok(StoredFrame { first, bytes })
    }
}

impl FrameStore for SledStore {
    fn commit(&self, changes: &Changes, durability: Durability) -> Result<(), BufferError> {
        self.guarded(|| {
            let mut batch = sled::Batch::default();
            for &(stream, first, frame_bytes) in &changes.remove {
                for chunk in 0..chunk_count(frame_bytes) {
                    batch.remove(&frame_key(stream, first, chunk)[..]);
                }
            }
            for (stream, first, frame) in &changes.put {
                let mut chunk = 0u16;
                let mut rest = &frame[..];
                loop {
                    let (piece, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
                    batch.insert(&frame_key(*stream, *first, chunk)[..], piece);
                    if piece.len() < CHUNK_BYTES {
                        break;
                    }
                    rest = after;
                    chunk += 1;
                }
            }
            for key in &changes.forget {
                batch.remove(note_key(key));
            }
            for (key, value) in &changes.notes {
                batch.insert(note_key(key), &value[..]);
            }
            self.db().apply_batch(batch).map_err(text)?;
            if durability == Durability::Durable {
                self.db().flush().map_err(text)?;
                self.data.sync_data().map_err(text)?;
            }
            Ok(())
        })
    }

    fn at_or_before(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        self.guarded(|| {
            // Who reads in order asks for a frame's first sequence, at the price of one lookup.
            let chunk_0 = self.db().get(frame_key(stream, seq, 0)).map_err(text)?;
            if chunk_0.is_some() {
                return self.read_frame(stream, seq, chunk_0).map(Some);
            }
            let bound = frame_key(stream, seq, u16::MAX);
            let Some((key, value)) = self.db().get_lt(bound).map_err(text)? else {
                return Ok(None);
            };
            let Some((found, first, chunk)) = parse_frame_key(&key) else {
                return Ok(None);
            };
            if found != stream {
                return Ok(None);
            }
            let chunk_0 = (chunk == 0).then_some(value);
            self.read_frame(stream, first, chunk_0).map(Some)
        })
    }

    fn after(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        self.guarded(|| {
            let bound = frame_key(stream, seq, u16::MAX);
            let Some((key, value)) = self.db().get_gt(bound).map_err(text)? else {
                return Ok(None);
            };
            let Some((found, first, chunk)) = parse_frame_key(&key) else {
                return Ok(None);
            };
            if found != stream {
                return Ok(None);
            }
            let chunk_0 = (chunk == 0).then_some(value);
            self.read_frame(stream, first, chunk_0).map(Some)
        })
    }

    fn notes(&self, prefix: &[u8]) -> Result<Vec<Note>, BufferError> {
        self.guarded(|| {
            self.db()
                .scan_prefix(note_key(prefix))
                .map(|entry| {
                    let (key, value) = entry.map_err(text)?;
                    Ok((key[1..].to_vec(), value.to_vec()))
                })
                .collect()
        })
    }

    fn disk_bytes(&self) -> u64 {
        self.data.metadata().map_or(0, |data| data.len())
    }

    fn blobs(&self) -> u64 {
        std::fs::read_dir(self.path.join("blobs")).map_or(0, |blobs| blobs.count() as u64)
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let flush = catch_unwind(AssertUnwindSafe(|| self.db().flush()));
        let flushed = flush.is_ok_and(|flush| flush.is_ok()) && self.data.sync_data().is_ok();
        let db = self.db.take();
        if !flushed {
            // The last handle's own drop writes again, and panics where that fails. With one
            // that is never dropped the lock is held until the process ends, as it has to now.
            std::mem::forget(db);
            return;
        }
        // It syncs once more, and panics where that fails; everything is on the disk already.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(db))) {
            tracing::warn!(
                reason = panic_text(panic.as_ref()),
                "the buffer did not close well"
            );
        }
    }
}

fn chunk_count(frame_bytes: usize) -> u16 {
    u16::try_from(frame_bytes / CHUNK_BYTES + 1).unwrap_or(u16::MAX)
}

fn frame_key(stream: StreamId, first: u64, chunk: u16) -> [u8; 15] {
    let mut key = [0; 15];
    key[0] = FRAME;
    key[1..5].copy_from_slice(&stream.to_be_bytes());
    key[5..13].copy_from_slice(&first.to_be_bytes());
    key[13..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_frame_key(key: &[u8]) -> Option<(StreamId, u64, u16)> {
    let key: &[u8; 15] = key.try_into().ok()?;
    (key[0] == FRAME).then(|| {
        (
            u32::from_be_bytes([key[1], key[2], key[3], key[4]]),
            u64::from_be_bytes([
                key[5], key[6], key[7], key[8], key[9], key[10], key[11], key[12],
            ]),
            u16::from_be_bytes([key[13], key[14]]),
        )
    })
}

fn note_key(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(NOTE);
    full.extend_from_slice(key);
    full
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "the storage engine panicked".to_owned())
}

fn open_failure(error: sled::Error) -> OpenFailure {
    match error {
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            OpenFailure::Locked
        }
        // sled rebuilds errors from text, so that the kind alone is not reliable.
        sled::Error::Io(error)
            if error.kind() == std::io::ErrorKind::StorageFull
                || error.to_string().contains("No space left") =>
        {
            OpenFailure::NoSpace
        }
        sled::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::Other => OpenFailure::Damaged(error.to_string()),
            _ => OpenFailure::Io(error),
        },
        other => OpenFailure::Damaged(other.to_string()),
    }
}

/// A crash while a snapshot is written leaves a file that makes opening fail.
fn remove_unfinished_snapshots(path: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes the files themselves durable, which sled does not; returns `db` for later syncs.
fn sync_files(path: &Path) -> std::io::Result<File> {
    let data = File::open(path.join("db"))?;
    data.sync_all()?;
    for file in [path.join("conf"), path.join("blobs"), path.to_owned()] {
        File::open(file)?.sync_all()?;
    }
    for folder in path.ancestors().skip(1).take(2) {
        if !folder.as_os_str().is_empty() {
            File::open(folder)?.sync_all()?;
        }
    }
    Ok(data)
}
