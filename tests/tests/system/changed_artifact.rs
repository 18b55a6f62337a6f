use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::ids::Digest;
use fleet_api::reported::Outcome;
use fleet_tests::Checkout;

use crate::fixtures::{self, HELLO, greeting, variant};

/// The file of a blob in the control plane's object store.
fn blob(folder: &Path, digest: &Digest) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.display().to_string().contains(digest.hex()) {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("the object store has no blob {digest}")
}

async fn damage_is_noticed(damage: fn(&mut Vec<u8>)) -> Result<()> {
    let mut fleet = fixtures::one_node_with_hello().await?;
    let wasm = variant("hello", "next")?;
    let digest = Digest::of(&wasm);
    let file = fleet.file("next.wasm", &wasm)?;
    fleet
        .edgectl
        .ok(["push", "handler", "hello:2", &file])
        .await?;
    let stored = blob(&fleet.control.data_dir().join("objects"), &digest)?;
    let mut bytes = wasm.clone();
    damage(&mut bytes);
    std::fs::write(&stored, bytes)?;

    fleet
        .apply(&HELLO.replace("1.0.0", "2").replace("\"one\"", "\"two\""))
        .await?;
    let node = fleet.reaches("n1", "failed").await?;
    let reason = node.reason.context("a failure has a reason")?;
    assert!(reason.contains("hello:2"), "{reason}");
    let reported = fleet
        .api()?
        .node("n1")
        .await?
        .reported
        .context("the node has reported")?;
    assert_eq!(reported.result, Some(Outcome::FailedNoChange));
    assert!(reported.serving_generation < reported.generation);
    assert_eq!(greeting(fleet.edge("n1")?).await?, "one");

    // Whole again and deployed anew, it serves.
    std::fs::write(&stored, wasm)?;
    fleet
        .apply(&HELLO.replace("1.0.0", "2").replace("\"one\"", "\"three\""))
        .await?;
    fleet.committed().await?;
    assert_eq!(greeting(fleet.edge("n1")?).await?, "three");
    fleet.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_blob_is_not_run_and_the_old_version_serves() -> Result<()> {
    damage_is_noticed(|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_blob_is_not_run_and_the_old_version_serves() -> Result<()> {
    damage_is_noticed(|bytes| bytes.truncate(bytes.len() / 2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cache_on_the_node_is_fetched_again() -> Result<()> {
    let mut fleet = fixtures::one_node_with_hello().await?;
    let edge = fleet.edge("n1")?;
    edge.stop().await?;
    let hello = Digest::of(&std::fs::read(Checkout::module("hello")?)?);
    let cached = blob(&edge.data_dir().join("artifacts"), &hello)?;
    std::fs::write(&cached, b"\0asm")?;
    std::fs::remove_dir_all(edge.data_dir().join("compiled"))?;
    edge.start().await?;
    edge.serves("/hello", Duration::from_secs(30)).await?;
    assert_eq!(greeting(edge).await?, "one");
    assert_eq!(Digest::of(&std::fs::read(cached)?), hello);
    fleet.finish().await
}
