//! Work inside a guest, under its deadline and with its CPU time measured.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::call::Call;
use super::limits::Exceeded;
use super::stats::FaultKind;

/// Why work inside a guest did not end well.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: wasmtime::Error,
    /// The guest was refused memory before.
    pub(super) memory_denied: bool,
    /// The guest had begun a response body and not finished it.
    pub(super) open_body: bool,
}

impl Failed {
    pub(super) fn kind(&self) -> FaultKind {
        match self.error.downcast_ref::<Exceeded>() {
            Some(Exceeded::Timeout(_)) => FaultKind::Timeout,
            Some(Exceeded::Cpu(_)) => FaultKind::Cpu,
            None if self.memory_denied => FaultKind::Memory,
            None => FaultKind::Trap,
        }
    }

    /// Whether the node had no place for another instance.
    pub(super) fn is_pool_full(&self) -> bool {
        self.error.is::<wasmtime::PoolConcurrencyLimitError>()
    }
}

impl From<wasmtime::Error> for Failed {
    fn from(error: wasmtime::Error) -> Self {
        Self {
            error,
            memory_denied: false,
            open_body: true,
        }
    }
}

impl From<Exceeded> for Failed {
    fn from(exceeded: Exceeded) -> Self {
        wasmtime::Error::new(exceeded).into()
    }
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Failed>> + Send>>;

/// Polls the work; once it is over, in whichever way, the store is gone.
pub(super) struct Metered<T> {
    work: Option<Work<T>>,
    call: Arc<Call>,
    /// Made at the first wait: a guest that answers at once needs none.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Metered<T> {
    pub(super) fn new(
        call: Arc<Call>,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Self {
        Self {
            work: Some(Box::pin(work)),
            call,
            timer: None,
        }
    }

    fn end(&mut self, result: Result<T, Failed>) -> Poll<Result<T, Failed>> {
        self.work = None;
        Poll::Ready(result)
    }
}

impl<T> Future for Metered<T> {
    type Output = Result<T, Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let work = this.work.as_mut().expect("not polled after its end");
        this.call.cpu.poll_begins();
        let polled = work.as_mut().poll(cx);
        this.call.cpu.poll_ends();
        if let Poll::Ready(result) = polled {
            return this.end(result);
        }
        if let Err(exceeded) = this.call.check_cpu_between_polls() {
            return this.end(Err(exceeded.into()));
        }
        let deadline = Instant::from_std(this.call.deadline);
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_ready() {
            let exceeded = Exceeded::Timeout(this.call.timeout);
            return this.end(Err(exceeded.into()));
        }
        Poll::Pending
    }
}
