use std::path::PathBuf;

use fleet_api::artifact::PinnedArtifact;
use fleet_api::deployment::Circle;
use fleet_api::desired::{Desired, DesiredHandler, DesiredModel};
use fleet_api::event;
use fleet_api::model_files::FileRole;
use fleet_api::reported::ArtifactState;

use super::layout;
use super::report::Report;
use super::store::{ArtifactStore, StoreError};
use crate::causes::chain;
use crate::handlers::{HandlerError, HandlerSpec, Handlers, PreparedHandler};
use crate::models::{ModelError, ModelFiles, ModelSpec, Models, PreparedModel};
use crate::processors::Processors;
use crate::sources::Sources;
use crate::streams::Streams;

/// The parts of the runtime that a desired state sets up.
#[derive(Clone)]
pub struct Workload {
    /// Wasm components.
    pub handlers: Handlers,
    /// ONNX models.
    pub models: Models,
    /// The buffer's streams.
    pub streams: Streams,
    /// Handlers that work on streams.
    pub processors: Processors,
    /// Where records come from without being posted.
    pub sources: Sources,
    /// Folder of the node's secrets.
    pub secrets: PathBuf,
}

/// What serves, each part beside the wish that it came from.
#[derive(Default)]
pub(crate) struct Running {
    handlers: Vec<(DesiredHandler, PreparedHandler)>,
    models: Vec<(DesiredModel, PreparedModel)>,
}

/// Why an artifact cannot serve here.
#[derive(Debug, thiserror::Error)]
#[error("prepare {artifact}")]
pub struct WorkloadError {
    /// Which one.
    pub artifact: Box<PinnedArtifact>,
    /// Why.
    pub source: PrepareError,
}

/// Why an artifact cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The blob on disk is not what it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The component cannot run.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The model cannot run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl WorkloadError {
    /// Whether the machine is at fault, not the artifact.
    pub fn depends_on_the_machine(&self) -> bool {
        match &self.source {
            PrepareError::Store(_) => true,
            PrepareError::Handler(_) => false,
            PrepareError::Model(error) => matches!(
                error,
                ModelError::EngineUnavailable { .. } | ModelError::Memory { .. }
            ),
        }
    }
}

impl Workload {
    /// Prepares everything of `desired` beside what runs; what is the same is taken over.
    pub(crate) async fn prepare(
        &self,
        desired: &Desired,
        running: &Running,
        store: &ArtifactStore,
        report: &mut Report,
    ) -> Result<Running, WorkloadError> {
        check_routes(&desired.handlers)?;
        check_circles(desired)?;
        let mut next = Running::default();
        for wish in &desired.models {
            let known = running
                .models
                .iter()
                .find(|(known, _)| same_model(known, wish));
            let prepared = match known {
                Some((_, prepared)) => prepared.clone(),
                None => self
                    .model(wish, store)
                    .await
                    .map_err(failed(&wish.artifact))?,
            };
            next.models.push((wish.clone(), prepared));
            let together = next.models.iter().map(|(_, prepared)| prepared);
            self.models
                .admit(together)
                .map_err(|error| failed(&wish.artifact)(error.into()))?;
            report.artifact(&wish.artifact, ArtifactState::Ready, None);
        }
        for wish in &desired.handlers {
            let known = running.handlers.iter().find(|(known, _)| known == wish);
            let prepared = match known {
                Some((_, prepared)) => prepared.clone(),
                None => self
                    .handler(wish, store)
                    .await
                    .map_err(failed(&wish.artifact))?,
            };
            report.artifact(&wish.artifact, ArtifactState::Ready, None);
            next.handlers.push((wish.clone(), prepared));
        }
        Ok(next)
    }

    /// Prepares what can be prepared of a generation that has served before. Also says
    /// whether something is broken on disk and has to be fetched again.
    pub(crate) async fn restore(
        &self,
        desired: &Desired,
        store: &ArtifactStore,
        report: &mut Report,
    ) -> (Running, bool) {
        let mut running = Running::default();
        let mut broken = false;
        let mut tell = |artifact: &PinnedArtifact, outcome: Result<(), &PrepareError>| {
            let Err(error) = outcome else {
                report.artifact(artifact, ArtifactState::Serving, None);
                return;
            };
            let reason = chain(error);
            tracing::error!(%artifact, reason, "cannot serve what served before");
            report.artifact(artifact, ArtifactState::Failed, Some(reason));
            broken |= matches!(error, PrepareError::Store(_));
        };
        for wish in &desired.models {
            match self.model(wish, store).await {
                Ok(prepared) => {
                    tell(&wish.artifact, Ok(()));
                    running.models.push((wish.clone(), prepared));
                }
                Err(error) => tell(&wish.artifact, Err(&error)),
            }
        }
        for wish in &desired.handlers {
            match self.handler(wish, store).await {
                Ok(prepared) => {
                    tell(&wish.artifact, Ok(()));
                    running.handlers.push((wish.clone(), prepared));
                }
                Err(error) => tell(&wish.artifact, Err(&error)),
            }
        }
        (running, broken)
    }

    /// Lets `running` serve instead of all that served before.
    pub(crate) fn switch(&self, desired: &Desired, running: &Running) {
        // Streams and models first: a new handler finds all that it may ask for. A request
        // under way on an old handler no longer finds a model that the generation drops.
        let models: Vec<_> = running
            .models
            .iter()
            .map(|(_, model)| model.clone())
            .collect();
        let handlers: Vec<_> = running
            .handlers
            .iter()
            .map(|(_, handler)| handler.clone())
            .collect();
        let mut streams = crate::processors::with_dead_letters(&desired.streams);
        streams.retain(|stream| stream.name.as_str() != event::STREAM);
        streams.push(event::stream());
        self.streams.configure(&streams);
        self.models.switch(models);
        if let Err(error) = self.handlers.switch(handlers) {
            // `prepare` has checked the routes; a ledger of another version may still have more.
            tracing::error!(error = chain(&error), "the handlers cannot serve together");
        }
        self.processors.configure(&desired.streams);
        self.sources.configure(&desired.sources);
    }

    async fn model(
        &self,
        wish: &DesiredModel,
        store: &ArtifactStore,
    ) -> Result<PreparedModel, PrepareError> {
        let spec = Self::model_spec(wish, store).await?;
        Ok(self.models.prepare(spec).await?)
    }

    /// A model as it is to be prepared, its files checked.
    pub(crate) async fn model_spec(
        wish: &DesiredModel,
        store: &ArtifactStore,
    ) -> Result<ModelSpec, StoreError> {
        let artifact = &wish.artifact;
        let path = model_file(store, artifact).await?;
        let file = |role: FileRole| {
            let file = artifact.files.iter().find(|file| file.role == role)?;
            Some(store.path(&file.digest))
        };
        Ok(ModelSpec {
            name: artifact.name.to_string(),
            version: artifact.version.to_string(),
            path,
            // One ONNX file may lie beside different weights.
            digest: Some(layout::content(artifact).to_string()),
            files: ModelFiles {
                card: file(FileRole::Card),
                labels: file(FileRole::Labels),
                golden: file(FileRole::Golden),
            },
            options: wish.options.clone(),
        })
    }

    async fn handler(
        &self,
        wish: &DesiredHandler,
        store: &ArtifactStore,
    ) -> Result<PreparedHandler, PrepareError> {
        let spec = self.handler_spec(wish, store).await?;
        Ok(self.handlers.prepare(spec).await?)
    }

    /// A handler as it is to be prepared, its file checked.
    pub(crate) async fn handler_spec(
        &self,
        wish: &DesiredHandler,
        store: &ArtifactStore,
    ) -> Result<HandlerSpec, StoreError> {
        let path = verified(store, &wish.artifact).await?;
        Ok(HandlerSpec::from_desired(wish, path, &self.secrets))
    }
}

/// No two handlers may serve the same requests.
fn check_routes(handlers: &[DesiredHandler]) -> Result<(), WorkloadError> {
    for (i, second) in handlers.iter().enumerate() {
        let Some(route) = &second.route else { continue };
        let taken = |first: &&DesiredHandler| {
            first
                .route
                .as_ref()
                .is_some_and(|other| other.collides(route))
        };
        if let Some(first) = handlers[..i].iter().find(taken) {
            return Err(WorkloadError {
                artifact: Box::new(second.artifact.clone()),
                source: PrepareError::Handler(HandlerError::RouteTaken {
                    first: first.artifact.name.clone(),
                    second: second.artifact.name.clone(),
                    route: route.clone(),
                }),
            });
        }
    }
    Ok(())
}

/// Processors of several deployments may feed each other, but not in a circle.
fn check_circles(desired: &Desired) -> Result<(), WorkloadError> {
    let processed = desired.streams.iter();
    let processed = processed.filter_map(|s| Some((&s.name, s.processor.as_ref()?)));
    let allowed = desired
        .handlers
        .iter()
        .map(|h| (&h.artifact.name, &h.allow));
    let Some(circle) = Circle::among(processed, allowed) else {
        return Ok(());
    };
    let within = |handler: &&DesiredHandler| circle.has(&handler.artifact.name);
    let Some(handler) = desired.handlers.iter().find(within) else {
        return Ok(());
    };
    Err(WorkloadError {
        artifact: Box::new(handler.artifact.clone()),
        source: PrepareError::Handler(HandlerError::Circle(circle)),
    })
}

/// Models are the same if they load the same; who owns them does not matter.
fn same_model(a: &DesiredModel, b: &DesiredModel) -> bool {
    a.artifact == b.artifact && a.options == b.options
}

fn failed(artifact: &PinnedArtifact) -> impl FnOnce(PrepareError) -> WorkloadError {
    let artifact = Box::new(artifact.clone());
    move |source| WorkloadError { artifact, source }
}

/// Verifies a model with all its files; its path has its external data beside it.
async fn model_file(
    store: &ArtifactStore,
    artifact: &PinnedArtifact,
) -> Result<PathBuf, StoreError> {
    let (store, artifact) = (store.clone(), artifact.clone());
    let lay_out = move || {
        let model = store.verify(&artifact.digest)?;
        for file in &artifact.files {
            store.verify(&file.digest)?;
        }
        Ok(store.lay_out(&artifact)?.unwrap_or(model))
    };
    tokio::task::spawn_blocking(lay_out)
        .await
        .expect("checking digests and linking files does not panic")
}

async fn verified(store: &ArtifactStore, artifact: &PinnedArtifact) -> Result<PathBuf, StoreError> {
    let (store, digest) = (store.clone(), artifact.digest.clone());
    tokio::task::spawn_blocking(move || store.verify(&digest))
        .await
        .expect("checking a digest does not panic")
}
