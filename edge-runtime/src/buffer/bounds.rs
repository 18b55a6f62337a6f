use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where each stream ended, kept beside the store. If the store comes back
/// shorter than this, it lost its tail, and the numbers must not be used again.
///
/// It is written about once a second after a commit, so it never runs ahead of
/// what is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// The store's epoch; bounds of another one say nothing.
    pub epoch: u64,
    /// Next sequence per stream.
    pub next: BTreeMap<String, u64>,
    /// The receiver's watermark per stream.
    #[serde(default)]
    pub acked: BTreeMap<String, u64>,
}

impl Bounds {
    fn path(dir: &Path) -> PathBuf {
        dir.join("bounds.json")
    }

    /// The stored bounds; none if there are none or they cannot be read.
    pub(crate) fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(dir)).ok()?).ok()
    }

    /// Replaces the stored bounds.
    pub(crate) fn save(&self, dir: &Path) -> std::io::Result<()> {
        let next = dir.join("bounds.json.new");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, Self::path(dir))
    }
}
