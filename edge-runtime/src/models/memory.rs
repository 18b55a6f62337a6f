//! What models take of the node's memory.

/// Gives free memory back to the system; glibc keeps it otherwise, and it looks like a leak.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's call has no safe form")]
    // SAFETY: it takes a plain number and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
