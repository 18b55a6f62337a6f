//! Instances that wait for their next call.
//!
//! Each serving thread has a stack of its own and takes from the others only
//! when that is empty: an instance's memory stays in the cache of the core
//! that used it last, and the ones used least run idle and go.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A stack for each serving thread.
#[derive(Debug)]
pub(super) struct Warm<T> {
    stacks: Box<[Stack<T>]>,
}

/// With the time since when each waits.
type Stack<T> = Mutex<Vec<(T, Instant)>>;

impl<T> Default for Warm<T> {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let stacks = (0..threads).map(|_| Mutex::default());
        Self {
            stacks: stacks.collect(),
        }
    }
}

impl<T> Warm<T> {
    /// The one used last on this thread, or any other.
    pub(super) fn take(&self) -> Option<T> {
        let (before, from_own) = self.stacks.split_at(self.own());
        let mut stacks = from_own.iter().chain(before);
        stacks.find_map(|stack| locked(stack).pop().map(|(kept, _)| kept))
    }

    pub(super) fn put(&self, kept: T) {
        let now = Instant::now();
        locked(&self.stacks[self.own()]).push((kept, now));
    }

    /// Lets go of what has not been used since `idle` before `now`.
    pub(super) fn sweep(&self, now: Instant, idle: Duration) {
        for stack in &self.stacks {
            let fresh = |(_, since): &(T, Instant)| now.duration_since(*since) < idle;
            let left: Vec<_> = {
                let mut stack = locked(stack);
                // The ones used last are at the end; the idle ones leave from the front.
                let count = stack.iter().position(fresh).unwrap_or(stack.len());
                stack.drain(..count).collect()
            };
            drop(left);
        }
    }

    fn own(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Relaxed);
        }
        THREAD.with(|thread| thread % self.stacks.len())
    }
}

fn locked<T>(stack: &Stack<T>) -> MutexGuard<'_, Vec<(T, Instant)>> {
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_taken_first_and_nothing_is_out_of_reach() {
        let warm = Warm::default();
        warm.put(1);
        thread::scope(|scope| scope.spawn(|| warm.put(2)).join().unwrap());
        warm.put(3);
        assert_eq!(warm.take(), Some(3));
        let mut rest = [warm.take(), warm.take()];
        rest.sort();
        assert_eq!(rest, [Some(1), Some(2)]);
        assert_eq!(warm.take(), None);
    }

    #[test]
    fn what_is_idle_goes() {
        let warm = Warm::default();
        let start = Instant::now();
        warm.put(1);
        let idle = Duration::from_secs(60);
        warm.sweep(start + idle / 2, idle);
        assert_eq!(warm.take(), Some(1));
        warm.put(1);
        warm.sweep(Instant::now() + idle, idle);
        assert_eq!(warm.take(), None);
    }
}
