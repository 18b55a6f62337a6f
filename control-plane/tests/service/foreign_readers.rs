//! DuckDB and pyarrow read the archive.

use std::path::{Path, PathBuf};

use ciborium::cbor;
use fleet_api::frame::{Body, Encoding, Frame, Gap, GapReason, Record};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::archive::{connect, watermark};
use crate::support::{Mqtt, Node, Plane};

const STREAM: &str = "climate";
const EPOCH: u64 = 77;
/// 2026-03-01, 23:59:59.950.
const BEFORE_MIDNIGHT_MS: u64 = 1_772_409_599_950;

/// What a node sends, and what readers have to find.
struct Sent {
    node: Node,
    session: Mqtt,
    next: u64,
    rows: Vec<Value>,
}

impl Sent {
    async fn by(node: Node) -> Self {
        let session = connect(&node).await;
        Self {
            node,
            session,
            next: 1,
            rows: Vec::new(),
        }
    }

    /// Sends records as one frame and waits until they are in a file.
    async fn records(&mut self, encoding: Encoding, records: Vec<(u64, Vec<u8>, Value)>) {
        let first = self.next;
        let mut body = Vec::new();
        for (time_ms, value, expected) in records {
            let mut row = expected;
            row["node"] = json!(self.node.id);
            row["sequence"] = json!(self.next);
            row["time_ms"] = json!(time_ms);
            if encoding == Encoding::Json {
                row["value"] = json!(String::from_utf8(value.clone()).unwrap());
            } else {
                row["bytes"] = json!(value);
            }
            self.rows.push(row);
            self.next += 1;
            body.push(Record {
                time_ms,
                encoding,
                value: value.into(),
            });
        }
        self.send(first, Body::Records(body)).await;
    }

    async fn json(&mut self, start_ms: u64, values: impl IntoIterator<Item = (Value, Value)>) {
        let records = values.into_iter().zip(0..);
        let records = records.map(|((value, expected), at)| {
            (start_ms + at, value.to_string().into_bytes(), expected)
        });
        let records = records.collect();
        self.records(Encoding::Json, records).await;
    }

    async fn gap(&mut self, lost: u64) {
        let first = self.next;
        self.next += lost;
        let last = self.next - 1;
        let reason = GapReason::Quota;
        self.send(first, Body::Gap(Gap { last, reason, lost }))
            .await;
    }

    async fn send(&mut self, first: u64, body: Body) {
        let epoch = EPOCH;
        let frame = Frame { epoch, first, body };
        let topic = format!("edge/v1/{}/streams/{STREAM}", self.node.id);
        let bytes = frame.encode(STREAM).unwrap().to_vec();
        assert_eq!(self.session.publish(&topic, bytes).await, "Success");
        watermark(&mut self.session, (EPOCH, self.next - 1)).await;
    }
}

/// A record and the columns that it has to have.
fn climate(n: u32, t: Value) -> (Value, Value) {
    let record = json!({
        "t": t, "line": { "id": n, "name": format!("line-{}", n % 3) }, "ok": n.is_multiple_of(2),
        "tags": ["a", "b"], "node": "plc",
    });
    let expected = json!({
        "t": t, "line.id": n, "line.name": format!("line-{}", n % 3), "ok": n.is_multiple_of(2),
        "_node": "plc",
    });
    (record, expected)
}

fn cbor_record(n: u32) -> (u64, Vec<u8>, Value) {
    let t = f64::from(n) + 0.25;
    let mut bytes = Vec::new();
    let item = cbor!({ "t" => t, "ok" => true }).unwrap();
    ciborium::into_writer(&item, &mut bytes).unwrap();
    let time_ms = BEFORE_MIDNIGHT_MS + 1_000 + u64::from(n);
    (time_ms, bytes, json!({ "t": t, "ok": true }))
}

/// Lets a reader compare the archive with what was sent; what it says if it agrees.
async fn read_with(reader: &str, folder: &Path, expected: &Path) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join("artifacts/venv/bin/python");
    assert!(python.exists(), "run `cargo xtask setup`");
    let output = Command::new(python)
        .arg(root.join("tests/clients/archive_readers.py"))
        .args([Path::new(reader), folder, expected])
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// An archive with all that may be in one, and the rows that it holds.
async fn archive(plane: &Plane) -> (PathBuf, PathBuf) {
    let mut rows = Vec::new();
    let mut one = Sent::by(plane.join("n1", json!({})).await).await;
    one.json(
        BEFORE_MIDNIGHT_MS - 10_000,
        (0..100).map(|n| climate(n, json!(20 + n))),
    )
    .await;
    let over_midnight = (100..200).map(|n| climate(n, json!(20.5 + f64::from(n))));
    one.json(BEFORE_MIDNIGHT_MS, over_midnight).await;
    one.json(5, (200..210).map(|n| climate(n, json!(n)))).await;
    one.records(Encoding::Cbor, (0..10).map(cbor_record).collect())
        .await;
    let opaque = (0..5).map(|n| (BEFORE_MIDNIGHT_MS + n, vec![0xff, 0xfe], json!({})));
    one.records(Encoding::Bytes, opaque.collect()).await;
    one.gap(6).await;
    one.json(
        BEFORE_MIDNIGHT_MS,
        [(json!(3), json!({})), (json!(null), json!({}))],
    )
    .await;
    rows.append(&mut one.rows);
    let mut two = Sent::by(plane.join("n2", json!({})).await).await;
    two.json(BEFORE_MIDNIGHT_MS, (0..20).map(|n| climate(n, json!(n))))
        .await;
    rows.append(&mut two.rows);
    let expected = plane.data().join("expected.json");
    std::fs::write(
        &expected,
        json!({ "epoch": EPOCH, "rows": rows }).to_string(),
    )
    .unwrap();
    (plane.data().join("objects/archive"), expected)
}

#[tokio::test]
async fn duckdb_and_pyarrow_find_every_record_with_its_columns() {
    let plane = Plane::start().await;
    let (folder, expected) = archive(&plane).await;
    for reader in ["duckdb", "pyarrow"] {
        let said = read_with(reader, &folder, &expected).await;
        assert_eq!(said, Ok(format!("{reader}: passed\n")));
    }
    // They look: another value than was sent does not pass.
    let text = std::fs::read_to_string(&expected).unwrap();
    let mut wrong: Value = serde_json::from_str(&text).unwrap();
    wrong["rows"][7]["t"] = json!(-1);
    std::fs::write(&expected, wrong.to_string()).unwrap();
    for reader in ["duckdb", "pyarrow"] {
        let said = read_with(reader, &folder, &expected).await;
        assert!(said.unwrap_err().contains("found 27"), "{reader}");
    }
}
