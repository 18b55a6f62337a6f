//! What models take of the node's memory, and who gives way when there is not enough.
//!
//! A model's share is measured: the growth of the process's anonymous memory while it is loaded and proved, one model at a
//! time. Models that are to be in memory always are refused when they do not fit together; one that is loaded on demand
//! leaves its sessions when another needs the room, least recently used first, and comes back with its next request.
//! While a new generation is prepared, old and new versions are in memory together, whatever the budget says: that is
//! what a switch without a pause costs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use fleet_api::model::Load;

use super::Engine;
use super::backend::{LoadError, LoadedFile};
use super::dispatch::LaneId;
use super::error::ModelError;
use super::graphs::Graphs;
use super::pool::LoadedModel;

/// How often, and how long, room is looked for while other models are at work.
const ROOM_TRIES: u32 = 50;
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The memory of all models.
pub(crate) struct Memory {
    engine: Engine,
    graphs: Graphs,
    /// Bytes; none for no bound.
    budget: Option<u64>,
    /// Held while something is loaded, so that its growth is its own.
    loading: Mutex<()>,
    models: Mutex<HashMap<LaneId, Weak<LoadedModel>>>,
}

/// A file in memory, and what it takes there.
pub(crate) struct Measured {
    pub(crate) file: LoadedFile,
    pub(crate) bytes: u64,
}

/// Why something is not loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The engine is not there.
    #[error("inference is unavailable: {0}")]
    Engine(String),
    /// The file cannot be loaded.
    #[error("{0}")]
    Load(String),
    /// Others need the memory.
    #[error(
        "it needs {needed} bytes of the {budget} that models may take, and those that hold them are at work"
    )]
    Full { needed: u64, budget: u64 },
}

impl Memory {
    pub(crate) fn new(engine: Engine, graphs: Graphs, budget: Option<u64>) -> Arc<Memory> {
        Arc::new(Memory {
            engine,
            graphs,
            budget,
            loading: Mutex::default(),
            models: Mutex::default(),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads a file and lets `prove` have it, all of which counts as its memory. Blocks; one at a time.
    pub(crate) fn load<E>(
        &self,
        path: &Path,
        sessions: usize,
        prove: impl FnOnce(&mut LoadedFile) -> Result<(), E>,
    ) -> Result<Result<Measured, E>, MemoryError> {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.load_alone(path, sessions, prove)
    }

    fn load_alone<E>(
        &self,
        path: &Path,
        sessions: usize,
        prove: impl FnOnce(&mut LoadedFile) -> Result<(), E>,
    ) -> Result<Result<Measured, E>, MemoryError> {
        let backend = self.engine.open().map_err(MemoryError::Engine)?;
        trim();
        let before = resident_bytes();
        let loaded = self.graphs.load(backend, path, sessions);
        let mut file = loaded.map_err(|LoadError(reason)| MemoryError::Load(reason))?;
        if let Err(error) = prove(&mut file) {
            return Ok(Err(error));
        }
        trim();
        // Others may have freed some meanwhile; the weights are there in any case.
        let least = std::fs::metadata(path).map_or(0, |file| file.len());
        let bytes = resident_bytes().saturating_sub(before).max(least);
        Ok(Ok(Measured { file, bytes }))
    }

    /// Keeps an eye on a model.
    pub(crate) fn watch(&self, model: &Arc<LoadedModel>) {
        let mut models = self.models();
        models.retain(|_, model| model.strong_count() > 0);
        models.insert(model.lane, Arc::downgrade(model));
    }

    fn models(&self) -> MutexGuard<'_, HashMap<LaneId, Weak<LoadedModel>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that `models` can serve together.
    ///
    /// # Errors
    /// [`ModelError::Memory`] for the one that is too much.
    pub(crate) fn admit(&self, models: &[&LoadedModel]) -> Result<(), ModelError> {
        let Some(budget) = self.budget else {
            return Ok(());
        };
        let always: u64 = models
            .iter()
            .filter(|model| !model.on_demand())
            .map(|model| model.residence.needs_bytes())
            .sum();
        for model in models {
            let needed = model.residence.needs_bytes();
            let taken = if model.on_demand() {
                always
            } else {
                always - needed
            };
            if needed + taken > budget {
                return Err(ModelError::Memory {
                    name: model.name.to_string(),
                    version: model.version.to_string(),
                    needed,
                    taken,
                    budget,
                });
            }
        }
        Ok(())
    }

    /// Evicts models on demand until the rest fits. Blocks.
    pub(crate) fn settle(&self) {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.make_room(0);
    }

    /// Whether there is room for so much more right now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.budget.is_none_or(|budget| {
            let held: u64 = self.holders().iter().map(|holder| holder.bytes).sum();
            held + bytes <= budget
        })
    }

    fn holders(&self) -> Vec<Holder> {
        let models: Vec<_> = self.models().values().filter_map(Weak::upgrade).collect();
        let holder = |model: Arc<LoadedModel>| Holder {
            bytes: model.residence.held_bytes(),
            used_ms: model.residence.used_ms.load(Ordering::Relaxed),
            evictable: model.on_demand(),
            model: Some(model),
        };
        models.into_iter().map(holder).collect()
    }

    /// Evicts what has to give way for `needed` bytes more.
    fn make_room(&self, needed: u64) -> Result<(), MemoryError> {
        let Some(budget) = self.budget else {
            return Ok(());
        };
        for _ in 0..ROOM_TRIES {
            let holders = self.holders();
            let Some(victims) = victims(&holders, budget, needed) else {
                break;
            };
            let all = victims.iter().filter_map(|at| holders[*at].model.as_ref());
            // One at work is asked again a moment later, unless others make enough room.
            if all.filter(|model| !evict(model)).count() == 0 {
                return Ok(());
            }
            std::thread::sleep(ROOM_PAUSE);
        }
        Err(MemoryError::Full { needed, budget })
    }

    /// Brings an evicted model back, on a thread of its own; requests wait in its queue. Does nothing if it is on its way.
    pub(crate) fn bring_back(self: &Arc<Self>, model: &Arc<LoadedModel>) {
        if !model.residence.change(State::Evicted, State::Loading) {
            return;
        }
        let (memory, model) = (Arc::clone(self), Arc::clone(model));
        let load = move || {
            let begun = Instant::now();
            match memory.reload(&model) {
                Ok(()) => {
                    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(model = %model.name, version = %model.version, ms, "model loaded on demand");
                    model.scheduler.begin_ready();
                }
                Err(error) => memory.give_up(&model, &error),
            }
        };
        let spawned = std::thread::Builder::new()
            .name("model-load".into())
            .spawn(load);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to load a model on");
        }
    }

    fn reload(&self, model: &LoadedModel) -> Result<(), MemoryError> {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(model.residence.needs_bytes())?;
        let warm_up = |file: &mut LoadedFile| super::proof::prove(file, &[], false).map(drop);
        let residence = &model.residence;
        let loaded = self.load_alone(&residence.path, model.session_count, warm_up)?;
        let measured = loaded.map_err(|error| MemoryError::Load(error.to_string()))?;
        residence.hold(measured.bytes);
        let mut dispatch = model.scheduler.dispatch();
        dispatch.add_sessions(model.lane, measured.file.sessions);
        residence.set(State::Ready);
        Ok(())
    }

    fn give_up(&self, model: &LoadedModel, error: &MemoryError) {
        tracing::warn!(model = %model.name, version = %model.version, %error, "model cannot be loaded on demand");
        let waiting = {
            let mut dispatch = model.scheduler.dispatch();
            model.residence.set(State::Evicted);
            dispatch.drain(model.lane)
        };
        for member in waiting {
            let _ = member.reply.send(Err(ModelError::NotLoaded {
                name: model.name.to_string(),
                reason: error.to_string(),
            }));
        }
    }
}

/// Takes a model's sessions away, if it is idle. False if it is at work.
pub(crate) fn evict(model: &LoadedModel) -> bool {
    let sessions = {
        let mut dispatch = model.scheduler.dispatch();
        let Some(sessions) = dispatch.take_sessions(model.lane) else {
            return false;
        };
        // Within the guard: a request that comes after it sees that the model has to be brought back.
        model.residence.set(State::Evicted);
        sessions
    };
    drop(sessions);
    trim();
    let bytes = model.residence.held_bytes.swap(0, Ordering::Relaxed);
    tracing::info!(model = %model.name, version = %model.version, bytes, "model evicted: others need its memory");
    true
}

struct Holder {
    bytes: u64,
    used_ms: u64,
    evictable: bool,
    model: Option<Arc<LoadedModel>>,
}

/// Who has to give way so that `needed` more fits into `budget`: least recently used first, and no more than it takes.
/// None if that is not enough.
fn victims(holders: &[Holder], budget: u64, needed: u64) -> Option<Vec<usize>> {
    let mut held: u64 = holders.iter().map(|holder| holder.bytes).sum();
    let mut by_use: Vec<usize> = (0..holders.len())
        .filter(|at| holders[*at].evictable && holders[*at].bytes > 0)
        .collect();
    by_use.sort_by_key(|at| holders[*at].used_ms);
    let mut gone = Vec::new();
    for at in by_use {
        if held + needed <= budget {
            break;
        }
        held -= holders[at].bytes;
        gone.push(at);
    }
    (held + needed <= budget).then_some(gone)
}

/// Whether a model is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Ready,
    Loading,
    Evicted,
}

/// A model's place in memory.
pub(crate) struct Residence {
    /// Where it is loaded from.
    path: PathBuf,
    state: AtomicU8,
    /// What it took when it was loaded last.
    needs_bytes: AtomicU64,
    /// What it takes now.
    held_bytes: AtomicU64,
    /// Its last request, in milliseconds after the first one of the process.
    used_ms: AtomicU64,
}

impl Residence {
    pub(crate) fn new(path: &Path, bytes: u64) -> Residence {
        Residence {
            path: path.to_owned(),
            state: AtomicU8::new(State::Ready as u8),
            needs_bytes: AtomicU64::new(bytes),
            held_bytes: AtomicU64::new(bytes),
            used_ms: AtomicU64::new(now_ms()),
        }
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Ready,
            1 => State::Loading,
            _ => State::Evicted,
        }
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    fn change(&self, from: State, to: State) -> bool {
        let (from, to) = (from as u8, to as u8);
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }

    fn hold(&self, bytes: u64) {
        self.needs_bytes.store(bytes, Ordering::Relaxed);
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that it takes when it is in memory.
    pub(crate) fn needs_bytes(&self) -> u64 {
        self.needs_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that it takes now.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// A request came.
    pub(crate) fn used(&self) {
        self.used_ms.store(now_ms(), Ordering::Relaxed);
    }
}

impl LoadedModel {
    pub(crate) fn on_demand(&self) -> bool {
        self.options.load == Load::OnDemand
    }

    /// Leaves memory until the first request, unless there is room.
    pub(crate) fn make_way(&self) {
        if self.on_demand() && !self.memory.has_room(0) {
            evict(self);
        }
    }
}

fn now_ms() -> u64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(Instant::now);
    u64::try_from(first.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The process's anonymous memory in bytes, `RssAnon` of proc(5); 0 where that is not known.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Gives free memory back to the system; glibc keeps it otherwise, and it looks like a leak.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's call has no safe form")]
    // SAFETY: it takes a plain number and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(bytes: u64, used_ms: u64, evictable: bool) -> Holder {
        Holder {
            bytes,
            used_ms,
            evictable,
            model: None,
        }
    }

    #[test]
    fn the_least_recently_used_give_way_and_no_more_than_needed() {
        let holders = [
            holder(40, 0, false),
            holder(30, 3, true),
            holder(20, 1, true),
            holder(0, 0, true),
            holder(10, 2, true),
        ];
        assert_eq!(victims(&holders, 100, 0), Some(vec![]));
        assert_eq!(victims(&holders, 100, 10), Some(vec![2]));
        assert_eq!(victims(&holders, 100, 30), Some(vec![2, 4]));
        assert_eq!(victims(&holders, 100, 60), Some(vec![2, 4, 1]));
        assert_eq!(
            victims(&holders, 100, 61),
            None,
            "what stays always is not touched"
        );
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_bytes() > 100_000);
    }
}
