use serde::Serialize;

use super::state::{CURSOR_NOTES, STREAM_NOTES, StreamNote};
use crate::buffer::{BufferError, FrameStore, StreamId};

/// What a store says about itself, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Catalog {
    /// Version of the form on the disk.
    pub format: String,
    pub epoch: u64,
    pub streams: Vec<CatalogStream>,
    pub cursors: Vec<CatalogCursor>,
}

/// One stream as its note has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CatalogStream {
    pub name: String,
    #[serde(skip)]
    pub id: StreamId,
    /// The oldest sequence.
    pub low: u64,
    /// The first that is not released.
    pub released: u64,
    /// The receiver's watermark.
    pub acked: u64,
    /// The next sequence.
    pub next: u64,
    /// Records that are not released, and their bytes.
    pub records: u64,
    pub bytes: u64,
    /// Released records, and their bytes.
    pub retained: u64,
    pub retained_bytes: u64,
    /// Records that were evicted or damaged, ever.
    pub evicted: u64,
}

/// How far a processor has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CatalogCursor {
    pub processor: String,
    pub stream: String,
    pub upto: u64,
}

impl Catalog {
    /// Reads the notes of a store.
    ///
    /// # Errors
    /// [`BufferError`] if they cannot be read.
    pub(crate) fn read(store: &dyn FrameStore) -> Result<Self, BufferError> {
        let unreadable = |what: &str| BufferError::Failed(format!("{what} cannot be read"));
        let text = |key: &[u8]| -> Result<String, BufferError> {
            let notes = store.notes(key)?;
            let value = notes.first().map(|(_, value)| value.as_slice());
            Ok(String::from_utf8_lossy(value.unwrap_or_default()).into_owned())
        };
        let mut streams = Vec::new();
        for (key, value) in store.notes(STREAM_NOTES)? {
            let note: StreamNote =
                serde_json::from_slice(&value).map_err(|_| unreadable("a stream's state"))?;
            let state = note.state;
            streams.push(CatalogStream {
                name: String::from_utf8_lossy(&key[STREAM_NOTES.len()..]).into_owned(),
                id: note.id,
                low: state.low,
                released: state.released.clamp(state.low, state.next),
                acked: state.acked,
                next: state.next,
                records: state.records,
                bytes: state.bytes,
                retained: state.retained,
                retained_bytes: state.retained_bytes,
                evicted: state.evicted,
            });
        }
        let mut cursors = Vec::new();
        for (key, value) in store.notes(CURSOR_NOTES)? {
            let key = String::from_utf8_lossy(&key[CURSOR_NOTES.len()..]).into_owned();
            let upto = String::from_utf8_lossy(&value).parse().ok();
            let (Some((processor, stream)), Some(upto)) = (key.split_once('/'), upto) else {
                return Err(unreadable("a processor's cursor"));
            };
            cursors.push(CatalogCursor {
                processor: processor.to_owned(),
                stream: stream.to_owned(),
                upto,
            });
        }
        Ok(Self {
            format: text(b"format")?,
            epoch: text(b"epoch")?
                .parse()
                .map_err(|_| unreadable("the epoch"))?,
            streams,
            cursors,
        })
    }
}
