//! A run of one request, or of several as a batch, on a session that is held for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::InferRequest;
use super::backend::{Interrupt, Ran, RunError, Session, StopReason};
use super::batch;
use super::dispatch::{Queued, Start};
use super::error::ModelError;
use super::pool::LoadedModel;
use super::scheduler::Begin;
use super::tensor::Tensor;

/// How long a worker computes at most; its other tasks wait for that long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// A run took longer than a worker can be held up.
#[derive(Debug)]
pub(crate) struct Impatient;

/// What a run gives one of its requests.
pub(crate) type Outcome = Result<Vec<Tensor>, ModelError>;

/// A request on its way through queue and run.
pub(crate) struct Member {
    pub(crate) model: Arc<LoadedModel>,
    pub(crate) request: InferRequest,
    pub(crate) rows: usize,
    pub(crate) came: Instant,
    /// Stops the run when nobody waits for it any more.
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

impl Queued for Member {
    fn rows(&self) -> usize {
        self.rows
    }

    fn joins(&self, other: &Self) -> bool {
        self.model.batches() && batch::joins(&self.request, &other.request)
    }
}

/// A session and a core, for the length of a run. Both are back, and the next run begins, when it is dropped.
pub(crate) struct Seat {
    model: Arc<LoadedModel>,
    session: Option<Box<dyn Session>>,
}

impl Seat {
    pub(crate) fn new(model: Arc<LoadedModel>, session: Box<dyn Session>) -> Seat {
        Seat {
            model,
            session: Some(session),
        }
    }

    /// Gives session and core back, and says what to run next.
    pub(crate) fn leave(mut self) -> Option<Begin> {
        self.give_back()
    }

    fn give_back(&mut self) -> Option<Begin> {
        let session = self.session.take()?;
        let mut dispatch = self.model.scheduler.dispatch();
        dispatch.finish(self.model.lane, Some(session));
        dispatch.next(Instant::now())
    }

    fn run(
        &mut self,
        inputs: &[Tensor],
        outputs: &[String],
        interrupt: &Interrupt,
    ) -> Result<Ran, RunError> {
        let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        match &mut self.session {
            Some(session) => session.run(inputs, &wanted, Some(interrupt)),
            None => Err(RunError::Failed("its session is gone".into())),
        }
    }

    /// Runs one request by itself.
    pub(crate) fn run_alone(
        &mut self,
        request: &InferRequest,
        came: Instant,
        interrupt: &Arc<Interrupt>,
    ) -> Outcome {
        self.run_within(request, came, interrupt, None)
            .unwrap_or_else(|Impatient| Err(self.model.run_error(RunError::Stopped)))
    }

    /// Runs one request, but not for longer than a worker can be held up. After that it is to be run on an inference
    /// thread, from the start: runs have no effect but their outputs.
    pub(crate) fn run_here(
        &mut self,
        request: &InferRequest,
        came: Instant,
        interrupt: &Arc<Interrupt>,
    ) -> Result<Outcome, Impatient> {
        let ran = self.run_within(request, came, interrupt, Some(PATIENCE));
        if ran.is_err() {
            self.model.learn_pace(PATIENCE);
        }
        ran
    }

    fn run_within(
        &mut self,
        request: &InferRequest,
        came: Instant,
        interrupt: &Arc<Interrupt>,
        patience: Option<Duration>,
    ) -> Result<Outcome, Impatient> {
        let began = Instant::now();
        let scheduler = Arc::clone(&self.model.scheduler);
        let until = patience.map(|patience| began + patience);
        let watched = match (request.deadline, until) {
            (Some(deadline), until) if until.is_none_or(|until| deadline <= until) => {
                Some(scheduler.watch(deadline, Arc::clone(interrupt)))
            }
            (_, Some(until)) => Some(scheduler.watch_once(until, Arc::clone(interrupt))),
            (_, None) => None,
        };
        let ran = self.run(&request.inputs, &request.outputs, interrupt);
        drop(watched);
        let ran = match ran {
            Ok(ran) => ran,
            Err(RunError::TooSlow) => return Err(Impatient),
            Err(error) => return Ok(Err(self.model.run_error(error))),
        };
        self.model.learn_pace(ran.infer);
        let rows = batch::rows(request).filter(|_| self.model.batches());
        self.model
            .stats
            .ran(&[began - came], rows.unwrap_or(1), &ran);
        Ok(Ok(ran.outputs))
    }

    /// Runs several requests at once; each has its own outcome.
    fn run_batch(&mut self, members: &[Member]) -> Vec<Outcome> {
        let began = Instant::now();
        let requests: Vec<&InferRequest> = members.iter().map(|member| &member.request).collect();
        let inputs = batch::join(&requests);
        let shared = Shared::of(members);
        let ran = self.run(&inputs, &requests[0].outputs, &shared.interrupt);
        drop(shared);
        let ran = match ran {
            Ok(ran) => ran,
            // One of them may hold what the model refuses; the others must not suffer for it.
            Err(RunError::Refused(_)) => return self.run_each(members),
            Err(RunError::Stopped | RunError::TooSlow) => {
                return self.outcomes(members, || self.model.run_error(RunError::Stopped));
            }
            Err(RunError::Failed(reason)) => {
                let error = || self.model.run_error(RunError::Failed(reason.clone()));
                return self.outcomes(members, error);
            }
        };
        let rows: Vec<usize> = members.iter().map(|member| member.rows).collect();
        match batch::split(&ran.outputs, &rows) {
            Ok(parts) => {
                self.model.learn_pace(ran.infer);
                let queued: Vec<_> = members.iter().map(|m| began - m.came).collect();
                self.model.stats.ran(&queued, rows.iter().sum(), &ran);
                parts.into_iter().map(Ok).collect()
            }
            Err(unbatchable) => {
                self.model.stop_batching(&unbatchable);
                self.run_each(members)
            }
        }
    }

    fn run_each(&mut self, members: &[Member]) -> Vec<Outcome> {
        let one = |member: &Member| self.run_alone(&member.request, member.came, &member.interrupt);
        members.iter().map(one).collect()
    }

    fn outcomes(&self, members: &[Member], error: impl Fn() -> ModelError) -> Vec<Outcome> {
        members.iter().map(|_| Err(error())).collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(next) = self.give_back() {
            self.model.scheduler.begin(next);
        }
    }
}

/// The interrupt of a batch: it stops once none of the requests is waited for any more.
struct Shared<'a> {
    interrupt: Arc<Interrupt>,
    members: &'a [Member],
    _watched: Vec<super::scheduler::Watched>,
}

impl Shared<'_> {
    fn of(members: &[Member]) -> Shared<'_> {
        let interrupt = Arc::new(Interrupt::default());
        let left = Arc::new(AtomicUsize::new(members.len()));
        let mut watched = Vec::new();
        for member in members {
            let one_less = {
                let (left, interrupt) = (Arc::clone(&left), Arc::clone(&interrupt));
                move || {
                    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        interrupt.stop(StopReason::Abandoned);
                    }
                }
            };
            if !member.interrupt.arm(one_less.clone()) {
                one_less();
            } else if let Some(deadline) = member.request.deadline {
                let interrupt = Arc::clone(&member.interrupt);
                watched.push(member.model.scheduler.watch(deadline, interrupt));
            }
        }
        Shared {
            interrupt,
            members,
            _watched: watched,
        }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.members
            .iter()
            .for_each(|member| member.interrupt.disarm());
    }
}

/// Runs a start and answers its requests. What it gives back is to be run next.
fn execute(start: Begin) -> Option<Begin> {
    let (mut seat, members) = take_seat(start)?;
    let outcomes = match &members[..] {
        [only] => vec![seat.run_alone(&only.request, only.came, &only.interrupt)],
        several => seat.run_batch(several),
    };
    answer(seat, members, outcomes)
}

fn take_seat(start: Begin) -> Option<(Seat, Vec<Member>)> {
    let Start {
        lane,
        session,
        members,
    } = start;
    let model = Arc::clone(&members.first()?.model);
    debug_assert_eq!(lane, model.lane);
    Some((Seat::new(model, session), members))
}

fn answer(seat: Seat, members: Vec<Member>, outcomes: Vec<Outcome>) -> Option<Begin> {
    // Session and core are free before anybody hears of the outcome.
    let next = seat.leave();
    for (member, outcome) in members.into_iter().zip(outcomes) {
        // Whoever asked may have gone.
        let _ = member.reply.send(outcome);
    }
    next
}

/// Runs a start and what comes after it. Blocks.
pub(crate) fn work_off(start: Begin) {
    let mut next = Some(start);
    while let Some(start) = next {
        next = execute(start);
    }
}

/// Runs a start of one request to a quick model; what comes after it is another task, so that this worker's other tasks
/// have their turn. If it proves slow, it goes to an inference thread.
pub(crate) fn work_off_as_task(start: Begin) {
    let Some((mut seat, mut members)) = take_seat(start) else {
        return;
    };
    let Some(only) = members.pop() else { return };
    let scheduler = Arc::clone(&only.model.scheduler);
    match seat.run_here(&only.request, only.came, &only.interrupt) {
        Ok(outcome) => {
            if let Some(next) = answer(seat, vec![only], vec![outcome]) {
                scheduler.begin(next);
            }
        }
        Err(Impatient) => scheduler.spawn(move || run_slowly(seat, only)),
    }
}

/// Runs a request on a seat that is held already, and what comes after it. Blocks.
pub(crate) fn run_slowly(mut seat: Seat, only: Member) {
    let outcome = seat.run_alone(&only.request, only.came, &only.interrupt);
    if let Some(next) = answer(seat, vec![only], vec![outcome]) {
        work_off(next);
    }
}
