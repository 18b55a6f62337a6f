//! Folders in which a model lies with its external data under the names that it asks for.
//!
//! ```text
//! artifacts/<digest>            a blob
//! artifacts/<key>.files/<digest>       the model's blob once more, as a hard link
//!                      /<its name>     a blob of external data, the same way
//! ```
//!
//! Links are hard because the engine follows a symbolic one out of the folder and refuses what it finds there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fleet_api::artifact::PinnedArtifact;
use fleet_api::ids::Digest;
use fleet_api::model_files::{FileRole, PinnedFile};

use super::store::{ArtifactStore, StoreError};

/// What an artifact runs on, in one digest: its own, or one over it and its external data with their names.
pub(super) fn content(artifact: &PinnedArtifact) -> Digest {
    let mut key = artifact.digest.to_string();
    let before = key.len();
    for file in data(artifact) {
        // No name has a line end in it.
        key += &format!("\n{} {}", file.digest, file.name);
    }
    if key.len() == before {
        artifact.digest.clone()
    } else {
        Digest::of(key.as_bytes())
    }
}

/// The name of an artifact's folder; none if the artifact is one file.
pub(super) fn folder_name(artifact: &PinnedArtifact) -> Option<String> {
    data(artifact).next()?;
    Some(format!("{}.files", content(artifact).hex()))
}

fn data(artifact: &PinnedArtifact) -> impl Iterator<Item = &PinnedFile> {
    let files = artifact.files.iter();
    files.filter(|file| file.role == FileRole::Data)
}

impl ArtifactStore {
    /// Lays an artifact out with its external data, whose blobs are there; answers the path of the artifact itself.
    /// None if it has no external data. The folder is there whole or not at all. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the system refuses.
    pub(super) fn lay_out(&self, artifact: &PinnedArtifact) -> Result<Option<PathBuf>, StoreError> {
        let Some(name) = folder_name(artifact) else {
            return Ok(None);
        };
        let folder = self.folder().join(&name);
        let itself = (artifact.digest.hex(), &artifact.digest);
        let files: Vec<_> = data(artifact)
            .map(|file| (file.name.as_str(), &file.digest))
            .chain([itself])
            .map(|(name, digest)| (name, self.path(digest)))
            .collect();
        let main = folder.join(artifact.digest.hex());
        let is_whole = |(name, blob): &(&str, PathBuf)| same_file(&folder.join(name), blob);
        if files.iter().all(is_whole) {
            return Ok(Some(main));
        }
        let fresh = self.folder().join(format!("{name}.part"));
        make(&fresh, &folder, &files).map_err(|source| StoreError::Io {
            path: folder.clone(),
            source,
        })?;
        Ok(Some(main))
    }
}

/// Makes the folder aside and puts it in the place of what may be there.
fn make(fresh: &Path, folder: &Path, files: &[(&str, PathBuf)]) -> io::Result<()> {
    for old in [fresh, folder] {
        match fs::remove_dir_all(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    for (name, blob) in files {
        let link = fresh.join(name);
        fs::create_dir_all(link.parent().unwrap_or(fresh))?;
        // Not every file system has hard links.
        if fs::hard_link(blob, &link).is_err() {
            fs::copy(blob, &link)?;
        }
    }
    fs::rename(fresh, folder)
}

fn same_file(a: &Path, b: &Path) -> bool {
    let identity = |path| fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use fleet_api::artifact::ArtifactKind;
    use fleet_api::ids::{Name, Version};
    use fleet_api::model_files::FileName;

    use super::*;

    fn blob(store: &ArtifactStore, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(store.path(&digest), content).expect("written");
        digest
    }

    fn model(store: &ArtifactStore, data: &[(&str, &[u8])]) -> PinnedArtifact {
        let files = data.iter().map(|(name, content)| PinnedFile {
            role: FileRole::Data,
            name: FileName::new(*name).expect("valid"),
            digest: blob(store, content),
            size: content.len() as u64,
        });
        PinnedArtifact {
            kind: ArtifactKind::Model,
            name: Name::new("m").expect("valid"),
            version: Version::new("1").expect("valid"),
            digest: blob(store, b"onnx"),
            size: 4,
            files: files.collect(),
        }
    }

    #[test]
    fn data_lies_beside_the_model_under_its_own_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ArtifactStore::open(folder.path().to_owned()).expect("opens");
        let artifact = model(&store, &[("w.bin", b"one"), ("deep/er/v.bin", b"two")]);
        let main = store.lay_out(&artifact).expect("laid out").expect("a path");
        let read = |name: &str| fs::read(main.with_file_name(name)).expect("there");
        assert_eq!(fs::read(&main).expect("there"), b"onnx");
        assert_eq!(
            (read("w.bin"), read("deep/er/v.bin")),
            (b"one".to_vec(), b"two".to_vec())
        );

        // The same again changes nothing; a blob that was fetched anew takes the old one's place.
        let before = fs::metadata(&main).expect("there").ino();
        store.lay_out(&artifact).expect("laid out");
        assert_eq!(fs::metadata(&main).expect("there").ino(), before);
        let weights = store.path(&artifact.files[0].digest);
        fs::remove_file(&weights).expect("removed");
        fs::write(&weights, b"new").expect("written");
        store.lay_out(&artifact).expect("laid out");
        assert_eq!(read("w.bin"), b"new");

        store.retain([&artifact]).expect("kept");
        assert!(main.exists());
        store.retain([]).expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_model_without_data_needs_no_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ArtifactStore::open(folder.path().to_owned()).expect("opens");
        assert_eq!(
            store.lay_out(&model(&store, &[])).expect("nothing to do"),
            None
        );
    }

    #[test]
    fn one_model_with_different_data_has_different_folders() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = ArtifactStore::open(folder.path().to_owned()).expect("opens");
        let names = [&[("w", &b"1"[..])][..], &[("w", b"2")], &[("v", b"1")]];
        let names = names.map(|data| folder_name(&model(&store, data)));
        assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2]);
    }
}
