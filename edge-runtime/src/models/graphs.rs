//! Graphs that the engine has optimised for this machine, kept between starts: they load into less memory than the models
//! that they were made from (docs/performance.md).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fleet_api::ids::Digest;

use super::backend::{Backend, LoadError, LoadedFile, Source};
use crate::sealed::{Kind, Sealed};

const GRAPHS: Kind = Kind {
    extension: "onnx",
    context: b"edge-runtime optimised graph v1\0",
    name: "an optimised graph",
};

/// How a model's file names others that hold its weights (TensorProto.external_data of ONNX).
const EXTERNAL_DATA: &[u8] = b"location";

/// The kept graphs of this node.
pub(crate) struct Graphs {
    folder: Option<PathBuf>,
    opened: OnceLock<Option<Sealed>>,
}

impl Graphs {
    /// Keeps graphs in `folder`, or none.
    pub(crate) fn new(folder: Option<PathBuf>) -> Graphs {
        Graphs {
            folder,
            opened: OnceLock::new(),
        }
    }

    /// Loads a model, from its kept graph if there is one; keeps its graph otherwise.
    ///
    /// # Errors
    /// The engine's reason for not loading the model.
    pub(crate) fn load(
        &self,
        backend: &dyn Backend,
        path: &Path,
        sessions: usize,
    ) -> Result<LoadedFile, LoadError> {
        fn pushed<'a>(path: &'a Path, keep: Option<&'a Path>) -> Source<'a> {
            Source::Pushed { path, keep }
        }
        let Some((sealed, model)) = self.place_of(backend, path) else {
            return backend.load(pushed(path, None), sessions);
        };
        if let Some(kept) = sealed.load(&model) {
            match backend.load(Source::Optimised(&kept.path()), sessions) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => {
                    tracing::warn!(model = %path.display(), %error, "an optimised graph cannot be used; making it again");
                }
            }
        }
        let mut outcome = None;
        let kept = sealed.store_with(&model, |keep| {
            let loaded = backend.load(pushed(path, Some(keep)), sessions);
            let failed = loaded.is_err();
            outcome = Some(loaded);
            if failed {
                Err(io::ErrorKind::InvalidData.into())
            } else {
                Ok(())
            }
        });
        match (outcome, kept) {
            (Some(Ok(loaded)), Ok(())) => Ok(loaded),
            (Some(Ok(loaded)), Err(error)) => {
                tracing::warn!(model = %path.display(), %error, "the optimised graph is not kept");
                Ok(loaded)
            }
            // The folder may be full or the graph may have no form on disk: the model counts, not the graph.
            _ => backend.load(pushed(path, None), sessions),
        }
    }

    /// Where the graph of a model is kept, and under which digest. None for models whose weights lie in other files, of
    /// which the digest says nothing.
    fn place_of(&self, backend: &dyn Backend, path: &Path) -> Option<(&Sealed, Digest)> {
        let sealed = self.opened.get_or_init(|| self.open(backend)).as_ref()?;
        let model = std::fs::read(path).ok()?;
        let elsewhere = memchr::memmem::find(&model, EXTERNAL_DATA).is_some();
        (!elsewhere).then(|| (sealed, Digest::of(&model)))
    }

    fn open(&self, backend: &dyn Backend) -> Option<Sealed> {
        let folder = self.folder.as_deref()?;
        let maker = Digest::of(backend.fingerprint().as_bytes());
        let opened = Sealed::open(folder, GRAPHS, maker);
        let warn = |error: &crate::sealed::SealedError| {
            tracing::warn!(
                error = crate::causes::chain(error),
                "optimised graphs are not kept"
            );
        };
        opened.inspect_err(warn).ok()
    }
}
