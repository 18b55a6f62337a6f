//! The one response body type of the data plane.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use super::idle::UnderWay;

/// What may go wrong while a body is under way; the connection is then cut, so
/// that the client sees that the body is not whole.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: known bytes, or a stream of frames.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    _under_way: Option<UnderWay>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// A body with nothing in it.
    pub fn empty() -> Self {
        Kind::Full(None).into()
    }

    /// A body of known bytes; goes out with a content length.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Kind::Full((!bytes.is_empty()).then_some(bytes)).into()
    }

    /// The same body; the request is under way until it has gone out.
    pub(super) fn holding(self, request: UnderWay) -> Self {
        Self {
            _under_way: Some(request),
            ..self
        }
    }

    /// A body whose frames come one by one.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Kind::Stream(body.map_err(Into::into).boxed_unsync()).into()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            _under_way: None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}
