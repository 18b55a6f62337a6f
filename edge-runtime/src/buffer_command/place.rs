use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::BufferCommandError;
use crate::buffer::{self, BufferConfig, BufferError, FrameStore};
use crate::streams::Catalog;

/// Where a buffer lies.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The folder with `bounds.json`, the ballast and the quarantines.
    pub dir: PathBuf,
    /// The database itself.
    pub database: PathBuf,
}

impl Place {
    /// Finds the database in a node's data folder, a buffer's folder, or a database's own.
    pub(super) fn find(given: &Path) -> Result<Self, BufferCommandError> {
        let is_database = |path: &Path| path.join("db").is_file();
        let inside = [given.join("buffer/sled"), given.join("sled")];
        let database = inside
            .into_iter()
            .chain([given.to_owned()])
            .find(|path| is_database(path))
            .ok_or_else(|| BufferCommandError::NoBuffer(given.to_owned()))?;
        let database = std::fs::canonicalize(&database)
            .map_err(BufferCommandError::io("open", database.clone()))?;
        let dir = database.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { dir, database })
    }

    /// Opens it as it is, unless a process has it.
    pub(super) fn open(&self) -> Result<Arc<dyn FrameStore>, BufferCommandError> {
        self.open_path(&self.database)
    }

    /// Opens `database` with what this place says about its neighbours.
    pub(super) fn open_path(
        &self,
        database: &Path,
    ) -> Result<Arc<dyn FrameStore>, BufferCommandError> {
        let config = BufferConfig {
            lock_wait: std::time::Duration::ZERO,
            ..BufferConfig::default()
        };
        buffer::open_as_it_is(&self.dir, database, &config).map_err(|error| match error {
            BufferError::InUse { path, owner } => BufferCommandError::InUse { path, owner },
            BufferError::Damaged { reason, .. } => self.unreadable(reason),
            error => error.into(),
        })
    }

    /// Reads what the database says of itself.
    pub(super) fn catalog(&self, store: &dyn FrameStore) -> Result<Catalog, BufferCommandError> {
        Catalog::read(store).map_err(|error| self.unreadable(error.to_string()))
    }

    pub(super) fn unreadable(&self, reason: String) -> BufferCommandError {
        BufferCommandError::Unreadable {
            path: self.database.clone(),
            reason,
        }
    }
}

/// Size of all files in a folder.
pub(super) fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
