//! Device data on its way to Parquet files.
//!
//! ```text
//!  frames ─► intake: known? contiguous? ─► pending per stream ─► files, fsynced ─► watermark ─► node
//! ```
//!
//! The files are the truth: a file's name says which sequences it holds, and at start the
//! watermarks are read from the names. A node hears of a record's safety only after the file is
//! on disk, so whatever a crash takes, the node sends again, and what came twice is dropped.

mod catalog;
mod compact;
pub(crate) mod fields;
mod files;
mod handle;
mod intake;
pub(crate) mod leftovers;
pub(crate) mod names;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::frame::{Frame, Watermark};
use fleet_api::ids::{NodeId, StreamName};
use fleet_api::topic::NodeTopic;
use futures_util::{StreamExt as _, stream};
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerHandle, NodeFrame};
use crate::config::ArchiveConfig;
use crate::sparkplug::SparkplugHandle;
use compact::Compactor;
use fields::Shape;
use files::FileError;
pub(crate) use handle::{ArchiveHandle, GapQuery};
use intake::{Bounds, Content, Intake, Piece, Receipt, Taken};
use names::{FileName, Kind};

/// Files that are written at the same time.
const WRITERS: usize = 8;
/// How long to wait after a write has failed.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Why the archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The files cannot be listed.
    #[error("list the archive: {0}")]
    List(#[from] object_store::Error),
}

type Key = (NodeId, StreamName);

/// The archive's task. It alone owns what is pending.
pub(crate) struct Archive {
    objects: Arc<dyn ObjectStore>,
    config: ArchiveConfig,
    frames: mpsc::Receiver<NodeFrame>,
    nodes: BrokerHandle,
    /// Who else is shown what is durable.
    view: Option<SparkplugHandle>,
    streams: BTreeMap<Key, Intake>,
    shapes: BTreeMap<Key, KnownShape>,
    handle: ArchiveHandle,
    pending_bytes: usize,
    /// When what is pending must be in files.
    due: Option<Instant>,
    /// A write has failed: none before this moment.
    not_before: Option<Instant>,
}

/// What is known of the fields of a stream's records.
enum KnownShape {
    /// To be read from the newest file.
    In(ObjectMeta),
    Known(Shape),
}

impl Archive {
    /// Reads the watermarks from the files that are there.
    pub(crate) async fn open(
        objects: Arc<dyn ObjectStore>,
        config: &ArchiveConfig,
        frames: mpsc::Receiver<NodeFrame>,
        nodes: BrokerHandle,
        view: Option<SparkplugHandle>,
    ) -> Result<Self, ArchiveError> {
        let mut streams: BTreeMap<Key, Intake> = BTreeMap::new();
        let mut newest: BTreeMap<Key, ObjectMeta> = BTreeMap::new();
        let handle = ArchiveHandle::new(Arc::clone(&objects));
        let mut listing = objects.list(Some(&names::root()));
        while let Some(object) = listing.next().await {
            let object = object?;
            let Some(name) = FileName::parse(&object.location) else {
                continue;
            };
            let written = object.last_modified;
            let written_ms = written.timestamp_millis();
            let since_1970_ms = u64::try_from(written_ms).unwrap_or(0);
            handle.added(&name, object.size, since_1970_ms);
            let key = (name.node, name.stream);
            let intake = streams.entry(key.clone()).or_default();
            match name.kind {
                Kind::Turn { to } => intake.restore_turn(to, written_ms),
                Kind::Records | Kind::Gap => intake.restore(name.span, written_ms),
            }
            let is_newer = newest.get(&key).is_none_or(|o| o.last_modified <= written);
            if name.kind == Kind::Records && is_newer {
                newest.insert(key, object);
            }
        }
        drop(listing);
        let shapes = newest
            .into_iter()
            .map(|(key, object)| (key, KnownShape::In(object)))
            .collect();
        for (key, intake) in &streams {
            handle.update(key, intake);
        }
        Ok(Self {
            objects,
            config: config.clone(),
            frames,
            nodes,
            view,
            streams,
            shapes,
            handle,
            pending_bytes: 0,
            due: None,
            not_before: None,
        })
    }

    /// What makes few large files out of many small ones.
    pub(crate) fn compactor(&self) -> Compactor {
        let objects = Arc::clone(&self.objects);
        Compactor::new(objects, self.config.clone(), self.handle.clone())
    }

    /// What it has, for those who ask.
    pub(crate) fn handle(&self) -> ArchiveHandle {
        self.handle.clone()
    }

    /// Takes frames until all senders are gone, then writes what is pending and ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let known: Vec<_> = self.streams.keys().cloned().collect();
        for key in known {
            self.publish_watermark(&key).await;
        }
        loop {
            let full = self.pending_bytes >= self.config.memory.as_usize();
            tokio::select! {
                frame = self.frames.recv(), if !full => match frame {
                    Some(frame) => self.take(frame).await,
                    None => break,
                },
                () = until(self.due) => self.flush().await,
                // What does not fit on the disk now is sent again after the next start.
                () = stop.cancelled(), if full => break,
            }
        }
        self.flush().await;
    }

    async fn take(&mut self, frame: NodeFrame) {
        let NodeFrame {
            node,
            stream,
            payload,
        } = frame;
        let frame = match Frame::decode(stream.as_str(), &payload) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!(%node, %stream, %error, "dropped a frame that cannot be read");
                return;
            }
        };
        let key = (node, stream);
        let intake = self.streams.entry(key.clone()).or_default();
        let before = intake.pending_bytes();
        let receipt = Receipt {
            at: Instant::now(),
            time_ms: now_ms(),
        };
        let taken = intake.take(frame, receipt);
        let (records, bytes) = (intake.pending_records(), intake.pending_bytes());
        self.pending_bytes += bytes - before;
        match taken {
            Taken::Pending => {
                let large = records >= self.config.flush_records
                    || bytes >= self.config.flush_bytes.as_usize()
                    || self.pending_bytes >= self.config.memory.as_usize();
                let patience = if large {
                    Duration::ZERO
                } else {
                    self.config.flush_after.duration()
                };
                let due = (receipt.at + patience).max(self.not_before.unwrap_or(receipt.at));
                self.due = Some(self.due.map_or(due, |known| known.min(due)));
            }
            // The node did not hear the last time.
            Taken::Known => self.publish_watermark(&key).await,
            Taken::Hole { expected, first } => {
                tracing::warn!(node = %key.0, stream = %key.1, expected, first,
                    "dropped a frame that does not follow; the node will send what is between");
            }
        }
        if let Some(intake) = self.streams.get(&key) {
            self.handle.update(&key, intake);
        }
    }

    /// Writes all that is pending, then tells the nodes.
    async fn flush(&mut self) {
        self.due = None;
        self.not_before = None;
        let bounds = Bounds {
            records: self.config.flush_records,
            bytes: self.config.flush_bytes.as_usize(),
        };
        let mut work = Vec::new();
        for (key, intake) in &mut self.streams {
            if intake.pending_bytes() > 0 {
                let shape = self.shapes.remove(key);
                work.push((key.clone(), shape, intake.pieces(bounds)));
            }
        }
        let (objects, columns, view) = (&self.objects, self.config.columns, &self.view);
        let written: Vec<_> = stream::iter(work)
            .map(|(key, shape, pieces)| async move {
                let result =
                    write_in_order(objects, &key, shape, pieces, columns, view.as_ref()).await;
                (key, result)
            })
            .buffer_unordered(WRITERS)
            .collect()
            .await;
        for (key, written) in written {
            if let Some(error) = written.error {
                tracing::error!(node = %key.0, stream = %key.1, %error, "could not archive; trying again");
                let later = Instant::now() + BACK_OFF;
                self.not_before = Some(later);
                self.due = Some(later);
            }
            self.shapes.insert(key.clone(), written.shape);
            let Some(intake) = self.streams.get_mut(&key) else {
                continue;
            };
            for (name, bytes) in &written.done {
                self.handle.added(name, *bytes, now_ms());
            }
            let durable = written.done.iter().map(|(name, _)| name);
            let durable = durable.filter(|name| !matches!(name.kind, Kind::Turn { .. }));
            let durable: Vec<_> = durable.map(|name| name.span).collect();
            intake.settle(&durable, written.rest);
            self.handle.update(&key, intake);
            if !written.done.is_empty() {
                self.publish_watermark(&key).await;
            }
        }
        self.pending_bytes = self.streams.values().map(Intake::pending_bytes).sum();
    }

    async fn publish_watermark(&self, key: &Key) {
        let Some((epoch, sequence)) = self.streams.get(key).and_then(Intake::durable) else {
            return;
        };
        let payload = serde_json::to_vec(&Watermark::new(epoch, sequence))
            .expect("a watermark has only string keys");
        let topic = NodeTopic::StreamAck(key.1.clone());
        self.nodes.publish_retained(&key.0, &topic, payload).await;
    }
}

/// How far the writing of a stream came.
struct Written {
    /// What is durable, with its length.
    done: Vec<(FileName, u64)>,
    rest: Vec<Piece>,
    shape: KnownShape,
    error: Option<FileError>,
}

/// A piece may be written only after those before it: the newest name counts as the watermark.
async fn write_in_order(
    objects: &Arc<dyn ObjectStore>,
    key: &Key,
    shape: Option<KnownShape>,
    pieces: Vec<Piece>,
    columns: usize,
    view: Option<&SparkplugHandle>,
) -> Written {
    let mut shape = match shape {
        Some(KnownShape::Known(shape)) => shape,
        Some(KnownShape::In(file)) => files::shape_of(objects, &file).await,
        None => Shape::default(),
    };
    let mut written = Written {
        done: Vec::new(),
        rest: Vec::new(),
        shape: KnownShape::Known(Shape::default()),
        error: None,
    };
    let mut pieces = pieces.into_iter();
    while let Some(piece) = pieces.next() {
        match files::write(objects, (&key.0, &key.1), &piece, &mut shape, columns).await {
            Ok(file) => {
                written.done.push(file);
                if let (Some(view), Content::Records(records)) = (view, &piece.content) {
                    view.show(&key.0, &key.1, records);
                }
            }
            Err(error) => {
                written.rest = std::iter::once(piece).chain(pieces).collect();
                written.error = Some(error);
                break;
            }
        }
    }
    written.shape = KnownShape::Known(shape);
    written
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
