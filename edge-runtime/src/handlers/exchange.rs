//! A guest at work together with the response body that it writes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{StatusCode, response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::task::coop;
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::Error;

use super::call::{Call, GuestBody};
use super::handler::{Handler, Instance, Turn};
use super::limits::Exceeded;
use super::metered::{Failed, Metered};
use super::request::log_fault;
use super::stats::Ending;
use crate::gateway::BodyError;

/// The guest ended in the middle of its response.
#[derive(Debug, thiserror::Error)]
#[error("the handler stopped in the middle of its answer")]
struct CutShort;

/// What is wrong with an answer whose guest did not fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadAnswer {
    #[error("it ended before it had finished its response body")]
    Unfinished,
    #[error("its response body is not as long as its content-length of {0} says")]
    Length(u64),
    #[error("it answered with {0}, an interim status that nothing follows")]
    Interim(StatusCode),
}

/// An instance whose guest has ended with a body open: what it wrote last can
/// still be read as long as the instance is there.
pub(super) struct Open {
    pub(super) _instance: Instance,
    pub(super) _turn: Turn,
}

pub(super) struct Exchange {
    pub(super) handler: Arc<Handler>,
    pub(super) call: Arc<Call>,
    /// Why the guest stopped, if it did not end well.
    pub(super) failed: Option<Failed>,
    guest: Option<Metered<Option<Open>>>,
    open: Option<Open>,
    /// The request was HEAD: its answer ends with its head.
    head_only: bool,
    body: Option<GuestBody>,
    body_ended: bool,
    body_bytes: u64,
    declared_bytes: Option<u64>,
    started: Instant,
    status: StatusCode,
    /// The client has all that it gets.
    finished: bool,
    counted: bool,
}

impl Exchange {
    pub(super) fn begin(
        handler: Arc<Handler>,
        call: Arc<Call>,
        guest: Metered<Option<Open>>,
        head_only: bool,
        started: Instant,
    ) -> Self {
        handler.stats.begin();
        Self {
            handler,
            call,
            failed: None,
            guest: Some(guest),
            open: None,
            head_only,
            body: None,
            body_ended: false,
            body_bytes: 0,
            declared_bytes: None,
            started,
            status: StatusCode::OK,
            finished: false,
            counted: false,
        }
    }

    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// Takes the guest's answer up; false if it cannot go out.
    pub(super) fn set_answer(&mut self, head: &response::Parts, body: GuestBody) -> bool {
        if head.status.is_informational() {
            self.stop(BadAnswer::Interim(head.status).into());
            return false;
        }
        self.status = head.status;
        let length = head.headers.get(CONTENT_LENGTH);
        self.declared_bytes = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.body = Some(body);
        true
    }

    /// Notes that the client has all that it gets.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Lets the guest go on; true once it has ended.
    pub(super) fn poll_guest(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(guest) = &mut self.guest else {
            return true;
        };
        let Poll::Ready(result) = Pin::new(guest).poll(cx) else {
            return false;
        };
        self.guest = None;
        match result {
            Ok(open) => self.open = open,
            Err(failed) => self.fail(failed),
        }
        true
    }

    /// The next frame of the response; lets the guest go on while there is none.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.poll_body(cx) {
                Poll::Ready(Some(frame)) => return self.admit(frame, cx),
                Poll::Ready(None) => return Poll::Ready(self.end_of_body(cx)),
                // The task has had its share of this turn; the body may well have more.
                Poll::Pending if !coop::has_budget_remaining() => return Poll::Pending,
                Poll::Pending if self.guest.is_none() => {
                    // Nobody is left who could write.
                    self.stop(BadAnswer::Unfinished.into());
                    return Poll::Ready(Some(Err(CutShort.into())));
                }
                Poll::Pending if self.poll_guest(cx) => {}
                Poll::Pending => return self.poll_body_again(cx),
            }
        }
    }

    /// The guest may have written while it was polled.
    fn poll_body_again(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.poll_body(cx) {
            Poll::Ready(Some(frame)) => self.admit(frame, cx),
            Poll::Ready(None) => Poll::Ready(self.end_of_body(cx)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets a frame through that the handler's limit has room for; otherwise
    /// the guest is stopped.
    fn admit(
        &mut self,
        frame: Result<Frame<Bytes>, Error>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match frame {
            Ok(frame) => frame,
            // A head may well declare a body that only GET has.
            Err(_) if self.head_only => return Poll::Ready(self.end_of_body(cx)),
            Err(error) => {
                if let Some(declared) = self.other_length() {
                    self.stop(BadAnswer::Length(declared).into());
                }
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        let limit = self.handler.spec.limits.response_body;
        self.body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        let declared = self.declared_bytes.filter(|_| !self.head_only);
        let exceeded: Failed = if self.body_bytes > limit.0 {
            Exceeded::ResponseBody(limit).into()
        } else if let Some(declared) = declared.filter(|declared| self.body_bytes > *declared) {
            BadAnswer::Length(declared).into()
        } else {
            return Poll::Ready(Some(Ok(frame)));
        };
        self.stop(exceeded);
        Poll::Ready(Some(Err(CutShort.into())))
    }

    /// The length that the head declares, unless the body had it or there is to be none.
    fn other_length(&self) -> Option<u64> {
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        let declared = self.declared_bytes?;
        let fits = declared == self.body_bytes
            || self.head_only
            || (self.body_bytes == 0 && bodiless.contains(&self.status));
        (!fits).then_some(declared)
    }

    /// Ends the guest and its answer.
    fn stop(&mut self, failed: Failed) {
        self.guest = None;
        self.open = None;
        self.body = None;
        self.fail(failed);
    }

    /// Ends a guest that still works on its answer at its deadline, also while
    /// nobody takes what it has written.
    fn end_at_deadline(&mut self) {
        if self.guest.is_some() || self.open.is_some() {
            self.stop(Exceeded::Timeout(self.call.timeout).into());
            self.count();
        }
    }

    fn fail(&mut self, mut failed: Failed) {
        log_fault(&self.handler, &self.call, &failed);
        failed.remains = None;
        self.failed = Some(failed);
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.body {
            Some(body) if !self.body_ended => Pin::new(body).poll_frame(cx),
            _ => Poll::Ready(None),
        }
    }

    /// The body is over: whole, unless the guest broke off while it had it open.
    fn end_of_body(&mut self, cx: &mut Context<'_>) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.body_ended = true;
        self.call.end_body();
        if self.failed.as_ref().is_some_and(|failed| failed.open_body) {
            return Some(Err(CutShort.into()));
        }
        if let Some(declared) = self.other_length() {
            self.stop(BadAnswer::Length(declared).into());
            return Some(Err(CutShort.into()));
        }
        self.finished = true;
        self.open = None;
        if !self.poll_guest(cx) {
            self.go_on_alone();
        }
        None
    }

    /// The guest has answered and still works: it goes on without a client,
    /// under the same limits.
    fn go_on_alone(&mut self) {
        if let Some(guest) = self.guest.take() {
            let (handler, call) = (Arc::clone(&self.handler), Arc::clone(&self.call));
            tokio::spawn(async move {
                if let Err(failed) = guest.await {
                    log_fault(&handler, &call, &failed);
                }
            });
        }
    }

    /// The rest of the exchange as a body; `frames` have come already.
    pub(super) fn into_body(self, frames: VecDeque<Frame<Bytes>>) -> ResponseBody {
        let size = self.body.as_ref().map(http_body::Body::size_hint);
        let deadline = self.call.deadline;
        let exchange = Arc::new(Mutex::new(self));
        // A client that takes nothing does not ask for frames either.
        let watched = Arc::downgrade(&exchange);
        let watch = tokio::spawn(async move {
            sleep_until(deadline.into()).await;
            if let Some(exchange) = watched.upgrade() {
                let exchange = exchange.lock();
                exchange
                    .unwrap_or_else(PoisonError::into_inner)
                    .end_at_deadline();
            }
        });
        ResponseBody {
            exchange,
            _watch: AbortOnDropHandle::new(watch),
            frames,
            size: size.unwrap_or_default(),
        }
    }

    /// Counts the call, once.
    fn count(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        let ending = if self.finished || self.failed.is_some() {
            let failed = self.failed.as_ref().is_some_and(|f| f.open_body);
            let broken = failed && !self.status.is_server_error();
            Ending::Status(if broken { 500 } else { self.status.as_u16() })
        } else {
            Ending::Cancelled
        };
        let cpu = self.call.cpu.used();
        self.handler.stats.end(ending, self.started.elapsed(), cpu);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.count();
    }
}

impl From<BadAnswer> for Failed {
    fn from(bad: BadAnswer) -> Self {
        wasmtime::Error::new(bad).into()
    }
}

/// A response body that drives its guest.
pub(super) struct ResponseBody {
    exchange: Arc<Mutex<Exchange>>,
    _watch: AbortOnDropHandle<()>,
    frames: VecDeque<Frame<Bytes>>,
    size: SizeHint,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match this.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => {
                let exchange = this.exchange.lock();
                exchange
                    .unwrap_or_else(PoisonError::into_inner)
                    .poll_frame(cx)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The client's body, cut off at the handler's limit.
pub(super) struct RequestBody<B> {
    body: Pin<Box<B>>,
    left: u64,
    limit: u64,
    call: Arc<Call>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, limit: u64, call: &Arc<Call>) -> Self {
        Self {
            body: Box::pin(body),
            left: limit,
            limit,
            call: Arc::clone(call),
        }
    }
}

impl<B> http_body::Body for RequestBody<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match this.body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(bytes) {
            Some(left) => {
                this.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                this.call.set_too_large();
                let error = Error::HttpRequestBodySize(Some(this.limit));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
