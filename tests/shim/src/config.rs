use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{kinds, log};

/// The calls that can be made to fail, in the order of their counters.
const CALLS: [&str; 7] = [
    "write", "sync", "open", "rename", "unlink", "resize", "mkdir",
];
pub(crate) const WRITE: usize = 0;
pub(crate) const SYNC: usize = 1;
pub(crate) const OPEN: usize = 2;
pub(crate) const RENAME: usize = 3;
pub(crate) const UNLINK: usize = 4;
pub(crate) const RESIZE: usize = 5;
pub(crate) const MKDIR: usize = 6;

static COUNTS: [AtomicU64; CALLS.len()] = [const { AtomicU64::new(0) }; CALLS.len()];

/// What the environment asks for.
pub(crate) struct Config {
    /// Folder whose files are looked at, without a slash at its end.
    pub dir: Vec<u8>,
    /// The log's file.
    pub log: Option<Vec<u8>>,
    swallow_fdatasync: bool,
    swallow_all: bool,
    fail: Option<Fail>,
}

struct Fail {
    call: usize,
    number: u64,
    fault: Fault,
    and_later: bool,
}

/// What happens in the place of a call.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// It fails with this error.
    Error(i32),
    /// Half of it is written.
    Short,
}

/// The configuration; `None` where nothing is to be looked at.
pub(crate) fn config() -> Option<&'static Config> {
    static CONFIG: OnceLock<Option<Config>> = OnceLock::new();
    CONFIG.get_or_init(read).as_ref()
}

fn read() -> Option<Config> {
    let bytes = |name| std::env::var_os(name).map(|value| value.as_bytes().to_vec());
    let swallow = bytes("FLEET_SHIM_SWALLOW");
    Some(Config {
        dir: bytes("FLEET_SHIM_DIR")?,
        log: bytes("FLEET_SHIM_LOG"),
        swallow_all: swallow.as_deref() == Some(b"all"),
        swallow_fdatasync: swallow.as_deref() == Some(b"fdatasync"),
        fail: std::env::var("FLEET_SHIM_FAIL").ok().as_deref().map(parse),
    })
}

fn parse(text: &str) -> Fail {
    let parts: Vec<_> = text.split(':').collect();
    let wrong = || -> ! { panic!("FLEET_SHIM_FAIL={text:?} is not CALL:N:ERROR[:on]") };
    let (&[call, number, fault] | &[call, number, fault, "on"]) = parts.as_slice() else {
        wrong()
    };
    let Some(call) = CALLS.iter().position(|known| *known == call) else {
        wrong()
    };
    let Ok(number) = number.parse() else { wrong() };
    let fault = match fault {
        "EIO" => Fault::Error(libc::EIO),
        "ENOSPC" => Fault::Error(libc::ENOSPC),
        "short" => Fault::Short,
        _ => wrong(),
    };
    Fail {
        call,
        number,
        fault,
        and_later: parts.len() == 4,
    }
}

impl Config {
    /// Counts a call; what shall happen in its place.
    pub(crate) fn fault(&self, call: usize, inode: u64) -> Option<Fault> {
        let number = COUNTS[call].fetch_add(1, Ordering::Relaxed) + 1;
        let fail = self.fail.as_ref()?;
        let due = number == fail.number || (fail.and_later && number > fail.number);
        if fail.call != call || !due {
            return None;
        }
        let call = u8::try_from(call).unwrap_or(u8::MAX);
        log::append(
            &log::lock(),
            kinds::FAILED,
            &[&[call], &number.to_le_bytes(), &inode.to_le_bytes()],
        );
        Some(fail.fault)
    }

    /// Whether a sync is to be swallowed.
    pub(crate) fn swallows(&self, how: u8) -> bool {
        self.swallow_all || (self.swallow_fdatasync && how == kinds::HOW_FDATASYNC)
    }
}

/// Sets `errno` and answers what a failed call answers.
pub(crate) fn refuse(error: i32) -> i32 {
    // SAFETY: the C library answers a valid pointer to the thread's own errno.
    unsafe { *libc::__errno_location() = error };
    -1
}
