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
use super::checked::Checked;
use super::figures::Figures;
use crate::buffer::{FrameStore, Opened, StreamId};
use crate::events::Events;

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
    /// The first sequence that is not released: receiver and processor have passed what lies
    /// below, which stays readable for a while. It is where a frame starts.
    #[serde(default)]
    pub released: u64,
    /// The receiver's watermark.
    pub acked: u64,
    /// Bytes of the frames that are not released.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the released frames.
    #[serde(default)]
    pub retained_bytes: u64,
    /// Records in them.
    #[serde(default)]
    pub retained: u64,
    /// Records that were evicted or found damaged, ever.
    pub evicted: u64,
    /// The oldest record that is not released.
    #[serde(skip)]
    pub oldest: Option<Head>,
    /// The newest record of the oldest released frame.
    #[serde(skip)]
    pub kept: Option<Head>,
}

/// What is known about a frame without reading it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Where the frame starts.
    pub at: u64,
    /// Time of a record of it, in milliseconds since the Unix epoch; none if it has none.
    pub time_ms: Option<u64>,
}

impl StreamState {
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            next: 1,
            low: 1,
            released: 1,
            acked: 0,
            bytes: 0,
            records: 0,
            retained_bytes: 0,
            retained: 0,
            evicted: 0,
            oldest: None,
            kept: None,
        }
    }

    /// Bytes of all its frames.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes + self.retained_bytes
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
    /// The first sequence that is not released.
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
    pub checked: Checked,
    pub changed: watch::Sender<u64>,
    pub failed: OnceLock<String>,
    pub events: Events,
    pub figures: Figures,
    specs: RwLock<Option<Arc<BTreeMap<String, StreamSpec>>>>,
    published: Mutex<Published>,
}

#[derive(Default)]
pub(super) struct Published {
    pub states: States,
    pub cursors: Cursors,
}

impl Shared {
    pub(super) fn new(dir: PathBuf, opened: Opened, disk_limit: u64, published: Published) -> Self {
        Self {
            dir,
            epoch: opened.epoch,
            store: Arc::clone(&opened.store),
            checked: Checked::default(),
            figures: Figures::new(&opened, disk_limit),
            changed: watch::Sender::new(0),
            failed: OnceLock::new(),
            events: Events::default(),
            specs: RwLock::default(),
            published: Mutex::new(published),
        }
    }

    pub(super) fn configure(&self, streams: &[StreamSpec]) {
        let specs = streams
            .iter()
            .map(|spec| (spec.name.as_str().to_owned(), spec.clone()))
            .collect();
        *self.specs.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(specs));
    }

    pub(super) fn specs(&self) -> Arc<BTreeMap<String, StreamSpec>> {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        specs.clone().unwrap_or_default()
    }

    /// Whether it is known which streams there are; nothing is freed before that.
    pub(super) fn is_configured(&self) -> bool {
        let specs = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        specs.is_some()
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
        let published = self.published();
        // A new processor starts with what is not released yet.
        let start = || published.states.get(stream).map_or(0, |s| s.released - 1);
        published.cursors.get(&key).copied().unwrap_or_else(start)
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
                    retained: state.retained,
                    retained_bytes: state.retained_bytes,
                    oldest_age_ms: state
                        .oldest
                        .and_then(|head| Some(now_ms.saturating_sub(head.time_ms?))),
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
                    low: state.released,
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
