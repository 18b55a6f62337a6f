//! Files that this node has made for itself, such as compiled components: dear to make, and trusted when they are read
//! back. A file counts only with a MAC by this node's key over its bytes, the digest of what it was made from and the
//! fingerprint of what made it: a changed, exchanged or foreign file is never used.
//!
//! `<digest>-<maker>.<extension>` is the file, to be used as it lies there, and `<digest>-<maker>.mac` its MAC. Both are
//! written beside and then renamed, never in place, because running code may be mapped from them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fleet_api::ids::Digest;
use ring::hmac;
use sha2::{Digest as _, Sha256};

const MAC: &str = "mac";
/// How long a file is kept after its last use.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
const KEY_FILE: &str = "node.key";

/// What a folder's files are.
pub(crate) struct Kind {
    pub(crate) extension: &'static str,
    /// Part of what the MAC is over; changes with the form of the files.
    pub(crate) context: &'static [u8],
    /// For people: "a compiled component".
    pub(crate) name: &'static str,
}

/// A folder of such files.
pub(crate) struct Sealed {
    dir: PathBuf,
    key: hmac::Key,
    kind: Kind,
    maker: Digest,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use {path}")]
pub(crate) struct SealedError {
    /// The folder or the file in it.
    pub(crate) path: PathBuf,
    /// The system's reason.
    pub(crate) source: io::Error,
}

impl Sealed {
    /// Opens a folder, which is made if it is not there. `maker` is the fingerprint of what makes its files.
    pub(crate) fn open(dir: &Path, kind: Kind, maker: Digest) -> Result<Self, SealedError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| SealedError { path, source }
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
            kind,
            maker,
        })
    }

    /// The file that was made from `source`, if there is one that can be trusted.
    pub(crate) fn load(&self, source: &Digest) -> Option<SealedFile> {
        let path = self.path(source);
        let mut file = fs::File::open(&path).ok()?;
        let checked = fs::File::open(path.with_extension(MAC)).and_then(|mut mac_file| {
            let mut mac = Vec::new();
            mac_file.read_to_end(&mut mac)?;
            let signed = self.signed(source, &digest(&mut file)?);
            let good = hmac::verify(&self.key, &signed, &mac).is_ok();
            if good {
                // Only so that they count as used; see `sweep`.
                let now = SystemTime::now();
                let _ = file.set_modified(now).and(mac_file.set_modified(now));
            }
            Ok(good)
        });
        match checked {
            Ok(true) => Some(SealedFile(file)),
            Ok(false) => {
                tracing::warn!(
                    path = %path.display(),
                    "{} was changed or made under another key; making it again",
                    self.kind.name
                );
                None
            }
            Err(error) => {
                tracing::warn!(
                    path = %path.display(),
                    "{} cannot be checked; making it again: {error}",
                    self.kind.name
                );
                None
            }
        }
    }

    /// Whether there is a file made from `source`, by whatever maker.
    pub(crate) fn has_by_any_maker(&self, source: &Digest) -> bool {
        let from_source = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok().map(|entry| entry.file_name());
            name.is_some_and(|name| name.to_string_lossy().starts_with(source.hex()))
        };
        fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.any(from_source))
    }

    /// Keeps what was made from `source`.
    pub(crate) fn store(&self, source: &Digest, made: &[u8]) -> io::Result<()> {
        self.store_with(source, |path| private(path)?.write_all(made))
    }

    /// Keeps what `make` writes to the path that it is given, made from `source`.
    pub(crate) fn store_with(
        &self,
        source: &Digest,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = self.path(source);
        let beside = beside(&path);
        let kept = (|| {
            make(&beside)?;
            let mut file = fs::File::open(&beside)?;
            let mac = hmac::sign(&self.key, &self.signed(source, &digest(&mut file)?));
            file.sync_all()?;
            // A file without its MAC is made again, a MAC without its file does no harm.
            self.put(&path.with_extension(MAC), mac.as_ref())?;
            fs::rename(&beside, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        })();
        if kept.is_err() {
            let _ = fs::remove_file(&beside);
        }
        kept
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = beside(path);
        let written = (|| {
            let mut file = private(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn path(&self, source: &Digest) -> PathBuf {
        let (maker, extension) = (&self.maker.hex()[..16], self.kind.extension);
        self.dir
            .join(format!("{}-{maker}.{extension}", source.hex()))
    }

    /// What the MAC is over: no other file, source or maker can carry it.
    fn signed(&self, source: &Digest, made: &Digest) -> Vec<u8> {
        let mut signed = self.kind.context.to_vec();
        for digest in [source, &self.maker, made] {
            signed.extend_from_slice(digest.as_str().as_bytes());
        }
        signed
    }
}

/// A file that this node has made itself.
pub(crate) struct SealedFile(fs::File);

impl SealedFile {
    /// Leads to the file that was checked, whatever its name leads to by now.
    pub(crate) fn path(&self) -> PathBuf {
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
        let kind = || Kind {
            extension: "made",
            context: b"test",
            name: "a test's file",
        };
        let open = || Sealed::open(dir.path(), kind(), Digest::of(b"maker")).unwrap();
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
