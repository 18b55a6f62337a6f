//! From a model's files to a version that has proved itself and may be switched to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_api::ids::{Name, Version};
use fleet_api::model::ModelOptions;

use super::backend::LoadedFile;
use super::card::Description;
use super::error::ModelError;
use super::memory::MemoryError;
use super::pool::{Identity, LoadedModel};
use super::proof::Unproven;
use super::{Models, golden, proof};

/// A model to load.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Its name, as clients ask for it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The ONNX file; external data is looked for beside it.
    pub path: PathBuf,
    /// The digest of all that it runs on; what serves already under the same name, version, digest and options is not
    /// loaded again.
    pub digest: Option<String>,
    /// What came beside it.
    pub files: ModelFiles,
    /// How it runs.
    pub options: ModelOptions,
}

/// The files that describe and prove a model; each may be missing. docs/inference.md has their forms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// How pictures become inputs, and which output has scores of classes (TOML).
    pub card: Option<PathBuf>,
    /// The classes' names, one a line.
    pub labels: Option<PathBuf>,
    /// Inputs and the outputs that they have to give (JSON); the model becomes ready only if it does.
    pub golden: Option<PathBuf>,
}

/// A loaded and warm model, not yet serving. Cheap to clone.
#[derive(Clone)]
pub struct PreparedModel(pub(super) Arc<LoadedModel>);

impl PreparedModel {
    /// The model's name.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// The digest it was prepared with.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest.as_deref()
    }
}

impl fmt::Debug for PreparedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedModel({}:{})", self.0.name, self.0.version)
    }
}

impl Models {
    /// Loads a model, runs it on zeros where its shapes permit and on its golden cases. Changes nothing that serves.
    ///
    /// # Errors
    /// [`ModelError`] with the engine's reason.
    pub async fn prepare(&self, spec: ModelSpec) -> Result<PreparedModel, ModelError> {
        let name = Name::new(spec.name.clone())?;
        let version = Version::new(spec.version.clone())?;
        if spec.digest.is_some()
            && let Some(serving) = self.version(&name, &version)
            && serving.digest == spec.digest
            && serving.options == spec.options
        {
            return Ok(PreparedModel(serving));
        }
        let models = self.clone();
        let load = move || models.load(name, version, &spec);
        match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded.map(PreparedModel),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn load(
        &self,
        name: Name,
        version: Version,
        spec: &ModelSpec,
    ) -> Result<Arc<LoadedModel>, ModelError> {
        let shared = &self.shared;
        let config = &shared.config;
        let started = Instant::now();
        let sessions = usize::try_from(spec.options.sessions).unwrap_or(1);
        let sessions = sessions.clamp(1, config.permits.max(1));
        let cannot = |reason: String| ModelError::Load {
            name: spec.name.clone(),
            version: spec.version.clone(),
            path: spec.path.clone(),
            reason,
        };
        let mut pace = None;
        let proved = |file: &mut LoadedFile| prove(spec, file).map(|proved| pace = proved);
        let loaded = shared.memory.load(&spec.path, sessions, proved);
        let measured = loaded
            .map_err(|error| match error {
                MemoryError::Engine(reason) => ModelError::EngineUnavailable { reason },
                other => cannot(other.to_string()),
            })?
            .map_err(|reason| ModelError::Unproven {
                name: spec.name.clone(),
                version: spec.version.clone(),
                reason: reason.to_string(),
            })?;
        let file = &measured.file;
        let description = Description::read(&spec.files, &file.inputs, &file.outputs)
            .map_err(|error| cannot(error.to_string()))?;
        let identity = Identity {
            name,
            version,
            digest: spec.digest.clone(),
            description,
            options: spec.options.clone(),
        };
        let (bytes, loaded) = (measured.bytes, (spec.path.as_path(), measured));
        let model = LoadedModel::new(identity, loaded, pace, &shared.scheduler, &shared.memory);
        let model = Arc::new(model);
        shared.memory.watch(&model);
        model.make_way();
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(model = %model.name, version = %model.version, sessions, ms, bytes, "model loaded");
        Ok(model)
    }

    /// Checks that models can serve together within the node's memory budget, before they are switched to.
    ///
    /// # Errors
    /// [`ModelError::Memory`].
    pub fn admit<'m>(
        &self,
        models: impl IntoIterator<Item = &'m PreparedModel>,
    ) -> Result<(), ModelError> {
        let models: Vec<&LoadedModel> = models.into_iter().map(|model| &*model.0).collect();
        self.shared.memory.admit(&models)
    }
}

/// Whether the model does what it has to before it becomes ready.
fn prove(spec: &ModelSpec, file: &mut LoadedFile) -> Result<Option<Duration>, Unproven> {
    let cases = spec.files.golden.as_deref().map(golden::read).transpose()?;
    let batched = spec
        .options
        .batch
        .as_ref()
        .is_some_and(|batch| batch.max > 1);
    proof::prove(file, &cases.unwrap_or_default(), batched)
}
