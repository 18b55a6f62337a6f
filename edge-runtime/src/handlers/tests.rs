mod aggressors;
mod faults;
pub(crate) mod fixture;
mod hostile;
mod lifecycle;
mod outbound;
mod refusals;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet_api::deployment::{Allow, Isolation, Limits};
use fleet_api::health::HandlerHealth;
use fleet_api::ids::{Digest, Name, Version};
use fleet_api::units::{ByteSize, Span};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};

use super::{HandlerError, HandlerSpec, Handlers, HandlersConfig, PreparedHandler};
use crate::gateway::Body;
use crate::models::{Models, ModelsConfig};
use fixture::component;

/// A node with a cache in a temporary folder.
struct Node {
    handlers: Handlers,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let handlers = start(&dir);
        Self { handlers, dir }
    }

    /// A spec for `wasm`, on every path.
    fn spec(&self, wasm: &[u8]) -> HandlerSpec {
        let digest = Digest::of(wasm);
        let path = self.dir.path().join(format!("{}.wasm", digest.hex()));
        std::fs::write(&path, wasm).unwrap();
        spec(digest, path)
    }

    async fn prepare(&self, spec: HandlerSpec) -> Result<PreparedHandler, HandlerError> {
        self.handlers.prepare(spec).await
    }

    /// Serves `code` on every path, within `limits`.
    async fn serving(code: &str, limits: Limits) -> Self {
        let node = Self::new();
        let mut spec = node.spec(&component(code));
        spec.limits = limits;
        let prepared = node.prepare(spec).await.unwrap();
        node.handlers.switch(vec![prepared]).unwrap();
        node
    }

    async fn get(&self) -> (StatusCode, String) {
        read(self.handlers.serve(request("/")).await).await
    }

    fn health(&self) -> HandlerHealth {
        self.handlers.health().remove(0)
    }
}

fn start(dir: &tempfile::TempDir) -> Handlers {
    let config = HandlersConfig {
        cache_dir: Some(dir.path().join("compiled")),
        max_instances: 16,
        ..HandlersConfig::default()
    };
    // No library is needed here, and none is looked for.
    let models = ModelsConfig {
        library: Some("/nonexistent/libonnxruntime.so".into()),
        ..ModelsConfig::default()
    };
    Handlers::start(config, Models::start(models)).unwrap()
}

/// A component on every path, within the usual limits.
pub(crate) fn spec(digest: Digest, path: PathBuf) -> HandlerSpec {
    HandlerSpec {
        name: Name::new("fixture").unwrap(),
        version: Version::new("1").unwrap(),
        digest,
        path,
        route: Some("/*".parse().unwrap()),
        limits: Limits::default(),
        allow: Allow::default(),
        config: Default::default(),
        secrets: Default::default(),
        isolation: Isolation::PerRequest,
        env: Vec::new(),
    }
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .uri(path)
        .header("host", "gateway")
        .header("x-request-id", "r-1")
        .body(Full::default())
        .unwrap()
}

async fn read(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// The code of an error answer.
fn code(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    value["error"]["code"].as_str().unwrap().to_owned()
}

/// Waits until `condition` holds, for a few seconds at most.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_short_answer_goes_out_whole_with_its_length() {
    let node = Node::serving(fixture::HELLO, Limits::default()).await;
    let response = node.handlers.serve(request("/any/path?x=1")).await;
    assert_eq!(response.body().size_hint().exact(), Some(22));
    let answer = read(response).await;
    assert_eq!(
        answer,
        (StatusCode::OK, "hello from a component".to_owned())
    );
    let health = node.health();
    assert_eq!(
        (health.requests, health.errors, health.in_flight),
        (1, 0, 0)
    );
    assert!(health.memory_bytes >= 65536 && health.p50_us > 0);
}

#[tokio::test]
async fn a_slow_answer_is_streamed() {
    let node = Node::serving(fixture::STREAM, Limits::default()).await;
    let response = node.handlers.serve(request("/")).await;
    assert_eq!(response.body().size_hint().exact(), None);
    assert_eq!(node.health().in_flight, 1);
    let answer = read(response).await;
    assert_eq!(answer.1, "hellohello from a component");
    assert_eq!((node.health().requests, node.health().in_flight), (1, 0));
}

#[tokio::test]
async fn every_request_has_an_instance_of_its_own_unless_reuse_is_asked_for() {
    let node = Node::serving(fixture::COUNT, Limits::default()).await;
    for _ in 0..2 {
        assert_eq!(node.get().await.1, "A");
    }
    let mut spec = node.spec(&component(fixture::COUNT));
    spec.isolation = Isolation::Reuse;
    let reused = node.prepare(spec).await.unwrap();
    node.handlers.switch(vec![reused]).unwrap();
    assert_eq!(node.get().await.1, "A");
    assert_eq!(node.get().await.1, "B");
}

#[tokio::test]
async fn what_answers_only_once_gets_a_new_instance_for_each_request_after_one_miss() {
    let node = Node::new();
    let mut spec = node.spec(&component(fixture::ONCE));
    spec.isolation = Isolation::Reuse;
    let prepared = node.prepare(spec).await.unwrap();
    node.handlers.switch(vec![prepared]).unwrap();
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(node.get().await.0.as_u16());
    }
    assert_eq!(statuses, [200, 502, 200, 200, 200]);
}

#[tokio::test]
async fn a_processor_turns_a_batch_into_outputs_for_granted_streams_only() {
    use crate::handlers::ProcessRecord;
    use fleet_api::frame::Encoding;
    let node = Node::new();
    let mut spec = node.spec(&fixture::processor());
    spec.route = None;
    let batch = || {
        vec![ProcessRecord {
            sequence: 7,
            time_ms: 1,
            encoding: Encoding::Cbor,
            value: Bytes::from_static(b"\x01"),
        }]
    };
    let ungranted = node.prepare(spec.clone()).await.unwrap();
    node.handlers.switch(vec![ungranted]).unwrap();
    let refused = node.handlers.process("fixture", "raw", batch()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("\"alerts\", which it was not granted"),
        "{refused}"
    );
    spec.allow.streams.insert("alerts".parse().unwrap());
    let granted = node.prepare(spec).await.unwrap();
    node.handlers.switch(vec![granted]).unwrap();
    let outputs = node
        .handlers
        .process("fixture", "raw", batch())
        .await
        .unwrap();
    let outputs = outputs.outputs;
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].stream, "alerts");
    assert_eq!(outputs[0].encoding, Encoding::Cbor);
    assert_eq!(outputs[0].value.as_ref(), b"\x01");
    let missing = node.handlers.process("other", "raw", batch()).await;
    assert!(matches!(missing, Err(HandlerError::NoProcessor(_))));
}
