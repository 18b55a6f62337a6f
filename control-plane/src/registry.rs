//! The registry: blobs in the object store, manifests and tags in the database.
//!
//! ```text
//!  upload session ─► temporary file + running digest ─► blob (only if the digest is right)
//!  manifest ─► everything it names is there? ─► inspect ─► manifest, tag, artifact
//! ```

mod blobs;
mod error;
mod manifests;
mod repository;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::config::LimitsConfig;
use crate::fleet::Store;

pub(crate) use error::RegistryError;
pub(crate) use manifests::ManifestRef;
pub(crate) use repository::Repository;
pub(crate) use uploads::UploadId;
use uploads::Uploads;

/// The registry, for everything that pushes or pulls.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    objects: Arc<dyn ObjectStore>,
    uploads: Uploads,
    max_blob: u64,
    max_manifest: usize,
    /// One at a time: inspecting holds a whole artifact in memory.
    inspecting: tokio::sync::Semaphore,
}

impl Registry {
    pub(crate) fn new(
        store: Store,
        objects: Arc<dyn ObjectStore>,
        uploads: PathBuf,
        limits: &LimitsConfig,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            objects,
            uploads: Uploads::new(uploads),
            max_blob: limits.blob.0,
            max_manifest: limits.manifest.as_usize(),
            inspecting: tokio::sync::Semaphore::new(1),
        }))
    }

    /// The largest manifest in bytes.
    pub(crate) fn max_manifest(&self) -> usize {
        self.0.max_manifest
    }
}
