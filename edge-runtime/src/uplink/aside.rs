use std::path::{Path, PathBuf};

use crate::disk::write_durably;
use crate::streams::OutFrame;

/// Files that are kept; the oldest give way.
const KEPT: usize = 64;

/// Keeps a frame that cannot be forwarded as `aside/<stream>-<epoch>-<first>.frame` in the
/// buffer's folder, for people. None if the disk does not take it.
pub(super) async fn keep(folder: &Path, stream: &str, frame: OutFrame) -> Option<PathBuf> {
    let folder = folder.join("aside");
    let name = format!("{stream}-{}-{}.frame", frame.frame.epoch, frame.first);
    let path = folder.join(name);
    let write = {
        let path = path.clone();
        move || {
            std::fs::create_dir_all(&folder)?;
            make_room(&folder)?;
            write_durably(&path, &frame.bytes)
        }
    };
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => Some(path),
        Ok(Err(error)) => {
            tracing::error!(path = %path.display(), %error, "cannot keep a frame aside");
            None
        }
        Err(_) => None,
    }
}

fn make_room(folder: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let many = (files.len() + 1).saturating_sub(KEPT);
    for (_, old) in files.into_iter().take(many) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}
