//! The tiny model with and without requests being put together, in turns.

use anyhow::Result;

use super::node::{BATCHED, Node};
use super::workload::{Body, Form, TINY};
use crate::report::Report;
use crate::wrk;

const CONNECTIONS: u32 = 16;

pub(super) async fn measure(
    rounds: usize,
    seconds: u32,
    node: &Node,
    report: &mut Report,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = Body::new(TINY.shape, Form::Binary).script(dir.path(), "tiny")?;
    let [mut single, mut batched] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        for (name, seen) in [(TINY.name, &mut single), (BATCHED, &mut batched)] {
            let url = format!("{}/v2/models/{name}/infer", node.url());
            seen.push(wrk::load(&url, CONNECTIONS, seconds, Some(&script)).await?);
        }
    }
    for (what, seen) in [("one by one", single), ("in batches", batched)] {
        let what = format!("tiny MLP binary, {CONNECTIONS}, {what}");
        report.add(&what, "requests/s", seen.iter().map(|s| s.rate).collect());
        let p99 = seen.iter().map(|s| s.p99_ms).collect();
        report.add(&format!("{what}, p99"), "ms", p99);
    }
    Ok(())
}
