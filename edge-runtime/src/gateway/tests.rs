mod bodies;
mod client;
mod clients;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Admin, Gateway, Parts, Status, TlsFiles};
use crate::handlers::{Handlers, HandlersConfig};
use crate::models::{Models, ModelsConfig};

const LOCAL: &str = "127.0.0.1:0";

struct Running {
    url: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn gateway() -> Running {
    serving(Gateway::bind(LOCAL.parse().unwrap()).await.unwrap())
}

fn serving(gateway: Gateway) -> Running {
    let models = Models::start(ModelsConfig {
        library: Some("/nonexistent/libonnxruntime.so".into()),
        ..ModelsConfig::default()
    });
    let config = HandlersConfig {
        max_instances: 4,
        ..HandlersConfig::default()
    };
    let parts = Parts {
        handlers: Handlers::start(config, models.clone()).unwrap(),
        models,
        streams: None,
    };
    let (url, stop) = (gateway.url(), CancellationToken::new());
    let task = tokio::spawn(gateway.serve(parts, Duration::from_secs(5), stop.clone()));
    Running { url, stop, task }
}

async fn get(url: &str, http2: bool) -> (u16, http::HeaderMap, String) {
    let client: Client<_, Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let request = http::Request::get(url)
        .header("x-request-id", "given-1")
        .body(Empty::new())
        .unwrap();
    let response = client.request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    (parts.status.as_u16(), parts.headers, text)
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_way_out() {
    let first = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
    let address = first.url().replace("http://", "");
    let error = Gateway::bind(address.parse().unwrap()).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "listen on {address}: another process uses this address; stop it, or give another one with --listen"
        )
    );
}

#[tokio::test]
async fn both_protocols_reach_all_parts_and_keep_the_request_s_id() {
    let gateway = gateway().await;
    for http2 in [false, true] {
        for (path, code) in [("/x", "no-route"), ("/streams/s", "no-streams")] {
            let (status, headers, body) = get(&format!("{}{path}", gateway.url), http2).await;
            assert_eq!(status, 404);
            assert!(body.contains(code), "{body}");
            assert_eq!(headers["x-request-id"], "given-1");
        }
        let (status, _, body) = get(&format!("{}/v2", gateway.url), http2).await;
        assert_eq!(status, 200, "{body}");
    }
    gateway.stop.cancel();
    gateway.task.await.unwrap();
}

#[tokio::test]
async fn over_tls_the_client_chooses_between_http_2_and_http_1() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    std::fs::write(&files.cert, key.cert.pem()).unwrap();
    std::fs::write(&files.key, key.signing_key.serialize_pem()).unwrap();
    let gateway = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
    let gateway = serving(gateway.with_tls(&files).unwrap());
    assert!(
        gateway.url.starts_with("https://127.0.0.1:"),
        "{}",
        gateway.url
    );
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = gateway.url.rsplit_once(':').unwrap().1.to_owned();
    for (http1_only, version) in [
        (false, http::Version::HTTP_2),
        (true, http::Version::HTTP_11),
    ] {
        let ca = reqwest::Certificate::from_pem(key.cert.pem().as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([ca]);
        if http1_only {
            client = client.http1_only();
        }
        let url = format!("https://localhost:{port}/x");
        let answer = client.build().unwrap().get(url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (404, version));
    }
    gateway.stop.cancel();
    gateway.task.await.unwrap();
}

#[tokio::test]
async fn files_that_are_no_certificate_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    let refusal = async || {
        let gateway = Gateway::bind(LOCAL.parse().unwrap()).await.unwrap();
        gateway.with_tls(&files).err().unwrap().to_string()
    };
    assert!(refusal().await.contains("read"));
    std::fs::write(&files.cert, "no certificate").unwrap();
    assert!(refusal().await.ends_with("it has no certificate in PEM"));
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_stop() {
    let gateway = gateway().await;
    let address = gateway.url.replace("http://", "");
    let _idle = tokio::net::TcpStream::connect(&address).await.unwrap();
    gateway.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), gateway.task);
    ended.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
}

struct Half;

impl Status for Half {
    fn status(&self) -> serde_json::Value {
        json!({ "generation": 3 })
    }
    fn not_ready(&self) -> Vec<String> {
        vec!["ONNX Runtime".to_owned()]
    }
    fn metrics(&self, out: &mut String) {
        out.push_str("up 1\n");
    }
}

#[tokio::test]
async fn the_admin_listener_tells_health_readiness_metrics_and_status() {
    let admin = Admin::bind(LOCAL.parse().unwrap()).await.unwrap();
    let (url, stop) = (admin.url(), CancellationToken::new());
    let task = tokio::spawn(admin.serve(Arc::new(Half), stop.clone()));
    let look = async |path: &str| {
        let (status, _, body) = get(&format!("{url}{path}"), false).await;
        (status, body)
    };
    assert_eq!(look("/healthz").await, (200, "ok\n".to_owned()));
    let (status, body) = look("/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body, r#"{"missing":["ONNX Runtime"],"ready":false}"#);
    assert_eq!(look("/metrics").await, (200, "up 1\n".to_owned()));
    assert_eq!(
        look("/status").await,
        (200, r#"{"generation":3}"#.to_owned())
    );
    assert_eq!(look("/other").await.0, 404);
    stop.cancel();
    task.await.unwrap();
}
