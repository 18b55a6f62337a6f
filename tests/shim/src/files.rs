//! Which descriptors belong to files that are looked at, and what paths mean.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_char, c_int};

use crate::config::{Config, config};

const MOST: usize = 16_384;
/// Inode by descriptor; 0 for others.
static INODES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// The inode behind a descriptor that is looked at.
pub(crate) fn watched(fd: c_int) -> Option<(&'static Config, u64)> {
    let inode = INODES
        .get(usize::try_from(fd).ok()?)?
        .load(Ordering::Relaxed);
    if inode == 0 {
        return None;
    }
    Some((config()?, inode))
}

pub(crate) fn remember(fd: c_int) -> u64 {
    // SAFETY: a stat is plain numbers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    let inode = match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => stat.st_ino,
        _ => 0,
    };
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| INODES.get(fd)) {
        slot.store(inode, Ordering::Relaxed);
    }
    inode
}

/// The absolute path, if it lies below the folder that is looked at.
///
/// # Safety
/// `path` is a C string or null.
pub(crate) unsafe fn below(
    dirfd: c_int,
    path: *const c_char,
) -> Option<(&'static Config, Vec<u8>)> {
    let config = config()?;
    if path.is_null() {
        return None;
    }
    // SAFETY: not null, and a C string by contract.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let mut full = Vec::new();
    if path.first() != Some(&b'/') {
        full = folder(dirfd)?;
        full.push(b'/');
    }
    full.extend_from_slice(path);
    while full.last() == Some(&b'/') {
        full.pop();
    }
    let rest = full.strip_prefix(config.dir.as_slice())?;
    (rest.is_empty() || rest[0] == b'/').then_some((config, full))
}

fn folder(dirfd: c_int) -> Option<Vec<u8>> {
    let link = if dirfd == libc::AT_FDCWD {
        c"/proc/self/cwd".to_owned()
    } else {
        std::ffi::CString::new(format!("/proc/self/fd/{dirfd}")).ok()?
    };
    let mut path = vec![0u8; 4_096];
    // SAFETY: link is a C string, the buffer has the length given.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    path.truncate(usize::try_from(length).ok()?);
    Some(path)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close(fd: c_int) -> c_int {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| INODES.get(fd)) {
        slot.store(0, Ordering::Relaxed);
    }
    // SAFETY: the caller's contract is the same.
    let answer = unsafe { libc::syscall(libc::SYS_close, fd) };
    c_int::try_from(answer).unwrap_or(-1)
}
