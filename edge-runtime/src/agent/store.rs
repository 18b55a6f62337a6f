use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use fleet_api::artifact::PinnedArtifact;
use fleet_api::ids::Digest;
use sha2::Digest as _;

use super::layout;
use crate::disk::sync_parent;

/// Blobs on disk, each under its digest; a blob is there whole or not at all.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    folder: PathBuf,
    pinned: Pinned,
}

type Pinned = Arc<Mutex<Vec<Weak<Vec<PinnedArtifact>>>>>;

/// Keeps artifacts on disk that no desired state names, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pin(
    #[expect(dead_code, reason = "its life is what counts")] Arc<Vec<PinnedArtifact>>,
);

/// Why a blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("access {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The content is not what the digest says.
    #[error("the content has digest {found}, not {expected}")]
    Digest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
}

impl ArtifactStore {
    pub(crate) fn open(folder: PathBuf) -> Result<Self, StoreError> {
        std::fs::create_dir_all(&folder).map_err(|source| StoreError::Io {
            path: folder.clone(),
            source,
        })?;
        Ok(Self {
            folder,
            pinned: Pinned::default(),
        })
    }

    /// Keeps `artifacts`, whole or still to come, beside what [`ArtifactStore::retain`] is told.
    pub(crate) fn pin(&self, artifacts: Vec<PinnedArtifact>) -> Pin {
        let artifacts = Arc::new(artifacts);
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.retain(|known| known.strong_count() > 0);
        pinned.push(Arc::downgrade(&artifacts));
        Pin(artifacts)
    }

    /// Where the blob lies, or will lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// The folder that all blobs lie in.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where an unfinished blob lies.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.part", digest.hex()))
    }

    /// Whether the blob is on disk.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Reads the blob through and compares it with its digest. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if it has changed; it is set aside then, to be fetched again.
    pub(crate) fn verify(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.path(digest);
        let found = digest_of(&path)?;
        if found == *digest {
            return Ok(path);
        }
        let io = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        std::fs::remove_file(&path).map_err(io)?;
        Err(StoreError::Digest {
            expected: digest.clone(),
            found,
        })
    }

    /// Makes an unfinished blob the blob, once it is whole and durable. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Digest`] if the content is another; it is removed then.
    pub(crate) fn accept(&self, digest: &Digest) -> Result<(), StoreError> {
        let partial = self.partial(digest);
        let io = |source| StoreError::Io {
            path: partial.clone(),
            source,
        };
        let found = digest_of(&partial)?;
        if found != *digest {
            std::fs::remove_file(&partial).map_err(io)?;
            return Err(StoreError::Digest {
                expected: digest.clone(),
                found,
            });
        }
        std::fs::File::open(&partial)
            .and_then(|file| file.sync_all())
            .map_err(io)?;
        let path = self.path(digest);
        std::fs::rename(&partial, &path)
            .and_then(|()| sync_parent(&path))
            .map_err(io)
    }

    /// Removes all blobs and folders but those of `keep`, unfinished ones too. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what could be removed is gone.
    pub(crate) fn retain<'a>(
        &self,
        keep: impl IntoIterator<Item = &'a PinnedArtifact>,
    ) -> Result<(), StoreError> {
        let mut kept = BTreeSet::new();
        // Held to the end: what is pinned meanwhile is not removed half-way.
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep_one = |artifact: &PinnedArtifact| {
            let files = artifact.files.iter().map(|file| &file.digest);
            let digests = files.chain([&artifact.digest]);
            kept.extend(digests.map(|digest| digest.hex().to_owned()));
            kept.extend(layout::folder_name(artifact));
        };
        keep.into_iter().for_each(&mut keep_one);
        for alive in pinned.iter().filter_map(Weak::upgrade) {
            alive.iter().for_each(&mut keep_one);
        }
        let io = |source| StoreError::Io {
            path: self.folder.clone(),
            source,
        };
        for entry in std::fs::read_dir(&self.folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let path = entry.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if kept.contains(name) {
                continue;
            }
            if entry.file_type().map_err(io)?.is_dir() {
                std::fs::remove_dir_all(&path).map_err(io)?;
            } else {
                std::fs::remove_file(&path).map_err(io)?;
            }
        }
        Ok(())
    }
}

fn digest_of(path: &Path) -> Result<Digest, StoreError> {
    let io = |source| StoreError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut sum = sha2::Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut chunk).map_err(io)?;
        if read == 0 {
            return Ok(Digest::from_sha256(&sum.finalize()));
        }
        sum.update(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::artifact::ArtifactKind;
    use fleet_api::ids::{Name, Version};
    use fleet_api::model_files::{FileName, FileRole, PinnedFile};

    use super::*;

    #[test]
    fn only_whole_blobs_are_taken_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ArtifactStore::open(folder.path().join("artifacts")).expect("opens");
        let digest = Digest::of(b"a component");
        std::fs::write(store.partial(&digest), b"a compo").expect("written");
        assert!(matches!(
            store.accept(&digest),
            Err(StoreError::Digest { .. })
        ));
        assert!(!store.has(&digest) && !store.partial(&digest).exists());

        std::fs::write(store.partial(&digest), b"a component").expect("written");
        store.accept(&digest).expect("whole");
        assert!(store.verify(&digest).is_ok());
        std::fs::write(store.path(&digest), b"a c0mponent").expect("changed");
        assert!(matches!(
            store.verify(&digest),
            Err(StoreError::Digest { .. })
        ));
        assert!(!store.has(&digest));
    }

    #[test]
    fn keeps_what_is_needed_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ArtifactStore::open(folder.path().to_owned()).expect("opens");
        let blobs: Vec<_> = [&b"1"[..], b"2", b"3"].map(Digest::of).into();
        for (blob, content) in blobs.iter().zip([b"1", b"2", b"3"]) {
            std::fs::write(store.path(blob), content).expect("written");
        }
        std::fs::create_dir_all(folder.path().join("old.files/a")).expect("created");
        let kept = PinnedArtifact {
            kind: ArtifactKind::Model,
            name: Name::new("m").expect("valid"),
            version: Version::new("1").expect("valid"),
            digest: blobs[1].clone(),
            size: 1,
            files: vec![PinnedFile {
                role: FileRole::Labels,
                name: FileName::new("m.labels.txt").expect("valid"),
                digest: blobs[2].clone(),
                size: 1,
            }],
        };
        let pin = store.pin(vec![PinnedArtifact {
            digest: blobs[0].clone(),
            files: Vec::new(),
            ..kept.clone()
        }]);
        store.clone().retain([&kept]).expect("removed");
        assert!(store.has(&blobs[0]), "it is pinned");
        drop(pin);
        store.retain([&kept]).expect("removed");
        assert!(!store.has(&blobs[0]) && store.has(&blobs[1]) && store.has(&blobs[2]));
        assert!(!folder.path().join("old.files").exists());
    }
}
