use std::time::Instant;

use anyhow::{Context as _, Result};
use fleet_tests::{Checkout, http};
use serde_json::{Value, json};

use crate::program::Served;
use crate::report::{Report, median};

const REQUESTS: usize = 300;

/// One inference after the other over HTTP with JSON in and out, the client's own time included.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let model = format!("vibration={}", Checkout::model("vibration")?.display());
    let served = Served::edge_runtime(&["--model", &model], "/v2/models/vibration/ready").await?;
    let http = http::plain()?;
    let at = format!("{}/v2/models/vibration", served.url);
    let metadata: Value = http.get(&at).send().await?.json().await?;
    let input = &metadata["inputs"][0];
    let width = input["shape"][1].as_u64().context("a row has a width")?;
    let body = json!({ "inputs": [{
        "name": input["name"], "datatype": input["datatype"], "shape": [1, width],
        "data": vec![0.5; usize::try_from(width)?],
    }]})
    .to_string();
    let mut medians = Vec::new();
    for _ in 0..rounds {
        let mut times = Vec::new();
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            let answer = http
                .post(format!("{at}/infer"))
                .body(body.clone())
                .send()
                .await?;
            anyhow::ensure!(answer.status() == 200, "{}", answer.text().await?);
            answer.bytes().await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        medians.push(median(&times));
    }
    report.add(
        "p50 of one inference over HTTP (isolation forest, JSON)",
        "ms",
        medians,
    );
    Ok(())
}
