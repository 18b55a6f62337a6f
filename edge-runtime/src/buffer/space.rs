use std::fs::File;
use std::path::{Path, PathBuf};

use super::{BufferConfig, BufferError};
use crate::disk;

/// Watches free space, and keeps some aside.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    dir: PathBuf,
    floor_bytes: u64,
}

impl Space {
    /// Frees the ballast if the disk is nearly full, so that the store can open.
    pub(super) fn prepare(dir: &Path, config: &BufferConfig) -> Result<Self, BufferError> {
        let space = Self {
            dir: dir.to_owned(),
            floor_bytes: config.free_floor_bytes,
        };
        let ballast = dir.join("ballast");
        if space.free_bytes() < config.free_floor_bytes && ballast.exists() {
            std::fs::remove_file(&ballast)
                .map_err(|e| BufferError::io("free the ballast", &ballast, &e))?;
            tracing::warn!(path = %dir.display(), "the disk is nearly full: freed the ballast");
        }
        Ok(space)
    }

    /// Puts the ballast back once there is ample space again.
    pub(super) fn restore_ballast(&self, config: &BufferConfig) {
        let path = self.dir.join("ballast");
        let wanted = config.ballast_bytes;
        let present = path.metadata().map_or(0, |data| data.len());
        let ample = self.floor_bytes.saturating_add(wanted.saturating_mul(2));
        if wanted == 0 || present == wanted || self.free_bytes() < ample {
            return;
        }
        let allocate = || -> std::io::Result<()> {
            let file = File::create(&path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted)?;
            file.sync_all()
        };
        if let Err(error) = allocate() {
            tracing::warn!(%error, "cannot keep space aside for the buffer");
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Bytes that this user may still write; unknown counts as plenty.
    pub(crate) fn free_bytes(&self) -> u64 {
        disk::free_bytes(&self.dir).unwrap_or(u64::MAX)
    }

    /// Whether records must be refused.
    pub(crate) fn is_short(&self) -> bool {
        self.free_bytes() < self.floor_bytes
    }
}
