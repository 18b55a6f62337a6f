//! The listeners of a node: the data plane, gRPC, and the admin one.
//!
//! ```text
//! data plane ─► listen (connections, limits, drain) ─► dispatch ─┬─ /v2      ─► models
//!                                                               ├─ /streams ─► streams
//!                                                               └─ the rest ─► handlers
//! gRPC       ─► listen ─► models
//! admin      ─► listen ─► /healthz /readyz /metrics /status
//! ```
//!
//! Sockets are bound early, so that a port in use stops the start before
//! anything else has happened, and served late, once all parts are there.

mod admin;
mod body;
mod dispatch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod grpc;
mod idle;
mod listen;
/// Answers that the runtime itself gives.
pub mod reply;
mod stall;
#[cfg(test)]
mod tests;
mod tls;
mod unread;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use admin::{Admin, Status};
pub use body::{Body, BodyError};
pub use grpc::GrpcGateway;
pub use listen::GatewayError;
pub use tls::{TlsError, TlsFiles};

use listen::Listener;

use crate::handlers::Handlers;
use crate::models::Models;
use crate::streams::Streams;

/// Stands in a request's extensions if it came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

/// What the data plane leads to.
#[derive(Clone)]
pub struct Parts {
    /// Every path but the reserved ones.
    pub handlers: Handlers,
    /// `/v2`
    pub models: Models,
    /// `/streams`; none refuses them.
    pub streams: Option<Streams>,
}

/// The data plane's listener.
pub struct Gateway {
    listener: Listener,
}

impl Gateway {
    /// Takes the address; connections wait until [`Gateway::serve`].
    ///
    /// # Errors
    /// [`GatewayError`] if the address cannot be taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, GatewayError> {
        let listener = Listener::bind(address, "--listen").await?;
        Ok(Self { listener })
    }

    /// Serves HTTPS instead of HTTP.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used.
    pub fn with_tls(self, files: &TlsFiles) -> Result<Self, TlsError> {
        let listener = self.listener.with_tls(files.load()?);
        Ok(Self { listener })
    }

    /// Where it is reached, `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Serves until `stop`, then lets requests under way end, for `drain` at most.
    pub async fn serve(self, parts: Parts, drain: Duration, stop: CancellationToken) {
        if let Some(streams) = parts.streams.clone() {
            let stop = stop.clone();
            // Who follows a stream would otherwise make every drain take its whole time.
            tokio::spawn(async move {
                stop.cancelled().await;
                streams.end_live();
            });
        }
        let parts = Arc::new(parts);
        let ids = Arc::new(dispatch::RequestIds::new());
        let service = move |request| {
            let (parts, ids) = (Arc::clone(&parts), Arc::clone(&ids));
            async move { dispatch::dispatch(&parts, &ids, request).await }
        };
        self.listener.serve(service, drain, stop).await;
    }
}
