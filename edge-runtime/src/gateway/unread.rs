//! Requests are heard out.
//!
//! A connection that closes while its client still sends shows the client a
//! broken connection instead of the answer. What a part leaves unread of a
//! body is therefore read and thrown away, beside the answer, and the
//! connection serves the next request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// What is thrown away at most; a client that sends more sees its connection end.
const BYTES: usize = 64 << 20;
/// How long that may take.
const TIME: Duration = Duration::from_secs(10);

/// A request's body that is read to its end also when its reader has lost interest.
#[derive(Debug)]
pub(crate) struct HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    body: Option<B>,
    /// Who asks first sends nothing before something is read.
    sent: bool,
    home: Handle,
}

/// The request with a body that is heard out.
pub(crate) fn hear_out<B>(request: Request<B>) -> Request<HeardOut<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let sent = !request.headers().contains_key(header::EXPECT);
    request.map(|body| HeardOut {
        body: Some(body),
        sent,
        home: Handle::current(),
    })
}

async fn throw_away<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut left = BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl<B> Body for HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.sent = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, Body::size_hint)
    }
}

impl<B> Drop for HeardOut<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), true) = (rest, self.sent) {
            self.home
                .spawn(async move { timeout(TIME, throw_away(rest)).await.ok() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Sent = Result<Frame<Bytes>, Infallible>;

    fn request(
        expect: bool,
    ) -> (
        Request<StreamBody<ReceiverStream<Sent>>>,
        mpsc::Sender<Sent>,
    ) {
        let (sender, frames) = mpsc::channel(1);
        let mut request = Request::new(StreamBody::new(ReceiverStream::new(frames)));
        if expect {
            let value = header::HeaderValue::from_static("100-continue");
            request.headers_mut().insert(header::EXPECT, value);
        }
        (request, sender)
    }

    fn chunk(bytes: usize) -> Sent {
        Ok(Frame::data(Bytes::from(vec![0; bytes])))
    }

    #[tokio::test]
    async fn what_nobody_reads_is_read_to_its_end() {
        let (request, sender) = request(false);
        drop(hear_out(request));
        for _ in 0..100 {
            sender.send(chunk(10)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_body_that_was_not_sent_yet_is_not_asked_for() {
        let (request, sender) = request(true);
        drop(hear_out(request));
        assert!(sender.send(chunk(10)).await.is_err());
    }

    #[tokio::test]
    async fn a_body_without_end_is_given_up() {
        let (request, sender) = request(false);
        drop(hear_out(request));
        let mut taken = 0;
        while sender.send(chunk(1 << 20)).await.is_ok() {
            taken += 1 << 20;
        }
        assert!((BYTES..BYTES + (4 << 20)).contains(&taken), "{taken}");
    }
}
