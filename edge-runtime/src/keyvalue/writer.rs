//! The one thread that writes values to the disk.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{KeyValueError, MAX_NOTE_BYTES};
use crate::buffer::{BufferError, Changes, Durability, FrameStore};

/// Commits that are put together at most.
const MAX_GROUP: usize = 256;

/// Ends well once a change is durable.
pub(super) type Durable = oneshot::Receiver<()>;

/// A value's place: its handler, then bucket and key.
type Loaded = (String, (String, String), Bytes);

/// Notes to write or, with none, to remove.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Pieces {
    /// Replaces a value of `old_bytes` by `value`.
    pub(super) fn put(
        &mut self,
        handler: &str,
        place: &(String, String),
        old_bytes: usize,
        value: Option<&[u8]>,
    ) {
        let new = value.map_or(0, |value| chunks(value.len()));
        for chunk in new..chunks(old_bytes) {
            self.0.insert(note_key(handler, place, chunk), None);
        }
        let Some(value) = value else { return };
        for chunk in 0..new {
            let start = usize::from(chunk) * MAX_NOTE_BYTES;
            let end = value.len().min(start + MAX_NOTE_BYTES);
            let piece = value[start..end].to_vec();
            self.0.insert(note_key(handler, place, chunk), Some(piece));
        }
    }

    fn into_changes(self) -> Changes {
        let mut changes = Changes::default();
        for (key, piece) in self.0 {
            match piece {
                Some(piece) => changes.notes.push((key, piece)),
                None => changes.forget.push(key),
            }
        }
        changes
    }
}

/// An empty value has one piece too, so that it is there.
fn chunks(bytes: usize) -> u16 {
    let chunks = bytes.div_ceil(MAX_NOTE_BYTES).max(1);
    u16::try_from(chunks).unwrap_or(u16::MAX)
}

fn note_key(handler: &str, (bucket, key): &(String, String), chunk: u16) -> Vec<u8> {
    let mut note = Vec::with_capacity(handler.len() + bucket.len() + key.len() + 5);
    for part in [handler, bucket, key] {
        note.extend_from_slice(part.as_bytes());
        note.push(0);
    }
    note.extend_from_slice(&chunk.to_be_bytes());
    note
}

/// All values; the pieces of a value come one after the other.
pub(super) fn load(store: &dyn FrameStore) -> Result<Vec<Loaded>, BufferError> {
    let mut loaded: Vec<(String, (String, String), BytesMut)> = Vec::new();
    for (note, piece) in store.notes(b"")? {
        let Some((handler, place)) = parse(&note) else {
            continue;
        };
        match loaded.last_mut() {
            Some((h, p, value)) if *h == handler && *p == place => value.extend_from_slice(&piece),
            _ => loaded.push((handler, place, BytesMut::from(&piece[..]))),
        }
    }
    let frozen = loaded
        .into_iter()
        .map(|(h, p, value)| (h, p, value.freeze()));
    Ok(frozen.collect())
}

/// None for the store's own notes, which have no NUL at the third place from the end.
fn parse(note: &[u8]) -> Option<(String, (String, String))> {
    let named = note
        .get(..note.len().checked_sub(2)?)?
        .strip_suffix(b"\0")?;
    let mut parts = std::str::from_utf8(named)
        .ok()?
        .splitn(3, '\0')
        .map(str::to_owned);
    Some((parts.next()?, (parts.next()?, parts.next()?)))
}

pub(super) struct Writer {
    queue: Sender<(Pieces, oneshot::Sender<()>)>,
    failed: Arc<OnceLock<String>>,
}

impl Writer {
    pub(super) fn start(store: Arc<dyn FrameStore>) -> Self {
        let (queue, waiting) = mpsc::channel();
        let failed = Arc::new(OnceLock::new());
        let failure = Arc::clone(&failed);
        let spawned = thread::Builder::new()
            .name("keyvalue".to_owned())
            .spawn(move || work(store.as_ref(), &waiting, &failure));
        if let Err(error) = spawned {
            let _ = failed.set(format!("its thread cannot be started: {error}"));
        }
        Self { queue, failed }
    }

    /// # Errors
    /// [`KeyValueError::Failed`] if a write failed before.
    pub(super) fn check(&self) -> Result<(), KeyValueError> {
        match self.failed.get() {
            Some(reason) => Err(KeyValueError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn failure(&self) -> KeyValueError {
        let reason = self.failed.get().cloned();
        KeyValueError::Failed(reason.unwrap_or_else(|| "the writer has ended".to_owned()))
    }

    pub(super) fn send(&self, pieces: Pieces) -> Durable {
        let (done, durable) = oneshot::channel();
        // If the thread is gone, so is `done`, and the wait ends with an error.
        let _ = self.queue.send((pieces, done));
        durable
    }
}

fn work(
    store: &dyn FrameStore,
    waiting: &Receiver<(Pieces, oneshot::Sender<()>)>,
    failed: &OnceLock<String>,
) {
    while let Ok((mut pieces, done)) = waiting.recv() {
        let mut group = vec![done];
        for (more, done) in waiting.try_iter().take(MAX_GROUP) {
            pieces.0.extend(more.0);
            group.push(done);
        }
        if let Err(error) = store.commit(&pieces.into_changes(), Durability::Durable) {
            tracing::error!("handlers' values cannot be kept any more: {error}");
            let _ = failed.set(error.to_string());
            return;
        }
        for done in group {
            let _ = done.send(());
        }
    }
}
