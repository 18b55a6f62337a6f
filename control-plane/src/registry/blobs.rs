use std::ops::Range;

use bytes::Bytes;
use fleet_api::ids::Digest;
use futures_util::stream::BoxStream;
use object_store::{GetOptions, GetRange, ObjectStoreExt as _, path::Path};
use sqlx::Row as _;

use super::{Registry, RegistryError, Repository};
use crate::fleet::{signed, unsigned};

/// A blob that is there.
pub(crate) struct Blob {
    digest: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// Where a blob lies in the object store.
pub(super) fn path(digest: &Digest) -> Path {
    let hex = digest.hex();
    Path::from(format!("blobs/sha256/{}/{hex}", &hex[..2]))
}

impl Registry {
    /// Looks a blob up. One that the object store has lost or has in another size counts as not
    /// there, so that pushing it again puts it right.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Blob, RegistryError> {
        let row = sqlx::query("SELECT size FROM blobs WHERE repository = ? AND digest = ?")
            .bind(repository.to_string())
            .bind(digest.as_str())
            .fetch_optional(self.0.store.pool())
            .await?
            .ok_or_else(|| RegistryError::BlobUnknown(digest.clone()))?;
        let size = unsigned(row.get("size"));
        let stored = match self.0.objects.head(&path(digest)).await {
            Ok(meta) => Some(meta.size),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if stored != Some(size) {
            tracing::error!(%digest, size, ?stored,
                "a blob is damaged in the object store: push it again");
            return Err(RegistryError::BlobUnknown(digest.clone()));
        }
        Ok(Blob {
            digest: digest.clone(),
            size,
        })
    }

    /// The bytes of a blob from `range`, as they come.
    pub(crate) async fn read_blob(
        &self,
        blob: &Blob,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<Bytes>>, RegistryError> {
        let range = (range != (0..blob.size)).then_some(GetRange::Bounded(range));
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        use object_store::ObjectStore as _;
        let result = self
            .0
            .objects
            .get_opts(&path(&blob.digest), options)
            .await?;
        Ok(result.into_stream())
    }

    /// All bytes of a blob.
    pub(super) async fn blob_bytes(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let result = self.0.objects.get(&path(digest)).await?;
        Ok(result.bytes().await?)
    }

    /// Makes a blob of another repository known in this one. False if it is not there.
    pub(crate) async fn mount(
        &self,
        repository: &Repository,
        from: Option<&Repository>,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let from = from.map(Repository::to_string);
        let row = sqlx::query(
            "SELECT size FROM blobs WHERE digest = ? AND (? IS NULL OR repository = ?) LIMIT 1",
        )
        .bind(digest.as_str())
        .bind(from.clone())
        .bind(from)
        .fetch_optional(self.0.store.pool())
        .await?;
        let Some(row) = row else { return Ok(false) };
        self.link_blob(repository, digest, unsigned(row.get("size")))
            .await?;
        Ok(true)
    }

    pub(super) async fn link_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
    ) -> Result<(), RegistryError> {
        sqlx::query(
            "INSERT INTO blobs (repository, digest, size) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(repository.to_string())
        .bind(digest.as_str())
        .bind(signed(size))
        .execute(self.0.store.pool())
        .await?;
        Ok(())
    }
}
