//! Digests of files, and notes of what has been done so that it is not done again.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::checkout::Checkout;

/// A note in `artifacts/stamps/` of what a step was done with.
pub(crate) struct Stamp {
    path: PathBuf,
}

impl Stamp {
    /// The note of a step.
    pub(crate) fn of(checkout: &Checkout, step: &str) -> Self {
        Self {
            path: checkout.artifact("stamps").join(step),
        }
    }

    /// Whether the step was done with just this.
    pub(crate) fn holds(&self, with: &str) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == with)
    }

    /// Notes that the step was done with this.
    pub(crate) fn set(&self, with: &str) -> Result<()> {
        write(&self.path, with.as_bytes())
    }
}

/// The SHA-256 of a file, in hex.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut file =
        fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut block)
            .with_context(|| format!("failed to read {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&block[..n]);
    }
}

/// Whether a file has this digest. Size and time of a file that has been found
/// right are noted, so that a large file is not read again each time.
pub(crate) fn has_digest(checkout: &Checkout, path: &Path, sha256: &str) -> Result<bool> {
    let Ok(metadata) = path.metadata() else {
        return Ok(false);
    };
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
    let seen = format!("{sha256} {} {modified}", metadata.len());
    let name = path.strip_prefix(checkout.root()).unwrap_or(path);
    let stamp = Stamp::of(checkout, &name.to_string_lossy().replace('/', "_"));
    if stamp.holds(&seen) {
        return Ok(true);
    }
    let right = sha256_file(path)? == sha256;
    if right {
        stamp.set(&seen)?;
    }
    Ok(right)
}

/// One digest over all files below some paths, and over some words. Folders
/// named `target` and hidden ones are left out.
pub(crate) fn digest_of(checkout: &Checkout, paths: &[&str], words: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for path in paths {
        collect(&checkout.root().join(path), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update([0]);
    }
    for file in files {
        let name = file.strip_prefix(checkout.root()).unwrap_or(&file);
        hasher.update(name.to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update(sha256_file(&file)?.as_bytes());
    }
    Ok(hex(&hasher.finalize()))
}

/// Writes a file whole: a step that is cut off leaves the old one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("the file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let draft = path.with_added_extension("new");
    fs::write(&draft, bytes).with_context(|| format!("failed to write {}", draft.display()))?;
    fs::rename(&draft, path).with_context(|| format!("failed to write {}", path.display()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("failed to list {}", path.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name != "target" && name != "__pycache__" && !name.to_string_lossy().starts_with('.') {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
