//! Calls that make something durable. They overlap with writes: only what was written
//! before one began is durable when it ends.

use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_uint, off64_t};

use crate::config::{Fault, SYNC, refuse};
use crate::files::watched;
use crate::{kinds, log};

static NEXT: AtomicU64 = AtomicU64::new(1);

fn sync(fd: c_int, how: u8, range: (off64_t, off64_t), real: impl FnOnce() -> c_int) -> c_int {
    let Some((config, inode)) = watched(fd) else {
        return real();
    };
    if let Some(Fault::Error(error)) = config.fault(SYNC, inode) {
        return refuse(error);
    }
    if config.swallows(how) {
        return 0;
    }
    let held = log::lock();
    let id = NEXT.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
    let id = id.to_le_bytes();
    let (offset, bytes) = (range.0.to_le_bytes(), range.1.to_le_bytes());
    let fields: [&[u8]; 5] = [&id, &inode.to_le_bytes(), &[how], &offset, &bytes];
    log::append(&held, kinds::SYNC_BEGIN, &fields);
    drop(held);
    let answer = real();
    if answer == 0 {
        log::append(&log::lock(), kinds::SYNC_END, &[&id]);
    }
    answer
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, kinds::HOW_FSYNC, (0, 0), || {
        // SAFETY: a plain number.
        let answer = unsafe { libc::syscall(libc::SYS_fsync, fd) };
        c_int::try_from(answer).unwrap_or(-1)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, kinds::HOW_FDATASYNC, (0, 0), || {
        // SAFETY: a plain number.
        let answer = unsafe { libc::syscall(libc::SYS_fdatasync, fd) };
        c_int::try_from(answer).unwrap_or(-1)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(
    fd: c_int,
    offset: off64_t,
    bytes: off64_t,
    flags: c_uint,
) -> c_int {
    sync(fd, kinds::HOW_RANGE, (offset, bytes), || {
        // SAFETY: plain numbers.
        let answer = unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, bytes, flags) };
        c_int::try_from(answer).unwrap_or(-1)
    })
}
