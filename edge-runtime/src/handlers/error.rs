use std::path::PathBuf;

use fleet_api::deployment::Route;
use fleet_api::ids::{Digest, Name, Version};

use super::capabilities::outbound::OriginError;

/// Why handlers cannot be prepared, switched or called.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The engine cannot be set up on this machine.
    #[error("set up the WebAssembly engine: {reason}")]
    Engine {
        /// What the engine says.
        reason: String,
    },
    /// The folder of compiled components cannot be used.
    #[error("use the cache of compiled components in {path}")]
    Cache {
        /// The folder or the file in it.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The component's file cannot be read.
    #[error("read the component {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what was asked for.
    #[error(
        "use {path}: its digest is {found}, but {wanted} was asked for; the file is damaged or was changed"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest in the desired state.
        wanted: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The file is not WebAssembly.
    #[error(
        "use {path} as a handler: it is not WebAssembly (it does not begin with the bytes 00 61 73 6d)"
    )]
    NotWasm {
        /// The file.
        path: PathBuf,
    },
    /// The file is a core module.
    #[error(
        "use {path} as a handler: it is a core WebAssembly module, and a handler must be a component; build it for the target wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule {
        /// The file.
        path: PathBuf,
    },
    /// The component does not compile.
    #[error("compile {path}: {reason}")]
    Compile {
        /// The file.
        path: PathBuf,
        /// What the compiler says.
        reason: String,
    },
    /// The component exports nothing that the runtime can call.
    #[error(
        "use handler {name}: it exports {}, but a handler exports wasi:http/incoming-handler@0.2, wasi:http/handler@0.3 or edge:runtime/process@0.1", listed(.exports)
    )]
    World {
        /// The handler.
        name: Name,
        /// What it exports.
        exports: Vec<String>,
    },
    /// The component needs interfaces that the runtime lacks.
    #[error("link handler {name}: this runtime does not offer {}", listed(.imports))]
    MissingImports {
        /// The handler.
        name: Name,
        /// The interfaces, all of them.
        imports: Vec<String>,
    },
    /// An interface of the component has another shape than the runtime's.
    #[error("link handler {name}: {reason}")]
    Link {
        /// The handler.
        name: Name,
        /// What does not fit.
        reason: String,
    },
    /// The component asks for more memory at its start than its limit.
    #[error(
        "start handler {name}: it needs {needed} bytes of memory to start and its limit is {limit}; raise limits.memory"
    )]
    Memory {
        /// The handler.
        name: Name,
        /// What it asks for.
        needed: u64,
        /// What it may have.
        limit: u64,
    },
    /// The trial instance did not come up.
    #[error("start handler {name}: {reason}")]
    Start {
        /// The handler.
        name: Name,
        /// What happened.
        reason: String,
    },
    /// A secret of the handler is not on the node.
    #[error(
        "start handler {handler}: its secret {key:?} cannot be read from {path}: put it there on this node"
    )]
    Secret {
        /// The handler.
        handler: Name,
        /// What the handler asks for.
        key: String,
        /// The secret's file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An origin in `allow.http` cannot be understood.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Two handlers would serve the same requests.
    #[error("route {route} to {second}: {first} is there already")]
    RouteTaken {
        /// The route.
        route: Route,
        /// The handler that has it.
        first: Name,
        /// The handler that wants it too.
        second: Name,
    },
    /// Processors would feed each other without end.
    #[error(
        "run processors that feed each other in a circle: {0}: take one of these streams out of its processor's allow.streams"
    )]
    Circle(fleet_api::deployment::Circle),
    /// There is no such processor.
    #[error("run processor {0}: no such handler is deployed, or it is not a stream processor")]
    NoProcessor(String),
    /// The handler has as much to do as it may.
    #[error("run handler {name}: it is at its limit of {limit} calls at the same time")]
    Busy {
        /// The handler.
        name: Name,
        /// Its limit.
        limit: u32,
    },
    /// A call into the guest failed.
    #[error("run handler {name}:{version}: {reason}")]
    Call {
        /// The handler.
        name: Name,
        /// Its version.
        version: Version,
        /// What happened, or what the guest says.
        reason: String,
    },
    /// The node's store has failed.
    #[error(transparent)]
    Values(#[from] crate::keyvalue::KeyValueError),
    /// The work was given up because the runtime stops.
    #[error("finish the work: the runtime is stopping")]
    Stopping,
}

impl HandlerError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Call { .. })
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

impl From<crate::sealed::SealedError> for HandlerError {
    fn from(error: crate::sealed::SealedError) -> Self {
        let crate::sealed::SealedError { path, source } = error;
        Self::Cache { path, source }
    }
}
