//! Opens the object store: a folder, or a bucket of S3 or of what speaks its protocol.

mod signing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_api::strict::{self, StrictError};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;

use crate::archive::leftovers;
use crate::config::{ObjectsConfig, Place};
use signing::Signing;

/// A request gets this long: a file of the archive has to go out in it.
const REQUEST: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
/// Beyond this the caller tells the operator and tries again later.
const RETRY: Duration = Duration::from_secs(15);
const RETRIES: usize = 4;

/// Why the object store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The configuration or the folder is wrong.
    #[error("open the object store: {0}")]
    Store(#[from] object_store::Error),
    /// A file that the configuration names cannot be read.
    #[error("read {what} {}: {source}", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The credentials cannot be understood.
    #[error("read the credentials of the object store: {0}")]
    Credentials(#[from] StrictError),
}

/// The file that `objects.credentials` names.
#[derive(Deserialize)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Opens what the configuration names, or else the folder.
pub(crate) fn open(
    config: &ObjectsConfig,
    folder: &Path,
) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
    match config.place() {
        None => local(folder),
        Some(Place::Folder(folder)) => {
            std::fs::create_dir_all(&folder).map_err(|source| ObjectsError::Read {
                what: "the folder of objects",
                path: folder.clone(),
                source,
            })?;
            local(&folder)
        }
        Some(Place::Bucket { bucket, prefix }) => {
            let store = bucket_store(config, &bucket)?;
            Ok(if prefix.is_empty() {
                Arc::new(store)
            } else {
                Arc::new(PrefixStore::new(store, prefix))
            })
        }
    }
}

fn local(folder: &Path) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
    leftovers::remove(folder);
    let store = LocalFileSystem::new_with_prefix(folder)?;
    Ok(Arc::new(store.with_fsync(true)))
}

fn bucket_store(config: &ObjectsConfig, bucket: &str) -> Result<AmazonS3, ObjectsError> {
    // The client's TLS takes the process's provider; whoever was first has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = ClientOptions::new()
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT)
        .with_allow_http(config.is_plain_loopback());
    if let Some(path) = &config.ca {
        let pem = read("the CA certificate", path)?;
        for certificate in Certificate::from_pem_bundle(pem.as_bytes())? {
            options = options.with_root_certificate(certificate);
        }
    }
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_crypto_provider(Arc::new(Signing))
        .with_client_options(options)
        .with_virtual_hosted_style_request(!config.is_path_style())
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: RETRY,
        });
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(path) = &config.credentials {
        let text = read("the credentials", path)?;
        let keys: Credentials = strict::from_toml(&text, &path.display().to_string())?;
        builder = builder
            .with_access_key_id(keys.access_key_id)
            .with_secret_access_key(keys.secret_access_key);
        if let Some(token) = keys.session_token {
            builder = builder.with_token(token);
        }
    }
    Ok(builder.build()?)
}

fn read(what: &'static str, path: &Path) -> Result<String, ObjectsError> {
    std::fs::read_to_string(path).map_err(|source| ObjectsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}
