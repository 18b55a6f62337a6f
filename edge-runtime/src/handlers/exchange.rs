//! A guest at work together with the response body that it writes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use wasmtime_wasi_http::Error;

use super::call::{Call, GuestBody};
use super::handler::Handler;
use super::limits::Exceeded;
use super::metered::{Failed, Metered};
use super::request::log_fault;
use super::stats::Ending;
use crate::gateway::BodyError;

/// The guest ended in the middle of its response.
#[derive(Debug, thiserror::Error)]
#[error("the handler stopped in the middle of its answer")]
struct CutShort;

pub(super) struct Exchange {
    pub(super) handler: Arc<Handler>,
    pub(super) call: Arc<Call>,
    /// Why the guest stopped, if it did not end well.
    pub(super) failed: Option<Failed>,
    guest: Option<Metered<()>>,
    body: Option<GuestBody>,
    body_ended: bool,
    body_bytes: u64,
    started: Instant,
    status: StatusCode,
    /// The client has all that it gets.
    finished: bool,
}

impl Exchange {
    pub(super) fn begin(
        handler: Arc<Handler>,
        call: Arc<Call>,
        guest: Metered<()>,
        started: Instant,
    ) -> Self {
        handler.stats.begin();
        Self {
            handler,
            call,
            failed: None,
            guest: Some(guest),
            body: None,
            body_ended: false,
            body_bytes: 0,
            started,
            status: StatusCode::OK,
            finished: false,
        }
    }

    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub(super) fn set_body(&mut self, body: GuestBody) {
        self.body = Some(body);
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
        if let Err(failed) = result {
            self.fail(failed);
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
                Poll::Ready(Some(frame)) => return Poll::Ready(Some(self.admit(frame))),
                Poll::Ready(None) => return Poll::Ready(self.end_of_body(cx)),
                Poll::Pending if self.guest.is_none() => {
                    // The guest's side of the body is gone, so nothing can come.
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
            Poll::Ready(Some(frame)) => Poll::Ready(Some(self.admit(frame))),
            Poll::Ready(None) => Poll::Ready(self.end_of_body(cx)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Lets a frame through that the handler's limit has room for; otherwise
    /// the guest is stopped.
    fn admit(&mut self, frame: Result<Frame<Bytes>, Error>) -> Result<Frame<Bytes>, BodyError> {
        let frame = frame?;
        let limit = self.handler.spec.limits.response_body;
        self.body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if self.body_bytes <= limit.0 {
            return Ok(frame);
        }
        self.guest = None;
        self.body = None;
        self.fail(Exceeded::ResponseBody(limit).into());
        Err(CutShort.into())
    }

    fn fail(&mut self, failed: Failed) {
        log_fault(&self.handler, &self.call, &failed);
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
        let whole = self.failed.as_ref().is_none_or(|failed| !failed.open_body);
        if !whole {
            return Some(Err(CutShort.into()));
        }
        self.finished = true;
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
        ResponseBody {
            exchange: self,
            frames,
            size: size.unwrap_or_default(),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
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

/// A response body that drives its guest.
pub(super) struct ResponseBody {
    exchange: Exchange,
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
            None => this.exchange.poll_frame(cx),
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
