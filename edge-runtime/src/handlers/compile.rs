//! From a component's file to machine code, off the serving threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fleet_api::ids::Digest;
use tokio::sync::Semaphore;
use tokio::task;
use wasmtime::component::Component;

use super::HandlerError;
use super::cache::Cache;
use super::long_work::step_back;

const MAGIC: [u8; 4] = *b"\0asm";
const COMPONENT_LAYER: [u8; 2] = [1, 0];

pub(super) struct Compiler {
    engine: wasmtime::Engine,
    cache: Option<Cache>,
    one_at_a_time: Semaphore,
}

impl Compiler {
    pub(super) fn new(engine: wasmtime::Engine, cache: Option<Cache>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            cache,
            one_at_a_time: Semaphore::new(1),
        })
    }

    /// The component in `path`, from the cache where it has been compiled before.
    pub(super) async fn component(
        self: &Arc<Self>,
        path: PathBuf,
        digest: Digest,
    ) -> Result<Component, HandlerError> {
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

    fn load_or_compile(&self, path: &Path, digest: &Digest) -> Result<Component, HandlerError> {
        if let Some(component) = self.load(digest) {
            return Ok(component);
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
        let start = Instant::now();
        tracing::info!(path = %path.display(), bytes = bytes.len(), "compiling a component");
        let component = self.compile(path, &bytes)?;
        let ms = start.elapsed().as_millis();
        tracing::info!(path = %path.display(), ms, "compiled the component");
        self.store(digest, &component);
        drop(bytes);
        // Code that is mapped from its file takes memory only where it is used.
        let component = self.load(digest).unwrap_or(component);
        give_memory_back();
        Ok(component)
    }

    fn load(&self, digest: &Digest) -> Option<Component> {
        let compiled = self.cache.as_ref()?.load(digest)?;
        #[expect(unsafe_code, reason = "the engine cannot check native code by itself")]
        // SAFETY: the file carries this node's MAC, so this runtime has made it itself; it is
        // only ever replaced by rename, never changed in place.
        let component = unsafe { Component::deserialize_file(&self.engine, compiled.path()) };
        component
            .inspect_err(|error| tracing::warn!("a compiled component cannot be used: {error:#}"))
            .ok()
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
            .install(|| Component::from_binary(&self.engine, bytes))
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

fn check_layer(path: &Path, bytes: &[u8]) -> Result<(), HandlerError> {
    let path = || path.to_owned();
    match bytes.strip_prefix(&MAGIC) {
        None => Err(HandlerError::NotWasm { path: path() }),
        Some([_, _, a, b, ..]) if [*a, *b] == COMPONENT_LAYER => Ok(()),
        Some([_, _, 0, 0, ..]) => Err(HandlerError::CoreModule { path: path() }),
        Some(_) => Err(HandlerError::NotWasm { path: path() }),
    }
}
