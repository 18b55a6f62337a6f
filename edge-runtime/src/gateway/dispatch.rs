//! Which part a request goes to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};

use super::{Body, Parts, reply};
use crate::handlers::REQUEST_ID;

const MAX_ID_BYTES: usize = 128;

pub(super) async fn dispatch<B>(
    parts: &Parts,
    ids: &RequestIds,
    mut request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    let id = match request.headers().get(&REQUEST_ID) {
        Some(id) if is_sane(id) => id.clone(),
        _ => {
            let id = ids.next();
            request.headers_mut().insert(REQUEST_ID, id.clone());
            id
        }
    };
    let mut response = route(parts, request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn route<B>(parts: &Parts, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    if !names_one_host(&request) {
        return reply::error(
            StatusCode::BAD_REQUEST,
            "bad-host",
            "a request names one host, as in Host: gateway:8080",
        );
    }
    if request.method() == Method::CONNECT {
        return reply::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "this is no proxy: CONNECT is not served",
        );
    }
    match request.uri().path().split('/').nth(1) {
        Some("v2") => parts.models.handle(request).await.map(Body::stream),
        Some("streams") => match &parts.streams {
            Some(streams) => streams.handle(request).await.map(Body::stream),
            None => reply::error(
                StatusCode::NOT_FOUND,
                "no-streams",
                "this runtime keeps no streams: start it with --data-dir and --stream NAME",
            ),
        },
        _ => parts.handlers.serve(request).await,
    }
}

/// Whether it is clear whom the request is for (RFC 9112, section 3.2). HTTP/1.0
/// knows requests without a host.
fn names_one_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next();
    let valid = first.is_none_or(|host| {
        let host = Authority::try_from(host.as_bytes());
        host.is_ok_and(|host| !host.host().is_empty() && !host.as_str().contains('@'))
    });
    let missing = first.is_none() && request.version() == Version::HTTP_11;
    valid && !missing && hosts.next().is_none()
}

/// An id from outside goes into headers and logs: only what is printable, and not too much of it.
fn is_sane(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Gives ids to requests that bring none: a random start, then counted, so
/// that they differ between runs and are cheap.
pub(super) struct RequestIds {
    run: u32,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        let run = getrandom::u32().unwrap_or_else(|_| std::process::id());
        Self {
            run,
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Relaxed);
        let id = format!("{:08x}-{number:08x}", self.run);
        HeaderValue::try_from(id).expect("hexadecimal digits are valid in a header")
    }
}
