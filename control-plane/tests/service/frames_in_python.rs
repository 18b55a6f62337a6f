//! The decoder and the receiver of examples/frames-python, against frames of ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_api::frame::Watermark;
use rumqttc::v5::MqttOptions;
use serde_json::Value;
use tokio::process::Command;

use crate::archive::{frame, gap};
use crate::sparkplug::Broker;
use crate::support::{Mqtt, PATIENCE};

const TOPIC: &str = "edge/v1/n1/streams/vibration";

fn python() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join("artifacts/venv/bin/python");
    assert!(python.exists(), "run `cargo xtask setup`");
    let mut command = Command::new(python);
    command
        .current_dir(root.join("examples/frames-python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_decoder_passes_its_tests_on_our_vectors() {
    let tested = python().args(["-m", "unittest", "test_frames"]).output();
    let tested = tested.await.unwrap();
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
    assert!(said.contains("Ran 8 tests"), "{said}");
}

/// Lets the receiver take `records` records into `file`, while frames are sent to it.
async fn receive(broker: &Broker, file: &Path, records: usize, frames: Vec<Vec<u8>>) -> Watermark {
    let mut options = MqttOptions::new("node", "127.0.0.1", broker.port);
    options.set_max_packet_size(Some(1 << 20));
    let mut node = Mqtt::connect(options).await.unwrap();
    node.subscribe(&format!("{TOPIC}/ack")).await;
    let mut receiver = python()
        .args(["receive.py", "--port", &broker.port.to_string()])
        .args(["--limit", &records.to_string(), "--file"])
        .arg(file)
        .spawn()
        .unwrap();
    // A node sends again what is not acknowledged; here until somebody is there to hear it.
    let first = frames[0].clone();
    let heard = async { while node.publish(TOPIC, first.clone()).await != "Success" {} };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    for frame in frames {
        node.publish(TOPIC, frame).await;
    }
    let ended = tokio::time::timeout(PATIENCE, receiver.wait()).await;
    assert!(ended.unwrap().unwrap().success());
    let mut observer = MqttOptions::new("observer", "127.0.0.1", broker.port);
    observer.set_max_packet_size(Some(1 << 20));
    let mut observer = Mqtt::connect(observer).await.unwrap();
    observer.subscribe(&format!("{TOPIC}/ack")).await;
    let (_, payload) = observer.message().await;
    serde_json::from_slice(&payload).unwrap()
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn the_receiver_writes_each_record_once_and_acknowledges_it() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(broker) = Broker::start(dir.path()).await else {
        return;
    };
    let file: PathBuf = dir.path().join("data.ndjson");
    let frames = vec![
        frame(5, 1, 10),
        frame(5, 6, 15),
        b"no frame".to_vec(),
        frame(5, 30, 40),
        gap(5, 16, 20),
        frame(5, 21, 25),
    ];
    let mark = receive(&broker, &file, 20, frames).await;
    assert_eq!((mark.epoch, mark.sequence), (5, 25));
    // What a crash has cut off was not acknowledged, and what was is not written again.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() - 5]).unwrap();
    let mark = receive(&broker, &file, 6, vec![frame(5, 21, 25), frame(5, 26, 30)]).await;
    assert_eq!((mark.epoch, mark.sequence), (5, 30));
    let all = lines(&file);
    let gaps: Vec<_> = all.iter().filter(|line| line["gap"] == "quota").collect();
    assert_eq!(
        (gaps.len(), &gaps[0]["first"], &gaps[0]["last"]),
        (1, &16.into(), &20.into())
    );
    let sequences = all.iter().filter_map(|line| line["sequence"].as_u64());
    assert!(sequences.eq((1..=15).chain(21..=30)), "{all:?}");
    assert!(
        all.iter()
            .all(|line| line["gap"] == "quota" || line["value"]["n"] == line["sequence"])
    );
}
