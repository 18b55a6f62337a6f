use anyhow::Result;

use crate::program::{Served, hello};
use crate::report::Report;

/// From the start of the process to its first answer. The component is compiled in that time.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let served = Served::edge_runtime(&[&hello()?], "/").await?;
        own.push(served.first_answer.as_secs_f64() * 1e3);
        drop(served);
        if let Some(served) = Served::wasmtime(&[&hello()?], "/").await? {
            other.push(served.first_answer.as_secs_f64() * 1e3);
        }
    }
    report.add("start to first answer, edge-runtime serve hello", "ms", own);
    report.add("start to first answer, wasmtime serve hello", "ms", other);
    Ok(())
}
