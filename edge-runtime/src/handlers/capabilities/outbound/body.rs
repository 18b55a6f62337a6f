//! Bodies of outbound requests: bounded, and ended in order.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

/// The guest's request body. The connection may be done with it while the guest
/// still ends it; what is left is then drained, so that the guest does not see
/// a closed stream where it only finishes.
pub(super) struct Sending {
    body: Option<Mutex<WasiBody>>,
    left: Arc<Mutex<Option<WasiBody>>>,
    bytes_left: u64,
    limit: u64,
}

pub(super) struct Rest(Arc<Mutex<Option<WasiBody>>>);

impl Sending {
    pub(super) fn new(body: WasiBody, limit: u64) -> (Self, Rest) {
        let left = Arc::new(Mutex::new(None));
        let this = Self {
            body: Some(Mutex::new(body)),
            left: Arc::clone(&left),
            bytes_left: limit,
            limit,
        };
        (this, Rest(left))
    }

    fn body(&mut self) -> &mut WasiBody {
        self.body
            .as_mut()
            .expect("the body is taken only in drop")
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rest {
    pub(super) async fn drain(self) -> Result<(), Error> {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut body) = left {
            while let Some(frame) = body.frame().await {
                frame?;
            }
        }
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let body = self.body.take();
        let body = body.map(|b| b.into_inner().unwrap_or_else(PoisonError::into_inner));
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(self.body()).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match self.bytes_left.checked_sub(length(frame)) {
                Some(left) => self.bytes_left = left,
                None => {
                    let error = Error::HttpRequestBodySize(Some(self.limit));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A response's body; the request counts as out until it has ended.
pub(super) struct Received<B> {
    body: B,
    bytes_left: u64,
    limit: u64,
    patience: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<B> Received<B> {
    pub(super) fn new(
        body: B,
        limit: u64,
        patience: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            body,
            bytes_left: limit,
            limit,
            patience,
            timer: None,
            _place: place,
        }
    }

    /// Whether the next bytes have been waited for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(patience) = self.patience else {
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        timer.as_mut().poll(cx).is_ready()
    }

    fn came(&mut self) {
        if let (Some(timer), Some(patience)) = (&mut self.timer, self.patience) {
            timer.as_mut().reset(Instant::now() + patience);
        }
    }
}

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending if this.is_late(cx) => {
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                this.came();
                match this.bytes_left.checked_sub(length(&frame)) {
                    Some(left) => {
                        this.bytes_left = left;
                        Poll::Ready(Some(Ok(frame)))
                    }
                    None => {
                        let error = Error::HttpResponseBodySize(Some(this.limit));
                        Poll::Ready(Some(Err(error)))
                    }
                }
            }
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::StreamBody;
    use http_body_util::combinators::UnsyncBoxBody;
    use tokio::sync::Semaphore;

    use super::*;

    fn chunks(sizes: &'static [usize]) -> UnsyncBoxBody<Bytes, Error> {
        let frames = sizes
            .iter()
            .map(|size| Ok(Frame::data(Bytes::from(vec![0; *size]))));
        StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
    }

    async fn received(body: UnsyncBoxBody<Bytes, Error>, limit: u64) -> Result<usize, Error> {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let patience = Some(Duration::from_millis(20));
        let received = Received::new(body, limit, patience, place);
        Ok(received.collect().await?.to_bytes().len())
    }

    #[tokio::test]
    async fn bodies_end_at_their_limit() {
        assert_eq!(received(chunks(&[6, 4]), 10).await.unwrap(), 10);
        let larger = received(chunks(&[6, 5]), 10).await;
        assert!(matches!(larger, Err(Error::HttpResponseBodySize(Some(10)))));
        let (sending, _rest) = Sending::new(chunks(&[6, 5]), 10);
        let sent = sending.collect().await.map(|_| ());
        assert!(matches!(sent, Err(Error::HttpRequestBodySize(Some(10)))));
    }

    #[tokio::test]
    async fn bytes_that_do_not_come_are_not_waited_for_without_end() {
        let never = StreamBody::new(tokio_stream::pending()).boxed_unsync();
        let waited = received(never, 10).await;
        assert!(matches!(waited, Err(Error::ConnectionReadTimeout)));
    }
}
