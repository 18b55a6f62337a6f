//! Threads for guests that compute for long.
//!
//! A call begins on the thread that serves its connection. One that keeps
//! computing moves to these threads, fewer than the machine has cores and of
//! lower priority, so that a guest that computes without end takes time from
//! its like and not from the requests that others answer in microseconds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// CPU time of a call after which it counts as long.
pub(super) const LONG: Duration = Duration::from_millis(10);

/// How long a stop waits for work to pause.
const STOP: Duration = Duration::from_secs(1);

/// How far the threads step back behind the serving ones.
const NICE: i32 = 10;

/// The threads; there are none before the first long call. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct LongWork(Arc<OnceLock<Option<Threads>>>);

struct Threads {
    handle: Handle,
    /// None once they have been stopped.
    runtime: Mutex<Option<Runtime>>,
}

/// Work that has moved; dropping it ends the work at its next pause.
pub(super) struct Moved<T>(JoinHandle<T>);

impl LongWork {
    /// Moves `work` to the threads, or hands it back where there can be none.
    pub(super) fn take<F>(&self, work: F) -> Result<Moved<F::Output>, F>
    where
        F: Future + Send + Unpin + 'static,
        F::Output: Send + 'static,
    {
        let threads = self.0.get_or_init(Threads::start).as_ref();
        let Some(threads) = threads else {
            return Err(work);
        };
        // Timers, sockets and tasks of the work stay with the serving runtime.
        let home = Handle::current();
        Ok(Moved(threads.handle.spawn(AtHome { home, work })))
    }

    /// Ends all work at its next pause, while the timers that it waits for are
    /// still there. Blocks, for [`STOP`] at most.
    pub(super) fn stop(&self) {
        if let Some(Some(threads)) = self.0.get()
            && let Some(runtime) = threads.take()
        {
            runtime.shutdown_timeout(STOP);
        }
    }
}

impl Threads {
    fn start() -> Option<Self> {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.saturating_sub(1).max(1))
            .thread_name("long-work")
            .on_thread_start(step_back)
            .build();
        runtime
            .inspect_err(|e| tracing::warn!("long calls stay on the serving threads: {e}"))
            .ok()
            .map(|runtime| Self {
                handle: runtime.handle().clone(),
                runtime: Mutex::new(Some(runtime)),
            })
    }

    fn take(&self) -> Option<Runtime> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.take()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime may not be waited for on a thread that serves.
        if let Some(runtime) = self.take() {
            runtime.shutdown_background();
        }
    }
}

/// Gives the calling thread less weight than the serving ones.
pub(super) fn step_back() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!("this thread runs at normal priority: {error}");
    }
}

struct AtHome<F> {
    home: Handle,
    work: F,
}

impl<F: Future + Unpin> Future for AtHome<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _home = this.home.enter();
        Pin::new(&mut this.work).poll(cx)
    }
}

impl<T> Future for Moved<T> {
    /// None if the threads have ended.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match Pin::new(&mut self.get_mut().0).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(output)) => Poll::Ready(Some(output)),
            Poll::Ready(Err(ended)) if ended.is_panic() => {
                std::panic::resume_unwind(ended.into_panic())
            }
            Poll::Ready(Err(_)) => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Moved<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_elsewhere_with_the_timers_of_the_serving_runtime() {
        let work = Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            tokio::spawn(async { thread::current().name().map(str::to_owned) })
                .await
                .map(|spawned_on| (thread::current().name().map(str::to_owned), spawned_on))
        });
        let long = LongWork::default();
        let Ok(moved) = long.take(work) else {
            panic!("there are no threads");
        };
        let (polled_on, spawned_on) = moved.await.unwrap().unwrap();
        assert_eq!(polled_on.as_deref(), Some("long-work"));
        assert_ne!(spawned_on.as_deref(), Some("long-work"));
    }

    #[tokio::test]
    async fn stopped_threads_end_their_work_and_take_no_more() {
        let long = LongWork::default();
        let waiting = long.take(Box::pin(tokio::time::sleep(Duration::from_secs(600))));
        let Ok(waiting) = waiting else {
            panic!("there are no threads");
        };
        let stopping = long.clone();
        tokio::task::spawn_blocking(move || stopping.stop())
            .await
            .unwrap();
        assert_eq!(waiting.await, None);
        let Ok(late) = long.take(Box::pin(async {})) else {
            panic!("there are no threads");
        };
        assert_eq!(late.await, None);
    }

    #[tokio::test]
    async fn dropped_work_ends() {
        let (held, mut released) = tokio::sync::mpsc::channel::<()>(1);
        let work = Box::pin(async move {
            let _held = held;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
            .await;
        });
        let long = LongWork::default();
        drop(long.take(work));
        assert_eq!(released.recv().await, None);
    }
}
