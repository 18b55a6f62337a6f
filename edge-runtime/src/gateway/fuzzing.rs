//! Body of the fuzz target of connections; see fuzz/README.md.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_api::deployment::{Allow, Isolation, Limits};
use fleet_api::ids::{Digest, Name, Version};
use fleet_api::units::Span;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::listen::{self, Patience, Stop};
use super::{Parts, dispatch};
use crate::handlers::{HandlerSpec, Handlers, HandlersConfig};
use crate::models::{Models, ModelsConfig};

/// Longest time from the last byte of a client to the end of its connection.
const ENDED: Duration = Duration::from_secs(20);
/// How long nothing comes before a client has all that it gets.
const QUIET: Duration = Duration::from_millis(5);
const SLOW: Patience = Patience {
    head: Duration::from_millis(500),
    write: Duration::from_secs(5),
};

/// Connections into a gateway with one guest on every path.
pub struct Connections {
    runtime: Runtime,
    parts: Arc<Parts>,
}

impl Connections {
    /// The guest is the component in this file.
    #[expect(clippy::unwrap_used, reason = "a target that cannot start has to stop")]
    pub fn new(guest: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let parts = runtime.block_on(async {
            let models = Models::start(ModelsConfig::default());
            let config = HandlersConfig {
                max_instances: 4,
                ..HandlersConfig::default()
            };
            let handlers = Handlers::start(config, models.clone()).unwrap();
            let spec = HandlerSpec {
                name: Name::new("guest").unwrap(),
                version: Version::new("1").unwrap(),
                digest: Digest::of(&std::fs::read(guest).unwrap()),
                path: guest.to_owned(),
                route: Some("/*".parse().unwrap()),
                limits: Limits {
                    timeout: Span::from_ms(1_000),
                    ..Limits::default()
                },
                allow: Allow::default(),
                config: Default::default(),
                secrets: Default::default(),
                isolation: Isolation::PerRequest,
                env: Vec::new(),
            };
            let guest = handlers.prepare(spec).await.unwrap();
            handlers.switch(vec![guest]).unwrap();
            Parts {
                handlers,
                models,
                streams: None,
            }
        });
        Self {
            runtime,
            parts: Arc::new(parts),
        }
    }

    /// What a client that sends `bytes` and no more gets before its connection
    /// ends. It ends in time, and no guest is left at work.
    pub fn feed(&self, bytes: &[u8]) -> Vec<u8> {
        let answer = self.runtime.block_on(self.connection(bytes.to_vec()));
        for handler in self.parts.handlers.health() {
            assert_eq!(handler.in_flight, 0, "a request is left: {bytes:?}");
        }
        answer
    }

    async fn connection(&self, bytes: Vec<u8>) -> Vec<u8> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let ids = Arc::new(dispatch::RequestIds::new());
        let parts = Arc::clone(&self.parts);
        let service = move |request| {
            let (parts, ids) = (Arc::clone(&parts), Arc::clone(&ids));
            async move { dispatch::dispatch(&parts, &ids, request).await }
        };
        let stop = Stop {
            stop: CancellationToken::new(),
            drain: Duration::ZERO,
        };
        let protocol = listen::protocol();
        let serving = listen::connection(near, &protocol, service, SLOW, stop);
        let (mut answers, mut requests) = tokio::io::split(far);
        let sending = async move {
            // The gateway may close first.
            let _ = requests.write_all(&bytes).await;
            requests
        };
        let client = async {
            let sending = tokio::spawn(sending);
            let mut read = Vec::new();
            // A client that closes is gone, so it waits until nothing more comes.
            while matches!(timeout(QUIET, answers.read_buf(&mut read)).await, Ok(Ok(n)) if n > 0) {}
            match timeout(QUIET, sending).await {
                Ok(Ok(mut requests)) => drop(requests.shutdown().await),
                _ => tracing::debug!("the gateway does not take what was sent"),
            }
            let _ = answers.read_to_end(&mut read).await;
            read
        };
        let both = async { tokio::join!(serving, client).1 };
        timeout(ENDED, both)
            .await
            .expect("the connection ends in time")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::handlers::tests::fixture::{component, reflecting};

    /// Pieces that requests are made of, good and bad.
    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.1\r\n",
        "HEAD /x?y HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "GET http://a/b HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "host: a\r\n",
        "host: \r\n",
        "content-length: 5\r\n",
        "content-length: 99999999999999999999\r\n",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "connection: close\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\n",
        "expect: 100-continue\r\n",
        "x-request-id: \u{7f}\r\n",
        "x-edge-param-a: b\r\n",
        "te: trailers\r\n",
        "\r\n",
        "hello",
        "5\r\nhello\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\r\n",
        "0\r\nx-trailer: 1\r\n\r\n",
        "\0\0\0\x04\0\0\0\0\0",
        "\0\0\x04\x08\0\0\0\0\0\0\0\0\0",
    ];

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            9 => (0..PIECES.len()).prop_map(|i| PIECES[i].as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..40),
        ]
    }

    thread_local! {
        static CONNECTIONS: (tempfile::TempDir, Connections) = {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("echo.wasm");
            std::fs::write(&file, component(reflecting::ECHO)).unwrap();
            let connections = Connections::new(&file);
            (dir, connections)
        };
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_its_connection_ends(pieces in vec(piece(), 0..12)) {
            CONNECTIONS.with(|(_, gateway)| gateway.feed(&pieces.concat()));
        }
    }

    #[test]
    fn a_request_is_answered() {
        let request =
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        let answer = CONNECTIONS.with(|(_, gateway)| gateway.feed(request));
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("hello"), "{answer}");
    }

    #[test]
    fn the_guest_of_the_fuzz_target_is_this_one() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/guests/echo.wasm");
        let own = component(reflecting::ECHO);
        if std::env::var_os("WRITE_GUESTS").is_some() {
            std::fs::write(&file, &own).unwrap();
        }
        assert!(
            std::fs::read(&file).is_ok_and(|there| there == own),
            "run this test with WRITE_GUESTS=1 to write {} anew",
            file.display()
        );
    }
}
