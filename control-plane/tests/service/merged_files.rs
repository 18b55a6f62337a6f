//! Small files of the archive become large ones.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use control_plane::Config;
use fleet_api::units::Span;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::archive::{assert_each_once, connect, frame, gap, topic, watermark};
use crate::support::{PATIENCE, Plane};

fn eager(config: &mut Config) {
    config.archive.flush_after = Span::from_ms(1);
    config.archive.compact_every = Span::from_ms(50);
    config.archive.compact_after = Span::from_ms(300);
}

/// The archive's files by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn names(plane: &Plane) -> Vec<String> {
    names_in(&plane.data())
}

fn names_in(data: &Path) -> Vec<String> {
    let files = files(&data.join("objects/archive"));
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    names.map(str::to_owned).collect()
}

async fn names_become(plane: &Plane, wanted: &[&str]) {
    let wait = async {
        while names(plane) != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{:?}", names(plane));
}

#[tokio::test]
async fn many_small_files_become_one_on_either_side_of_a_gap() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let plane = Plane::start_with(Arc::clone(&dir), eager).await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    for first in (1..=100).step_by(5) {
        session
            .publish(&topic(&node), frame(5, first, first + 4))
            .await;
        watermark(&mut session, (5, first + 4)).await;
    }
    session.publish(&topic(&node), gap(5, 101, 110)).await;
    for first in (111..=150).step_by(5) {
        session
            .publish(&topic(&node), frame(5, first, first + 4))
            .await;
        watermark(&mut session, (5, first + 4)).await;
    }
    let expected = [
        "5-1-100.parquet",
        "5-111-150.parquet",
        "_5-101-110.gap.json",
    ];
    names_become(&plane, &expected).await;
    assert_each_once(&plane.data(), 5, (1..=100).chain(111..=150));
    // The figures follow the files.
    let told = async {
        loop {
            let stream = plane.get("/api/v1/archive").await[0].clone();
            if (&stream["files"], &stream["missing"]) == (&json!(2), &json!(10)) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();

    // The merged files tell the next process what is there, and it goes on from them.
    let plane = Plane::start_with(plane.stop().await, eager).await;
    let node = node.at(&plane);
    let mut session = connect(&node).await;
    session.publish(&topic(&node), frame(5, 141, 160)).await;
    watermark(&mut session, (5, 160)).await;
    let expected = [
        "5-1-100.parquet",
        "5-111-160.parquet",
        "_5-101-110.gap.json",
    ];
    names_become(&plane, &expected).await;
    assert_each_once(&plane.data(), 5, (1..=100).chain(111..=160));
}

#[tokio::test]
async fn what_a_crash_has_left_of_a_merge_is_cleaned_up() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let plane = Plane::start_with(Arc::clone(&dir), |config| {
        config.archive.compact_every = Span::from_ms(0);
        config.archive.flush_after = Span::from_ms(1);
    })
    .await;
    let node = plane.join("n1", json!({})).await;
    let mut session = connect(&node).await;
    for first in [1, 11, 21] {
        session
            .publish(&topic(&node), frame(5, first, first + 9))
            .await;
        watermark(&mut session, (5, first + 9)).await;
    }
    let archive = plane.data().join("objects/archive");
    let parts: Vec<_> = files(&archive);
    assert_eq!(parts.len(), 3);
    let kept: Vec<_> = parts
        .iter()
        .map(|path| (path, std::fs::read(path).unwrap()))
        .collect();
    drop(session);
    let plane = Plane::start_with(plane.stop().await, eager).await;
    names_become(&plane, &["5-1-30.parquet"]).await;
    let dir = plane.stop().await;
    // The merged file had been written, but only one part removed.
    for (path, bytes) in &kept[1..] {
        std::fs::write(path, bytes).unwrap();
    }
    let plane = Plane::start_with(dir, eager).await;
    names_become(&plane, &["5-1-30.parquet"]).await;
    assert_each_once(&plane.data(), 5, 1..=30);

    // A part that is not what its name says stays, beside what is whole.
    let dir = plane.stop().await;
    let broken = parts[0].with_file_name("5-31-40.parquet");
    std::fs::write(&broken, b"PAR1 no more").unwrap();
    let plane = Plane::start_with(dir, eager).await;
    tokio::time::timeout(Duration::from_secs(1), names_become(&plane, &[]))
        .await
        .unwrap_err();
    assert_eq!(names(&plane), ["5-1-30.parquet", "5-31-40.parquet"]);
}

/// The program itself, so that it can be killed.
async fn process(data: &Path, config: &Path) -> (Child, u16) {
    let endpoint = data.join("endpoint.json");
    let _ = std::fs::remove_file(&endpoint);
    let child = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .args([Path::new("serve"), Path::new("--config"), config])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let wait = async {
        loop {
            let text = std::fs::read_to_string(&endpoint).unwrap_or_default();
            let read: Result<Value, _> = serde_json::from_str(&text);
            if let Some(port) = read.ok().and_then(|e| e["mqtt_port"].as_u64()) {
                return u16::try_from(port).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    (child, tokio::time::timeout(PATIENCE, wait).await.unwrap())
}

#[tokio::test]
async fn kills_during_merges_lose_and_double_nothing() {
    const KILLS: u64 = 8;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let plane = Plane::start_in(Arc::clone(&dir)).await;
    let node = plane.join("n1", json!({})).await;
    let data = plane.data();
    plane.stop().await;
    let config = dir.path().join("killed.toml");
    let text = format!(
        "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\nmqtt_listen = \"127.0.0.1:0\"\n\
         [archive]\nflush_after = \"1ms\"\ncompact_every = \"1ms\"\ncompact_after = \"5ms\"\n",
        data.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    let mut last = 0;
    let mut left = 0;
    for kill in 0..KILLS {
        let (mut child, port) = process(&data, &config).await;
        let mut session = connect(&node.at_port(port)).await;
        // Each kill meets the merging in another moment.
        for _ in 0..(10 + 7 * kill) {
            session
                .publish(&topic(&node), frame(5, last + 1, last + 3))
                .await;
            last += 3;
            watermark(&mut session, (5, last)).await;
        }
        session
            .publish(&topic(&node), frame(5, last + 1, last + 3))
            .await;
        child.kill().await.unwrap();
        left += names_in(&data).len();
        // The answer to the last frame was not waited for: the node sends it again.
    }
    assert!(left > 0);
    let plane = Plane::start_with(dir, eager).await;
    let mut session = connect(&node.at(&plane)).await;
    session
        .publish(&topic(&node), frame(5, last + 1, last + 3))
        .await;
    last += 3;
    watermark(&mut session, (5, last)).await;
    names_become(&plane, &[&format!("5-1-{last}.parquet")]).await;
    assert_each_once(&plane.data(), 5, 1..=i64::try_from(last).unwrap());
}
