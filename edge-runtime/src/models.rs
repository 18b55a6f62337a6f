//! Local inference: the models of this node, for HTTP clients (Open Inference Protocol v2) and for handlers (wasi:nn)
//! over the same sessions.
//!
//! ```text
//! HTTP /v2 -> http (routes) -> protocol (bodies), picture --+
//! gRPC ----> grpc (methods, messages) -----------------------+
//! wasi:nn ---------------------------------------------------+-> pool (one model) -> dispatch (who is next) -> run -> onnx
//!                                                                  |                  scheduler (threads, deadlines)
//!                                                                  +-> shadow (copies to a candidate)
//! deployments -> loading -> proof (warm-up, golden), memory (budget) -> Models::switch
//! ```
//!
//! A model is loaded beside what serves ([`Models::prepare`]) and takes part only once the whole table is exchanged
//! ([`Models::switch`]); a version that is no longer in the table finishes its requests, is dropped, and its memory goes
//! back to the system.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use fleet_api::health::{ModelHealth, ModelState};
use fleet_api::ids::{Name, Version};

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
mod loading;
mod memory;
mod metrics;
mod onnx;
mod picture;
mod pool;
mod proof;
mod protocol;
mod request;
mod run;
mod scheduler;
mod shadow;
mod stats;
mod tensor;
#[cfg(test)]
mod tests;

pub(crate) use compression::{Coding, CodingError};
pub use error::ModelError;
pub use loading::{ModelFiles, ModelSpec, PreparedModel};
pub use protocol::read_request;
pub use request::{InferRequest, InferResponse, ModelInfo, Priority, Via};
pub use tensor::{DataType, Tensor, TensorError, TensorInfo};

use backend::Backend;
use graphs::Graphs;
use memory::{Memory, State};
use pool::LoadedModel;
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
