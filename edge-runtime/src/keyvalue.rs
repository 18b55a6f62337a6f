//! What handlers keep between calls: small values by key, durable before the
//! handler is told so, within a quota for each handler.
//!
//! ```text
//! get ──► memory (all values)
//! HTTP call, set ──► memory ──► buffer's writer: group commit ──► answer
//! batch, set ──► Stage (the batch alone sees it) ──► one commit with cursor and outputs ──► memory
//! ```
//!
//! A handler's values outlive its version and the process. They lie as notes
//! in the buffer, beside the cursors of processors and the records themselves,
//! because only one store can change all three together. A batch has its
//! handler's values to itself until it is committed or given up.

mod import;
mod memory;
mod notes;
mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::RwLock;

use crate::buffer::BufferError;
use crate::streams::{AppendError, Notes, Streams};

pub use stage::{Batch, Stage};

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 512;
/// Longest value in bytes.
const MAX_VALUE_BYTES: usize = 256 << 10;

/// Why a value cannot be kept or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// The key has a form that no key has.
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes and no NUL")]
    Key,
    /// The value is too long.
    #[error("the value has {0} bytes; one has {MAX_VALUE_BYTES} at most")]
    Value(usize),
    /// The handler's quota is used up.
    #[error(
        "the quota of {quota} bytes has no room for {wanted}: delete something, or raise allow.keyvalue in the deployment"
    )]
    Quota {
        /// The handler's quota in bytes.
        quota: u64,
        /// What its keys and values would have together.
        wanted: u64,
    },
    /// A value to be counted up holds something else.
    #[error("the value of {0:?} is no whole number in decimal digits")]
    NoNumber(String),
    /// The number has no room for more.
    #[error("the value of {0:?} would be larger than 2^64 - 1")]
    Overflow(String),
    /// The queue to the disk did not move; nothing has changed.
    #[error("the disk does not keep up: try again later")]
    Busy,
    /// The disk failed; what is on it now is only known after a restart.
    #[error("values cannot be kept until the runtime restarts: {0}")]
    Failed(String),
}

impl From<AppendError> for KeyValueError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::Busy,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// The values of all handlers. Cheap to clone.
#[derive(Clone)]
pub struct KeyValue(Arc<Shared>);

struct Shared {
    handlers: Mutex<BTreeMap<String, Values>>,
    /// The buffer that makes them durable; none keeps them in memory alone.
    streams: Option<Streams>,
}

/// Bucket and key.
type Place = (String, String);
/// Values to set or, with none, to delete.
type Changed = BTreeMap<Place, Option<Bytes>>;

/// A handler's values.
#[derive(Default)]
struct Values {
    entries: BTreeMap<Place, Bytes>,
    /// Bytes of all keys and values.
    bytes: u64,
    /// Shared by single writes, whole for a batch.
    turn: Arc<RwLock<()>>,
}

/// A page of keys, and where the next one begins if there is more.
pub type Page = (Vec<String>, Option<u64>);

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValue")
    }
}

impl KeyValue {
    /// The values that lie in the buffer of `streams`; blocks. What an older
    /// version has left in the folder `old` moves there first, once.
    ///
    /// # Errors
    /// [`BufferError`] if the disk cannot be used, or the old folder not be read.
    pub fn open(streams: Streams, old: &Path) -> Result<Self, BufferError> {
        import::once(&streams, old)?;
        let mut handlers: BTreeMap<String, Values> = BTreeMap::new();
        for (handler, place, value) in notes::load(&streams)? {
            let values = handlers.entry(handler).or_default();
            values.bytes += size(&place, &value);
            values.entries.insert(place, value);
        }
        Ok(Self(Arc::new(Shared {
            handlers: Mutex::new(handlers),
            streams: Some(streams),
        })))
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`]
    pub fn get(
        &self,
        handler: &str,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Bytes>, KeyValueError> {
        self.check()?;
        let handlers = self.lock();
        let place = (bucket.to_owned(), key.to_owned());
        Ok(handlers
            .get(handler)
            .and_then(|values| values.entries.get(&place).cloned()))
    }

    /// The keys of a bucket in order, from the `from`th on.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`]
    pub fn keys(
        &self,
        handler: &str,
        bucket: &str,
        from: u64,
        limit: usize,
    ) -> Result<Page, KeyValueError> {
        self.check()?;
        let handlers = self.lock();
        let Some(values) = handlers.get(handler) else {
            return Ok((Vec::new(), None));
        };
        Ok(page(values.keys(bucket), from, limit))
    }

    /// Sets or, with none, deletes values, all of them or none; answers once
    /// they are durable.
    ///
    /// # Errors
    /// [`KeyValueError`]; nothing has changed then, but for a disk that failed.
    pub async fn write(
        &self,
        handler: &str,
        quota: u64,
        bucket: &str,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), KeyValueError> {
        let changed = changed(bucket, changes)?;
        let cost = changed.iter().map(|(place, value)| bytes(place, value));
        let Some(streams) = &self.0.streams else {
            self.change(&mut self.lock(), handler, quota, changed)?;
            return Ok(());
        };
        let queued = streams.place(cost.sum()).await?;
        let turn = self.turn(handler);
        let _single = turn.read().await;
        let durable = {
            let mut handlers = self.lock();
            let notes = self.change(&mut handlers, handler, quota, changed)?;
            streams.write_notes(notes, queued)
        };
        Ok(durable.await.unwrap_or(Err(AppendError::Closed))?)
    }

    /// Adds `delta` to the number under `key`, in decimal digits, 0 if there is none.
    ///
    /// # Errors
    /// [`KeyValueError`]; nothing has changed then, but for a disk that failed.
    pub async fn increment(
        &self,
        handler: &str,
        quota: u64,
        bucket: &str,
        key: String,
        delta: u64,
    ) -> Result<u64, KeyValueError> {
        let queued = match &self.0.streams {
            Some(streams) => Some((streams, streams.place(key.len()).await?)),
            None => None,
        };
        let turn = self.turn(handler);
        let _single = turn.read().await;
        let (sum, durable) = {
            let mut handlers = self.lock();
            let place = (bucket.to_owned(), key);
            let value = handlers
                .get(handler)
                .and_then(|values| values.entries.get(&place));
            let sum = add(&place.1, value, delta)?;
            let changed = changed(bucket, vec![(place.1, Some(sum.to_string().into()))])?;
            let notes = self.change(&mut handlers, handler, quota, changed)?;
            let durable = queued.map(|(streams, queued)| streams.write_notes(notes, queued));
            (sum, durable)
        };
        if let Some(durable) = durable {
            durable.await.unwrap_or(Err(AppendError::Closed))?;
        }
        Ok(sum)
    }

    /// Begins a batch of `handler` once no other has its values.
    ///
    /// # Errors
    /// [`KeyValueError::Failed`]
    pub(crate) async fn batch(&self, handler: &str) -> Result<Batch, KeyValueError> {
        self.check()?;
        let turn = self.turn(handler).write_owned().await;
        Ok(Batch::new(self.clone(), handler, turn))
    }

    /// The order in memory is the order in which the writer gets it, because
    /// both happen under the lock.
    fn change(
        &self,
        handlers: &mut BTreeMap<String, Values>,
        handler: &str,
        quota: u64,
        changed: Changed,
    ) -> Result<Notes, KeyValueError> {
        self.check()?;
        let values = handlers.entry(handler.to_owned()).or_default();
        within(quota, values.bytes, &changed, |place| {
            let old = values.entries.get(place);
            old.map_or(0, |old| size(place, old))
        })?;
        let notes = values.notes(handler, &changed);
        values.apply(changed);
        Ok(notes)
    }

    fn turn(&self, handler: &str) -> Arc<RwLock<()>> {
        let mut handlers = self.lock();
        let values = handlers.entry(handler.to_owned()).or_default();
        Arc::clone(&values.turn)
    }

    fn check(&self) -> Result<(), KeyValueError> {
        match self.0.streams.as_ref().and_then(Streams::failed) {
            Some(reason) => Err(KeyValueError::Failed(reason)),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Values>> {
        self.0
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Values {
    fn keys<'a>(&'a self, bucket: &'a str) -> impl Iterator<Item = &'a String> {
        let first = (bucket.to_owned(), String::new());
        self.entries
            .range(first..)
            .map(|((own, key), _)| (own, key))
            .take_while(move |(own, _)| *own == bucket)
            .map(|(_, key)| key)
    }

    fn notes(&self, handler: &str, changed: &Changed) -> Notes {
        let mut notes = Notes::new();
        for (place, value) in changed {
            let old = self.entries.get(place).map_or(0, Bytes::len);
            notes::put(&mut notes, handler, place, old, value.as_deref());
        }
        notes
    }

    fn apply(&mut self, changed: Changed) {
        for (place, value) in changed {
            let old = match value {
                Some(value) => {
                    self.bytes += size(&place, &value);
                    self.entries.insert(place.clone(), value)
                }
                None => self.entries.remove(&place),
            };
            self.bytes -= old.map_or(0, |old| size(&place, &old));
        }
    }
}

fn size((_, key): &Place, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

fn bytes((_, key): &Place, value: &Option<Bytes>) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Bytes of all keys and values after `changed`, if the quota, or what there was `before`, has
/// room for them; `old` is what lies in a place now.
fn within(
    quota: u64,
    before: u64,
    changed: &Changed,
    old: impl Fn(&Place) -> u64,
) -> Result<u64, KeyValueError> {
    let mut wanted = before;
    for (place, value) in changed {
        wanted -= old(place);
        wanted += value.as_ref().map_or(0, |new| size(place, new));
    }
    if wanted > quota && wanted > before {
        return Err(KeyValueError::Quota { quota, wanted });
    }
    Ok(wanted)
}

fn page<'a>(keys: impl Iterator<Item = &'a String>, from: u64, limit: usize) -> Page {
    let skipped = usize::try_from(from).unwrap_or(usize::MAX);
    let mut keys: Vec<_> = keys
        .skip(skipped)
        .take(limit.saturating_add(1))
        .cloned()
        .collect();
    let more = keys.len() > limit;
    keys.truncate(limit);
    (keys, more.then(|| from + limit as u64))
}

fn add(key: &str, value: Option<&Bytes>, delta: u64) -> Result<u64, KeyValueError> {
    let number = value.map_or(Some(0), |value| {
        std::str::from_utf8(value).ok()?.parse::<u64>().ok()
    });
    number
        .ok_or_else(|| KeyValueError::NoNumber(key.to_owned()))?
        .checked_add(delta)
        .ok_or_else(|| KeyValueError::Overflow(key.to_owned()))
}

fn changed(bucket: &str, changes: Vec<(String, Option<Bytes>)>) -> Result<Changed, KeyValueError> {
    let mut changed = Changed::new();
    for (key, value) in changes {
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) || key.contains('\0') {
            return Err(KeyValueError::Key);
        }
        if let Some(value) = &value
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(KeyValueError::Value(value.len()));
        }
        changed.insert((bucket.to_owned(), key), value);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
