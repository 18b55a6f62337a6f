use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_tests::{Checkout, Process, http, until};
use serde_json::json;

/// ONNX Runtime would leave an identifier in the home folder and report its use.
#[tokio::test(flavor = "multi_thread")]
async fn inference_leaves_nothing_in_the_home_folder() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (home, temporary) = (dir.path().join("home"), dir.path().join("tmp"));
    std::fs::create_dir(&home)?;
    std::fs::create_dir(&temporary)?;
    let model = format!("vibration={}", Checkout::model("vibration")?.display());
    let data_dir = dir.path().join("data").display().to_string();
    let module = Checkout::module("hello")?.display().to_string();
    let args = [
        "-u",
        "CI",
        "-u",
        "XDG_CACHE_HOME",
        "-u",
        "XDG_CONFIG_HOME",
        "-u",
        "ORT_DISABLE_TELEMETRY",
    ];
    let program = Checkout::program("edge-runtime")?.display().to_string();
    let serve = [
        program.as_str(),
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data_dir,
        "--model",
        &model,
        &module,
    ];
    let env = [
        ("HOME", home.display().to_string()),
        ("TMPDIR", temporary.display().to_string()),
    ];
    let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let log = dir.path().join("log");
    let mut process = Process::start(
        "serve",
        Path::new("/usr/bin/env"),
        args.iter().chain(&serve),
        &env,
        &log,
    )?;
    let url = until("the address", Duration::from_secs(30), async || {
        let output = process.output();
        let line = output.lines().find_map(|l| l.strip_prefix("serving "));
        line.map(str::to_owned).ok_or(output.clone())
    })
    .await?;
    let http = http::plain()?;
    let metadata: serde_json::Value = http
        .get(format!("{url}/v2/models/vibration"))
        .send()
        .await?
        .json()
        .await?;
    let width = metadata["inputs"][0]["shape"][1]
        .as_u64()
        .context("a row has a width")?;
    let body = json!({ "inputs": [{
        "name": metadata["inputs"][0]["name"], "datatype": "FP32", "shape": [1, width],
        "data": vec![0.5; usize::try_from(width)?],
    }]});
    let answer = http
        .post(format!("{url}/v2/models/vibration/infer"))
        .json(&body)
        .send()
        .await?;
    assert_eq!(answer.status(), 200);
    process.terminate(Duration::from_secs(20)).await?;
    for folder in [&home, &temporary] {
        let left: Vec<_> = std::fs::read_dir(folder)?.collect();
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}
