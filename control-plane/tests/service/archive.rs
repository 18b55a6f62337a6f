use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fleet_api::frame::{Body, Encoding, Frame, Gap, GapReason, Record, Watermark};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Mqtt, Node, Plane, config};

pub(crate) const STREAM: &str = "vibration";

pub(crate) fn frame(epoch: u64, first: u64, last: u64) -> Vec<u8> {
    let records = (first..=last).map(|sequence| Record {
        time_ms: 1000 + sequence,
        encoding: Encoding::Json,
        value: Bytes::from(format!("{{\"n\":{sequence}}}")),
    });
    let frame = Frame {
        epoch,
        first,
        body: Body::Records(records.collect()),
    };
    frame.encode(STREAM).unwrap().to_vec()
}

pub(crate) fn gap(epoch: u64, first: u64, last: u64) -> Vec<u8> {
    let body = Body::Gap(Gap {
        last,
        reason: GapReason::Quota,
        lost: last - first + 1,
    });
    Frame { epoch, first, body }
        .encode(STREAM)
        .unwrap()
        .to_vec()
}

pub(crate) fn topic(node: &Node) -> String {
    format!("edge/v1/{}/streams/{STREAM}", node.id)
}

/// A data connection that hears watermarks.
pub(crate) async fn connect(node: &Node) -> Mqtt {
    let mut session = node
        .connect(&fleet_api::topic::data_client_id(&node.id))
        .await;
    session
        .subscribe(&fleet_api::topic::acks_filter(&node.id))
        .await;
    session
}

pub(crate) async fn watermark(session: &mut Mqtt, wanted: (u64, u64)) {
    loop {
        let (topic, payload) = session.message().await;
        assert!(topic.ends_with("/ack"));
        let mark: Watermark = serde_json::from_slice(&payload).unwrap();
        if (mark.epoch, mark.sequence) == wanted {
            return;
        }
    }
}

/// Every record in the files: how often it is there, and its value.
fn rows(folder: &Path) -> BTreeMap<(i64, i64), Vec<String>> {
    let mut rows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return rows;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for (key, mut values) in self::rows(&path) {
                rows.entry(key).or_default().append(&mut values);
            }
        } else if path.extension().is_some_and(|e| e == "parquet") {
            let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
            for row in reader.get_row_iter(None).unwrap() {
                let row = row.unwrap();
                assert_eq!(row.get_string(0).unwrap(), "n1");
                assert_eq!(row.get_string(1).unwrap(), STREAM);
                let time_ms = row.get_timestamp_millis(4).unwrap();
                assert_eq!(time_ms, 1000 + row.get_long(3).unwrap());
                assert!(!row.get_bool(5).unwrap(), "1970 is no set clock");
                assert_eq!(row.get_string(6).unwrap(), "json");
                let key = (row.get_long(2).unwrap(), row.get_long(3).unwrap());
                rows.entry(key)
                    .or_default()
                    .push(row.get_string(7).unwrap().clone());
            }
        }
    }
    rows
}

pub(crate) fn assert_each_once(
    plane_data: &Path,
    epoch: i64,
    sequences: impl Iterator<Item = i64>,
) {
    let expected: BTreeMap<_, _> = sequences
        .map(|s| ((epoch, s), vec![format!("{{\"n\":{s}}}")]))
        .collect();
    assert_eq!(rows(&plane_data.join("objects/archive")), expected);
}

#[tokio::test]
async fn records_are_in_files_before_they_are_acknowledged() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    assert_eq!(
        session.publish(&topic(&node), frame(5, 1, 100)).await,
        "Success"
    );
    watermark(&mut session, (5, 100)).await;
    assert_each_once(&plane.data(), 5, 1..=100);
    let archive = plane.get("/api/v1/archive").await;
    assert_eq!(
        (&archive[0]["watermark"], &archive[0]["records"]),
        (&json!(100), &json!(100))
    );
}

#[tokio::test]
async fn what_comes_twice_is_dropped_and_acknowledged_again() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    session.publish(&topic(&node), frame(5, 6, 12)).await;
    watermark(&mut session, (5, 12)).await;
    assert_each_once(&plane.data(), 5, 1..=12);
    assert_eq!(plane.get("/api/v1/archive").await[0]["duplicates"], 15);
}

#[tokio::test]
async fn a_restart_knows_its_files_and_tells_the_node() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    session.publish(&topic(&node), gap(5, 11, 20)).await;
    watermark(&mut session, (5, 20)).await;
    // On its way when the stop comes: in a file, or sent again.
    session.publish(&topic(&node), frame(5, 21, 30)).await;
    let plane = Plane::start_in(plane.stop().await).await;
    let node = node.at(&plane);
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 21, 30)).await;
    watermark(&mut session, (5, 30)).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    session.publish(&topic(&node), frame(5, 31, 31)).await;
    watermark(&mut session, (5, 31)).await;
    assert_each_once(&plane.data(), 5, (1..=10).chain(21..=31));
}

#[tokio::test]
async fn a_crash_between_file_and_acknowledgement_doubles_nothing() {
    // The same folder, as a process that died after writing its file would leave it.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let plane = Plane::start_in(Arc::clone(&dir)).await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    drop(session);
    plane.stop().await;
    assert!(config(dir.path()).data_dir.join("objects/archive").exists());
    let plane = Plane::start_in(dir).await;
    let node = node.at(&plane);
    let mut session = connect(&node).await;
    // It never heard, so it sends everything again.
    session.publish(&topic(&node), frame(5, 1, 15)).await;
    watermark(&mut session, (5, 15)).await;
    assert_each_once(&plane.data(), 5, 1..=15);
}

#[tokio::test]
async fn a_hole_is_not_acknowledged_over() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 1, 10)).await;
    watermark(&mut session, (5, 10)).await;
    session.publish(&topic(&node), frame(5, 16, 20)).await;
    session
        .publish(&topic(&node), b"no frame at all".to_vec())
        .await;
    session.publish(&topic(&node), frame(5, 11, 15)).await;
    watermark(&mut session, (5, 15)).await;
    session.publish(&topic(&node), frame(5, 16, 20)).await;
    watermark(&mut session, (5, 20)).await;
    assert_each_once(&plane.data(), 5, 1..=20);
}

#[tokio::test]
async fn a_burst_makes_few_files_of_bounded_size() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    for first in (1..=50_000).step_by(1000) {
        session
            .publish(&topic(&node), frame(5, first, first + 999))
            .await;
    }
    watermark(&mut session, (5, 50_000)).await;
    let rows = rows(&plane.data().join("objects/archive"));
    assert_eq!(rows.len(), 50_000);
    assert!(rows.values().all(|values| values.len() == 1));
}

#[tokio::test]
async fn gaps_and_ends_of_buffers_are_shown_also_after_a_restart() {
    let plane = Plane::start().await;
    let node = plane.join("n1", json!({})).await;
    plane.join("n2", json!({})).await;
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(9, 1, 10)).await;
    session.publish(&topic(&node), gap(9, 11, 15)).await;
    session.publish(&topic(&node), frame(9, 16, 20)).await;
    watermark(&mut session, (9, 20)).await;
    // The buffer was lost; its successor has a smaller number.
    session.publish(&topic(&node), frame(4, 1, 3)).await;
    session.publish(&topic(&node), gap(4, 4, 4)).await;
    watermark(&mut session, (4, 4)).await;
    let expected = json!([
        [9, 11, 15, 5, "quota", 1010],
        [9, 21, null, null, "new-buffer", null],
        [4, 4, 4, 1, "quota", 1003],
    ]);
    let told = async |plane: &Plane, question: &str| {
        let gaps = plane.get(&format!("/api/v1/archive/gaps{question}")).await;
        let gaps = gaps.as_array().unwrap().clone();
        let tell = |gap: Value| {
            assert_eq!(
                (&gap["node"], &gap["stream"]),
                (&json!("n1"), &json!(STREAM))
            );
            assert!(gap["noted_ms"].as_u64().unwrap() > 1_764_000_000_000);
            let names = ["epoch", "first", "last", "lost", "reason", "after_ms"];
            json!(names.map(|name| gap[name].clone()))
        };
        gaps.into_iter().map(tell).collect::<Value>()
    };
    assert_eq!(told(&plane, "").await, expected);
    let stream = plane.get("/api/v1/archive").await[0].clone();
    let figures = ["files", "missing", "gap_count"].map(|name| stream[name].clone());
    assert_eq!(json!(figures), json!([3, 6, 2]));
    let metrics = plane
        .operator(Method::GET, "/metrics")
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = "control_plane_archive_missing_records{node=\"n1\",stream=\"vibration\"} 6";
    assert!(metrics.contains(line), "{metrics}");

    let plane = Plane::start_in(plane.stop().await).await;
    assert_eq!(told(&plane, "?node=n1&stream=vibration").await, expected);
    assert_eq!(told(&plane, "?limit=1").await, json!([expected[2]]));
    assert_eq!(told(&plane, "?node=n2").await, json!([]));
    let stream = plane.get("/api/v1/archive").await[0].clone();
    assert_eq!(
        (&stream["epoch"], &stream["watermark"]),
        (&json!(4), &json!(4))
    );
    let epochs: Vec<_> = stream["epochs"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&epochs[0]["epoch"], &epochs[0]["last"]),
        (&json!(9), &json!(20))
    );
    for question in ["?limit=0", "?limit=x", "?nod=n1", "?node=N%20"] {
        let path = format!("/api/v1/archive/gaps{question}");
        let answer = plane.operator(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{question}");
    }
}
