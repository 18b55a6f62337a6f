//! What handlers keep between calls: small values by key, durable before the
//! handler is told so, within a quota for each handler.
//!
//! ```text
//! get ──► memory (all values)
//! set ──► memory ──► writer thread: what has come meanwhile, in one durable commit ──► answer
//! ```
//!
//! A handler's values outlive its version and the process. They lie as notes in
//! a store of their own, `<dir>/sled`: `handler 0 bucket 0 key 0 chunk u16` → a
//! piece of the value.

mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::buffer::{self, BufferConfig, BufferError, MAX_NOTE_BYTES};
use writer::{Pieces, Writer};

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 512;
/// Longest value in bytes.
const MAX_VALUE_BYTES: usize = 256 << 10;
/// Page cache; all values are in memory anyway.
const CACHE_BYTES: u64 = 4 << 20;

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
    /// The disk failed; what is on it now is only known after a restart.
    #[error("values cannot be kept until the runtime restarts: {0}")]
    Failed(String),
}

/// The values of all handlers. Cheap to clone.
#[derive(Clone)]
pub struct KeyValue(Arc<Shared>);

struct Shared {
    handlers: Mutex<BTreeMap<String, Values>>,
    writer: Writer,
}

/// A handler's values.
#[derive(Default)]
struct Values {
    /// By bucket and key.
    entries: BTreeMap<(String, String), Bytes>,
    /// Bytes of all keys and values.
    bytes: u64,
}

/// A page of keys, and where the next one begins if there is more.
pub type Page = (Vec<String>, Option<u64>);

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValue")
    }
}

impl KeyValue {
    /// Opens or creates the store in `dir`; blocks. A damaged one is set aside.
    ///
    /// # Errors
    /// [`BufferError`] if it is in use, or the disk cannot be used.
    pub fn open(dir: &Path) -> Result<Self, BufferError> {
        let config = BufferConfig {
            cache_bytes: CACHE_BYTES,
            ballast_bytes: 0,
            ..BufferConfig::default()
        };
        let opened = buffer::open(dir, &config)?;
        if let Some((path, reason)) = &opened.quarantined {
            tracing::error!(path = %path.display(), reason, "handlers' values were damaged and set aside");
        }
        let mut handlers: BTreeMap<String, Values> = BTreeMap::new();
        for (handler, place, value) in writer::load(opened.store.as_ref())? {
            let values = handlers.entry(handler).or_default();
            values.bytes += size(&place, &value);
            values.entries.insert(place, value);
        }
        Ok(Self(Arc::new(Shared {
            handlers: Mutex::new(handlers),
            writer: Writer::start(opened.store),
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
        self.0.writer.check()?;
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
        self.0.writer.check()?;
        let handlers = self.lock();
        let Some(values) = handlers.get(handler) else {
            return Ok((Vec::new(), None));
        };
        let first = (bucket.to_owned(), String::new());
        let all = values
            .entries
            .range(first..)
            .map(|((own, key), _)| (own, key));
        let all = all
            .take_while(|(own, _)| *own == bucket)
            .map(|(_, key)| key);
        let skipped = usize::try_from(from).unwrap_or(usize::MAX);
        let mut keys: Vec<_> = all
            .skip(skipped)
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = keys.len() > limit;
        keys.truncate(limit);
        Ok((keys, more.then(|| from + limit as u64)))
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
        let durable = {
            let mut handlers = self.lock();
            self.change(&mut handlers, handler, quota, bucket, changes)?
        };
        durable.await.map_err(|_| self.0.writer.failure())
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
        let (sum, durable) = {
            let mut handlers = self.lock();
            let place = (bucket.to_owned(), key.clone());
            let value = handlers
                .get(handler)
                .and_then(|values| values.entries.get(&place));
            let number = value.map_or(Some(0), |value| {
                std::str::from_utf8(value).ok()?.parse().ok()
            });
            let number: u64 = number.ok_or_else(|| KeyValueError::NoNumber(key.clone()))?;
            let sum = number
                .checked_add(delta)
                .ok_or_else(|| KeyValueError::Overflow(key.clone()))?;
            let changes = vec![(key, Some(sum.to_string().into()))];
            (
                sum,
                self.change(&mut handlers, handler, quota, bucket, changes)?,
            )
        };
        durable.await.map_err(|_| self.0.writer.failure())?;
        Ok(sum)
    }

    /// The order in memory is the order in which the writer gets it, because
    /// both happen under the lock.
    fn change(
        &self,
        handlers: &mut BTreeMap<String, Values>,
        handler: &str,
        quota: u64,
        bucket: &str,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Result<writer::Durable, KeyValueError> {
        self.0.writer.check()?;
        let values = handlers.entry(handler.to_owned()).or_default();
        let mut wanted: BTreeMap<(String, String), Option<Bytes>> = BTreeMap::new();
        for (key, value) in changes {
            check(&key, value.as_deref())?;
            wanted.insert((bucket.to_owned(), key), value);
        }
        let mut bytes = values.bytes;
        for (place, value) in &wanted {
            bytes -= values.entries.get(place).map_or(0, |old| size(place, old));
            bytes += value.as_ref().map_or(0, |new| size(place, new));
        }
        if bytes > quota && bytes > values.bytes {
            return Err(KeyValueError::Quota {
                quota,
                wanted: bytes,
            });
        }
        let mut pieces = Pieces::default();
        for (place, value) in wanted {
            let old = values.entries.get(&place).map_or(0, Bytes::len);
            pieces.put(handler, &place, old, value.as_deref());
            match value {
                Some(value) => values.entries.insert(place, value),
                None => values.entries.remove(&place),
            };
        }
        values.bytes = bytes;
        Ok(self.0.writer.send(pieces))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Values>> {
        self.0
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn size((_, key): &(String, String), value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

fn check(key: &str, value: Option<&[u8]>) -> Result<(), KeyValueError> {
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) || key.contains('\0') {
        return Err(KeyValueError::Key);
    }
    match value {
        Some(value) if value.len() > MAX_VALUE_BYTES => Err(KeyValueError::Value(value.len())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
