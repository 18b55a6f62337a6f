//! Idle memory with the tiny model, and what has to be on the disk.

use std::path::Path;

use anyhow::Result;
use fleet_tests::Checkout;

use super::peers::Peer;
use super::workload::{Body, Form, TINY};
use crate::program::Served;
use crate::report::Report;

const MIB: f64 = (1 << 20) as f64;

/// After one request each. Memory is that of the process and its children.
pub(super) async fn measure(report: &mut Report) -> Result<()> {
    let model = format!("{}={}", TINY.name, Checkout::model(TINY.name)?.display());
    let ready = format!("/v2/models/{}/ready", TINY.name);
    let ours = Served::edge_runtime(&["--model", &model], &ready).await?;
    let files = [
        Checkout::program("edge-runtime")?,
        Checkout::artifact("lib/libonnxruntime.so")?,
    ];
    tell(super::OURS, &ours, &files, report).await?;
    drop(ours);
    for peer in Peer::ALL {
        if let Some(served) = peer.start(&[TINY]).await? {
            tell(peer.name(), &served, &peer.files()?, report).await?;
        }
    }
    Ok(())
}

async fn tell(
    name: &str,
    served: &Served,
    files: &[impl AsRef<Path>],
    report: &mut Report,
) -> Result<()> {
    let url = format!("{}/v2/models/{}/infer", served.url, TINY.name);
    Body::new(TINY.shape, Form::Json).ask(&url).await?;
    let memory = served.settled_mib().await?;
    report.add(
        &format!("idle memory, tiny MLP, {name}"),
        "MiB",
        vec![memory],
    );
    let mut bytes = 0;
    for file in files {
        bytes += size(file.as_ref())?;
    }
    let disk = bytes as f64 / MIB;
    report.add(&format!("on the disk, {name}"), "MiB", vec![disk]);
    Ok(())
}

/// Bytes of a file, or of all files below a folder.
fn size(path: &Path) -> Result<u64> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += size(&entry?.path())?;
    }
    Ok(sum)
}
