use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::caller::Peer;
use super::{Api, router};
use crate::members::Members;

/// A client that has not finished its TLS handshake by then is cut.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client that has not sent a request's head by then is cut.
const HEAD: Duration = Duration::from_secs(15);

/// How bytes travel.
pub(crate) enum Transport {
    /// HTTPS with everything.
    Tls(Arc<ServerConfig>),
    /// HTTP with the registry only.
    Plain,
}

/// Serves one listening socket.
pub(crate) struct HttpTask {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    members: Members,
    permits: Arc<Semaphore>,
}

impl HttpTask {
    pub(crate) fn new(
        listener: TcpListener,
        transport: Transport,
        api: Api,
        connections: usize,
    ) -> Self {
        let members = api.members.clone();
        let (acceptor, router) = match transport {
            Transport::Tls(config) => (Some(TlsAcceptor::from(config)), router::all(api)),
            Transport::Plain => (None, router::registry(api)),
        };
        Self {
            listener,
            acceptor,
            router,
            members,
            permits: Arc::new(Semaphore::new(connections)),
        }
    }

    /// Serves until `stop`, then lets requests under way finish within `drain`.
    pub(crate) async fn run(self, stop: CancellationToken, drain: Duration) {
        let Self {
            listener,
            acceptor,
            router,
            members,
            permits,
        } = self;
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "could not accept an HTTP connection");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::warn!(%peer, "refused an HTTP connection: limits.connections is reached");
                continue;
            };
            let (acceptor, router, members) = (acceptor.clone(), router.clone(), members.clone());
            let watcher = graceful.watcher();
            connections.spawn(async move {
                let _permit = permit;
                serve(stream, acceptor, router, &members, watcher).await;
            });
        }
        drop(listener);
        let finish = async {
            graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(drain, finish).await;
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    members: &Members,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return exchange(stream, Peer::default(), router, watcher).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates();
            let peer = Peer {
                node: members.holder(shown),
                certificate: shown.is_some(),
            };
            exchange(stream, peer, router, watcher).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    watcher: Watcher,
) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(64);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
