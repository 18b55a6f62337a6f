//! A gateway with guests behind it, and a client that says exactly what it is told to.

use std::time::Duration;

use fleet_api::deployment::Limits;
use fleet_api::ids::{Digest, Name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::{Gateway, Parts};
use super::{LOCAL, Running};
use crate::handlers::tests::{fixture, spec};
use crate::handlers::{Handlers, HandlersConfig};
use crate::models::{Models, ModelsConfig};
use fleet_api::health::HandlerHealth;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with one guest on every path and one that greets on `/hello`.
pub(super) struct Served {
    pub(super) gateway: Running,
    pub(super) handlers: Handlers,
    _dir: tempfile::TempDir,
}

impl Served {
    pub(super) async fn guest(wasm: Vec<u8>, limits: Limits) -> Self {
        let gateway = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
        Self::on(gateway, wasm, limits).await
    }

    pub(super) async fn code(code: &str) -> Self {
        Self::guest(fixture::component(code), Limits::default()).await
    }

    pub(super) async fn on(gateway: Gateway, wasm: Vec<u8>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let models = Models::start(ModelsConfig {
            library: Some("/nonexistent/libonnxruntime.so".into()),
            ..ModelsConfig::default()
        });
        let config = HandlersConfig {
            max_instances: 16,
            ..HandlersConfig::default()
        };
        let handlers = Handlers::start(config, models.clone()).unwrap();
        let prepare = async |name: &str, route: &str, wasm: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, wasm).unwrap();
            let mut spec = spec(Digest::of(wasm), path);
            spec.name = Name::new(name).unwrap();
            spec.route = Some(route.parse().unwrap());
            spec.limits = limits.clone();
            handlers.prepare(spec).await.unwrap()
        };
        let hello = fixture::component(fixture::HELLO);
        let all = vec![
            prepare("guest", "/*", &wasm).await,
            prepare("hello", "/hello", &hello).await,
        ];
        handlers.switch(all).unwrap();
        let parts = Parts {
            handlers: handlers.clone(),
            models,
            streams: None,
        };
        let (url, stop) = (gateway.url(), CancellationToken::new());
        let task = tokio::spawn(gateway.serve(parts, Duration::from_secs(5), stop.clone()));
        Self {
            gateway: Running { url, stop, task },
            handlers,
            _dir: dir,
        }
    }

    /// HOST:PORT of the gateway.
    pub(super) fn address(&self) -> &str {
        self.gateway.url.split_once("://").unwrap().1
    }

    pub(super) async fn connect(&self) -> Raw {
        let stream = TcpStream::connect(self.address()).await.unwrap();
        Raw {
            stream,
            read: Vec::new(),
        }
    }

    /// What one connection answers to `text`, until it closes.
    pub(super) async fn ask(&self, text: &str) -> String {
        let mut raw = self.connect().await;
        raw.send(text).await;
        raw.rest().await
    }

    /// Figures of the guest.
    pub(super) fn health(&self) -> HandlerHealth {
        self.handlers.health().remove(0)
    }
}

/// A connection.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes up to and with `end`.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let text = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(text).unwrap();
            }
            let more = self.more().await;
            let text = String::from_utf8_lossy(&self.read);
            assert!(more, "the connection ended without {end:?}: {text}");
        }
    }

    /// What comes until the connection ends, in whichever way.
    pub(super) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        matches!(read.expect("there is an answer or an end in time"), Ok(n) if n > 0)
    }
}
