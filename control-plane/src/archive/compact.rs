//! Makes few large files out of many small ones, beside the archive's own task.
//!
//! ```text
//!  every stream of every node: list ─► plan ─► read parts ─► write the merged file ─► remove parts
//! ```
//!
//! Nothing is noted down: the names say at any moment what is there, and a crash is cleaned up at
//! the next look. The archive's task only adds files with higher sequences, so the two never
//! write the same name.

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use fleet_api::frame::Record;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::errors::ParquetError;
use tokio_util::sync::CancellationToken;

use super::fields::Shape;
use super::files::{self, FileError};
use super::handle::ArchiveHandle;
use super::names::{self, FileName, Span};
use super::table::{self, Table};
use super::{ArchiveConfig, now_ms};
use plan::{Lying, Plan, Rules, merged_name, plan};

/// So many small files in a row become one before they rest.
const MANY: usize = 64;
/// Values in memory while files are merged, at most, beside the last file that was read.
const MAX_VALUES: usize = 128 << 20;

/// Why files are not merged.
#[derive(Debug, thiserror::Error)]
enum MergeError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("merge {0}: it does not hold what its name says")]
    Content(Path),
}

/// The task that merges files.
pub(crate) struct Compactor {
    objects: Arc<dyn ObjectStore>,
    config: ArchiveConfig,
    handle: ArchiveHandle,
    /// Files that cannot be read, or that hold as much as fits into memory.
    left_alone: BTreeSet<Path>,
}

impl Compactor {
    pub(super) fn new(
        objects: Arc<dyn ObjectStore>,
        config: ArchiveConfig,
        handle: ArchiveHandle,
    ) -> Self {
        Self {
            objects,
            config,
            handle,
            left_alone: BTreeSet::new(),
        }
    }

    /// Looks at all files now and then, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let every = self.config.compact_every.duration();
        if every.is_zero() {
            return stop.cancelled().await;
        }
        loop {
            if let Err(error) = self.look(&stop).await {
                tracing::warn!(%error, "could not merge the archive's files; trying again later");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    async fn look(&mut self, stop: &CancellationToken) -> Result<(), FileError> {
        for stream in self.folders(&names::root()).await? {
            for node in self.folders(&stream).await? {
                if stop.is_cancelled() {
                    return Ok(());
                }
                self.look_at(&node, stop).await?;
            }
        }
        Ok(())
    }

    async fn folders(&self, of: &Path) -> Result<Vec<Path>, FileError> {
        let listed = self.objects.list_with_delimiter(Some(of)).await?;
        Ok(listed.common_prefixes)
    }

    /// Looks at the files of one stream of one node.
    async fn look_at(&mut self, folder: &Path, stop: &CancellationToken) -> Result<(), FileError> {
        let objects: Vec<_> = self.objects.list(Some(folder)).try_collect().await?;
        let target_bytes = self.config.compact_bytes.0;
        let files: Vec<_> = objects
            .into_iter()
            .filter_map(|object| {
                let written_ms = u64::try_from(object.last_modified.timestamp_millis());
                let is_left = self.left_alone.contains(&object.location);
                Some(Lying {
                    name: FileName::parse(&object.location)?,
                    bytes: if is_left { target_bytes } else { object.size },
                    written_ms: written_ms.unwrap_or(0),
                })
            })
            .collect();
        let rules = Rules {
            target_bytes,
            many: MANY,
            rest_ms: self.config.compact_after.ms(),
        };
        let Plan { remove, merge } = plan(&files, rules, now_ms());
        for at in remove {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.remove(&files[at]).await?;
        }
        for parts in merge {
            if stop.is_cancelled() {
                return Ok(());
            }
            let parts: Vec<_> = parts.into_iter().map(|at| &files[at]).collect();
            match self.merge(&parts).await {
                Ok(()) => {}
                Err(MergeError::File(error @ FileError::Store(_))) => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "left files of the archive as they are");
                    self.left_alone
                        .extend(parts.iter().map(|part| part.name.path()));
                }
            }
        }
        Ok(())
    }

    /// Makes one file of the parts, as many of them as fit into memory.
    async fn merge(&mut self, parts: &[&Lying]) -> Result<(), MergeError> {
        let mut records: Vec<Record> = Vec::new();
        let mut merged: Vec<&Lying> = Vec::new();
        let mut values = 0;
        let mut shape = Shape::default();
        let first = parts[0].name.span.first;
        for part in parts {
            if values > MAX_VALUES {
                break;
            }
            let next = first + records.len() as u64;
            let new = self.records(&part.name, next, &mut shape).await?;
            values += new.iter().map(|r| r.value.len()).sum::<usize>();
            records.extend(new);
            merged.push(part);
        }
        let names: Vec<_> = merged.iter().map(|part| &part.name).collect();
        let Some(name) = merged_name(&names).filter(|_| merged.len() > 1) else {
            self.left_alone.insert(parts[0].name.path());
            return Ok(());
        };
        let table = Table {
            node: name.node.clone(),
            stream: name.stream.clone(),
            epoch: name.span.epoch,
            first,
            records,
        };
        let (bytes, _) = files::encode(table, shape, self.config.columns).await?;
        let (path, length) = (name.path(), bytes.len() as u64);
        self.objects
            .put(&path, PutPayload::from(bytes))
            .await
            .map_err(FileError::from)?;
        self.handle.added(&name, length, now_ms());
        if values > MAX_VALUES {
            self.left_alone.insert(path);
        }
        for part in merged {
            if part.name.path() != name.path() {
                self.remove(part).await?;
            }
        }
        Ok(())
    }

    /// A file's records from the sequence `next` on; they must follow on what was read so far.
    async fn records(
        &self,
        name: &FileName,
        next: u64,
        shape: &mut Shape,
    ) -> Result<Vec<Record>, MergeError> {
        let path = name.path();
        let file = self.objects.get(&path).await.map_err(FileError::from)?;
        let file: Bytes = file.bytes().await.map_err(FileError::from)?;
        let mut learnt = std::mem::take(shape);
        let decoded = tokio::task::spawn_blocking(move || {
            let rows = table::decode(file, &mut learnt)?;
            Ok::<_, ParquetError>((rows, learnt))
        });
        let decoded = decoded.await.map_err(|_| FileError::Stopped)?;
        let (rows, learnt) = decoded.map_err(FileError::from)?;
        *shape = learnt;
        let Span { first, last, .. } = name.span;
        let sequences = rows.iter().map(|(sequence, _)| *sequence);
        if first > next || !sequences.eq(first..=last) {
            return Err(MergeError::Content(path));
        }
        let new = rows.into_iter().filter(|(sequence, _)| *sequence >= next);
        Ok(new.map(|(_, record)| record).collect())
    }

    async fn remove(&self, file: &Lying) -> Result<(), FileError> {
        match self.objects.delete(&file.name.path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.handle.removed(&file.name, file.bytes);
        Ok(())
    }
}
