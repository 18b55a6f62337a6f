//! Work inside a guest, under its deadline and with its CPU time measured.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::call::Call;
use super::limits::{Denied, Exceeded};
use super::long_work::{LONG, LongWork, Moved};
use super::stats::FaultKind;

/// Why work inside a guest did not end well.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: wasmtime::Error,
    /// Who refused the guest memory before, if anyone did.
    pub(super) memory_denied: Option<Denied>,
    /// The guest had begun a response body and not finished it.
    pub(super) open_body: bool,
    /// The guest's store. It goes after the fault is known: a body ends when
    /// its store does, and must not pass for whole before.
    pub(super) remains: Option<Box<dyn Any + Send>>,
}

impl Failed {
    pub(super) fn kind(&self) -> FaultKind {
        match self.error.downcast_ref::<Exceeded>() {
            Some(Exceeded::Timeout(_)) => FaultKind::Timeout,
            Some(Exceeded::Cpu(_)) => FaultKind::Cpu,
            Some(Exceeded::ResponseBody(_)) => FaultKind::ResponseBody,
            None => match self.memory_denied {
                Some(Denied::ByHandler) => FaultKind::Memory,
                Some(Denied::ByNode) => FaultKind::NodeMemory,
                None => FaultKind::Trap,
            },
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
            memory_denied: None,
            open_body: true,
            remains: None,
        }
    }
}

impl From<Exceeded> for Failed {
    fn from(exceeded: Exceeded) -> Self {
        wasmtime::Error::new(exceeded).into()
    }
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Failed>> + Send>>;

/// A call into a guest: on the serving thread as long as it is short, then on
/// those for long work. Once it is over its store is gone, or goes with the fault.
pub(super) struct Metered<T> {
    place: Place<T>,
    long_work: LongWork,
}

enum Place<T> {
    Here(Limited<T>),
    Moved(Moved<Result<T, Failed>>),
    Over,
}

impl<T: Send + 'static> Metered<T> {
    pub(super) fn new(
        long_work: &LongWork,
        call: Arc<Call>,
        work: impl Future<Output = Result<T, Failed>> + Send + 'static,
    ) -> Self {
        let limited = Limited {
            work: Some(Box::pin(work)),
            call,
            timer: None,
            stays: false,
        };
        Self {
            place: Place::Here(limited),
            long_work: long_work.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Metered<T> {
    type Output = Result<T, Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Place::Here(limited) = &mut this.place {
            if let Poll::Ready(result) = Pin::new(&mut *limited).poll(cx) {
                this.place = Place::Over;
                return Poll::Ready(result);
            }
            if limited.call.cpu.used() < LONG || limited.stays {
                return Poll::Pending;
            }
            let Place::Here(limited) = std::mem::replace(&mut this.place, Place::Over) else {
                unreachable!("it was here a moment ago");
            };
            match this.long_work.take(limited) {
                Ok(moved) => this.place = Place::Moved(moved),
                Err(mut limited) => {
                    limited.stays = true;
                    this.place = Place::Here(limited);
                    return Poll::Pending;
                }
            }
        }
        let Place::Moved(moved) = &mut this.place else {
            unreachable!("not polled after its end");
        };
        let Poll::Ready(result) = Pin::new(moved).poll(cx) else {
            return Poll::Pending;
        };
        this.place = Place::Over;
        let stopped = || Err(wasmtime::format_err!("the runtime is stopping").into());
        Poll::Ready(result.unwrap_or_else(stopped))
    }
}

/// Polls the work, measures it and ends it at its limits.
struct Limited<T> {
    work: Option<Work<T>>,
    call: Arc<Call>,
    /// Made at the first wait: a guest that answers at once needs none.
    timer: Option<Pin<Box<Sleep>>>,
    /// There is no other place for it.
    stays: bool,
}

impl<T: 'static> Limited<T> {
    fn stop(&mut self, exceeded: Exceeded) -> Poll<Result<T, Failed>> {
        let remains = self.work.take();
        Poll::Ready(Err(Failed {
            remains: remains.map(|work| Box::new(work) as Box<dyn Any + Send>),
            ..exceeded.into()
        }))
    }
}

impl<T: 'static> Future for Limited<T> {
    type Output = Result<T, Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let work = this.work.as_mut().expect("not polled after its end");
        this.call.cpu.poll_begins();
        let polled = work.as_mut().poll(cx);
        this.call.cpu.poll_ends();
        if let Poll::Ready(result) = polled {
            this.work = None;
            return Poll::Ready(result);
        }
        if let Err(exceeded) = this.call.check_cpu_between_polls() {
            return this.stop(exceeded);
        }
        let deadline = Instant::from_std(this.call.deadline);
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_ready() {
            return this.stop(Exceeded::Timeout(this.call.timeout));
        }
        Poll::Pending
    }
}
