mod beside;

use std::collections::BTreeMap;

use bytes::Bytes;
use fleet_api::artifact::{ArtifactKind, ONNX_LAYER, WASM_LAYER};
use fleet_api::ids::{Digest, Version};
use fleet_api::model_files::{FileRole, PinnedFile};
use serde::Deserialize;
use sqlx::Row as _;

use super::{Registry, RegistryError, Repository};
use crate::clock::now_ms;
use crate::fleet::{signed, to_json};
use crate::inspect::{self, Beside, most_bytes};

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestRef {
    Tag(Version),
    Digest(Digest),
}

/// A manifest as it was pushed.
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) content: Vec<u8>,
}

/// A manifest that was taken.
pub(crate) struct Accepted {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
}

/// One entry of the list of referrers.
pub(crate) struct Referrer {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    pub(crate) size: usize,
    pub(crate) annotations: serde_json::Value,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

impl Registry {
    /// Takes a manifest, if everything it names is there and can run.
    pub(crate) async fn put_manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
        content_type: Option<&str>,
        content: &Bytes,
    ) -> Result<Accepted, RegistryError> {
        if content.len() > self.0.max_manifest {
            let max = self.0.max_manifest;
            return Err(RegistryError::ManifestTooLarge { max });
        }
        let digest = Digest::of(content);
        if let ManifestRef::Digest(claimed) = reference
            && *claimed != digest
        {
            return Err(RegistryError::WrongDigest {
                claimed: claimed.clone(),
                found: digest,
            });
        }
        if let ManifestRef::Tag(tag) = reference
            && let Some(have) = self.tagged(repository, tag).await?
        {
            return if have == digest {
                let subject = subject_of(content);
                Ok(Accepted { digest, subject })
            } else {
                Err(taken(repository, tag, have))
            };
        }
        let manifest = read(content)?;
        let media_type = manifest_type(&manifest, content_type)?;
        let artifact = if media_type == INDEX {
            for entry in &manifest.manifests {
                let wanted = ManifestRef::Digest(entry.digest.clone());
                self.manifest(repository, &wanted).await?;
            }
            None
        } else {
            self.check_blobs(repository, &manifest).await?;
            // What refers to another manifest is a signature or the like, nothing that runs.
            match &manifest.subject {
                Some(_) => None,
                None => Some(self.inspect(repository, &manifest).await?),
            }
        };
        self.keep(
            repository,
            reference,
            &digest,
            &media_type,
            &manifest,
            content,
            artifact,
        )
        .await?;
        Ok(Accepted {
            digest,
            subject: manifest.subject.map(|s| s.digest),
        })
    }

    async fn check_blobs(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<(), RegistryError> {
        for wanted in manifest.config.iter().chain(&manifest.layers) {
            match self.blob(repository, &wanted.digest).await {
                Ok(blob) if blob.size == wanted.size => {}
                Ok(blob) => {
                    return Err(RegistryError::ManifestInvalid(format!(
                        "the manifest gives blob {} {} bytes, but it has {}",
                        wanted.digest, wanted.size, blob.size
                    )));
                }
                Err(RegistryError::BlobUnknown(digest)) => {
                    return Err(RegistryError::ManifestBlobUnknown(digest));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Finds the component or model in a manifest, and refuses what cannot run.
    async fn inspect(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<Artifact, RegistryError> {
        let wanted = match repository.kind {
            ArtifactKind::Handler => WASM_LAYER,
            ArtifactKind::Model => ONNX_LAYER,
        };
        let mut typed = manifest.layers.iter().filter(|l| l.media_type == wanted);
        let layer = match (typed.next(), typed.next(), &manifest.layers[..]) {
            (Some(layer), None, _) | (None, None, [layer]) => layer,
            (None, ..) => {
                return Err(RegistryError::ManifestInvalid(format!(
                    "a {} needs one layer of type {wanted}, and the manifest has none",
                    repository.kind
                )));
            }
            (Some(_), Some(_), _) => {
                return Err(RegistryError::ManifestInvalid(format!(
                    "a {} needs one layer of type {wanted}, and the manifest has several",
                    repository.kind
                )));
            }
        };
        let files = match repository.kind {
            ArtifactKind::Handler => Vec::new(),
            ArtifactKind::Model => beside::files(&manifest.layers)?,
        };
        let _permit = self.0.inspecting.acquire().await;
        let bytes = self.blob_bytes(&layer.digest).await?;
        let mut contents = Vec::with_capacity(files.len());
        for file in &files {
            let looked_at = file.role != FileRole::Data && file.size <= most_bytes(file.role);
            let content = if looked_at {
                self.blob_bytes(&file.digest).await?
            } else {
                Bytes::new()
            };
            contents.push(Beside {
                file: file.clone(),
                content,
            });
        }
        let kind = repository.kind;
        let describe = move || inspect::describe(kind, &bytes, &contents);
        let description = tokio::task::spawn_blocking(describe).await.map_err(|_| {
            RegistryError::ManifestInvalid(format!("the {kind} cannot be inspected"))
        })??;
        Ok(Artifact {
            digest: layer.digest.clone(),
            size: layer.size,
            description,
            files,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one row of each of three tables")]
    async fn keep(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
        digest: &Digest,
        media_type: &str,
        manifest: &Manifest,
        content: &Bytes,
        artifact: Option<Artifact>,
    ) -> Result<(), RegistryError> {
        let mut change = self.0.store.change().await?;
        let config_type = manifest.config.as_ref().map(|c| c.media_type.clone());
        sqlx::query(
            "INSERT INTO manifests (repository, digest, media_type, content, subject, artifact_type, created_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(repository.to_string())
        .bind(digest.as_str())
        .bind(media_type)
        .bind(&content[..])
        .bind(manifest.subject.as_ref().map(|s| s.digest.to_string()))
        .bind(manifest.artifact_type.clone().or(config_type))
        .bind(signed(now_ms()))
        .execute(&mut *change)
        .await?;
        if let ManifestRef::Tag(tag) = reference {
            sqlx::query(
                "INSERT INTO tags (repository, tag, manifest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(repository.to_string())
            .bind(tag.as_str())
            .bind(digest.as_str())
            .execute(&mut *change)
            .await?;
            // Somebody may have been faster since we looked.
            let row = sqlx::query("SELECT manifest FROM tags WHERE repository = ? AND tag = ?")
                .bind(repository.to_string())
                .bind(tag.as_str())
                .fetch_one(&mut *change)
                .await?;
            let have = row.get::<String, _>("manifest");
            if have != digest.as_str() {
                let have = Digest::new(have).map_err(crate::fleet::StoreError::from)?;
                return Err(taken(repository, tag, have));
            }
            if let Some(artifact) = artifact {
                sqlx::query(
                    "INSERT INTO artifacts (kind, name, version, digest, manifest, size, description, files, created_ms)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                )
                .bind(repository.kind.to_string())
                .bind(repository.name.as_str())
                .bind(tag.as_str())
                .bind(artifact.digest.as_str())
                .bind(digest.as_str())
                .bind(signed(artifact.size))
                .bind(artifact.description)
                .bind(to_json(&artifact.files))
                .bind(signed(now_ms()))
                .execute(&mut *change)
                .await?;
                tracing::info!(artifact = %format!("{} {}:{tag}", repository.kind, repository.name),
                    digest = %artifact.digest, size = artifact.size, "took an artifact");
            }
        }
        change.commit().await?;
        Ok(())
    }

    async fn tagged(
        &self,
        repository: &Repository,
        tag: &Version,
    ) -> Result<Option<Digest>, RegistryError> {
        let row = sqlx::query("SELECT manifest FROM tags WHERE repository = ? AND tag = ?")
            .bind(repository.to_string())
            .bind(tag.as_str())
            .fetch_optional(self.0.store.pool())
            .await?;
        let digest = row.map(|row| Digest::new(row.get::<String, _>("manifest")));
        Ok(digest.transpose().map_err(crate::fleet::StoreError::from)?)
    }

    /// A manifest by tag or digest.
    pub(crate) async fn manifest(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Stored, RegistryError> {
        let unknown = || {
            RegistryError::ManifestUnknown(match reference {
                ManifestRef::Tag(tag) => tag.to_string(),
                ManifestRef::Digest(digest) => digest.to_string(),
            })
        };
        let digest = match reference {
            ManifestRef::Tag(tag) => self.tagged(repository, tag).await?.ok_or_else(unknown)?,
            ManifestRef::Digest(digest) => digest.clone(),
        };
        let row = sqlx::query(
            "SELECT media_type, content FROM manifests WHERE repository = ? AND digest = ?",
        )
        .bind(repository.to_string())
        .bind(digest.as_str())
        .fetch_optional(self.0.store.pool())
        .await?
        .ok_or_else(unknown)?;
        Ok(Stored {
            digest,
            media_type: row.get("media_type"),
            content: row.get("content"),
        })
    }

    /// The tags after `last`, in their order, at most `n`; `None` if there is no such repository.
    pub(crate) async fn tags(
        &self,
        repository: &Repository,
        last: &str,
        n: u32,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let known = sqlx::query("SELECT 1 FROM manifests WHERE repository = ? LIMIT 1")
            .bind(repository.to_string())
            .fetch_optional(self.0.store.pool())
            .await?;
        if known.is_none() {
            return Ok(None);
        }
        let rows = sqlx::query(
            "SELECT tag FROM tags WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?",
        )
        .bind(repository.to_string())
        .bind(last)
        .bind(n)
        .fetch_all(self.0.store.pool())
        .await?;
        Ok(Some(rows.iter().map(|row| row.get("tag")).collect()))
    }

    /// The repositories after `last`, in their order, at most `n`.
    pub(crate) async fn repositories(
        &self,
        last: &str,
        n: u32,
    ) -> Result<Vec<String>, RegistryError> {
        let rows = sqlx::query(
            "SELECT DISTINCT repository FROM manifests WHERE repository > ? ORDER BY repository LIMIT ?",
        )
        .bind(last)
        .bind(n)
        .fetch_all(self.0.store.pool())
        .await?;
        Ok(rows.iter().map(|row| row.get("repository")).collect())
    }

    /// The manifests that name `digest` as their subject.
    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let rows = sqlx::query(
            "SELECT digest, media_type, artifact_type, content FROM manifests
             WHERE repository = ? AND subject = ? ORDER BY digest",
        )
        .bind(repository.to_string())
        .bind(digest.as_str())
        .fetch_all(self.0.store.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let content: Vec<u8> = row.get("content");
                let annotations = read(&content).map(|m| m.annotations).unwrap_or_default();
                let digest = Digest::new(row.get::<String, _>("digest"))
                    .map_err(crate::fleet::StoreError::from)?;
                Ok(Referrer {
                    digest,
                    media_type: row.get("media_type"),
                    artifact_type: row.get("artifact_type"),
                    size: content.len(),
                    annotations,
                })
            })
            .collect()
    }
}

struct Artifact {
    digest: Digest,
    size: u64,
    description: String,
    files: Vec<PinnedFile>,
}

fn taken(repository: &Repository, tag: &Version, have: Digest) -> RegistryError {
    RegistryError::TagTaken {
        repository: repository.to_string(),
        tag: tag.to_string(),
        have,
    }
}

fn read(content: &[u8]) -> Result<Manifest, RegistryError> {
    let manifest: Manifest = serde_json::from_slice(content)
        .map_err(|e| RegistryError::ManifestInvalid(format!("the manifest is not valid: {e}")))?;
    if manifest.schema_version != 2 {
        let version = manifest.schema_version;
        return Err(RegistryError::ManifestInvalid(format!(
            "the manifest has schemaVersion {version}: 2 is known"
        )));
    }
    Ok(manifest)
}

fn subject_of(content: &[u8]) -> Option<Digest> {
    Some(read(content).ok()?.subject?.digest)
}

/// The media type of a manifest; its own word and the request's must agree.
fn manifest_type(manifest: &Manifest, content_type: Option<&str>) -> Result<String, RegistryError> {
    let sent = content_type.map(|t| t.split(';').next().unwrap_or_default().trim());
    let own = manifest.media_type.as_deref();
    if let (Some(sent), Some(own)) = (sent, own)
        && sent != own
    {
        return Err(RegistryError::ManifestInvalid(format!(
            "the manifest calls itself {own}, but was sent as {sent}"
        )));
    }
    let media_type = own.or(sent).unwrap_or(MANIFEST);
    match media_type {
        MANIFEST | INDEX | DOCKER_MANIFEST => Ok(media_type.to_owned()),
        other => Err(RegistryError::ManifestInvalid(format!(
            "manifests of type {other} are not taken: send {MANIFEST}"
        ))),
    }
}
