//! A SCADA host on somebody else's decoder follows the view for Sparkplug B.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use control_plane::SparkplugConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::archive::{connect, frame, topic, watermark};
use crate::support::{Mqtt, Node, PATIENCE, Plane, free_address};

/// The broker below the folder that the brokers are unpacked into.
const PROGRAM: &str = "usr/sbin/mosquitto";

/// The plant's broker, as `cargo xtask setup` unpacks it from its package.
pub(crate) struct Broker {
    root: PathBuf,
    config: PathBuf,
    pub(crate) port: u16,
    process: Child,
}

impl Broker {
    /// Says SKIPPED where the brokers cannot be had.
    pub(crate) async fn start(dir: &Path) -> Option<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let root = checkout.join("artifacts/tools/brokers");
        if !root.join(PROGRAM).exists() {
            let root = root.display();
            println!("SKIPPED: there is no mosquitto in {root}: `cargo xtask setup` says why");
            return None;
        }
        let port = free_address().port();
        let config = dir.join("mosquitto.conf");
        // It gives up root's rights for a user that may not exist here, unless it is told to stay.
        let text = format!("listener {port} 127.0.0.1\nuser root\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let process = spawn(&root, &config, port).await;
        Some(Self {
            root,
            config,
            port,
            process,
        })
    }

    async fn restart(&mut self) {
        self.process.kill().await.unwrap();
        self.process = spawn(&self.root, &self.config, self.port).await;
    }
}

async fn spawn(root: &Path, config: &Path, port: u16) -> Child {
    let libraries = ["usr/lib", "lib"]
        .map(|place| root.join(format!("{place}/{}-linux-gnu", std::env::consts::ARCH)));
    let process = Command::new(root.join(PROGRAM))
        .env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap())
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let wait = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    process
}

/// The host, in Python.
struct Host {
    // Ends with its standard input.
    _process: Child,
    asks: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Host {
    async fn start(port: u16) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let python = root.join("artifacts/venv/bin/python");
        assert!(python.exists(), "run `cargo xtask setup`");
        let mut process = Command::new(python)
            .arg(root.join("tests/clients/sparkplug_host.py"))
            .args([&port.to_string(), "plant"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let asks = process.stdin.take().unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut host = Self {
            _process: process,
            asks,
            says,
        };
        host.next("ready").await;
        host
    }

    /// The next message; it must be of this kind.
    async fn next(&mut self, kind: &str) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.says.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no {kind} came"));
        let said: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        assert_eq!(said["kind"], kind, "{said}");
        assert_ne!(said["retain"], true, "{said}");
        said
    }

    async fn ask_for_rebirth(&mut self) {
        self.asks.write_all(b"rebirth n1\n").await.unwrap();
    }
}

fn presence(online: bool) -> String {
    json!({
        "v": 1, "node": "n1", "online": online, "bd_seq": 1, "boot_id": "b", "version": "0.1.0",
        "capabilities": { "arch": "x", "cores": 1, "worlds": [], "inference": false },
        "labels": {}, "time_ms": 1,
    })
    .to_string()
}

async fn send(session: &mut Mqtt, node: &Node, first: u64, last: u64) {
    session.publish(&topic(node), frame(5, first, last)).await;
    watermark(session, (5, last)).await;
}

#[tokio::test]
async fn a_foreign_host_follows_births_data_rebirths_and_deaths() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(mut broker) = Broker::start(dir.path()).await else {
        return;
    };
    let mut host = Host::start(broker.port).await;
    let plane = Plane::start_with(Arc::clone(&dir), |config| {
        config.sparkplug = Some(SparkplugConfig {
            group: "plant".to_owned(),
            broker: format!("mqtt://127.0.0.1:{}", broker.port),
            streams: vec!["vibration".to_owned()],
            username: None,
            password_file: None,
            ca: None,
        });
    })
    .await;
    let node = plane.join("n1", json!({})).await;
    let mut control = node.connect("n1").await;
    control.publish("edge/v1/n1/presence", presence(true)).await;
    plane.wait_for("n1", |n| n["online"] == true).await;
    let mut session = connect(&node).await;

    // Records that come before the connection stands are part of the birth.
    send(&mut session, &node, 1, 3).await;
    let birth = host.next("NBIRTH").await;
    assert_eq!((&birth["seq"], &birth["node"]), (&json!(0), &json!("n1")));
    assert_eq!(
        birth["metrics"],
        json!({ "bdSeq": 0, "Node Control/Rebirth": false })
    );
    let device = host.next("DBIRTH").await;
    assert_eq!(
        (&device["seq"], &device["device"]),
        (&json!(1), &json!("vibration"))
    );
    let mut seq = 2;
    let mut n = device["metrics"]["n"].as_i64().unwrap();
    assert_eq!(device["types"]["n"], "INT64");
    while n < 3 {
        let data = host.next("DDATA").await;
        assert_eq!(data["seq"], seq);
        (seq, n) = (seq + 1, data["metrics"]["n"].as_i64().unwrap());
    }
    send(&mut session, &node, 4, 4).await;
    let data = host.next("DDATA").await;
    assert_eq!(
        (&data["seq"], &data["metrics"]),
        (&json!(seq), &json!({ "n": 4 }))
    );

    host.ask_for_rebirth().await;
    let birth = host.next("NBIRTH").await;
    assert_eq!(
        (&birth["seq"], &birth["metrics"]["bdSeq"]),
        (&json!(0), &json!(0))
    );
    let device = host.next("DBIRTH").await;
    assert_eq!(
        (&device["seq"], &device["metrics"]),
        (&json!(1), &json!({ "n": 4 }))
    );

    // Another connection is another birth, with what has come in between.
    broker.restart().await;
    send(&mut session, &node, 5, 5).await;
    let mut host = Host::start(broker.port).await;
    host.ask_for_rebirth().await;
    let birth = host.next("NBIRTH").await;
    let bd_seq = birth["metrics"]["bdSeq"].clone();
    assert_ne!(bd_seq, 0);
    let device = host.next("DBIRTH").await;
    assert_eq!(device["metrics"], json!({ "n": 5 }));
    drop(host);

    let mut host = Host::start(broker.port).await;
    control
        .publish("edge/v1/n1/presence", presence(false))
        .await;
    let death = host.next("NDEATH").await;
    assert_eq!(death["metrics"], json!({ "bdSeq": bd_seq }));
    plane.stop().await;
}
