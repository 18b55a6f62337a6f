//! Why a model was not loaded or did not answer.

use std::path::PathBuf;

use fleet_api::ids::IdError;

use super::tensor::TensorError;

/// Everything that can go wrong between a request, or a deployment, and its result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModelError {
    /// ONNX Runtime could not be loaded; nothing on this node can infer.
    #[error("inference is unavailable: {reason}")]
    EngineUnavailable {
        /// What is missing, and what to do.
        reason: String,
    },
    /// A name or version that breaks the rules for them.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The file is no model that this engine runs.
    #[error("model {name}:{version} cannot be loaded from {}: {reason}", path.display())]
    Load {
        /// The model.
        name: String,
        /// Its version.
        version: String,
        /// Its file.
        path: PathBuf,
        /// The engine's reason.
        reason: String,
    },
    /// The model loaded, but did not show what it has to show before it becomes ready.
    #[error("model {name}:{version} {reason}")]
    Unproven {
        /// The model.
        name: String,
        /// Its version.
        version: String,
        /// What it did not show.
        reason: String,
    },
    /// The models that are to be in memory do not fit together.
    #[error(
        "model {name}:{version} needs {needed} bytes of memory; with the {taken} of the others that is more than the \
         {budget} that models may take on this node (models.memory)"
    )]
    Memory {
        /// The model.
        name: String,
        /// Its version.
        version: String,
        /// What it takes, as measured.
        needed: u64,
        /// What the others take.
        taken: u64,
        /// What all may take.
        budget: u64,
    },
    /// The model is loaded on demand, and could not be.
    #[error("model '{name}' could not be loaded: {reason}")]
    NotLoaded {
        /// The model.
        name: String,
        /// Why.
        reason: String,
    },
    /// No such model is deployed.
    #[error("model '{name}' is not deployed on this node")]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// The model is deployed, but not in this version.
    #[error("model '{name}' has no version '{version}'; deployed: {available}")]
    UnknownVersion {
        /// The model.
        name: String,
        /// The version asked for.
        version: String,
        /// Those that are there.
        available: String,
    },
    /// A request that is no inference request.
    #[error("{0}")]
    Request(String),
    /// An input whose data is not what its type and shape say.
    #[error("input '{input}' {problem}")]
    Tensor {
        /// The input.
        input: String,
        /// What is wrong.
        problem: TensorError,
    },
    /// An input that is not what the model takes, or an output that it does not have.
    #[error("{0}")]
    Mismatch(String),
    /// The model refused these values, for instance an index out of range.
    #[error("model '{name}' cannot run on this input: {reason}")]
    Refused {
        /// The model.
        name: String,
        /// The engine's reason.
        reason: String,
    },
    /// The engine failed on a good request.
    #[error("model '{name}' failed: {reason}")]
    Failed {
        /// The model.
        name: String,
        /// The engine's reason.
        reason: String,
    },
    /// As many requests wait as may.
    #[error("model '{name}' is busy: {limit} requests wait already; try again later")]
    QueueFull {
        /// The model.
        name: String,
        /// How many may wait.
        limit: usize,
        /// How long those take that wait, in milliseconds.
        wait_ms: u64,
    },
    /// What waits already takes longer than the request can wait.
    #[error(
        "model '{name}' is busy: what waits takes {wait_ms} ms, longer than the request's deadline; try again later"
    )]
    TooBusy {
        /// The model.
        name: String,
        /// How long the queue is expected to take, in milliseconds.
        wait_ms: u64,
    },
    /// The request's deadline passed, in the queue or in the run, which was stopped.
    #[error("model '{name}' did not answer before the request's deadline")]
    Deadline {
        /// The model.
        name: String,
    },
}

impl ModelError {
    /// How long what waits before the request is expected to take, in milliseconds; 0 where that is not known.
    pub fn wait_ms(&self) -> u64 {
        match self {
            Self::QueueFull { wait_ms, .. } | Self::TooBusy { wait_ms, .. } => *wait_ms,
            _ => 0,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::EngineUnavailable { .. }
                | Self::QueueFull { .. }
                | Self::TooBusy { .. }
                | Self::NotLoaded { .. }
                | Self::Deadline { .. }
        )
    }

    /// Whether the client is at fault.
    pub fn is_client_fault(&self) -> bool {
        matches!(
            self,
            Self::UnknownModel { .. }
                | Self::UnknownVersion { .. }
                | Self::Request(_)
                | Self::Tensor { .. }
                | Self::Mismatch(_)
                | Self::Refused { .. }
        )
    }
}
