//! Calls that change names: they are noted in the order of their effects.

use libc::{AT_FDCWD, c_char, c_int, c_uint, mode_t};

use crate::config::{Fault, MKDIR, OPEN, RENAME, UNLINK, refuse};
use crate::files::{below, remember};
use crate::{kinds, log};

/// # Safety
/// As for openat(2).
unsafe fn open_at(dirfd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let real = || {
        // SAFETY: the caller's contract is that of the system call.
        let fd = unsafe { libc::syscall(libc::SYS_openat, dirfd, path, flags, mode) };
        c_int::try_from(fd).unwrap_or(-1)
    };
    // SAFETY: the caller's path is a C string.
    let Some((config, full)) = (unsafe { below(dirfd, path) }) else {
        return real();
    };
    if let Some(Fault::Error(error)) = config.fault(OPEN, 0) {
        return refuse(error);
    }
    let held = log::lock();
    // SAFETY: a stat is plain numbers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a valid pointer.
    let existed = unsafe { libc::fstatat(dirfd, path, &raw mut stat, 0) } == 0;
    let fd = real();
    if fd < 0 {
        return fd;
    }
    let inode = remember(fd);
    if flags & libc::O_CREAT != 0 && !existed {
        log::append(&held, kinds::CREATE, &[&inode.to_le_bytes(), &full]);
    } else if flags & libc::O_TRUNC != 0 && stat.st_size > 0 {
        log::append(
            &held,
            kinds::RESIZE,
            &[&inode.to_le_bytes(), &0u64.to_le_bytes()],
        );
    }
    fd
}

/// # Safety
/// As for renameat2(2).
unsafe fn rename_at(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    let real = || {
        // SAFETY: the caller's contract is that of the system call.
        let answer =
            unsafe { libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags) };
        c_int::try_from(answer).unwrap_or(-1)
    };
    // SAFETY: the caller's paths are C strings.
    let (source, target) = unsafe { (below(from_dir, from), below(to_dir, to)) };
    let (Some((config, source)), Some((_, target))) = (source, target) else {
        return real();
    };
    if let Some(Fault::Error(error)) = config.fault(RENAME, 0) {
        return refuse(error);
    }
    let held = log::lock();
    let answer = real();
    if answer == 0 {
        log::append(&held, kinds::RENAME, &[&source, &[0], &target]);
    }
    answer
}

/// Removes or makes a name by `real`, and notes it.
///
/// # Safety
/// `path` is a C string.
unsafe fn change(
    call: usize,
    kind: u8,
    dirfd: c_int,
    path: *const c_char,
    real: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: the caller's path is a C string.
    let Some((config, full)) = (unsafe { below(dirfd, path) }) else {
        return real();
    };
    if let Some(Fault::Error(error)) = config.fault(call, 0) {
        return refuse(error);
    }
    let held = log::lock();
    let answer = real();
    if answer == 0 {
        log::append(&held, kind, &[&full]);
    }
    answer
}

/// # Safety
/// As for unlinkat(2).
unsafe fn unlink_at(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int {
    let kind = if flags & libc::AT_REMOVEDIR == 0 {
        kinds::UNLINK
    } else {
        kinds::RMDIR
    };
    // SAFETY: the same contract.
    unsafe {
        change(UNLINK, kind, dirfd, path, || {
            let answer = libc::syscall(libc::SYS_unlinkat, dirfd, path, flags);
            c_int::try_from(answer).unwrap_or(-1)
        })
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract; an argument that was not given is not used.
    unsafe { open_at(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as `open`.
    unsafe { open_at(AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: as `open`.
    unsafe { open_at(dirfd, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat64(
    dirfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: as `open`.
    unsafe { open_at(dirfd, path, flags, mode) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { rename_at(AT_FDCWD, from, AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn renameat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: the same contract.
    unsafe { rename_at(from_dir, from, to_dir, to, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn renameat2(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: the same contract.
    unsafe { rename_at(from_dir, from, to_dir, to, flags) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlink_at(AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlinkat(dirfd: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlink_at(dirfd, path, flags) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the same contract.
    unsafe { unlink_at(AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { mkdirat(AT_FDCWD, path, mode) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mkdirat(dirfd: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe {
        change(MKDIR, kinds::MKDIR, dirfd, path, || {
            let answer = libc::syscall(libc::SYS_mkdirat, dirfd, path, c_uint::from(mode));
            c_int::try_from(answer).unwrap_or(-1)
        })
    }
}
