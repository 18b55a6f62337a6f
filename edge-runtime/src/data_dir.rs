//! The node's data folder: its layout, its version, and the lock that keeps a
//! second process out.
//!
//! ```text
//! data_dir/
//!   version          form of the folder, "1"
//!   lock             held while a process uses the folder; its holder's pid
//!   endpoint.json    where the running process listens
//!   identity/        certificate, key, CA, where the control plane is
//!   state.json       desired states and the transaction between them
//!   artifacts/       blobs by digest
//!   compiled/        components compiled for this machine
//!   models/          models' graphs optimised for this machine
//!   secrets/         secrets of handlers, a file each; the operator's
//!   buffer/          records that wait, and what handlers keep
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::disk::write_durably;

const FORM: &str = "1";

/// An open data folder; the lock is held until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "data folder {path} is in use by process {pid}: stop that process, or give this one a folder of its own"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The holder, as it wrote itself down.
        pid: String,
    },
    /// It was made by another version.
    #[error(
        "data folder {path} has form {found:?}, this version uses form {FORM:?}: use the version that made it, or another folder"
    )]
    Form {
        /// The folder.
        path: PathBuf,
        /// The form it has.
        found: String,
    },
    /// It holds other things.
    #[error("folder {path} is not empty and is not a data folder: give an empty one")]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("open data folder {path}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl DataDir {
    /// Opens the folder, makes it where it is missing, and locks it.
    ///
    /// # Errors
    /// [`DataDirError`] if it is in use, of another form, or not accessible.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(io)?;
        let version = path.join("version");
        // A damaged file may hold anything.
        let found = std::fs::read(&version).map(|f| String::from_utf8_lossy(&f).into_owned());
        match found {
            Ok(found) if found.trim() == FORM => {}
            Ok(found) => {
                let found = found.trim().to_owned();
                return Err(DataDirError::Form {
                    path: path.to_owned(),
                    found,
                });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut entries = std::fs::read_dir(path).map_err(io)?;
                // A power cut at the first start leaves an unfinished version file.
                let own = ["lock", "version.tmp"];
                let foreign = entries
                    .any(|entry| entry.is_ok_and(|e| !own.iter().any(|own| e.file_name() == *own)));
                if foreign {
                    return Err(DataDirError::Foreign {
                        path: path.to_owned(),
                    });
                }
                write_durably(&version, FORM.as_bytes()).map_err(io)?;
            }
            Err(e) => return Err(io(e)),
        }
        let lock = lock(path)?;
        for folder in ["identity", "artifacts", "compiled"] {
            std::fs::create_dir_all(path.join(folder)).map_err(io)?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Certificate, key and CA.
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// Blobs by digest.
    pub fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Components compiled for this machine.
    pub fn compiled(&self) -> PathBuf {
        self.path.join("compiled")
    }

    /// Models' graphs optimised for this machine.
    pub fn models(&self) -> PathBuf {
        self.path.join("models")
    }

    /// Where earlier versions kept what handlers keep between calls; now it lies in the buffer.
    pub fn keyvalue(&self) -> PathBuf {
        self.path.join("keyvalue")
    }

    /// What the node knows of its replays.
    pub fn replays(&self) -> PathBuf {
        self.path.join("replays.json")
    }

    /// Secrets of handlers, where the configuration names no other folder.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Records that wait.
    pub fn buffer(&self) -> PathBuf {
        self.path.join("buffer")
    }

    /// Desired states and the transaction between them.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Tells other programs where this process listens.
    ///
    /// # Errors
    /// [`DataDirError::Io`] if it cannot be written.
    pub fn announce(&self, endpoint: &serde_json::Value) -> Result<(), DataDirError> {
        let path = self.path.join("endpoint.json");
        write_durably(&path, endpoint.to_string().as_bytes())
            .map_err(|source| DataDirError::Io { path, source })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Nobody listens there any more; a file that stays behind does no harm.
        let _ = std::fs::remove_file(self.path.join("endpoint.json"));
    }
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file = path.join("lock");
    let io = |source| DataDirError::Io {
        path: file.clone(),
        source,
    };
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file)
        .map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io)?;
            let pid = pid.trim().to_owned();
            return Err(DataDirError::InUse {
                path: path.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    lock.set_len(0).map_err(io)?;
    writeln!(lock, "{}", std::process::id()).map_err(io)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_has_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("node");
        let first = DataDir::open(&path).expect("opens");
        let error = DataDir::open(&path).expect_err("in use").to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        DataDir::open(&path).expect("opens again");
    }

    #[test]
    fn opens_what_a_power_cut_at_the_first_start_has_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("lock"), "").expect("written");
        std::fs::write(folder.path().join("version.tmp"), "").expect("written");
        DataDir::open(folder.path()).expect("opens");
    }

    #[test]
    fn refuses_folders_of_others() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("letter.txt"), "mine").expect("written");
        assert!(matches!(
            DataDir::open(folder.path()),
            Err(DataDirError::Foreign { .. })
        ));
        let other = folder.path().join("other");
        std::fs::create_dir(&other).expect("created");
        std::fs::write(other.join("version"), "9\n").expect("written");
        let error = DataDir::open(&other).expect_err("refused").to_string();
        assert!(error.contains("form \"9\""), "{error}");
    }
}
