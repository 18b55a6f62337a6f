use anyhow::{Context as _, Result};
use fleet_tests::Fleet;

use crate::program::{Served, hello, settled_mib};
use crate::report::Report;

/// Idle memory: of a new control plane, of a node without work, and of one that serves a handler.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let [mut control, mut node, mut serving, mut wasmtime] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let mut fleet = Fleet::start().await?;
        fleet.add("idle", &[]).await?;
        fleet.reaches("idle", "ok").await?;
        control.push(settled_mib(fleet.control.pid().context("it runs")?).await?);
        node.push(settled_mib(fleet.edge("idle")?.pid().context("it runs")?).await?);
        fleet.finish().await?;
        serving.push(
            Served::edge_runtime(&[&hello()?], "/")
                .await?
                .settled_mib()
                .await?,
        );
        if let Some(other) = Served::wasmtime(&[&hello()?], "/").await? {
            wasmtime.push(other.settled_mib().await?);
        }
    }
    report.add("idle memory, control plane with one node", "MiB", control);
    report.add("idle memory, node without work", "MiB", node);
    report.add("idle memory, edge-runtime serve hello", "MiB", serving);
    report.add("idle memory, wasmtime serve hello", "MiB", wasmtime);
    Ok(())
}
