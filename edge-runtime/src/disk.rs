//! Writing files that survive a power cut, and knowing how much still fits.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// Writes a file so that after a power cut it is whole: the old or the new.
///
/// # Errors
/// The system's reason; the old file is untouched then.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_durably_with_mode(path, bytes, 0o644)
}

/// As [`write_durably`], readable by the owner alone.
///
/// # Errors
/// The system's reason; the old file is untouched then.
pub(crate) fn write_secret_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_durably_with_mode(path, bytes, 0o600)
}

fn write_durably_with_mode(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("tmp");
    // A leftover of a crash may have other rights.
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes a rename in the folder of `path` durable.
///
/// # Errors
/// The system's reason.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Bytes that this user may still write where `path` lies (`statvfs(3)`, f_bavail).
///
/// # Errors
/// The system's reason.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Size of the file system where `path` lies (`statvfs(3)`, f_blocks).
///
/// # Errors
/// The system's reason.
pub(crate) fn total_bytes(path: &Path) -> std::io::Result<u64> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(fs.f_blocks.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("key.pem");
        write_secret_durably(&path, b"1").expect("written");
        write_secret_durably(&path, b"2").expect("written again");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).expect("there"), b"2");
    }
}
