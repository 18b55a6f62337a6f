//! Values that the handler keeps on the node, beyond the call and its version.
//!
//! The deployment grants room for them: `allow = { keyvalue = "1MiB" }`.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::capabilities::wasi::keyvalue::{atomics, store};

/// A part of the handler's own values.
pub struct Bucket(store::Bucket);

/// Why a value could not be kept or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyValueError {
    /// The name of the bucket is no name.
    Name,
    /// The deployment grants no room.
    Denied,
    /// Another reason, such as the quota.
    Other(String),
}

impl fmt::Display for KeyValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("a bucket's name has small letters, digits and hyphens"),
            Self::Denied => {
                f.write_str("the handler may keep nothing: set allow.keyvalue in its deployment")
            }
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for KeyValueError {}

impl From<store::Error> for KeyValueError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::Name,
            store::Error::AccessDenied => Self::Denied,
            store::Error::Other(reason) => Self::Other(reason),
        }
    }
}

impl Bucket {
    /// The bucket `name`; it needs not be made before.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn open(name: &str) -> Result<Self, KeyValueError> {
        Ok(Self(store::open(name)?))
    }

    /// The value under `key`, or none.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.0.get(key)?)
    }

    /// The value under `key` from JSON, or none.
    ///
    /// # Errors
    /// [`KeyValueError`], also if it is JSON of another shape.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, KeyValueError> {
        let value = self.get(key)?;
        let value = value.map(|value| serde_json::from_slice(&value));
        value.transpose().map_err(|error| {
            KeyValueError::Other(format!("the value of {key:?} cannot be read: {error}"))
        })
    }

    /// Keeps `value` under `key` as JSON.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn set_json(&self, key: &str, value: &impl Serialize) -> Result<(), KeyValueError> {
        let value = serde_json::to_vec(value);
        let value = value.map_err(|error| KeyValueError::Other(error.to_string()))?;
        self.set(key, &value)
    }

    /// Keeps `value` under `key`. It survives a power cut once this returns;
    /// in a stream processor, once the batch is committed.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        Ok(self.0.set(key, value)?)
    }

    /// Removes the value under `key`, if there is one.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        Ok(self.0.delete(key)?)
    }

    /// All keys, in order.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn keys(&self) -> Result<Vec<String>, KeyValueError> {
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.0.list_keys(cursor)?;
            keys.extend(page.keys);
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(keys),
            }
        }
    }

    /// Adds `delta` to the number under `key` and answers the sum; no other
    /// call comes between.
    ///
    /// # Errors
    /// [`KeyValueError`]
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        Ok(atomics::increment(&self.0, key, delta)?)
    }
}
