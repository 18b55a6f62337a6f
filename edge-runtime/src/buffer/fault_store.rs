//! The store in memory, with the faults of a disk on demand: the model that the
//! real store is compared with, and what the property tests of the streams run on.
//!
//! ```text
//! commit ─► pending (seen, lost by a crash) ─ a durable commit, write-back ─► durable
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::{BufferError, Changes, Durability, FrameStore, Note, StoredFrame, StreamId};

#[derive(Debug, Default)]
pub(crate) struct FaultStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What survives a crash.
    durable: Content,
    /// Commits that a crash may lose, the last ones first.
    pending: VecDeque<Changes>,
    /// What readers see.
    seen: Content,
    /// Commits until one fails.
    fail_in: Option<(u64, Outcome)>,
    /// Reads until one fails.
    fail_read_in: Option<u64>,
    /// Nothing works until it is opened again.
    dead: bool,
}

/// What has become of a commit that reported a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing of it is on the disk.
    Lost,
    /// All of it is.
    Stored,
}

#[derive(Debug, Default, Clone)]
struct Content {
    frames: BTreeMap<(StreamId, u64), Bytes>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Content {
    fn apply(&mut self, changes: &Changes) {
        for (stream, first, _) in &changes.remove {
            self.frames.remove(&(*stream, *first));
        }
        for (stream, first, frame) in &changes.put {
            self.frames.insert((*stream, *first), frame.clone());
        }
        for key in &changes.forget {
            self.notes.remove(key);
        }
        self.notes.extend(changes.notes.iter().cloned());
    }
}

impl Inner {
    fn write_back(&mut self, commits: usize) {
        for changes in self.pending.drain(..commits.min(self.pending.len())) {
            self.durable.apply(&changes);
        }
    }

    fn read(&mut self) -> Result<(), BufferError> {
        match &mut self.fail_read_in {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive()
    }

    fn alive(&self) -> Result<(), BufferError> {
        if self.dead {
            return Err(BufferError::Failed("the disk is gone".to_owned()));
        }
        Ok(())
    }
}

impl FaultStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Nothing works any more, as for a process that was killed.
    pub(crate) fn kill(&self) {
        self.lock().dead = true;
    }

    /// The machine starts again: of what was not durable, the first `kept` commits are there.
    pub(crate) fn crash(&self, kept: usize) {
        let mut inner = self.lock();
        inner.write_back(kept);
        inner.pending.clear();
        inner.seen = inner.durable.clone();
        inner.fail_in = None;
        inner.fail_read_in = None;
        inner.dead = false;
    }

    /// The system writes the first `commits` pending ones by itself.
    pub(crate) fn write_back(&self, commits: usize) {
        self.lock().write_back(commits);
    }

    pub(crate) fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// The commit after `commits` others reports a failure.
    pub(crate) fn fail_commit_in(&self, commits: u64, outcome: Outcome) {
        self.lock().fail_in = Some((commits, outcome));
    }

    /// The read after `reads` others reports a failure.
    pub(crate) fn fail_read_in(&self, reads: u64) {
        self.lock().fail_read_in = Some(reads);
    }

    /// All frames with their sizes.
    pub(crate) fn frames(&self) -> Vec<(StreamId, u64, usize)> {
        let inner = self.lock();
        let frames = inner.seen.frames.iter();
        frames
            .map(|(&(stream, first), bytes)| (stream, first, bytes.len()))
            .collect()
    }

    /// Flips a bit of a stored frame.
    pub(crate) fn corrupt(&self, stream: StreamId, first: u64, bit: usize) {
        let mut inner = self.lock();
        let Inner { durable, seen, .. } = &mut *inner;
        for content in [durable, seen] {
            if let Some(frame) = content.frames.get_mut(&(stream, first)) {
                let mut bytes = frame.to_vec();
                let at = bit / 8 % bytes.len();
                bytes[at] ^= 1 << (bit % 8);
                *frame = bytes.into();
            }
        }
    }

    /// Takes a stored frame away.
    pub(crate) fn lose(&self, stream: StreamId, first: u64) {
        let mut inner = self.lock();
        inner.durable.frames.remove(&(stream, first));
        inner.seen.frames.remove(&(stream, first));
    }
}

impl FrameStore for FaultStore {
    fn commit(&self, changes: &Changes, durability: Durability) -> Result<(), BufferError> {
        let mut inner = self.lock();
        inner.alive()?;
        let fails = match &mut inner.fail_in {
            Some((0, outcome)) => Some(*outcome),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if let Some(outcome) = fails {
            inner.dead = true;
            if outcome == Outcome::Stored {
                inner.write_back(usize::MAX);
                inner.durable.apply(changes);
            }
            return Err(BufferError::Failed("the disk refused a write".to_owned()));
        }
        inner.seen.apply(changes);
        inner.pending.push_back(changes.clone());
        if durability == Durability::Durable {
            inner.write_back(usize::MAX);
        }
        Ok(())
    }

    fn at_or_before(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        let mut inner = self.lock();
        inner.read()?;
        let range = (stream, 0)..=(stream, seq);
        let found = inner.seen.frames.range(range).next_back();
        Ok(found.map(|(&(_, first), bytes)| StoredFrame {
            first,
            bytes: bytes.clone(),
        }))
    }

    fn after(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        let mut inner = self.lock();
        inner.read()?;
        let Some(above) = seq.checked_add(1) else {
            return Ok(None);
        };
        let range = (stream, above)..=(stream, u64::MAX);
        let found = inner.seen.frames.range(range).next();
        Ok(found.map(|(&(_, first), bytes)| StoredFrame {
            first,
            bytes: bytes.clone(),
        }))
    }

    fn notes(&self, prefix: &[u8]) -> Result<Vec<Note>, BufferError> {
        let inner = self.lock();
        inner.alive()?;
        let notes = inner.seen.notes.iter();
        Ok(notes
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn disk_bytes(&self) -> u64 {
        // As much as the real one usually takes.
        let frames = self.frames();
        3 * frames.iter().map(|(.., bytes)| *bytes as u64).sum::<u64>()
    }
}
