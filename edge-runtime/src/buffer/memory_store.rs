use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{BufferError, Changes, Durability, FrameStore, Note, StoredFrame, StreamId};

/// The model that the real store is compared with.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: BTreeMap<(StreamId, u64), bytes::Bytes>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl FrameStore for MemoryStore {
    fn commit(&self, changes: &Changes, _: Durability) -> Result<(), BufferError> {
        let mut inner = self.inner.lock().unwrap();
        for (stream, first, _) in &changes.remove {
            inner.frames.remove(&(*stream, *first));
        }
        for (stream, first, frame) in &changes.put {
            inner.frames.insert((*stream, *first), frame.clone());
        }
        for key in &changes.forget {
            inner.notes.remove(key);
        }
        inner.notes.extend(changes.notes.iter().cloned());
        Ok(())
    }

    fn at_or_before(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        let inner = self.inner.lock().unwrap();
        let found = inner.frames.range((stream, 0)..=(stream, seq)).next_back();
        Ok(found.map(|(&(_, first), bytes)| StoredFrame {
            first,
            bytes: bytes.clone(),
        }))
    }

    fn after(&self, stream: StreamId, seq: u64) -> Result<Option<StoredFrame>, BufferError> {
        let inner = self.inner.lock().unwrap();
        let found = inner
            .frames
            .range((stream, seq.saturating_add(1))..=(stream, u64::MAX))
            .next();
        Ok(found.map(|(&(_, first), bytes)| StoredFrame {
            first,
            bytes: bytes.clone(),
        }))
    }

    fn notes(&self, prefix: &[u8]) -> Result<Vec<Note>, BufferError> {
        let inner = self.inner.lock().unwrap();
        Ok(inner
            .notes
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
