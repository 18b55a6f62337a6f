//! Answers that the runtime itself gives: JSON with a stable code and a sentence.

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use super::Body;

/// An error answer, `{"error": {"code", "message"}}`.
pub fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json(
        status,
        &json!({ "error": { "code": code, "message": message } }),
    )
}

/// An error answer that asks the client to come back after `seconds`.
pub fn busy(status: StatusCode, code: &str, message: &str, seconds: u32) -> Response<Body> {
    let mut response = error(status, code, message);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// 405 with the methods that `path` takes, `GET, POST`.
pub fn method_not_allowed(path: &str, methods: &str) -> Response<Body> {
    let message = format!("{path} takes {methods}");
    let mut response = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        &message,
    );
    if let Ok(methods) = HeaderValue::try_from(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A plain text answer.
pub fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
