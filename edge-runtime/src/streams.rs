//! The node's streams of device records, durable before they are acknowledged.
//!
//! ```text
//!  HTTP, sources, handlers ─ append ─►┐                       ┌─► read: processors, HTTP, live
//!  processors ─ commit_processed ────►├─► writer thread ─► store
//!  uplink ─ release ─────────────────►┘   (group commit)      └─► frames: uplink
//! ```
//!
//! One thread makes every change. It takes what has queued while the last
//! commit ran, plans it against its own state, commits it as one atomic and
//! durable batch, and only then answers. A sequence therefore exists on disk
//! before anyone has seen it, and is never used twice.
//!
//! For each stream the store covers `low..next` without a hole: frames of
//! records, and gap frames in the place of records that a limit has evicted.
//! A frame is released once it lies at or below both the receiver's watermark
//! and the cursor of the stream's processor. It stays readable for as long as
//! the stream keeps released records and until room is needed: released
//! records go first, and without a gap, since the receiver has them.

mod body;
mod budget;
mod catalog;
mod checked;
mod error;
mod figures;
mod group;
mod http;
mod marks;
mod notes;
mod open;
mod range;
mod read;
mod rows;
mod state;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fleet_api::desired::StreamSpec;
use fleet_api::frame::{Encoding, MAX_VALUE_BYTES, Record};
use fleet_api::health::{BufferHealth, StreamHealth};
use tokio::sync::{Semaphore, oneshot, watch};

pub use self::error::AppendError;
pub use self::http::StreamsBody;
pub use self::range::RecordRange;
pub use self::rows::Row;
pub use crate::buffer::{BufferConfig, BufferError};

pub(crate) use self::catalog::{Catalog, CatalogStream};
pub(crate) use self::marks::Mark;
pub(crate) use self::notes::Notes;
pub(crate) use self::range::RangeReader;
pub(crate) use self::read::{Found, OutFrame, look};
pub(crate) use self::state::Outlook;

use self::state::Shared;
use self::writer::{Command, Writer};
use crate::buffer::Opened;
use crate::clock::unix_ms;
use crate::events::Events;

/// Bytes of records that may wait for the writer.
const QUEUE_BYTES: usize = 16 << 20;
/// The least that a command counts for in the queue, so that it is bounded in number too.
const COMMAND_BYTES: usize = 1024;
/// How long an append waits for its place in the queue.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);

/// A record that is to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// When it was accepted, in milliseconds since the Unix epoch; none is now.
    pub time_ms: Option<u64>,
    /// Encoding of `value`.
    pub encoding: Encoding,
    /// The record itself.
    pub value: Bytes,
}

impl NewRecord {
    /// A record accepted now.
    pub fn new(encoding: Encoding, value: impl Into<Bytes>) -> Self {
        Self {
            time_ms: None,
            encoding,
            value: value.into(),
        }
    }
}

/// Where appended records are; they are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Appended {
    /// Epoch of the buffer.
    pub epoch: u64,
    /// Sequence of the first of them.
    pub first_seq: u64,
    /// Sequence of the last of them.
    pub last_seq: u64,
}

/// All streams of the node; clones share them.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Streams(epoch {})", self.inner.shared.epoch)
    }
}

struct Inner {
    shared: Arc<Shared>,
    commands: std::sync::mpsc::Sender<Command>,
    queue: Arc<Semaphore>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    live: http::Live,
}

impl Streams {
    /// Opens the buffer in `dir`, or creates it, and starts the writer. Blocks.
    ///
    /// # Errors
    /// [`BufferError`] if the buffer is in use, of another format, or cannot be
    /// opened. A damaged buffer is set aside and a new one takes its place.
    pub fn open(dir: &Path, config: BufferConfig) -> Result<Self, BufferError> {
        let opened = open::open(dir, &config)?;
        Self::start(dir, opened, config.disk_limit(dir))
    }

    /// Starts the writer over an open store.
    fn start(dir: &Path, opened: Opened, disk_limit: u64) -> Result<Self, BufferError> {
        let space = opened.space.clone();
        let (shared, states) = open::read(dir, opened, disk_limit)?;
        let keys = marks::Keys::load(shared.store.as_ref())?;
        // The queue's permits bound it; a bounded channel would block async callers.
        let (commands, received) = std::sync::mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), states, keys, space, received);
        let thread = std::thread::Builder::new()
            .name("buffer-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| BufferError::io("start the writer of", dir, &e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                commands,
                queue: Arc::new(Semaphore::new(QUEUE_BYTES)),
                writer: Mutex::new(Some(thread)),
                live: http::Live::default(),
            }),
        })
    }

    /// Replaces the set of streams. One that is no longer listed is still
    /// forwarded until it is empty, but takes no more records.
    pub fn configure(&self, streams: &[StreamSpec]) {
        self.inner.shared.configure(streams);
        self.send(Command::Configured);
    }

    /// Appends `records` in order; they are durable when it returns.
    ///
    /// # Errors
    /// [`AppendError`]; then none of them is stored, unless it is
    /// [`AppendError::Buffer`], after which only a restart tells.
    pub async fn append(
        &self,
        stream: &str,
        records: Vec<NewRecord>,
    ) -> Result<Appended, AppendError> {
        self.append_marked(stream, records, None).await
    }

    /// As [`Streams::append`], with a mark in the same commit.
    ///
    /// # Errors
    /// As [`Streams::append`], and [`AppendError::KeyReused`].
    pub(crate) async fn append_marked(
        &self,
        stream: &str,
        records: Vec<NewRecord>,
        mark: Option<Mark>,
    ) -> Result<Appended, AppendError> {
        self.inner.shared.spec(stream)?;
        let records = checked(records)?;
        let cost = records.iter().map(Record::encoded_bytes).sum();
        let (reply, answer) = oneshot::channel();
        self.submit(cost, |queued| Command::Append {
            stream: stream.to_owned(),
            records,
            mark,
            reply,
            queued,
        })
        .await?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Records of `stream` from sequence `from` on, at most `limit`, and fewer
    /// if they are large. Gaps are left out. Empty when there is no more yet.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] for an unknown stream, else [`AppendError::Buffer`].
    pub async fn read(
        &self,
        stream: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Row>, AppendError> {
        self.rows(stream, from, limit).await
    }

    /// The sequences of `stream` that the node still holds: from the oldest up
    /// to, without, the one that the next record will get.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] or [`AppendError::Removed`].
    pub fn held(&self, stream: &str) -> Result<Range<u64>, AppendError> {
        let shared = &self.inner.shared;
        shared.spec(stream)?;
        Ok(shared.state(stream).map_or(1..1, |s| s.low..s.next))
    }

    /// Moves `processor` past `upto` in `stream` and appends what it made of
    /// the batch, in one commit.
    ///
    /// # Errors
    /// [`AppendError`]; then neither is done.
    pub async fn commit_processed(
        &self,
        processor: &str,
        stream: &str,
        upto: u64,
        outputs: Vec<(String, NewRecord)>,
    ) -> Result<(), AppendError> {
        self.commit_batch(processor, stream, upto, outputs, Notes::new())
            .await
    }

    /// As [`Streams::commit_processed`], with notes that change in the same commit.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing is done.
    pub(crate) async fn commit_batch(
        &self,
        processor: &str,
        stream: &str,
        upto: u64,
        outputs: Vec<(String, NewRecord)>,
        notes: Notes,
    ) -> Result<(), AppendError> {
        let mut by_stream: Vec<(String, Vec<NewRecord>)> = Vec::new();
        for (name, record) in outputs {
            self.inner.shared.spec(&name)?;
            match by_stream.iter_mut().find(|(known, _)| *known == name) {
                Some((_, records)) => records.push(record),
                None => by_stream.push((name, vec![record])),
            }
        }
        let mut cost = notes::bytes(&notes);
        let mut outputs = Vec::with_capacity(by_stream.len());
        for (name, records) in by_stream {
            let records = checked(records)?;
            cost += records.iter().map(Record::encoded_bytes).sum::<usize>();
            outputs.push((name, records));
        }
        let (reply, answer) = oneshot::channel();
        self.submit(cost, |queued| Command::Process {
            processor: processor.to_owned(),
            stream: stream.to_owned(),
            upto,
            outputs,
            notes,
            reply,
            queued,
        })
        .await?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// The last sequence that `processor` has finished in `stream`, 0 for none.
    pub fn cursor(&self, processor: &str, stream: &str) -> u64 {
        self.inner.shared.cursor(processor, stream)
    }

    /// How far `source` has read, as marked with its last records. Blocks.
    ///
    /// # Errors
    /// [`BufferError`] if the buffer cannot be read.
    pub(crate) fn position(&self, source: &str) -> Result<Option<Vec<u8>>, BufferError> {
        marks::position(self.inner.shared.store.as_ref(), source)
    }

    /// Changes whenever records, watermarks or the configuration have changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.shared.changed.subscribe()
    }

    /// Notes the receiver's watermark and frees what lies at or below it, once
    /// the stream's processor has passed it too. Another epoch's is ignored.
    pub async fn release(&self, stream: &str, epoch: u64, upto: u64) {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Release {
            stream: stream.to_owned(),
            epoch,
            upto,
            reply: Some(reply),
        });
        let _ = answer.await;
    }

    /// As [`Streams::release`], without waiting for it.
    pub(crate) fn release_later(&self, stream: &str, epoch: u64, upto: u64) {
        self.send(Command::Release {
            stream: stream.to_owned(),
            epoch,
            upto,
            reply: None,
        });
    }

    /// Figures per stream.
    pub fn health(&self) -> Vec<StreamHealth> {
        self.inner.shared.health(unix_ms())
    }

    /// Figures of the whole buffer.
    pub fn buffer_health(&self) -> BufferHealth {
        self.inner.shared.buffer_health()
    }

    /// The epoch of the buffer; a buffer that was lost gets a new one.
    pub fn epoch(&self) -> u64 {
        self.inner.shared.epoch
    }

    /// Why the buffer takes nothing any more, if so; only a restart helps.
    pub fn failed(&self) -> Option<String> {
        self.inner.shared.failed.get().cloned()
    }

    /// The buffer's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.inner.shared.dir
    }

    /// Takes what is worth a line in the fleet's log.
    pub fn events(&self) -> &Events {
        &self.inner.shared.events
    }

    /// Bytes that the buffer takes on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.inner.shared.store.disk_bytes()
    }

    /// What there is to forward.
    pub(crate) fn outlook(&self) -> Vec<Outlook> {
        self.inner.shared.outlook()
    }

    /// Finishes what was queued, makes everything durable and stops. Blocks.
    pub fn close(&self) {
        self.send(Command::Close);
        let writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the buffer's writer ended with a panic");
        }
    }

    /// Waits for room in the queue and hands the command over.
    async fn submit(
        &self,
        cost: usize,
        command: impl FnOnce(writer::Queued) -> Command,
    ) -> Result<(), AppendError> {
        let queued = self.place(cost).await?;
        self.inner
            .commands
            .send(command(queued))
            .map_err(|_| AppendError::Closed)
    }

    /// Waits for a place in the queue to the writer for `cost` bytes.
    pub(crate) async fn place(&self, cost: usize) -> Result<writer::Queued, AppendError> {
        let permits = cost.clamp(COMMAND_BYTES, QUEUE_BYTES);
        let permits = u32::try_from(permits).expect("the queue is far below 4 GiB");
        let queue = Arc::clone(&self.inner.queue);
        tokio::time::timeout(QUEUE_PATIENCE, queue.acquire_many_owned(permits))
            .await
            .map_err(|_| AppendError::Busy)?
            .map_err(|_| AppendError::Closed)
    }

    fn send(&self, command: Command) {
        // The writer is gone only after a close, when there is nothing to change.
        let _ = self.inner.commands.send(command);
    }
}

fn checked(records: Vec<NewRecord>) -> Result<Vec<Record>, AppendError> {
    if records.is_empty() {
        return Err(AppendError::Empty);
    }
    let now = unix_ms();
    records
        .into_iter()
        .map(|record| {
            if record.value.len() > MAX_VALUE_BYTES {
                return Err(AppendError::ValueTooLarge {
                    bytes: record.value.len(),
                });
            }
            Ok(Record {
                time_ms: record.time_ms.unwrap_or(now),
                encoding: record.encoding,
                value: record.value,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
