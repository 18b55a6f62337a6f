use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::config::config;

/// Held while a change is made and noted, so that the log has the order of the changes.
pub(crate) struct Held(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

static ORDER: Mutex<()> = Mutex::new(());

pub(crate) fn lock() -> Held {
    Held(ORDER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Appends an entry in one write, so that other processes may append too.
pub(crate) fn append(_: &Held, kind: u8, fields: &[&[u8]]) {
    let Some(fd) = file() else { return };
    let bytes: usize = 1 + fields.iter().map(|field| field.len()).sum::<usize>();
    let mut entry = Vec::with_capacity(4 + bytes);
    let length = u32::try_from(bytes).expect("a write is smaller than 4 GiB");
    entry.extend_from_slice(&length.to_le_bytes());
    entry.push(kind);
    for field in fields {
        entry.extend_from_slice(field);
    }
    // SAFETY: the buffer lives as long as the call; the descriptor is the shim's own.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, entry.as_ptr(), entry.len()) };
    assert!(
        usize::try_from(written) == Ok(entry.len()),
        "the shim's log cannot be written"
    );
}

fn file() -> Option<i32> {
    static FILE: OnceLock<Option<i32>> = OnceLock::new();
    *FILE.get_or_init(|| {
        let path = CString::new(config()?.log.clone()?).ok()?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the path is a C string that lives as long as the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                flags,
                0o644,
            )
        };
        let fd = i32::try_from(fd).unwrap_or(-1);
        assert!(fd >= 0, "the shim's log cannot be opened");
        Some(fd)
    })
}
