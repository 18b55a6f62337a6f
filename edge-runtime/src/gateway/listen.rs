//! Connections: how many, how slow a client may be, and how they end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::idle::Idle;
use super::stall::Unstalled;
use super::unread::{HeardOut, hear_out};
use super::{Body, OverTls};

const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for a request's head, and idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take none of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to set TLS up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client has to notice that its connection ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
const MAX_HEADERS: usize = 128;
/// Bytes of a request's head, and of what is read ahead of a body.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_STREAMS: u32 = 256;
/// Pause after the system refused a connection, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another process has the address.
    #[error(
        "listen on {address}: another process uses this address; stop it, or give another one with {flag}"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// What sets it.
        flag: &'static str,
    },
    /// The address cannot be used.
    #[error("listen on {address}: give another address with {flag}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What sets it.
        flag: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// How slow a client may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a request's head, and idle between requests.
    pub(super) head: Duration,
    /// Without taking any of its answer.
    pub(super) write: Duration,
}

pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    pub(super) patience: Patience,
}

impl Listener {
    pub(super) async fn bind(
        address: SocketAddr,
        flag: &'static str,
    ) -> Result<Self, GatewayError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => GatewayError::InUse { address, flag },
            _ => GatewayError::Bind {
                address,
                flag,
                source,
            },
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            socket,
            address,
            tls: None,
            patience: Patience {
                head: HEADER_TIMEOUT,
                write: WRITE_TIMEOUT,
            },
        })
    }

    pub(super) fn with_tls(self, config: Arc<ServerConfig>) -> Self {
        let tls = Some(TlsAcceptor::from(config));
        Self { tls, ..self }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `stop`; then each connection ends after its request, or
    /// when `drain` has passed.
    pub(super) async fn serve<S, F>(self, service: S, drain: Duration, stop: CancellationToken)
    where
        S: Fn(Request<HeardOut<Incoming>>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let protocol = Arc::new(protocol());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let next = accept(&self.socket, &places);
            let (stream, place) = tokio::select! {
                next = next => next,
                () = stop.cancelled() => break,
            };
            let (protocol, service) = (Arc::clone(&protocol), service.clone());
            // A token of its own: all connections ask it at every turn.
            let stop = stop.child_token();
            let (tls, patience) = (self.tls.clone(), self.patience);
            connections.spawn(async move {
                let _place = place;
                // Small answers must not wait for the client's acknowledgement.
                let _ = stream.set_nodelay(true);
                let stop = Stop { drain, stop };
                let Some(tls) = tls else {
                    return connection(stream, &protocol, service, patience, stop).await;
                };
                let service = move |mut request: Request<HeardOut<Incoming>>| {
                    request.extensions_mut().insert(OverTls);
                    service(request)
                };
                match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, &protocol, service, patience, stop).await,
                    Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            });
        }
        drop(self.socket);
        connections.close();
        connections.wait().await;
    }
}

async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("the semaphore is never closed");
    loop {
        match socket.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(super) fn protocol() -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol
        .http1()
        .timer(TokioTimer::new())
        // A timer for each head costs as much as a small answer: see `Idle`.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        // Pipelined answers are not put together (`pipeline_flush`): hyper then buffers without bound.
        .max_buf_size(MAX_HEAD_BYTES);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    protocol
}

/// When connections end, and how long their requests may go on from then.
pub(super) struct Stop {
    pub(super) stop: CancellationToken,
    pub(super) drain: Duration,
}

pub(super) async fn connection<I, S, F>(
    stream: I,
    protocol: &auto::Builder<TokioExecutor>,
    service: S,
    patience: Patience,
    stop: Stop,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<HeardOut<Incoming>>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let idle = Arc::new(Idle::new(patience.head));
    let counted = Arc::clone(&idle);
    let service = service_fn(move |request| {
        let (answer, under_way) = (service(hear_out(request)), Idle::begin(&counted));
        async move {
            let answer = answer.await;
            Ok::<_, Infallible>(answer.map(|body| body.holding(under_way)))
        }
    });
    let stream = TokioIo::new(Unstalled::new(stream, patience.write));
    let mut serving = pin!(protocol.serve_connection(stream, service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = idle.for_long() => {
            tracing::debug!("a connection is closed: no request came within the time for one");
            serving.as_mut().graceful_shutdown();
            let _ = timeout(LAST_WORDS, serving).await;
            return;
        }
        () = stop.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match timeout(stop.drain, serving).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("a request was cut off: it did not end within the drain time");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}
