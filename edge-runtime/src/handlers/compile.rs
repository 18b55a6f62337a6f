//! From a component's file to machine code, off the serving threads.
//!
//! Components of WASI 0.2 and 0.3 have an engine each, see [`Calls`]. The one
//! for 0.3 is set up for the first component that needs it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fleet_api::ids::Digest;
use tokio::sync::Semaphore;
use tokio::task;
use wasmparser::{Parser, Payload};
use wasmtime::component::{Component, Linker};

use super::HandlerError;
use super::capabilities;
use super::engine::{Allocation, Calls, Engine};
use super::long_work::step_back;
use super::state::GuestState;
use crate::sealed::{Kind, Sealed};

const MAGIC: [u8; 4] = *b"\0asm";
const COMPONENT_LAYER: [u8; 2] = [1, 0];

const COMPILED: Kind = Kind {
    extension: "cwasm",
    context: b"edge-runtime compiled component v2\0",
    name: "a compiled component",
};

/// Marks interfaces of WASI 0.3 in the names of imports and exports.
const WASI_03: &str = "@0.3.";

pub(super) struct Compiler {
    max_instances: usize,
    cache_dir: Option<PathBuf>,
    sync: Arc<Home>,
    concurrent: OnceLock<Arc<Home>>,
    one_at_a_time: Semaphore,
}

/// An engine with all that belongs to it.
pub(super) struct Home {
    pub(super) engine: Engine,
    pub(super) linker: Linker<GuestState>,
    cache: Option<Sealed>,
}

/// A component and the engine that it is compiled for.
pub(super) struct Compiled {
    pub(super) component: Component,
    pub(super) home: Arc<Home>,
}

impl Compiler {
    pub(super) fn start(
        max_instances: usize,
        cache_dir: Option<PathBuf>,
    ) -> Result<Arc<Self>, HandlerError> {
        let sync = Home::open(max_instances, Calls::Sync, cache_dir.as_deref())?;
        Ok(Arc::new(Self {
            max_instances,
            cache_dir,
            sync,
            concurrent: OnceLock::new(),
            one_at_a_time: Semaphore::new(1),
        }))
    }

    pub(super) fn allocation(&self) -> Allocation {
        self.sync.engine.allocation
    }

    /// The component in `path`, from the cache where it has been compiled before.
    pub(super) async fn component(
        self: &Arc<Self>,
        path: PathBuf,
        digest: Digest,
    ) -> Result<Compiled, HandlerError> {
        let _turn = self
            .one_at_a_time
            .acquire()
            .await
            .map_err(|_| HandlerError::Stopping)?;
        let this = Arc::clone(self);
        task::spawn_blocking(move || this.load_or_compile(&path, &digest))
            .await
            .map_err(|_| HandlerError::Stopping)?
    }

    /// The engine for WASI 0.3. Called by one thread at a time.
    fn concurrent(&self) -> Result<Arc<Home>, HandlerError> {
        if let Some(home) = self.concurrent.get() {
            return Ok(Arc::clone(home));
        }
        let home = Home::open(self.max_instances, Calls::Async, self.cache_dir.as_deref())?;
        Ok(Arc::clone(self.concurrent.get_or_init(|| home)))
    }

    fn load_or_compile(&self, path: &Path, digest: &Digest) -> Result<Compiled, HandlerError> {
        if let Some(compiled) = self.sync.load(digest) {
            return Ok(compiled);
        }
        let cache = self.sync.cache.as_ref();
        if cache.is_some_and(|cache| cache.has_by_any_maker(digest))
            && let Some(compiled) = self.concurrent()?.load(digest)
        {
            return Ok(compiled);
        }
        let bytes = std::fs::read(path).map_err(|source| HandlerError::Read {
            path: path.to_owned(),
            source,
        })?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(HandlerError::Digest {
                path: path.to_owned(),
                wanted: digest.clone(),
                found,
            });
        }
        check_layer(path, &bytes)?;
        let home = if speaks_wasi_03(&bytes) {
            self.concurrent()?
        } else {
            Arc::clone(&self.sync)
        };
        let start = Instant::now();
        tracing::info!(path = %path.display(), bytes = bytes.len(), "compiling a component");
        let component = home.compile(path, &bytes)?;
        let ms = start.elapsed().as_millis();
        tracing::info!(path = %path.display(), ms, "compiled the component");
        home.store(digest, &component);
        drop(bytes);
        // Code that is mapped from its file takes memory only where it is used.
        let compiled = home.load(digest);
        let compiled = compiled.unwrap_or(Compiled { component, home });
        give_memory_back();
        Ok(compiled)
    }
}

impl Home {
    fn open(
        max_instances: usize,
        calls: Calls,
        cache_dir: Option<&Path>,
    ) -> Result<Arc<Self>, HandlerError> {
        let engine = Engine::start(max_instances, calls)?;
        let linker = capabilities::linker(&engine.wasm, calls).map_err(|e| {
            let reason = format!("{e:#}");
            HandlerError::Engine { reason }
        })?;
        let cache = match cache_dir {
            Some(dir) => Some(Sealed::open(dir, COMPILED, engine.compatibility())?),
            None => None,
        };
        Ok(Arc::new(Self {
            engine,
            linker,
            cache,
        }))
    }

    fn load(self: &Arc<Self>, digest: &Digest) -> Option<Compiled> {
        let compiled = self.cache.as_ref()?.load(digest)?;
        #[expect(unsafe_code, reason = "the engine cannot check native code by itself")]
        // SAFETY: the file carries this node's MAC, so this runtime has made it itself; it is
        // only ever replaced by rename, never changed in place.
        let component = unsafe { Component::deserialize_file(&self.engine.wasm, compiled.path()) };
        let component = component
            .inspect_err(|error| tracing::warn!("a compiled component cannot be used: {error:#}"))
            .ok()?;
        let home = Arc::clone(self);
        Some(Compiled { component, home })
    }

    fn store(&self, digest: &Digest, component: &Component) {
        let Some(cache) = &self.cache else { return };
        let stored = component
            .serialize()
            .map_err(std::io::Error::other)
            .and_then(|compiled| cache.store(digest, &compiled));
        if let Err(error) = stored {
            tracing::warn!(%digest, "the compiled component is not kept for the next start: {error}");
        }
    }

    fn compile(&self, path: &Path, bytes: &[u8]) -> Result<Component, HandlerError> {
        let failed = |reason: String| HandlerError::Compile {
            path: path.to_owned(),
            reason,
        };
        let threads = rayon::ThreadPoolBuilder::new()
            .thread_name(|i| format!("compile-{i}"))
            .start_handler(|_| step_back())
            .build()
            .map_err(|e| failed(e.to_string()))?;
        threads
            .install(|| Component::from_binary(&self.engine.wasm, bytes))
            .map_err(|e| failed(format!("{e:#}")))
    }
}

/// The compiler frees much at once; the allocator would keep it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_memory_back() {
    #[expect(unsafe_code, reason = "a call into the C library")]
    // SAFETY: it takes no pointers, and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}

/// Whether the component names an interface of WASI 0.3. What cannot be read
/// does not; the compiler says why.
fn speaks_wasi_03(bytes: &[u8]) -> bool {
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        let speaks = match payload {
            Ok(Payload::Version { .. }) => {
                depth += 1;
                false
            }
            Ok(Payload::End(_)) => {
                depth -= 1;
                false
            }
            Ok(Payload::ComponentImportSection(names)) if depth == 1 => names
                .into_iter()
                .any(|import| import.is_ok_and(|i| i.name.name.contains(WASI_03))),
            Ok(Payload::ComponentExportSection(names)) if depth == 1 => names
                .into_iter()
                .any(|export| export.is_ok_and(|e| e.name.name.contains(WASI_03))),
            Ok(_) => false,
            Err(_) => return false,
        };
        if speaks {
            return true;
        }
    }
    false
}

fn check_layer(path: &Path, bytes: &[u8]) -> Result<(), HandlerError> {
    let path = || path.to_owned();
    match bytes.strip_prefix(&MAGIC) {
        None => Err(HandlerError::NotWasm { path: path() }),
        Some([_, _, a, b, ..]) if [*a, *b] == COMPONENT_LAYER => Ok(()),
        Some([_, _, 0, 0, ..]) => Err(HandlerError::CoreModule { path: path() }),
        Some(_) => Err(HandlerError::NotWasm { path: path() }),
    }
}
