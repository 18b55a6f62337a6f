use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet_api::frame::MAX_EPOCH;

use super::sled_store::{OpenFailure, SledStore, panic_text};
use super::{BufferConfig, BufferError, Changes, Durability, FrameStore, Space};

const FORMAT: u32 = 1;
const FORMAT_NOTE: &[u8] = b"format";
const EPOCH_NOTE: &[u8] = b"epoch";
const QUARANTINES_KEPT: usize = 2;
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// An open buffer.
pub(crate) struct Opened {
    pub store: Arc<dyn FrameStore>,
    pub space: Space,
    /// Random for each new store; sequences are unique within it.
    pub epoch: u64,
    /// Where a damaged predecessor was put, and what was wrong with it.
    pub quarantined: Option<(PathBuf, String)>,
    /// How many damaged databases lie in the folder.
    pub quarantines: u64,
    /// How long opening took.
    pub open_time: Duration,
}

#[cfg(test)]
impl Opened {
    /// A store of the test's own; files beside it lie in `dir`.
    pub(crate) fn over(store: Arc<dyn FrameStore>, epoch: u64, dir: &Path) -> Self {
        Self {
            store,
            space: Space::prepare(dir, &BufferConfig::default()).unwrap(),
            epoch,
            quarantined: None,
            quarantines: 0,
            open_time: Duration::ZERO,
        }
    }
}

/// Opens the buffer in `dir`, or creates it. A damaged one is set aside and a
/// new one with a new epoch takes its place.
///
/// # Errors
/// [`BufferError`] if it is in use, of another format, the disk is full, or the
/// folder cannot be used.
pub(crate) fn open(dir: &Path, config: &BufferConfig) -> Result<Opened, BufferError> {
    let started = Instant::now();
    std::fs::create_dir_all(dir)
        .map_err(|e| BufferError::io("create the buffer's folder", dir, &e))?;
    let space = Space::prepare(dir, config)?;
    let path = dir.join("sled");
    super::compact::recover(dir)?;

    let mut quarantined = None;
    if let Some(reason) = marked_reason(&path) {
        quarantined = Some((quarantine(dir, &path)?, reason));
    }
    let store = match open_store(dir, &path, config)? {
        Ok(store) => store,
        Err(reason) => {
            quarantined = Some((quarantine(dir, &path)?, reason));
            open_store(dir, &path, config)?.map_err(|reason| BufferError::Damaged {
                path: dir.to_owned(),
                reason,
            })?
        }
    };
    let store: Arc<dyn FrameStore> = Arc::new(store);
    let epoch = epoch(dir, store.as_ref())?;
    let owner = dir.join("owner");
    std::fs::write(&owner, std::process::id().to_string())
        .map_err(|e| BufferError::io("write", &owner, &e))?;
    space.restore_ballast(config);
    Ok(Opened {
        store,
        space,
        epoch,
        quarantined,
        quarantines: quarantines(dir).len() as u64,
        open_time: started.elapsed(),
    })
}

/// Opens the database `path` of the buffer in `dir` and changes nothing else; a damaged one
/// stays where it is.
///
/// # Errors
/// [`BufferError`], [`BufferError::Damaged`] included.
pub(crate) fn open_as_it_is(
    dir: &Path,
    path: &Path,
    config: &BufferConfig,
) -> Result<Arc<dyn FrameStore>, BufferError> {
    let store = open_store(dir, path, config)?.map_err(|reason| BufferError::Damaged {
        path: path.to_owned(),
        reason,
    })?;
    Ok(Arc::new(store.without_marks()))
}

/// Opens sled on a thread of its own; the inner error is damage.
pub(super) fn open_store(
    dir: &Path,
    path: &Path,
    config: &BufferConfig,
) -> Result<Result<SledStore, String>, BufferError> {
    let (result, opened) = sync_channel(1);
    let thread_path = path.to_owned();
    let thread_config = config.clone();
    let thread = std::thread::Builder::new()
        .name("buffer-open".to_owned())
        .spawn(move || {
            let _ = result.send(open_unlocked(&thread_path, &thread_config));
        })
        .map_err(|e| BufferError::io("start a thread for", dir, &e))?;
    let failure = match opened.recv_timeout(config.open_limit) {
        Ok(Ok(store)) => return Ok(Ok(store)),
        Ok(Err(failure)) => failure,
        Err(RecvTimeoutError::Timeout) => {
            return Err(BufferError::Slow {
                path: dir.to_owned(),
                limit: config.open_limit,
            });
        }
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => OpenFailure::Damaged(panic_text(panic.as_ref())),
            Ok(()) => OpenFailure::Damaged("opening ended without a result".to_owned()),
        },
    };
    match failure {
        OpenFailure::Damaged(reason) => Ok(Err(reason)),
        OpenFailure::Locked => Err(BufferError::InUse {
            path: dir.to_owned(),
            owner: std::fs::read_to_string(dir.join("owner")).map_or_else(
                |_| "another process".to_owned(),
                |pid| format!("process {}", pid.trim()),
            ),
        }),
        OpenFailure::NoSpace => Err(BufferError::NoSpace {
            path: dir.to_owned(),
            need: config.free_floor_bytes,
        }),
        OpenFailure::Io(error) => Err(BufferError::io("open the buffer", path, &error)),
    }
}

/// Opens sled, and waits a little for the lock.
fn open_unlocked(path: &Path, config: &BufferConfig) -> Result<SledStore, OpenFailure> {
    let deadline = Instant::now() + config.lock_wait;
    loop {
        match SledStore::open(path, config) {
            Err(OpenFailure::Locked) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            opened => return opened,
        }
    }
}

fn epoch(dir: &Path, store: &dyn FrameStore) -> Result<u64, BufferError> {
    let format = FORMAT.to_string().into_bytes();
    if let Some((_, found)) = store.notes(FORMAT_NOTE)?.first()
        && *found != format
    {
        return Err(BufferError::Format {
            path: dir.to_owned(),
            found: String::from_utf8_lossy(found).into_owned(),
            known: FORMAT,
        });
    }
    if let Some((_, stored)) = store.notes(EPOCH_NOTE)?.first() {
        return std::str::from_utf8(stored)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| BufferError::Damaged {
                path: dir.to_owned(),
                reason: "its epoch cannot be read".to_owned(),
            });
    }
    let epoch = (getrandom::u64().map_err(|e| BufferError::Io {
        act: "draw random numbers for",
        path: dir.to_owned(),
        reason: e.to_string(),
    })? & MAX_EPOCH)
        .max(1);
    let changes = Changes {
        notes: vec![
            (FORMAT_NOTE.to_vec(), format),
            (EPOCH_NOTE.to_vec(), epoch.to_string().into_bytes()),
        ],
        ..Changes::default()
    };
    store.commit(&changes, Durability::Durable)?;
    Ok(epoch)
}

fn mark(path: &Path) -> PathBuf {
    path.with_file_name("quarantine-wanted")
}

/// Asks the next start to set the database aside: a read of it panicked.
pub(super) fn mark_for_quarantine(path: &Path, reason: &str) {
    if let Err(error) = std::fs::write(mark(path), reason) {
        tracing::error!(%error, "cannot mark the damaged buffer for quarantine");
    }
}

fn marked_reason(path: &Path) -> Option<String> {
    std::fs::read_to_string(mark(path)).ok()
}

/// Puts the database aside under a name with the time.
fn quarantine(dir: &Path, path: &Path) -> Result<PathBuf, BufferError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let target = dir.join(format!("quarantine-{now:014}"));
    std::fs::rename(path, &target).map_err(|e| BufferError::io("set aside", path, &e))?;
    if let Err(error) = std::fs::remove_file(mark(path))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(BufferError::io("remove", mark(path), &error));
    }
    // Tells what there was, for those who look for it.
    let _ = std::fs::copy(dir.join("bounds.json"), target.join("bounds.json"));
    remove_old_quarantines(dir);
    Ok(target)
}

/// The databases that were set aside, oldest first.
pub(crate) fn quarantines(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.is_dir()
                && path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("quarantine-"))
        })
        .collect();
    found.sort();
    found
}

fn remove_old_quarantines(dir: &Path) {
    for old in quarantines(dir).iter().rev().skip(QUARANTINES_KEPT) {
        if let Err(error) = std::fs::remove_dir_all(old) {
            tracing::warn!(path = %old.display(), %error, "cannot remove an old quarantine");
        }
    }
}
