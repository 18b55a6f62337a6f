//! What an inference engine has to offer. ONNX Runtime (`onnx.rs`) is the only one.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::tensor::{Tensor, TensorInfo};

/// An engine that turns a file into sessions.
pub(crate) trait Backend: Send + Sync {
    /// Loads a file as `sessions` sessions that run independently of each other. Blocks.
    ///
    /// # Errors
    /// The engine's reason, as a fragment.
    fn load(&self, source: Source<'_>, sessions: usize) -> Result<LoadedFile, LoadError>;

    /// Tells apart what makes optimised files that differ: the engine's build, and the processor it optimises for.
    fn fingerprint(&self) -> String;
}

/// What to load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A model as it was pushed. The graph that the engine makes of it is written to `keep`, if that is wanted.
    Pushed {
        path: &'a Path,
        keep: Option<&'a Path>,
    },
    /// A graph that was kept, by an engine with the same fingerprint.
    Optimised(&'a Path),
}

/// A model as it came from its file.
pub(crate) struct LoadedFile {
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    pub(crate) sessions: Vec<Box<dyn Session>>,
}

/// The engine's reason for not loading a file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LoadError(pub(crate) String);

/// One copy of a model that runs one request at a time.
pub(crate) trait Session: Send {
    /// Runs the model on checked inputs and returns the outputs named in `wanted` in that order, or all when it is
    /// empty. Blocks; returns early once `interrupt` is stopped.
    ///
    /// # Errors
    /// [`RunError`]; the session stays usable.
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[&str],
        interrupt: Option<&Interrupt>,
    ) -> Result<Ran, RunError>;
}

/// The result of a run and where its time went.
pub(crate) struct Ran {
    pub(crate) outputs: Vec<Tensor>,
    /// Handing the inputs to the engine.
    pub(crate) input: Duration,
    /// The engine's run.
    pub(crate) infer: Duration,
    /// Taking the outputs back.
    pub(crate) output: Duration,
}

/// Why a run gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The interrupt was stopped.
    #[error("stopped")]
    Stopped,
    /// It took longer than whoever began it had patience for; it may be run again.
    #[error("slower than expected")]
    TooSlow,
    /// The engine refused these inputs.
    #[error("{0}")]
    Refused(String),
    /// The engine failed.
    #[error("{0}")]
    Failed(String),
}

/// Why a run was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The request's deadline passed.
    Deadline,
    /// Nobody waits for the result any more.
    Abandoned,
}

/// Stops one run from another thread. A session arms it with the engine's own way to stop before the run begins, and
/// disarms it afterwards; a stop that comes before the run is seen when the session arms it.
#[derive(Default)]
pub(crate) struct Interrupt {
    state: Mutex<InterruptState>,
}

#[derive(Default)]
struct InterruptState {
    reason: Option<StopReason>,
    nudged: bool,
    stop: Option<Box<dyn Fn() + Send>>,
}

impl Interrupt {
    /// Stops the run; only the first call does anything, and its reason stays.
    pub(crate) fn stop(&self, reason: StopReason) {
        let mut state = self.state();
        if state.reason.is_none() {
            state.reason = Some(reason);
            if let Some(stop) = &state.stop {
                stop();
            }
        }
    }

    /// Ends the run that is under way, if there is one, and only that one.
    pub(crate) fn nudge(&self) {
        let mut state = self.state();
        if let Some(stop) = &state.stop {
            stop();
            state.nudged = true;
        }
    }

    /// What the error of a run that is over comes from, if it comes from here.
    pub(crate) fn cause(&self) -> Option<RunError> {
        let mut state = self.state();
        let nudged = std::mem::take(&mut state.nudged);
        match state.reason {
            Some(_) => Some(RunError::Stopped),
            None => nudged.then_some(RunError::TooSlow),
        }
    }

    /// Says how to stop the run that begins now. False if it need not begin.
    pub(crate) fn arm(&self, stop: impl Fn() + Send + 'static) -> bool {
        let mut state = self.state();
        if state.reason.is_some() {
            return false;
        }
        state.stop = Some(Box::new(stop));
        state.nudged = false;
        true
    }

    /// The run is over.
    pub(crate) fn disarm(&self) {
        self.state().stop = None;
    }

    fn state(&self) -> MutexGuard<'_, InterruptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_stop_before_the_run_keeps_it_from_beginning() {
        let interrupt = Interrupt::default();
        interrupt.stop(StopReason::Abandoned);
        interrupt.stop(StopReason::Deadline);
        assert!(!interrupt.arm(|| panic!("must not be kept")));
        assert_eq!(interrupt.state().reason, Some(StopReason::Abandoned));
    }

    #[test]
    fn a_nudge_ends_one_run_and_the_next_may_begin() {
        let interrupt = Interrupt::default();
        interrupt.nudge();
        assert!(interrupt.cause().is_none(), "nothing was under way");
        assert!(interrupt.arm(|| ()));
        interrupt.nudge();
        interrupt.disarm();
        assert!(matches!(interrupt.cause(), Some(RunError::TooSlow)));
        assert!(interrupt.arm(|| ()) && interrupt.cause().is_none());
        interrupt.stop(StopReason::Abandoned);
        interrupt.nudge();
        assert!(matches!(interrupt.cause(), Some(RunError::Stopped)));
    }

    #[test]
    fn a_stop_reaches_the_run_until_it_is_over() {
        let stops = Arc::new(AtomicU32::new(0));
        let interrupt = Interrupt::default();
        let counted = Arc::clone(&stops);
        assert!(interrupt.arm(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        interrupt.stop(StopReason::Deadline);
        interrupt.stop(StopReason::Abandoned);
        assert_eq!(stops.load(Ordering::SeqCst), 1);
        let late = Interrupt::default();
        assert!(late.arm(|| panic!("the run is over")));
        late.disarm();
        late.stop(StopReason::Deadline);
    }
}
