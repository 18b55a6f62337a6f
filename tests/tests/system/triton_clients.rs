//! Triton's own clients, unchanged: the Python client and the load generator, over HTTP and over gRPC.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fleet_tests::serve::printed;
use fleet_tests::{Checkout, Fleet, Serve, until};
use tokio::process::Command;
use tokio::time::timeout;

const START: Duration = Duration::from_secs(60);
/// Far longer than it takes: a client that hangs is a failure, too.
const CLIENT: Duration = Duration::from_secs(120);
/// What perf_analyzer measures each time.
const REQUESTS: &str = "400";

/// A server with the models of models/tiny under the names of their files, with `-` for `_`.
struct Served {
    serve: Serve,
    http: String,
    grpc: String,
}

impl Served {
    async fn start() -> Result<Self> {
        let folder = Checkout::root().join("models/tiny");
        let mut arguments = vec!["--grpc-listen".to_owned(), "127.0.0.1:0".to_owned()];
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_stem().context("a file has a name")?;
            let name = name.to_string_lossy().replace('_', "-");
            let is_model = path
                .extension()
                .is_some_and(|extension| extension == "onnx");
            // These two are there to be refused.
            if is_model && !matches!(&*name, "broken" | "sequence") {
                arguments.push("--model".to_owned());
                arguments.push(format!("{name}={}", path.display()));
            }
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut serve = Serve::start(&arguments).await?;
        let grpc = printed(&mut serve.process, "serving gRPC at ", START).await?;
        let http = serve.url.strip_prefix("http://").context("an address")?;
        Ok(Self {
            http: http.to_owned(),
            grpc,
            serve,
        })
    }
}

async fn run(command: &mut Command) -> Result<String> {
    let output = timeout(CLIENT, command.kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("{command:?} has not ended"))??;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let status = output.status;
    ensure!(status.success(), "{command:?} ended with {status}: {text}");
    Ok(text)
}

async fn python(served: &Served, cases: &[&str]) -> Result<()> {
    let python = Checkout::artifact("venv/bin/python")?;
    let mut client = Command::new(python);
    client
        .env("SERVER_PID", served.serve.process.id().to_string())
        .arg(Checkout::root().join("tests/clients/triton_client.py"))
        .args([&served.http, &served.grpc])
        .args(cases);
    let text = run(&mut client).await?;
    for case in cases {
        ensure!(text.contains(&format!("{case}: passed")), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn triton_s_python_client_is_served_over_http_and_grpc() -> Result<()> {
    let served = Served::start().await?;
    let cases = [
        "described",
        "counted",
        "inferred",
        "compressed",
        "classified",
        "faulted",
        "crowded",
    ];
    python(&served, &cases).await
}

#[tokio::test(flavor = "multi_thread")]
async fn triton_s_python_client_stops_runs_and_streams() -> Result<()> {
    let mut served = Served::start().await?;
    python(&served, &["stopped", "streamed", "drained"]).await?;
    let what = "the server that was told to end";
    let ended = until(what, START, async || {
        served
            .serve
            .process
            .has_ended()
            .ok_or_else(|| "it runs".to_owned())
    });
    ensure!(ended.await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_fleet_serves_grpc_where_its_configuration_says() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let edge = fleet.join("n1", &[]).await?;
    edge.configure("[grpc]\nlisten = \"127.0.0.1:0\"");
    edge.start().await?;
    let announced = std::fs::read(edge.data_dir().join("endpoint.json"))?;
    let announced: serde_json::Value = serde_json::from_slice(&announced)?;
    let grpc = announced["grpc"].as_str().context("it serves gRPC")?;
    let http = edge.url();
    let http = http.strip_prefix("http://").context("an address")?;
    let mut client = Command::new(Checkout::artifact("venv/bin/python")?);
    let client = client
        .arg(Checkout::root().join("tests/clients/triton_client.py"))
        .args([http, grpc, "live"]);
    let text = run(client).await?;
    ensure!(text.contains("live: passed"), "{text}");
    fleet.finish().await
}

/// Set-up leaves it out where there is none for the machine, and says so.
fn perf_analyzer() -> Option<PathBuf> {
    Checkout::artifact("tools/bin/perf_analyzer").ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn perf_analyzer_measures_a_model_over_http_and_grpc() -> Result<()> {
    let Some(program) = perf_analyzer() else {
        eprintln!("SKIPPED: perf_analyzer is not there; `cargo xtask setup` says why");
        return Ok(());
    };
    let served = Served::start().await?;
    let ways: [&[&str]; 4] = [
        &["-i", "http", "-u", &served.http],
        &[
            "-i",
            "http",
            "-u",
            &served.http,
            "--async",
            "--concurrency-range",
            "4",
        ],
        &["-i", "grpc", "-u", &served.grpc],
        &[
            "-i",
            "grpc",
            "-u",
            &served.grpc,
            "--streaming",
            "--concurrency-range",
            "4",
        ],
    ];
    for way in ways {
        let mut client = Command::new(&program);
        client
            .args(["-m", "mlp", "--shape", "x:1,64"])
            .args(["--request-count", REQUESTS])
            .args(way);
        let text = run(&mut client).await?;
        ensure!(text.contains("Throughput: "), "{text}");
    }
    let all = ways.len() as u64 * REQUESTS.parse::<u64>()?;
    let url = format!("http://{}/v2/models/mlp/stats", served.http);
    let client = fleet_tests::http::plain()?;
    let stats: serde_json::Value = client.get(url).send().await?.json().await?;
    let stats = &stats["model_stats"][0]["inference_stats"];
    let (success, fail) = (&stats["success"]["count"], &stats["fail"]["count"]);
    ensure!(success.as_u64() >= Some(all), "{stats}");
    ensure!(fail.as_u64() == Some(0), "{stats}");
    Ok(())
}
