use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_api::health::ModelState;
use fleet_tests::{Checkout, Edge, Serve, http, until};
use serde_json::{Value, json};

use crate::fixtures::one_node;
use crate::model_files::deployment;

const LIMIT: Duration = Duration::from_secs(60);

/// Processor time of a process, in seconds (`utime` and `stime` of proc(5), in hundredths).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("a name in brackets")?;
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// A run of `steps` steps, each of about a tenth of a millisecond.
fn slow(steps: u64) -> String {
    json!({ "inputs": [{ "name": "times", "shape": [], "datatype": "INT64", "data": [steps] }] })
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_abandoned_requests_leave_the_cores_idle() -> Result<()> {
    let model = Checkout::root().join("models/tiny/slow.onnx");
    let serve = Serve::start(&["--model", &format!("slow={}", model.display())]).await?;
    let pid = serve.process.id();
    let address = serve.url.strip_prefix("http://").context("plain HTTP")?;
    let body = slow(1_000_000_000);
    let head = format!(
        "POST /v2/models/slow/infer HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let clients: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut client = TcpStream::connect(address)?;
            client.write_all(format!("{head}{body}").as_bytes())?;
            Ok(client)
        })
        .collect::<Result<_>>()?;
    let begun = cpu_seconds(pid)?;
    until("a run to be at work", LIMIT, async || {
        let used = cpu_seconds(pid).map_err(|error| error.to_string())? - begun;
        (used > 0.3).then_some(()).ok_or(format!("{used} s"))
    })
    .await?;

    drop(clients);
    let http = http::plain()?;
    let stats = format!("{}/v2/models/slow/stats", serve.url);
    until("all requests to be given up", LIMIT, async || {
        let answer = http
            .get(&stats)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        let told: Value = answer.json().await.map_err(|error| error.to_string())?;
        let gone = &told["model_stats"][0]["inference_stats"]["fail"]["count"];
        (*gone == 10).then_some(()).ok_or(told.to_string())
    })
    .await?;
    let before = cpu_seconds(pid)?;
    // The length of the measurement, not a wait for something to happen.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_seconds(pid)? - before;
    assert!(
        used < 0.3,
        "{used} s of processor time in a second without requests"
    );
    let infer = format!("{}/v2/models/slow/infer", serve.url);
    let answer = http.post(infer).body(slow(1)).send().await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

/// One inference of the picture model `name`, on zeros.
async fn judge(edge: &Edge, name: &str) -> Result<()> {
    let zeros = vec![0; 3 * 224 * 224 * 4];
    let json = json!({ "inputs": [{
        "name": "x", "shape": [1, 3, 224, 224], "datatype": "FP32",
        "parameters": { "binary_data_size": zeros.len() },
    }]})
    .to_string();
    let url = format!("{}/v2/models/{name}/infer", edge.url());
    let request = http::plain()?
        .post(url)
        .header("inference-header-content-length", json.len())
        .body([json.into_bytes(), zeros].concat());
    let answer = request.send().await?;
    let status = answer.status();
    anyhow::ensure!(status == 200, "{name}: {status}: {}", answer.text().await?);
    Ok(())
}

async fn states(edge: &Edge) -> Result<Vec<(String, ModelState, u64)>> {
    let models = edge.status().await?.models;
    let one = |model: fleet_api::health::ModelHealth| {
        (model.name.to_string(), model.state, model.memory_bytes)
    };
    Ok(models.into_iter().map(one).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_on_demand_share_a_budget_that_holds_one_of_them() -> Result<()> {
    let mut fleet = one_node().await?;
    for name in ["left", "right"] {
        fleet
            .push_model(&format!("{name}:1"), "orientation")
            .await?;
    }
    let entry = |name: &str| {
        format!("[[model]]\nname = \"{name}\"\nversion = \"1\"\nload = \"on-demand\"\n")
    };
    fleet
        .apply(&deployment(&(entry("left") + &entry("right"))))
        .await?;
    fleet.committed().await?;
    let edge = fleet.edge("n1")?;
    for name in ["left", "right"] {
        judge(edge, name).await?;
    }
    let measured = states(edge).await?;
    let smallest = measured
        .iter()
        .map(|(_, _, bytes)| *bytes)
        .min()
        .context("two models")?;
    assert!(
        smallest > 6_000_000,
        "its weights alone are that large: {measured:?}"
    );

    // Half as much again as one takes holds one, not two.
    edge.stop().await?;
    edge.configure(&format!(
        "[models]\nmemory = \"{}KiB\"\n",
        smallest * 3 / 2 / 1024
    ));
    edge.start().await?;
    for name in ["left", "right", "right", "left"] {
        judge(edge, name).await?;
        for (other, state, bytes) in states(edge).await? {
            let here = other == name;
            assert_eq!(state == ModelState::Ready, here, "{other} after {name}");
            assert_eq!(bytes > 0, here, "{other} after {name}");
        }
    }
    // One that is to stay always is refused beside another.
    let always = |name: &str| format!("[[model]]\nname = \"{name}\"\nversion = \"1\"\n");
    fleet
        .apply(&deployment(&(always("left") + &always("right"))))
        .await?;
    fleet.reaches("n1", "failed").await?;
    let said = serde_json::to_string(&fleet.api()?.node("n1").await?)?;
    assert!(said.contains("models.memory"), "{said}");
    judge(fleet.edge("n1")?, "left").await?;
    fleet.finish().await
}
