use std::path::PathBuf;

use fleet_api::artifact::PinnedArtifact;
use fleet_api::desired::Desired;
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

/// Why an artifact could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry does not answer, or stops in between.
    #[error("fetch {artifact}")]
    Network {
        /// What was fetched.
        artifact: Box<PinnedArtifact>,
        /// What the client library says.
        source: reqwest::Error,
    },
    /// The registry refuses.
    #[error("fetch {artifact}: the registry answered {status}{reason}")]
    Refused {
        /// What was fetched.
        artifact: Box<PinnedArtifact>,
        /// Its answer.
        status: StatusCode,
        /// Its own words, after a colon, if it gave any.
        reason: String,
    },
    /// What came is something else.
    #[error("fetch {artifact}: {found} bytes came of {}", artifact.size)]
    Size {
        /// What was fetched.
        artifact: Box<PinnedArtifact>,
        /// How many bytes there are.
        found: u64,
    },
    /// What came is something else.
    #[error("verify {artifact}")]
    Content {
        /// What was fetched.
        artifact: Box<PinnedArtifact>,
        /// Which digests differ.
        source: Box<StoreError>,
    },
    /// The disk is too full.
    #[error(
        "fetch {artifact}: {needed} bytes are needed and {free} are free where {path} lies: free some space"
    )]
    Space {
        /// What was to be fetched.
        artifact: Box<PinnedArtifact>,
        /// The store's folder.
        path: PathBuf,
        /// Bytes needed, the spare ones included.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk refuses.
    #[error("keep {artifact}")]
    Disk {
        /// What was fetched.
        artifact: Box<PinnedArtifact>,
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
            if !store.has(&artifact.digest) {
                report.artifact(artifact, ArtifactState::Fetching, None);
                self.fetch_verified(store, artifact, report).await?;
            }
            report.artifact(artifact, ArtifactState::Fetched, None);
        }
        Ok(())
    }

    async fn fetch_verified(
        &self,
        store: &ArtifactStore,
        artifact: &PinnedArtifact,
        report: &mut Report,
    ) -> Result<(), FetchError> {
        let mut attempt = 1;
        loop {
            self.fetch(store, artifact).await?;
            report.phase(Phase::Verifying);
            let (store, digest) = (store.clone(), artifact.digest.clone());
            let accepted = tokio::task::spawn_blocking(move || store.accept(&digest))
                .await
                .expect("checking a digest does not panic");
            match accepted {
                Ok(()) => return Ok(()),
                Err(StoreError::Io { source, .. }) => {
                    return Err(FetchError::Disk {
                        artifact: Box::new(artifact.clone()),
                        source,
                    });
                }
                Err(source) if attempt == DIGEST_ATTEMPTS => {
                    report.artifact(artifact, ArtifactState::Failed, Some(source.to_string()));
                    return Err(FetchError::Content {
                        artifact: Box::new(artifact.clone()),
                        source: Box::new(source),
                    });
                }
                Err(source) => {
                    tracing::warn!(%artifact, error = %source, "fetch again what came changed");
                    attempt += 1;
                }
            }
        }
    }

    /// Fetches into the unfinished blob, from where it ends.
    async fn fetch(
        &self,
        store: &ArtifactStore,
        artifact: &PinnedArtifact,
    ) -> Result<(), FetchError> {
        let network = |source| FetchError::Network {
            artifact: Box::new(artifact.clone()),
            source,
        };
        let disk = |source| FetchError::Disk {
            artifact: Box::new(artifact.clone()),
            source,
        };
        let path = store.partial(&artifact.digest);
        let mut have = tokio::fs::metadata(&path)
            .await
            .map_or(0, |meta| meta.len());
        if have > artifact.size {
            tokio::fs::remove_file(&path).await.map_err(disk)?;
            have = 0;
        }
        if have == artifact.size {
            return Ok(());
        }
        check_space(artifact, &path, artifact.size - have)?;
        let repository = artifact.kind.repository(&artifact.name);
        let url = format!("{}/v2/{repository}/blobs/{}", self.url, artifact.digest);
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
                artifact: Box::new(artifact.clone()),
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
            if written > artifact.size {
                break;
            }
            file.write_all(&chunk).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        if written != artifact.size {
            if written > artifact.size {
                tokio::fs::remove_file(&path).await.map_err(disk)?;
            }
            return Err(FetchError::Size {
                artifact: Box::new(artifact.clone()),
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

fn check_space(
    artifact: &PinnedArtifact,
    path: &std::path::Path,
    bytes: u64,
) -> Result<(), FetchError> {
    let folder = path.parent().unwrap_or(path);
    let disk = |source| FetchError::Disk {
        artifact: Box::new(artifact.clone()),
        source,
    };
    let free = free_bytes(folder).map_err(disk)?;
    let needed = bytes + SPARE_BYTES;
    if free < needed {
        return Err(FetchError::Space {
            artifact: Box::new(artifact.clone()),
            path: folder.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}
