use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::secret::write_durably;

/// The layout that this version writes and reads.
const LAYOUT: &str = "1";

/// The folder in which the control plane keeps everything:
///
/// ```text
///  VERSION        layout of this folder
///  lock           held while a process uses the folder
///  admin-token    for operators; mode 0600
///  ca/            ca.pem, ca.key, director.key; keys have mode 0600
///  fleet.sqlite   nodes, artifacts, deployments, desired state
///  objects/       blobs/ of the registry and archive/ of device data
///  uploads/       blobs on their way in; emptied at start
///  endpoint.json  where the running process listens
/// ```
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error("open the data folder {}: it is in use by a running process; stop that one or give another --data-dir", .0.display())]
    InUse(PathBuf),
    /// Another version wrote it.
    #[error("open the data folder {}: it has layout {found:?} of another version, and this one reads layout {LAYOUT}; use the version that wrote it or give another --data-dir", path.display())]
    OtherLayout {
        /// The folder.
        path: PathBuf,
        /// Its layout.
        found: String,
    },
    /// It holds something else.
    #[error("open the data folder {}: it holds files but none of a control plane; give an empty folder", .0.display())]
    Foreign(PathBuf),
    /// The system refuses.
    #[error("open the data folder {}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl DataDir {
    /// Takes the folder for this process; makes it if it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, DataDirError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        std::fs::create_dir_all(root).map_err(io(root))?;
        let root = root.canonicalize().map_err(io(root))?;
        let version = root.join("VERSION");
        let found = match std::fs::read_to_string(&version) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(&version)(e)),
        };
        if found.is_none() && holds_foreign_files(&root).map_err(io(&root))? {
            return Err(DataDirError::Foreign(root));
        }
        let lock_path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(root)),
            Err(TryLockError::Error(e)) => return Err(io(&lock_path)(e)),
        }
        match found {
            Some(found) if found != LAYOUT => {
                return Err(DataDirError::OtherLayout { path: root, found });
            }
            Some(_) => {}
            None => write_durably(&version, format!("{LAYOUT}\n").as_bytes(), 0o644)
                .map_err(io(&version))?,
        }
        let dir = Self { root, _lock: lock };
        // Left by a process that was killed; whoever waits for the file must not find it.
        let _ = std::fs::remove_file(dir.endpoint());
        let _ = std::fs::remove_dir_all(dir.uploads());
        for folder in [dir.ca(), dir.objects(), dir.uploads()] {
            std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        }
        Ok(dir)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    pub(crate) fn admin_token(&self) -> PathBuf {
        self.root.join("admin-token")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("fleet.sqlite")
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(crate) fn endpoint(&self) -> PathBuf {
        self.root.join("endpoint.json")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.endpoint());
    }
}

fn holds_foreign_files(root: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        if name != "lock" && name != "VERSION.new" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let second = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(second, DataDirError::InUse(_)), "{second}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn another_layout_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("VERSION"), "7\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(&error, DataDirError::OtherLayout { found, .. } if found == "7"));
        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("thesis.tex"), "").unwrap();
        let error = DataDir::open(foreign.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign(_)), "{error}");
        assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1);
    }
}
