//! Refused requests are heard out.
//!
//! A client that still sends its body when the answer comes and the connection closes sees a
//! broken connection instead of the answer. Registry clients send a blob's first try without a
//! login and wait for the refusal, so what they send has to be read, and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;

/// What is thrown away at most; a client that sends more sees its connection broken.
const BYTES: usize = 256 << 20;
/// How long that may take.
const TIME: Duration = Duration::from_secs(30);

/// Reads the rest of a refused request's body before its answer goes out.
pub(super) async fn hear_out(request: Request, next: Next) -> Response {
    // Who asks first sends nothing before the handler has begun to read.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let (lent, returned) = Lent::new(body, !asks_first);
    let request = Request::from_parts(parts, Body::new(lent));
    let response = next.run(request).await;
    if !response.status().is_success() {
        let mut returned = returned;
        if let Ok(rest) = returned.try_recv() {
            let _ = tokio::time::timeout(TIME, throw_away(rest)).await;
        }
    }
    response
}

async fn throw_away(mut body: Body) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// A body that comes back when its reader has lost interest before the end.
struct Lent {
    body: Option<Body>,
    begun: bool,
    back: Option<oneshot::Sender<Body>>,
}

impl Lent {
    fn new(body: Body, begun: bool) -> (Self, oneshot::Receiver<Body>) {
        let (back, returned) = oneshot::channel();
        let lent = Self {
            body: Some(body),
            begun,
            back: Some(back),
        };
        (lent, returned)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.begun = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), true, Some(back)) = (self.body.take(), self.begun, self.back.take()) {
            // Nobody waits for it after a success.
            let _ = back.send(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unread_body_comes_back_whole() {
        let (lent, mut returned) = Lent::new(Body::from("what was sent"), true);
        drop(lent);
        let rest = returned
            .try_recv()
            .unwrap()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(rest, "what was sent");
    }

    #[tokio::test]
    async fn a_body_that_was_not_sent_yet_is_not_asked_for() {
        let (lent, mut returned) = Lent::new(Body::from("what would come"), false);
        drop(lent);
        assert!(returned.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_body_that_was_read_does_not_come_back() {
        let (lent, mut returned) = Lent::new(Body::from("what was sent"), true);
        let read = lent.collect().await.unwrap().to_bytes();
        assert_eq!(read, "what was sent");
        assert!(returned.try_recv().is_err());
    }
}
