use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use fleet_api::deployment::Ack;
use fleet_api::desired::StreamSpec;
use fleet_api::health::StreamHealth;
use fleet_api::ids::StreamName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::AppendError;
use crate::buffer::{FrameStore, StreamId};

/// What the store says about one stream; kept in a note that changes with its frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamState {
    /// Its number in the store's keys.
    #[serde(skip)]
    pub id: StreamId,
    /// Sequence of the next record.
    pub next: u64,
    /// The first sequence that the store still covers; `next` if it is empty.
    pub low: u64,
    /// The receiver's watermark.
    pub acked: u64,
    /// Bytes of all frames.
    pub bytes: u64,
    /// Records in the frames.
    pub records: u64,
    /// Records that were evicted or found damaged, ever.
    pub evicted: u64,
    /// Time of the oldest record.
    #[serde(skip)]
    pub oldest_ms: Option<u64>,
}

impl StreamState {
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            next: 1,
            low: 1,
            acked: 0,
            bytes: 0,
            records: 0,
            evicted: 0,
            oldest_ms: None,
        }
    }
}

/// Key of a stream's note.
pub(super) const STREAM_NOTES: &[u8] = b"stream/";
/// Key of the notes with the processors' cursors.
pub(super) const CURSOR_NOTES: &[u8] = b"cursor/";

/// A stream's note: its number and its state.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StreamNote {
    pub id: StreamId,
    #[serde(flatten)]
    pub state: StreamState,
}

pub(super) fn stream_note(name: &str, state: &StreamState) -> (Vec<u8>, Vec<u8>) {
    let note = StreamNote {
        id: state.id,
        state: state.clone(),
    };
    let value = serde_json::to_vec(&note).expect("a note has only string keys");
    ([STREAM_NOTES, name.as_bytes()].concat(), value)
}

pub(super) fn cursor_note(processor: &str, stream: &str, cursor: u64) -> (Vec<u8>, Vec<u8>) {
    let key = [CURSOR_NOTES, processor.as_bytes(), b"/", stream.as_bytes()].concat();
    (key, cursor.to_string().into_bytes())
}

/// What the uplink needs to know about a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub name: StreamName,
    pub priority: u8,
    pub ack: Ack,
    pub acked: u64,
    pub low: u64,
    pub next: u64,
}

/// All streams' states by name.
pub(super) type States = BTreeMap<String, StreamState>;

/// The last finished sequence by processor and stream.
pub(super) type Cursors = BTreeMap<(String, String), u64>;

/// What the writer publishes and everybody reads.
pub(super) struct Shared {
    pub dir: PathBuf,
    pub epoch: u64,
    pub store: Arc<dyn FrameStore>,
    pub changed: watch::Sender<u64>,
    pub failed: OnceLock<String>,
    specs: RwLock<Arc<BTreeMap<String, StreamSpec>>>,
    published: Mutex<Published>,
}

#[derive(Default)]
pub(super) struct Published {
    pub states: States,
    pub cursors: Cursors,
}

impl Shared {
    pub(super) fn new(
        dir: PathBuf,
        epoch: u64,
        store: Arc<dyn FrameStore>,
        published: Published,
    ) -> Self {
        Self {
            dir,
            epoch,
            store,
            changed: watch::Sender::new(0),
            failed: OnceLock::new(),
            specs: RwLock::default(),
            published: Mutex::new(published),
        }
    }

    pub(super) fn configure(&self, streams: &[StreamSpec]) {
        let specs = streams
            .iter()
            .map(|spec| (spec.name.as_str().to_owned(), spec.clone()))
            .collect();
        *self.specs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(specs);
    }

    pub(super) fn specs(&self) -> Arc<BTreeMap<String, StreamSpec>> {
        Arc::clone(&self.specs.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The stream's configuration, if it takes records.
    pub(super) fn spec(&self, stream: &str) -> Result<StreamSpec, AppendError> {
        let specs = self.specs();
        if let Some(spec) = specs.get(stream) {
            return Ok(spec.clone());
        }
        let stream = stream.to_owned();
        if self.published().states.contains_key(&stream) {
            return Err(AppendError::Removed { stream });
        }
        Err(unknown(stream, specs.keys()))
    }

    pub(super) fn published(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self, stream: &str) -> Option<StreamState> {
        self.published().states.get(stream).cloned()
    }

    pub(super) fn cursor(&self, processor: &str, stream: &str) -> u64 {
        let key = (processor.to_owned(), stream.to_owned());
        self.published().cursors.get(&key).copied().unwrap_or(0)
    }

    pub(super) fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub(super) fn health(&self, now_ms: u64) -> Vec<StreamHealth> {
        let mut all: BTreeMap<String, Option<StreamState>> = self
            .specs()
            .keys()
            .map(|name| (name.clone(), None))
            .collect();
        for (name, state) in &self.published().states {
            all.insert(name.clone(), Some(state.clone()));
        }
        all.into_iter()
            .filter_map(|(name, state)| {
                let state = state.unwrap_or_else(|| StreamState::new(0));
                Some(StreamHealth {
                    name: StreamName::new(name).ok()?,
                    depth: state.records,
                    bytes: state.bytes,
                    oldest_age_ms: state.oldest_ms.map(|oldest| now_ms.saturating_sub(oldest)),
                    evicted: state.evicted,
                    epoch: self.epoch,
                    next_seq: state.next,
                    acked_seq: (state.acked > 0).then_some(state.acked),
                })
            })
            .collect()
    }

    pub(super) fn outlook(&self) -> Vec<Outlook> {
        let specs = self.specs();
        self.published()
            .states
            .iter()
            .filter_map(|(name, state)| {
                let spec = specs.get(name);
                Some(Outlook {
                    name: StreamName::new(name.as_str()).ok()?,
                    priority: spec.map_or(0, |spec| spec.priority),
                    ack: spec.map_or(Ack::Consumer, |spec| spec.ack),
                    acked: state.acked,
                    low: state.low,
                    next: state.next,
                })
            })
            .collect()
    }
}

fn unknown<'a>(stream: String, known: impl Iterator<Item = &'a String>) -> AppendError {
    let known: Vec<_> = known.map(String::as_str).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    AppendError::Unknown { stream, known }
}
