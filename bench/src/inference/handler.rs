//! A handler that asks the tiny model over wasi:nn, timed within the handler.

use anyhow::{Context as _, Result, ensure};
use fleet_tests::{Checkout, http};
use serde_json::Value;

use super::overhead::run_us;
use super::workload::TINY;
use crate::program::Served;
use crate::report::Report;

const RUNS: usize = 2_000;

/// Runs from a warm instance beside runs in a process of their own, in turns.
pub(super) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let model = format!("{}={}", TINY.name, Checkout::model(TINY.name)?.display());
    let module = Checkout::module("infer-time")?.display().to_string();
    let args = ["--reuse", "--model", &model, &module];
    let served = Served::edge_runtime(&args, "/?runs=1").await?;
    let http = http::plain()?;
    let [mut from_handler, mut direct, mut beyond] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        let url = format!("{}/?runs={RUNS}", served.url);
        let answer = http.get(url).send().await?;
        let (status, answer) = (answer.status(), answer.text().await?);
        ensure!(status == 200, "{status}: {answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        let through = answer["p50_us"].as_f64().context("p50_us")?;
        let run = run_us().await?;
        from_handler.push(through);
        direct.push(run);
        beyond.push(through - run);
    }
    report.add("tiny MLP from a warm handler, p50", "µs", from_handler);
    report.add("tiny MLP, the run alone, p50", "µs", direct);
    report.add("wasi:nn beyond the run", "µs", beyond);
    Ok(())
}
