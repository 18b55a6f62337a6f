//! Connections that do nothing, and clients that send the head of a request slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a connection has been without a request under way. One timer for
/// the connection: one for each request would cost as much as a small answer.
#[derive(Debug)]
pub(super) struct Idle {
    start: Instant,
    limit: Duration,
    under_way: AtomicUsize,
    /// When the last request ended, in milliseconds after the start.
    since_ms: AtomicU64,
}

/// A request whose answer has not gone out whole.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Idle>);

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            limit,
            under_way: AtomicUsize::new(0),
            since_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(this: &Arc<Self>) -> UnderWay {
        this.under_way.fetch_add(1, Relaxed);
        UnderWay(Arc::clone(this))
    }

    /// Ends when the connection has been idle for its limit.
    pub(super) async fn for_long(&self) {
        let mut wake = self.start + self.limit;
        loop {
            sleep_until(wake).await;
            let now = Instant::now();
            let since = self.start + Duration::from_millis(self.since_ms.load(Relaxed));
            let due = since + self.limit;
            wake = if self.under_way.load(Relaxed) > 0 {
                now + self.limit
            } else if due <= now {
                return;
            } else {
                due
            };
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let ended = self.0.start.elapsed().as_millis();
        self.0
            .since_ms
            .store(u64::try_from(ended).unwrap_or(u64::MAX), Relaxed);
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_connection_without_requests_ends_at_its_limit() {
        let start = Instant::now();
        Idle::new(LIMIT).for_long().await;
        assert!(start.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn a_request_under_way_keeps_it_and_the_limit_counts_from_its_end() {
        let start = Instant::now();
        let idle = Arc::new(Idle::new(LIMIT));
        let request = Idle::begin(&idle);
        let ends = start + LIMIT * 3;
        tokio::spawn(async move {
            sleep_until(ends).await;
            drop(request);
        });
        idle.for_long().await;
        assert!(start.elapsed() >= LIMIT * 4, "{:?}", start.elapsed());
    }
}
