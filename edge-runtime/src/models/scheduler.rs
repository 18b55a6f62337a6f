//! What all models share: permits for the cores, the threads that slow runs take, and the watchdog that ends runs at
//! their deadline.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::backend::{Interrupt, StopReason};

type Job = Box<dyn FnOnce() + Send>;

/// Permits, threads and watchdog; all end when it is dropped.
pub(crate) struct Scheduler {
    /// One permit for each run that may be under way, whatever its model.
    pub(crate) cores: Arc<Semaphore>,
    jobs: SyncSender<Job>,
    watchdog: Arc<Watchdog>,
}

impl Scheduler {
    /// Starts as many threads as there are permits, so that a run that has a permit never waits for a thread.
    pub(crate) fn start(permits: usize) -> Scheduler {
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
        Scheduler {
            cores: Arc::new(Semaphore::new(permits)),
            jobs,
            watchdog,
        }
    }

    /// Runs `job` on one of the inference threads. The caller holds a permit for the cores.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(returned) = self.jobs.try_send(Box::new(job)) {
            // A run gives its permit back just before its thread is free again, so the channel can be full for a
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
        self.watchdog.watch(deadline, interrupt)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.watchdog.state().closed = true;
        self.watchdog.woken.notify_all();
    }
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

#[derive(Default)]
struct WatchState {
    pending: BTreeMap<(Instant, u64), Arc<Interrupt>>,
    next_id: u64,
    /// When the thread wakes by itself; a deadline after that need not wake it.
    wakes_at: Option<Instant>,
    closed: bool,
}

impl Watchdog {
    fn watch(self: &Arc<Self>, deadline: Instant, interrupt: Arc<Interrupt>) -> Watched {
        let mut state = self.state();
        let key = (deadline, state.next_id);
        state.next_id += 1;
        state.pending.insert(key, interrupt);
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
                due.remove().stop(StopReason::Deadline);
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
