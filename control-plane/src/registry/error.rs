use fleet_api::ids::Digest;

use crate::fleet::StoreError;
use crate::inspect::Refusal;

/// Why the registry does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("there is no upload of that id in this repository: start a new one")]
    UploadUnknown,
    #[error("another request is writing to this upload")]
    UploadBusy,
    #[error("there are too many uploads under way: finish or cancel one")]
    TooManyUploads,
    #[error("the chunk does not follow what is there: {have} bytes are, go on from there")]
    OutOfOrder { have: u64 },
    #[error("the upload is larger than {max} bytes, the limit for a blob (limits.blob)")]
    BlobTooLarge { max: u64 },
    #[error("the upload ended early: {0}")]
    Interrupted(String),
    #[error("the bytes have digest {found}, not {claimed}: they were changed on the way")]
    WrongDigest { claimed: Digest, found: Digest },
    #[error("blob {0} is not in this repository")]
    BlobUnknown(Digest),
    #[error("manifest {0} is not in this repository")]
    ManifestUnknown(String),
    #[error("the manifest names blob {0}, which is not in this repository: push it first")]
    ManifestBlobUnknown(Digest),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("the manifest is larger than {max} bytes, the limit (limits.manifest)")]
    ManifestTooLarge { max: usize },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "{repository}:{tag} is there already with manifest {have}: versions do not change, push it under another version"
    )]
    TagTaken {
        repository: String,
        tag: String,
        have: Digest,
    },
    #[error("the control plane's disk is full: free space there and push again")]
    DiskFull,
    #[error("use the uploads folder: {0}")]
    Io(#[source] std::io::Error),
    #[error("use the object store: {0}")]
    Objects(#[source] object_store::Error),
    #[error(transparent)]
    Store(StoreError),
}

impl From<std::io::Error> for RegistryError {
    fn from(error: std::io::Error) -> Self {
        if is_full(&error) {
            Self::DiskFull
        } else {
            Self::Io(error)
        }
    }
}

impl From<object_store::Error> for RegistryError {
    fn from(error: object_store::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(at) = cause {
            if at.downcast_ref().is_some_and(is_full) {
                return Self::DiskFull;
            }
            cause = at.source();
        }
        Self::Objects(error)
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::DiskFull,
            error => Self::Store(error),
        }
    }
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
