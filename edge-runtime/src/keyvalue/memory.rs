//! Values that nothing but memory keeps, for what runs apart from production.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{KeyValue, Shared, Values};

impl KeyValue {
    /// No values; what is kept is gone with the last handle.
    pub(crate) fn in_memory() -> Self {
        Self::of(BTreeMap::new())
    }

    /// A copy of what `handler` keeps now, of which the same holds.
    pub(crate) fn copy_in_memory(&self, handler: &str) -> Self {
        let mut copied = BTreeMap::new();
        if let Some(values) = self.lock().get(handler) {
            let copy = Values {
                entries: values.entries.clone(),
                bytes: values.bytes,
                ..Values::default()
            };
            copied.insert(handler.to_owned(), copy);
        }
        Self::of(copied)
    }

    fn of(handlers: BTreeMap<String, Values>) -> Self {
        Self(Arc::new(Shared {
            handlers: Mutex::new(handlers),
            streams: None,
        }))
    }
}
