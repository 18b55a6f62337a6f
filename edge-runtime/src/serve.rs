//! `edge-runtime serve`: handlers and models from files, without a control plane.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fleet_api::deployment::{Allow, Isolation, Limits, Route};
use fleet_api::desired::StreamSpec;
use fleet_api::ids::{Digest, Name, StreamName, Version};
use fleet_api::units::ByteSize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::stop_signal;
use crate::gateway::{Admin, Gateway, GrpcGateway, Parts, Status, TlsFiles};
use crate::handlers::{HandlerSpec, Handlers, HandlersConfig, Secrets};
use crate::idle_code;
use crate::keyvalue::KeyValue;
use crate::models::{Models, ModelsConfig};
use crate::sources::Sources;
use crate::streams::{BufferConfig, Streams};

mod models;
mod sources;
mod watch;

use watch::Watch;

/// What each handler may keep in wasi:keyvalue.
const KEYVALUE_QUOTA: ByteSize = ByteSize(16 << 20);
const DRAIN: Duration = Duration::from_secs(10);

/// Serves handlers and models from files, without a control plane.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of /healthz, /readyz, /metrics and /status; off if not given.
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Address of inference over gRPC; off if not given.
    #[arg(long, value_name = "ADDR")]
    grpc_listen: Option<SocketAddr>,
    #[command(flatten)]
    tls: Option<TlsFiles>,
    /// Environment variable of the handlers; may be repeated.
    #[arg(long = "env", value_name = "K=V")]
    env: Vec<Pair>,
    /// Value that wasi:config answers; may be repeated.
    #[arg(long = "config", value_name = "K=V")]
    config: Vec<Pair>,
    /// Value that wasi:config answers from a file; may be repeated.
    #[arg(long = "secret", value_name = "K=FILE")]
    secrets: Vec<Pair>,
    /// Origin that handlers may call, as in http://10.0.0.5:8080, or "all"; may be repeated.
    #[arg(long, value_name = "ORIGIN")]
    allow_http: Vec<String>,
    /// A route and the component that serves it; may be repeated.
    #[arg(long = "route", value_name = "PATH=FILE.wasm")]
    routes: Vec<Pair>,
    /// A model and its file; may be repeated, also with one name and several versions, of which the last is the
    /// default. FILE.card.toml, FILE.labels.txt and FILE.golden.json beside it are used.
    #[arg(long = "model", value_name = "NAME[:VERSION]=FILE.onnx")]
    models: Vec<Pair>,
    /// Memory of all models together, as in 512MiB; no bound if not given.
    #[arg(long, value_name = "SIZE")]
    model_memory: Option<ByteSize>,
    /// A stream to keep; needs --data-dir; may be repeated.
    #[arg(long = "stream", value_name = "NAME")]
    streams: Vec<StreamName>,
    /// File of [[source]] entries, whose streams are kept too; needs --data-dir.
    #[arg(long, value_name = "FILE.toml")]
    sources: Option<PathBuf>,
    /// Folder of the streams' buffer, of compiled components and of models' optimised graphs.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep instances warm and use them again for the next request.
    #[arg(long)]
    reuse: bool,
    /// Requests at the same time for each handler.
    #[arg(long, value_name = "N", default_value_t = 128)]
    concurrency: u32,
    /// Serve a component anew when its file changes.
    #[arg(long)]
    watch: bool,
    /// Component that takes every path but /v2 and /streams.
    #[arg(value_name = "FILE.wasm")]
    file: Option<PathBuf>,
}

/// `K=V` on the command line.
#[derive(Debug, Clone)]
struct Pair(String, String);

impl FromStr for Pair {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').ok_or("there is no '=' in it")?;
        if key.is_empty() {
            return Err("there is nothing before the '='");
        }
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps it from starting, with what to do about it.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let sourced = sources::load(args.sources.as_deref())?;
    let handlers = args.file.is_some() || !args.routes.is_empty();
    let data = !args.streams.is_empty() || !sourced.is_empty();
    if !handlers && !data && args.models.is_empty() {
        bail!(
            "nothing to serve: give a FILE.wasm, --route PATH=FILE.wasm, --model NAME=FILE.onnx, --stream NAME or --sources FILE.toml"
        );
    }
    let kept = sources::streams(&args.streams, &sourced);
    if !kept.is_empty() && args.data_dir.is_none() {
        bail!("streams are kept on disk: give a folder with --data-dir");
    }
    let mut gateway = Gateway::bind(args.listen).await?;
    if let Some(tls) = &args.tls {
        gateway = gateway.with_tls(tls)?;
    }
    let grpc = match args.grpc_listen {
        Some(address) => Some(
            GrpcGateway::bind(address)
                .await?
                .with_tls(args.tls.as_ref())?,
        ),
        None => None,
    };
    let admin = match args.admin_listen {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let models = Models::start(ModelsConfig {
        memory: args.model_memory.map(|memory| memory.0),
        cache: args.data_dir.as_ref().map(|dir| dir.join("models")),
        ..ModelsConfig::default()
    });
    models::load(&models, &args.models).await?;
    let buffer = match &args.data_dir {
        Some(folder) => Some(open_streams(folder, &kept).await?),
        None => None,
    };
    let keyvalue = match (args.data_dir.as_ref(), buffer.clone()) {
        (Some(folder), Some(buffer)) => {
            let old = folder.join("keyvalue");
            let open = move || KeyValue::open(buffer, &old);
            Some(tokio::task::spawn_blocking(open).await??)
        }
        _ => None,
    };
    let streams = buffer.clone().filter(|_| !kept.is_empty());
    let handlers = Handlers::start(
        HandlersConfig {
            cache_dir: cache_dir(args.data_dir.as_deref()),
            keyvalue,
            streams: streams.clone(),
            ..HandlersConfig::default()
        },
        models.clone(),
    )?;
    let watch = args.watch.then(|| Watch::new(args.components()));
    load_handlers(&handlers, &args).await?;
    let stop = CancellationToken::new();
    let stopped = stop_signal().context("listen for signals")?;
    tokio::spawn(cancel_at(stopped, stop.clone()));
    eprintln!("serving {}", gateway.url());
    let working = Sources::new();
    let sourcing = streams.clone().map(|streams| {
        let config = sources::config(pairs(&args.secrets), args.data_dir.as_deref());
        tokio::spawn(crate::sources::run(
            working.clone(),
            config,
            streams,
            stop.clone(),
        ))
    });
    working.configure(&sourced);
    tokio::task::spawn_blocking(idle_code::let_go_of_start);
    if let Some(admin) = admin {
        eprintln!("admin {}", admin.url());
        let status = Arc::new(Served {
            handlers: handlers.clone(),
            models: models.clone(),
            wants_models: !args.models.is_empty(),
            streams: streams.clone(),
            sources: working.clone(),
        });
        tokio::spawn(admin.serve(status, stop.clone()));
    }
    if let Some(watch) = watch {
        tokio::spawn(reload(handlers.clone(), args, watch));
    }
    let inference = grpc.map(|grpc| {
        eprintln!("serving gRPC at {}", grpc.address());
        tokio::spawn(grpc.serve(models.clone(), DRAIN, stop.clone()))
    });
    let parts = Parts {
        handlers: handlers.clone(),
        models,
        streams: streams.clone(),
    };
    gateway.serve(parts, DRAIN, stop).await;
    if let Some(inference) = inference {
        inference.await?;
    }
    if let Some(sourcing) = sourcing {
        sourcing.await?;
    }
    let close = move || {
        handlers.stop();
        if let Some(buffer) = buffer {
            buffer.close();
        }
    };
    tokio::task::spawn_blocking(close).await?;
    Ok(())
}

impl ServeArgs {
    fn components(&self) -> Vec<PathBuf> {
        let routed = self.routes.iter().map(|Pair(_, file)| file.into());
        routed.chain(self.file.clone()).collect()
    }
}

/// Serves each new form of the components; one that cannot be served changes nothing.
async fn reload(handlers: Handlers, args: ServeArgs, mut watch: Watch) {
    loop {
        watch.changed().await;
        let start = Instant::now();
        match load_handlers(&handlers, &args).await {
            Ok(()) => {
                let ms = start.elapsed().as_secs_f64() * 1e3;
                let serving = handlers.health().into_iter();
                let serving = serving.map(|h| format!("{} {}", h.name, h.version));
                let serving = serving.collect::<Vec<_>>().join(", ");
                eprintln!("reloaded {serving} in {ms:.1} ms");
            }
            Err(error) => eprintln!(
                "not reloaded, the version before serves on: {}",
                crate::chain(error.as_ref())
            ),
        }
    }
}

async fn open_streams(folder: &Path, names: &[StreamName]) -> anyhow::Result<Streams> {
    let folder = folder.join("buffer");
    // Values alone are no reason to keep space aside.
    let ballast_bytes = if names.is_empty() {
        0
    } else {
        BufferConfig::default().ballast_bytes
    };
    let config = BufferConfig {
        ballast_bytes,
        ..BufferConfig::default()
    };
    let open = move || Streams::open(&folder, config);
    let streams = tokio::task::spawn_blocking(open).await??;
    let specs: Vec<_> = names.iter().cloned().map(StreamSpec::named).collect();
    streams.configure(&specs);
    Ok(streams)
}

async fn cancel_at(stopped: impl Future<Output = ()>, stop: CancellationToken) {
    stopped.await;
    stop.cancel();
    if std::io::stderr().is_terminal() {
        eprintln!("stopping: requests under way have {} s", DRAIN.as_secs());
    }
}

async fn load_handlers(handlers: &Handlers, args: &ServeArgs) -> anyhow::Result<()> {
    let mut wanted: Vec<(Route, PathBuf)> = Vec::new();
    for Pair(route, file) in &args.routes {
        wanted.push((route.parse()?, file.into()));
    }
    if let Some(file) = &args.file {
        wanted.push(("/*".parse()?, file.clone()));
    }
    let allow = Allow {
        models: models::names(&args.models)?,
        streams: args.streams.iter().cloned().collect(),
        http: args.allow_http.iter().cloned().collect(),
        keyvalue: Some(KEYVALUE_QUOTA),
    };
    let mut names = BTreeSet::new();
    let mut prepared = Vec::with_capacity(wanted.len());
    for (route, path) in wanted {
        let digest = digest(&path).await?;
        let spec = HandlerSpec {
            name: name(&path, &mut names),
            version: Version::new(&digest.hex()[..12])?,
            digest,
            path,
            route: Some(route),
            limits: Limits {
                concurrency: args.concurrency.max(1),
                ..Limits::default()
            },
            allow: allow.clone(),
            config: pairs(&args.config).collect::<BTreeMap<_, _>>(),
            secrets: Secrets::from_files(pairs(&args.secrets).map(|(k, file)| (k, file.into()))),
            isolation: if args.reuse {
                Isolation::Reuse
            } else {
                Isolation::PerRequest
            },
            env: pairs(&args.env).collect(),
        };
        prepared.push(handlers.prepare(spec).await?);
    }
    handlers.switch(prepared)?;
    Ok(())
}

fn pairs(pairs: &[Pair]) -> impl Iterator<Item = (String, String)> {
    pairs.iter().map(|Pair(k, v)| (k.clone(), v.clone()))
}

async fn digest(path: &Path) -> anyhow::Result<Digest> {
    let bytes = tokio::fs::read(path)
        .await
        .with_context(|| format!("read the component {}", path.display()))?;
    Ok(Digest::of(&bytes))
}

/// A name from the file's, for logs and metrics.
fn name(path: &Path, taken: &mut BTreeSet<Name>) -> Name {
    let stem = path.file_stem().map(|s| s.to_string_lossy().to_lowercase());
    let plain: String = stem
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    let base = plain.get(..plain.len().min(48)).unwrap_or_default();
    let base = base.trim_end_matches('-');
    let base = if base.is_empty() { "handler" } else { base };
    let numbered = (1..).map(|n| match n {
        1 => base.to_owned(),
        n => format!("{base}-{n}"),
    });
    let mut names = numbered.filter_map(|name| Name::new(name).ok());
    let name = names
        .find(|name| !taken.contains(name))
        .expect("there is always another number");
    taken.insert(name.clone());
    name
}

/// Compiled components live in the data folder, or where the user keeps caches.
fn cache_dir(data_dir: Option<&Path>) -> Option<PathBuf> {
    if let Some(data_dir) = data_dir {
        return Some(data_dir.join("compiled"));
    }
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(caches?.join("edge-runtime").join("compiled"))
}

struct Served {
    handlers: Handlers,
    models: Models,
    wants_models: bool,
    streams: Option<Streams>,
    sources: Sources,
}

impl Status for Served {
    fn status(&self) -> serde_json::Value {
        json!({
            "handlers": self.handlers.health(),
            "last_faults": self.handlers.last_faults(),
            "models": self.models.health(),
            "streams": self.streams.as_ref().map(Streams::health),
            "sources": self.sources.health(),
            "instances": self.handlers.allocation().to_string(),
            "not_ready": self.not_ready(),
        })
    }

    fn not_ready(&self) -> Vec<String> {
        let missing = self.models.engine_error();
        missing.filter(|_| self.wants_models).into_iter().collect()
    }

    fn metrics(&self, out: &mut String) {
        self.handlers.render_metrics(out);
        self.models.render_metrics(out);
        self.sources.render_metrics(out);
    }
}
