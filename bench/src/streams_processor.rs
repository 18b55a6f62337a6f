//! Records through a processor with an inference for each batch, stage by stage.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use edge_runtime::handlers::{HandlerSpec, Handlers, HandlersConfig, Secrets};
use edge_runtime::models::{ModelFiles, ModelSpec, Models, ModelsConfig};
use edge_runtime::processors::{self, Processors};
use edge_runtime::streams::{BufferConfig, NewRecord, Streams};
use fleet_api::deployment::{Allow, Isolation, Limits};
use fleet_api::desired::StreamSpec;
use fleet_api::frame::Encoding;
use fleet_api::health::ProcessorHealth;
use fleet_api::ids::{Digest, StreamName};
use fleet_api::model::ModelOptions;
use fleet_api::units::ByteSize;
use fleet_tests::Checkout;
use fleet_tests::device::Series;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::report::Report;

/// Samples of a record; the model takes any number of them.
const SAMPLES: usize = 16;
/// Records that are appended at once.
const APPEND: u64 = 1_000;

/// How much of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProcessorsArgs {
    /// Records that go through.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) records: u64,
}

/// Fills a stream, then lets the vibration processor work it off: isolated, then with warm
/// instances.
pub(crate) async fn measure(
    rounds: usize,
    args: &ProcessorsArgs,
    report: &mut Report,
) -> Result<()> {
    for (isolation, name) in [
        (Isolation::PerRequest, "isolated"),
        (Isolation::Reuse, "reuse"),
    ] {
        let mut seen = Vec::new();
        for _ in 0..rounds {
            seen.push(round(isolation, args.records).await?);
        }
        let mut add = |what: &str, unit, figure: fn(&Seen) -> f64| {
            let what = format!("processor with inference, {name}: {what}");
            report.add(&what, unit, seen.iter().map(figure).collect());
        };
        add("all stages", "records/s", |s| {
            s.records / s.took.as_secs_f64()
        });
        add("records in a batch", "records", |s| s.records / s.batches);
        add("read", "us a batch", |s| s.read_us / s.batches);
        add("call, inference included", "us a batch", |s| {
            s.call_us / s.batches
        });
        add("inference", "us a batch", |s| s.inference_us / s.batches);
        add("commit", "us a batch", |s| s.commit_us / s.batches);
    }
    Ok(())
}

struct Seen {
    took: Duration,
    records: f64,
    batches: f64,
    read_us: f64,
    call_us: f64,
    inference_us: f64,
    commit_us: f64,
}

async fn round(isolation: Isolation, records: u64) -> Result<Seen> {
    let dir = tempfile::tempdir()?;
    let raw = StreamSpec {
        quota: ByteSize(8 << 30),
        processor: Some("vibration:1".parse()?),
        ..StreamSpec::named(StreamName::new("raw")?)
    };
    let specs = [raw, StreamSpec::named(StreamName::new("alerts")?)];
    let streams = {
        let folder = dir.path().join("buffer");
        let open = move || Streams::open(&folder, BufferConfig::default());
        tokio::task::spawn_blocking(open).await??
    };
    streams.configure(&specs);
    fill(&streams, records).await?;

    let (models, handlers) = workload(dir.path(), isolation, &streams).await?;
    let processors = Processors::new();
    processors.configure(&specs);
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let work = tokio::spawn(processors::run(
        processors.clone(),
        handlers,
        streams.clone(),
        stop.clone(),
    ));
    let mut changed = streams.changed();
    loop {
        let health = of_raw(&processors, &streams)?;
        if health.lag == 0 {
            break;
        }
        if let Some(reason) = health.last_failure {
            anyhow::bail!("a batch failed: {reason}");
        }
        changed.changed().await?;
    }
    let took = begun.elapsed();
    stop.cancel();
    work.await?;
    let health = of_raw(&processors, &streams)?;
    ensure!(
        health.records_in == records,
        "{} went through",
        health.records_in
    );
    let inference_us = inference_us(&models)?;
    tokio::task::spawn_blocking(move || streams.close()).await?;
    Ok(Seen {
        took,
        records: records as f64,
        batches: health.batches as f64,
        read_us: health.read_us as f64,
        call_us: health.call_us as f64,
        inference_us,
        commit_us: health.commit_us as f64,
    })
}

/// Time of all inferences together.
fn inference_us(models: &Models) -> Result<f64> {
    let mut text = String::new();
    models.render_metrics(&mut text);
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("nv_inference_request_duration_us{"));
    let (_, value) = line
        .and_then(|line| line.rsplit_once(' '))
        .context("the model tells how long it took")?;
    Ok(value.parse()?)
}

fn of_raw(processors: &Processors, streams: &Streams) -> Result<ProcessorHealth> {
    let all = processors.health(streams);
    all.into_iter().next().context("there is a processor")
}

/// Appends windows of the measured series, each cut to a few samples.
async fn fill(streams: &Streams, records: u64) -> Result<()> {
    let series = Series::load("vibration.ndjson")?;
    let windows: Vec<Bytes> = (0..series.len() as u64)
        .map(|at| {
            let window: Value = serde_json::from_str(series.record(at))?;
            let samples = window["samples"].as_array().context("samples")?;
            let short = json!({
                "machine": window["machine"], "rate_hz": window["rate_hz"],
                "samples": &samples[..SAMPLES],
            });
            Ok(Bytes::from(serde_json::to_vec(&short)?))
        })
        .collect::<Result<_>>()?;
    let mut at = 0;
    while at < records {
        let end = (at + APPEND).min(records);
        let batch = (at..end).map(|n| {
            let window = windows[n as usize % windows.len()].clone();
            NewRecord::new(Encoding::Json, window)
        });
        streams.append("raw", batch.collect()).await?;
        at = end;
    }
    Ok(())
}

async fn workload(
    dir: &Path,
    isolation: Isolation,
    streams: &Streams,
) -> Result<(Models, Handlers)> {
    let models = Models::start(ModelsConfig::default());
    let model = models.prepare(ModelSpec {
        name: "vibration".to_owned(),
        version: "1".to_owned(),
        path: Checkout::model("vibration")?,
        digest: None,
        files: ModelFiles::default(),
        options: ModelOptions::default(),
    });
    models.switch(vec![model.await?]);
    let config = HandlersConfig {
        cache_dir: Some(dir.join("compiled")),
        streams: Some(streams.clone()),
        ..HandlersConfig::default()
    };
    let handlers = Handlers::start(config, models.clone())?;
    let path = Checkout::module("vibration")?;
    let spec = HandlerSpec {
        name: "vibration".parse()?,
        version: "1".parse()?,
        digest: Digest::of(&std::fs::read(&path)?),
        path,
        route: None,
        limits: Limits::default(),
        allow: Allow {
            models: ["vibration".parse()?].into(),
            streams: ["alerts".parse()?].into(),
            ..Allow::default()
        },
        // Few windows stand out so far that they become alerts.
        config: BTreeMap::from([("threshold".to_owned(), "-0.25".to_owned())]),
        secrets: Secrets::default(),
        isolation,
        env: Vec::new(),
    };
    let prepared = handlers.prepare(spec).await?;
    handlers.switch(vec![prepared])?;
    Ok((models, handlers))
}
