//! A batch's changes to its handler's values, until they are committed with
//! its outputs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OwnedRwLockWriteGuard;

use super::{Changed, KeyValue, KeyValueError, Page, add, changed, page, size, within};
use crate::streams::Notes;

/// A batch that has its handler's values to itself for as long as this lives.
#[derive(Debug)]
pub struct Batch {
    stage: Arc<Stage>,
    _turn: OwnedRwLockWriteGuard<()>,
}

/// The values as the batch sees them: the durable ones under its own changes.
pub struct Stage {
    values: KeyValue,
    handler: String,
    own: Mutex<Own>,
}

/// What the batch has changed so far.
struct Own {
    changed: Changed,
    /// Bytes of all keys and values, as the batch sees them.
    bytes: u64,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stage({})", self.handler)
    }
}

impl Batch {
    pub(super) fn new(values: KeyValue, handler: &str, turn: OwnedRwLockWriteGuard<()>) -> Self {
        let bytes = values.lock().get(handler).map_or(0, |values| values.bytes);
        let stage = Stage {
            values,
            handler: handler.to_owned(),
            own: Mutex::new(Own {
                changed: Changed::new(),
                bytes,
            }),
        };
        Self {
            stage: Arc::new(stage),
            _turn: turn,
        }
    }

    /// What a call of this batch reads and writes.
    pub(crate) fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage)
    }

    /// What the commit of this batch has to write.
    pub(crate) fn notes(&self) -> Notes {
        let handlers = self.stage.values.lock();
        match handlers.get(&self.stage.handler) {
            Some(values) => values.notes(&self.stage.handler, &self.stage.own().changed),
            None => Notes::new(),
        }
    }

    /// Shows the changes to everybody, now that they are durable.
    pub(crate) fn committed(self) {
        let changed = std::mem::take(&mut self.stage.own().changed);
        let mut handlers = self.stage.values.lock();
        let values = handlers.entry(self.stage.handler.clone()).or_default();
        values.apply(changed);
    }
}

impl Stage {
    /// As [`KeyValue::get`].
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, KeyValueError> {
        let place = (bucket.to_owned(), key.to_owned());
        if let Some(own) = self.own().changed.get(&place) {
            return Ok(own.clone());
        }
        self.values.get(&self.handler, bucket, key)
    }

    /// As [`KeyValue::keys`].
    pub(crate) fn keys(
        &self,
        bucket: &str,
        from: u64,
        limit: usize,
    ) -> Result<Page, KeyValueError> {
        self.values.check()?;
        let mut keys: BTreeSet<String> = match self.values.lock().get(&self.handler) {
            Some(values) => values.keys(bucket).cloned().collect(),
            None => BTreeSet::new(),
        };
        for ((own, key), value) in &self.own().changed {
            if own == bucket {
                match value {
                    Some(_) => keys.insert(key.clone()),
                    None => keys.remove(key),
                };
            }
        }
        Ok(page(keys.iter(), from, limit))
    }

    /// As [`KeyValue::write`], but durable only with the batch.
    pub(crate) fn write(
        &self,
        quota: u64,
        bucket: &str,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Result<(), KeyValueError> {
        self.values.check()?;
        let wanted = changed(bucket, changes)?;
        let mut own = self.own();
        let handlers = self.values.lock();
        let durable = handlers.get(&self.handler);
        let bytes = within(quota, own.bytes, &wanted, |place| {
            let durable = || durable?.entries.get(place);
            let seen = own.changed.get(place).map_or_else(durable, Option::as_ref);
            seen.map_or(0, |old| size(place, old))
        })?;
        own.bytes = bytes;
        own.changed.extend(wanted);
        Ok(())
    }

    /// As [`KeyValue::increment`], but durable only with the batch.
    pub(crate) fn increment(
        &self,
        quota: u64,
        bucket: &str,
        key: String,
        delta: u64,
    ) -> Result<u64, KeyValueError> {
        let sum = add(&key, self.get(bucket, &key)?.as_ref(), delta)?;
        let changes = vec![(key, Some(sum.to_string().into()))];
        self.write(quota, bucket, changes)?;
        Ok(sum)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
