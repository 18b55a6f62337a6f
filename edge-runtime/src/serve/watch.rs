//! `--watch`: a component that changes on disk is served in its new form.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// How often the files are looked at. Looking works on every file system; being
/// told of changes does not.
const EVERY: Duration = Duration::from_millis(200);

/// What tells two states of a file apart without reading it; none if it is not there.
type Look = Option<(SystemTime, u64)>;

/// Files that are looked at again and again.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Look>,
}

impl Watch {
    /// Changes count from now on.
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        let seen = look(&files);
        Self { files, seen }
    }

    /// Ends when a file has changed and all are there and at rest: a build
    /// writes its output in steps, an editor removes and renames.
    pub(super) async fn changed(&mut self) {
        let mut last = self.seen.clone();
        loop {
            sleep(EVERY).await;
            let now = look(&self.files);
            let at_rest = now == last && now.iter().all(Option::is_some);
            if at_rest && now != self.seen {
                self.seen = now;
                return;
            }
            last = now;
        }
    }
}

fn look(files: &[PathBuf]) -> Vec<Look> {
    let look = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_file_counts_once_it_is_there_and_at_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        assert!(timeout(EVERY * 3, watch.changed()).await.is_err());
        fs::remove_file(&file).unwrap();
        assert!(timeout(EVERY * 3, watch.changed()).await.is_err());
        let beside = dir.path().join("b.wasm");
        fs::write(&beside, "another").unwrap();
        fs::rename(&beside, &file).unwrap();
        watch.changed().await;
        assert!(timeout(EVERY * 3, watch.changed()).await.is_err());
    }
}
