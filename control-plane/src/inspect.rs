//! What was pushed, and whether it can run. Parsing only: nothing of it is executed.

mod component;
mod onnx;

use fleet_api::artifact::ArtifactKind;

/// Why an artifact cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is no component, or asks for what the runtime lacks.
    #[error(transparent)]
    Component(#[from] component::ComponentRefusal),
    /// It is no model, or a newer one than the runtime knows.
    #[error(transparent)]
    Model(#[from] onnx::ModelRefusal),
}

/// Describes an artifact in a line, or refuses it with the reason.
pub(crate) fn describe(kind: ArtifactKind, bytes: &[u8]) -> Result<String, Refusal> {
    Ok(match kind {
        ArtifactKind::Handler => component::describe(bytes)?,
        ArtifactKind::Model => onnx::describe(bytes)?,
    })
}
