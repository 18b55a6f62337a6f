//! A guest on `wstd`, an async standard library for WASI 0.2.

use std::convert::Infallible;

use futures_lite::stream;
use wstd::http::{Body, Client, Error, Method, Request, Response, StatusCode};

const LINES: u32 = 16;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => text(StatusCode::OK, "hello from wstd\n"),
        (&Method::POST, "/echo") => echo(request),
        (&Method::GET, "/stream") => lines(),
        (_, "/relay") => relay(request).await,
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    }
}

fn text(status: StatusCode, text: &str) -> Result<Response<Body>, Error> {
    let response = Response::builder().status(status);
    let response = response.header("content-type", "text/plain");
    Ok(response.body(text.into())?)
}

fn echo(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let mut response = Response::builder();
    if let Some(kind) = parts.headers.get("content-type") {
        response = response.header("content-type", kind);
    }
    Ok(response.body(body)?)
}

fn lines() -> Result<Response<Body>, Error> {
    let lines = stream::unfold(1, |number| async move {
        let line = Ok::<_, Infallible>(format!("line {number}\n").into_bytes());
        (number <= LINES).then_some((line, number + 1))
    });
    let response = Response::builder().header("content-type", "text/plain");
    Ok(response.body(Body::from_try_stream(lines))?)
}

/// Sends the request on to the address in its query, and answers what that answers.
async fn relay(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let address = parts.uri.query().unwrap_or_default();
    let request = Request::builder().method(parts.method).uri(address);
    let answer = Client::new().send(request.body(body)?).await?;
    let response = Response::builder().status(answer.status());
    Ok(response.body(answer.into_body())?)
}
