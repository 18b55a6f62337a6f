use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactKind;
use crate::deployment::Deployment;
use crate::event::Event;
use crate::health::Health;
use crate::ids::{Digest, Name, NodeId, StreamName, Version};
use crate::labels::Labels;
use crate::model_files::PinnedFile;
use crate::presence::Presence;
use crate::reported::Reported;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    /// A stable code in snake case, for programs.
    pub code: String,
    /// A sentence that says what to do, for people.
    pub message: String,
}

impl ErrorBody {
    /// A body with a code and a sentence.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error: ErrorDetail {
                code: code.into(),
                message: message.into(),
            },
        }
    }
}

/// `GET /api/v1/artifacts`: one pushed artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArtifactSummary {
    /// Handler or model.
    pub kind: ArtifactKind,
    /// The artifact's name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Digest of the Wasm or ONNX blob.
    pub digest: Digest,
    /// Digest of the OCI manifest.
    pub manifest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// What it is: a component's world, or a model's inputs and outputs.
    pub description: String,
    /// What a model has beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PinnedFile>,
    /// When it was pushed, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// `GET /api/v1/nodes`: one node in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeSummary {
    /// The node.
    pub id: NodeId,
    /// Its labels.
    pub labels: Labels,
    /// Whether its control connection stands.
    pub online: bool,
    /// When it was last heard, in milliseconds since the Unix epoch, by the control plane's clock.
    pub last_seen_ms: Option<u64>,
    /// The newest generation that it shall run; 0 before the first.
    pub desired_generation: u64,
    /// The generation that it runs; 0 before the first.
    pub serving_generation: u64,
    /// One word for people: `ok`, `updating`, `failed`, `offline` or `new`.
    pub state: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// The runtime's version.
    pub version: Option<String>,
}

/// `GET /api/v1/nodes/{id}`: all that is known of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub summary: NodeSummary,
    /// When it joined, in milliseconds since the Unix epoch.
    pub enrolled_ms: u64,
    /// Its last birth or death.
    pub presence: Option<Presence>,
    /// What it reported last.
    pub reported: Option<Reported>,
    /// Its last figures.
    pub health: Option<Health>,
    /// What the archive has of it.
    pub archive: Vec<ArchiveStream>,
}

/// `POST /api/v1/deployments` answers this; the body is the deployment's TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApplyResult {
    /// The deployment.
    pub deployment: Name,
    /// What became of it.
    pub change: Change,
    /// Nodes that the selector matches now.
    pub nodes: Vec<NodeId>,
    /// Nodes whose desired state has changed by it, with their new generation.
    pub updated: Vec<NodeGeneration>,
    /// What the operator should know although it was applied.
    pub warnings: Vec<String>,
    /// Whether it was only tried (`?dry_run=true`).
    pub dry_run: bool,
}

/// What applying a deployment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Created,
    /// It replaced an older one.
    Changed,
    /// It was there already, the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// A node and a generation of its desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeGeneration {
    /// The node.
    pub node: NodeId,
    /// The generation.
    pub generation: u64,
}

/// `GET /api/v1/deployments`: one deployment and how far its nodes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentStatus {
    /// The deployment as applied.
    pub spec: Deployment,
    /// Nodes that the selector matches.
    pub nodes: u32,
    /// Of those: run what they shall.
    pub committed: u32,
    /// Of those: could not change.
    pub failed: u32,
    /// When it was applied last, in milliseconds since the Unix epoch.
    pub applied_ms: u64,
}

/// `POST /api/v1/tokens` takes this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRequest {
    /// Labels that every node which joins with it gets.
    #[serde(default)]
    pub labels: Labels,
    /// How long it may be used, in seconds. Default one day.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// How often it may be used. Default once.
    #[serde(default)]
    pub uses: Option<u32>,
}

/// `POST /api/v1/tokens` answers this; the token is shown only here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    /// The join token.
    pub token: String,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// How often it may be used.
    pub uses: u32,
}

/// `POST /api/v1/enroll` takes this, with the join token's secret as bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrollRequest {
    /// The id that the node asks for.
    pub node: NodeId,
    /// A PKCS#10 request in PEM; only its public key is taken over.
    pub csr_pem: String,
}

/// `POST /api/v1/enroll` answers this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrollResponse {
    /// The node's id, the common name of its certificate.
    pub node: NodeId,
    /// The node's certificate in PEM.
    pub certificate_pem: String,
    /// The CA's certificate in PEM.
    pub ca_pem: String,
    /// Host of the MQTT listener.
    pub mqtt_host: String,
    /// Port of the MQTT listener.
    pub mqtt_port: u16,
}

/// `GET /api/v1/archive`: what has been archived of one stream of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArchiveStream {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamName,
    /// Epoch of the newest record.
    pub epoch: u64,
    /// Highest sequence up to which nothing is missing.
    pub watermark: u64,
    /// Records written since the control plane started.
    pub records: u64,
    /// Records that came again and were dropped since the control plane started.
    pub duplicates: u64,
    /// Sequences that a node's limits evicted, since the control plane started.
    pub gaps: u64,
    /// Files of records.
    #[serde(default)]
    pub files: u64,
    /// Bytes of all files.
    #[serde(default)]
    pub bytes: u64,
    /// Sequences without a record, in all gaps.
    #[serde(default)]
    pub missing: u64,
    /// How many gaps there are.
    #[serde(default)]
    pub gap_count: u64,
    /// The epochs of the node's buffer in their order; the last one is the present one.
    #[serde(default)]
    pub epochs: Vec<ArchiveEpoch>,
}

/// What has been archived of one epoch of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArchiveEpoch {
    /// The epoch.
    pub epoch: u64,
    /// Its first sequence here.
    pub first: u64,
    /// Its last sequence here.
    pub last: u64,
    /// When a file of it was written last, in milliseconds since the Unix epoch.
    pub written_ms: u64,
}

/// `GET /api/v1/archive/gaps`: sequences that have no record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArchiveGap {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamName,
    /// The epoch.
    pub epoch: u64,
    /// The first sequence that is not there.
    pub first: u64,
    /// The last one, inclusive; unknown where the node's buffer was made anew.
    pub last: Option<u64>,
    /// How many records are gone; unknown where the node's buffer was made anew.
    pub lost: Option<u64>,
    /// Why: `quota`, `expired`, `damaged`, `too-large` as the node says, `missing` where it sent
    /// nothing in their place, `new-buffer` where its buffer was made anew.
    pub reason: String,
    /// Time of the last record before the gap, in milliseconds since the Unix epoch.
    pub after_ms: Option<u64>,
    /// When the archive heard of it, in milliseconds since the Unix epoch.
    pub noted_ms: u64,
}

/// `GET /api/v1/events`: what nodes tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeEvent {
    /// Its place in the fleet's log; grows.
    pub id: u64,
    /// The node that tells it.
    pub node: NodeId,
    /// What it tells.
    #[serde(flatten)]
    pub event: Event,
}

/// `GET /api/v1/info`: the control plane itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Info {
    /// Its version.
    pub version: String,
    /// Host of the MQTT listener.
    pub mqtt_host: String,
    /// Port of the MQTT listener.
    pub mqtt_port: u16,
    /// Since it started, in seconds.
    pub uptime_s: u64,
}
