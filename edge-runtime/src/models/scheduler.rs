//! What all models share: the queues (`dispatch.rs` decides), the threads that slow runs take, and the watchdog that ends
//! runs at their deadline.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use super::backend::{Interrupt, Session, StopReason};
use super::dispatch::{Dispatch, Start};
use super::run::{self, Member};

type Job = Box<dyn FnOnce() + Send>;

/// A run to begin.
pub(crate) type Begin = Start<Box<dyn Session>, Member>;

/// Queues, threads and watchdog; all end when it is dropped.
pub(crate) struct Scheduler {
    dispatch: Mutex<Dispatch<Box<dyn Session>, Member>>,
    /// Pictures that are decoded at once: that takes a core as long as many a run does.
    pub(crate) decoders: Semaphore,
    jobs: SyncSender<Job>,
    watchdog: Arc<Watchdog>,
}

impl Scheduler {
    /// `permits` runs may be under way at once, whatever their models. As many threads are started, so that a run never
    /// waits for one.
    pub(crate) fn start(permits: usize) -> Arc<Scheduler> {
        let permits = permits.max(1);
        let (jobs, receiver) = sync_channel(permits);
        let receiver = Arc::new(Mutex::new(receiver));
        for index in 0..permits {
            let receiver = Arc::clone(&receiver);
            spawn(&format!("inference-{index}"), move || work(&receiver));
        }
        let watchdog = Arc::new(Watchdog::default());
        let watching = Arc::clone(&watchdog);
        spawn("inference-watch", move || watching.run());
        Arc::new(Scheduler {
            dispatch: Mutex::new(Dispatch::new(permits)),
            decoders: Semaphore::new(permits),
            jobs,
            watchdog,
        })
    }

    /// The queues. What comes out of them must be dropped only after the guard: a request may hold the last reference to
    /// its model, whose end needs the queues.
    pub(crate) fn dispatch(&self) -> MutexGuard<'_, Dispatch<Box<dyn Session>, Member>> {
        self.dispatch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins whatever can begin now.
    pub(crate) fn begin_ready(&self) {
        loop {
            let start = self.dispatch().next(Instant::now());
            let Some(start) = start else { return };
            self.begin(start);
        }
    }

    /// Begins a run: a quick one as a task of this runtime, where it costs no switch of threads, any other on an
    /// inference thread.
    pub(crate) fn begin(&self, start: Begin) {
        let quick = matches!(&start.members[..], [only] if only.model.is_quick());
        match Handle::try_current() {
            Ok(runtime) if quick && may_block(&runtime) => {
                runtime.spawn(async move { run::work_off_as_task(start) });
            }
            _ => self.spawn(move || run::work_off(start)),
        }
    }

    /// Runs `job` on one of the inference threads. The caller holds a core.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(returned) = self.jobs.try_send(Box::new(job)) {
            // A run gives its core back just before its thread is free again, so the channel can be full for a
            // moment; waiting for room is then a matter of microseconds.
            let job = match returned {
                std::sync::mpsc::TrySendError::Full(job)
                | std::sync::mpsc::TrySendError::Disconnected(job) => job,
            };
            if let Err(unsent) = self.jobs.send(job) {
                (unsent.0)();
            }
        }
    }

    /// Stops `interrupt` at `deadline`, unless the returned guard is dropped before.
    pub(crate) fn watch(&self, deadline: Instant, interrupt: Arc<Interrupt>) -> Watched {
        self.watchdog.watch(deadline, Alarm::Stop(interrupt))
    }

    /// Ends the run of `interrupt` that is under way at `at`, unless the returned guard is dropped before.
    pub(crate) fn watch_once(&self, at: Instant, interrupt: Arc<Interrupt>) -> Watched {
        self.watchdog.watch(at, Alarm::Nudge(interrupt))
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.watchdog.state().closed = true;
        self.watchdog.woken.notify_all();
    }
}

/// Whether a task of `runtime` may compute for a moment without holding up all others.
pub(crate) fn may_block(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::MultiThread
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .expect("the system starts a thread");
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        // The guard lives to the end of the statement: one thread waits for the channel, the others for the lock.
        let job = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(job) = job else { return };
        // The caller learns of a panic by its reply channel; this thread has to live on.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("an inference run panicked; its request is answered with an error");
        }
    }
}

#[derive(Default)]
struct Watchdog {
    state: Mutex<WatchState>,
    woken: Condvar,
}

enum Alarm {
    Stop(Arc<Interrupt>),
    Nudge(Arc<Interrupt>),
}

impl Alarm {
    fn go_off(self) {
        match self {
            Alarm::Stop(interrupt) => interrupt.stop(StopReason::Deadline),
            Alarm::Nudge(interrupt) => interrupt.nudge(),
        }
    }
}

#[derive(Default)]
struct WatchState {
    pending: BTreeMap<(Instant, u64), Alarm>,
    next_id: u64,
    /// When the thread wakes by itself; a deadline after that need not wake it.
    wakes_at: Option<Instant>,
    closed: bool,
}

impl Watchdog {
    fn watch(self: &Arc<Self>, deadline: Instant, alarm: Alarm) -> Watched {
        let mut state = self.state();
        let key = (deadline, state.next_id);
        state.next_id += 1;
        state.pending.insert(key, alarm);
        let wake = state.wakes_at.is_none_or(|at| deadline < at);
        drop(state);
        if wake {
            self.woken.notify_one();
        }
        Watched {
            watchdog: Arc::clone(self),
            key,
        }
    }

    fn run(&self) {
        let mut state = self.state();
        while !state.closed {
            let now = Instant::now();
            while let Some(due) = state
                .pending
                .first_entry()
                .filter(|first| first.key().0 <= now)
            {
                due.remove().go_off();
            }
            state.wakes_at = state
                .pending
                .first_key_value()
                .map(|((deadline, _), _)| *deadline);
            state = match state.wakes_at {
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.woken
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .woken
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a deadline watched.
pub(crate) struct Watched {
    watchdog: Arc<Watchdog>,
    key: (Instant, u64),
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watchdog.state().pending.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_watchdog_stops_runs_in_the_order_of_their_deadlines() {
        let scheduler = Scheduler::start(1);
        let (stopped, stops) = mpsc::channel();
        let now = Instant::now();
        let guards: Vec<_> = [(30, "late"), (10, "early"), (20, "ended")]
            .into_iter()
            .map(|(ms, name)| {
                let interrupt = Arc::new(Interrupt::default());
                let stopped = stopped.clone();
                assert!(interrupt.arm(move || stopped.send(name).unwrap()));
                (
                    name,
                    scheduler.watch(now + Duration::from_millis(ms), interrupt),
                )
            })
            .filter(|(name, _)| *name != "ended")
            .collect();
        let wait = Duration::from_secs(10);
        assert_eq!(stops.recv_timeout(wait), Ok("early"));
        assert_eq!(stops.recv_timeout(wait), Ok("late"));
        assert!(now.elapsed() >= Duration::from_millis(30));
        drop(guards);
    }

    #[test]
    fn a_job_that_panics_leaves_its_thread_working() {
        let scheduler = Scheduler::start(1);
        scheduler.spawn(|| panic!("on purpose"));
        let (done, wait) = mpsc::channel();
        scheduler.spawn(move || done.send(()).unwrap());
        assert_eq!(wait.recv_timeout(Duration::from_secs(10)), Ok(()));
    }
}
