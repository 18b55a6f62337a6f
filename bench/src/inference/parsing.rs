//! How quickly numbers in JSON become a tensor: a picture's worth of floats to a
//! model that hands them through, as JSON and as bytes, answered as bytes.

use anyhow::{Context as _, Result};
use fleet_tests::Checkout;
use serde_json::json;

use super::workload::{Body, Form};
use crate::program::Served;
use crate::report::Report;
use crate::wrk;

const COUNT: usize = 3 * 224 * 224;
const SECONDS: u32 = 2;

/// One request after the other, in turns. What JSON takes more is counted as
/// parsing, the way of its bytes through the loopback device included.
pub(super) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let model = Checkout::root().join("models/tiny/identity_fp32.onnx");
    let model = format!("same={}", model.display());
    let served = Served::edge_runtime(&["--model", &model], "/v2/models/same/ready").await?;
    let url = format!("{}/v2/models/same/infer", served.url);
    let binary_out = json!({ "binary_data_output": true });
    let json = Body::with(&[COUNT], Form::Json, &binary_out);
    let bytes = Body::with(&[COUNT], Form::Binary, &binary_out);
    let length = bytes.json_length.context("it is binary")?;
    let [mut as_json, mut as_bytes, mut rates] = [const { Vec::new() }; 3];
    let scripts = (
        json.script(dir.path(), "json")?,
        bytes.script(dir.path(), "bytes")?,
    );
    for _ in 0..rounds {
        let slow = wrk::load(&url, 1, SECONDS, Some(&scripts.0)).await?.p50_ms;
        let quick = wrk::load(&url, 1, SECONDS, Some(&scripts.1)).await?.p50_ms;
        as_json.push(slow);
        as_bytes.push(quick);
        rates.push(json.content.len() as f64 / 1e6 / ((slow - quick) / 1e3));
    }
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    let what = |form: &str, size: f64| format!("3x224x224 floats in {form} ({size:.2} MB), p50");
    report.add(&what("JSON", megabytes(json.content.len())), "ms", as_json);
    report.add(
        &what("binary", megabytes(bytes.content.len() - length)),
        "ms",
        as_bytes,
    );
    report.add("3x224x224 floats in JSON, parsed", "MB/s", rates);
    Ok(())
}
