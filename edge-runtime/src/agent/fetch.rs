use std::fmt;
use std::path::PathBuf;

use fleet_api::artifact::PinnedArtifact;
use fleet_api::desired::Desired;
use fleet_api::ids::Digest;
use fleet_api::model_files::FileName;
use fleet_api::reported::{ArtifactState, Phase};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use tokio::io::AsyncWriteExt as _;

use super::ledger::artifacts;
use super::report::Report;
use super::store::{ArtifactStore, StoreError};
use crate::disk::free_bytes;

/// Space that an artifact must leave free on the disk.
const SPARE_BYTES: u64 = 64 << 20;
/// How often content with a wrong digest is fetched before the generation fails.
const DIGEST_ATTEMPTS: u32 = 3;

/// Fetches artifacts from the control plane's registry.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: reqwest::Client,
    url: String,
}

/// A blob to fetch: an artifact itself, or a file beside it.
#[derive(Debug, Clone)]
pub struct Wanted {
    artifact: PinnedArtifact,
    /// The file's name, if it is one beside the artifact.
    file: Option<FileName>,
    digest: Digest,
    size: u64,
}

impl Wanted {
    /// All blobs of an artifact.
    fn of(artifact: &PinnedArtifact) -> impl Iterator<Item = Self> {
        let itself = (None, &artifact.digest, artifact.size);
        let files = artifact.files.iter();
        let files = files.map(|file| (Some(&file.name), &file.digest, file.size));
        [itself]
            .into_iter()
            .chain(files)
            .map(|(file, digest, size)| Self {
                artifact: artifact.clone(),
                file: file.cloned(),
                digest: digest.clone(),
                size,
            })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file} of {}", self.artifact),
            None => write!(f, "{}", self.artifact),
        }
    }
}

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry does not answer, or stops in between.
    #[error("fetch {wanted}")]
    Network {
        /// What was fetched.
        wanted: Box<Wanted>,
        /// What the client library says.
        source: reqwest::Error,
    },
    /// The registry refuses.
    #[error("fetch {wanted}: the registry answered {status}{reason}")]
    Refused {
        /// What was fetched.
        wanted: Box<Wanted>,
        /// Its answer.
        status: StatusCode,
        /// Its own words, after a colon, if it gave any.
        reason: String,
    },
    /// What came is something else.
    #[error("fetch {wanted}: {found} bytes came of {}", wanted.size)]
    Size {
        /// What was fetched.
        wanted: Box<Wanted>,
        /// How many bytes there are.
        found: u64,
    },
    /// What came is something else.
    #[error("verify {wanted}")]
    Content {
        /// What was fetched.
        wanted: Box<Wanted>,
        /// Which digests differ.
        source: Box<StoreError>,
    },
    /// The disk is too full.
    #[error(
        "fetch {wanted}: {needed} bytes are needed and {free} are free where {path} lies: free some space"
    )]
    Space {
        /// What was to be fetched.
        wanted: Box<Wanted>,
        /// The store's folder.
        path: PathBuf,
        /// Bytes needed, the spare ones included.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk refuses.
    #[error("keep {wanted}")]
    Disk {
        /// What was fetched.
        wanted: Box<Wanted>,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl FetchError {
    /// Whether another try may go well without anybody's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Network { .. } | Self::Size { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            Self::Content { .. } | Self::Space { .. } | Self::Disk { .. } => false,
        }
    }

    /// Whether the machine is at fault, not the artifact.
    pub fn depends_on_the_machine(&self) -> bool {
        matches!(self, Self::Space { .. } | Self::Disk { .. })
    }
}

impl Fetcher {
    /// Fetches over `client` from the control plane at `url`.
    pub fn new(client: reqwest::Client, url: String) -> Self {
        Self { client, url }
    }

    /// Brings all artifacts of `desired` into `store` and checks each against its digest.
    pub(crate) async fn fetch_all(
        &self,
        store: &ArtifactStore,
        desired: &Desired,
        report: &mut Report,
    ) -> Result<(), FetchError> {
        for artifact in artifacts(desired) {
            for wanted in Wanted::of(artifact) {
                if !store.has(&wanted.digest) {
                    report.artifact(artifact, ArtifactState::Fetching, None);
                    self.fetch_verified(store, &wanted, Some(&mut *report))
                        .await?;
                }
            }
            report.artifact(artifact, ArtifactState::Fetched, None);
        }
        Ok(())
    }

    /// Brings one artifact into `store`, apart from any desired state.
    pub(crate) async fn fetch_artifact(
        &self,
        store: &ArtifactStore,
        artifact: &PinnedArtifact,
    ) -> Result<(), FetchError> {
        for wanted in Wanted::of(artifact) {
            if !store.has(&wanted.digest) {
                self.fetch_verified(store, &wanted, None).await?;
            }
        }
        Ok(())
    }

    async fn fetch_verified(
        &self,
        store: &ArtifactStore,
        wanted: &Wanted,
        mut report: Option<&mut Report>,
    ) -> Result<(), FetchError> {
        let mut attempt = 1;
        loop {
            self.fetch(store, wanted).await?;
            if let Some(report) = &mut report {
                report.phase(Phase::Verifying);
            }
            let (store, digest) = (store.clone(), wanted.digest.clone());
            let accepted = tokio::task::spawn_blocking(move || store.accept(&digest))
                .await
                .expect("checking a digest does not panic");
            match accepted {
                Ok(()) => return Ok(()),
                Err(StoreError::Io { source, .. }) => {
                    return Err(FetchError::Disk {
                        wanted: Box::new(wanted.clone()),
                        source,
                    });
                }
                Err(source) if attempt == DIGEST_ATTEMPTS => {
                    if let Some(report) = report {
                        let reason = Some(source.to_string());
                        report.artifact(&wanted.artifact, ArtifactState::Failed, reason);
                    }
                    return Err(FetchError::Content {
                        wanted: Box::new(wanted.clone()),
                        source: Box::new(source),
                    });
                }
                Err(source) => {
                    tracing::warn!(%wanted, error = %source, "fetch again what came changed");
                    attempt += 1;
                }
            }
        }
    }

    /// Fetches into the unfinished blob, from where it ends.
    async fn fetch(&self, store: &ArtifactStore, wanted: &Wanted) -> Result<(), FetchError> {
        let network = |source| FetchError::Network {
            wanted: Box::new(wanted.clone()),
            source,
        };
        let disk = |source| FetchError::Disk {
            wanted: Box::new(wanted.clone()),
            source,
        };
        let path = store.partial(&wanted.digest);
        let mut have = tokio::fs::metadata(&path)
            .await
            .map_or(0, |meta| meta.len());
        if have > wanted.size {
            tokio::fs::remove_file(&path).await.map_err(disk)?;
            have = 0;
        }
        if have == wanted.size {
            return Ok(());
        }
        check_space(wanted, &path, wanted.size - have)?;
        let artifact = &wanted.artifact;
        let repository = artifact.kind.repository(&artifact.name);
        let url = format!("{}/v2/{repository}/blobs/{}", self.url, wanted.digest);
        let mut request = self.client.get(url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let answer = request.send().await.map_err(network)?;
        let resumes = answer.status() == StatusCode::PARTIAL_CONTENT
            && answer
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if !answer.status().is_success() {
            let status = answer.status();
            let reason = refusal(answer).await.map(|words| format!(": {words}"));
            return Err(FetchError::Refused {
                wanted: Box::new(wanted.clone()),
                status,
                reason: reason.unwrap_or_default(),
            });
        }
        let mut file = tokio::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .append(resumes)
            .truncate(!resumes)
            .open(&path)
            .await
            .map_err(disk)?;
        let mut written = if resumes { have } else { 0 };
        let mut body = answer.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(network)?;
            written += chunk.len() as u64;
            if written > wanted.size {
                break;
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        if written != wanted.size {
            if written > wanted.size {
                tokio::fs::remove_file(&path).await.map_err(disk)?;
            }
            return Err(FetchError::Size {
                wanted: Box::new(wanted.clone()),
                found: written,
            });
        }
        Ok(())
    }
}

/// What the registry says in an OCI error body (distribution-spec 1.1, error codes).
async fn refusal(answer: reqwest::Response) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        message: String,
    }
    if answer.content_length()? > 64 << 10 {
        return None;
    }
    let body: Body = answer.json().await.ok()?;
    Some(body.errors.into_iter().next()?.message)
}

fn check_space(wanted: &Wanted, path: &std::path::Path, bytes: u64) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(path);
    let disk = |source| FetchError::Disk {
        wanted: Box::new(wanted.clone()),
        source,
    };
    let free = free_bytes(folder).map_err(disk)?;
    let needed = bytes + SPARE_BYTES;
    if free < needed {
        return Err(FetchError::Space {
            wanted: Box::new(wanted.clone()),
            path: folder.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}
