//! One loaded model version, and the way of a request through it.
//!
//! ```text
//! request -> fits the model? -> session and core free? --yes--> run ------------------------------> result
//!             else 400           | no, or a batch forms        on this thread if the model is quick,
//!                                v                             else on an inference thread
//!                               queue (bounded, by priority) -> alone or in a batch, when both are free
//!                                else 503
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fleet_api::ids::{Name, Version};
use fleet_api::model::ModelOptions;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout_at};

use super::backend::{Interrupt, RunError, StopReason};
use super::batch::{self, Unbatchable};
use super::card::Description;
use super::dispatch::{BatchRule, Full, LaneId, LaneRule};
use super::error::ModelError;
use super::memory::{self, Measured, Memory, Residence, State};
use super::run::{self, Impatient, Member, Outcome, Seat};
use super::scheduler::{Scheduler, may_block};
use super::shadow::Mirrors;
use super::stats::{FailureReason, Stats};
use super::tensor::{DataType, TensorInfo};
use super::{InferRequest, Via};

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
    /// What the files beside it say.
    pub(crate) description: Description,
    pub(crate) options: ModelOptions,
    pub(crate) session_count: usize,
    pub(crate) stats: Stats,
    /// Its place in the scheduler, which holds its sessions and its waiting requests.
    pub(crate) lane: LaneId,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) residence: Residence,
    /// Candidates that run beside it, and their thread; none for most models.
    pub(crate) mirrors: ArcSwapOption<Mirrors>,
    batches: AtomicBool,
    /// Moving average of the run time; `u64::MAX` before the first run.
    pace_ns: AtomicU64,
}

/// What a model version is called and asked to be.
pub(crate) struct Identity {
    pub(crate) name: Name,
    pub(crate) version: Version,
    pub(crate) digest: Option<String>,
    pub(crate) description: Description,
    pub(crate) options: ModelOptions,
}

impl LoadedModel {
    /// Takes a model in that has proved itself; `pace` is the time of its last run.
    pub(crate) fn new(
        identity: Identity,
        (path, Measured { file, bytes }): (&Path, Measured),
        pace: Option<Duration>,
        scheduler: &Arc<Scheduler>,
        memory: &Arc<Memory>,
    ) -> LoadedModel {
        let Identity {
            name,
            version,
            digest,
            description,
            options,
        } = identity;
        let session_count = file.sessions.len();
        let batch = options.batch.as_ref().filter(|batch| batch.max > 1);
        let rule = LaneRule {
            waiting: as_usize(options.queue),
            batch: batch.map(|batch| BatchRule {
                rows: as_usize(batch.max),
                window: batch.window.duration(),
            }),
        };
        let lane = {
            let mut dispatch = scheduler.dispatch();
            let lane = dispatch.open(rule);
            dispatch.add_sessions(lane, file.sessions);
            lane
        };
        LoadedModel {
            name,
            version,
            digest,
            inputs: file.inputs,
            outputs: file.outputs,
            description,
            session_count,
            stats: Stats::new(batch.is_some()),
            lane,
            scheduler: Arc::clone(scheduler),
            memory: Arc::clone(memory),
            residence: Residence::new(path, bytes),
            mirrors: ArcSwapOption::empty(),
            batches: AtomicBool::new(batch.is_some()),
            pace_ns: AtomicU64::new(pace.map_or(u64::MAX, as_ns)),
            options,
        }
    }

    /// Requests that wait for their run to begin.
    pub(crate) fn waiting(&self) -> usize {
        self.scheduler.dispatch().waiting(self.lane)
    }

    /// Requests that wait, and runs under way.
    pub(crate) fn pending(&self) -> usize {
        let dispatch = self.scheduler.dispatch();
        dispatch.waiting(self.lane) + dispatch.running(self.lane)
    }

    /// Takes a request through queue and run.
    pub(crate) async fn infer(self: &Arc<Self>, mut request: InferRequest) -> Outcome {
        let came = Instant::now();
        self.stats.came(request.via);
        if request.via == Via::Wasm {
            self.tell_bools(&mut request);
        }
        let abandoned = Abandoned { model: self, came };
        let mirrors = self.mirrors.load_full();
        let copied = mirrors
            .as_deref()
            .and_then(|mirrors| mirrors.copy(&request));
        let result = self.check_and_run(request, came).await;
        std::mem::forget(abandoned);
        if let (Some(mirrors), Some(copied), Ok(outputs)) = (mirrors, copied, &result) {
            mirrors.offer(copied, outputs);
        }
        match &result {
            Ok(_) => self.stats.succeeded(came.elapsed()),
            Err(error) => self.stats.failed(FailureReason::of(error), came.elapsed()),
        }
        result
    }

    async fn check_and_run(self: &Arc<Self>, mut request: InferRequest, came: Instant) -> Outcome {
        self.check(&request)?;
        let deadline = *request
            .deadline
            .get_or_insert_with(|| came + self.options.timeout.duration());
        if deadline <= Instant::now() {
            return Err(self.past_deadline());
        }
        self.residence.used();
        let rows = batch::rows(&request).unwrap_or(1);
        let seized = self.scheduler.dispatch().seize(self.lane, rows);
        let interrupt = Arc::new(Interrupt::default());
        if let Some(session) = seized {
            let mut seat = Seat::new(Arc::clone(self), session);
            if self.is_quick()
                && Handle::try_current().is_ok_and(|runtime| may_block(&runtime))
                && let Ok(outcome) = run_here(&mut seat, &request, came, &interrupt)
            {
                return outcome;
            }
            // The seat goes along; dropped before the thread has it, it is free again.
            let stop = StopOnDrop(Arc::clone(&interrupt));
            let (reply, outcome) = oneshot::channel();
            let member = Member {
                model: Arc::clone(self),
                request,
                rows,
                came,
                interrupt,
                reply,
            };
            self.scheduler.spawn(move || run::run_slowly(seat, member));
            return self.outcome(outcome, deadline, stop).await;
        }
        self.wait_and_run(request, rows, came, deadline, interrupt)
            .await
    }

    /// wasi:nn has no booleans: where the model takes some, its bytes are that.
    fn tell_bools(&self, request: &mut InferRequest) {
        let takes_bools = |name: &str| {
            let input = self.inputs.iter().find(|input| input.name == name);
            input.is_some_and(|input| input.datatype == DataType::Bool)
        };
        for input in &mut request.inputs {
            if input.datatype == DataType::Uint8 && takes_bools(&input.name) {
                input.datatype = DataType::Bool;
            }
        }
    }

    async fn wait_and_run(
        self: &Arc<Self>,
        request: InferRequest,
        rows: usize,
        came: Instant,
        deadline: Instant,
        interrupt: Arc<Interrupt>,
    ) -> Outcome {
        self.expect_turn_before(deadline)?;
        let stop = StopOnDrop(Arc::clone(&interrupt));
        let (reply, mut outcome) = oneshot::channel();
        let priority = request.priority;
        let member = Member {
            model: Arc::clone(self),
            request,
            rows,
            came,
            interrupt,
            reply,
        };
        let arrived = self
            .scheduler
            .dispatch()
            .arrive(self.lane, priority, member, came);
        let Ok(ticket) = arrived.map_err(|Full(member)| drop(member)) else {
            return Err(self.queue_full());
        };
        let _place = Place {
            model: self,
            ticket,
        };
        if self.residence.state() == State::Evicted {
            self.memory.bring_back(self);
        }
        self.scheduler.begin_ready();
        if let Some(window) = self.window() {
            tokio::select! {
                biased;
                outcome = &mut outcome => return self.unless_panicked(outcome),
                () = sleep_until((came + window).min(deadline).into()) => self.scheduler.begin_ready(),
            }
        }
        self.outcome(outcome, deadline, stop).await
    }

    /// Waits for the outcome until the deadline; a run that is then under way is stopped.
    async fn outcome(
        &self,
        outcome: oneshot::Receiver<Outcome>,
        deadline: Instant,
        stop: StopOnDrop,
    ) -> Outcome {
        let outcome = timeout_at(deadline.into(), outcome).await;
        drop(stop);
        match outcome {
            Ok(outcome) => self.unless_panicked(outcome),
            Err(_) => Err(self.past_deadline()),
        }
    }

    fn unless_panicked(&self, outcome: Result<Outcome, oneshot::error::RecvError>) -> Outcome {
        outcome.unwrap_or_else(|_| Err(self.failed("the run panicked".into())))
    }

    /// Refuses at once what would wait in vain.
    fn expect_turn_before(&self, deadline: Instant) -> Result<(), ModelError> {
        let wait = self.expected_wait();
        if wait > Duration::ZERO && Instant::now() + wait > deadline {
            return Err(ModelError::TooBusy {
                name: self.name.to_string(),
                wait_ms: as_ms(wait),
            });
        }
        Ok(())
    }

    /// How long the requests that wait now will take, by the pace of the last runs.
    pub(crate) fn expected_wait(&self) -> Duration {
        let pace = self.pace_ns.load(Relaxed);
        if pace == u64::MAX {
            return Duration::ZERO;
        }
        let batch = self.options.batch.as_ref().filter(|_| self.batches());
        let at_once = self.session_count as u64 * batch.map_or(1, |batch| u64::from(batch.max));
        Duration::from_nanos(pace.saturating_mul(self.waiting() as u64) / at_once.max(1))
    }

    fn window(&self) -> Option<Duration> {
        let batch = self.options.batch.as_ref()?;
        let window = batch.window.duration();
        (self.batches() && window > Duration::ZERO).then_some(window)
    }

    pub(crate) fn batches(&self) -> bool {
        self.batches.load(Relaxed)
    }

    /// The model does not do with rows what it declares; each request runs by itself from now on.
    pub(crate) fn stop_batching(&self, why: &Unbatchable) {
        if self.batches.swap(false, Relaxed) {
            tracing::warn!(model = %self.name, version = %self.version, %why, "requests are not batched any more");
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

    /// Takes a run into the average. A run that was far from quick counts fully: the next one must not hold up a worker
    /// on which nobody notices that the client has gone.
    pub(crate) fn learn_pace(&self, run: Duration) {
        let new = as_ns(run);
        let old = self.pace_ns.load(Relaxed);
        let jumped = old < as_ns(QUICK) && run > 10 * QUICK;
        // Two runs that learn at once lose one of the two, which an average bears.
        let pace = if old == u64::MAX || jumped {
            new
        } else {
            old - old / 8 + new / 8
        };
        self.pace_ns.store(pace, Relaxed);
    }

    pub(crate) fn run_error(&self, error: RunError) -> ModelError {
        let name = self.name.to_string();
        match error {
            // If it was abandoned, nobody reads this.
            RunError::Stopped | RunError::TooSlow => ModelError::Deadline { name },
            RunError::Refused(reason) => ModelError::Refused { name, reason },
            RunError::Failed(reason) => ModelError::Failed { name, reason },
        }
    }

    fn failed(&self, reason: String) -> ModelError {
        self.run_error(RunError::Failed(reason))
    }

    fn past_deadline(&self) -> ModelError {
        self.run_error(RunError::Stopped)
    }

    fn queue_full(&self) -> ModelError {
        ModelError::QueueFull {
            name: self.name.to_string(),
            limit: as_usize(self.options.queue),
            wait_ms: as_ms(self.expected_wait()),
        }
    }
}

impl Drop for LoadedModel {
    /// The last request of an old version is through: its memory goes back to the system. On a thread of its own,
    /// because that takes milliseconds and the last holder may be a task.
    fn drop(&mut self) {
        let (sessions, _) = self.scheduler.dispatch().close(self.lane);
        let (name, version) = (self.name.to_string(), self.version.to_string());
        let unload = move || {
            drop(sessions);
            memory::trim();
            tracing::info!(model = name, version, "model unloaded");
        };
        // Without a thread the closure, and the sessions with it, are dropped right here.
        let _ = thread::Builder::new()
            .name("model-unload".into())
            .spawn(unload);
    }
}

/// Runs on this worker. Handing its other tasks to another thread first costs a wake-up, more than a small run takes.
fn run_here(
    seat: &mut Seat,
    request: &InferRequest,
    came: Instant,
    interrupt: &Arc<Interrupt>,
) -> Result<Outcome, Impatient> {
    let bytes: usize = request.inputs.iter().map(|input| input.data.len()).sum();
    let mut run = || seat.run_here(request, came, interrupt);
    if bytes <= SMALL_BYTES {
        run()
    } else {
        tokio::task::block_in_place(run)
    }
}

/// Takes the request out of the queue, if it is still there.
struct Place<'a> {
    model: &'a LoadedModel,
    ticket: super::dispatch::Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.model.scheduler.dispatch().leave(self.ticket);
        drop(left);
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

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
