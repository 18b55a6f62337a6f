//! Local inference: the models of this node, for HTTP clients (Open Inference Protocol v2) and for handlers (wasi:nn)
//! over the same sessions.
//!
//! ```text
//! HTTP /v2 -> http (routes) -> protocol (bodies) --+
//! gRPC ----> grpc (methods, messages) --------------+
//! wasi:nn ------------------------------------------+-> Models::infer -> pool (queue, sessions) -> backend -> onnx
//! deployments -> Models::prepare, Models::switch ---^                    scheduler (permits, threads, deadlines)
//! ```
//!
//! A model is loaded beside what serves ([`Models::prepare`]) and takes part only once the whole table is exchanged
//! ([`Models::switch`]); a version that is no longer in the table finishes its requests, is dropped, and its memory goes
//! back to the system.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fleet_api::health::{ModelHealth, ModelState};
use fleet_api::ids::{Name, Version};
use fleet_api::model::ModelOptions;

mod backend;
mod batch;
mod card;
mod check;
mod classes;
mod compare;
mod compression;
mod dispatch;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod golden;
mod graphs;
mod grpc;
mod http;
mod json;
mod memory;
mod metrics;
mod onnx;
mod picture;
mod pool;
mod proof;
mod protocol;
mod run;
mod scheduler;
mod shadow;
mod stats;
mod tensor;
#[cfg(test)]
mod tests;

pub use error::ModelError;
pub use protocol::read_request;
pub use tensor::{DataType, Tensor, TensorError, TensorInfo};

use backend::{Backend, LoadedFile};
use card::Description;
use graphs::Graphs;
use memory::{Memory, MemoryError, State};
use pool::{Identity, LoadedModel};
use proof::Unproven;
use scheduler::Scheduler;
use shadow::{Mirror, Mirrors, ShadowThread};
use stats::FailureReason;

/// How inference runs on this node.
#[derive(Debug, Clone)]
pub struct ModelsConfig {
    /// ONNX Runtime's shared library; looked for in the usual places if none is named.
    pub library: Option<PathBuf>,
    /// Runs under way at once, over all models. Default: the number of cores.
    pub permits: usize,
    /// Largest request body in bytes. Default: 64 MiB.
    pub max_body_bytes: usize,
    /// Memory of all loaded models together, in bytes. None: no bound.
    pub memory: Option<u64>,
    /// Folder of graphs that the engine has optimised for this machine. None: they are not kept.
    pub cache: Option<PathBuf>,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        let permits = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            library: None,
            permits,
            max_body_bytes: 64 << 20,
            memory: None,
            cache: None,
        }
    }
}

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
pub struct PreparedModel(Arc<LoadedModel>);

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

/// Which way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// From a client, over HTTP.
    Http,
    /// From a client, over gRPC.
    Grpc,
    /// From a handler, through wasi:nn.
    Wasm,
}

/// A request to a model.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// One tensor for each input of the model, in any order.
    pub inputs: Vec<Tensor>,
    /// The outputs wanted, in this order; all if empty.
    pub outputs: Vec<String>,
    /// Which way it came.
    pub via: Via,
    /// When the result is of no use any more: the request leaves the queue, or its run is stopped. None: the model's
    /// own timeout counts from now.
    pub deadline: Option<Instant>,
    /// Its place among those that wait.
    pub priority: Priority,
}

/// A request's place among those that wait for the same model: a lower number runs first, equal ones in the order in
/// which they came. 0 stands for the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u32);

impl Priority {
    /// The protocol's `priority` parameter: 1 is the most urgent, 0 the default.
    pub fn new(number: u32) -> Priority {
        if number == 0 {
            Priority::default()
        } else {
            Priority(number)
        }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority(100)
    }
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferResponse {
    /// The model.
    pub model: String,
    /// The version that ran.
    pub version: String,
    /// The outputs asked for, or all in the model's order.
    pub outputs: Vec<Tensor>,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// The version described.
    pub version: String,
    /// All versions that serve.
    pub versions: Vec<String>,
    /// Its inputs.
    pub inputs: Vec<TensorInfo>,
    /// Its outputs.
    pub outputs: Vec<TensorInfo>,
}

/// The models of this node. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    shared: Arc<Shared>,
}

struct Shared {
    config: ModelsConfig,
    memory: Arc<Memory>,
    scheduler: Arc<Scheduler>,
    /// Started with the first candidate.
    shadow: OnceLock<ShadowThread>,
    table: ArcSwap<Table>,
}

/// The inference engine, opened for the first model: a node without models does not carry its memory.
struct Engine {
    located: Result<PathBuf, String>,
    opened: OnceLock<Result<Box<dyn Backend>, String>>,
}

impl Engine {
    fn open(&self) -> Result<&dyn Backend, String> {
        let path = self.located.as_ref().map_err(Clone::clone)?;
        let opened = self.opened.get_or_init(|| {
            let engine = onnx::Onnx::open(Some(path)).map_err(|error| error.to_string())?;
            Ok(Box::new(engine))
        });
        opened.as_deref().map_err(Clone::clone)
    }

    fn error(&self) -> Option<&String> {
        match self.opened.get() {
            Some(opened) => opened.as_ref().err(),
            None => self.located.as_ref().err(),
        }
    }
}

/// Versions by model, in the order in which they were handed in; the last that is no candidate is the default.
type Table = HashMap<Name, Vec<Arc<LoadedModel>>>;

fn default_of(versions: &[Arc<LoadedModel>]) -> Option<&Arc<LoadedModel>> {
    versions
        .iter()
        .rev()
        .find(|model| model.options.shadow.is_none())
}

impl Models {
    /// Looks for the engine and starts the inference threads. A library that is missing is not fatal: see
    /// [`Models::engine_error`]. The engine is opened for the first model.
    ///
    /// `ORT_DISABLE_TELEMETRY=1` has to be in the environment before this is called, which `main` sees to; without it
    /// the engine is not opened, because ONNX Runtime's library reports usage to its maker.
    pub fn start(config: ModelsConfig) -> Models {
        let located = onnx::Onnx::locate(config.library.as_deref()).map_err(|e| e.to_string());
        if let Err(reason) = &located {
            tracing::warn!(reason, "this node cannot infer");
        }
        let opened = OnceLock::new();
        let scheduler = Scheduler::start(config.permits);
        let memory = Memory::new(
            Engine { located, opened },
            Graphs::new(config.cache.clone()),
            config.memory,
        );
        Models {
            shared: Arc::new(Shared {
                config,
                memory,
                scheduler,
                shadow: OnceLock::new(),
                table: ArcSwap::default(),
            }),
        }
    }

    /// Why inference is unavailable, and what to do; none if it is there, as far as is known before the first model.
    pub fn engine_error(&self) -> Option<String> {
        self.shared.memory.engine().error().cloned()
    }

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

    /// Makes `models` the ones that serve, all at once. Of several versions of a model the last one is its default.
    /// Versions that are not in it finish their requests and are dropped; hand in again what shall stay.
    pub fn switch(&self, models: Vec<PreparedModel>) {
        let mut table = Table::new();
        for PreparedModel(model) in models {
            let versions = table.entry(model.name.clone()).or_default();
            versions.retain(|other| other.version != model.version);
            versions.push(model);
        }
        table.values().for_each(|versions| self.mirror(versions));
        self.shared.table.store(Arc::new(table));
        if self.shared.config.memory.is_some() {
            let memory = Arc::clone(&self.shared.memory);
            // Evicting takes milliseconds, and a load under way may take seconds.
            let _ = std::thread::Builder::new()
                .name("model-settle".into())
                .spawn(move || memory.settle());
        }
    }

    /// Sets candidates beside the default version. One that was there before goes on counting.
    fn mirror(&self, versions: &[Arc<LoadedModel>]) {
        let default = default_of(versions);
        for model in versions {
            let serves = default.is_some_and(|default| Arc::ptr_eq(default, model));
            if !serves {
                model.mirrors.store(None);
            }
        }
        let Some(default) = default else { return };
        let before = default.mirrors.load_full();
        let known = |candidate: &Arc<LoadedModel>| {
            let all = &before.as_ref()?.all;
            all.iter().find(|mirror| mirror.is_of(candidate)).cloned()
        };
        let mirrors: Vec<_> = versions
            .iter()
            .filter(|model| model.options.shadow.is_some())
            .filter_map(|model| known(model).or_else(|| Mirror::new(model, &default.version)))
            .collect();
        let mirrors = (!mirrors.is_empty()).then(|| {
            let thread = self.shared.shadow.get_or_init(ShadowThread::start);
            Arc::new(Mirrors::new(mirrors, thread))
        });
        default.mirrors.store(mirrors);
    }

    /// The comparison that a candidate is part of.
    fn mirror_of(&self, candidate: &Arc<LoadedModel>) -> Option<Arc<Mirror>> {
        let table = self.shared.table.load();
        let default = default_of(table.get(&candidate.name)?)?;
        let mirrors = default.mirrors.load_full()?;
        mirrors
            .all
            .iter()
            .find(|mirror| mirror.is_of(candidate))
            .cloned()
    }

    /// Runs a model, its default version if none is named. The request is counted under the model's figures.
    ///
    /// # Errors
    /// [`ModelError`]; [`ModelError::is_client_fault`] tells whose fault it is. Dropping the future stops the run.
    pub async fn infer(
        &self,
        name: &str,
        version: Option<&str>,
        request: InferRequest,
    ) -> Result<InferResponse, ModelError> {
        let model = self.find(name, version)?;
        let outputs = model.infer(request).await?;
        Ok(InferResponse {
            model: model.name.to_string(),
            version: model.version.to_string(),
            outputs,
        })
    }

    /// The inputs of a model; none if it is not there.
    pub fn inputs(&self, name: &str, version: Option<&str>) -> Option<Vec<TensorInfo>> {
        self.find(name, version)
            .ok()
            .map(|model| model.inputs.clone())
    }

    /// What a model takes and gives.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] or [`ModelError::UnknownVersion`].
    pub fn info(&self, name: &str, version: Option<&str>) -> Result<ModelInfo, ModelError> {
        let table = self.shared.table.load();
        let model = find_in(&table, name, version)?;
        let versions = table
            .get(name)
            .map(|all| all.iter().map(|model| model.version.to_string()).collect());
        Ok(ModelInfo {
            name: model.name.to_string(),
            version: model.version.to_string(),
            versions: versions.unwrap_or_default(),
            inputs: model.inputs.clone(),
            outputs: model.outputs.clone(),
        })
    }

    /// Figures of every version that serves, by name and then by version. A request that does not fit the model is
    /// its client's error and not counted as the model's.
    pub fn health(&self) -> Vec<ModelHealth> {
        let now = Instant::now();
        let figures = |model: Arc<LoadedModel>| {
            let stats = &model.stats;
            let recent = stats.recent.look(&stats.latency, now);
            let (success, failures) = (stats.success.load(Relaxed), stats.all_failures());
            let us = |q| u64::try_from(recent.quantile(q).as_micros()).unwrap_or(u64::MAX);
            ModelHealth {
                name: model.name.clone(),
                version: model.version.clone(),
                requests: success + failures,
                errors: failures - stats.failures(FailureReason::Other),
                p50_us: us(0.5),
                p99_us: us(0.99),
                queue: model.waiting() as u64,
                sessions: u32::try_from(model.session_count).unwrap_or(u32::MAX),
                batch_mean: stats.batch_mean(),
                default: self.is_default(&model),
                state: match model.residence.state() {
                    State::Ready => ModelState::Ready,
                    State::Loading => ModelState::Loading,
                    State::Evicted => ModelState::Evicted,
                },
                memory_bytes: model.residence.held_bytes(),
                rejected: stats.failures(FailureReason::Rejected),
                canceled: stats.failures(FailureReason::Canceled),
                shadow: self.mirror_of(&model).map(|mirror| mirror.health()),
            }
        };
        self.all().into_iter().map(figures).collect()
    }

    /// Appends every version's figures in Prometheus's text format, with Triton's names where it has one.
    pub fn render_metrics(&self, out: &mut String) {
        let models = self.all();
        let mirrors: Vec<_> = models.iter().map(|model| self.mirror_of(model)).collect();
        let shown: Vec<_> = models
            .iter()
            .zip(&mirrors)
            .map(|(model, mirror)| metrics::Shown {
                name: model.name.as_str(),
                version: model.version.as_str(),
                pending: model.pending(),
                sessions: model.session_count,
                memory_bytes: model.residence.held_bytes(),
                stats: &model.stats,
                mirror: mirror.as_deref(),
            })
            .collect();
        metrics::render(out, &shown);
    }

    fn all(&self) -> Vec<Arc<LoadedModel>> {
        let mut all: Vec<_> = self
            .shared
            .table
            .load()
            .values()
            .flatten()
            .cloned()
            .collect();
        all.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        all
    }

    fn is_default(&self, model: &Arc<LoadedModel>) -> bool {
        let table = self.shared.table.load();
        let default = table
            .get(&model.name)
            .and_then(|versions| default_of(versions));
        default.is_some_and(|default| Arc::ptr_eq(default, model))
    }

    fn version(&self, name: &Name, version: &Version) -> Option<Arc<LoadedModel>> {
        let table = self.shared.table.load();
        table
            .get(name)?
            .iter()
            .find(|model| model.version == *version)
            .cloned()
    }

    fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<LoadedModel>, ModelError> {
        let found = find_in(&self.shared.table.load(), name, version).cloned();
        match (found, self.shared.memory.engine().error()) {
            // Without the engine no model is ever loaded: the cause says more than its consequence.
            (Err(_), Some(reason)) => Err(ModelError::EngineUnavailable {
                reason: reason.clone(),
            }),
            (found, _) => found,
        }
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

fn find_in<'t>(
    table: &'t Table,
    name: &str,
    version: Option<&str>,
) -> Result<&'t Arc<LoadedModel>, ModelError> {
    let unknown = || ModelError::UnknownModel {
        name: name.to_owned(),
    };
    let versions = table.get(name).ok_or_else(unknown)?;
    match version {
        None => default_of(versions).ok_or_else(unknown),
        Some(wanted) => versions
            .iter()
            .find(|model| model.version.as_str() == wanted)
            .ok_or_else(|| {
                let available = versions
                    .iter()
                    .map(|model| model.version.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                ModelError::UnknownVersion {
                    name: name.to_owned(),
                    version: wanted.to_owned(),
                    available,
                }
            }),
    }
}
