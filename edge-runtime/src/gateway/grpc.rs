//! The gRPC listener: inference alone, on an address of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::listen::{GatewayError, Listener};
use super::{Body, TlsError, TlsFiles};
use crate::models::Models;

/// The gRPC listener.
pub struct GrpcGateway {
    listener: Listener,
}

impl GrpcGateway {
    /// Takes the address; connections wait until [`GrpcGateway::serve`].
    ///
    /// # Errors
    /// [`GatewayError`] if the address cannot be taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, GatewayError> {
        let listener = Listener::bind(address, "--grpc-listen").await?;
        Ok(Self { listener })
    }

    /// Serves over TLS, if there are files for it.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used.
    pub fn with_tls(self, files: Option<&TlsFiles>) -> Result<Self, TlsError> {
        let listener = match files {
            Some(files) => self.listener.with_tls(files.load()?),
            None => self.listener,
        };
        Ok(Self { listener })
    }

    /// Where it is reached, `HOST:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until `stop`, then lets requests under way end, for `drain` at most.
    pub async fn serve(self, models: Models, drain: Duration, stop: CancellationToken) {
        let service = move |request| {
            let models = models.clone();
            async move { models.handle_grpc(request).await.map(Body::stream) }
        };
        self.listener.serve(service, drain, stop).await;
    }
}
