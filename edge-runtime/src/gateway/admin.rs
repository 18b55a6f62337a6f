//! The admin listener: health, readiness, metrics and status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::listen::{GatewayError, Listener};
use super::{Body, reply};

/// Answers here are short; nothing is waited for longer.
const DRAIN: Duration = Duration::from_secs(1);

/// What the admin listener tells of the node.
pub trait Status: Send + Sync {
    /// The whole state, for people and programs.
    fn status(&self) -> serde_json::Value;
    /// What is missing for full service; nothing if the node is ready.
    fn not_ready(&self) -> Vec<String>;
    /// Appends figures in Prometheus's text format.
    fn metrics(&self, out: &mut String);
}

/// The admin listener.
pub struct Admin {
    listener: Listener,
}

impl Admin {
    /// Takes the address; connections wait until [`Admin::serve`].
    ///
    /// # Errors
    /// [`GatewayError`] if the address cannot be taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, GatewayError> {
        let listener = Listener::bind(address, "--admin-listen").await?;
        Ok(Self { listener })
    }

    /// Where it is reached, `http://HOST:PORT`.
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Serves until `stop`.
    pub async fn serve(self, status: Arc<dyn Status>, stop: CancellationToken) {
        let service = move |request| {
            let status = Arc::clone(&status);
            async move { answer(&*status, &request) }
        };
        self.listener.serve(service, DRAIN, stop).await;
    }
}

fn answer<B>(status: &dyn Status, request: &Request<B>) -> Response<Body> {
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz" | "/metrics" | "/status") {
        return reply::error(
            StatusCode::NOT_FOUND,
            "not-found",
            "this listener has /healthz, /readyz, /metrics and /status",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return reply::method_not_allowed(path, "GET, HEAD");
    }
    match path {
        "/healthz" => reply::text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(&status.not_ready()),
        "/metrics" => metrics(status),
        _ => reply::json(StatusCode::OK, &status.status()),
    }
}

fn ready(missing: &[String]) -> Response<Body> {
    let (code, ready) = match missing {
        [] => (StatusCode::OK, true),
        _ => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    reply::json(code, &json!({ "ready": ready, "missing": missing }))
}

fn metrics(status: &dyn Status) -> Response<Body> {
    let mut text = String::new();
    status.metrics(&mut text);
    let mut response = reply::text(StatusCode::OK, text);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
