//! Replays: a recorded range of a stream run through another version of its
//! processor on the node, apart from production, and compared with the version
//! in production.
//!
//! ```text
//!  replays (retained, signed like the desired state) ─► node runs each once ─► replayed (retained)
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::artifact::Reference;
use crate::desired::{DesiredHandler, DesiredModel};
use crate::ids::{Name, NodeId, StreamName};

/// The payload type of an [`crate::desired::Envelope`] around [`Replays`].
pub const PAYLOAD_TYPE: &str = "application/vnd.edge.replays.v1+json";
/// Replays that a node has at the same time.
pub const MOST_REPLAYS: usize = 4;
/// Examples of differences that a result may have.
pub const MOST_EXAMPLES: u32 = 20;
/// Longest value in an example, in bytes; longer ones are cut.
pub const EXAMPLE_BYTES: usize = 1_024;

/// All replays that one node shall run or hold the result of: whole, never a diff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Replays {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node it is for.
    pub node: NodeId,
    /// Fences a deposed control plane, as in the desired state.
    pub epoch: u64,
    /// The replays, in the order in which they shall run.
    pub replays: Vec<ReplaySpec>,
}

/// One replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplaySpec {
    /// Its id; one id is never used for anything else.
    pub id: Name,
    /// The stream whose records are run.
    pub stream: StreamName,
    /// Which of its records.
    pub range: ReplayRange,
    /// What is tried.
    pub candidate: ReplaySide,
    /// What it is compared with; none only counts the candidate's outputs.
    pub baseline: Option<ReplaySide>,
    /// How it runs.
    pub options: ReplayOptions,
}

/// Which records of a stream; both ends are inclusive, and none is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayRange {
    /// First sequence.
    #[serde(default)]
    pub from: Option<u64>,
    /// Last sequence.
    #[serde(default)]
    pub to: Option<u64>,
    /// Earliest time, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Latest time, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

/// A processor as one side of a replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplaySide {
    /// The handler, with the limits, grants and values of its deployment.
    pub handler: DesiredHandler,
    /// Models loaded for it alone; empty lets it use those that serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<DesiredModel>,
}

/// How a replay runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayOptions {
    /// Numbers no further apart than this, or than this part of the larger one, count as equal.
    pub tolerance: f64,
    /// Examples of differences in the result.
    pub examples: u32,
    /// Whether both sides begin with a copy of what the processors in production have kept.
    #[serde(default)]
    pub copy_state: bool,
    /// Records at most.
    pub max_records: u64,
    /// Seconds at most.
    pub max_seconds: u32,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            tolerance: 1e-6,
            examples: 5,
            copy_state: false,
            max_records: 1_000_000,
            max_seconds: 600,
        }
    }
}

/// What a node says of its replays; retained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Replayed {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node.
    pub node: NodeId,
    /// One entry per replay that it knows.
    pub replays: Vec<ReplayReport>,
}

/// Where a replay stands on its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayReport {
    /// Its id.
    pub id: Name,
    /// Where it stands.
    pub state: ReplayState,
    /// How often it was begun: once more after each stop of the node on the way.
    pub attempt: u32,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What has come of it so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ReplayResult>,
}

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReplayState {
    /// The node has not begun.
    Waiting,
    /// Artifacts are on their way, compiled and loaded.
    Preparing,
    /// Records are run.
    Running,
    /// All is done.
    Done,
    /// It could not be done.
    Failed,
    /// It was taken back before it was done.
    Cancelled,
}

impl ReplayState {
    /// Whether nothing more will come.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for ReplayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayResult {
    /// First and last sequence that were run.
    pub first_seq: u64,
    /// Last sequence that was run.
    pub last_seq: u64,
    /// Time of the first record, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// Time of the last record, in milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// Records that were run.
    pub records: u64,
    /// Records that the range has at most, by its sequences.
    pub of: u64,
    /// Batches that were run.
    pub batches: u64,
    /// Records of the range that the node's limits had evicted before.
    pub lost: u64,
    /// Why it ended before the range did, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<String>,
    /// How the candidate fared.
    pub candidate: SideResult,
    /// How the version in production fared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<SideResult>,
    /// The outputs by stream.
    pub streams: Vec<StreamDifference>,
    /// The first differences.
    pub examples: Vec<Example>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// How one side fared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SideResult {
    /// The version.
    pub version: String,
    /// Records that it put out.
    pub outputs: u64,
    /// Batches that it refused, or in which it was stopped.
    pub failed_batches: u64,
    /// The first reason of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// Median time of a batch in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the time of a batch in microseconds.
    pub p99_us: u64,
    /// Longest time of a batch in microseconds.
    pub max_us: u64,
}

/// How the outputs to one stream differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamDifference {
    /// The stream that they would have gone to.
    pub stream: String,
    /// Outputs of the version in production.
    pub baseline: u64,
    /// Outputs of the candidate.
    pub candidate: u64,
    /// Equal within the tolerance.
    pub equal: u64,
    /// In the same place, but not equal.
    pub differing: u64,
    /// Of the version in production alone.
    pub missing: u64,
    /// Of the candidate alone.
    pub extra: u64,
    /// Largest distance of two numbers in the same place.
    pub largest_distance: f64,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Example {
    /// The stream that the output would have gone to.
    pub stream: String,
    /// First sequence of the batch that it came of.
    pub batch: u64,
    /// What the version in production put out, if anything.
    pub baseline: Option<String>,
    /// What the candidate put out, if anything.
    pub candidate: Option<String>,
}

impl ReplayResult {
    /// Equal outputs among all outputs of either side, from 0 to 1; 1 if there are none.
    pub fn agreement(&self) -> f64 {
        let sum = |count: fn(&StreamDifference) -> u64| self.streams.iter().map(count).sum::<u64>();
        let all = sum(|s| s.equal + s.differing + s.missing + s.extra);
        if all == 0 {
            return 1.0;
        }
        sum(|s| s.equal) as f64 / all as f64
    }
}

/// `POST /api/v1/nodes/{id}/replays` takes this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The stream whose records are run.
    pub stream: StreamName,
    /// Which of its records.
    #[serde(default)]
    pub range: ReplayRange,
    /// The processor to try; the one in production if only a model or a value differs.
    #[serde(default)]
    pub handler: Option<Reference>,
    /// Model versions to try, in the place of the ones that serve.
    #[serde(default)]
    pub models: Vec<Reference>,
    /// Values of wasi:config in the place of the deployment's.
    #[serde(default)]
    pub config: std::collections::BTreeMap<String, String>,
    /// The processor to compare with; the one in production if none is named.
    #[serde(default)]
    pub against: Option<Reference>,
    /// How it runs.
    #[serde(default)]
    pub options: Option<ReplayOptions>,
}

/// A replay as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayStatus {
    /// The node.
    pub node: NodeId,
    /// Its stream.
    pub stream: StreamName,
    /// What is tried.
    pub candidate: Reference,
    /// What it is compared with.
    pub baseline: Option<Reference>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it is given up, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub report: ReplayReport,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_what_is_only_on_one_side() {
        let stream = StreamDifference {
            equal: 6,
            differing: 1,
            missing: 2,
            extra: 3,
            ..StreamDifference::default()
        };
        let result = ReplayResult {
            streams: vec![stream],
            ..ReplayResult::default()
        };
        assert!((result.agreement() - 0.5).abs() < 1e-9);
        assert!((ReplayResult::default().agreement() - 1.0).abs() < 1e-9);
    }
}
