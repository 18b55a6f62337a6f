//! What is noted in the same commit as records, so that it is true if and only
//! if they are there: the keys of requests that may be sent again, and how far
//! a source has read.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Appended, Notes};
use crate::buffer::{BufferError, FrameStore};

/// Keys that are remembered for each stream; a new one takes the place of the oldest.
pub(super) const KEYS: u64 = 1_024;

const KEY_NOTES: &[u8] = b"key/";
const POSITION_NOTES: &[u8] = b"position/";

/// What is noted beside records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The key of a request and the digest of what it brought: the same again stores nothing.
    Key { key: String, digest: String },
    /// How far a source has read.
    Position { source: String, position: Vec<u8> },
}

/// What was stored under a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// The how-manieth key of its stream.
    n: u64,
    key: String,
    digest: String,
    first: u64,
    last: u64,
}

#[derive(Debug, Default)]
struct OfStream {
    by_key: HashMap<String, Entry>,
    order: VecDeque<String>,
    next: u64,
}

/// The keys that are remembered, by stream.
#[derive(Debug, Default)]
pub(super) struct Keys {
    streams: HashMap<String, OfStream>,
}

/// What is known of a key.
pub(super) enum Known {
    /// Nothing.
    New,
    /// The same request was stored: first and last sequence.
    Same(u64, u64),
    /// Something else was stored under it.
    Other,
}

impl Keys {
    /// Reads what is noted; a note that cannot be read is forgotten, as an old one would be.
    pub(super) fn load(store: &dyn FrameStore) -> Result<Self, BufferError> {
        let mut entries: Vec<(String, Entry)> = Vec::new();
        for (key, value) in store.notes(KEY_NOTES)? {
            let stream = std::str::from_utf8(&key[KEY_NOTES.len()..]).ok();
            let stream = stream.and_then(|rest| Some(rest.rsplit_once('/')?.0.to_owned()));
            match (stream, serde_json::from_slice(&value)) {
                (Some(stream), Ok(entry)) => entries.push((stream, entry)),
                _ => tracing::warn!("the note of a request's key cannot be read"),
            }
        }
        entries.sort_by_key(|(_, entry)| entry.n);
        let mut keys = Self::default();
        for (stream, entry) in entries {
            let of = keys.streams.entry(stream).or_default();
            of.next = entry.n + 1;
            of.order.push_back(entry.key.clone());
            of.by_key.insert(entry.key.clone(), entry);
        }
        Ok(keys)
    }

    /// What is known of the request that brings `mark`.
    pub(super) fn look_up(&self, stream: &str, mark: Option<&Mark>) -> Known {
        let Some(Mark::Key { key, digest }) = mark else {
            return Known::New;
        };
        match self.streams.get(stream).and_then(|of| of.by_key.get(key)) {
            None => Known::New,
            Some(entry) if entry.digest == *digest => Known::Same(entry.first, entry.last),
            Some(_) => Known::Other,
        }
    }

    /// Remembers a key; the note has to be part of the records' commit.
    pub(super) fn remember(
        &mut self,
        stream: &str,
        key: String,
        digest: String,
        appended: Appended,
    ) -> Notes {
        let of = self.streams.entry(stream.to_owned()).or_default();
        while of.order.len() as u64 >= KEYS {
            if let Some(oldest) = of.order.pop_front() {
                of.by_key.remove(&oldest);
            }
        }
        let entry = Entry {
            n: of.next,
            key: key.clone(),
            digest,
            first: appended.first_seq,
            last: appended.last_seq,
        };
        of.next += 1;
        let value = serde_json::to_vec(&entry).expect("an entry has only string keys");
        let slot = (entry.n % KEYS).to_string();
        of.order.push_back(key.clone());
        of.by_key.insert(key, entry);
        let name = [KEY_NOTES, stream.as_bytes(), b"/", slot.as_bytes()].concat();
        Notes::from([(name, Some(value))])
    }
}

/// The note of how far `source` has read.
pub(super) fn position_note(source: &str, position: Vec<u8>) -> Notes {
    let name = [POSITION_NOTES, source.as_bytes()].concat();
    Notes::from([(name, Some(position))])
}

/// How far `source` has read, as it was noted last.
pub(super) fn position(
    store: &dyn FrameStore,
    source: &str,
) -> Result<Option<Vec<u8>>, BufferError> {
    let name = [POSITION_NOTES, source.as_bytes()].concat();
    let notes = store.notes(&name)?;
    Ok(notes.into_iter().find(|(key, _)| *key == name).map(|n| n.1))
}
