//! A guest of WASI 0.3: its body is written by a task of its own, after the head.

use bytes::Bytes;
use futures_lite::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use wasip3::http::types::{self, ErrorCode};
use wasip3::http_compat::{IncomingRequestBody, http_from_wasi_request, http_into_wasi_response};

const LINES: u32 = 16;

type Body = UnsyncBoxBody<Bytes, ErrorCode>;

struct Service;

wasip3::http::service::export!(Service);

impl wasip3::exports::http::handler::Guest for Service {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        http_into_wasi_response(answer(http_from_wasi_request(request)?))
    }
}

fn answer(request: Request<IncomingRequestBody>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => text(StatusCode::OK, "hello from wasip3\n"),
        (&Method::POST, "/echo") => echo(request),
        (&Method::GET, "/stream") => response(StatusCode::OK, lines(HeaderMap::new())),
        (&Method::GET, "/trailers") => counted(),
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    response(status, body.map_err(|never| match never {}).boxed_unsync())
}

fn response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

fn echo(request: Request<IncomingRequestBody>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, kind.clone());
    }
    response
}

/// Lines, and how many there were in a trailer that is told beforehand.
fn counted() -> Response<Body> {
    let count = HeaderName::from_static("x-lines");
    let body = lines(HeaderMap::from_iter([(count, HeaderValue::from(LINES))]));
    let mut response = response(StatusCode::OK, body);
    let told = HeaderValue::from_static("x-lines");
    response.headers_mut().insert(http::header::TRAILER, told);
    response
}

fn lines(trailers: HeaderMap) -> Body {
    let lines = (1..=LINES).map(|number| Frame::data(Bytes::from(format!("line {number}\n"))));
    let end = (!trailers.is_empty()).then(|| Frame::trailers(trailers));
    StreamBody::new(stream::iter(lines.chain(end).map(Ok))).boxed_unsync()
}
