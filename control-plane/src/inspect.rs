//! What was pushed, and whether it can run. Parsing only: nothing of it is executed.

mod beside;
mod component;
mod golden;
mod onnx;

use bytes::Bytes;
use fleet_api::artifact::ArtifactKind;
use fleet_api::model_files::PinnedFile;

/// Why an artifact cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is no component, or asks for what the runtime lacks.
    #[error(transparent)]
    Component(#[from] component::ComponentRefusal),
    /// It is no model, or a newer one than the runtime knows.
    #[error(transparent)]
    Model(#[from] onnx::ModelRefusal),
    /// A file beside the model does not fit it.
    #[error(transparent)]
    Beside(#[from] beside::BesideRefusal),
}

/// A file beside a model.
pub(crate) struct Beside {
    pub(crate) file: PinnedFile,
    /// What is in it; of external data only the size counts, and this is empty.
    pub(crate) content: Bytes,
}

/// Describes an artifact in a line, or refuses it with the reason.
pub(crate) fn describe(
    kind: ArtifactKind,
    bytes: &[u8],
    files: &[Beside],
) -> Result<String, Refusal> {
    match kind {
        ArtifactKind::Handler => Ok(component::describe(bytes)?),
        ArtifactKind::Model => {
            let outline = onnx::read(bytes)?;
            beside::check(bytes, &outline, files)?;
            Ok(outline.to_string())
        }
    }
}

/// The most bytes of a file's content that are looked at; a larger file is refused.
pub(crate) use beside::most_bytes;
