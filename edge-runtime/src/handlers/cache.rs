//! Compiled components on disk. A compiled component is native code, so a file
//! counts only if it carries a MAC by this node's key over its bytes, the
//! component's digest and the engine's fingerprint: a changed, exchanged or
//! foreign file is never loaded.
//!
//! A file is `MAC (32 bytes) | compiled component`, named
//! `<digest>-<engine>.cwasm`, written beside and then renamed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fleet_api::ids::Digest;
use ring::hmac;

use super::HandlerError;

const MAC_BYTES: usize = 32;
const KEY_FILE: &str = "node.key";
const CONTEXT: &[u8] = b"edge-runtime compiled component v1\0";

pub(super) struct Cache {
    dir: PathBuf,
    key: hmac::Key,
    engine: Digest,
}

impl Cache {
    pub(super) fn open(dir: &Path, engine: Digest) -> Result<Self, HandlerError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| HandlerError::Cache { path, source }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let path = dir.join(KEY_FILE);
        let key = match read_key(&path).map_err(at(&path))? {
            Some(key) => key,
            None => make_key(&path).map_err(at(&path))?,
        };
        Ok(Self {
            dir: dir.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            engine,
        })
    }

    /// The compiled bytes of `component`, if there are any that can be trusted.
    pub(super) fn load(&self, component: &Digest) -> Option<Vec<u8>> {
        let path = self.path(component);
        let mut file = fs::read(&path).ok()?;
        if file.len() < MAC_BYTES {
            tracing::warn!(path = %path.display(), "a compiled component is cut short; compiling again");
            return None;
        }
        let compiled = file.split_off(MAC_BYTES);
        let signed = self.signed(component, &compiled);
        if hmac::verify(&self.key, &signed, &file).is_err() {
            tracing::warn!(
                path = %path.display(),
                "a compiled component was changed or made under another key; compiling again"
            );
            return None;
        }
        Some(compiled)
    }

    pub(super) fn store(&self, component: &Digest, compiled: &[u8]) -> io::Result<()> {
        let path = self.path(component);
        let beside = path.with_extension(format!("tmp{}", std::process::id()));
        let mac = hmac::sign(&self.key, &self.signed(component, compiled));
        let written = (|| {
            let mut file = private(&beside)?;
            file.write_all(mac.as_ref())?;
            file.write_all(compiled)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn path(&self, component: &Digest) -> PathBuf {
        let engine = &self.engine.hex()[..16];
        self.dir.join(format!("{}-{engine}.cwasm", component.hex()))
    }

    /// What the MAC is over: no other file, component or engine can carry it.
    fn signed(&self, component: &Digest, compiled: &[u8]) -> Vec<u8> {
        let mut signed = CONTEXT.to_vec();
        for digest in [component, &self.engine, &Digest::of(compiled)] {
            signed.extend_from_slice(digest.as_str().as_bytes());
        }
        signed
    }
}

/// The key, unless it is missing, cut short or open to others.
fn read_key(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the node key was open to other users; making a new one");
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.try_into().ok())
}

fn make_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = private(&beside)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(key)
}

fn private(path: &Path) -> io::Result<fs::File> {
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
