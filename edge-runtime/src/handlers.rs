//! Handlers: WebAssembly components that answer HTTP requests and work on streams.
//!
//! ```text
//! desired ─► prepare: compile (cache) ─► link ─► try out ─► PreparedHandler
//!                                                               │ switch: the whole table at once
//! request ─► serve: routes ─► turn (limits) ─► instance ─► exchange ─► response
//! batch ──► process: by name ─► turn ─► instance ─► outputs
//! ```
//!
//! A version takes part only after it has come up once; what was under way at
//! a switch ends on the version that it began on. Every call has its own
//! bounds on memory, CPU time, wall-clock time and body size, and a fault
//! costs that call alone.

mod call;
mod capabilities;
mod compile;
mod engine;
mod error;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guest_log;
mod handler;
mod limits;
mod long_work;
mod machine;
mod matched;
mod metered;
mod processor;
mod request;
mod routes;
mod secrets;
mod state;
mod stats;
#[cfg(test)]
pub(crate) mod tests;
mod trace;
mod warm;
mod world;

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use fleet_api::health::HandlerHealth;
use fleet_api::ids::{Name, Version};
use http::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;

pub use capabilities::outbound::OriginError;
pub use engine::Allocation;
pub use error::HandlerError;
pub use handler::HandlerSpec;
pub use machine::half_of_memory;
pub use processor::{ProcessOutput, ProcessRecord, Processed};
pub(crate) use request::REQUEST_ID;
pub use secrets::Secrets;
pub(crate) use secrets::read as read_secret;

use capabilities::Grant;
use capabilities::outbound::{Client, Origins, OutboundShare};
use compile::Compiler;
use handler::{Handler, Node};
use limits::NodeMemory;
use long_work::LongWork;
use routes::{Found, RouteTable};
use world::World;

use crate::gateway::{Body, reply};
use crate::idle_code;
use crate::keyvalue::KeyValue;
use crate::models::Models;
use crate::streams::Streams;

const PAGE_BYTES: u64 = 64 << 10;
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The worlds that a handler may be of.
pub const WORLDS: [&str; 3] = [
    "wasi:http/proxy@0.2",
    "wasi:http/service@0.3",
    "edge:runtime/processor@0.1",
];

/// How handlers run on this node.
#[derive(Debug, Clone)]
pub struct HandlersConfig {
    /// Folder of compiled components and the node's key for them; none compiles anew at each start.
    pub cache_dir: Option<PathBuf>,
    /// Instances of all handlers at the same time. Default 128.
    pub max_instances: usize,
    /// Memory of all guests together in bytes. Default: half of the machine's, see [`half_of_memory`].
    pub max_memory: u64,
    /// Where handlers keep values; none refuses it.
    pub keyvalue: Option<KeyValue>,
    /// Where handlers keep records; none refuses it.
    pub streams: Option<Streams>,
}

impl Default for HandlersConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_instances: 128,
            max_memory: half_of_memory(),
            keyvalue: None,
            streams: None,
        }
    }
}

/// The handlers of this node. Cheap to clone.
#[derive(Clone)]
pub struct Handlers(Arc<Shared>);

struct Shared {
    compiler: Arc<Compiler>,
    models: Models,
    keyvalue: Option<KeyValue>,
    streams: Option<Streams>,
    client: Client,
    node: Node,
    table: ArcSwap<Table>,
}

struct Table {
    routes: RouteTable<Arc<Handler>>,
    all: Vec<Arc<Handler>>,
}

/// A handler that has come up once and does not serve yet. Cheap to clone.
#[derive(Clone)]
pub struct PreparedHandler(Arc<Handler>);

/// What a handler has for itself that runs apart from what serves.
pub(crate) struct Apart {
    /// Its values.
    pub(crate) keyvalue: KeyValue,
    /// Its models; none uses those that serve.
    pub(crate) models: Option<Models>,
}

/// What stopped a handler's guest the last time.
#[derive(Debug, Clone, Serialize)]
pub struct LastFault {
    /// The handler.
    pub handler: Name,
    /// Its version.
    pub version: Version,
    /// The fault and the guest's stack, innermost call first, with source
    /// lines where the component has them.
    pub fault: String,
}

impl PreparedHandler {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.0.spec.name
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.0.spec.version
    }

    /// What it was prepared from.
    pub fn spec(&self) -> &HandlerSpec {
        &self.0.spec
    }

    /// Whether it works on streams.
    pub(crate) fn is_processor(&self) -> bool {
        self.0.is_processor()
    }

    /// Runs a batch of `stream` through it, whether it serves or not. What it
    /// keeps is kept at once.
    ///
    /// # Errors
    /// [`HandlerError::Busy`], or [`HandlerError::Call`].
    pub(crate) async fn process(
        &self,
        stream: &str,
        batch: Vec<ProcessRecord>,
    ) -> Result<Vec<ProcessOutput>, HandlerError> {
        let processed = processor::process(&self.0, stream, batch).await?;
        if let Some(values) = processed.values {
            values.committed();
        }
        Ok(processed.outputs)
    }
}

impl fmt::Debug for PreparedHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedHandler({}:{})", self.name(), self.version())
    }
}

impl Handlers {
    /// Sets the engine up. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`HandlerError::Engine`] or [`HandlerError::Cache`].
    pub fn start(config: HandlersConfig, models: Models) -> Result<Self, HandlerError> {
        let compiler = Compiler::start(config.max_instances, config.cache_dir)?;
        let node = Node {
            places: Arc::new(Semaphore::new(config.max_instances)),
            memory: NodeMemory::new(config.max_memory),
            long_work: LongWork::default(),
        };
        let empty = Table {
            routes: RouteTable::new(&[]).expect("no routes, no conflict"),
            all: Vec::new(),
        };
        let shared = Arc::new(Shared {
            compiler,
            models,
            keyvalue: config.keyvalue,
            streams: config.streams,
            client: Client::default(),
            node,
            table: ArcSwap::from_pointee(empty),
        });
        tokio::spawn(sweep(Arc::downgrade(&shared)));
        Ok(Self(shared))
    }

    /// Where instances live on this machine.
    pub fn allocation(&self) -> Allocation {
        self.0.compiler.allocation()
    }

    /// Compiles, links and tries a handler out. Nothing that serves changes. A
    /// handler that serves already as asked for is handed back as it is.
    ///
    /// # Errors
    /// [`HandlerError`] with the reason why it cannot run.
    pub async fn prepare(&self, spec: HandlerSpec) -> Result<PreparedHandler, HandlerError> {
        let shared = &self.0;
        let serving = shared.table.load();
        if let Some(same) = serving.all.iter().find(|handler| handler.spec == spec) {
            return Ok(PreparedHandler(Arc::clone(same)));
        }
        drop(serving);
        self.build(spec, None).await
    }

    /// As [`Handlers::prepare`], but always a new one that shares neither
    /// instances, values nor figures with what serves, and reaches neither
    /// streams nor other machines.
    ///
    /// # Errors
    /// [`HandlerError`] with the reason why it cannot run.
    pub(crate) async fn prepare_apart(
        &self,
        mut spec: HandlerSpec,
        apart: Apart,
    ) -> Result<PreparedHandler, HandlerError> {
        spec.allow.http.clear();
        spec.route = None;
        self.build(spec, Some(apart)).await
    }

    async fn build(
        &self,
        spec: HandlerSpec,
        apart: Option<Apart>,
    ) -> Result<PreparedHandler, HandlerError> {
        let shared = &self.0;
        let (models, keyvalue, streams) = match apart {
            Some(Apart { models, keyvalue }) => {
                let models = models.unwrap_or_else(|| shared.models.clone());
                (models, Some(keyvalue), None)
            }
            None => (
                shared.models.clone(),
                shared.keyvalue.clone(),
                shared.streams.clone(),
            ),
        };
        spec.secrets.check(&spec.name)?;
        let origins = Origins::parse(spec.allow.http.iter().map(String::as_str))?;
        let compiled = shared
            .compiler
            .component(spec.path.clone(), spec.digest.clone())
            .await?;
        let world = World::link(&compiled.home.linker, &compiled.component, &spec.name)?;
        let needed = compiled
            .component
            .resources_required()
            .and_then(|resources| resources.max_initial_memory_size)
            .map_or(0, |pages| pages.saturating_mul(PAGE_BYTES));
        if needed > spec.limits.memory.0 {
            return Err(HandlerError::Memory {
                name: spec.name,
                needed,
                limit: spec.limits.memory.0,
            });
        }
        let grant = Grant {
            handler: spec.name.clone(),
            allow: spec.allow.clone(),
            outbound: OutboundShare::new(
                origins,
                spec.limits.outbound,
                spec.limits.outbound_body.0,
            ),
            config: spec.config.clone(),
            secrets: spec.secrets.clone(),
            models,
            keyvalue,
            streams,
            client: shared.client.clone(),
        };
        let node = shared.node.clone();
        let engine = compiled.home.engine.wasm.clone();
        let handler = Arc::new(Handler::new(spec, engine, world, grant, node));
        handler
            .try_out()
            .await
            .map_err(|reason| HandlerError::Start {
                name: handler.spec.name.clone(),
                reason,
            })?;
        idle_code::let_go(compiled.component.image_range());
        Ok(PreparedHandler(handler))
    }

    /// Makes `handlers` the ones that serve, all at once; requests under way
    /// end on the version that they began on.
    ///
    /// # Errors
    /// [`HandlerError::RouteTaken`]; nothing has changed then.
    pub fn switch(&self, handlers: Vec<PreparedHandler>) -> Result<(), HandlerError> {
        let all: Vec<_> = handlers.into_iter().map(|handler| handler.0).collect();
        let routes: Vec<_> = all
            .iter()
            .filter_map(|handler| Some((handler.spec.route.clone()?, Arc::clone(handler))))
            .collect();
        let table = RouteTable::new(&routes).map_err(|taken| {
            let name = |i: usize| routes[i].1.spec.name.clone();
            HandlerError::RouteTaken {
                first: name(taken.first),
                second: name(taken.second),
                route: routes[taken.second].0.clone(),
            }
        })?;
        let table = Table { routes: table, all };
        self.0.table.store(Arc::new(table));
        Ok(())
    }

    /// Answers a request: by the handler on its route, or with 404 or 405.
    pub async fn serve<B>(&self, mut request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<wasmtime_wasi_http::Error>,
    {
        let handler = {
            let table = self.0.table.load();
            let host = match request.uri().authority() {
                Some(authority) => Some(authority.as_str()),
                None => request
                    .headers()
                    .get(http::header::HOST)
                    .and_then(|host| host.to_str().ok()),
            };
            let path = request.uri().path();
            match table.routes.find(request.method().as_str(), host, path) {
                Found::Target(route, handler) => {
                    let matched = matched::headers(route, path);
                    let handler = Arc::clone(handler);
                    matched::replace(request.headers_mut(), matched);
                    handler
                }
                Found::OtherMethods(methods) => {
                    return reply::method_not_allowed(path, &methods.join(", "));
                }
                Found::Nothing => {
                    return reply::error(
                        StatusCode::NOT_FOUND,
                        "no-route",
                        "no handler is deployed on this path",
                    );
                }
            }
        };
        request::respond(handler, request).await
    }

    /// Ends what still computes, after the last request; blocks.
    pub(crate) fn stop(&self) {
        self.0.node.long_work.stop();
    }

    /// Runs a batch of `stream` through the processor `handler`.
    ///
    /// # Errors
    /// [`HandlerError::NoProcessor`], [`HandlerError::Busy`], or
    /// [`HandlerError::Call`] with the guest's own words or its fault.
    pub async fn process(
        &self,
        handler: &str,
        stream: &str,
        batch: Vec<ProcessRecord>,
    ) -> Result<Processed, HandlerError> {
        let found = {
            let table = self.0.table.load();
            let mut all = table.all.iter();
            all.find(|h| h.spec.name.as_str() == handler && h.is_processor())
                .cloned()
        };
        let found = found.ok_or_else(|| HandlerError::NoProcessor(handler.to_owned()))?;
        processor::process(&found, stream, batch).await
    }

    /// Figures of every handler that serves.
    pub fn health(&self) -> Vec<HandlerHealth> {
        let table = self.0.table.load();
        let figures = table.all.iter().map(|handler| {
            let spec = &handler.spec;
            handler
                .stats
                .health(spec.name.clone(), spec.version.clone())
        });
        figures.collect()
    }

    /// The last fault of each handler that had one, with the guest's stack.
    pub fn last_faults(&self) -> Vec<LastFault> {
        let table = self.0.table.load();
        let faults = table.all.iter().filter_map(|handler| {
            let spec = &handler.spec;
            Some(LastFault {
                handler: spec.name.clone(),
                version: spec.version.clone(),
                fault: handler.stats.last_fault()?,
            })
        });
        faults.collect()
    }

    /// Appends every handler's figures in Prometheus's text format.
    pub fn render_metrics(&self, out: &mut String) {
        let table = self.0.table.load();
        let handlers: Vec<_> = table
            .all
            .iter()
            .map(|handler| {
                let spec = &handler.spec;
                let labels = format!("handler=\"{}\",version=\"{}\"", spec.name, spec.version);
                (labels, &*handler.stats)
            })
            .collect();
        stats::render(out, &handlers);
        let memory = &self.0.node.memory;
        let [used, limit] = [memory.used(), memory.limit()];
        let _ = write!(
            out,
            "# HELP edge_handlers_memory_bytes Memory of all instances of the node.\n\
             # TYPE edge_handlers_memory_bytes gauge\nedge_handlers_memory_bytes {used}\n\
             # HELP edge_handlers_memory_limit_bytes What all instances together may have.\n\
             # TYPE edge_handlers_memory_limit_bytes gauge\nedge_handlers_memory_limit_bytes {limit}\n"
        );
    }
}

/// Lets idle warm instances go, for as long as there are handlers at all.
async fn sweep(shared: Weak<Shared>) {
    let mut interval = tokio::time::interval(SWEEP_EVERY);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let now = Instant::now();
        for handler in &shared.table.load().all {
            handler.sweep(now);
        }
    }
}
