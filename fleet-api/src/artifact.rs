use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, IdError, Name, Version};
use crate::model_files::PinnedFile;

/// Media type of a Wasm component layer (CNCF Wasm OCI artifact layout).
pub const WASM_LAYER: &str = "application/wasm";
/// Media type of the config of a Wasm artifact (CNCF Wasm OCI artifact layout).
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Media type of an ONNX model layer.
pub const ONNX_LAYER: &str = "application/vnd.onnx.model.v1";
/// Media type of the layer with a model's card (TOML).
pub const MODEL_CARD_LAYER: &str = "application/vnd.edge.model.card.v1+toml";
/// Media type of the layer with the names of a model's classes.
pub const MODEL_LABELS_LAYER: &str = "application/vnd.edge.model.labels.v1";
/// Media type of the layer with a model's golden inputs and outputs (JSON).
pub const MODEL_GOLDEN_LAYER: &str = "application/vnd.edge.model.golden.v1+json";
/// Media type of a layer with weights that the ONNX file keeps outside of itself; [`TITLE`] has the file's name.
pub const MODEL_DATA_LAYER: &str = "application/vnd.edge.model.data.v1";
/// Annotation with a layer's file name (OCI image spec).
pub const TITLE: &str = "org.opencontainers.image.title";
/// Artifact type and config media type of a model.
pub const ONNX_CONFIG: &str = "application/vnd.onnx.config.v1+json";
/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The two kinds of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// A WebAssembly component.
    Handler,
    /// An ONNX model.
    Model,
}

impl ArtifactKind {
    /// The first path component of the kind's OCI repositories.
    pub fn repository_root(self) -> &'static str {
        match self {
            Self::Handler => "handlers",
            Self::Model => "models",
        }
    }

    /// The OCI repository of an artifact, `handlers/<name>` or `models/<name>`.
    pub fn repository(self, name: &Name) -> String {
        format!("{}/{name}", self.repository_root())
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handler => "handler",
            Self::Model => "model",
        })
    }
}

/// `name:version`, immutable once pushed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// The artifact's name.
    pub name: Name,
    /// Its version.
    pub version: Version,
}

/// Why a string is not `name:version`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is no colon.
    #[error("{0:?} has no version: write NAME:VERSION")]
    NoVersion(String),
    /// The name or the version breaks its rule.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, version) = text
            .split_once(':')
            .ok_or_else(|| ReferenceError::NoVersion(text.to_owned()))?;
        Ok(Self {
            name: Name::new(name)?,
            version: Version::new(version)?,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

/// An artifact pinned to its content: what a node fetches and checks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PinnedArtifact {
    /// Handler or model.
    pub kind: ArtifactKind,
    /// The artifact's name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Digest of the Wasm or ONNX blob, served at `/v2/<repository>/blobs/<digest>`.
    pub digest: Digest,
    /// Size of that blob in bytes.
    pub size: u64,
    /// What a model has beside it, in the same repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PinnedFile>,
}

impl PinnedArtifact {
    /// Bytes of the artifact and of all files beside it.
    pub fn total_size(&self) -> u64 {
        let files = self.files.iter().map(|file| file.size);
        files.fold(self.size, u64::saturating_add)
    }
}

impl fmt::Display for PinnedArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.kind, self.name, self.version)
    }
}

crate::text_schema!(Reference);
