//! Compiled components on disk. A compiled component is native code, so a file
//! counts only with a MAC by this node's key over its bytes, the component's
//! digest and the engine's fingerprint: a changed, exchanged or foreign file is
//! never loaded.
//!
//! `<digest>-<engine>.cwasm` is the code, to be mapped as it lies there, and
//! `<digest>-<engine>.mac` its MAC. Both are written beside and then renamed,
//! never in place, because running code may be mapped from them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fleet_api::ids::Digest;
use ring::hmac;
use sha2::{Digest as _, Sha256};

use super::HandlerError;

const MAC: &str = "mac";
/// How long a compiled component is kept after its last use.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const KEY_FILE: &str = "node.key";
const CONTEXT: &[u8] = b"edge-runtime compiled component v2\0";

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
        sweep(dir).map_err(at(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            engine,
        })
    }

    /// The compiled file of `component`, if there is one that can be trusted.
    pub(super) fn load(&self, component: &Digest) -> Option<Compiled> {
        let path = self.path(component);
        let mut file = fs::File::open(&path).ok()?;
        let checked = fs::File::open(path.with_extension(MAC)).and_then(|mut mac_file| {
            let mut mac = Vec::new();
            mac_file.read_to_end(&mut mac)?;
            let signed = self.signed(component, &digest(&mut file)?);
            let good = hmac::verify(&self.key, &signed, &mac).is_ok();
            if good {
                // Only so that they count as used; see `sweep`.
                let now = SystemTime::now();
                let _ = file.set_modified(now).and(mac_file.set_modified(now));
            }
            Ok(good)
        });
        match checked {
            Ok(true) => Some(Compiled(file)),
            Ok(false) => {
                tracing::warn!(
                    path = %path.display(),
                    "a compiled component was changed or made under another key; compiling again"
                );
                None
            }
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    "a compiled component cannot be checked; compiling again: {error}"
                );
                None
            }
        }
    }

    /// Whether there is a compiled file of `component`, for whichever engine.
    pub(super) fn has_for_any_engine(&self, component: &Digest) -> bool {
        let of_component = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok().map(|entry| entry.file_name());
            name.is_some_and(|name| name.to_string_lossy().starts_with(component.hex()))
        };
        fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.any(of_component))
    }

    pub(super) fn store(&self, component: &Digest, compiled: &[u8]) -> io::Result<()> {
        let path = self.path(component);
        let mac = hmac::sign(&self.key, &self.signed(component, &Digest::of(compiled)));
        // Code without its MAC is compiled again, a MAC without its code does no harm.
        self.put(&path.with_extension(MAC), mac.as_ref())?;
        self.put(&path, compiled)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = beside(path);
        let written = (|| {
            let mut file = private(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
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
    fn signed(&self, component: &Digest, compiled: &Digest) -> Vec<u8> {
        let mut signed = CONTEXT.to_vec();
        for digest in [component, &self.engine, compiled] {
            signed.extend_from_slice(digest.as_str().as_bytes());
        }
        signed
    }
}

/// A compiled component that this node has made itself.
pub(super) struct Compiled(fs::File);

impl Compiled {
    /// Leads to the file that was checked, whatever its name leads to by now.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// Removes what has not been used for long.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let used = entry.metadata()?.modified()?;
        let idle = used.elapsed().unwrap_or_default();
        if idle > KEEP && entry.file_name() != KEY_FILE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn digest(file: &mut fs::File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    io::copy(file, &mut hasher)?;
    Ok(Digest::from_sha256(&hasher.finalize()))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    name.into()
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
    let beside = beside(path);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_long_goes_and_the_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Cache::open(dir.path(), Digest::of(b"engine")).unwrap();
        let cache = open();
        let [kept, left] = [&b"kept"[..], b"left"].map(Digest::of);
        for component in [&kept, &left] {
            cache.store(component, b"code").unwrap();
        }
        let long_ago = SystemTime::now() - KEEP - Duration::from_secs(1);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let file = fs::File::open(entry.unwrap().path()).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        assert!(cache.load(&kept).is_some());
        let cache = open();
        assert!(cache.load(&kept).is_some());
        assert!(cache.load(&left).is_none());
    }
}
