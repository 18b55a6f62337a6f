use std::fmt;

use serde::{Deserialize, Serialize};

use crate::artifact::PinnedArtifact;
use crate::ids::NodeId;

/// What a node runs, and how its last change went; retained on MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reported {
    /// Version of this document's form, 1.
    pub v: u8,
    /// The node.
    pub node: NodeId,
    /// The newest generation that the node has worked on; 0 before the first.
    pub generation: u64,
    /// The generation that serves; 0 before the first.
    pub serving_generation: u64,
    /// Where the transaction over `generation` stands.
    pub phase: Phase,
    /// How it ended, once it has.
    pub result: Option<Outcome>,
    /// Why it did not succeed.
    pub reason: Option<String>,
    /// One entry per artifact of `generation`.
    pub artifacts: Vec<ArtifactReport>,
    /// When this was written, in milliseconds since the Unix epoch, by the node's clock.
    pub time_ms: u64,
}

/// Where a node transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing to do.
    Idle,
    /// Artifacts are on their way.
    Fetching,
    /// Digests are checked.
    Verifying,
    /// Compiling, loading, self-test; nothing has changed yet.
    Preparing,
    /// The new versions take over.
    Switching,
    /// The new versions serve and are watched.
    Probation,
    /// The new versions serve for good.
    Committed,
    /// The old versions take over again.
    RollingBack,
    /// The old versions serve again.
    RolledBack,
}

/// How a node transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The new generation serves.
    Succeeded,
    /// It failed before anything changed.
    FailedNoChange,
    /// It failed and the old generation serves again.
    RolledBack,
    /// It failed and the old generation could not be brought back.
    UnableToRollBack,
    /// The node refused the document.
    Rejected,
}

/// One artifact on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArtifactReport {
    /// Which artifact.
    #[serde(flatten)]
    pub artifact: PinnedArtifact,
    /// Where it stands.
    pub state: ArtifactState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where an artifact stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactState {
    /// Not begun.
    Pending,
    /// On its way.
    Fetching,
    /// On disk, digest checked.
    Fetched,
    /// Compiled or loaded, self-test passed.
    Ready,
    /// Serves.
    Serving,
    /// Cannot run here.
    Failed,
}

macro_rules! kebab_display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}

kebab_display!(Phase, Outcome, ArtifactState);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_print_as_they_travel() {
        assert_eq!(Phase::RollingBack.to_string(), "rolling-back");
        assert_eq!(Outcome::FailedNoChange.to_string(), "failed-no-change");
        assert_eq!(ArtifactState::Serving.to_string(), "serving");
    }
}
