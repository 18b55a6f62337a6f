//! What HTTP costs beyond the run itself and beyond a loopback round trip.

use anyhow::{Context as _, Result};
use fleet_tests::Checkout;
use tokio::process::Command;

use super::peers::QUIET;
use super::workload::{Body, Form, TINY};
use crate::program::Served;
use crate::report::Report;
use crate::wrk;

const SECONDS: u32 = 2;

/// One connection, one request after the other: the model over HTTP, a server
/// that gives back the same body, and the run without any server, in turns.
pub(crate) async fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let model = format!("{}={}", TINY.name, Checkout::model(TINY.name)?.display());
    let at = format!("/v2/models/{}", TINY.name);
    let ours = Served::edge_runtime(&["--model", &model], &format!("{at}/ready")).await?;
    let echo = Served::native().await?;
    let mut runs = Vec::new();
    let mut forms = Form::ALL.map(|form| (form, Vec::new(), Vec::new(), Vec::new()));
    for _ in 0..rounds {
        let run = run_us().await?;
        runs.push(run);
        for (form, over_http, round_trips, beyond) in &mut forms {
            let script = Body::new(TINY.shape, *form).script(dir.path(), form.name())?;
            let script = Some(script.as_path());
            let infer = format!("{}{at}/infer", ours.url);
            let whole = wrk::load(&infer, 1, SECONDS, script).await?.p50_ms * 1e3;
            let trip = wrk::load(&echo.url, 1, SECONDS, script).await?.p50_ms * 1e3;
            over_http.push(whole);
            round_trips.push(trip);
            beyond.push(whole - trip - run);
        }
    }
    report.add("tiny MLP, the run alone, p50", "µs", runs);
    for (form, over_http, round_trips, beyond) in forms {
        let what = format!("tiny MLP, one connection, {}", form.name());
        report.add(&format!("{what}, p50"), "µs", over_http);
        report.add(&format!("{what}, p50 of an echo"), "µs", round_trips);
        report.add(&format!("{what}, beyond run and echo"), "µs", beyond);
    }
    Ok(())
}

/// The median of a run of the tiny model in a process of its own.
pub(super) async fn run_us() -> Result<f64> {
    let mut time = Command::new(Checkout::program("naive-server")?);
    time.arg("time").arg(Checkout::model(TINY.name)?);
    time.args(TINY.shape.iter().map(usize::to_string));
    time.env(QUIET.0, QUIET.1).env(
        "ORT_DYLIB_PATH",
        Checkout::artifact("lib/libonnxruntime.so")?,
    );
    let output = time.output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = || String::from_utf8_lossy(&output.stderr).into_owned();
    text.trim().parse().with_context(failed)
}
