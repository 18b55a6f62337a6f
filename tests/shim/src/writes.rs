//! Calls that change a file's content or size.

use libc::{c_int, c_void, iovec, off64_t, size_t, ssize_t};

use crate::config::{Fault, RESIZE, WRITE, refuse};
use crate::files::watched;
use crate::{kinds, log};

/// Makes a write and notes what of it was done.
///
/// # Safety
/// `data` points to `bytes` bytes, as for write(2).
unsafe fn write_at(
    fd: c_int,
    data: *const c_void,
    mut bytes: size_t,
    offset: Option<off64_t>,
) -> ssize_t {
    let real = |bytes: size_t| {
        // SAFETY: the caller's contract is that of the system call.
        let written = unsafe {
            match offset {
                Some(offset) => libc::syscall(libc::SYS_pwrite64, fd, data, bytes, offset),
                None => libc::syscall(libc::SYS_write, fd, data, bytes),
            }
        };
        ssize_t::try_from(written).unwrap_or(-1)
    };
    let Some((config, inode)) = watched(fd) else {
        return real(bytes);
    };
    match config.fault(WRITE, inode) {
        Some(Fault::Error(error)) => return ssize_t::try_from(refuse(error)).unwrap_or(-1),
        Some(Fault::Short) => bytes = bytes.div_ceil(2),
        None => {}
    }
    let held = log::lock();
    let written = real(bytes);
    let Ok(done @ 1..) = usize::try_from(written) else {
        return written;
    };
    let at = offset.unwrap_or_else(|| {
        // SAFETY: plain numbers; the position lies behind what was written.
        let now = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        off64_t::try_from(now).unwrap_or(0) - off64_t::try_from(written).unwrap_or(0)
    });
    // SAFETY: so much of it was just read by the kernel.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), done) };
    log::append(
        &held,
        kinds::WRITE,
        &[&inode.to_le_bytes(), &at.to_le_bytes(), data],
    );
    written
}

/// Makes a vectored write as one.
///
/// # Safety
/// As for writev(2).
unsafe fn write_vectored(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: Option<off64_t>,
) -> ssize_t {
    let count = usize::try_from(count).unwrap_or(0);
    let mut all = Vec::new();
    for at in 0..count {
        // SAFETY: there are `count` parts, each with the bytes it says.
        unsafe {
            let part = &*parts.add(at);
            if part.iov_len > 0 {
                all.extend_from_slice(std::slice::from_raw_parts(
                    part.iov_base.cast::<u8>(),
                    part.iov_len,
                ));
            }
        }
    }
    // SAFETY: the buffer lives as long as the call.
    unsafe { write_at(fd, all.as_ptr().cast(), all.len(), offset) }
}

/// Changes a size by `real` and notes it.
fn resize(fd: c_int, size: Option<off64_t>, real: impl FnOnce() -> c_int) -> c_int {
    let Some((config, inode)) = watched(fd) else {
        return real();
    };
    if let Some(Fault::Error(error)) = config.fault(RESIZE, inode) {
        return refuse(error);
    }
    let held = log::lock();
    let answer = real();
    if let (0, Some(size)) = (answer, size) {
        log::append(
            &held,
            kinds::RESIZE,
            &[&inode.to_le_bytes(), &size.to_le_bytes()],
        );
    }
    answer
}

fn size_of(fd: c_int) -> off64_t {
    // SAFETY: a stat is plain numbers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    match unsafe { libc::fstat(fd, &raw mut stat) } {
        0 => stat.st_size,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn write(fd: c_int, data: *const c_void, bytes: size_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_at(fd, data, bytes, None) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite(
    fd: c_int,
    data: *const c_void,
    bytes: size_t,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_at(fd, data, bytes, Some(offset)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite64(
    fd: c_int,
    data: *const c_void,
    bytes: size_t,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_at(fd, data, bytes, Some(offset)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if watched(fd).is_none() {
        // SAFETY: the same contract.
        let written = unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) };
        return ssize_t::try_from(written).unwrap_or(-1);
    }
    // SAFETY: the same contract.
    unsafe { write_vectored(fd, parts, count, None) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwritev(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_vectored(fd, parts, count, Some(offset)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwritev64(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_vectored(fd, parts, count, Some(offset)) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate(fd: c_int, size: off64_t) -> c_int {
    resize(fd, Some(size), || {
        // SAFETY: plain numbers.
        let answer = unsafe { libc::syscall(libc::SYS_ftruncate, fd, size) };
        c_int::try_from(answer).unwrap_or(-1)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ftruncate64(fd: c_int, size: off64_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { ftruncate(fd, size) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fallocate(
    fd: c_int,
    mode: c_int,
    offset: off64_t,
    bytes: off64_t,
) -> c_int {
    let end = offset + bytes;
    let grows = mode == 0 && end > size_of(fd);
    resize(fd, grows.then_some(end), || {
        // SAFETY: plain numbers.
        let answer = unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, offset, bytes) };
        c_int::try_from(answer).unwrap_or(-1)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fallocate64(
    fd: c_int,
    mode: c_int,
    offset: off64_t,
    bytes: off64_t,
) -> c_int {
    // SAFETY: the same contract.
    unsafe { fallocate(fd, mode, offset, bytes) }
}
