use std::path::Path;

use fleet_api::desired::StreamSpec;
use fleet_api::frame::{Encoding, Frame};

use super::*;
use crate::streams::{BufferConfig, NewRecord, Streams};

/// A node's data folder with a stream of 300 records, of which the receiver has 50, and one
/// with records of 20 000 bytes.
fn node() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let streams = open(dir.path());
        for n in (0..300).step_by(10) {
            let records = (n..n + 10).map(|n| record(n, 200)).collect();
            streams.append("vibration", records).await.unwrap();
        }
        let large = (0..5).map(|n| record(n, 20_000)).collect();
        streams.append("pictures", large).await.unwrap();
        streams.release("vibration", streams.epoch(), 50).await;
        streams
            .commit_processed("score", "vibration", 80, Vec::new())
            .await
            .unwrap();
        streams.close();
    });
    dir
}

fn record(number: u64, size: usize) -> NewRecord {
    let text = format!("{{\"n\":{number},\"pad\":\"{}\"}}", "x".repeat(size));
    NewRecord::new(Encoding::Json, text)
}

fn open(dir: &Path) -> Streams {
    let config = BufferConfig {
        ballast_bytes: 0,
        ..BufferConfig::default()
    };
    let streams = Streams::open(&dir.join("buffer"), config).unwrap();
    let spec = |name: &str| StreamSpec::named(StreamName::new(name).unwrap());
    streams.configure(&[spec("vibration"), spec("pictures")]);
    streams
}

fn inspect(dir: &Path, verify: bool, output: Output) -> (String, Result<(), BufferCommandError>) {
    let mut out = Vec::new();
    let args = InspectArgs {
        dir: dir.to_owned(),
        verify,
        output,
    };
    let done = inspect::run(&args, &mut out);
    (String::from_utf8(out).unwrap(), done)
}

fn export(dir: &Path, range: (u64, u64), format: ExportFormat) -> Vec<u8> {
    let mut out = Vec::new();
    let args = ExportArgs {
        dir: dir.to_owned(),
        stream: StreamName::new("vibration").unwrap(),
        from: Some(range.0),
        to: Some(range.1),
        format,
    };
    export::run(&args, &mut out).unwrap();
    out
}

fn salvage(dir: &Path, to: &Path) -> serde_json::Value {
    let mut out = Vec::new();
    let args = SalvageArgs {
        dir: dir.to_owned(),
        to: to.to_owned(),
        streams: Vec::new(),
        output: Output::Json,
    };
    salvage::run(&args, &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

fn numbers(rows: &str) -> Vec<u64> {
    let number = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let (seq, n) = (row["seq"].as_u64()?, row["value"]["n"].as_u64()?);
        assert_eq!(seq, n + 1);
        Some(seq)
    };
    rows.lines().map(|line| number(line).unwrap()).collect()
}

#[test]
fn a_look_into_a_buffer_shows_its_streams() {
    let node = node();
    let (text, done) = inspect(node.path(), true, Output::Table);
    done.unwrap();
    for expected in [
        "format  1, epoch ",
        "vibration",
        "up to 50",
        "score",
        "up to 80",
        "frames are intact",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let buffer = node.path().join("buffer");
    let (json, done) = inspect(&buffer, false, Output::Json);
    done.unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let stream = &report["streams"][1];
    assert_eq!(stream["name"], "vibration");
    assert_eq!(
        (&stream["next"], &stream["acked"]),
        (&301.into(), &50.into())
    );
    assert_eq!(report["contents"][1]["records"], 300);
    assert_eq!(report["blobs"], 0);
}

#[test]
fn a_buffer_in_use_and_a_folder_without_one_are_refused() {
    let node = node();
    let streams = open(node.path());
    let (_, done) = inspect(node.path(), false, Output::Table);
    let error = done.unwrap_err();
    assert!(
        matches!(error, BufferCommandError::InUse { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("stop it first"));
    streams.close();
    let empty = tempfile::tempdir().unwrap();
    let (_, done) = inspect(empty.path(), false, Output::Table);
    assert!(matches!(done, Err(BufferCommandError::NoBuffer(_))));
}

#[test]
fn a_range_is_exported_as_rows_and_as_frames() {
    let node = node();
    let rows = export(node.path(), (100, 199), ExportFormat::Ndjson);
    let rows = numbers(&String::from_utf8(rows).unwrap());
    assert_eq!(rows, (100..200).collect::<Vec<_>>());

    let mut frames = bytes::Bytes::from(export(node.path(), (1, 300), ExportFormat::Frames));
    let mut next = 1;
    while !frames.is_empty() {
        let header = fleet_api::frame::Header::peek(&frames).unwrap();
        let frame = frames.split_to(header.frame_bytes);
        let frame = Frame::decode("vibration", &frame).unwrap();
        assert_eq!(frame.first, next);
        next = frame.last() + 1;
    }
    assert_eq!(next, 301);
}

#[test]
fn a_buffer_that_does_not_open_gives_its_frames_from_its_bytes() {
    let node = node();
    let database = node.path().join("buffer/sled");
    std::fs::write(database.join("conf"), b"segment_size: x\n........").unwrap();
    // The node's start sets it aside.
    open(node.path()).close();
    let buffer = node.path().join("buffer");
    let aside = crate::buffer::quarantines(&buffer).remove(0);
    let to = node.path().join("saved");
    let report = salvage(&aside, &to);
    assert!(!report["unreadable"].is_null());
    let saved = report["streams"].as_array().unwrap();
    let stream = saved.iter().find(|s| s["stream"] == "vibration").unwrap();
    let rows = std::fs::read_to_string(stream["file"].as_str().unwrap()).unwrap();
    let rows = numbers(&rows);
    let all: Vec<_> = (51..=300).collect();
    assert_eq!(
        rows[rows.len() - 250..],
        all,
        "all that had not been forwarded"
    );
    assert_eq!(stream["missing"], serde_json::json!([]));
    assert!(database.join("db").exists(), "the new buffer is untouched");
    assert!(!to.join("copy").exists());
}

#[test]
fn what_cannot_be_saved_is_named() {
    let node = node();
    let database = node.path().join("buffer/sled");
    let file = database.join("db");
    let mut bytes = std::fs::read(&file).unwrap();
    // Every frame that holds record 120 is spoilt, wherever a copy of it lies.
    let mark = b"{\"n\":120,";
    let places: Vec<_> = memchr::memmem::find_iter(&bytes, mark).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 6] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    let to = node.path().join("saved");
    let report = salvage(node.path(), &to);
    let saved = report["streams"].as_array().unwrap();
    let stream = saved.iter().find(|s| s["stream"] == "vibration").unwrap();
    let missing = &stream["missing"][0];
    let (first, last) = (
        missing["first"].as_u64().unwrap(),
        missing["last"].as_u64().unwrap(),
    );
    assert!((first..=last).contains(&121), "{report:#}");
    assert!(last - first < 40, "{report:#}");
    let error = salvage_again(node.path(), &to);
    assert!(matches!(error, BufferCommandError::NotEmpty(_)), "{error}");
}

fn salvage_again(dir: &Path, to: &Path) -> BufferCommandError {
    let args = SalvageArgs {
        dir: dir.to_owned(),
        to: to.to_owned(),
        streams: Vec::new(),
        output: Output::Table,
    };
    salvage::run(&args, &mut Vec::new()).unwrap_err()
}
