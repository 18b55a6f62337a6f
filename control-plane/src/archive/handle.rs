//! What the archive has, for those who ask.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use fleet_api::ids::{NodeId, StreamName};
use fleet_api::rest::{ArchiveGap, ArchiveStream};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::Deserialize;

use super::Key;
use super::catalog::{Catalog, GapFile};
use super::intake::Intake;
use super::names::{FileName, Kind};

/// Gap files that are read at the same time.
const READERS: usize = 16;

/// Why a stream's buffer was made anew, as a gap's reason.
const NEW_BUFFER: &str = "new-buffer";

/// Answers what the archive has.
#[derive(Clone)]
pub(crate) struct ArchiveHandle {
    objects: Arc<dyn ObjectStore>,
    streams: Arc<RwLock<BTreeMap<Key, Entry>>>,
}

/// Which gaps are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct GapQuery {
    pub(crate) node: Option<NodeId>,
    pub(crate) stream: Option<StreamName>,
    /// The newest ones, at most.
    pub(crate) limit: usize,
}

#[derive(Default)]
struct Entry {
    catalog: Catalog,
    epoch: u64,
    watermark: u64,
    records: u64,
    duplicates: u64,
    lost: u64,
}

/// A gap's file.
#[derive(Deserialize)]
struct GapDocument {
    lost: u64,
    reason: String,
    noted_ms: Option<u64>,
    after_ms: Option<u64>,
}

/// A gap that is listed before its file is read.
enum Listed {
    File(Key, GapFile),
    Known(ArchiveGap),
}

impl ArchiveHandle {
    pub(super) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            streams: Arc::default(),
        }
    }

    /// All streams of all nodes.
    pub(crate) fn all(&self) -> Vec<ArchiveStream> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        let tell = |(key, entry): (&Key, &Entry)| ArchiveStream {
            node: key.0.clone(),
            stream: key.1.clone(),
            epoch: entry.epoch,
            watermark: entry.watermark,
            records: entry.records,
            duplicates: entry.duplicates,
            gaps: entry.lost,
            files: entry.catalog.files(),
            bytes: entry.catalog.bytes(),
            missing: entry.catalog.missing(),
            gap_count: entry.catalog.gap_files(),
            epochs: entry.catalog.epochs(),
        };
        streams.iter().map(tell).collect()
    }

    /// The streams of one node.
    pub(crate) fn of(&self, node: &NodeId) -> Vec<ArchiveStream> {
        self.all().into_iter().filter(|s| s.node == *node).collect()
    }

    /// The newest gaps of each stream, and the ends of buffers that were made anew.
    ///
    /// # Errors
    /// If a gap's file cannot be read.
    pub(crate) async fn gaps(
        &self,
        query: &GapQuery,
    ) -> Result<Vec<ArchiveGap>, object_store::Error> {
        let listed = self.listed(query);
        let told = stream::iter(listed)
            .map(|gap| async move {
                match gap {
                    Listed::Known(gap) => Ok(gap),
                    Listed::File(key, file) => self.read(key, file).await,
                }
            })
            .buffered(READERS);
        told.try_collect().await
    }

    fn listed(&self, query: &GapQuery) -> Vec<Listed> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        let asked = streams.iter().filter(|(key, _)| {
            query.node.as_ref().is_none_or(|node| key.0 == *node)
                && query.stream.as_ref().is_none_or(|stream| key.1 == *stream)
        });
        let mut listed = Vec::new();
        for (key, entry) in asked {
            let mut of_stream = Vec::new();
            for epoch in entry.catalog.epochs() {
                let gaps = entry.catalog.gaps(epoch.epoch);
                of_stream.extend(gaps.map(|gap| Listed::File(key.clone(), gap)));
                if let Some(turn) = entry.catalog.turn(epoch.epoch) {
                    of_stream.push(Listed::Known(ArchiveGap {
                        node: key.0.clone(),
                        stream: key.1.clone(),
                        epoch: turn.epoch,
                        first: turn.next,
                        last: None,
                        lost: None,
                        reason: NEW_BUFFER.to_owned(),
                        after_ms: None,
                        noted_ms: turn.noted_ms,
                    }));
                }
            }
            let surplus = of_stream.len().saturating_sub(query.limit);
            listed.extend(of_stream.into_iter().skip(surplus));
        }
        listed
    }

    async fn read(&self, key: Key, gap: GapFile) -> Result<ArchiveGap, object_store::Error> {
        let name = FileName {
            node: key.0,
            stream: key.1,
            day: gap.day,
            span: gap.span,
            kind: Kind::Gap,
        };
        let file = self.objects.get(&name.path()).await?;
        let written_ms = u64::try_from(file.meta.last_modified.timestamp_millis()).unwrap_or(0);
        let document = serde_json::from_slice(&file.bytes().await?);
        let document: GapDocument = document.unwrap_or_else(|_| GapDocument {
            lost: gap.span.last - gap.span.first + 1,
            reason: "unknown".to_owned(),
            noted_ms: None,
            after_ms: None,
        });
        Ok(ArchiveGap {
            node: name.node,
            stream: name.stream,
            epoch: gap.span.epoch,
            first: gap.span.first,
            last: Some(gap.span.last),
            lost: Some(document.lost),
            reason: document.reason,
            after_ms: document.after_ms,
            noted_ms: document.noted_ms.unwrap_or(written_ms),
        })
    }

    /// Notes a file that is there.
    pub(super) fn added(&self, name: &FileName, bytes: u64, written_ms: u64) {
        let key = (name.node.clone(), name.stream.clone());
        let mut streams = self.write();
        let entry = streams.entry(key).or_default();
        entry.catalog.add(name, bytes, written_ms);
    }

    /// Notes that a file of records has been removed, after another took its place.
    pub(super) fn removed(&self, name: &FileName, bytes: u64) {
        let key = (name.node.clone(), name.stream.clone());
        if let Some(entry) = self.write().get_mut(&key) {
            entry.catalog.remove(bytes);
        }
    }

    pub(super) fn update(&self, key: &Key, intake: &Intake) {
        let (epoch, watermark) = intake.durable().unwrap_or((0, 0));
        let mut streams = self.write();
        let entry = streams.entry(key.clone()).or_default();
        (entry.epoch, entry.watermark) = (epoch, watermark);
        entry.records = intake.records();
        entry.duplicates = intake.duplicates();
        entry.lost = intake.lost();
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Entry>> {
        self.streams.write().unwrap_or_else(PoisonError::into_inner)
    }
}
