//! One loaded model version: its sessions, the bounded queue before them, and the way of a request through both.
//!
//! ```text
//! request -> fits the model? -> place in the queue -> session -> core permit -> run -> result
//!             else 400          else 503             (first in, first out)     on this thread if the model is quick,
//!                                                                              else on an inference thread
//! ```

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fleet_api::ids::{Name, Version};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::InferRequest;
use super::backend::{Interrupt, Ran, RunError, Session, StopReason};
use super::error::ModelError;
use super::scheduler::Scheduler;
use super::stats::{FailureReason, Stats};
use super::tensor::{DataType, Tensor, TensorInfo, element_count, push_string};

/// A run quicker than this costs less than handing it to another thread.
const QUICK: Duration = Duration::from_micros(200);

/// With inputs up to this size, the pace of a quick model can be relied upon.
const SMALL_BYTES: usize = 64 << 10;

/// A model version, loaded and ready to run.
pub(crate) struct LoadedModel {
    pub(crate) name: Name,
    pub(crate) version: Version,
    pub(crate) digest: Option<String>,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    pub(crate) session_count: usize,
    pub(crate) stats: Stats,
    sessions: Mutex<Vec<Box<dyn Session>>>,
    session_permits: Arc<Semaphore>,
    queue_limit: usize,
    /// Requests that wait for a session or a core.
    waiting: AtomicUsize,
    /// Moving average of the run time; `u64::MAX` before the first run.
    pace_ns: AtomicU64,
}

impl LoadedModel {
    pub(crate) fn new(
        (name, version, digest): (Name, Version, Option<String>),
        file: super::backend::LoadedFile,
        queue_limit: usize,
    ) -> LoadedModel {
        let session_count = file.sessions.len();
        LoadedModel {
            name,
            version,
            digest,
            inputs: file.inputs,
            outputs: file.outputs,
            session_count,
            stats: Stats::default(),
            sessions: Mutex::new(file.sessions),
            session_permits: Arc::new(Semaphore::new(session_count)),
            queue_limit,
            waiting: AtomicUsize::new(0),
            pace_ns: AtomicU64::new(u64::MAX),
        }
    }

    /// Runs every session on zeros, a free dimension taken as 1, so that the first request finds a warm model and its
    /// pace is known. Blocks.
    ///
    /// # Errors
    /// [`ModelError::WarmUp`] if the run fails although the model fixes all its shapes; with free dimensions, 1 may be
    /// a size that it cannot take, which says nothing.
    pub(crate) fn warm_up(&self) -> Result<(), ModelError> {
        let fixed = self
            .inputs
            .iter()
            .all(|input| input.shape.iter().all(|dim| *dim >= 0));
        let zeros: Vec<Tensor> = self.inputs.iter().map(zeros).collect();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        for session in sessions.iter_mut() {
            // The second run shows the pace; the first also plans memory.
            let ran = session
                .run(&zeros, &[], None)
                .and_then(|_| session.run(&zeros, &[], None));
            match ran {
                Ok(ran) => self.pace_ns.store(as_ns(ran.infer), Relaxed),
                Err(error) if fixed => {
                    return Err(ModelError::WarmUp {
                        name: self.name.to_string(),
                        version: self.version.to_string(),
                        reason: error.to_string(),
                    });
                }
                Err(error) => {
                    tracing::debug!(model = %self.name, version = %self.version, %error, "no warm-up: free dimensions");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Requests that wait for their run to begin.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Requests that wait or run.
    pub(crate) fn pending(&self) -> usize {
        self.waiting()
            + (self.session_count
                - self
                    .session_permits
                    .available_permits()
                    .min(self.session_count))
    }

    /// Takes a request through queue and run.
    pub(crate) async fn infer(
        self: &Arc<Self>,
        scheduler: &Scheduler,
        request: InferRequest,
    ) -> Result<Vec<Tensor>, ModelError> {
        let came = Instant::now();
        self.stats.came(request.via);
        let abandoned = Abandoned { model: self, came };
        let result = self.check_and_run(scheduler, request, came).await;
        std::mem::forget(abandoned);
        match &result {
            Ok(_) => self.stats.succeeded(came.elapsed()),
            Err(error) => self.stats.failed(FailureReason::of(error), came.elapsed()),
        }
        result
    }

    async fn check_and_run(
        self: &Arc<Self>,
        scheduler: &Scheduler,
        request: InferRequest,
        came: Instant,
    ) -> Result<Vec<Tensor>, ModelError> {
        self.check(&request)?;
        let seat = self.seat(scheduler, request.deadline).await?;
        let queued = came.elapsed();
        let ran = if self.is_quick() && may_block_here() {
            self.run_here(scheduler, seat, &request)
        } else {
            self.run_on_thread(scheduler, seat, request).await
        };
        let ran = ran?;
        self.stats.ran(queued, &ran);
        Ok(ran.outputs)
    }

    /// Waits for a session and a core.
    async fn seat(
        self: &Arc<Self>,
        scheduler: &Scheduler,
        deadline: Option<Instant>,
    ) -> Result<Seat, ModelError> {
        let past = || ModelError::Deadline {
            name: self.name.to_string(),
        };
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(past());
        }
        let at_once = Arc::clone(&self.session_permits).try_acquire_owned().ok();
        let at_once = at_once
            .and_then(|slot| Some((slot, Arc::clone(&scheduler.cores).try_acquire_owned().ok()?)));
        let (slot, core) = match at_once {
            Some(permits) => permits,
            None => {
                let _place = self.place()?;
                let wait = async {
                    let slot = Arc::clone(&self.session_permits).acquire_owned().await;
                    let core = Arc::clone(&scheduler.cores).acquire_owned().await;
                    (slot.expect("never closed"), core.expect("never closed"))
                };
                match deadline {
                    Some(at) => tokio::time::timeout_at(at.into(), wait)
                        .await
                        .map_err(|_| past())?,
                    None => wait.await,
                }
            }
        };
        let session = self
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        Ok(Seat {
            model: Arc::clone(self),
            session,
            _slot: slot,
            _core: core,
        })
    }

    /// Takes a place in the queue, which is given back when the guard is dropped.
    fn place(&self) -> Result<Place<'_>, ModelError> {
        let taken = self.waiting.fetch_update(Relaxed, Relaxed, |now| {
            (now < self.queue_limit).then_some(now + 1)
        });
        match taken {
            Ok(_) => Ok(Place(&self.waiting)),
            Err(_) => Err(ModelError::QueueFull {
                name: self.name.to_string(),
                limit: self.queue_limit,
            }),
        }
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.pace_ns.load(Relaxed) < as_ns(QUICK)
    }

    /// Makes the next run take an inference thread, whatever the pace was.
    #[cfg(test)]
    pub(crate) fn forget_pace(&self) {
        self.pace_ns.store(u64::MAX, Relaxed);
    }

    fn learn_pace(&self, run: Duration) {
        let new = as_ns(run);
        let old = self.pace_ns.load(Relaxed);
        // Two runs that learn at once lose one of the two, which an average bears.
        self.pace_ns.store(
            if old == u64::MAX {
                new
            } else {
                old - old / 8 + new / 8
            },
            Relaxed,
        );
    }

    fn run_here(
        &self,
        scheduler: &Scheduler,
        mut seat: Seat,
        request: &InferRequest,
    ) -> Result<Ran, ModelError> {
        let interrupt = request.deadline.map(|deadline| {
            let interrupt = Arc::new(Interrupt::default());
            (scheduler.watch(deadline, Arc::clone(&interrupt)), interrupt)
        });
        let mut run = || {
            seat.run(
                request,
                interrupt.as_ref().map(|(_, interrupt)| &**interrupt),
            )
        };
        // Handing this worker's other tasks to another thread first costs a wake-up, more than a small run takes.
        let bytes: usize = request.inputs.iter().map(|input| input.data.len()).sum();
        if bytes <= SMALL_BYTES {
            run()
        } else {
            tokio::task::block_in_place(run)
        }
    }

    async fn run_on_thread(
        &self,
        scheduler: &Scheduler,
        mut seat: Seat,
        request: InferRequest,
    ) -> Result<Ran, ModelError> {
        let interrupt = Arc::new(Interrupt::default());
        let _watched = request
            .deadline
            .map(|deadline| scheduler.watch(deadline, Arc::clone(&interrupt)));
        let stop = StopOnDrop(Arc::clone(&interrupt));
        let (reply, result) = oneshot::channel();
        scheduler.spawn(move || {
            let ran = seat.run(&request, Some(&interrupt));
            // The session and the permits are free before the caller hears of the result.
            drop(seat);
            let _ = reply.send(ran);
        });
        let ran = result.await;
        drop(stop);
        ran.unwrap_or_else(|_| Err(self.failed("the run panicked".into())))
    }

    fn failed(&self, reason: String) -> ModelError {
        ModelError::Failed {
            name: self.name.to_string(),
            reason,
        }
    }

    /// Checks a request against what the model declares.
    pub(crate) fn check(&self, request: &InferRequest) -> Result<(), ModelError> {
        for (index, tensor) in request.inputs.iter().enumerate() {
            let name = &tensor.name;
            let Some(declared) = self.inputs.iter().find(|input| input.name == *name) else {
                return Err(self.mismatch(format!(
                    "has no input '{name}'; it takes {}",
                    list(&self.inputs)
                )));
            };
            if request.inputs[..index]
                .iter()
                .any(|earlier| earlier.name == *name)
            {
                return Err(ModelError::Mismatch(format!("input '{name}' comes twice")));
            }
            if tensor.datatype != declared.datatype {
                let (expected, got) = (declared.datatype, tensor.datatype);
                return Err(ModelError::Mismatch(format!(
                    "input '{name}' has datatype {got}, expected {expected}"
                )));
            }
            let fits = tensor.shape.len() == declared.shape.len()
                && tensor
                    .shape
                    .iter()
                    .zip(&declared.shape)
                    .all(|(got, expected)| got == expected || *expected < 0);
            if !fits {
                let (expected, got) = (&declared.shape, &tensor.shape);
                let free = if expected.contains(&-1) {
                    " (-1 is any size)"
                } else {
                    ""
                };
                let problem =
                    format!("input '{name}' has shape {got:?}, expected {expected:?}{free}");
                return Err(ModelError::Mismatch(problem));
            }
            tensor.check().map_err(|problem| ModelError::Tensor {
                input: name.clone(),
                problem,
            })?;
        }
        if let Some(missing) = self
            .inputs
            .iter()
            .find(|input| request.inputs.iter().all(|t| t.name != input.name))
        {
            let TensorInfo {
                name,
                datatype,
                shape,
            } = missing;
            return Err(ModelError::Mismatch(format!(
                "input '{name}' is missing, expected {datatype} of shape {shape:?}"
            )));
        }
        for (index, name) in request.outputs.iter().enumerate() {
            if self.outputs.iter().all(|output| output.name != *name) {
                return Err(self.mismatch(format!(
                    "has no output '{name}'; it gives {}",
                    list(&self.outputs)
                )));
            }
            if request.outputs[..index].contains(name) {
                return Err(ModelError::Mismatch(format!(
                    "output '{name}' is asked for twice"
                )));
            }
        }
        Ok(())
    }

    fn mismatch(&self, problem: String) -> ModelError {
        ModelError::Mismatch(format!("model '{}' {problem}", self.name))
    }
}

impl Drop for LoadedModel {
    /// The last request of an old version is through: its memory goes back to the system. On a thread of its own,
    /// because that takes milliseconds and the last holder may be a task.
    fn drop(&mut self) {
        let sessions = std::mem::take(
            self.sessions
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let (name, version) = (self.name.to_string(), self.version.to_string());
        let unload = move || {
            drop(sessions);
            trim();
            tracing::info!(model = name, version, "model unloaded");
        };
        // Without a thread the closure, and the sessions with it, are dropped right here.
        let _ = thread::Builder::new()
            .name("model-unload".into())
            .spawn(unload);
    }
}

/// Gives free memory back to the system; glibc keeps it otherwise, and it looks like a leak.
fn trim() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's call has no safe form")]
    // SAFETY: it takes a plain number and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A session and a core for the length of one run.
struct Seat {
    model: Arc<LoadedModel>,
    session: Option<Box<dyn Session>>,
    _slot: OwnedSemaphorePermit,
    _core: OwnedSemaphorePermit,
}

impl Seat {
    fn run(
        &mut self,
        request: &InferRequest,
        interrupt: Option<&Interrupt>,
    ) -> Result<Ran, ModelError> {
        let name = || self.model.name.to_string();
        let Some(session) = &mut self.session else {
            return Err(self.model.failed("a session was lost to a panic".into()));
        };
        let wanted: Vec<&str> = request.outputs.iter().map(String::as_str).collect();
        match session.run(&request.inputs, &wanted, interrupt) {
            Ok(ran) => {
                self.model.learn_pace(ran.infer);
                Ok(ran)
            }
            // If it was abandoned, nobody reads this.
            Err(RunError::Stopped) => Err(ModelError::Deadline { name: name() }),
            Err(RunError::Refused(reason)) => Err(ModelError::Refused {
                name: name(),
                reason,
            }),
            Err(RunError::Failed(reason)) => Err(self.model.failed(reason)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.model
                .sessions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(session);
        }
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counts a request whose future is dropped before its result.
struct Abandoned<'a> {
    model: &'a LoadedModel,
    came: Instant,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.model
            .stats
            .failed(FailureReason::Canceled, self.came.elapsed());
    }
}

struct StopOnDrop(Arc<Interrupt>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(StopReason::Abandoned);
    }
}

fn may_block_here() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn list(tensors: &[TensorInfo]) -> String {
    tensors
        .iter()
        .map(|tensor| format!("'{}'", tensor.name))
        .collect::<Vec<_>>()
        .join(", ")
}

fn zeros(input: &TensorInfo) -> Tensor {
    let shape: Vec<i64> = input
        .shape
        .iter()
        .map(|dim| if *dim < 0 { 1 } else { *dim })
        .collect();
    let count = element_count(&shape).unwrap_or(0);
    let data = if input.datatype == DataType::Bytes {
        let mut data = Vec::new();
        (0..count).for_each(|_| push_string(&mut data, b""));
        data
    } else {
        vec![0; count * input.datatype.size().unwrap_or(0)]
    };
    Tensor {
        name: input.name.clone(),
        datatype: input.datatype,
        shape,
        data: data.into(),
    }
}
