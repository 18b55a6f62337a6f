//! The archive and the registry on an S3 server, and what an outage of it does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use control_plane::{Config, ObjectsConfig};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::archive::{connect, frame, topic, watermark};
use crate::support::{Plane, free_address};

const BUCKET: &str = "plant";

/// What the way to the server does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Nobody is there.
    Closed,
    /// What is asked arrives, but no answer comes back.
    NoAnswers,
}

/// An S3 server and a way to it that can break.
struct Store {
    // Ends with its standard input.
    _server: Child,
    direct: String,
    endpoint: String,
    way: watch::Sender<Way>,
    client: Client,
}

impl Store {
    async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let python = root.join("artifacts/venv/bin/python");
        assert!(python.exists(), "run `cargo xtask setup`");
        let mut server = Command::new(python)
            .arg(root.join("tests/clients/s3_server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
        let port: u16 = said.next_line().await.unwrap().unwrap().parse().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let direct = format!("http://127.0.0.1:{port}");
        let made = client
            .put(format!("{direct}/{BUCKET}"))
            .send()
            .await
            .unwrap();
        assert_eq!(made.status(), 200);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (way, seen) = watch::channel(Way::Open);
        tokio::spawn(relay(listener, port, seen));
        Self {
            _server: server,
            direct,
            endpoint,
            way,
            client,
        }
    }

    /// Points a control plane here.
    fn configure(&self, config: &mut Config, dir: &Path) {
        let credentials = dir.join("s3.toml");
        let keys = "access_key_id = \"key\"\nsecret_access_key = \"secret\"\n";
        std::fs::write(&credentials, keys).unwrap();
        config.objects = ObjectsConfig {
            url: Some(format!("s3://{BUCKET}/fleet/one")),
            endpoint: Some(self.endpoint.clone()),
            credentials: Some(credentials),
            ..ObjectsConfig::default()
        };
    }

    async fn plane(&self) -> Plane {
        self.plane_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    async fn plane_in(&self, dir: Arc<tempfile::TempDir>) -> Plane {
        Plane::start_with(Arc::clone(&dir), |config| {
            self.configure(config, dir.path())
        })
        .await
    }

    /// The server knows who asks by the name of the key alone.
    fn get(&self, url: String) -> RequestBuilder {
        let who = "AWS4-HMAC-SHA256 Credential=key/20261125/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        self.client.get(url).header("authorization", who)
    }

    /// Names of all objects.
    async fn names(&self) -> Vec<String> {
        let url = format!("{}/{BUCKET}?list-type=2", self.direct);
        let text = self.get(url).send().await.unwrap();
        let text = text.text().await.unwrap();
        let names = text.split("<Key>").skip(1);
        names
            .map(|rest| rest.split("</Key>").next().unwrap().to_owned())
            .collect()
    }

    async fn object(&self, name: &str) -> Bytes {
        let url = format!("{}/{BUCKET}/{name}", self.direct);
        self.get(url).send().await.unwrap().bytes().await.unwrap()
    }

    /// Every sequence in the archive, with how often it is there.
    async fn sequences(&self) -> BTreeMap<i64, usize> {
        let mut all = BTreeMap::new();
        for name in self.names().await {
            if !name.ends_with(".parquet") {
                continue;
            }
            assert!(
                name.starts_with("fleet/one/archive/stream=vibration/node=n1/"),
                "{name}"
            );
            let reader = SerializedFileReader::new(self.object(&name).await).unwrap();
            for row in reader.get_row_iter(None).unwrap() {
                *all.entry(row.unwrap().get_long(3).unwrap()).or_default() += 1;
            }
        }
        all
    }
}

/// Hands connections on as long as the way is open.
async fn relay(listener: TcpListener, port: u16, way: watch::Receiver<Way>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut way = way.clone();
        if *way.borrow_and_update() == Way::Closed {
            continue;
        }
        tokio::spawn(async move {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let seen = way.clone();
            let ask = tokio::io::copy(&mut from_client, &mut to_server);
            let answer = async {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let read = from_server.read(&mut buffer).await?;
                    if read == 0 || *seen.borrow() == Way::NoAnswers {
                        return std::io::Result::Ok(());
                    }
                    to_client.write_all(&buffer[..read]).await?;
                }
            };
            tokio::select! {
                _ = ask => {}
                _ = answer => {}
                _ = way.wait_for(|way| *way == Way::Closed) => {}
            }
        });
    }
}

fn each_once(last: i64) -> BTreeMap<i64, usize> {
    (1..=last).map(|sequence| (sequence, 1)).collect()
}

#[tokio::test]
async fn records_and_blobs_lie_in_a_bucket() {
    let store = Store::start().await;
    let plane = store.plane().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 100)).await;
    watermark(&mut session, (5, 100)).await;
    assert_eq!(store.sequences().await, each_once(100));

    let blob = vec![7_u8; 100_000];
    let hash: String = Sha256::digest(&blob)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let digest = format!("sha256:{hash}");
    let path = format!("/v2/models/m/blobs/uploads/?digest={digest}");
    let upload = plane.operator(Method::POST, &path).body(blob.clone());
    assert_eq!(upload.send().await.unwrap().status(), 201);
    assert!(store.names().await.iter().any(|name| name.contains(&hash)));

    let plane = store.plane_in(plane.stop().await).await;
    let path = format!("/v2/models/m/blobs/{digest}");
    let read = plane.operator(Method::GET, &path).send().await.unwrap();
    assert_eq!(read.bytes().await.unwrap(), blob);
    let node = node.at(&plane);
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 51, 120)).await;
    watermark(&mut session, (5, 120)).await;
    assert_eq!(store.sequences().await, each_once(120));
}

/// What the archive says of the stream.
async fn archived(plane: &Plane) -> Value {
    plane.get("/api/v1/archive").await[0].clone()
}

#[tokio::test]
async fn an_outage_of_the_store_holds_the_watermark_and_loses_and_doubles_nothing() {
    let store = Store::start().await;
    let plane = store.plane().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    // The server writes, but its answers are lost; then nobody is there at all.
    store.way.send(Way::NoAnswers).unwrap();
    for first in (11..=200).step_by(10) {
        let published = session
            .publish(&topic(&node), frame(5, first, first + 9))
            .await;
        assert_eq!(published, "Success");
        if first == 101 {
            let wait = async {
                while store.sequences().await.len() == 10 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), wait)
                .await
                .unwrap();
            store.way.send(Way::Closed).unwrap();
        }
    }
    assert_eq!(
        archived(&plane).await["watermark"],
        10,
        "what is not known to be safe"
    );
    store.way.send(Way::Open).unwrap();
    watermark(&mut session, (5, 200)).await;
    assert_eq!(store.sequences().await, each_once(200));
    assert_eq!(archived(&plane).await["missing"], 0);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_named_at_start() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = crate::support::config(dir.path());
    config.objects = ObjectsConfig {
        url: Some(format!("s3://{BUCKET}")),
        endpoint: Some(format!("http://{}", free_address())),
        region: Some("eu-central-1".to_owned()),
        ..ObjectsConfig::default()
    };
    let refused = control_plane::App::build(config).await;
    let said = refused.err().unwrap().to_string();
    assert!(said.starts_with("list the archive"), "{said}");
}
